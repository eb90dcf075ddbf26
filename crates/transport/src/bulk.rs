//! Bulk transfers: pieces of shards from one member to another.
//!
//! Owns connections of their own beside those of the data plane, on the same socket: flow control and repair of a
//! transfer never touch the windows of a frame. What lies in the network at once is bounded by one small window for each
//! connection, so that a frame waits at most for that much. Must never look into a piece. Members only, few connections
//! each, few asks at a time; an answer is no longer than its ask allows.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::NodeId;
use proto::bulk::{ANSWER_HEAD_BYTES, ASK_BYTES, AnswerHead, Ask, Status};
use proto::control::Peer;
use quinn::{ReadExactError, RecvStream, SendStream, VarInt};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

use crate::endpoint::{Endpoint, Shared};
use crate::error::{CloseCode, DialError, describe};
use crate::tls::Plane;

/// Bytes that one connection may have under way: 4 ms of a gigabit link.
const WINDOW_BYTES: u32 = 512 << 10;
/// Asks of one connection at a time.
const ASKS_MAX: u32 = 4;
/// Connections of one member at a time.
const CONNECTIONS_MAX: usize = 2;
/// Asks that are answered at the same time.
const ANSWERS_MAX: usize = 8;
/// Time for one answer to be taken; a member that does not read keeps no more than its share for so long.
const ANSWER: Duration = Duration::from_secs(60);
/// A transfer is given up after this long without a byte.
const SILENCE: Duration = Duration::from_secs(10);

/// Somebody who has what is asked for.
pub trait Lender: Send + Sync + 'static {
    /// The bytes, or why not. May read files.
    ///
    /// # Errors
    /// The status that the asking member is told.
    fn lend(&self, ask: &Ask) -> Result<Vec<u8>, Status>;
}

/// What this machine lends, and the bounds on it.
pub(crate) struct Lending {
    lender: OnceLock<Arc<dyn Lender>>,
    /// Answers that may be read and sent at the same time.
    free: Arc<Semaphore>,
    open: Mutex<HashMap<NodeId, usize>>,
    /// Who may borrow beside the members of the control plane.
    borrowers: watch::Sender<HashSet<NodeId>>,
}

impl fmt::Debug for Lending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Lending")
            .field("open", &open.len())
            .finish_non_exhaustive()
    }
}

/// A member's place among the open connections; given back when it is dropped.
struct Place<'l> {
    lending: &'l Lending,
    node: NodeId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self
            .lending
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.node);
            }
        }
    }
}

impl Lending {
    pub(crate) fn new() -> Self {
        Self {
            lender: OnceLock::new(),
            free: Arc::new(Semaphore::new(ANSWERS_MAX)),
            open: Mutex::default(),
            borrowers: watch::Sender::default(),
        }
    }

    /// Whether a device may borrow here.
    pub(crate) fn admits(&self, shared: &Shared, node: &NodeId) -> bool {
        shared.members.contains(node) || self.borrowers.borrow().contains(node)
    }

    /// Waits until a device may not borrow here any more.
    async fn barred(&self, shared: &Shared, node: &NodeId) {
        if shared.members.contains(node) {
            return shared.members.expelled(node).await;
        }
        let mut borrowers = self.borrowers.subscribe();
        // The sender lives as long as the socket, so that the wait ends with the change alone.
        let _ = borrowers
            .wait_for(|borrowers| !borrowers.contains(node))
            .await;
    }

    fn enter(&self, node: &NodeId) -> Option<Place<'_>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(node.clone()).or_default();
        if *count >= CONNECTIONS_MAX {
            return None;
        }
        *count += 1;
        Some(Place {
            lending: self,
            node: node.clone(),
        })
    }

    /// Serves one connection of a member until it goes or is put out.
    pub(crate) async fn serve(&self, shared: &Shared, connection: quinn::Connection, node: NodeId) {
        let Some(_place) = self.enter(&node) else {
            return CloseCode::Busy.close(&connection, "too many transfers of one device");
        };
        connection.set_send_window(WINDOW_BYTES.into());
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(ASKS_MAX));
        tokio::select! {
            () = self.read(shared, &connection) => {}
            () = self.barred(shared, &node) => {
                CloseCode::Removed.close(&connection, "this device may not borrow here any more");
            }
        }
    }

    async fn read(&self, shared: &Shared, connection: &quinn::Connection) {
        while let Ok((reply, mut stream)) = connection.accept_bi().await {
            let mut bytes = [0; ASK_BYTES];
            let wait = shared.dialler.timing.dial;
            let ask = match tokio::time::timeout(wait, stream.read_exact(&mut bytes)).await {
                Ok(Ok(())) => Ask::decode(&bytes),
                Ok(Err(_)) => continue,
                Err(_) => {
                    return CloseCode::TooSlow.close(connection, "an ask did not come in time");
                }
            };
            let ask = match ask {
                Ok(ask) => ask,
                Err(error) => return CloseCode::Malformed.close(connection, &error.to_string()),
            };
            // While as many as may be are being answered, the next one waits unread.
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
                return;
            };
            let (lender, stop) = (self.lender.get().cloned(), shared.stop.clone());
            shared.tasks.spawn(async move {
                let _permit = permit;
                stop.run_until_cancelled(answer(lender, ask, reply)).await;
            });
        }
    }
}

