//! The household's one endpoint: who is in, what runs where, and the API that answers.
//!
//! The parts meet in one place only: [`gateway`] carries requests from the API to the household and tokens back.
//! The API never names a node, the household never names an HTTP type.

pub mod gateway;
pub mod house;
pub mod http;
pub mod models;
pub mod people;
pub mod store;
mod text;

/// Constraints by themselves: what an answer has to look like, made into masks of tokens.
pub mod constraints {
    pub use crate::text::{
        Begin, Constraint, Element, Form, GrammarError, Grammars, Strictness, Walk, WalkError,
    };
}
