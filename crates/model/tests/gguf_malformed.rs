//! Broken GGUF files are refused with a word that helps, whatever is broken, and never bring the program down.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests on small numbers"
)]

mod support;

use std::path::Path;

use model::gguf::{Gguf, Value};
use proptest::prelude::*;
use support::{File, Raw, array_head, string};

fn parse(bytes: &[u8]) -> Result<Gguf, String> {
    Gguf::parse(Path::new("some.gguf"), bytes, 0).map_err(|e| e.to_string())
}

fn changed(change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = File::small();
    change(&mut file);
    file.bytes()
}

#[test]
fn a_sound_file_is_read() {
    for version in [2, 3] {
        let bytes = changed(|f| f.version = version);
        let head = parse(&bytes).unwrap();
        assert_eq!(head.version, version);
        assert_eq!(head.alignment, 32);
        assert_eq!(head.value("a.number"), Some(&Value::Unsigned(7)));
        assert_eq!(head.value("a.flag"), Some(&Value::Bool(true)));
        assert_eq!(head.value("a.float"), Some(&Value::Float(0.5)));
        let words = head.value("a.words").unwrap().as_array().unwrap();
        let mut seen = Vec::new();
        let path = Path::new("some.gguf");
        words.for_each_text(path, &bytes, |w| seen.push(w)).unwrap();
        assert_eq!(seen, ["one", "two"]);
        let list = head.value("a.list").unwrap().as_array().unwrap();
        let values = list.values(path, &bytes).unwrap();
        assert_eq!(values, [1, 2, 3].map(Value::Unsigned));
        let shapes: Vec<_> = head.tensors().iter().map(|t| t.shape.clone()).collect();
        assert_eq!(shapes, [vec![5, 3], vec![8]]);
    }
}

#[test]
fn an_own_alignment_is_used() {
    let bytes = changed(|f| {
        f.alignment = 256;
        f.set("general.alignment", Raw::u32(256));
    });
    let head = parse(&bytes).unwrap();
    assert_eq!(head.alignment, 256);
    assert!(head.tensors().iter().all(|t| t.start.is_multiple_of(256)));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = File::small().bytes();
    for len in 0..bytes.len() {
        let text = parse(&bytes[..len]).unwrap_err();
        assert!(text.starts_with("some.gguf: "), "{len}: {text}");
    }
}

/// Every case, by name, must be refused with all of its words.
fn refuse_all(cases: Vec<(&str, Vec<u8>, &[&str])>) {
    for (name, bytes, words) in cases {
        let text = parse(&bytes).map(|_| ()).unwrap_err();
        for word in words {
            assert!(text.contains(word), "{name}: {word:?} not in: {text}");
        }
    }
}

#[test]
fn broken_starts_are_named() {
    refuse_all(vec![
        ("empty", vec![], &["magic", "cut off"]),
        ("magic", changed(|f| f.magic = *b"GGML"), &["no GGUF file"]),
        (
            "reversed magic",
            changed(|f| f.magic = *b"FUGG"),
            &["big-endian"],
        ),
        (
            "big endian",
            changed(|f| f.version = 3_u32.swap_bytes()),
            &["big-endian", "little-endian"],
        ),
        (
            "version 0",
            changed(|f| f.version = 0),
            &["version is 0", "2 or 3"],
        ),
        (
            "version 1",
            changed(|f| f.version = 1),
            &["version is 1", "2 or 3"],
        ),
        (
            "version 4",
            changed(|f| f.version = 4),
            &["version is 4", "2 or 3"],
        ),
    ]);
}

#[test]
fn lying_counts_are_named() {
    refuse_all(vec![
        (
            "tensor count",
            changed(|f| f.counts = Some((u64::MAX, 6))),
            &["the tensor count is 18446744073709551615"],
        ),
        (
            "one tensor too many",
            changed(|f| f.counts = Some((3, 6))),
            &["some.gguf"],
        ),
        (
            "key count",
            changed(|f| f.counts = Some((2, u64::MAX))),
            &["the metadata count"],
        ),
        (
            "many keys",
            changed(|f| f.counts = Some((2, 70_000))),
            &["the metadata count is 70000"],
        ),
    ]);
}

