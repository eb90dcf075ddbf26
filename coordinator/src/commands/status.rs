//! `coordinator status`: what the running service does.

use clap::Args;
use command::Outcome;
use plan::size::size_text;
use serde_json::{Value, json};

use super::ask::{Running, count, number, text};
use super::screen;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator status
  coordinator status --json")]
pub(crate) struct Flags {
    #[command(flatten)]
    running: Running,
}

/// Prints what the service does.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let answer = flags.running.ask(&json!({"do": "status"})).await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    let lines = lines(&answer);
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name:10} {value}\n"));
    screen::show(&lines.collect::<String>())
}

fn lines(answer: &Value) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        (
            "model",
            format!(
                "{}  ({})",
                text(answer, "model"),
                text(answer, "model_path")
            ),
        ),
        ("phase", text(answer, "phase").to_owned()),
        ("", text(answer, "detail").to_owned()),
        (
            "nodes",
            format!(
                "{}, of which {} run the model",
                count(answer, "nodes"),
                count(answer, "stages")
            ),
        ),
        ("mesh", text(answer, "mesh").to_owned()),
    ];
    let (done, total) = (count(answer, "done_bytes"), count(answer, "total_bytes"));
    if done < total {
        lines.push((
            "loaded",
            format!("{} of {}", size_text(done), size_text(total)),
        ));
    }
    if count(answer, "missing_bytes") > 0 {
        lines.push(("missing", size_text(count(answer, "missing_bytes"))));
    }
    if count(answer, "context") > 0 {
        lines.push((
            "caches",
            format!(
                "context {}, {} sequences at a time, {} of {} pages free, {}",
                count(answer, "context"),
                count(answer, "slots"),
                count(answer, "pages_free"),
                count(answer, "pages"),
                text(answer, "kv"),
            ),
        ));
    }
    lines.push((
        "requests",
        format!(
            "{} running, {} waiting, {} tokens generated, {:.1} tokens/s",
            count(answer, "requests_running"),
            count(answer, "requests_waiting"),
            count(answer, "generated_tokens"),
            number(answer, "tokens_per_s"),
        ),
    ));
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_loaded_is_shown() {
        let answer = json!({
            "model": "m", "phase": "loading", "nodes": 2, "stages": 2, "done_bytes": 1024, "total_bytes": 2048,
            "missing_bytes": 4096, "context": 512, "slots": 4, "pages": 8, "pages_free": 7, "kv": "f16",
        });
        let lines = lines(&answer);
        let of = |name: &str| {
            lines
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(of("loaded"), Some("1.00 KiB of 2.00 KiB"));
        assert_eq!(of("missing"), Some("4.00 KiB"));
        assert_eq!(
            of("caches"),
            Some("context 512, 4 sequences at a time, 7 of 8 pages free, f16")
        );
    }
}
