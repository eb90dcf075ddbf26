//! Catalogues, splits and stores of the models in the repository.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "test code"
)]

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Checkpoint, LayerRole, Part, Proj, Role};
use shards::{
    Catalogue, Image, Reader, ShardError, Source, Store, Unit, Written, catalogue_of, make, split,
    verify,
};

const PIECE: u32 = 16 << 10;
const FAMILIES: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"];

fn data(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(family)
}

fn models() -> Vec<PathBuf> {
    let of = |family: &str| [data(family), data(family).join("model-f16.gguf")];
    let mut all: Vec<PathBuf> = FAMILIES.iter().flat_map(|family| of(family)).collect();
    all.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/hearth-tiny.gguf"));
    all
}

fn catalogued(path: &Path) -> (Checkpoint, Arc<Catalogue>) {
    let checkpoint = Checkpoint::open(path).unwrap();
    let catalogue = make(&checkpoint, PIECE, &mut |_| {}).unwrap();
    (checkpoint, Arc::new(catalogue))
}

/// Hands every piece of `shards` over from the model's own files.
fn fill(image: &Image, checkpoint: &Checkpoint, shards: &[usize]) {
    let mut reader = Reader::new(Source::of(checkpoint).unwrap().paths().to_vec());
    let catalogue = Arc::clone(image.catalogue());
    for &at in shards {
        let shard = &catalogue.shards()[at];
        for piece in image.missing(at) {
            let mut bytes = Vec::new();
            let part = shard.piece(piece, catalogue.piece_bytes());
            reader.read(&shard.places(part), &mut bytes).unwrap();
            assert_eq!(image.write(at, piece, &bytes).unwrap(), Written::New);
            assert_eq!(image.write(at, piece, &bytes).unwrap(), Written::Already);
        }
    }
}

fn store(dir: &Path) -> Store {
    Store::open(&dir.join("store"), u64::MAX).unwrap()
}

#[test]
fn every_needed_byte_is_in_exactly_one_shard() {
    for path in models() {
        let (checkpoint, catalogue) = catalogued(&path);
        let facts = checkpoint.facts();
        let base = catalogue.pick(|unit| unit == Unit::Base);
        let of = |unit: Unit| {
            let at = catalogue.pick(|other| other == unit);
            at.iter()
                .map(|at| catalogue.shards()[*at].bytes)
                .sum::<u64>()
        };
        assert_eq!(base, [0], "{}", path.display());
        for (layer, expected) in (0u32..).zip(&facts.layers) {
            assert_eq!(of(Unit::Trunk(layer)), expected.trunk_bytes);
            for (group, bytes) in (0u32..).zip(&expected.group_bytes) {
                assert_eq!(of(Unit::Group { layer, group }), *bytes);
            }
        }
        let norm: u64 = checkpoint
            .ranges(&Part::OutputNorm)
            .unwrap()
            .iter()
            .map(|r| r.len)
            .sum();
        let head: u64 = (0..16).map(|block| of(Unit::Head(block))).sum();
        assert_eq!(head, facts.head_bytes - norm, "{}", path.display());
        let tied = if facts.tied_head {
            0
        } else {
            facts.embedding_bytes
        };
        assert_eq!(of(Unit::Embedding), tied);
    }
}

#[test]
fn catalogues_do_not_depend_on_where_the_files_lie() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let copy = dir.path().join(format!("{family}.gguf"));
        fs::copy(data(family).join("model-f16.gguf"), &copy).unwrap();
        let (_, here) = catalogued(&copy);
        let (_, there) = catalogued(&data(family).join("model-f16.gguf"));
        let digests = |c: &Catalogue| c.shards().iter().map(|s| s.digest).collect::<Vec<_>>();
        assert_eq!(digests(&here), digests(&there));
    }
}

