//! Bulk transfers: what one member asks another for, and how the answer starts.
//!
//! ```text
//! offset size field of an ask
//!      0    4 "HBK1"
//!      4    1 kind               0 catalogue, 1 pieces
//!      5    3 zero
//!      8   32 catalogue          its BLAKE3
//!     40    4 shard              its place in the catalogue; zero for kind 0, like the next two
//!     44    4 first piece
//!     48    4 one past the last piece
//!     52    4 zero
//!
//! offset size field of an answer's head; its bytes follow
//!      0    4 "HBK1"
//!      4    1 status             0 here, 1 not here, 2 busy, 3 failed
//!      5    3 zero
//!      8    8 bytes that follow
//! ```

use thiserror::Error;

use crate::limits::{CATALOGUE_BYTES_MAX, PIECE_BYTES, SHARDS_MAX};

/// Bytes of an ask.
pub const ASK_BYTES: usize = 56;
/// Bytes of an answer's head.
pub const ANSWER_HEAD_BYTES: usize = 16;
/// Pieces that one ask may name.
pub const ASK_PIECES_MAX: u32 = 16;
/// Bytes of one answer.
pub const ANSWER_BYTES_MAX: u64 = CATALOGUE_BYTES_MAX as u64;

const MAGIC: [u8; 4] = *b"HBK1";

/// What a member asks another for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A catalogue, by its BLAKE3.
    Catalogue([u8; 32]),
    /// Pieces of a shard.
    Pieces {
        /// The catalogue that the shard is in.
        catalogue: [u8; 32],
        /// Its place there.
        shard: u32,
        /// The first piece.
        first: u32,
        /// One past the last; at most [`ASK_PIECES_MAX`] beyond the first.
        end: u32,
    },
}

/// How an ask is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The bytes follow.
    Here,
    /// They are not on this machine.
    NotHere,
    /// Too much is asked of this machine at the moment.
    Busy,
    /// They could not be read.
    Failed,
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerHead {
    /// How it is answered.
    pub status: Status,
    /// Bytes that follow; none unless they are here.
    pub bytes: u64,
}

/// Bytes that are no ask and no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{what} of a bulk transfer is not what it can be: both programs need the same version of Hearth"
)]
pub struct BulkError {
    /// The field.
    pub what: &'static str,
}

fn wrong<T>(what: &'static str) -> Result<T, BulkError> {
    Err(BulkError { what })
}

impl Ask {
    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; ASK_BYTES] {
        let (kind, catalogue, numbers) = match self {
            Self::Catalogue(catalogue) => (0, catalogue, [0; 3]),
            Self::Pieces {
                catalogue,
                shard,
                first,
                end,
            } => (1, catalogue, [*shard, *first, *end]),
        };
        let numbers = numbers.map(u32::to_le_bytes);
        let [a, b, c, d] = MAGIC;
        let parts: [&[u8]; 4] = [
            &[a, b, c, d, kind, 0, 0, 0],
            catalogue,
            numbers.as_flattened(),
            &[0; 4],
        ];
        let mut bytes = [0; ASK_BYTES];
        for (to, from) in bytes.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        bytes
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// Names the field that cannot be.
    pub fn decode(bytes: &[u8; ASK_BYTES]) -> Result<Self, BulkError> {
        let (head, rest) = bytes.split_at(8);
        let (catalogue, rest) = rest.split_at(32);
        let Ok(catalogue) = <[u8; 32]>::try_from(catalogue) else {
            return wrong("the catalogue");
        };
        let (numbers, _) = rest.as_chunks::<4>();
        let [shard, first, end, 0] = *numbers
            .iter()
            .copied()
            .map(u32::from_le_bytes)
            .collect::<Vec<_>>()
        else {
            return wrong("the end");
        };
        let kind = match head {
            [a, b, c, d, kind, 0, 0, 0] if [*a, *b, *c, *d] == MAGIC => *kind,
            _ => return wrong("the start"),
        };
        match kind {
            0 if shard == 0 && first == 0 && end == 0 => Ok(Self::Catalogue(catalogue)),
            1 if shard as usize >= SHARDS_MAX => wrong("the shard"),
            1 if first >= end || end - first > ASK_PIECES_MAX => wrong("the range of pieces"),
            1 => Ok(Self::Pieces {
                catalogue,
                shard,
                first,
                end,
            }),
            _ => wrong("the kind"),
        }
    }

    /// Most bytes that an answer may have.
    #[must_use]
    pub fn answer_bytes_max(&self) -> u64 {
        match self {
            Self::Catalogue(_) => ANSWER_BYTES_MAX,
            Self::Pieces { first, end, .. } => {
                u64::from(end.saturating_sub(*first)).saturating_mul(u64::from(PIECE_BYTES))
            }
        }
    }
}

