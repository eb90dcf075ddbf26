//! From role to tensor name, in both file formats, and which tensors of a file may be left unread.
//!
//! Everything that is neither bound to a role nor named here as left out is refused: a tensor that we do not know
//! is a feature that we would get wrong.

mod gguf;
pub(crate) mod hf;
mod qwen35;

use std::ops::Range;

use crate::{
    arch::Family,
    roles::{LayerRole, Proj, Role},
};

/// How one model names its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Naming {
    /// GGUF.
    Gguf {
        /// Decides names that differ.
        family: Family,
        /// Blocks behind the layers that only draft tokens.
        drafting: Range<u32>,
    },
    /// Safetensors as `transformers` writes them.
    Hf {
        /// Decides names that differ.
        family: Family,
        /// What precedes `layers.N`.
        prefix: &'static str,
        /// Whether the head is the embedding.
        tied: bool,
    },
}

/// Where the experts of a layer may be. Shapes: E experts, width W, hidden H.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpertNames {
    /// Gate and up in one tensor, [E, 2 W, H], gate first.
    pub(crate) gate_up: String,
    /// One tensor for all experts, [E, W, H] (down: [E, H, W]), by projection: gate, up, down.
    pub(crate) stacked: [String; 3],
}

impl Naming {
    /// The name of a role's tensor.
    pub(crate) fn tensor(&self, role: Role) -> String {
        match self {
            Self::Gguf { family, .. } => gguf::name(*family, role),
            Self::Hf { prefix, tied, .. } => hf::name(prefix, *tied, role),
        }
    }

    /// The names under which the experts of a layer may lie.
    pub(crate) fn experts(&self, layer: u32) -> ExpertNames {
        match self {
            Self::Gguf { .. } => gguf::experts(layer),
            Self::Hf { prefix, .. } => hf::experts(prefix, layer),
        }
    }

    /// The name of one expert's own tensor.
    pub(crate) fn expert(&self, layer: u32, proj: Proj, expert: u32) -> String {
        match self {
            Self::Gguf { .. } => gguf::expert(layer, proj, expert),
            Self::Hf { prefix, .. } => hf::expert(prefix, layer, proj, expert),
        }
    }

    /// Whether a tensor belongs to a part that text does not need: vision, drafting, precomputed tables.
    pub(crate) fn is_left_out(&self, name: &str) -> bool {
        match self {
            Self::Gguf { drafting, .. } => gguf::is_left_out(name, drafting),
            Self::Hf { tied, .. } => hf::is_left_out(name, *tied),
        }
    }

    /// Whether norm weights are stored minus one.
    pub(crate) fn zero_centred(&self, role: Role) -> bool {
        let Self::Hf { family, .. } = self else {
            return false;
        };
        let norm = matches!(
            role,
            Role::OutputNorm
                | Role::Layer(
                    _,
                    LayerRole::AttnNorm | LayerRole::FfnNorm | LayerRole::QNorm | LayerRole::KNorm
                )
        );
        norm && family.has_delta()
    }

    /// Whether the decay is stored as its logarithm.
    pub(crate) fn log_decay(&self) -> bool {
        matches!(self, Self::Hf { .. })
    }
}
