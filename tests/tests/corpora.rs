//! The corpora of the fuzz targets, replayed: as they lie there, cut off everywhere, and with each byte changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tests::oracles::{ORACLES, Oracle};

/// Entries up to this size are also tried in pieces and changed.
const VARIED_BYTES_MAX: usize = 2048;

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Whether the reader accepts the bytes; it must never panic.
fn attempt(oracle: Oracle, bytes: &[u8], what: impl Fn() -> String) -> bool {
    catch_unwind(AssertUnwindSafe(|| oracle(bytes)))
        .unwrap_or_else(|_| panic!("{} breaks the reader", what()))
}

#[test]
fn every_corpus_has_entries_that_are_accepted_and_such_that_are_not() {
    for (name, oracle) in ORACLES {
        let accepted: Vec<bool> = corpus(name)
            .iter()
            .map(|path| {
                attempt(oracle, &fs::read(path).unwrap(), || {
                    path.display().to_string()
                })
            })
            .collect();
        assert!(
            accepted.contains(&true) && accepted.contains(&false),
            "{name}: {accepted:?}"
        );
    }
}

#[test]
fn cut_off_and_changed_entries_are_withstood() {
    for (name, oracle) in ORACLES {
        for path in corpus(name) {
            let bytes = fs::read(&path).unwrap();
            if bytes.len() > VARIED_BYTES_MAX {
                continue;
            }
            for end in 0..bytes.len() {
                attempt(oracle, &bytes[..end], || {
                    format!("{} cut at {end}", path.display())
                });
            }
            for at in 0..bytes.len() {
                for change in [1u8, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] ^= change;
                    attempt(oracle, &changed, || {
                        format!("{} with byte {at} ^ {change}", path.display())
                    });
                }
            }
        }
    }
}

#[test]
fn every_target_is_in_the_fuzz_crate() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    for (name, _) in ORACLES {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
