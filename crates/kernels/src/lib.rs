//! Arithmetic with one meaning on every machine.
//!
//! Owns the numeric kernels of Hearth: quantised dot products, norms, rope, attention, the gated delta
//! rule, sampling-free reductions, and the thread pool they run on. Every kernel gives the same bits for
//! every instruction set, thread count, batch and chunking; the scalar form is the definition and the
//! other forms are tested for equality with it. Never reads a file, a clock or a socket.

mod acts;
mod dequant;
mod error;
mod isa;
mod matmul;
mod pool;
mod weight;

pub use acts::{ActFormat, Acts};
pub use dequant::dequantize_row;
pub use error::KernelError;
pub use isa::Isa;
pub use matmul::{MatmulTask, Rows, SEGMENTS_MAX, matmul, parallel_matmul, segments_for};
pub use pool::{
    Chunks, ColumnsMut, Pool, parallel_chunks, parallel_chunks2, parallel_chunks3, parallel_columns,
};
pub use weight::{Matrix, WeightType};
