//! `coordinator invite`: the right to join, once, for a while.

use std::time::Duration;

use clap::Args;
use command::Outcome;
use serde_json::{Value, json};

use super::ask::{Running, text};
use super::{approve, duration, screen};

#[derive(Debug, Args)]
#[command(
    after_help = "Run what it prints on the machine that is to join. An invite works once, by its code or by its URL. One code is open
at a time, and a wrong attempt voids it; URLs may be several.

Examples:
  coordinator invite
  coordinator invite --ttl 1h
  coordinator invite --data-dir ~/hearth --json"
)]
pub(crate) struct Flags {
    /// How long the invite works, such as 90s, 10m, 2h
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    ttl: Duration,
    #[command(flatten)]
    running: Running,
}

/// Prints an invite.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let ttl_s = flags.ttl.as_secs();
    let answer = flags
        .running
        .ask(&json!({"do": "invite", "ttl_s": ttl_s}))
        .await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    screen::show(&shown(&answer, ttl_s))
}

/// What the owner reads.
fn shown(answer: &Value, ttl_s: u64) -> String {
    let announced = answer.get("announced").and_then(Value::as_bool) == Some(true);
    let place = match announced {
        true => String::new(),
        false => format!(" --coordinator {}", text(answer, "coordinator")),
    };
    format!(
        "On the machine that is to join, within {ttl_s} s:

  node join {code}{place}

It calls this household by four words: {words}
Instead of the code, for scripts and where machines cannot find each other:

  node join {url}
{failed}",
        code = text(answer, "code"),
        words = text(answer, "words"),
        url = text(answer, "url"),
        failed = approve::failed(answer),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_reads_code_words_and_url() {
        let mut answer = json!({"code": "384-219", "url": "hearth://x", "words": "amber falcon river tulip",
            "coordinator": "127.0.0.1:7411", "announced": true, "failed": null});
        let text = shown(&answer, 600);
        for part in [
            "within 600 s",
            "node join 384-219\n",
            "amber falcon river tulip",
            "node join hearth://x",
        ] {
            assert!(text.contains(part), "{text}");
        }
        answer["announced"] = json!(false);
        answer["failed"] = json!({"address": "192.0.2.7", "seconds_ago": 1});
        let text = shown(&answer, 600);
        assert!(
            text.contains("node join 384-219 --coordinator 127.0.0.1:7411"),
            "{text}"
        );
        assert!(text.contains("192.0.2.7"), "{text}");
    }
}
