//! What the planner is asked: the model, the nodes, the links and the owner's wishes.
//!
//! Owns the types of a request and the check that every field is in range. After [`PlanRequest::validate`] sums over
//! the whole model fit 64 bits and every speed is a positive number; nothing else checks again.

use std::fmt;
use std::str::FromStr;

use proto::NodeId;
use proto::facts::ModelFacts;
use proto::limits;
use serde::{Deserialize, Serialize};

use crate::PlanError;

/// Most sequences that a plan keeps room for.
pub const SEQUENCES_MAX: u32 = limits::STEP_SEGMENTS_MAX;
const LAYER_BYTES_MAX: u64 = 1 << 48;
const LAYER_MACS_MAX: u64 = 1 << 48;
const KV_VALUES_MAX: u64 = 1 << 20;
const STATE_BYTES_MAX: u64 = 1 << 36;
/// Both directions of every link among all nodes and the coordinator.
pub(crate) const LINKS_MAX: usize = (limits::NODES_MAX + 1) * limits::NODES_MAX;

/// How the attention cache stores its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    F16,
    /// Blocks of 32 one-byte values with a 4-byte scale.
    Q8,
}

impl KvType {
    /// Bytes of `values` values of one position.
    #[must_use]
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            Self::F32 => values.saturating_mul(4),
            Self::F16 => values.saturating_mul(2),
            Self::Q8 => values.div_ceil(32).saturating_mul(36),
        }
    }

    /// The type that a model gets when nobody asks: half floats beside quantised weights, full floats otherwise.
    #[must_use]
    pub fn for_model(model: &ModelFacts) -> Self {
        if model.quantised {
            Self::F16
        } else {
            Self::F32
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        })
    }
}

/// A word that is none of those expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{got}' is not a {what}; expected {expected}")]
pub struct WordError {
    what: &'static str,
    got: String,
    expected: &'static str,
}

impl FromStr for KvType {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            other => Err(WordError {
                what: "cache type",
                got: other.chars().take(40).collect(),
                expected: "f32, f16 or q8",
            }),
        }
    }
}

/// Which nodes a plan has to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanMode {
    /// The nodes that answer one conversation fastest; others may be left out.
    Auto,
    /// Every node, with at least one layer each.
    Layers,
    /// Every node, with layers, expert groups or head blocks.
    Experts,
}

impl fmt::Display for PlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Layers => "layers",
            Self::Experts => "experts",
        })
    }
}

impl FromStr for PlanMode {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "auto" => Ok(Self::Auto),
            "layers" => Ok(Self::Layers),
            "experts" => Ok(Self::Experts),
            other => Err(WordError {
                what: "plan mode",
                got: other.chars().take(40).collect(),
                expected: "auto, layers or experts",
            }),
        }
    }
}

/// One node as it measured itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFacts {
    /// Its identity.
    pub id: NodeId,
    /// The name that its owner gave it.
    pub name: String,
    /// Memory for weights, caches and scratch, in bytes.
    pub memory_bytes: u64,
    /// Weights that it reads per second.
    pub read_bytes_per_s: f64,
    /// Multiply-adds per second with the model's weight types.
    pub macs_per_s: f64,
}

/// One direction between two nodes. Where only one direction was measured, it stands for both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFacts {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// Round-trip time in seconds.
    pub rtt_s: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
}

/// What the planner is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The model.
    pub model: ModelFacts,
    /// The nodes that may take part, in any order.
    pub nodes: Vec<NodeFacts>,
    /// What is known of their links; the rest is taken as wired gigabit.
    #[serde(default)]
    pub links: Vec<LinkFacts>,
    /// Positions per sequence. None: the model's, at most 32768, lowered to what fits.
    pub context: Option<u32>,
    /// Sequences at a time that the caches should have room for; lowered to what fits.
    pub sequences: u32,
    /// Type of the attention cache. None: by the model.
    pub kv: Option<KvType>,
    /// Which nodes to use.
    pub mode: PlanMode,
    /// Whether expert groups and head blocks may live away from their stages; otherwise plans are layer splits.
    #[serde(default)]
    pub exchange: bool,
    /// Through whom every token passes on its way back to the first stage, if that is known.
    #[serde(default)]
    pub coordinator: Option<NodeId>,
}

fn refuse(
    what: &'static str,
    got: impl fmt::Display,
    expected: impl Into<String>,
) -> Result<(), PlanError> {
    Err(PlanError::Request {
        what,
        got: got.to_string(),
        expected: expected.into(),
    })
}

