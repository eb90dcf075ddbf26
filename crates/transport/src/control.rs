//! The control plane: gRPC over one bidirectional stream of a QUIC connection.
//!
//! Owns the connector between the two and the checked ends that the daemons hold. Must never interpret a
//! message beyond its checks. The one idea: an end is a sender and a receiver of plain types; the connection
//! lives until the receiver is dropped, the key is expelled, or the other side is gone.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use proto::control::{ControlMessageError, CoordinatorMessage, Hello, NodeMessage, Peer, wire};
use proto::{NodeId, limits};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server, Uri};
use tonic::{Request, Response, Status, Streaming};

use crate::endpoint::{Endpoint, Shared, remote_of};
use crate::error::{CloseCode, ControlError, describe};
use crate::tls::Plane;
use crate::tuning;

mod wire_stream;
use wire_stream::WireStream;

/// The generated service and its client.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated from control.proto, where the service is described"
)]
mod service {
    include!(concat!(env!("OUT_DIR"), "/hearth.control.v1.rs"));
}

/// Messages that wait to be sent.
const SEND_QUEUE: usize = 64;
/// Time that a dropped end has left to deliver what it had queued.
const PARTING: Duration = Duration::from_secs(1);
/// Time for a node to say who it is once it is connected.
const HELLO: Duration = Duration::from_secs(5);

type Checked<M> = Pin<Box<dyn Stream<Item = Result<M, ControlError>> + Send>>;
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends messages of one direction; clones share the queue.
#[derive(Debug)]
pub struct ControlSender<M>(mpsc::Sender<M>);

impl<M> Clone for ControlSender<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> ControlSender<M> {
    /// Queues a message; waits while the queue is full.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn send(&self, message: M) -> Result<(), ControlError> {
        self.0.send(message).await.map_err(|_| ended())
    }

    /// Queues a message if there is room.
    ///
    /// # Errors
    /// When the queue is full or the connection is over.
    pub fn try_send(&self, message: M) -> Result<(), ControlError> {
        self.0.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ControlError::Full,
            mpsc::error::TrySendError::Closed(_) => ended(),
        })
    }
}

fn ended() -> ControlError {
    ControlError::Closed {
        text: "it has ended".into(),
    }
}

/// Receives checked messages of one direction. Dropping it ends the connection, after what was queued to be
/// sent has been delivered (one second at most).
pub struct ControlReceiver<M: 'static> {
    messages: Option<Checked<M>>,
    lifeline: Lifeline,
}

impl<M> fmt::Debug for ControlReceiver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlReceiver")
            .field("remote", &self.lifeline.connection.remote_address())
            .finish_non_exhaustive()
    }
}

impl<M: 'static> ControlReceiver<M> {
    fn new<W>(messages: Streaming<W>, lifeline: Lifeline) -> Self
    where
        W: Send + 'static,
        M: TryFrom<W, Error = ControlMessageError>,
    {
        let messages = messages.map(|item| match item {
            Ok(message) => M::try_from(message).map_err(ControlError::BadMessage),
            Err(status) => Err(ControlError::Closed {
                text: status.message().to_owned(),
            }),
        });
        Self {
            messages: Some(Box::pin(messages)),
            lifeline,
        }
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is over, and why; it stays over.
    pub async fn recv(&mut self) -> Result<M, ControlError> {
        let Some(messages) = self.messages.as_mut() else {
            return Err(ended());
        };
        let error = match messages.next().await {
            Some(Ok(message)) => return Ok(message),
            Some(Err(ControlError::BadMessage(error))) => {
                CloseCode::Malformed.close(&self.lifeline.connection, &error.to_string());
                ControlError::BadMessage(error)
            }
            Some(Err(error)) => self.lifeline.reason(error),
            None => self.lifeline.reason(ControlError::Closed {
                text: "the other side has ended it".into(),
            }),
        };
        self.part();
        Err(error)
    }

    /// Leaves the rest of the stream to the task that watches the connection, so that the other direction
    /// can still deliver.
    fn part(&mut self) {
        if let Some(mut messages) = self.messages.take() {
            let rest: Rest =
                Box::pin(async move { while let Some(Ok(_)) = messages.next().await {} });
            // When the watching task is gone, so is the connection.
            let _ = self.lifeline.parting.try_send(rest);
        }
    }
}