impl AnswerHead {
    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; ANSWER_HEAD_BYTES] {
        let [a, b, c, d] = MAGIC;
        let status = match self.status {
            Status::Here => 0,
            Status::NotHere => 1,
            Status::Busy => 2,
            Status::Failed => 3,
        };
        let [e, f, g, h, i, j, k, l] = self.bytes.to_le_bytes();
        [a, b, c, d, status, 0, 0, 0, e, f, g, h, i, j, k, l]
    }

    /// Reads and checks the head of an answer to `ask`.
    ///
    /// # Errors
    /// Names the field that cannot be.
    pub fn decode(bytes: &[u8; ANSWER_HEAD_BYTES], ask: &Ask) -> Result<Self, BulkError> {
        let [a, b, c, d, status, 0, 0, 0, length @ ..] = *bytes else {
            return wrong("the start");
        };
        if [a, b, c, d] != MAGIC {
            return wrong("the start");
        }
        let status = match status {
            0 => Status::Here,
            1 => Status::NotHere,
            2 => Status::Busy,
            3 => Status::Failed,
            _ => return wrong("the status"),
        };
        let bytes = u64::from_le_bytes(length);
        if bytes > ask.answer_bytes_max() || (status != Status::Here && bytes > 0) {
            return wrong("the length");
        }
        Ok(Self { status, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: Ask = Ask::Pieces {
        catalogue: [7; 32],
        shard: 0x0102,
        first: 3,
        end: 5,
    };

    #[test]
    fn asks_are_fixed_bytes_and_read_back() {
        let mut expected = b"HBK1\x01\0\0\0".to_vec();
        expected.extend([7; 32]);
        expected.extend(b"\x02\x01\0\0\x03\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(PIECES.encode().as_slice(), expected);
        for ask in [PIECES, Ask::Catalogue([9; 32])] {
            assert_eq!(Ask::decode(&ask.encode()), Ok(ask));
        }
    }

    #[test]
    fn what_is_no_ask_is_refused() {
        let cases: [(usize, u8); 9] = [
            (0, b'X'),
            (4, 2),
            (4, 0),
            (5, 1),
            (42, 1),
            (44, 5),
            (44, 9),
            (49, 1),
            (52, 1),
        ];
        for (at, value) in cases {
            let mut bytes = PIECES.encode();
            bytes[at] = value;
            assert!(Ask::decode(&bytes).is_err(), "byte {at} as {value}");
        }
    }

    #[test]
    fn answers_are_fixed_bytes_and_bounded() {
        let head = AnswerHead {
            status: Status::Here,
            bytes: 2 * u64::from(PIECE_BYTES),
        };
        assert_eq!(&head.encode(), b"HBK1\0\0\0\0\0\0\x20\0\0\0\0\0");
        assert_eq!(AnswerHead::decode(&head.encode(), &PIECES), Ok(head));
        for status in [Status::NotHere, Status::Busy, Status::Failed] {
            let head = AnswerHead { status, bytes: 0 };
            assert_eq!(AnswerHead::decode(&head.encode(), &PIECES), Ok(head));
            let more = AnswerHead { status, bytes: 1 };
            assert!(AnswerHead::decode(&more.encode(), &PIECES).is_err());
        }
        let bytes = head.bytes + 1;
        let long = AnswerHead { bytes, ..head };
        assert!(AnswerHead::decode(&long.encode(), &PIECES).is_err());
        for (at, value) in [(0, b'X'), (4, 4), (7, 1)] {
            let mut bytes = head.encode();
            bytes[at] = value;
            assert!(AnswerHead::decode(&bytes, &PIECES).is_err(), "byte {at}");
        }
    }
}
