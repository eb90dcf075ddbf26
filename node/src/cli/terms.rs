//! `node set`, `node pause` and `node resume`: the owner's words, to the running node or for the next time it runs.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use command::local::{self, LocalError};
use command::settings::default_data_dir;
use command::{Failure, Outcome};
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::{Local, Merged, show};
use crate::daemon::Change;
use crate::terms::given::Given;

#[derive(Debug, Args)]
pub(super) struct Set {
    /// Memory for weights, caches and scratch, such as 8GiB; `default` takes back what was said
    #[arg(long)]
    memory: Option<String>,
    /// Computing threads; `default` takes back what was said
    #[arg(long)]
    threads: Option<String>,
    /// Hours in which it serves, by the local clock, such as 22:00-07:00,12:00-13:00, or always
    #[arg(long, value_name = "RANGES")]
    hours: Option<String>,
    /// Whether it serves on battery: yes or no
    #[arg(long, value_name = "yes|no")]
    battery: Option<String>,
    /// Whether it serves while somebody is at it: yes, no, or after so many seconds without a touch
    #[arg(long, value_name = "yes|no|SECONDS")]
    while_used: Option<String>,
    #[command(flatten)]
    local: Local,
}

/// A number in a settings file is as good as its text.
pub(super) fn seconds_or_word<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Flag(bool),
        Text(String),
    }
    let read = Option::<Either>::deserialize(deserializer)?;
    Ok(read.map(|either| match either {
        Either::Number(number) => number.to_string(),
        Either::Flag(true) => "yes".to_owned(),
        Either::Flag(false) => "no".to_owned(),
        Either::Text(text) => text,
    }))
}

fn word<T: FromStr>(name: &str, text: Option<&str>) -> Result<Option<T>, Failure>
where
    T::Err: Display,
{
    let read = text.map(str::parse).transpose();
    read.map_err(|error| Failure::Usage(format!("--{name}: {error}")))
}

fn size(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let read = text.map(plan::size::parse_size).transpose();
    read.map_err(|error| Failure::Usage(format!("--memory: {error}")))
}

/// The terms among the settings of `join`.
pub(super) fn words(merged: &Merged) -> Result<Given, Failure> {
    let given = Given {
        memory_bytes: size(merged.memory.as_deref())?,
        threads: merged.threads,
        hours: word("hours", merged.hours.as_deref())?,
        battery: word("battery", merged.battery.as_deref())?,
        while_used: word("while-used", merged.while_used.as_deref())?,
        paused: None,
    };
    given.checked().map_err(Failure::Usage)
}

impl Set {
    fn change(&self) -> Result<Change, Failure> {
        let mut unset = Vec::new();
        let mut said = |name: &str, text: &Option<String>| {
            let text = text.clone()?;
            if text == "default" {
                unset.push(name.to_owned());
                return None;
            }
            Some(text)
        };
        let (memory, threads) = (said("memory", &self.memory), said("threads", &self.threads));
        let given = Given {
            memory_bytes: size(memory.as_deref())?,
            threads: word("threads", threads.as_deref())?,
            hours: word("hours", self.hours.as_deref())?,
            battery: word("battery", self.battery.as_deref())?,
            while_used: word("while-used", self.while_used.as_deref())?,
            paused: None,
        };
        let given = given.checked().map_err(Failure::Usage)?;
        if given == Given::default() && unset.is_empty() {
            return Err(Failure::Usage(
                "nothing to set; expected --memory, --threads, --hours, --battery or --while-used"
                    .to_owned(),
            ));
        }
        Ok(Change { given, unset })
    }
}

pub(super) async fn set(set: Set) -> Outcome {
    let change = set.change()?;
    say(set.local, &change).await
}

pub(super) async fn pause(local: Local) -> Outcome {
    say(local, &paused(true)).await
}

pub(super) async fn resume(local: Local) -> Outcome {
    say(local, &paused(false)).await
}

fn paused(paused: bool) -> Change {
    let given = Given {
        paused: Some(paused),
        ..Given::default()
    };
    Change {
        given,
        unset: Vec::new(),
    }
}

/// Tells the running node, which answers when it is so; without one the words are kept for its next start.
async fn say(local: Local, change: &Change) -> Outcome {
    let dir: PathBuf = local.data_dir.unwrap_or_else(|| default_data_dir("node"));
    let asked = local::call(&dir, &json!({ "do": "set", "change": change })).await;
    let answer = match asked {
        Err(LocalError::NotRunning(_)) => {
            let given = change.on(Given::load(&dir)?).map_err(Failure::Usage)?;
            command::settings::make_data_dir(&dir)?;
            given.save(&dir)?;
            if local.json {
                return command::answer::print_json(&json!({"running": false, "terms": given}));
            }
            println!("no node runs here; this holds when it is started");
            return Ok(());
        }
        answer => answer?,
    };
    if local.json {
        return command::answer::print_json(&answer);
    }
    show(&answer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(memory: Option<&str>, threads: Option<&str>, hours: Option<&str>) -> Set {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Set {
            memory: text(memory),
            threads: text(threads),
            hours: text(hours),
            battery: None,
            while_used: None,
            local: Local {
                data_dir: None,
                json: false,
            },
        }
    }

    #[test]
    fn words_become_a_change_or_a_usage_error() {
        let change = set(Some("default"), Some("2"), Some("22:00-07:00"))
            .change()
            .unwrap();
        assert_eq!(change.unset, ["memory"]);
        assert_eq!(change.given.threads, Some(2));
        for wrong in [
            set(None, None, None),
            set(Some("lots"), None, None),
            set(None, Some("0"), None),
            set(None, Some("two"), None),
            set(None, None, Some("late")),
        ] {
            let failed = wrong.change();
            assert!(matches!(failed, Err(Failure::Usage(_))), "{failed:?}");
        }
    }
}
