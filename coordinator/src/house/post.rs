//! Frames on their way to the first stage.
//!
//! Owns one task per class, so that a prompt that waits for the wire does not hold up tokens, and the actor waits for
//! neither. What cannot be sent is told with its epoch.

use proto::frame::{Frame, StreamClass};
use proto::{Epoch, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transport::Mesh;

/// Frames of one class that may wait. The session has far fewer steps under way, so a full queue is a stuck stage.
const WAITING_MAX: usize = 1024;

/// A frame that did not reach its stage.
#[derive(Debug)]
pub(super) struct Unsent {
    pub to: NodeId,
    pub epoch: Epoch,
    pub reason: String,
}

#[derive(Debug)]
struct Lane {
    letters: mpsc::Sender<(NodeId, Frame)>,
    task: JoinHandle<()>,
}

/// Sends in order within each class.
#[derive(Debug)]
pub(super) struct Post {
    decode: Lane,
    prefill: Lane,
}

impl Post {
    /// Starts the two tasks. They end when the post is dropped.
    pub fn start(mesh: &Mesh, unsent: &mpsc::Sender<Unsent>) -> Self {
        let lane = || {
            let (letters, waiting) = mpsc::channel(WAITING_MAX);
            let task = tokio::spawn(carry(mesh.clone(), waiting, unsent.clone()));
            Lane { letters, task }
        };
        Self {
            decode: lane(),
            prefill: lane(),
        }
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// When the queue is full: the stage takes nothing any more.
    pub fn send(&self, to: &NodeId, frame: Frame) -> Result<(), Unsent> {
        let lane = match frame.class() {
            StreamClass::Decode | StreamClass::Expert => &self.decode,
            StreamClass::Prefill => &self.prefill,
        };
        let epoch = frame.epoch();
        lane.letters
            .try_send((to.clone(), frame))
            .map_err(|_| Unsent {
                to: to.clone(),
                epoch,
                reason: format!("{WAITING_MAX} frames wait for it already"),
            })
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.decode.task.abort();
        self.prefill.task.abort();
    }
}

async fn carry(
    mesh: Mesh,
    mut waiting: mpsc::Receiver<(NodeId, Frame)>,
    unsent: mpsc::Sender<Unsent>,
) {
    while let Some((to, frame)) = waiting.recv().await {
        if let Err(error) = mesh.send(&to, &frame).await {
            let news = Unsent {
                to,
                epoch: frame.epoch(),
                reason: error.to_string(),
            };
            if unsent.send(news).await.is_err() {
                return;
            }
        }
    }
}
