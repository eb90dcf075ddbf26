//! Processes that are ended without a word while they fill a store.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use model::Checkpoint;
use shards::{Catalogue, Reader, Source, Store, make, verify};

/// Where the child fills a store; unset in the parent.
const DIR: &str = "SHARDS_TEST_STORE";
const PIECE: u32 = 4 << 10;
const ROUNDS: u64 = 20;

fn source() -> (Checkpoint, Arc<Catalogue>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/hearth-tiny.gguf");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let catalogue = make(&checkpoint, PIECE, &mut |_| {}).unwrap();
    (checkpoint, Arc::new(catalogue))
}

/// The child: writes whatever is missing, and says before and after each piece which one.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let (checkpoint, catalogue) = source();
    let store = Store::open(&PathBuf::from(dir), u64::MAX).unwrap();
    let image = store.image(Arc::clone(&catalogue)).unwrap();
    let mut reader = Reader::new(Source::of(&checkpoint).unwrap().paths().to_vec());
    let mut out = std::io::stdout().lock();
    for (at, shard) in catalogue.shards().iter().enumerate() {
        for piece in image.missing(at) {
            let mut bytes = Vec::new();
            reader
                .read(&shard.places(shard.piece(piece, PIECE)), &mut bytes)
                .unwrap();
            writeln!(out, "begin {at} {piece}").unwrap();
            out.flush().unwrap();
            image.write(at, piece, &bytes).unwrap();
            writeln!(out, "done {at} {piece}").unwrap();
            out.flush().unwrap();
        }
    }
}

/// One life of the child, ended after it has finished `pieces` pieces: those that it began, and those that it finished.
fn one_life(dir: &Path, pieces: u64) -> [BTreeSet<(usize, u32)>; 2] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = [BTreeSet::new(), BTreeSet::new()];
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let at = match words.first() {
            Some(&"begin") => 0,
            Some(&"done") => 1,
            _ => continue,
        };
        // The last line may be cut off.
        let numbers = (
            words.get(1).and_then(|w| w.parse().ok()),
            words.get(2).and_then(|w| w.parse().ok()),
        );
        if let (Some(shard), Some(piece)) = numbers {
            told[at].insert((shard, piece));
        }
        if !killed && told[1].len() as u64 >= pieces {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    told
}

#[test]
fn a_killed_process_loses_at_most_the_piece_that_it_was_writing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, catalogue) = source();
    let total = catalogue.piece_count();
    let mut before = 0;
    for round in 0..ROUNDS {
        // Spread over the first hundred pieces of each life; the moment inside a piece is the system's.
        let [began, done] = one_life(dir.path(), 1 + (round * 7919) % 101);
        let store = Store::open(dir.path(), u64::MAX).unwrap();
        let image = store
            .find(catalogue.digest())
            .expect("the model was laid out");
        let missing: BTreeSet<_> = (0..catalogue.shards().len())
            .flat_map(|at| image.missing(at).into_iter().map(move |piece| (at, piece)))
            .collect();
        assert!(
            done.is_disjoint(&missing),
            "round {round}: finished pieces are gone"
        );
        let lost = began.intersection(&missing).count();
        assert!(lost <= 1, "round {round}: {lost} pieces lost");
        let held = total - missing.len();
        assert!(
            held >= before + done.len(),
            "round {round}: what was there before is gone"
        );
        before = held;
        assert!(
            verify(dir.path(), None).unwrap().damage.is_empty(),
            "round {round}"
        );
    }
    assert!(before < total, "every life was ended before its end");
    one_life(dir.path(), u64::MAX);
    let whole = verify(dir.path(), None).unwrap();
    assert_eq!((whole.pieces, whole.damage), (total, vec![]));
}