impl<M> Drop for ControlReceiver<M> {
    fn drop(&mut self) {
        self.part();
    }
}

/// Ties an end to its connection and to the task that watches it.
#[derive(Clone)]
pub(crate) struct Lifeline {
    node: NodeId,
    connection: quinn::Connection,
    parting: mpsc::Sender<Rest>,
}

impl Lifeline {
    fn new(node: NodeId, connection: quinn::Connection) -> (Self, mpsc::Receiver<Rest>) {
        let (parting, parted) = mpsc::channel(1);
        let lifeline = Self {
            node,
            connection,
            parting,
        };
        (lifeline, parted)
    }

    /// Why the connection ended tells more than how the stream did.
    fn reason(&self, otherwise: ControlError) -> ControlError {
        match self.connection.close_reason() {
            Some(error) if CloseCode::NotMember.is(&error) || CloseCode::Removed.is(&error) => {
                ControlError::NotMember {
                    text: describe(&error),
                }
            }
            Some(error) => ControlError::Closed {
                text: describe(&error),
            },
            None => otherwise,
        }
    }
}

/// Ends a connection when its end here is dropped, or when its key is expelled.
async fn watch(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    mut parted: mpsc::Receiver<Rest>,
) {
    tokio::select! {
        () = shared.stop.cancelled() => return CloseCode::shutdown(&connection),
        _ = connection.closed() => return,
        rest = parted.recv() => {
            if let Some(rest) = rest {
                let delivered = tokio::time::timeout(PARTING, rest);
                tokio::select! {
                    _ = delivered => {}
                    _ = connection.closed() => return,
                }
            }
        }
    }
    CloseCode::Done.close(&connection, "");
}

// ------------------------------------------------------------------ the node's side

/// A node's end.
#[derive(Debug)]
pub struct ControlLink {
    /// The coordinator's address that answered.
    pub remote: SocketAddr,
    /// To the coordinator.
    pub sender: ControlSender<NodeMessage>,
    /// From the coordinator.
    pub receiver: ControlReceiver<CoordinatorMessage>,
}

impl Endpoint {
    /// Opens the control plane to the coordinator and says hello.
    ///
    /// # Errors
    /// When it cannot be reached, has another key, or does not know this machine.
    pub async fn attach(
        &self,
        coordinator: &Peer,
        hello: Hello,
    ) -> Result<ControlLink, ControlError> {
        let shared = &self.0;
        let connection = shared.dialler.dial(coordinator, Plane::Control).await?;
        connection.set_receive_window(tuning::CONTROL_WINDOW);
        let (lifeline, parted) = Lifeline::new(coordinator.node.clone(), connection.clone());
        let opening = open(&lifeline, hello);
        let opened = tokio::time::timeout(shared.dialler.timing.dial, opening).await;
        let (sender, incoming) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(text)) => {
                let error = lifeline.reason(ControlError::Closed { text });
                CloseCode::Done.close(&connection, "");
                return Err(error);
            }
            Err(_) => {
                CloseCode::TooSlow.close(&connection, "the control plane did not open in time");
                let text = "the coordinator did not answer in time".into();
                return Err(ControlError::Closed { text });
            }
        };
        shared
            .tasks
            .spawn(watch(Arc::clone(shared), connection.clone(), parted));
        Ok(ControlLink {
            remote: remote_of(&connection),
            sender: ControlSender(sender),
            receiver: ControlReceiver::new(incoming, lifeline),
        })
    }
}

type Opened = (
    mpsc::Sender<NodeMessage>,
    Streaming<wire::CoordinatorMessage>,
);

