//! The wire form of a stream: what a dialect writes, framed.
//!
//! Server-sent events with or without names, or JSON lines. Knows nothing of answers.

use axum::http::HeaderValue;
use bytes::Bytes;
use serde::Serialize;

/// How the frames of a stream follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Server-sent events.
    Events,
    /// One JSON value a line.
    Lines,
}

impl Wire {
    /// The type of the body.
    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        })
    }
}

/// Frames that leave together.
#[derive(Debug)]
pub(super) struct Frames {
    wire: Wire,
    bytes: Vec<u8>,
}

/// Whether a frame could be written. Our own types always can be.
pub(super) type Written = serde_json::Result<()>;

impl Frames {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            bytes: Vec::new(),
        }
    }

    /// One value: an event without a name, or a line.
    pub(super) fn value(&mut self, body: &impl Serialize) -> Written {
        match self.wire {
            Wire::Events => self.framed(b"data: ", body, b"\n\n"),
            Wire::Lines => self.framed(b"", body, b"\n"),
        }
    }

    /// An event with a name. On a wire without names the name is left out.
    pub(super) fn event(&mut self, name: &'static str, body: &impl Serialize) -> Written {
        if self.wire == Wire::Events {
            self.bytes.extend_from_slice(b"event: ");
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.push(b'\n');
        }
        self.value(body)
    }

    /// A frame of fixed bytes, for the few that are no JSON.
    pub(super) fn fixed(&mut self, frame: &'static str) {
        self.bytes.extend_from_slice(frame.as_bytes());
    }

    /// A remark that clients pass over. A wire without remarks leaves it out.
    pub(super) fn comment(&mut self, text: std::fmt::Arguments<'_>) {
        if self.wire == Wire::Events {
            let comment = format!(": {text}\n\n");
            self.bytes.extend_from_slice(comment.as_bytes());
        }
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }

    fn framed(&mut self, before: &[u8], body: &impl Serialize, after: &[u8]) -> Written {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(before);
        let written = serde_json::to_writer(&mut self.bytes, body);
        match written {
            Ok(()) => self.bytes.extend_from_slice(after),
            // Half a frame would spoil the next one.
            Err(_) => self.bytes.truncate(start),
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn frames_have_the_form_of_their_wire() {
        for (wire, expected) in [
            (
                Wire::Events,
                "data: {\"a\":1}\n\nevent: b\ndata: \"x\\ny\"\n\n: c\n\n: d 1\n\n",
            ),
            (Wire::Lines, "{\"a\":1}\n\"x\\ny\"\n: c\n\n"),
        ] {
            let mut frames = Frames::new(wire);
            frames.value(&json!({ "a": 1 })).unwrap();
            frames.event("b", &"x\ny").unwrap();
            frames.fixed(": c\n\n");
            frames.comment(format_args!("d {}", 1));
            assert_eq!(frames.into_bytes(), expected);
        }
    }
}