impl PlanRequest {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`PlanError::Request`] with the first field out of range, [`PlanError::NoNodes`] without nodes.
    pub fn validate(&self) -> Result<(), PlanError> {
        validate_model(&self.model)?;
        validate_nodes(&self.nodes)?;
        validate_links(&self.links)?;
        if self.sequences == 0 || self.sequences > SEQUENCES_MAX {
            refuse("sequences", self.sequences, format!("1 to {SEQUENCES_MAX}"))?;
        }
        let most = self.model.context;
        if let Some(context) = self.context
            && (context == 0 || context > most)
        {
            refuse(
                "context",
                context,
                format!("1 to {most}, what the model was made for"),
            )?;
        }
        Ok(())
    }
}

/// Checks the facts of a model, so that later sums fit.
pub(crate) fn validate_model(model: &ModelFacts) -> Result<(), PlanError> {
    let layers = model.layers.len();
    let layers_max = limits::LAYERS_MAX as usize;
    if layers == 0 || layers > layers_max {
        refuse("the model's layers", layers, format!("1 to {layers_max}"))?;
    }
    if model.hidden == 0 || model.hidden > limits::ROW_VALUES_MAX {
        refuse(
            "the model's hidden size",
            model.hidden,
            format!("1 to {}", limits::ROW_VALUES_MAX),
        )?;
    }
    if model.context == 0 || model.context > limits::SEQUENCE_POSITIONS_MAX {
        refuse(
            "the model's context",
            model.context,
            format!("1 to {}", limits::SEQUENCE_POSITIONS_MAX),
        )?;
    }
    if model.experts_used > model.experts || model.experts > limits::EXPERTS_MAX {
        refuse(
            "the model's experts",
            format!("{} of {}", model.experts_used, model.experts),
            format!(
                "no more used than there are, at most {}",
                limits::EXPERTS_MAX
            ),
        )?;
    }
    let ends = model.embedding_bytes.max(model.head_bytes);
    if ends > LAYER_BYTES_MAX || model.head_macs > LAYER_MACS_MAX {
        refuse("the size of embedding or head", ends, "less than 2^48")?;
    }
    for layer in &model.layers {
        let groups = layer.group_bytes.len();
        if groups > limits::EXPERT_GROUPS_MAX as usize {
            refuse("a layer's expert groups", groups, "at most 16")?;
        }
        let bytes = layer.bytes().max(layer.expert_bytes);
        let macs = layer.trunk_macs.max(layer.expert_macs);
        if bytes > LAYER_BYTES_MAX || macs > LAYER_MACS_MAX {
            refuse("the size of a layer", bytes.max(macs), "less than 2^48")?;
        }
        if layer.kv_values_per_position > KV_VALUES_MAX {
            refuse(
                "a layer's cache values per position",
                layer.kv_values_per_position,
                "at most 2^20",
            )?;
        }
        if layer.state_bytes_per_sequence > STATE_BYTES_MAX {
            refuse(
                "a layer's state per sequence",
                layer.state_bytes_per_sequence,
                "at most 2^36 bytes",
            )?;
        }
    }
    Ok(())
}

/// Checks the nodes: some, not too many, each once, with speeds that are numbers.
pub(crate) fn validate_nodes(nodes: &[NodeFacts]) -> Result<(), PlanError> {
    if nodes.is_empty() {
        return Err(PlanError::NoNodes);
    }
    if nodes.len() > limits::NODES_MAX {
        refuse(
            "the number of nodes",
            nodes.len(),
            format!("at most {}", limits::NODES_MAX),
        )?;
    }
    for (at, node) in nodes.iter().enumerate() {
        if node.name.chars().count() > limits::NODE_NAME_MAX {
            refuse(
                "the length of a node's name",
                node.name.chars().count(),
                format!("at most {}", limits::NODE_NAME_MAX),
            )?;
        }
        for (what, speed) in [
            ("a node's bytes read per second", node.read_bytes_per_s),
            ("a node's multiply-adds per second", node.macs_per_s),
        ] {
            if !(speed.is_finite() && speed >= 1.0) {
                refuse(what, speed, "a number of at least 1")?;
            }
        }
        if nodes[..at].iter().any(|other| other.id == node.id) {
            refuse("a node's id", &node.id, "each node once")?;
        }
    }
    Ok(())
}

pub(crate) fn validate_links(links: &[LinkFacts]) -> Result<(), PlanError> {
    if links.len() > LINKS_MAX {
        refuse(
            "the number of links",
            links.len(),
            format!("at most {LINKS_MAX}"),
        )?;
    }
    for link in links {
        if !(link.rtt_s.is_finite() && link.rtt_s >= 0.0) {
            refuse("a link's round-trip time", link.rtt_s, "0 or more seconds")?;
        }
        if !(link.bytes_per_s.is_finite() && link.bytes_per_s >= 1.0) {
            refuse(
                "a link's bytes per second",
                link.bytes_per_s,
                "a number of at least 1",
            )?;
        }
    }
    Ok(())
}
