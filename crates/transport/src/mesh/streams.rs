//! Bytes of the data plane: what a stream starts with, and one frame after the other.
//!
//! ```text
//! offset size field of a stream's first bytes
//!      0    4 "HTN1"
//!      4    1 class              0 decode, 1 prefill, 2 expert
//!      5    3 zero
//!      8    8 instance           of the program, drawn at its start
//! ```

use proto::frame::{Frame, FrameError, FrameHeader, HEADER_BYTES, StreamClass};
use quinn::{ReadExactError, RecvStream, SendStream};
use thiserror::Error;

use crate::error::describe;

pub(super) const PREFACE_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"HTN1";
/// Memory that is set aside before the first byte of a payload is there.
const FIRST_RESERVE_BYTES: usize = 1 << 20;
/// Memory that a stream keeps for its next frame.
const KEPT_BYTES: usize = 16 << 20;

/// How many streams a link has in each direction.
pub(super) const STREAMS: usize = CLASSES.len();

/// The classes in the order of their priority.
pub(super) const CLASSES: [StreamClass; 3] = [
    StreamClass::Decode,
    StreamClass::Expert,
    StreamClass::Prefill,
];

/// Bulk transfers will lie below all.
pub(super) fn priority(class: StreamClass) -> i32 {
    match class {
        StreamClass::Decode => 30,
        StreamClass::Expert => 20,
        StreamClass::Prefill => 10,
    }
}

/// How the preface names a class.
fn code(class: StreamClass) -> u8 {
    match class {
        StreamClass::Decode => 0,
        StreamClass::Prefill => 1,
        StreamClass::Expert => 2,
    }
}

#[derive(Debug, Error)]
pub(super) enum StreamError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error(
        "a stream starts with other bytes than expected: both programs need the same version of Hearth"
    )]
    Preface,
    #[error("a stream ended inside a frame")]
    Torn,
    #[error("a stream was ended by the other side")]
    Ended,
    #[error("{}", describe(.0))]
    Connection(quinn::ConnectionError),
}

impl StreamError {
    /// Whether the peer has sent what it must not, rather than being gone.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Preface | Self::Torn)
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Ended,
        }
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Ended,
        }
    }
}

fn preface(class: StreamClass, instance: u64) -> [u8; PREFACE_BYTES] {
    let mut bytes = [0; PREFACE_BYTES];
    let (head, tail) = bytes.split_at_mut(8);
    let [a, b, c, d] = MAGIC;
    head.copy_from_slice(&[a, b, c, d, code(class), 0, 0, 0]);
    tail.copy_from_slice(&instance.to_le_bytes());
    bytes
}

fn parse_preface(bytes: [u8; PREFACE_BYTES]) -> Result<(StreamClass, u64), StreamError> {
    let [a, b, c, d, class, 0, 0, 0, instance @ ..] = bytes else {
        return Err(StreamError::Preface);
    };
    let known = CLASSES.into_iter().find(|known| code(*known) == class);
    let class = known.ok_or(StreamError::Preface)?;
    if [a, b, c, d] != MAGIC {
        return Err(StreamError::Preface);
    }
    Ok((class, u64::from_le_bytes(instance)))
}

/// Opens the streams of our direction.
pub(super) async fn open(
    connection: &quinn::Connection,
    instance: u64,
) -> Result<[SendStream; STREAMS], StreamError> {
    let one = |class| async move {
        let opened = connection.open_uni().await;
        let mut stream = opened.map_err(StreamError::Connection)?;
        // A stream that was just opened takes a priority.
        let _ = stream.set_priority(priority(class));
        stream.write_all(&preface(class, instance)).await?;
        Ok::<_, StreamError>(stream)
    };
    let [decode, expert, prefill] = CLASSES;
    Ok([one(decode).await?, one(expert).await?, one(prefill).await?])
}

/// Takes the streams of the other direction, in the order of [`CLASSES`], and the peer's instance.
pub(super) async fn take(
    connection: &quinn::Connection,
) -> Result<([RecvStream; STREAMS], u64), StreamError> {
    let mut taken = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        taken.push(take_one(connection).await?);
    }
    taken.sort_by_key(|(_, class, _)| *class);
    let instance = taken.first().map_or(0, |(.., instance)| *instance);
    let classes = taken.iter().map(|(_, class, other)| (*class, *other));
    if !classes.eq(CLASSES.map(|class| (class, instance))) {
        return Err(StreamError::Preface);
    }
    let streams: Vec<_> = taken.into_iter().map(|(stream, ..)| stream).collect();
    let streams = streams.try_into().map_err(|_| StreamError::Preface)?;
    Ok((streams, instance))
}

async fn take_one(
    connection: &quinn::Connection,
) -> Result<(RecvStream, StreamClass, u64), StreamError> {
    let accepted = connection.accept_uni().await;
    let mut stream = accepted.map_err(StreamError::Connection)?;
    let mut bytes = [0; PREFACE_BYTES];
    match stream.read_exact(&mut bytes).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(_)) => return Err(StreamError::Preface),
        Err(ReadExactError::ReadError(error)) => return Err(error.into()),
    }
    let (class, instance) = parse_preface(bytes)?;
    Ok((stream, class, instance))
}

/// Reads frames from one stream, keeping its buffer.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: RecvStream,
    payload: Vec<u8>,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            payload: Vec::new(),
        }
    }

    /// The next frame. Not cancel-safe: a reader that is stopped takes its connection with it.
    pub(super) async fn next(&mut self) -> Result<Frame, StreamError> {
        let mut header = [0; HEADER_BYTES];
        match self.stream.read_exact(&mut header).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Err(StreamError::Ended),
            Err(ReadExactError::FinishedEarly(_)) => return Err(StreamError::Torn),
            Err(ReadExactError::ReadError(error)) => return Err(error.into()),
        }
        let header = FrameHeader::parse(&header)?;
        self.fill(header.payload_bytes()).await?;
        let frame = Frame::decode(&header, &self.payload)?;
        if self.payload.capacity() > KEPT_BYTES {
            self.payload = Vec::new();
        }
        Ok(frame)
    }

    /// Reads `bytes` bytes, reserving memory as they arrive: a header's promise alone costs little.
    async fn fill(&mut self, bytes: usize) -> Result<(), StreamError> {
        self.payload.clear();
        self.payload.reserve(bytes.min(FIRST_RESERVE_BYTES));
        while self.payload.len() < bytes {
            let missing = bytes - self.payload.len();
            let chunk = self.stream.read_chunk(missing, true).await?;
            let chunk = chunk.ok_or(StreamError::Torn)?;
            self.payload.extend_from_slice(&chunk.bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefaces_are_fixed_bytes_and_anything_else_is_refused() {
        let bytes = preface(StreamClass::Prefill, 0x0807_0605_0403_0201);
        assert_eq!(&bytes, b"HTN1\x01\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08");
        for class in CLASSES {
            let parsed = parse_preface(preface(class, 77)).unwrap();
            assert_eq!(parsed, (class, 77));
        }
        assert_eq!(preface(StreamClass::Expert, 0)[4], 2);
        for at in 0..8 {
            let mut broken = bytes;
            broken[at] ^= 0x40;
            assert!(parse_preface(broken).is_err(), "byte {at}");
        }
    }

    #[test]
    fn decode_goes_first_and_prefill_last() {
        let [decode, expert, prefill] = CLASSES.map(priority);
        assert!(decode > expert && expert > prefill);
    }
}
