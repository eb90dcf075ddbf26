//! Control connections: one reader each, one stream of news for all.
//!
//! Owns the senders and the readers' tasks. A reader ends with its connection, when its end here is dropped, or a
//! moment after it was told to part. Must never interpret a message.

use std::collections::HashMap;
use std::time::Duration;

use proto::NodeId;
use proto::control::{CoordinatorMessage, NodeMessage};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use transport::{ControlError, ControlReceiver, ControlSender};

use super::state::LinkId;

/// Messages of all machines that wait for the actor; beyond that, their connections wait.
const NEWS_MAX: usize = 256;
/// Time that a machine has to close after its last message.
const PARTING: Duration = Duration::from_secs(1);

/// What a connection brought. An error is its last word.
#[derive(Debug)]
pub(super) struct News {
    pub link: LinkId,
    pub said: Result<NodeMessage, ControlError>,
}

#[derive(Debug)]
struct Link {
    node: NodeId,
    /// Gone once the connection was told to part.
    open: Option<(ControlSender<CoordinatorMessage>, oneshot::Sender<()>)>,
    reader: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// All control connections.
#[derive(Debug)]
pub(super) struct Links {
    links: HashMap<LinkId, Link>,
    last: LinkId,
    news: mpsc::Sender<News>,
}

impl Links {
    pub fn new() -> (Self, mpsc::Receiver<News>) {
        let (news, receiver) = mpsc::channel(NEWS_MAX);
        let links = Self {
            links: HashMap::new(),
            last: LinkId(0),
            news,
        };
        (links, receiver)
    }

    /// Reads a new connection from now on.
    pub fn add(
        &mut self,
        node: NodeId,
        sender: ControlSender<CoordinatorMessage>,
        receiver: ControlReceiver<NodeMessage>,
    ) -> LinkId {
        self.last = LinkId(self.last.0.wrapping_add(1));
        let (part, parted) = oneshot::channel();
        let reader = tokio::spawn(read(self.last, receiver, self.news.clone(), parted));
        self.links.insert(
            self.last,
            Link {
                node,
                open: Some((sender, part)),
                reader,
            },
        );
        self.last
    }

    /// Queues a message.
    ///
    /// # Errors
    /// When the connection cannot take it.
    pub fn send(&self, link: LinkId, message: CoordinatorMessage) -> Result<(), ControlError> {
        match self.links.get(&link).and_then(|link| link.open.as_ref()) {
            Some((sender, _)) => sender.try_send(message),
            // Its end is on its way as news, or it was told to part.
            None => Ok(()),
        }
    }

    /// Lets a connection end once what was sent has arrived, within a second.
    pub fn part(&mut self, link: LinkId) {
        if let Some((_, part)) = self.links.get_mut(&link).and_then(|link| link.open.take()) {
            // A reader that has ended needs no word.
            let _ended = part.send(());
        }
    }

    /// Whose connection it is.
    pub fn node(&self, link: LinkId) -> Option<&NodeId> {
        self.links.get(&link).map(|link| &link.node)
    }

    /// Forgets a connection that is over, and tells whose it was.
    pub fn over(&mut self, link: LinkId) -> Option<NodeId> {
        self.links.remove(&link).map(|link| link.node.clone())
    }

    /// Whether a connection of this machine is still there, parting or not.
    pub fn has(&self, node: &NodeId) -> bool {
        self.links.values().any(|link| link.node == *node)
    }
}

async fn read(
    link: LinkId,
    mut receiver: ControlReceiver<NodeMessage>,
    news: mpsc::Sender<News>,
    mut parted: oneshot::Receiver<()>,
) {
    loop {
        let said = tokio::select! {
            said = receiver.recv() => said,
            _ = &mut parted => break,
        };
        let over = said.is_err();
        // Without an actor there is nobody to read for.
        if news.send(News { link, said }).await.is_err() || over {
            return;
        }
    }
    let closing = async { while receiver.recv().await.is_ok() {} };
    // A machine that does not close in time is closed by dropping its receiver.
    let _late = tokio::time::timeout(PARTING, closing).await;
    drop(receiver);
    let text = "it was told to part".to_owned();
    let _gone = news
        .send(News {
            link,
            said: Err(ControlError::Closed { text }),
        })
        .await;
}