#[test]
fn a_split_is_whole_and_names_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    for (number, path) in models().into_iter().enumerate() {
        let out = dir.path().join(number.to_string());
        let checkpoint = Checkpoint::open(&path).unwrap();
        let mut told = 0;
        let report = split(&checkpoint, &out, PIECE, &mut |bytes| told += bytes).unwrap();
        assert_eq!(told, 2 * report.bytes);
        assert_eq!(report.bytes, Source::of(&checkpoint).unwrap().bytes());
        let whole = verify(&out, None).unwrap();
        assert!(whole.damage.is_empty(), "{whole:?}");
        assert_eq!((whole.shards, whole.bytes), (report.shards, report.bytes));
        // A second split finds everything there.
        let again = split(&checkpoint, &out, PIECE, &mut |_| {}).unwrap();
        assert_eq!(again.written_bytes, 0);
        // Each file's name is the hash of its content; so is each shard's.
        let catalogue = make(&checkpoint, PIECE, &mut |_| {}).unwrap();
        let damaged = catalogue.shards().iter().max_by_key(|s| s.bytes).unwrap();
        let file = out.join(shards::shard_file(damaged));
        assert_eq!(
            shards::Digest::of(&fs::read(&file).unwrap()),
            damaged.digest
        );
        flip(&file, damaged.bytes - 1);
        let found = verify(&out, None).unwrap().damage;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].unit, &found[0].pieces),
            (damaged.unit, &vec![damaged.piece_count() - 1])
        );
        fs::remove_file(&file).unwrap();
        let found = verify(&out, None).unwrap().damage;
        assert!(found[0].unreadable.is_some(), "{found:?}");
        // The model itself against the catalogue.
        let catalogue_file = out.join(shards::CATALOGUE_FILE);
        assert!(
            verify(&path, Some(&catalogue_file))
                .unwrap()
                .damage
                .is_empty()
        );
    }
}

fn flip(path: &Path, at: u64) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

/// A part of a model in the store answers like the model itself.
#[test]
fn a_part_in_the_store_opens_like_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for path in models() {
        let (checkpoint, catalogue) = catalogued(&path);
        let image = store.image(Arc::clone(&catalogue)).unwrap();
        let wanted = catalogue.pick(|unit| match unit {
            Unit::Base | Unit::Head(_) => true,
            Unit::Embedding => false,
            Unit::Trunk(layer) => layer == 1,
            Unit::Group { layer, group } => layer == 1 && group == 0,
        });
        fill(&image, &checkpoint, &wanted);
        let part = Checkpoint::open(&image.model_path()).unwrap();
        assert_eq!(part.identity(), checkpoint.identity(), "{}", path.display());
        assert_eq!(
            part.matrix(Role::Head).unwrap().bytes,
            checkpoint.matrix(Role::Head).unwrap().bytes
        );
        assert_eq!(
            part.vector(Role::OutputNorm).unwrap(),
            checkpoint.vector(Role::OutputNorm).unwrap()
        );
        for role in checkpoint.layer_roles(1) {
            let role = Role::Layer(1, role);
            match checkpoint.matrix(role) {
                Ok(whole) => assert_eq!(part.matrix(role).unwrap().bytes, whole.bytes),
                Err(_) => assert_eq!(part.vector(role).unwrap(), checkpoint.vector(role).unwrap()),
            }
        }
        if checkpoint.groups(1) > 0 {
            let whole = checkpoint.expert(1, Proj::Down, 0).unwrap();
            assert_eq!(part.expert(1, Proj::Down, 0).unwrap().bytes, whole.bytes);
        }
        // What was not fetched takes no space and is zero.
        let absent = part.vector(Role::Layer(0, LayerRole::AttnNorm)).unwrap();
        let plain = absent.iter().all(|v| *v == 0.0 || *v == 1.0);
        assert!(plain, "{absent:?}");
        assert_eq!(image.held().len(), wanted.len());
    }
    let expected: usize = models().len();
    assert_eq!(verify(&dir.path().join("store"), None).unwrap().damage, []);
    drop(store);
    let again = Store::open(&dir.path().join("store"), u64::MAX).unwrap();
    assert_eq!(again.images().len(), expected);
    assert!(again.held_bytes() > 0);
}