#[test]
fn senseless_alignments_are_named() {
    refuse_all(vec![
        (
            "alignment 0",
            changed(|f| {
                f.set("general.alignment", Raw::u32(0));
            }),
            &["general.alignment is 0", "power of two"],
        ),
        (
            "alignment 3",
            changed(|f| {
                f.set("general.alignment", Raw::u32(3));
            }),
            &["general.alignment is 3"],
        ),
        (
            "alignment 4",
            changed(|f| {
                f.set("general.alignment", Raw::u32(4));
            }),
            &["general.alignment is 4"],
        ),
        (
            "alignment huge",
            changed(|f| {
                f.set("general.alignment", Raw::u32(1 << 31));
            }),
            &["general.alignment is 2147483648"],
        ),
        (
            "alignment text",
            changed(|f| {
                f.set("general.alignment", Raw::text("32"));
            }),
            &["general.alignment is `32`"],
        ),
    ]);
}

#[test]
fn broken_metadata_is_named() {
    refuse_all(vec![
        (
            "duplicate key",
            changed(|f| f.meta.push(("a.number".to_owned(), Raw::u32(8)))),
            &["`a.number`", "twice"],
        ),
        (
            "empty key",
            changed(|f| {
                f.set("", Raw::u32(8));
            }),
            &["length of metadata key", "is 0"],
        ),
        (
            "truth value 2",
            changed(|f| {
                f.set("a.flag", Raw::bool(2));
            }),
            &["`a.flag`", "0 or 1"],
        ),
        (
            "value type 13",
            changed(|f| {
                f.set("a.odd", Raw::of(13, &[0; 8]));
            }),
            &["type of metadata key `a.odd` is 13"],
        ),
        (
            "element type 77",
            changed(|f| {
                f.set("a.odd", Raw::of(9, &array_head(77, 1)));
            }),
            &["element type", "`a.odd`", "77"],
        ),
        (
            "string length lies",
            changed(|f| {
                f.set("a.text", Raw::of(8, &u64::MAX.to_le_bytes()));
            }),
            &["length of metadata key `a.text`", "at most"],
        ),
        (
            "string beyond the file",
            changed(|f| {
                f.set("a.text", Raw::of(8, &100_000_u64.to_le_bytes()));
            }),
            &["`a.text`", "100000"],
        ),
        (
            "array count lies",
            changed(|f| {
                f.set("a.list", Raw::of(9, &array_head(4, u64::MAX / 4)));
            }),
            &["element count", "`a.list`"],
        ),
        (
            "array beyond the file",
            changed(|f| {
                f.set("a.list", Raw::of(9, &array_head(10, 1000)));
            }),
            &["`a.list`", "1000"],
        ),
        (
            "no UTF-8",
            changed(|f| {
                f.set("a.text", Raw::of(8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe]));
            }),
            &["`a.text`", "UTF-8"],
        ),
    ]);
}

#[test]
fn arrays_nest_to_a_limit() {
    let nested = |depth: usize| {
        let mut value = Vec::new();
        for _ in 1..depth {
            value.extend(array_head(9, 1));
        }
        value.extend(array_head(0, 1));
        value.push(42);
        changed(|f| {
            f.set("a.deep", Raw::of(9, &value));
        })
    };
    for depth in 1..=3 {
        parse(&nested(depth)).unwrap();
    }
    for depth in [4, 100, 100_000] {
        let text = parse(&nested(depth)).unwrap_err();
        assert!(
            text.contains("`a.deep`") && text.contains("nested deeper"),
            "{text}"
        );
    }
}

