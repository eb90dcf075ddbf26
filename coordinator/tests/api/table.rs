//! Tables of cases as text: one case a line, its columns apart by `=>`, the first of them JSON.

use serde_json::Value;

/// The cases of a table.
pub fn rows<const N: usize>(text: &'static str) -> Vec<(Value, [&'static str; N])> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut columns = line.split(" => ");
            let first = columns.next().unwrap();
            let json = serde_json::from_str(first).unwrap_or_else(|e| panic!("{line}: {e}"));
            let rest: Vec<&str> = columns.collect();
            let rest = rest.try_into();
            (json, rest.unwrap_or_else(|_| panic!("columns of {line}")))
        })
        .collect()
}
