//! A plan as it is printed, stored and read back.
//!
//! Owns the JSON form that `plan --json` prints and `--plan FILE` accepts. A file is bounded and its fields are checked
//! here; whether it suits the model and the nodes at hand is [`crate::check`]'s question.

use proto::{NodeId, limits};
use serde::{Deserialize, Serialize};

use crate::memory::{CacheBudget, LayerSpan, SliceBytes};
use crate::request::validate_links;
use crate::{KvType, LinkFacts, PlanError};

/// Bytes of a plan file.
pub const PLAN_BYTES_MAX: usize = 1 << 20;
/// Entries of `experts`: a few for each layer of the largest model.
const EXPERTS_PLANS_MAX: usize = 4096;
const TEXTS_MAX: usize = 256;
const TEXT_CHARS_MAX: usize = 2048;

/// Who runs what, how fast that should be, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The model's id.
    pub model: String,
    /// Type of the attention cache.
    pub kv: KvType,
    /// Positions per sequence.
    pub context: u32,
    /// Pages of the attention cache, 64 positions each.
    pub pages: u32,
    /// Sequences at a time.
    pub slots: u32,
    /// Rows of one step.
    pub chunk_rows: u32,
    /// The stages in the order of the layers.
    pub stages: Vec<StagePlan>,
    /// Expert groups that live on other nodes than their layers' stages; all others are with their layers. A node may
    /// appear several times, and may be a stage too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertsPlan>,
    /// Head blocks that live on other nodes than the last stage, which has all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub head_blocks: Vec<HeadBlocksPlan>,
    /// What the speed model says.
    #[serde(default)]
    pub prediction: Prediction,
    /// Why it is so, one sentence or two each.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Nodes without a part.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The links between its nodes as they were measured; those that nobody measured are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkFacts>,
}

/// One node's contiguous layer range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePlan {
    /// The node.
    pub node: NodeId,
    /// The node's name.
    #[serde(default)]
    pub name: String,
    /// The first layer.
    pub first_layer: u32,
    /// One past the last layer.
    pub end_layer: u32,
    /// Whether the embedding is here: on the first stage.
    pub embedding: bool,
    /// Whether head and final norm are here: on the last stage.
    pub head: bool,
    /// Bytes of weights.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Bytes of attention cache and recurrent state.
    #[serde(default)]
    pub cache_bytes: u64,
    /// Bytes of scratch.
    #[serde(default)]
    pub scratch_bytes: u64,
    /// What the node offered when the plan was made.
    #[serde(default)]
    pub allowance_bytes: u64,
}

/// Expert groups of some layers on a node that does not run these layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertsPlan {
    /// The node that holds the groups.
    pub node: NodeId,
    /// The node's name.
    #[serde(default)]
    pub name: String,
    /// The first layer whose groups these are.
    pub first_layer: u32,
    /// One past the last layer.
    pub end_layer: u32,
    /// The groups, of each of these layers the same.
    pub groups: Vec<u32>,
}

/// Head blocks on a node that is not the last stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadBlocksPlan {
    /// The node that holds the blocks.
    pub node: NodeId,
    /// The node's name.
    #[serde(default)]
    pub name: String,
    /// The blocks; their rows are those of [`proto::facts::head_block_rows`].
    pub blocks: Vec<u32>,
}

/// Predicted speed of one conversation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Seconds per generated token.
    pub decode_s_per_token: f64,
    /// Generated tokens per second.
    pub decode_tokens_per_s: f64,
    /// Part of the seconds per token that is spent between nodes.
    pub hops_s_per_token: f64,
    /// Seconds per 1,000 tokens of prompt.
    pub prefill_s_per_1k_tokens: f64,
    /// Decode seconds of each stage.
    pub stage_s_per_token: Vec<f64>,
    /// Positions in the attention cache for which the tokens per second are predicted.
    #[serde(default)]
    pub positions: u32,
}

/// A node without a part in the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl StagePlan {
    /// The layer range with its ends.
    #[must_use]
    pub fn span(&self) -> LayerSpan {
        LayerSpan {
            first_layer: self.first_layer,
            end_layer: self.end_layer,
            embedding: self.embedding,
            head: self.head,
        }
    }

    /// The bytes as planned.
    #[must_use]
    pub fn bytes(&self) -> SliceBytes {
        SliceBytes {
            weight_bytes: self.weight_bytes,
            cache_bytes: self.cache_bytes,
            scratch_bytes: self.scratch_bytes,
        }
    }
}

