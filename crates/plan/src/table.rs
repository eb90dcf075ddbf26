//! Plans as plain text for a terminal.
//!
//! Owns the layout of columns, shared with the tools that print other tables. It must never decide anything.

use std::fmt::Write;

use crate::Plan;
use crate::size::size_text;

/// On which side of its column a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lays `rows` out under `header`, two spaces between columns, no spaces at line ends. Rows may be shorter than the header.
#[must_use]
pub fn columns(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain(header.get(column).map(|(name, _)| name.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.zip(&widths).zip(header) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => line.extend([cell, pad.as_str()]),
                Align::Right => line.extend([pad.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut text = line(&mut header.iter().map(|(name, _)| *name));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A plan with its stages, prediction and reasons; ends with a line feed.
#[must_use]
pub fn render_table(plan: &Plan) -> String {
    use Align::{Left, Right};
    let header = [
        ("stage", Right),
        ("node", Left),
        ("layers", Left),
        ("weights", Right),
        ("cache", Right),
        ("scratch", Right),
        ("in all", Right),
        ("allowance", Right),
    ];
    let rows: Vec<Vec<String>> = plan
        .stages
        .iter()
        .enumerate()
        .map(|(at, stage)| {
            let last = stage.end_layer.saturating_sub(1);
            let mut layers = format!("{}-{last}", stage.first_layer);
            if stage.embedding {
                layers.insert_str(0, "embedding + ");
            }
            if stage.head {
                layers.push_str(" + head");
            }
            vec![
                at.to_string(),
                printable(&stage.name),
                layers,
                size_text(stage.weight_bytes),
                size_text(stage.cache_bytes),
                size_text(stage.scratch_bytes),
                size_text(stage.bytes().total()),
                size_text(stage.allowance_bytes),
            ]
        })
        .collect();
    let mut text = columns(&header, &rows);
    text.push_str(&away(plan));
    let prediction = &plan.prediction;
    // Writing to a text cannot fail.
    let _ = write!(
        text,
        "\nmodel {}: context {} positions, cache {} ({} pages of 64), up to {} sequences, {} rows a step\npredicted: {:.2} tokens/s for one conversation at {} positions, {:.2} s per 1000 prompt tokens\n",
        printable(&plan.model),
        plan.context,
        plan.kv,
        plan.pages,
        plan.slots,
        plan.chunk_rows,
        prediction.decode_tokens_per_s,
        prediction.positions,
        prediction.prefill_s_per_1k_tokens
    );
    for reason in &plan.reasons {
        let _ = writeln!(text, "- {}", printable(reason));
    }
    for left in &plan.left_out {
        let _ = writeln!(
            text,
            "- '{}' is left out: {}",
            printable(&left.name),
            printable(&left.reason)
        );
    }
    text
}

/// A line for each entry of groups and head blocks away from their stages.
fn away(plan: &Plan) -> String {
    let list = |numbers: &[u32]| {
        let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let mut text = String::new();
    // Writing to a text cannot fail.
    for entry in &plan.experts {
        let (first, last) = (entry.first_layer, entry.end_layer.saturating_sub(1));
        let (name, groups) = (printable(&entry.name), list(&entry.groups));
        let _ = writeln!(
            text,
            "experts of layers {first}-{last}, groups {groups}: on {name}"
        );
    }
    for entry in &plan.head_blocks {
        let (name, blocks) = (printable(&entry.name), list(&entry.blocks));
        let _ = writeln!(text, "head blocks {blocks}: on {name}");
    }
    text
}

/// Without control characters: names come from other machines.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let header = [("name", Align::Left), ("size", Align::Right)];
        let rows = vec![
            vec!["a".to_owned(), "1000".to_owned()],
            vec!["longer".to_owned(), "1".to_owned()],
            vec!["short".to_owned()],
        ];
        let expected = "name    size\na       1000\nlonger     1\nshort\n";
        assert_eq!(columns(&header, &rows), expected);
    }

    #[test]
    fn names_from_others_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a?[2Jb?");
    }
}
