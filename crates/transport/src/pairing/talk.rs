//! Messages of pairing on their stream: each with its length before it, and never more than 4 KiB in one direction.

use proto::control::ControlMessageError;
use proto::limits;
use thiserror::Error;

/// One end of the stream.
#[derive(Debug)]
pub(super) struct Talk {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    /// Bytes that the other side may still send.
    left_bytes: usize,
}

/// The other side said nothing that can be used.
#[derive(Debug, Error)]
pub(super) enum TalkError {
    /// It promised more than it may send.
    #[error(
        "pairing messages have at most {} bytes together",
        limits::PAIRING_BYTES_MAX
    )]
    TooLong,
    /// It said something else.
    #[error("{0}")]
    Malformed(#[from] ControlMessageError),
    /// A message that does not belong here.
    #[error("a message came that does not follow the one before")]
    OutOfTurn,
    /// It is gone.
    #[error("{0}")]
    Gone(String),
}

impl Talk {
    pub(super) fn new((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self {
            send,
            recv,
            left_bytes: limits::PAIRING_BYTES_MAX,
        }
    }

    /// Sends one message.
    pub(super) async fn say(&mut self, message: &[u8]) -> Result<(), TalkError> {
        let length = u16::try_from(message.len()).map_err(|_| TalkError::TooLong)?;
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(message);
        let sent = self.send.write_all(&bytes).await;
        sent.map_err(|error| TalkError::Gone(error.to_string()))
    }

    /// Receives one message and reads it.
    pub(super) async fn hear<M>(
        &mut self,
        read: fn(&[u8]) -> Result<M, ControlMessageError>,
    ) -> Result<M, TalkError> {
        let gone = |error: quinn::ReadExactError| TalkError::Gone(error.to_string());
        let mut length = [0; 2];
        self.recv.read_exact(&mut length).await.map_err(gone)?;
        let bytes = usize::from(u16::from_le_bytes(length));
        let left = self
            .left_bytes
            .checked_sub(bytes.saturating_add(length.len()));
        self.left_bytes = left.ok_or(TalkError::TooLong)?;
        let mut message = vec![0; bytes];
        self.recv.read_exact(&mut message).await.map_err(gone)?;
        Ok(read(&message)?)
    }

    /// Says that nothing more comes.
    pub(super) fn finish(&mut self) {
        // A stream that is finished already cannot be: each side finishes once.
        let _ = self.send.finish();
    }
}
