//! Who may open the control plane here.
//!
//! Owns the set of keys that the daemon has admitted; connections watch it and end when their key leaves it.
//! Must never admit anybody by itself.

use std::collections::HashSet;

use proto::NodeId;
use tokio::sync::watch;

/// The registry; clones share it.
#[derive(Debug, Clone)]
pub struct Members(watch::Sender<HashSet<NodeId>>);

impl Members {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(HashSet::new()))
    }

    /// Lets a node in.
    pub fn admit(&self, node: NodeId) {
        self.0.send_if_modified(|members| members.insert(node));
    }

    /// Puts a node out; its control connection ends.
    pub fn expel(&self, node: &NodeId) {
        self.0.send_if_modified(|members| members.remove(node));
    }

    /// Sets all members at once.
    pub fn replace(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.0.send_replace(nodes.into_iter().collect());
    }

    /// Whether a node is in.
    #[must_use]
    pub fn contains(&self, node: &NodeId) -> bool {
        self.0.borrow().contains(node)
    }

    /// Waits until a node is not in.
    pub(crate) async fn expelled(&self, node: &NodeId) {
        let mut members = self.0.subscribe();
        // The sender lives as long as `self`, so that the wait ends with the expulsion alone.
        let _ = members.wait_for(|members| !members.contains(node)).await;
    }
}
