//! Who may open the control plane here.
//!
//! Owns the set of keys that the daemon has admitted; connections watch it and end when their key leaves it. Knows as
//! well who was put out, to say so to them. Must never admit anybody by itself.

use std::collections::HashSet;

use proto::NodeId;
use tokio::sync::watch;

/// The registry; clones share it.
#[derive(Debug, Clone)]
pub struct Members(watch::Sender<Standing>);

#[derive(Debug, Default)]
struct Standing {
    members: HashSet<NodeId>,
    removed: HashSet<NodeId>,
}

impl Members {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Standing::default()))
    }

    /// Lets a node in.
    pub fn admit(&self, node: NodeId) {
        self.0.send_if_modified(|standing| {
            standing.removed.remove(&node);
            standing.members.insert(node)
        });
    }

    /// Puts a node out; its control connection ends.
    pub fn expel(&self, node: &NodeId) {
        self.0.send_if_modified(|standing| {
            standing.removed.insert(node.clone());
            standing.members.remove(node)
        });
    }

    /// Sets all members at once, and those who were put out earlier.
    pub fn replace(
        &self,
        members: impl IntoIterator<Item = NodeId>,
        removed: impl IntoIterator<Item = NodeId>,
    ) {
        self.0.send_replace(Standing {
            members: members.into_iter().collect(),
            removed: removed.into_iter().collect(),
        });
    }

    /// Whether a node is in.
    #[must_use]
    pub fn contains(&self, node: &NodeId) -> bool {
        self.0.borrow().members.contains(node)
    }

    /// What somebody hears who is not in.
    pub(crate) fn refusal(&self, node: &NodeId) -> &'static str {
        if self.0.borrow().removed.contains(node) {
            "its owner has removed this machine from the household"
        } else {
            "this key is not a member of the household"
        }
    }

    /// Waits until a node is not in.
    pub(crate) async fn expelled(&self, node: &NodeId) {
        let mut standing = self.0.subscribe();
        // The sender lives as long as `self`, so that the wait ends with the expulsion alone.
        let _ = standing
            .wait_for(|standing| !standing.members.contains(node))
            .await;
    }
}
