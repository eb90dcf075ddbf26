//! The tree keeps its own rules: sizes of files and functions, words, places of `unsafe`, nothing of a machine in it.
//!
//! Owns the limits and the few exceptions, each with its reason. It must never look outside the repository. The one
//! idea: source is masked first (comments and literals become blanks), so that only code is counted and searched.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

#[path = "tidy/functions.rs"]
mod functions;
#[path = "tidy/mask.rs"]
mod mask;
#[path = "tidy/tree.rs"]
mod tree;

use std::fmt::Write as _;

use tree::{Source, sources, texts};

/// Lines of a source file, tests apart.
const FILE_LINES: usize = 500;
/// Lines that no exception reaches beyond.
const FILE_LINES_END: usize = 800;
/// Lines of a function.
const FUNCTION_LINES: usize = 70;
/// Bytes of test data and bundled models.
const FIXTURE_BYTES: u64 = 40 << 20;

/// Files that may be longer than [`FILE_LINES`], and why.
const LONG_FILES: &[(&str, &str)] = &[(
    "crates/kernels/src/matmul/avx512/one_row.rs",
    "three types of one small trait, and the loop over them",
)];

/// Functions that may be longer than [`FUNCTION_LINES`], and why.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    (
        "crates/kernels/src/attention/tests.rs",
        "placing_norms_turns_and_stores",
        "one call and what each of its parts gives alone",
    ),
    (
        "coordinator/tests/api/malformed.rs",
        "shared_cases",
        "a table of cases",
    ),
    (
        "coordinator/tests/api/malformed.rs",
        "chat_cases",
        "a table of cases",
    ),
    (
        "crates/model/src/tokenizer/tests/hostile.rs",
        "unknown_parts_are_refused_by_name",
        "a table of cases",
    ),
    (
        "crates/model/tests/gguf_malformed.rs",
        "broken_metadata_is_named",
        "a table of cases",
    ),
    (
        "crates/session/src/schedule.rs",
        "the_next_step_is_a_function_of_counts",
        "a table of cases",
    ),
    (
        "crates/session/tests/tables.rs",
        "what_cannot_be_honoured_is_refused_at_once",
        "a table of cases",
    ),
];

/// Names that say nothing about what a module owns.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "misc", "helpers", "helper"];

/// Where code may be `unsafe`.
const UNSAFE_PLACES: &[&str] = &[
    "crates/kernels/",
    "crates/model/src/map.rs",
    "tests/src/lan/tap.rs",
    "bench/peers/src/llama.rs",
    "bench/peers/src/peaks.rs",
];

/// Collects what is wrong and fails once, with all of it.
#[derive(Default)]
struct Findings(String);

impl Findings {
    fn add(&mut self, place: &str, what: &str) {
        let _infallible = writeln!(self.0, "{place}: {what}");
    }

