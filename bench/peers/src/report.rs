//! Tables for people and lines for programs. Pure.

use crate::records::Row;
use crate::stats::Spread;

/// Head of the table.
const HEAD: [&str; 6] = [
    "",
    "Hearth",
    "llama.cpp",
    "Hearth / llama.cpp",
    "best / best",
    "of the ceiling, H and l",
];

/// Rows as a table: medians, in brackets the smallest and the largest.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut cells: Vec<[String; 6]> = vec![HEAD.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        [
            format!(
                "{} ({}{})",
                row.name,
                row.unit,
                if row.less_is_better {
                    ", less is better"
                } else {
                    ""
                }
            ),
            triple(&row.hearth),
            triple(&row.llama),
            triple(&row.ratio),
            row.best_ratio.map_or(String::new(), short),
            row.of_ceiling.map_or(String::new(), |[h, l]| {
                format!("{:.0} %, {:.0} %", h * 100.0, l * 100.0)
            }),
        ]
    }));
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    cells.iter().map(|row| line(row) + "\n").collect()
}

fn triple([median, min, max]: &[f64; 3]) -> String {
    format!("{} ({} to {})", short(*median), short(*min), short(*max))
}

/// About three digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Measurements in billions: `23.1 (22.0 to 23.5) GB/s`; nothing without measurements.
#[must_use]
pub fn billions(values: &[f64], unit: &str) -> Option<String> {
    let spread = Spread::of(values)?;
    let scaled = [spread.median, spread.min, spread.max].map(|value| value / 1e9);
    Some(format!("{} {unit}", triple(&scaled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_columns() {
        let rows = [Row {
            threads: 2,
            name: "decode".into(),
            unit: "tokens/s",
            hearth: [123.4, 99.96, 200.0],
            llama: [61.7, 60.0, 9.999],
            ratio: [2.0, 1.5, 2.25],
            best_ratio: Some(20.0),
            less_is_better: false,
            of_ceiling: Some([0.5, 0.254]),
        }];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[1],
            "decode (tokens/s)  123 (100.0 to 200)  61.7 (60.0 to 10.00)  2.00 (1.50 to 2.25)  20.0         50 %, 25 %"
        );
        assert_eq!(lines[0].find("Hearth"), lines[1].find("123"));
        assert_eq!(lines[0].find("llama.cpp"), lines[1].find("61.7"));
    }

    #[test]
    fn ceilings_are_in_billions() {
        assert_eq!(
            billions(&[2e9, 1e9, 3e11], "GB/s").unwrap(),
            "2.00 (1.00 to 300) GB/s"
        );
        assert_eq!(billions(&[], "GB/s"), None);
    }
}
