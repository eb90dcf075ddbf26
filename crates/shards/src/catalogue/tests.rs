//! What a catalogue may say, and what it may not.

use serde_json::{Value, json};

use super::*;

/// A catalogue of one file with three shards.
fn given() -> Value {
    let hash = |n: u8| Digest([n; 32]).to_string();
    json!({
        "format": 1,
        "model": {"bytes": 20_000, "head_blake3": hash(9)},
        "piece_bytes": 4096,
        "files": [{"name": "m.gguf", "bytes": 20_000}],
        "shards": [
            {"unit": "base", "blake3": hash(1), "bytes": 100, "ranges": [[0, 0, 100]], "pieces": hash(2)},
            {"unit": "trunk.0", "blake3": hash(3), "bytes": 5000, "ranges": [[0, 128, 1000], [0, 2000, 4000]],
             "pieces": hash(4) + &hash(5)},
            {"unit": "head.0", "blake3": hash(6), "bytes": 10, "ranges": [[0, 19_990, 10]], "pieces": hash(7)},
        ],
    })
}

fn parse(value: &Value) -> Result<Catalogue, ShardError> {
    Catalogue::parse(value.to_string().into_bytes())
}

#[test]
fn a_catalogue_reads_back_and_knows_its_pieces() {
    let catalogue = parse(&given()).unwrap();
    assert_eq!(catalogue.piece_count(), 4);
    let trunk = &catalogue.shards()[1];
    assert_eq!((trunk.first_piece, trunk.piece_count()), (1, 2));
    assert_eq!(trunk.piece(0, 4096), 0..4096);
    assert_eq!(trunk.piece(1, 4096), 4096..5000);
    assert!(trunk.piece(2, 4096).is_empty());
    let place = |start, len| FileRange {
        file: 0,
        start,
        len,
    };
    assert_eq!(
        trunk.places(900..1200),
        [place(1028, 100), place(2000, 200)]
    );
    assert_eq!(trunk.places(4096..5000), [place(5096, 904)]);
    assert_eq!(catalogue.pick(|unit| unit.layer() == Some(0)), [1]);
    assert_eq!(catalogue.piece_digest(1, 1), Some(Digest([5; 32])));
    assert_eq!(catalogue.piece_digest(1, 2), None);
    let again = Catalogue::parse(catalogue.encoded().to_vec()).unwrap();
    assert_eq!(again.digest(), catalogue.digest());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let hash = Digest([4; 32]).to_string();
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/format", json!(2), "format"),
        ("/piece_bytes", json!(4095), "piece_bytes"),
        ("/piece_bytes", json!(2 << 20), "piece_bytes"),
        ("/files", json!([]), "files"),
        ("/files/0/name", json!("../m.gguf"), "name"),
        ("/files/0/name", json!("a/b"), "name"),
        ("/files/0/name", json!("C:m"), "name"),
        ("/files/0/name", json!(".hidden"), "name"),
        ("/files/0/name", json!(""), "name"),
        ("/files/0/bytes", json!(19_999), "range of head.0"),
        ("/shards/0/unit", json!("head.0"), "each unit once"),
        ("/shards/0/unit", json!("head.1"), "base"),
        ("/shards/0/unit", json!("tail"), "tail"),
        ("/shards/0/ranges/0/0", json!(1), "range of base"),
        ("/shards/0/ranges/0/1", json!(u64::MAX), "range of base"),
        ("/shards/0/ranges/0/2", json!(0), "range of base"),
        ("/shards/0/ranges/0/2", json!(129), "bytes of base"),
        ("/shards/0/bytes", json!(99), "bytes of base"),
        (
            "/shards/1/ranges",
            json!([[0, 2000, 4000], [0, 128, 1000]]),
            "in order",
        ),
        (
            "/shards/1/ranges",
            json!([[0, 128, 1000], [0, 1127, 4000]]),
            "share no byte",
        ),
        ("/shards/1/pieces", json!(hash), "piece hashes of trunk.0"),
        ("/shards/1/pieces", json!("zz"), "piece hashes of trunk.0"),
        ("/shards/1/blake3", json!("00"), "hexadecimal"),
        ("/shards/1", json!({}), "JSON"),
    ];
    for (place, value, named) in cases {
        let mut broken = given();
        *broken.pointer_mut(place).unwrap() = value.clone();
        let error = parse(&broken).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{place} = {value}: {error}");
    }
    let mut more = given();
    more["extra"] = json!(1);
    assert!(parse(&more).is_err());
}

#[test]
fn names_that_only_differ_in_case_are_refused() {
    let mut twice = given();
    twice["files"] = json!([{"name": "m.gguf", "bytes": 20_000}, {"name": "M.gguf", "bytes": 1}]);
    assert!(parse(&twice).is_err());
}