#[test]
fn wrong_bytes_are_never_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, catalogue) = catalogued(&data("llama").join("model-f16.gguf"));
    let image = store(dir.path()).image(Arc::clone(&catalogue)).unwrap();
    let mut bytes = Vec::new();
    let shard = &catalogue.shards()[2];
    let mut reader = Reader::new(Source::of(&checkpoint).unwrap().paths().to_vec());
    reader
        .read(&shard.places(shard.piece(0, PIECE)), &mut bytes)
        .unwrap();
    bytes[77] ^= 1;
    let error = image.write(2, 0, &bytes).unwrap_err();
    assert!(
        matches!(error, ShardError::Damaged { piece: 0, .. }),
        "{error}"
    );
    assert!(matches!(
        image.write(2, 0, &[]),
        Err(ShardError::Damaged { .. })
    ));
    assert!(image.write(2, 10_000, &bytes).is_err() && image.write(10_000, 0, &bytes).is_err());
    assert_eq!(image.missing(2).len(), shard.pieces.len());
    assert!(matches!(
        image.read(2, 0, 1),
        Err(ShardError::NotHere { .. })
    ));
    bytes[77] ^= 1;
    image.write(2, 0, &bytes).unwrap();
    assert_eq!(image.read(2, 0, 1).unwrap(), bytes);
}

#[test]
fn damage_at_rest_is_found_once_given_up_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, catalogue) = catalogued(&data("qwen3_moe").join("model-f16.gguf"));
    let all: Vec<usize> = catalogue.pick(|_| true);
    let file = {
        let image = store(dir.path()).image(Arc::clone(&catalogue)).unwrap();
        fill(&image, &checkpoint, &all);
        image.seal().unwrap();
        image.model_path()
    };
    let victim = catalogue.pick(|unit| unit == Unit::Trunk(2))[0];
    let place = catalogue.shards()[victim].ranges[0];
    flip(&file, place.start + 3);
    let named = verify(&dir.path().join("store"), None).unwrap().damage;
    assert_eq!(
        (named.len(), named[0].unit, named[0].pieces[0]),
        (1, Unit::Trunk(2), 0)
    );
    let again = store(dir.path());
    let image = again.find(catalogue.digest()).unwrap();
    let damaged: Vec<_> = all.iter().map(|at| image.check(*at).unwrap()).collect();
    assert_eq!(damaged.iter().flatten().count(), 1);
    assert_eq!(damaged[victim], [0]);
    assert_eq!(image.missing(victim), [0]);
    fill(&image, &checkpoint, &all);
    assert_eq!(verify(&dir.path().join("store"), None).unwrap().damage, []);
    // What was compared in this process is not read again.
    flip(&file, place.start + 3);
    assert!(image.check(victim).unwrap().is_empty());
}

#[test]
fn the_limit_holds_and_what_is_pinned_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, catalogue) = catalogued(&data("qwen3_5_moe").join("model-f16.gguf"));
    let layer =
        |wanted: u32| catalogue.pick(|unit| unit == Unit::Base || unit.layer() == Some(wanted));
    let bytes = |shards: &[usize]| {
        shards
            .iter()
            .map(|at| catalogue.shards()[*at].bytes)
            .sum::<u64>()
    };
    let most = (0..8).map(|l| bytes(&layer(l))).max().unwrap();
    let limit = 2 * most;
    let store = Store::open(&dir.path().join("store"), limit).unwrap();
    let image = store.image(Arc::clone(&catalogue)).unwrap();
    for l in 0..8 {
        store.reserve(&image, &layer(l)).unwrap();
        fill(&image, &checkpoint, &layer(l));
        assert!(store.held_bytes() <= limit);
    }
    assert!(
        layer(7).iter().all(|at| image.holds(*at)),
        "the last is pinned"
    );
    assert!(
        layer(6).iter().all(|at| image.holds(*at)),
        "the one before is the youngest"
    );
    assert!(
        !layer(0).iter().all(|at| image.holds(*at)),
        "the oldest went"
    );
    // Holes take no space.
    let other = catalogued(&data("llama").join("model-f16.gguf"));
    let second = store.image(Arc::clone(&other.1)).unwrap();
    let all = other.1.pick(|_| true);
    let error = store
        .reserve(&image, &catalogue.pick(|_| true))
        .unwrap_err();
    assert!(matches!(error, ShardError::Limit { .. }), "{error}");
    assert!(
        layer(7).iter().all(|at| image.holds(*at)),
        "nothing was given up for what cannot fit"
    );
    if bytes_of(&other.1, &all) <= limit {
        store.reserve(&second, &all).unwrap();
        fill(&second, &other.0, &all);
        assert!(store.held_bytes() <= limit);
    }
}

