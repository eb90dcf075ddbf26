//! `coordinator nodes`: the machines of the household.

use clap::Args;
use command::Outcome;
use plan::size::size_text;
use plan::table::{Align, columns};
use serde_json::{Value, json};

use super::ask::{Running, count, number, text};
use super::screen;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator nodes
  coordinator nodes --json")]
pub(crate) struct Flags {
    #[command(flatten)]
    running: Running,
}

/// Prints the machines.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let answer = flags.running.ask(&json!({"do": "nodes"})).await?;
    if flags.running.json {
        return command::answer::print_json(&answer);
    }
    screen::show(&table(&answer))
}

fn list<'v>(answer: &'v Value, field: &str) -> &'v [Value] {
    answer
        .get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn table(answer: &Value) -> String {
    let header = [
        ("name", Align::Left),
        ("state", Align::Left),
        ("layers", Align::Left),
        ("memory", Align::Right),
        ("resident", Align::Right),
        ("kernels", Align::Left),
        ("threads", Align::Right),
        ("address", Align::Left),
        ("id", Align::Left),
    ];
    let present = list(answer, "nodes").iter().map(|node| {
        vec![
            text(node, "name").to_owned(),
            state(node),
            layers(node),
            size_text(count(node, "memory_bytes")),
            size_text(count(node, "resident_bytes")),
            text(node, "kernels").to_owned(),
            count(node, "threads").to_string(),
            text(node, "remote").to_owned(),
            text(node, "node").to_owned(),
        ]
    });
    let absent = list(answer, "absent").iter().map(|node| {
        let mut row = vec![text(node, "name").to_owned(), "absent".to_owned()];
        row.resize(header.len() - 1, "-".to_owned());
        row.push(text(node, "node").to_owned());
        row
    });
    let rows: Vec<Vec<String>> = present.chain(absent).collect();
    if rows.is_empty() {
        return "no machine has joined yet; `coordinator invite` prints what `node join` wants\n"
            .to_owned();
    }
    let mut text = columns(&header, &rows);
    text.push_str(&links(answer));
    text
}

/// The measured links, below the machines.
fn links(answer: &Value) -> String {
    let nodes = list(answer, "nodes");
    let name = |id: &str| {
        let known = nodes.iter().find(|node| text(node, "node") == id);
        known
            .map_or("coordinator", |node| text(node, "name"))
            .to_owned()
    };
    let header = [
        ("link from", Align::Left),
        ("to", Align::Left),
        ("round trip", Align::Right),
        ("speed", Align::Right),
    ];
    let rows: Vec<Vec<String>> = list(answer, "links")
        .iter()
        .map(|link| {
            vec![
                name(text(link, "from")),
                name(text(link, "to")),
                format!("{:.2} ms", 1e3 * number(link, "rtt_s")),
                format!("{:.0} MB/s", 1e-6 * number(link, "bytes_per_s")),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", columns(&header, &rows))
}

fn state(node: &Value) -> String {
    let state = text(node, "state");
    match (text(node, "paused"), text(node, "trouble")) {
        ("", "") => state.to_owned(),
        ("", trouble) => format!("{state}: {trouble}"),
        // Until its answers are finished it still serves.
        (paused, _) if state == "paused" => format!("paused: {paused}"),
        (paused, _) => format!("{state}, then paused: {paused}"),
    }
}

fn layers(node: &Value) -> String {
    let ends = list(node, "layers");
    match (
        ends.first().and_then(Value::as_u64),
        ends.get(1).and_then(Value::as_u64),
    ) {
        (Some(first), Some(end)) => format!("{first}..{end}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_and_absent_machines_are_listed() {
        let answer = json!({
            "nodes": [
                {"name": "den", "node": "A", "state": "serving", "layers": [0, 4], "memory_bytes": 1048576},
                {"name": "lap", "node": "C", "state": "paused", "paused": "it runs on battery"},
            ],
            "absent": [{"name": "attic", "node": "B"}],
            "links": [{"from": "H", "to": "A", "rtt_s": 0.00031, "bytes_per_s": 1.1e8}],
        });
        let table = table(&answer);
        let lines: Vec<&str> = table.lines().collect();
        let has = |words: &[&str]| {
            lines
                .iter()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(has(&["den", "serving", "0..4", "1.00 MiB"]), "{table}");
        assert!(has(&["attic", "absent"]), "{table}");
        assert!(has(&["lap", "paused: it runs on battery"]), "{table}");
        assert!(
            has(&["coordinator", "den", "0.31 ms", "110 MB/s"]),
            "{table}"
        );
        assert!(super::table(&json!({})).contains("coordinator invite"));
    }
}
