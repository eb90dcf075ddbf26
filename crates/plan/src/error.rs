//! Why there is no plan, or why a given plan cannot be used. Each text says what came, what was expected and what to do.

use crate::size::size_text;

/// Everything that can go wrong while planning or checking a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A field of the request is outside its range.
    #[error("{what} is {got}; expected {expected}")]
    Request {
        /// The field.
        what: &'static str,
        /// What came.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// There is no node to plan for.
    #[error("no node is in the household; expected at least one: run `node join` on a machine")]
    NoNodes,
    /// The nodes together offer too little memory, or too little in usable pieces.
    #[error(
        "{missing} more memory is needed: with {context} positions of context the model takes {needed}, and {nodes} node(s) offer {offered}. {hint}",
        missing = size_text(*missing_bytes), needed = size_text(*needed_bytes), offered = size_text(*offered_bytes)
    )]
    Memory {
        /// One more machine that offers this much would be enough.
        missing_bytes: u64,
        /// Weights, caches for one sequence and scratch for one node.
        needed_bytes: u64,
        /// What all nodes offer together.
        offered_bytes: u64,
        /// How many nodes offer it.
        nodes: usize,
        /// The context that was planned for, in positions.
        context: u32,
        /// What to do.
        hint: String,
    },
    /// A mode that uses every node met a node that cannot hold even the smallest part.
    #[error(
        "node '{name}' offers {offered}; the smallest possible part, {part}, takes {needed}. Raise its --memory, or plan with `auto`, which may leave it out",
        offered = size_text(*offered_bytes), needed = size_text(*needed_bytes)
    )]
    NodeTooSmall {
        /// The node's name.
        name: String,
        /// What it offers.
        offered_bytes: u64,
        /// The smallest part in words.
        part: &'static str,
        /// The least that it would have to hold.
        needed_bytes: u64,
    },
    /// A mode that uses every node met more nodes than layers.
    #[error(
        "{nodes} nodes cannot share {layers} layers with at least one each; expected at most {layers} nodes: plan with `auto`, which may leave nodes out"
    )]
    TooManyNodes {
        /// Nodes in the request.
        nodes: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The memory is enough in all, but no cut gives every node a part that it can hold.
    #[error(
        "no cut gives each of the {nodes} nodes a layer range that fits its memory; plan with `auto`, which may leave nodes out, or raise the smallest allowance"
    )]
    NoCut {
        /// Nodes in the request.
        nodes: usize,
    },
    /// A mode that uses every node met more nodes than the model has parts.
    #[error(
        "{nodes} nodes cannot all have a part: {layers} layers, {groups} expert groups in all layers and {blocks} blocks of the output head are enough for at most {most} nodes. Plan with `auto`, which may leave nodes out"
    )]
    TooFewParts {
        /// Nodes in the request.
        nodes: usize,
        /// Nodes that can have a part at most.
        most: usize,
        /// Layers of the model.
        layers: usize,
        /// Expert groups of all layers together.
        groups: usize,
        /// Blocks of the output head.
        blocks: usize,
    },
    /// The memory is enough in all, but no plan was found that gives every node a part that it can hold.
    #[error(
        "no plan was found that gives each of the {nodes} nodes a part that fits its memory; one was found for the {most} nodes that offer most. Plan with `auto`, which may leave nodes out, or raise the smallest allowance"
    )]
    NotEverybody {
        /// Nodes in the request.
        nodes: usize,
        /// Nodes that can all have a part, as far as the search finds out.
        most: usize,
    },
    /// A given plan is for another model.
    #[error("the plan is for model '{got}'; this is '{expected}': make a plan for this model")]
    Model {
        /// The model named in the plan.
        got: String,
        /// The model at hand.
        expected: String,
    },
    /// The layer ranges of a given plan do not cover the model in order, or a field of it is out of range.
    #[error(
        "stage {stage}: {what} is {got}; expected {expected}. Write the plan again with `plan --json`"
    )]
    Stage {
        /// Index of the stage.
        stage: usize,
        /// The field.
        what: &'static str,
        /// What came.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// A given plan names a node that is not here.
    #[error("stage {stage} is given to '{node}', which is not in the household; here are: {known}")]
    UnknownNode {
        /// Index of the stage.
        stage: usize,
        /// Name or id from the plan.
        node: String,
        /// Names of the nodes that are here.
        known: String,
    },
    /// A stage of a given plan does not fit its node.
    #[error(
        "stage {stage} takes {needed} on node '{name}', which offers {offered}: give it fewer layers, a smaller context, or more --memory",
        needed = size_text(*needed_bytes), offered = size_text(*offered_bytes)
    )]
    StageTooLarge {
        /// Index of the stage.
        stage: usize,
        /// The node's name.
        name: String,
        /// Weights, caches and scratch of the stage.
        needed_bytes: u64,
        /// What the node offers.
        offered_bytes: u64,
    },
    /// An entry of a given plan's `experts` or `head_blocks` does not suit the model, the stages or the nodes.
    #[error("`{list}` entry {entry}: {what} is {got}; expected {expected}")]
    Entry {
        /// `experts` or `head_blocks`.
        list: &'static str,
        /// Index of the entry.
        entry: usize,
        /// The field.
        what: &'static str,
        /// What came.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// What a given plan puts on a node that is no stage does not fit it.
    #[error(
        "the groups and head blocks on node '{name}' take {needed}, and it offers {offered}: give it fewer, or more --memory",
        needed = size_text(*needed_bytes), offered = size_text(*offered_bytes)
    )]
    PartTooLarge {
        /// The node's name.
        name: String,
        /// Weights and scratch of the part.
        needed_bytes: u64,
        /// What the node offers.
        offered_bytes: u64,
    },
    /// A text is not a plan.
    #[error("not a plan: {what}; expected the JSON value that `plan --json` prints")]
    File {
        /// What the reader met.
        what: String,
    },
}

impl PlanError {
    /// A stable code for logs and clients.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request { .. } => "plan_request",
            Self::NoNodes => "plan_no_nodes",
            Self::Memory { .. } => "plan_memory",
            Self::NodeTooSmall { .. } => "plan_node_too_small",
            Self::TooManyNodes { .. } => "plan_too_many_nodes",
            Self::NoCut { .. } => "plan_no_cut",
            Self::TooFewParts { .. } => "plan_too_few_parts",
            Self::NotEverybody { .. } => "plan_not_everybody",
            Self::Model { .. } => "plan_model",
            Self::Stage { .. } => "plan_stage",
            Self::UnknownNode { .. } => "plan_unknown_node",
            Self::StageTooLarge { .. } => "plan_stage_too_large",
            Self::Entry { .. } => "plan_entry",
            Self::PartTooLarge { .. } => "plan_part_too_large",
            Self::File { .. } => "plan_file",
        }
    }

    /// Bytes that one more machine would have to offer; 0 where memory is not the trouble.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        match self {
            Self::Memory { missing_bytes, .. } => *missing_bytes,
            Self::NodeTooSmall {
                offered_bytes,
                needed_bytes,
                ..
            }
            | Self::StageTooLarge {
                offered_bytes,
                needed_bytes,
                ..
            }
            | Self::PartTooLarge {
                offered_bytes,
                needed_bytes,
                ..
            } => needed_bytes.saturating_sub(*offered_bytes),
            _ => 0,
        }
    }
}
