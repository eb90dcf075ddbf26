//! Which tensor gets which type.
//!
//! One rule for all families. Every matrix gets the type that was asked for, with these exceptions:
//! - The mix Q4_K_M stores some matrices in Q6_K: the head (or the embedding that serves as one), which every token reads
//!   last and nothing evens out; the value projections (`attn_v`, and `attn_qkv` of gated delta nets, which holds the
//!   values); and the down projections of the first and last eighth of the layers and of every third layer between.
//!   It was chosen by the agreement of the bundled model with its unquantised checkpoint, for its bytes.
//! - Rows that are no whole blocks: Q8_0 in place of a type of blocks of 256, F16 where 32 does not divide them either.

use std::fmt;

use clap::ValueEnum;
use kernels::WeightType;
use model::{DType, ExportClass, ExportTensor};

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// All matrices in Q8_0
    #[value(name = "q8_0")]
    Q8_0,
    /// All matrices in Q6_K
    #[value(name = "q6_k")]
    Q6K,
    /// All matrices in Q4_K
    #[value(name = "q4_k")]
    Q4K,
    /// Q4_K, with Q6_K where it counts most
    #[value(name = "q4_k_m")]
    Q4KM,
}

impl Mix {
    /// The usual name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q6K => "Q6_K",
            Self::Q4K => "Q4_K",
            Self::Q4KM => "Q4_K_M",
        }
    }

    /// The number of `general.file_type`, by which tools name a file.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::Q8_0 => 7,
            Self::Q6K => 18,
            Self::Q4K => 14,
            Self::Q4KM => 15,
        }
    }

    fn base(self) -> DType {
        match self {
            Self::Q8_0 => DType::Q8_0,
            Self::Q6K => DType::Q6K,
            Self::Q4K | Self::Q4KM => DType::Q4K,
        }
    }

    /// The type of a matrix whose rows suit every type.
    fn of_matrix(self, name: &str, layers: usize, tied: bool) -> DType {
        let raised = match Place::of(name) {
            Place::Head => true,
            Place::Embedding => tied,
            Place::Layer(layer, what) => {
                let is = |part: &str| what.starts_with(part);
                is("attn_v") || is("attn_qkv") || (is("ffn_down") && counts_more(layer, layers))
            }
            Place::Other => false,
        };
        if self == Self::Q4KM && raised {
            DType::Q6K
        } else {
            self.base()
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first and the last eighth of the layers, and every third between.
fn counts_more(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= layers - eighth || (layer - eighth) % 3 == 2
}

/// Where a matrix is used, by its name.
enum Place<'n> {
    Embedding,
    Head,
    /// In this layer, as what follows `blk.N.`.
    Layer(usize, &'n str),
    Other,
}

impl<'n> Place<'n> {
    fn of(name: &'n str) -> Self {
        match name {
            "token_embd.weight" => Self::Embedding,
            "output.weight" => Self::Head,
            other => other
                .strip_prefix("blk.")
                .and_then(|rest| rest.split_once('.'))
                .and_then(|(layer, what)| Some(Self::Layer(layer.parse().ok()?, what)))
                .unwrap_or(Self::Other),
        }
    }
}

/// The type of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The type that it gets.
    pub(super) ty: DType,
    /// The type that its rows do not suit.
    pub(super) instead_of: Option<DType>,
}

impl Chosen {
    /// The name under which the report counts the tensor.
    pub(super) fn name(&self, class: ExportClass) -> &'static str {
        match class {
            ExportClass::Kept(storage) => storage.name,
            ExportClass::Matrix | ExportClass::Small => self.ty.name(),
        }
    }

    fn suiting(ty: DType, cols: usize) -> Self {
        let falls_to = |ty: DType| match ty.block_len() {
            256 => DType::Q8_0,
            _ => DType::F16,
        };
        let mut found = ty;
        while found.row_bytes(cols).is_none() {
            found = falls_to(found);
        }
        Self {
            ty: found,
            instead_of: (found != ty).then_some(ty),
        }
    }
}

/// A type for every tensor of a model with so many layers, in the same order.
pub(super) fn choose(mix: Mix, tensors: &[ExportTensor<'_>], layers: usize) -> Vec<Chosen> {
    let tied = !tensors.iter().any(|tensor| tensor.name == "output.weight");
    tensors
        .iter()
        .map(|tensor| match tensor.class {
            ExportClass::Matrix => {
                Chosen::suiting(mix.of_matrix(&tensor.name, layers, tied), tensor.cols())
            }
            ExportClass::Small | ExportClass::Kept(_) => Chosen {
                ty: DType::F32,
                instead_of: None,
            },
        })
        .collect()
}

/// The same type in the words of the kernels.
pub(super) fn kernel_type(ty: DType) -> WeightType {
    match ty {
        DType::F32 => WeightType::F32,
        DType::F16 => WeightType::F16,
        DType::BF16 => WeightType::BF16,
        DType::Q8_0 => WeightType::Q8_0,
        DType::Q4_0 => WeightType::Q4_0,
        DType::Q4K => WeightType::Q4K,
        DType::Q5K => WeightType::Q5K,
        DType::Q6K => WeightType::Q6K,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_raises_head_values_and_downs() {
        let of = |name: &str| Mix::Q4KM.of_matrix(name, 16, false);
        for name in [
            "output.weight",
            "blk.2.attn_v.weight",
            "blk.1.attn_qkv.weight",
            "blk.4.ffn_down_exps.weight",
            "blk.7.ffn_down.3.weight",
            "blk.15.ffn_down_shexp.weight",
        ] {
            assert_eq!(of(name), DType::Q6K, "{name}");
        }
        for name in [
            "token_embd.weight",
            "blk.0.attn_q.weight",
            "blk.0.ffn_up_exps.weight",
            "blk.3.ffn_down.weight",
            "blk.0.attn_output.weight",
        ] {
            assert_eq!(of(name), DType::Q4K, "{name}");
        }
        assert_eq!(
            Mix::Q4KM.of_matrix("token_embd.weight", 16, true),
            DType::Q6K
        );
        assert_eq!(Mix::Q4K.of_matrix("output.weight", 16, false), DType::Q4K);
    }

    #[test]
    fn few_layers_have_no_eighths_but_thirds() {
        let raised: Vec<usize> = (0..6).filter(|layer| counts_more(*layer, 6)).collect();
        assert_eq!(raised, [2, 5]);
        let raised: Vec<usize> = (0..16).filter(|layer| counts_more(*layer, 16)).collect();
        assert_eq!(raised, [0, 1, 4, 7, 10, 13, 14, 15]);
    }

    #[test]
    fn rows_of_odd_length_fall_back_by_name() {
        let fall = |cols| Chosen::suiting(DType::Q4K, cols);
        assert_eq!((fall(512).ty, fall(512).instead_of), (DType::Q4K, None));
        assert_eq!(fall(160).ty, DType::Q8_0);
        assert_eq!(fall(160).instead_of, Some(DType::Q4K));
        assert_eq!(fall(100).ty, DType::F16);
        assert_eq!(Chosen::suiting(DType::Q8_0, 33).ty, DType::F16);
    }
}
