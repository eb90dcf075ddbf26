//! How far the service has come, as the household tells the API.

/// How far the service has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Too few nodes, or too little memory in those that are in.
    WaitingForNodes,
    /// Nodes are there; a plan is being made.
    Planning,
    /// Nodes are loading their slices.
    Loading,
    /// A request sent now is answered.
    Ready,
    /// The service is ending: running answers are finished, new ones refused.
    Draining,
}

impl Phase {
    /// The name that users see; stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitingForNodes => "waiting_for_nodes",
            Self::Planning => "planning",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// What `/readyz` tells, and every request that comes too early.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceStatus {
    /// How far the service has come.
    pub phase: Phase,
    /// Bytes of weights that nodes have loaded for the current plan.
    pub done_bytes: u64,
    /// Bytes of weights that the current plan loads; 0 before there is a plan.
    pub total_bytes: u64,
    /// Predicted seconds until the service is ready, if that can be said.
    pub eta_s: Option<f64>,
    /// Nodes that are in.
    pub nodes: u32,
    /// Memory that is missing before the model fits; 0 if it fits.
    pub missing_bytes: u64,
    /// Positions that one sequence may have; 0 before there is a plan.
    pub context: u32,
    /// One sentence for a person: what is going on and what to do.
    pub detail: String,
}

impl ServiceStatus {
    /// Nothing known yet.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            phase: Phase::WaitingForNodes,
            done_bytes: 0,
            total_bytes: 0,
            eta_s: None,
            nodes: 0,
            missing_bytes: 0,
            context: 0,
            detail: "the service is starting".to_owned(),
        }
    }
}
