//! A connection that both sides have agreed on: two tasks a class move frames until one of them ends.

use std::sync::Arc;

use bytes::Bytes;
use proto::NodeId;
use proto::frame::StreamClass;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::MeshEvent;
use super::streams::{self, FrameReader, STREAMS, StreamError};
use crate::endpoint::Shared;
use crate::error::{CloseCode, describe};

/// Frames that wait to be sent: a token's frame has 8 KiB, a prompt chunk's some MiB.
const DECODE_QUEUE: usize = 64;
/// As many as a few steps ask of one owner.
const EXPERT_QUEUE: usize = 64;
const PREFILL_QUEUE: usize = 4;

/// The entrances of a link.
#[derive(Debug)]
pub(super) struct Queues {
    decode: mpsc::Sender<Bytes>,
    expert: mpsc::Sender<Bytes>,
    prefill: mpsc::Sender<Bytes>,
}

impl Queues {
    pub(super) fn of(&self, class: StreamClass) -> &mpsc::Sender<Bytes> {
        match class {
            StreamClass::Decode => &self.decode,
            StreamClass::Expert => &self.expert,
            StreamClass::Prefill => &self.prefill,
        }
    }
}

/// The other ends of [`Queues`], in the order of the classes.
pub(super) type Exits = [mpsc::Receiver<Bytes>; STREAMS];

pub(super) fn queues() -> (Queues, Exits) {
    let (decode, decode_frames) = mpsc::channel(DECODE_QUEUE);
    let (expert, expert_frames) = mpsc::channel(EXPERT_QUEUE);
    let (prefill, prefill_frames) = mpsc::channel(PREFILL_QUEUE);
    let queues = Queues {
        decode,
        expert,
        prefill,
    };
    (queues, [decode_frames, expert_frames, prefill_frames])
}

/// Streams of an agreed connection.
#[derive(Debug)]
pub(super) struct Agreed {
    pub connection: quinn::Connection,
    /// The peer's program; changes when it restarts.
    pub instance: u64,
    pub send: [SendStream; STREAMS],
    pub recv: [RecvStream; STREAMS],
}

impl Agreed {
    /// The dialling side: shows its streams and waits for those of the other, which are its consent.
    pub(super) async fn dialled(
        connection: quinn::Connection,
        own_instance: u64,
    ) -> Result<Self, StreamError> {
        let send = streams::open(&connection, own_instance).await?;
        let (recv, instance) = streams::take(&connection).await?;
        Ok(Self {
            connection,
            instance,
            send,
            recv,
        })
    }
}

/// A running link.
#[derive(Debug)]
pub(super) struct Link {
    pub connection: quinn::Connection,
    pub instance: u64,
    tasks: JoinSet<StreamError>,
}

impl Link {
    /// Starts to move frames.
    pub(super) fn start(
        agreed: Agreed,
        exits: Exits,
        node: &NodeId,
        events: &mpsc::Sender<MeshEvent>,
        shared: &Arc<Shared>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for (stream, frames) in agreed.send.into_iter().zip(exits) {
            tasks.spawn(write(stream, frames));
        }
        for stream in agreed.recv {
            let out = (node.clone(), events.clone());
            tasks.spawn(read(stream, out, Arc::clone(shared)));
        }
        Self {
            connection: agreed.connection,
            instance: agreed.instance,
            tasks,
        }
    }

    /// Waits until the link ends by itself, and says why. Cancel-safe.
    pub(super) async fn ended(&mut self) -> String {
        let reason = match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => {
                tracing::error!(%error, "a task of the mesh failed");
                StreamError::Ended
            }
            None => StreamError::Ended,
        };
        let text = match self.connection.close_reason() {
            Some(error) => describe(&error),
            None => reason.to_string(),
        };
        if reason.is_malformed() {
            tracing::warn!(remote = %self.connection.remote_address(), reason = text, "a malformed frame came");
            // The peer reads the reason in its own log.
            CloseCode::Malformed.close(&self.connection, &text);
        }
        text
    }

    /// Stops all tasks and closes the connection.
    pub(super) async fn close(mut self, code: CloseCode, reason: &str) {
        code.close(&self.connection, reason);
        self.tasks.shutdown().await;
    }
}

async fn write(mut stream: SendStream, mut frames: mpsc::Receiver<Bytes>) -> StreamError {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = stream.write_chunk(frame).await {
            return error.into();
        }
    }
    StreamError::Ended
}

async fn read(
    stream: RecvStream,
    (from, events): (NodeId, mpsc::Sender<MeshEvent>),
    shared: Arc<Shared>,
) -> StreamError {
    let mut reader = FrameReader::new(stream);
    loop {
        let frame = match reader.next().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        shared.probes.give_way();
        let event = MeshEvent::Frame {
            from: from.clone(),
            frame,
        };
        if events.send(event).await.is_err() {
            return StreamError::Ended;
        }
    }
}
