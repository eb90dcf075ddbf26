//! What must hold for any bytes that come from outside: nothing panics, and what was accepted reads back the same.
//!
//! One function per format, used by the fuzz targets (`fuzz/`) and by the replay of their corpora.

use std::path::Path;

use proto::bulk::{ANSWER_HEAD_BYTES, ASK_BYTES, AnswerHead, Ask};
use proto::control::pairing::{Opening, Proof, Reply};
use proto::frame::{Frame, FrameHeader, HEADER_BYTES};

/// A reader under attack: says whether it accepted the bytes.
pub type Oracle = fn(&[u8]) -> bool;

/// Every oracle by the name of its fuzz target and corpus.
pub const ORACLES: [(&str, Oracle); 9] = [
    ("frame", frame),
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("shard_index", shard_index),
    ("catalogue", catalogue),
    ("bulk", bulk),
    ("invite", invite),
    ("pairing", pairing),
    ("http_body", http_body),
];

/// A data-plane frame: header, then payload.
#[must_use]
pub fn frame(bytes: &[u8]) -> bool {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    let Ok(header) = FrameHeader::parse(header) else {
        return false;
    };
    let Ok(frame) = Frame::decode(&header, payload) else {
        return false;
    };
    let written = frame.encode();
    let (header, payload) = written
        .split_first_chunk::<HEADER_BYTES>()
        .expect("a header");
    let header = FrameHeader::parse(header).expect("what we write has a header that we read");
    let again = Frame::decode(&header, payload).expect("what we write is what we read");
    // Bytes, not values: a NaN in a row is not equal to itself.
    assert_eq!(again.encode(), written);
    true
}

/// An ask of a bulk transfer, then the head of its answer.
#[must_use]
pub fn bulk(bytes: &[u8]) -> bool {
    let Some((ask, rest)) = bytes.split_first_chunk::<ASK_BYTES>() else {
        return false;
    };
    let Ok(ask) = Ask::decode(ask) else {
        return false;
    };
    assert_eq!(Ask::decode(&ask.encode()), Ok(ask));
    let Some(head) = rest.first_chunk::<ANSWER_HEAD_BYTES>() else {
        return false;
    };
    let Ok(head) = AnswerHead::decode(head, &ask) else {
        return false;
    };
    assert!(head.bytes <= ask.answer_bytes_max());
    assert_eq!(AnswerHead::decode(&head.encode(), &ask), Ok(head));
    true
}

/// A shard catalogue.
#[must_use]
pub fn catalogue(bytes: &[u8]) -> bool {
    let Ok(catalogue) = shards::Catalogue::parse(bytes.to_vec()) else {
        return false;
    };
    for shard in catalogue.shards() {
        let part = shard.piece(0, catalogue.piece_bytes());
        let places = shard.places(part.clone());
        let sum: u64 = places.iter().map(|place| place.len).sum();
        assert_eq!(sum, part.end - part.start, "{shard:?}");
    }
    true
}

/// A GGUF file.
#[must_use]
pub fn gguf(bytes: &[u8]) -> bool {
    let Ok(head) = model::gguf::Gguf::parse(Path::new("fuzzed.gguf"), bytes, 0) else {
        return false;
    };
    for tensor in head.tensors() {
        assert!(inside(tensor, bytes.len()), "{tensor:?}");
    }
    true
}

/// A safetensors file.
#[must_use]
pub fn safetensors(bytes: &[u8]) -> bool {
    let Ok(head) = model::safetensors::Header::parse(Path::new("fuzzed.safetensors"), bytes, 0)
    else {
        return false;
    };
    for tensor in &head.tensors {
        assert!(inside(tensor, bytes.len()), "{tensor:?}");
    }
    true
}

fn inside(tensor: &model::Tensor, file_bytes: usize) -> bool {
    let end = tensor.start.checked_add(tensor.len);
    end.is_some_and(|end| end <= file_bytes as u64)
}

/// The index of a safetensors directory.
#[must_use]
pub fn shard_index(bytes: &[u8]) -> bool {
    let Ok(index) = model::safetensors::Index::parse(Path::new("fuzzed.index.json"), bytes) else {
        return false;
    };
    for file in index.files() {
        let leaves = file.contains(['/', '\\']) || file == "..";
        assert!(!leaves, "the index leads out of its directory: {file}");
    }
    true
}

/// An invite URL.
#[must_use]
pub fn invite(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(invite) = text.parse::<transport::Invite>() else {
        return false;
    };
    let written = invite.to_string();
    let again: transport::Invite = written.parse().expect("what we write is what we read");
    assert_eq!(again.to_string(), written);
    true
}

/// A message of pairing, after one byte that says which: of a device first, of a coordinator, of a device second; or what a
/// person types as a short code or as check words.
#[must_use]
pub fn pairing(bytes: &[u8]) -> bool {
    let Some((kind, message)) = bytes.split_first() else {
        return false;
    };
    match kind {
        0 => reads_back(message, Opening::decode, |opening| opening.encode()),
        1 => reads_back(message, Reply::decode, |reply| reply.encode()),
        2 => reads_back(message, Proof::decode, |proof| proof.encode()),
        3 => text_reads_back(message, transport::ShortCode::reveal),
        4 => text_reads_back(message, transport::CheckWords::to_string),
        _ => false,
    }
}

fn reads_back<M: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    message: &[u8],
    read: fn(&[u8]) -> Result<M, E>,
    write: fn(&M) -> Vec<u8>,
) -> bool {
    let Ok(read_first) = read(message) else {
        return false;
    };
    let again = read(&write(&read_first)).expect("what we write is what we read");
    assert_eq!(again, read_first);
    true
}

fn text_reads_back<T: std::str::FromStr + PartialEq>(text: &[u8], write: fn(&T) -> String) -> bool {
    let Some(read) = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<T>().ok())
    else {
        return false;
    };
    assert!(write(&read).parse::<T>().is_ok_and(|again| again == read));
    true
}

/// The body of an HTTP request.
#[must_use]
pub fn http_body(bytes: &[u8]) -> bool {
    let Ok(object) = coordinator::http::read_body(bytes) else {
        return false;
    };
    let text = serde_json::to_string(&object).expect("JSON can be written");
    let again =
        coordinator::http::read_body(text.as_bytes()).expect("what we write is what we read");
    assert_eq!(again.len(), object.len());
    true
}
