//! Arithmetic with one meaning on every machine.
//!
//! Owns the numeric kernels of Hearth: quantised dot products, norms, rope, attention, the gated delta
//! rule, sampling-free reductions, and the thread pool they run on. Every kernel gives the same bits for
//! every instruction set, thread count, batch and chunking; the scalar form is the definition and the
//! other forms are tested for equality with it. Never reads a file, a clock or a socket.

#[macro_use]
mod dispatch;

mod acts;
mod attention;
mod conv;
mod delta;
mod delta_net;
mod dequant;
mod error;
mod isa;
mod kv;
mod math;
mod matmul;
mod mix;
mod norm;
mod peaks;
mod pool;
mod quantize;
mod rope;
mod route;
#[cfg(test)]
mod testing;
mod weight;

pub use acts::{ActFormat, Acts};
pub use attention::{
    Attend, AttendRow, AttendScratch, AttendShape, Placement, QueryLayout, attend_rows, place_rows,
};
pub use conv::{ConvSegment, ConvWeights, conv_advance, conv_silu};
pub use delta::{
    DeltaGates, DeltaRecords, DeltaRows, DeltaSegment, DeltaShape, HeadOrder, delta_commit,
    delta_gates, delta_rows,
};
pub use delta_net::{DeltaInput, DeltaNet, DeltaRun, DeltaScratch, DeltaState};
pub use dequant::dequantize_row;
pub use error::KernelError;
pub use isa::Isa;
pub use kv::{KvStore, KvType, PAGE_POSITIONS};
pub use math::{dot, exp, exp_row, ln, sigmoid, silu, softplus};
pub use matmul::{
    GatedTask, MatmulTask, Rows, SEGMENTS_MAX, matmul, parallel_gated, parallel_matmul,
    segments_for,
};
pub use mix::{LogSum, add, argmax, axpy, max, scale, sigmoid_gate, softmax, swiglu};
pub use norm::{gated_rms_norm, l2_norm_in_place, rms_norm, rms_norm_in_place, rms_norm_rows};
pub use peaks::{multiply_f32, multiply_i8, read_through};
pub use pool::{
    Chunks, ColumnsMut, Pool, parallel_chunks, parallel_chunks2, parallel_chunks3, parallel_columns,
};
pub use quantize::{can_quantize, quantize_row};
pub use rope::{Pairing, RopeTable, rope};
pub use route::{Weights, route};
pub use weight::{Matrix, WeightType};
