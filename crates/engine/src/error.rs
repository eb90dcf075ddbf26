//! What can go wrong while a slice is loaded or run.

use thiserror::Error;

/// An engine error: what came, what was expected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model files do not hold what the slice needs.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A kernel was given data of another shape than declared.
    #[error(transparent)]
    Kernel(#[from] kernels::KernelError),
    /// The slice asks for parts that the model does not have.
    #[error("slice asks for {what} {got}, the model has {have}")]
    Slice {
        /// Which part.
        what: &'static str,
        /// What was asked for.
        got: u64,
        /// What there is.
        have: u64,
    },
    /// A step does not fit the slice or the state of its sequences.
    #[error("step {what} is {got}, expected {expected}")]
    Step {
        /// Which field.
        what: &'static str,
        /// What came.
        got: u64,
        /// What was expected.
        expected: u64,
    },
    /// A step needs something that this slice does not hold.
    #[error("this slice holds no {0}: the step belongs to another stage")]
    NotHeld(&'static str),
    /// A sequence was continued that was never opened here.
    #[error(
        "sequence {0} is not known here: it was closed, or this stage was restarted; open it again from its tokens"
    )]
    UnknownSequence(u64),
    /// A run was polled or provided for out of turn.
    #[error("run is {0}")]
    Turn(&'static str),
    /// The same sequence appears twice in a step.
    #[error("sequence {0} appears twice in one step")]
    RepeatedSequence(u64),
    /// Partial sums from elsewhere do not answer what was asked.
    #[error("partial sums of layer {layer}: {what} is {got}, expected {expected}")]
    Partials {
        /// The layer that was asked.
        layer: u32,
        /// Which field.
        what: &'static str,
        /// What came.
        got: u64,
        /// What was expected.
        expected: u64,
    },
    /// Logits from elsewhere do not answer what was asked.
    #[error("logits from elsewhere: {what} {got}, expected {expected}")]
    Logits {
        /// Which field.
        what: &'static str,
        /// What came.
        got: u64,
        /// What was expected.
        expected: u64,
    },
    /// A token mask does not answer what was asked.
    #[error("token mask: {what} is {got}, expected {expected}")]
    Mask {
        /// Which field.
        what: &'static str,
        /// What came.
        got: u64,
        /// What was expected.
        expected: u64,
    },
    /// The caches asked for cannot be addressed.
    #[error("caches of {pages} pages and {slots} slots do not fit into memory addresses")]
    Caches {
        /// Pages of 64 positions.
        pages: u32,
        /// Sequences.
        slots: u32,
    },
}