async fn open(lifeline: &Lifeline, hello: Hello) -> Result<Opened, String> {
    let (send, recv) = lifeline
        .connection
        .open_bi()
        .await
        .map_err(|error| describe(&error))?;
    let stream = WireStream::new(send, recv, lifeline.clone());
    let mut once = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.take();
        async { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    let channel = Channel::from_static("http://hearth.invalid")
        .connect_with_connector(connector)
        .await
        .map_err(|error| error.to_string())?;
    let (sender, outgoing) = mpsc::channel(SEND_QUEUE);
    sender
        .try_send(NodeMessage::Hello(hello))
        .map_err(|error| error.to_string())?;
    let outgoing = ReceiverStream::new(outgoing).map(wire::NodeMessage::from);
    let incoming = service::control_client::ControlClient::new(channel)
        .max_decoding_message_size(limits::CONTROL_BYTES_MAX)
        .max_encoding_message_size(limits::CONTROL_BYTES_MAX)
        .attach(outgoing)
        .await
        .map_err(|status| status.message().to_owned())?;
    Ok((sender, incoming.into_inner()))
}

// ------------------------------------------------------------------ the coordinator's side

/// The coordinator's end of one node's connection. A node that comes back has a second one: the newer counts.
#[derive(Debug)]
pub struct ControlPeer {
    /// Whose key was proven.
    pub node: NodeId,
    /// Where the node's socket is, for control and data alike.
    pub remote: SocketAddr,
    /// What the node said first.
    pub hello: Hello,
    /// To the node.
    pub sender: ControlSender<CoordinatorMessage>,
    /// From the node.
    pub receiver: ControlReceiver<NodeMessage>,
}

/// Runs the gRPC service over the streams that it is handed.
#[derive(Debug)]
pub(crate) struct ControlServer {
    streams: mpsc::Sender<Result<WireStream, std::io::Error>>,
}

impl ControlServer {
    pub(crate) fn start(shared: &Arc<Shared>, peers: mpsc::Sender<ControlPeer>) -> Self {
        let (streams, incoming) = mpsc::channel(1);
        let service = service::control_server::ControlServer::new(Reception { peers })
            .max_decoding_message_size(limits::CONTROL_BYTES_MAX)
            .max_encoding_message_size(limits::CONTROL_BYTES_MAX);
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move {
            let served = Server::builder()
                .max_concurrent_streams(1)
                .add_service(service)
                .serve_with_incoming_shutdown(
                    ReceiverStream::new(incoming),
                    stop.cancelled_owned(),
                );
            if let Err(error) = served.await {
                tracing::warn!(%error, "the control service ended");
            }
        });
        Self { streams }
    }

    /// Serves one member until it goes, or is put out.
    pub(crate) async fn serve(
        &self,
        shared: &Arc<Shared>,
        connection: quinn::Connection,
        node: NodeId,
    ) {
        connection.set_receive_window(tuning::CONTROL_WINDOW);
        let waited = tokio::time::timeout(shared.dialler.timing.dial, connection.accept_bi());
        let (send, recv) = match waited.await {
            Ok(Ok(streams)) => streams,
            Ok(Err(_)) => return,
            Err(_) => return CloseCode::TooSlow.close(&connection, "no control stream was opened"),
        };
        let (lifeline, parted) = Lifeline::new(node.clone(), connection.clone());
        let stream = WireStream::new(send, recv, lifeline);
        if self.streams.send(Ok(stream)).await.is_err() {
            return CloseCode::shutdown(&connection);
        }
        tokio::select! {
            () = watch(Arc::clone(shared), connection.clone(), parted) => {}
            () = shared.members.expelled(&node) => {
                let reason = "this machine was removed from the household";
                CloseCode::Removed.close(&connection, reason);
            }
        }
    }
}

/// Takes the first message of each node and hands its connection to the daemon.
struct Reception {
    peers: mpsc::Sender<ControlPeer>,
}

#[tonic::async_trait]
impl service::control_server::Control for Reception {
    type AttachStream =
        Pin<Box<dyn Stream<Item = Result<wire::CoordinatorMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::NodeMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let lifeline = request
            .extensions()
            .get::<Lifeline>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection is not known"))?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let message = first.ok_or_else(|| Status::invalid_argument("no hello came"))?;
        let hello = match NodeMessage::try_from(message) {
            Ok(NodeMessage::Hello(hello)) => hello,
            Ok(_) => return Err(Status::invalid_argument("the first message is no hello")),
            Err(error) => return Err(Status::invalid_argument(error.to_string())),
        };
        let (sender, outgoing) = mpsc::channel(SEND_QUEUE);
        let peer = ControlPeer {
            node: lifeline.node.clone(),
            remote: remote_of(&lifeline.connection),
            hello,
            sender: ControlSender(sender),
            receiver: ControlReceiver::new(incoming, lifeline),
        };
        self.peers
            .try_send(peer)
            .map_err(|_| Status::unavailable("the coordinator is busy or ending"))?;
        let outgoing = ReceiverStream::new(outgoing).map(|message| Ok(message.into()));
        Ok(Response::new(Box::pin(outgoing)))
    }
}