#[test]
fn broken_tensor_entries_are_named() {
    refuse_all(vec![
        (
            "duplicate",
            changed(|f| f.tensor("second").name = "first".to_owned()),
            &["`first`", "twice"],
        ),
        (
            "no name",
            changed(|f| f.tensor("second").name = String::new()),
            &["name of tensor 1", "is 0"],
        ),
        (
            "long name",
            changed(|f| f.tensor("second").name = "x".repeat(600)),
            &["600"],
        ),
        (
            "unknown type",
            changed(|f| f.tensor("second").kind = 99),
            &["`second`", "type number 99"],
        ),
        (
            "removed type",
            changed(|f| f.tensor("second").kind = 4),
            &["`second`", "type number 4"],
        ),
        (
            "no dims",
            changed(|f| f.tensor("second").dims = vec![]),
            &["`second`", "0 dimensions"],
        ),
        (
            "five dims",
            changed(|f| f.tensor("second").dims = vec![1; 5]),
            &["`second`", "5 dimensions"],
        ),
        (
            "zero dim",
            changed(|f| f.tensor("second").dims = vec![8, 0]),
            &["`second`", "above zero"],
        ),
        (
            "zero first dim",
            changed(|f| f.tensor("second").dims = vec![0, 8]),
            &["`second`", "above zero"],
        ),
    ]);
}

#[test]
fn tensors_without_room_are_named() {
    refuse_all(vec![
        (
            "overflow",
            changed(|f| f.tensor("second").dims = vec![1 << 33, 1 << 33]),
            &["`second`", "fits"],
        ),
        (
            "overflow by bytes",
            changed(|f| f.tensor("second").dims = vec![1 << 62]),
            &["`second`", "fits"],
        ),
        (
            "overflow to zero",
            changed(|f| f.tensor("second").dims = vec![1 << 32, 1 << 32]),
            &["`second`", "fits"],
        ),
        (
            "part of a block",
            changed(|f| f.tensor("second").kind = 8),
            &["`second`", "multiple of 32"],
        ),
        (
            "beyond the file",
            changed(|f| f.tensor("second").dims = vec![8000]),
            &["`second`", "inside the file"],
        ),
        (
            "offset beyond the file",
            changed(|f| f.tensor("second").offset = Some(1 << 20)),
            &["`second`", "inside the file"],
        ),
        (
            "offset overflows",
            changed(|f| f.tensor("second").offset = Some(u64::MAX - 31)),
            &["`second`", "inside the file"],
        ),
        (
            "offset unaligned",
            changed(|f| f.tensor("second").offset = Some(33)),
            &["`second`", "multiple of the file's alignment 32"],
        ),
        (
            "overlap",
            changed(|f| f.tensor("second").offset = Some(32)),
            &["`second`", "`first`", "shares bytes"],
        ),
        (
            "same place",
            changed(|f| f.tensor("second").offset = Some(0)),
            &["shares bytes"],
        ),
    ]);
}

#[test]
fn a_name_that_ends_the_file_is_refused() {
    let mut bytes = File::small().bytes();
    bytes.truncate(24);
    bytes.extend(string("general.architecture"));
    assert!(parse(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0_usize..4096, any::<u8>()), 1..6), cut in 0_usize..4096) {
        let mut bytes = File::small().bytes();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().max(1) - cut % 64.min(bytes.len()));
        if let Ok(head) = parse(&bytes) {
            for tensor in head.tensors() {
                prop_assert!(tensor.start + tensor.len <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn lying_numbers_never_panic(at in 0_usize..4096, number in prop_oneof![
        Just(0_u64), Just(u64::MAX), Just(u64::from(u32::MAX)), Just(1 << 63), Just(1 << 32), any::<u64>()
    ]) {
        let mut bytes = File::small().bytes();
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        if let Ok(head) = parse(&bytes) {
            for tensor in head.tensors() {
                prop_assert!(tensor.start + tensor.len <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(noise);
        let _ = parse(&bytes);
    }
}
