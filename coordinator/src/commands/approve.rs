//! `coordinator approve`: devices that ask on this screen to be let in.

use std::fmt::Write as _;

use clap::Args;
use command::Outcome;
use serde_json::{Value, json};

use super::ask::{Running, count, text};
use super::screen;

#[derive(Debug, Args)]
#[command(
    after_help = "Without a device it lists those that wait. Approve one only if the four words beside it stand on its own screen
as well: other words mean that somebody sits between the two.

Examples:
  coordinator approve                              who waits
  coordinator approve 1
  coordinator approve amber falcon river tulip
  coordinator approve 1 --deny"
)]
pub(crate) struct Flags {
    /// The device's number or its four words
    #[arg(value_name = "N|WORDS")]
    device: Vec<String>,
    /// Refuse it
    #[arg(long, requires = "device")]
    deny: bool,
    #[command(flatten)]
    running: Running,
}

/// Lists the devices that wait, or answers one.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let device = flags.device.join(" ");
    let request = match (device.is_empty(), flags.deny) {
        (true, _) => json!({"do": "pending"}),
        (false, false) => json!({"do": "approve", "device": device}),
        (false, true) => json!({"do": "deny", "device": device}),
    };
    let answer = flags.running.ask(&request).await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    let (name, address) = (text(&answer, "name"), text(&answer, "address"));
    screen::show(&match (device.is_empty(), flags.deny) {
        (true, _) => list(&answer),
        (false, false) => format!("{name} at {address} belongs to the household now\n"),
        (false, true) => format!("{name} at {address} was refused\n"),
    })
}

fn list(answer: &Value) -> String {
    let mut out = String::new();
    let waiting = answer.get("pending").and_then(Value::as_array);
    for device in waiting.into_iter().flatten() {
        let _infallible = writeln!(
            out,
            "{:>3}  {}  {} at {}, waits {} s more",
            count(device, "number"),
            text(device, "words"),
            text(device, "name"),
            text(device, "address"),
            count(device, "expires_s"),
        );
    }
    if out.is_empty() {
        out.push_str("no device waits; on the device, say `node join --ask`\n");
    } else {
        out.push_str("\nIf the same four words stand on its screen: coordinator approve N\n");
    }
    out.push_str(&failed(answer));
    out
}

/// A line about the wrong attempt that has spent the last short code; empty if there was none.
pub(super) fn failed(answer: &Value) -> String {
    match answer.get("failed") {
        Some(failed) if failed.is_object() => format!(
            "\nThe short code before was tried wrongly from {}, {} s ago, and is void.\n",
            text(failed, "address"),
            count(failed, "seconds_ago")
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_shows_number_words_name_and_what_to_do() {
        let device = json!({"number": 3, "name": "attic", "address": "192.0.2.1:9",
            "words": "amber falcon river tulip", "waits_s": 1, "expires_s": 89});
        let failed = json!({"address": "192.0.2.7", "seconds_ago": 12});
        let text = list(&json!({"pending": [device], "code_open": false, "failed": failed}));
        for part in [
            "3  amber falcon river tulip  attic at 192.0.2.1:9",
            "approve N",
            "192.0.2.7",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let nobody = list(&json!({"pending": [], "failed": null}));
        assert_eq!(nobody.lines().count(), 1, "{nobody}");
        assert!(nobody.contains("node join --ask"));
    }
}
