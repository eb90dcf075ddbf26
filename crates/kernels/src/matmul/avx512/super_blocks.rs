//! Super-blocks of 256: Q4_K, Q5_K and Q6_K.

use super::super::panel::PanelKernel;
use super::{many_rows, one_row};

/// A stored block.
pub(super) trait SuperBlock {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether products with group sums have a scale of their own; else they belong to the integer sum.
    const MINS: bool;
}

/// Q4_K.
pub(super) struct TypeQ4K;
/// Q5_K.
pub(super) struct TypeQ5K;
/// Q6_K.
pub(super) struct TypeQ6K;

impl SuperBlock for TypeQ4K {
    const BYTES: usize = 144;
    const MINS: bool = true;
}

impl SuperBlock for TypeQ5K {
    const BYTES: usize = 176;
    const MINS: bool = true;
}

impl SuperBlock for TypeQ6K {
    const BYTES: usize = 210;
    const MINS: bool = false;
}

/// The functions of a type.
macro_rules! kernel {
    ($name:ident, $ty:ty, $groups:literal) => {
        /// Panels of this type; its functions need AVX-512 F, BW, VL and VNNI.
        pub(in super::super) static $name: PanelKernel = PanelKernel {
            block_bytes: <$ty as SuperBlock>::BYTES,
            unpack_blocks: 1,
            one: one_row::one::<$ty>,
            unpack: many_rows::unpack::<$ty, $groups>,
            many: many_rows::many::<$ty, $groups>,
        };
    };
}

kernel!(Q4K, TypeQ4K, 8);
kernel!(Q5K, TypeQ5K, 8);
kernel!(Q6K, TypeQ6K, 16);
