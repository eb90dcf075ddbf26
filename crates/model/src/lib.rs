//! Model files: GGUF and safetensors readers, the architecture that they describe, tokenizer and chat template.
//!
//! This crate turns files that nobody vouches for into checked values: every count, length, offset and shape is
//! compared with what really is there before it is used. It never computes with weights beyond widening small
//! vectors and rows that are exported, never copies a matrix, and knows no socket.
//!
//! The one idea: a [`Checkpoint`] answers by *role* ("the query projection of layer 3"), never by tensor name, so
//! that the engine sees one model whatever file it came from.

mod arch;
mod bind;
mod chat;
mod checkpoint;
mod dtype;
mod error;
mod export;
mod facts;
mod files;
mod generation;
pub mod gguf;
mod identity;
mod map;
mod names;
mod roles;
pub mod safetensors;
mod store;
pub mod template;
mod text;
pub mod tokenizer;
mod widen;

pub use arch::{
    Architecture, AttentionShape, DeltaShape, Family, FfnKind, HeadOrder, LayerKind, Mixer,
    MoeShape, OutputGate, Pairing, QkNorm, Rope,
};
pub use checkpoint::{Checkpoint, FileRange, Format, Part, TensorRef, merge_ranges};
pub use dtype::{DType, Storage};
pub use error::ModelError;
pub use export::{Export, ExportClass, ExportTensor};
pub use generation::GenerationDefaults;
pub use identity::Identity;
pub use roles::{LayerRole, Proj, Role};
pub use store::Tensor;
pub use template::{ChatTemplate, RenderInput, TemplateError};
pub use tokenizer::{Detokenizer, GgufTokenizer, SpecialText, Specials, Tokenizer, TokenizerError};
