//! `coordinator usage`: who used how much of which model.

use std::collections::BTreeMap;

use clap::Args;
use command::Outcome;
use plan::table::{Align, columns};
use serde_json::{Value, json};

use super::ask::{Running, count, text};
use super::screen;

#[derive(Debug, Args)]
#[command(
    after_help = "Days end at midnight UTC. Requests without a key are those of `local`, those with the key of --api-key-file of `owner`.

Examples:
  coordinator usage                today
  coordinator usage --days 30
  coordinator usage --days 7 --json    by day"
)]
pub(crate) struct Flags {
    /// Days to look back, today included
    #[arg(long, value_name = "N", default_value_t = 1)]
    days: u32,
    #[command(flatten)]
    running: Running,
}

/// Prints what people have used.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let request = json!({"do": "usage", "days": flags.days});
    let answer = flags.running.ask_or_open(&request).await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    screen::show(&table(&answer))
}

/// Sums over the days, by person and model.
fn table(answer: &Value) -> String {
    let fields = ["requests", "prompt_tokens", "completion_tokens"];
    let mut sums: BTreeMap<(&str, &str), [u64; 3]> = BTreeMap::new();
    let used = answer.get("usage").and_then(Value::as_array);
    for row in used.into_iter().flatten() {
        let sum = sums
            .entry((text(row, "person"), text(row, "model")))
            .or_default();
        for (sum, field) in sum.iter_mut().zip(fields) {
            *sum = sum.saturating_add(count(row, field));
        }
    }
    let days = match count(answer, "days") {
        1 => "today".to_owned(),
        days => format!("in {days} days"),
    };
    if sums.is_empty() {
        return format!("nobody has used anything {days}\n");
    }
    let header = [
        ("person", Align::Left),
        ("model", Align::Left),
        ("requests", Align::Right),
        ("prompt tokens", Align::Right),
        ("answer tokens", Align::Right),
    ];
    let rows: Vec<Vec<String>> = sums
        .into_iter()
        .map(|((person, model), sums)| {
            let names = [person.to_owned(), model.to_owned()];
            names
                .into_iter()
                .chain(sums.map(|sum| sum.to_string()))
                .collect()
        })
        .collect();
    format!("{}\nused {days}, in UTC\n", columns(&header, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_summed_by_person_and_model() {
        let row = |person: &str, requests: u64, prompt: u64, completion: u64| {
            json!({"day": "2026-01-02", "person": person, "model": "m", "requests": requests,
                "prompt_tokens": prompt, "completion_tokens": completion})
        };
        let answer = json!({"days": 7, "usage": [row("ada", 1, 20, 300), row("ben", 1, 1, 1), row("ada", 2, 3, 4)]});
        let table = table(&answer);
        let has = |words: &[&str]| table.lines().any(|l| words.iter().all(|w| l.contains(w)));
        assert!(has(&["ada", "m", "3", "23", "304"]), "{table}");
        assert!(has(&["ben"]) && has(&["in 7 days"]), "{table}");
        assert!(super::table(&json!({"days": 1, "usage": []})).contains("today"));
    }
}
