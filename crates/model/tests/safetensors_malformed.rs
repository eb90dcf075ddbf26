//! Broken safetensors files and indexes are refused with a word that helps, and never bring the program down.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;

use model::safetensors::{Header, Index};
use proptest::prelude::*;
use support::safetensors;

const SOUND: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;

fn parse(bytes: &[u8]) -> Result<Header, String> {
    Header::parse(Path::new("some.safetensors"), bytes, 0).map_err(|e| e.to_string())
}

#[test]
fn a_sound_file_is_read() {
    let head = parse(&safetensors(SOUND, &[0; 20])).unwrap();
    let names: Vec<_> = head.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let first = &head.tensors[0];
    assert_eq!(first.shape, [2, 3]);
    assert_eq!(first.start, head.header_bytes);
    assert_eq!(first.storage.name, "BF16");
    parse(&safetensors(&format!("{SOUND}   "), &[0; 20])).unwrap();
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = safetensors(SOUND, &[0; 20]);
    for len in 0..bytes.len() {
        let text = parse(&bytes[..len]).unwrap_err();
        assert!(text.starts_with("some.safetensors: "), "{len}: {text}");
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
fn broken_headers_are_named() {
    let deep = format!(r#"{{"t":{}"#, "[".repeat(100_000));
    refuse_all(vec![
        (
            "length beyond the file",
            u64::MAX.to_le_bytes().to_vec(),
            &["header's length", "at most 0"],
        ),
        (
            "length beyond the limit",
            (101_u64 << 20).to_le_bytes().to_vec(),
            &["header's length"],
        ),
        ("no object", safetensors("[]", &[]), &["`{`"]),
        ("empty", safetensors("", &[]), &["`{`"]),
        ("cut JSON", safetensors("{\"t\":", &[]), &["header"]),
        (
            "more after the object",
            safetensors("{} {}", &[]),
            &["header"],
        ),
        ("deep", safetensors(&deep, &[]), &["header"]),
        (
            "deep metadata",
            safetensors(r#"{"__metadata__":{"a":{"b":1}}}"#, &[]),
            &["header"],
        ),
        (
            "metadata twice",
            safetensors(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]),
            &["`__metadata__`", "twice"],
        ),
        (
            "duplicate",
            safetensors(
                r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
                &[],
            ),
            &["`t`", "twice"],
        ),
    ]);
}

#[test]
fn broken_entries_are_named() {
    let one = |entry: &str| safetensors(&format!(r#"{{"t":{entry}}}"#), &[0; 20]);
    refuse_all(vec![
        (
            "unknown field",
            one(r#"{"dtype":"F32","shape":[5],"data_offsets":[0,20],"x":1}"#),
            &["unknown field"],
        ),
        (
            "missing field",
            one(r#"{"dtype":"F32","shape":[5]}"#),
            &["data_offsets"],
        ),
        (
            "unknown type",
            one(r#"{"dtype":"F13","shape":[5],"data_offsets":[0,20]}"#),
            &["`t`", "F13"],
        ),
        (
            "negative",
            one(r#"{"dtype":"F32","shape":[-5],"data_offsets":[0,20]}"#),
            &["header"],
        ),
        (
            "backwards",
            one(r#"{"dtype":"F32","shape":[5],"data_offsets":[20,0]}"#),
            &["`t`", "from 20 to 0"],
        ),
        (
            "beyond the data",
            one(r#"{"dtype":"F32","shape":[6],"data_offsets":[0,24]}"#),
            &["`t`", "20 bytes of data"],
        ),
        (
            "shape does not fit",
            one(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,20]}"#),
            &["`t`", "[4]", "20 bytes"],
        ),
    ]);
}

#[test]
fn misplaced_tensors_are_named() {
    let one = |entry: &str| safetensors(&format!(r#"{{"t":{entry}}}"#), &[0; 20]);
    refuse_all(vec![
        (
            "overflow",
            one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,20]}"#),
            &["`t`", "product"],
        ),
        (
            "nine dims",
            one(r#"{"dtype":"F32","shape":[5,1,1,1,1,1,1,1,1],"data_offsets":[0,20]}"#),
            &["`t`", "8 dimensions"],
        ),
        (
            "gap before",
            one(r#"{"dtype":"F32","shape":[4],"data_offsets":[4,20]}"#),
            &["`t`", "no gap"],
        ),
        (
            "rest after",
            one(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#),
            &["after the last tensor", "4 bytes"],
        ),
        (
            "overlap",
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[3],"data_offsets":[8,20]}}"#,
                &[0; 20],
            ),
            &["`b`", "no overlap"],
        ),
        (
            "no name",
            safetensors(
                r#"{"":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}"#,
                &[0; 20],
            ),
            &["name of 0"],
        ),
    ]);
}

#[test]
fn indexes_lead_nowhere_else() {
    let index = |file: &str| {
        let text = format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{"t":"{file}"}}}}"#);
        Index::parse(Path::new("i.json"), text.as_bytes()).map_err(|e| e.to_string())
    };
    assert_eq!(
        index("m-1.safetensors").unwrap().files(),
        ["m-1.safetensors"]
    );
    for file in [
        "../m.safetensors",
        "/etc/m.safetensors",
        "a/m.safetensors",
        "a\\\\m.safetensors",
        "c:m.safetensors",
        ".safetensors",
        "..safetensors",
        "m.bin",
        "",
    ] {
        let text = index(file).unwrap_err();
        assert!(
            text.contains("`t`") && text.contains("plain name"),
            "{file}: {text}"
        );
    }
    let bad = |text: &str| {
        Index::parse(Path::new("i.json"), text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(bad(r#"{"weight_map":{}}"#).contains("without tensors"));
    assert!(bad("{}").contains("weight_map"));
    assert!(bad(r#"{"weight_map":{"t":"a.safetensors","t":"b.safetensors"}}"#).contains("twice"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0_usize..4096, any::<u8>()), 1..6)) {
        let mut bytes = safetensors(SOUND, &[0; 20]);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(head) = parse(&bytes) {
            for tensor in &head.tensors {
                prop_assert!(tensor.start + tensor.len <= bytes.len() as u64);
            }
        }
    }
}