impl Plan {
    /// Cache and scratch that every stage keeps.
    #[must_use]
    pub fn budget(&self) -> CacheBudget {
        CacheBudget {
            kv: self.kv,
            pages: self.pages,
            slots: self.slots,
            chunk_rows: self.chunk_rows,
        }
    }

    /// Those of `links` that connect two of its nodes, in a fixed order.
    #[must_use]
    pub fn links_used(&self, links: &[LinkFacts]) -> Vec<LinkFacts> {
        let used = links
            .iter()
            .filter(|link| link.from != link.to && self.has(&link.from) && self.has(&link.to));
        let mut used: Vec<LinkFacts> = used.cloned().collect();
        used.sort_by(|a, b| {
            let ends = (&a.from, &a.to).cmp(&(&b.from, &b.to));
            ends.then(a.rtt_s.total_cmp(&b.rtt_s))
                .then(a.bytes_per_s.total_cmp(&b.bytes_per_s))
        });
        used
    }

    /// Reads a plan that somebody wrote: bounded, unknown fields refused, texts and numbers in range.
    ///
    /// # Errors
    /// [`PlanError::File`] with what the reader met.
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        if text.len() > PLAN_BYTES_MAX {
            return Err(PlanError::File {
                what: format!(
                    "{} bytes, more than the {PLAN_BYTES_MAX} that a plan may have",
                    text.len()
                ),
            });
        }
        let plan: Self = serde_json::from_str(text).map_err(|error| PlanError::File {
            what: error.to_string(),
        })?;
        plan.bounded()?;
        Ok(plan)
    }

    fn bounded(&self) -> Result<(), PlanError> {
        let fail = |what: &str| PlanError::File {
            what: what.to_owned(),
        };
        if self.stages.is_empty() || self.stages.len() > limits::NODES_MAX {
            return Err(fail("the number of stages is not 1 to 64"));
        }
        let lists = self.experts.iter().map(|part| &part.groups);
        let mut lists = lists.chain(self.head_blocks.iter().map(|part| &part.blocks));
        if self.experts.len() > EXPERTS_PLANS_MAX || self.head_blocks.len() > limits::NODES_MAX {
            return Err(fail("more than 4096 `experts` or 64 `head_blocks`"));
        }
        if lists.any(|list| list.len() > limits::EXPERT_GROUPS_MAX as usize) {
            return Err(fail("a list of groups or blocks has more than 16 entries"));
        }
        if self.left_out.len() > limits::NODES_MAX || self.reasons.len() > TEXTS_MAX {
            return Err(fail("too many reasons or nodes left out"));
        }
        let names = self.stages.iter().map(|stage| &stage.name);
        let names = names.chain(self.experts.iter().map(|part| &part.name));
        let names = names.chain(self.head_blocks.iter().map(|part| &part.name));
        let names = names.chain(self.left_out.iter().map(|left| &left.name));
        if names
            .into_iter()
            .any(|name| name.chars().count() > limits::NODE_NAME_MAX)
        {
            return Err(fail("a node's name is longer than 64 characters"));
        }
        let texts = self.reasons.iter().chain([&self.model]);
        let mut texts = texts.chain(self.left_out.iter().map(|left| &left.reason));
        if texts.any(|text| text.chars().count() > TEXT_CHARS_MAX) {
            return Err(fail("a text is longer than 2048 characters"));
        }
        let prediction = &self.prediction;
        let mut numbers = prediction.stage_s_per_token.iter().copied().chain([
            prediction.decode_s_per_token,
            prediction.decode_tokens_per_s,
            prediction.hops_s_per_token,
            prediction.prefill_s_per_1k_tokens,
        ]);
        if prediction.stage_s_per_token.len() > limits::NODES_MAX
            || numbers.any(|number| !(number.is_finite() && number >= 0.0))
        {
            return Err(fail("a predicted number is out of range"));
        }
        validate_links(&self.links).map_err(|error| fail(&error.to_string()))?;
        Ok(())
    }
}