#[test]
fn the_default_limit_leaves_half_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let empty = shards::default_limit(dir.path(), 0);
    assert!(empty > 0);
    // What is kept already counts as free.
    assert!(shards::default_limit(dir.path(), 1 << 50) >= 1 << 49);
    let store = store(dir.path()).with_limit(77);
    assert_eq!(store.limit(), 77);
}

fn bytes_of(catalogue: &Catalogue, shards: &[usize]) -> u64 {
    shards.iter().map(|at| catalogue.shards()[*at].bytes).sum()
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_said_clearly() {
    // Every write to this device ends with "no space left".
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, catalogue) = catalogued(&data("llama").join("model-f16.gguf"));
    let store = store(dir.path());
    let image = store.image(Arc::clone(&catalogue)).unwrap();
    fill(&image, &checkpoint, &[0]);
    let file = image.model_path();
    let kept = dir.path().join("kept");
    fs::rename(&file, &kept).unwrap();
    std::os::unix::fs::symlink(full, &file).unwrap();
    let mut bytes = Vec::new();
    let shard = &catalogue.shards()[2];
    let mut reader = Reader::new(Source::of(&checkpoint).unwrap().paths().to_vec());
    reader
        .read(&shard.places(shard.piece(0, PIECE)), &mut bytes)
        .unwrap();
    let error = image.write(2, 0, &bytes).unwrap_err();
    assert_eq!(error.code(), "disk_full", "{error}");
    assert!(error.to_string().contains("--store-limit"), "{error}");
    // Space again: what was there is there, and the piece is taken.
    fs::rename(&kept, &file).unwrap();
    assert!(image.holds(0) && image.check(0).unwrap().is_empty());
    image.write(2, 0, &bytes).unwrap();
}

#[test]
fn broken_models_of_the_store_are_removed_and_strange_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (_, catalogue) = catalogued(&data("llama").join("model-f16.gguf"));
    let root = dir.path().join("store");
    store(dir.path()).image(Arc::clone(&catalogue)).unwrap();
    let home = root.join(catalogue.digest().to_string());
    fs::create_dir(root.join("photos")).unwrap();
    File::create(root.join("note.txt")).unwrap();
    fs::create_dir(home.with_extension("new")).unwrap();
    assert_eq!(store(dir.path()).images().len(), 1);
    fs::write(home.join("held"), b"x").unwrap();
    assert_eq!(store(dir.path()).images().len(), 0);
    let left: HashSet<_> = fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, HashSet::from(["photos".into(), "note.txt".into()]));
}

#[test]
fn a_catalogue_is_made_once_and_again_when_a_file_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    fs::copy(data("llama").join("model-f16.gguf"), &file).unwrap();
    let kept = dir.path().join("catalogues");
    let get = || catalogue_of(&Checkpoint::open(&file).unwrap(), &kept, PIECE).unwrap();
    let first = get();
    // Only what is read back knows of this mark.
    let json = fs::read_dir(&kept).unwrap().map(|e| e.unwrap().path());
    let json = json
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "json"))
        .unwrap();
    let mut marked = fs::read(&json).unwrap();
    marked.push(b' ');
    fs::write(&json, &marked).unwrap();
    assert_eq!(get().encoded(), marked);
    // A weight changes, the head does not.
    flip(&file, fs::metadata(&file).unwrap().len() - 1);
    let touched = OpenOptions::new().write(true).open(&file).unwrap();
    touched
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let changed = get();
    assert_ne!(changed.digest(), first.digest());
    assert_eq!(changed.identity(), first.identity());
    // Broken records are made anew.
    fs::write(&json, b"{").unwrap();
    assert_eq!(get().digest(), changed.digest());
}

#[test]
fn a_catalogue_that_cuts_otherwise_is_noticed() {
    let (checkpoint, catalogue) = catalogued(&data("llama").join("model-f16.gguf"));
    let source = Source::of(&checkpoint).unwrap();
    source.agrees(&catalogue).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(catalogue.encoded()).unwrap();
    value["shards"][3]["unit"] = "group.9.9".into();
    let other = Catalogue::parse(value.to_string().into_bytes()).unwrap();
    let error = source.agrees(&other).unwrap_err().to_string();
    assert!(error.contains("same version"), "{error}");
}
