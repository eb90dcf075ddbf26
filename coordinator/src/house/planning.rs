//! From machines to a plan with an epoch of its own, off the async threads.
//!
//! Owns the wishes that do not change. Must never choose which machines to plan for.

use std::sync::Arc;

use plan::{KvType, LinkFacts, NodeFacts, Plan, PlanError, PlanMode, PlanRequest};
use proto::facts::ModelFacts;
use proto::{Epoch, NodeId};

use super::settings::PlanChoice;
use super::state::PlanFailure;
use crate::store::Store;

/// The planner's inputs that do not change.
#[derive(Debug)]
pub(super) struct Wish {
    pub model: ModelFacts,
    pub choice: PlanChoice,
    pub context: Option<u32>,
    pub kv: Option<KvType>,
    pub sequences: u32,
    pub coordinator: NodeId,
}

impl Wish {
    /// A plan for these machines. May take a while: not for an async thread.
    pub fn plan(&self, nodes: Vec<NodeFacts>, links: Vec<LinkFacts>) -> Result<Plan, PlanError> {
        let mode = match &self.choice {
            PlanChoice::File(_) | PlanChoice::Auto => PlanMode::Auto,
            PlanChoice::Layers => PlanMode::Layers,
            PlanChoice::Experts => PlanMode::Experts,
        };
        let request = PlanRequest {
            model: self.model.clone(),
            nodes,
            links,
            context: self.context,
            sequences: self.sequences,
            kv: self.kv,
            mode,
            // What an exchange costs was not compared with measurements yet, so it is planned only when asked for.
            exchange: mode == PlanMode::Experts,
            coordinator: Some(self.coordinator.clone()),
        };
        match &self.choice {
            PlanChoice::File(given) => plan::adopt(given, &request),
            PlanChoice::Auto | PlanChoice::Layers | PlanChoice::Experts => plan::plan(&request),
        }
    }
}

/// Makes a plan off the async threads, and takes an epoch for it.
pub(super) async fn make_plan(
    wish: Arc<Wish>,
    store: Store,
    nodes: Vec<NodeFacts>,
    links: Vec<LinkFacts>,
) -> Result<(Plan, Epoch), PlanFailure> {
    let failure = |missing_bytes, text, retry| PlanFailure {
        missing_bytes,
        text,
        retry,
    };
    let made = tokio::task::spawn_blocking(move || wish.plan(nodes, links)).await;
    let plan = match made {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => return Err(failure(error.missing_bytes(), error.to_string(), false)),
        Err(error) => {
            return Err(failure(
                0,
                format!("the planner broke off ({error}); please report this"),
                false,
            ));
        }
    };
    match store.next_epoch().await {
        Ok(epoch) => Ok((plan, epoch)),
        Err(error) => Err(failure(0, error.to_string(), true)),
    }
}