    fn settle(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

/// Lines of production code: without blocks that only tests compile.
fn production_lines(source: &Source) -> usize {
    source.code.lines().count()
        - functions::test_blocks(&source.code)
            .iter()
            .map(|b| b.lines())
            .sum::<usize>()
}

#[test]
fn files_are_short() {
    let mut findings = Findings::default();
    for source in sources() {
        if source.is_test() {
            continue;
        }
        let lines = production_lines(&source);
        let excused = LONG_FILES
            .iter()
            .any(|(path, reason)| *path == source.path && !reason.is_empty());
        if lines > FILE_LINES_END || (lines > FILE_LINES && !excused) {
            findings.add(
                &source.path,
                &format!("{lines} lines, at most {FILE_LINES} are read in one sitting: split it"),
            );
        }
    }
    findings.settle();
}

#[test]
fn functions_are_short() {
    let mut findings = Findings::default();
    for source in sources() {
        for function in functions::functions(&source.code) {
            let excused = LONG_FUNCTIONS.iter().any(|(path, name, reason)| {
                *path == source.path && *name == function.name && !reason.is_empty()
            });
            if function.lines > FUNCTION_LINES && !excused {
                let place = format!("{}:{}", source.path, function.line);
                findings.add(
                    &place,
                    &format!(
                        "`{}` has {} lines, at most {FUNCTION_LINES}",
                        function.name, function.lines
                    ),
                );
            }
        }
    }
    findings.settle();
}

#[test]
fn every_module_says_what_it_owns() {
    let mut findings = Findings::default();
    for source in sources() {
        let first = source
            .text
            .lines()
            .find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
        if !first.is_some_and(|line| line.starts_with("//! ")) {
            findings.add(
                &source.path,
                "opens without `//!`: say what it owns, what it must never do, the one idea",
            );
        }
    }
    findings.settle();
}

#[test]
fn modules_are_named_by_what_they_own() {
    let mut findings = Findings::default();
    for source in sources() {
        for part in source.path.trim_end_matches(".rs").split('/') {
            if EMPTY_NAMES.contains(&part) {
                findings.add(
                    &source.path,
                    &format!("`{part}` names nothing: name the module by what it owns"),
                );
            }
        }
    }
    findings.settle();
}

#[test]
fn unsafe_stays_in_its_places() {
    let mut findings = Findings::default();
    for source in sources() {
        let allowed = UNSAFE_PLACES
            .iter()
            .any(|place| source.path.starts_with(place));
        if !allowed && let Some(line) = mask::line_of_word(&source.code, "unsafe") {
            findings.add(
                &format!("{}:{line}", source.path),
                &format!("`unsafe` belongs into {}", UNSAFE_PLACES.join(", ")),
            );
        }
    }
    findings.settle();
}

#[test]
fn tests_run_always_and_never_sleep() {
    let mut findings = Findings::default();
    for source in sources() {
        for (line, text) in (1..).zip(source.code.lines()) {
            let place = format!("{}:{line}", source.path);
            if text.contains("#[ignore") {
                findings.add(
                    &place,
                    "an ignored test checks nothing: fix it or delete it",
                );
            }
            if text.contains("thread::sleep") {
                findings.add(
                    &place,
                    "a thread that sleeps guesses: wait for an event with a deadline",
                );
            }
            if source.is_test() && !source.is_bench() && text.contains("time::sleep") {
                findings.add(
                    &place,
                    "a test that sleeps guesses: wait for an event with a deadline",
                );
            }
        }
    }
    findings.settle();
}

#[test]
fn nothing_of_a_machine_is_in_the_tree() {
    const ROOTS: [&str; 7] = ["home", "root", "Users", "work", "mnt", "media", "srv"];
    let mut findings = Findings::default();
    for (path, text) in texts() {
        for (line, text) in (1..).zip(text.lines()) {
            for root in ROOTS {
                let needle = format!("/{root}/");
                let at = text.find(&needle);
                let starts = at.is_some_and(|at| {
                    !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*)>".contains(c))
                });
                if starts {
                    findings.add(
                        &format!("{path}:{line}"),
                        &format!("a path of one machine: {needle}…"),
                    );
                }
            }
        }
    }
    findings.settle();
}

#[test]
fn fixtures_stay_small() {
    let bytes = tree::bytes_under("tests/data") + tree::bytes_under("models");
    assert!(bytes > 0, "the fixtures are missing");
    assert!(
        bytes < FIXTURE_BYTES,
        "fixtures have {bytes} bytes, at most {FIXTURE_BYTES}"
    );
}

#[test]
fn exceptions_are_still_needed() {
    let mut findings = Findings::default();
    let all = sources();
    for (path, _) in LONG_FILES {
        let long = all
            .iter()
            .any(|s| s.path == *path && production_lines(s) > FILE_LINES);
        if !long {
            findings.add(path, "is short enough now: remove its exception");
        }
    }
    for (path, name, _) in LONG_FUNCTIONS {
        let long = all.iter().filter(|s| s.path == *path).any(|s| {
            functions::functions(&s.code)
                .iter()
                .any(|f| f.name == *name && f.lines > FUNCTION_LINES)
        });
        if !long {
            findings.add(
                path,
                &format!("`{name}` is short enough now: remove its exception"),
            );
        }
    }
    findings.settle();
}
