//! What can be wrong with the arguments of a kernel.

use thiserror::Error;

/// A kernel was given data that does not fit its declared shape, or an instruction set it cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The bytes of a matrix or of activation rows do not have the length their shape asks for.
    #[error("{what} holds {got} bytes, but its shape needs {expected}")]
    Length {
        /// What was being wrapped.
        what: &'static str,
        /// Bytes that came.
        got: usize,
        /// Bytes that the shape needs.
        expected: usize,
    },
    /// A dimension is not a multiple of the block length of its type, or too large to address.
    #[error("{what}: {got} columns do not fit blocks of {block}")]
    Shape {
        /// What was being wrapped.
        what: &'static str,
        /// Columns that came.
        got: usize,
        /// Block length that must divide it.
        block: usize,
    },
    /// Activation rows from elsewhere break a promise of their format.
    #[error(
        "activation row {row} holds quants or sums that no quantiser writes; ask the sender again"
    )]
    Activations {
        /// The first such row.
        row: usize,
    },
    /// Memory of this shape is larger than the machine can address.
    #[error("{what} would be larger than this machine can address; ask for fewer pages")]
    TooLarge {
        /// What was to be made.
        what: &'static str,
    },
    /// The named instruction set does not exist or this processor lacks it.
    #[error("instruction set '{0}' is not available on this machine; use auto, scalar{1}")]
    Isa(String, String),
    /// A thread was to stay on a core where this process may not run.
    #[error("core {0} does not exist or is closed to this program; choose among {1}")]
    Core(usize, String),
    /// The system does not keep a thread on a core.
    #[error("threads cannot be kept on chosen cores: {0}; leave the cores out")]
    Pinning(String),
}