/// Reads what is asked for off the async threads, and sends it.
async fn answer(lender: Option<Arc<dyn Lender>>, ask: Ask, mut reply: SendStream) {
    let lent = match lender {
        Some(lender) => tokio::task::spawn_blocking(move || lender.lend(&ask)).await,
        None => Ok(Err(Status::NotHere)),
    };
    let (status, bytes) = match lent.unwrap_or(Err(Status::Failed)) {
        Ok(bytes) => (Status::Here, bytes),
        Err(status) => (status, Vec::new()),
    };
    let head = AnswerHead {
        status,
        bytes: bytes.len() as u64,
    };
    let sending = async {
        reply.write_all(&head.encode()).await?;
        reply.write_chunk(Bytes::from(bytes)).await
    };
    match tokio::time::timeout(ANSWER, sending).await {
        // Stopped by the other side: it has what it wanted.
        Ok(Ok(())) => drop(reply.finish()),
        Ok(Err(error)) => tracing::debug!(%error, "a bulk answer was not taken"),
        Err(_) => drop(reply.reset(VarInt::from_u32(CloseCode::TooSlow as u32))),
    }
}

/// Why a transfer broke off.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BulkTransferError {
    /// The other side has not what was asked for.
    #[error("it is not there")]
    NotHere,
    /// The other side could not read it.
    #[error("the other side cannot read it")]
    Failed,
    /// Too much is asked of the other side.
    #[error("the other side is busy")]
    Busy,
    /// The connection is over, or no byte came for too long.
    #[error("{0}")]
    Lost(String),
}

/// A connection for asking; dropping it ends it.
#[derive(Debug)]
pub struct BulkLink {
    connection: quinn::Connection,
}

impl Drop for BulkLink {
    fn drop(&mut self) {
        CloseCode::Done.close(&self.connection, "");
    }
}

/// An answer under way.
#[derive(Debug)]
pub struct BulkAnswer {
    stream: RecvStream,
    left: u64,
}

impl Endpoint {
    /// Lends to members from now on. Only the first lender counts.
    pub fn lend(&self, lender: Arc<dyn Lender>) {
        // A second lender would be a fault of ours; the first goes on.
        let _ = self.0.lending.lender.set(lender);
    }

    /// Lets exactly these borrow, beside the members of the control plane; transfers to others end.
    pub fn lend_to(&self, nodes: Vec<NodeId>) {
        self.0
            .lending
            .borrowers
            .send_replace(nodes.into_iter().collect());
    }

    /// Connects to a member for bulk transfers.
    ///
    /// # Errors
    /// When it cannot be reached or has another key.
    pub async fn bulk(&self, peer: &Peer) -> Result<BulkLink, DialError> {
        let connection = self.0.dialler.dial(peer, Plane::Bulk).await?;
        connection.set_receive_window(VarInt::from_u32(WINDOW_BYTES));
        Ok(BulkLink { connection })
    }
}

impl BulkLink {
    /// Asks, and waits for the answer's head.
    ///
    /// # Errors
    /// When the other side says no, or is gone.
    pub async fn ask(&self, ask: &Ask) -> Result<BulkAnswer, BulkTransferError> {
        let opening = async {
            let opened = self.connection.open_bi().await;
            let (mut send, mut stream) = opened.map_err(|e| lost(describe(&e)))?;
            send.write_all(&ask.encode())
                .await
                .map_err(|e| lost(e.to_string()))?;
            // The ask is complete without an end as well.
            let _ = send.finish();
            let mut head = [0; ANSWER_HEAD_BYTES];
            stream
                .read_exact(&mut head)
                .await
                .map_err(|e| self.torn(&e))?;
            let head = AnswerHead::decode(&head, ask).map_err(|e| lost(e.to_string()))?;
            Ok((head, stream))
        };
        let opened = tokio::time::timeout(SILENCE, opening).await;
        let (head, stream) = opened.map_err(|_| silent())??;
        match head.status {
            Status::Here => Ok(BulkAnswer {
                stream,
                left: head.bytes,
            }),
            Status::NotHere => Err(BulkTransferError::NotHere),
            Status::Busy => Err(BulkTransferError::Busy),
            Status::Failed => Err(BulkTransferError::Failed),
        }
    }

    fn torn(&self, error: &ReadExactError) -> BulkTransferError {
        match self.connection.close_reason() {
            Some(reason) => lost(describe(&reason)),
            None => lost(error.to_string()),
        }
    }
}

impl BulkAnswer {
    /// Bytes that have not been read yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next `bytes` bytes, or those that are left.
    ///
    /// # Errors
    /// When the connection ends before they came, or none comes for ten seconds.
    pub async fn take(&mut self, bytes: u64) -> Result<Vec<u8>, BulkTransferError> {
        let wanted = usize::try_from(bytes.min(self.left)).unwrap_or(usize::MAX);
        let mut taken = Vec::with_capacity(wanted.min(WINDOW_BYTES as usize));
        while taken.len() < wanted {
            let chunk = self.stream.read_chunk(wanted - taken.len(), true);
            let chunk = tokio::time::timeout(SILENCE, chunk)
                .await
                .map_err(|_| silent())?;
            let chunk = chunk.map_err(|e| lost(e.to_string()))?;
            let chunk = chunk.ok_or_else(|| lost("the answer was cut off"))?;
            taken.extend_from_slice(&chunk.bytes);
        }
        self.left -= taken.len() as u64;
        Ok(taken)
    }
}

fn lost(text: impl Into<String>) -> BulkTransferError {
    BulkTransferError::Lost(text.into())
}

fn silent() -> BulkTransferError {
    lost(format!("no byte came for {} s", SILENCE.as_secs()))
}
