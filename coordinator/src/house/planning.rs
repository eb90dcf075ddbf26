//! From machines to a plan with an epoch of its own, off the async threads.
//!
//! Owns the wishes that do not change. Must never choose which machines to plan for.

use std::sync::Arc;

use plan::speed::predict;
use plan::{KvType, LinkFacts, NodeFacts, Plan, PlanError, PlanMode, PlanRequest};
use proto::facts::ModelFacts;
use proto::{Epoch, NodeId};

use super::settings::PlanChoice;
use super::state::{PlanFailure, Trial};
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
        self.answer(&self.request(nodes, links))
    }

    /// The same beside what a running plan reaches by these facts. Not for an async thread either.
    pub fn trial(
        &self,
        running: &Plan,
        nodes: Vec<NodeFacts>,
        links: Vec<LinkFacts>,
    ) -> Result<Trial, PlanError> {
        let request = self.request(nodes, links);
        Ok(Trial {
            plan: self.answer(&request)?,
            running_tokens_per_s: predict(running, &request).decode_tokens_per_s,
        })
    }

    fn request(&self, nodes: Vec<NodeFacts>, links: Vec<LinkFacts>) -> PlanRequest {
        let mode = match &self.choice {
            PlanChoice::File(_) | PlanChoice::Auto => PlanMode::Auto,
            PlanChoice::Layers => PlanMode::Layers,
            PlanChoice::Experts => PlanMode::Experts,
        };
        PlanRequest {
            model: self.model.clone(),
            nodes,
            links,
            context: self.context,
            sequences: self.sequences,
            kv: self.kv,
            mode,
            exchange: mode != PlanMode::Layers,
            coordinator: Some(self.coordinator.clone()),
        }
    }

    fn answer(&self, request: &PlanRequest) -> Result<Plan, PlanError> {
        match &self.choice {
            PlanChoice::File(given) => plan::adopt(given, request),
            PlanChoice::Auto | PlanChoice::Layers | PlanChoice::Experts => plan::plan(request),
        }
    }
}

/// Runs the planner off the async threads. A planner that broke off is a failure like any other, in words.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PlanError> + Send + 'static,
) -> Result<T, (u64, String)> {
    match tokio::task::spawn_blocking(work).await {
        Ok(made) => made.map_err(|error| (error.missing_bytes(), error.to_string())),
        Err(error) => Err((
            0,
            format!("the planner broke off ({error}); please report this"),
        )),
    }
}

/// Makes a plan that is only shown.
pub(super) async fn make_preview(
    wish: Arc<Wish>,
    nodes: Vec<NodeFacts>,
    links: Vec<LinkFacts>,
) -> Result<Plan, String> {
    let made = aside(move || wish.plan(nodes, links)).await;
    made.map_err(|(_, text)| text)
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
    let made = aside(move || wish.plan(nodes, links)).await;
    let plan = made.map_err(|(missing_bytes, text)| failure(missing_bytes, text, false))?;
    match store.next_epoch().await {
        Ok(epoch) => Ok((plan, epoch)),
        Err(error) => Err(failure(0, error.to_string(), true)),
    }
}

/// Makes a trial off the async threads.
pub(super) async fn make_trial(
    wish: Arc<Wish>,
    running: Arc<Plan>,
    nodes: Vec<NodeFacts>,
    links: Vec<LinkFacts>,
) -> Result<Trial, String> {
    let made = aside(move || wish.trial(&running, nodes, links)).await;
    made.map_err(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, speed: f64) -> NodeFacts {
        NodeFacts {
            id: NodeId::new(name).unwrap(),
            name: name.to_owned(),
            memory_bytes: 1 << 30,
            read_bytes_per_s: speed,
            macs_per_s: speed,
        }
    }

    #[test]
    fn a_trial_measures_the_running_plan_by_the_same_facts() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/hearth-tiny.gguf");
        let model = model::Checkpoint::open(std::path::Path::new(path)).unwrap();
        let wish = Wish {
            model: model.facts(),
            choice: PlanChoice::Layers,
            context: None,
            kv: None,
            sequences: 1,
            coordinator: NodeId::new("house").unwrap(),
        };
        let running = wish.plan(vec![machine("a", 1e6)], Vec::new()).unwrap();
        let now = vec![machine("a", 2e6), machine("b", 1e6)];
        let trial = wish.trial(&running, now.clone(), Vec::new()).unwrap();
        assert_eq!(trial.plan, wish.plan(now, Vec::new()).unwrap());
        assert_eq!(trial.plan.stages.len(), 2);
        let before = running.prediction.decode_tokens_per_s;
        // A little is the way of the token, which is no faster now.
        let times = trial.running_tokens_per_s / before;
        assert!((1.9..=2.0).contains(&times), "{times}");
    }
}
