//! How the values of a tensor are stored. Owns block sizes and names; never decodes a quantised block.

use std::fmt;

/// Storage of a weight that the engine computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(
    non_camel_case_types,
    reason = "the names of the formats as users know them"
)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// Blocks of 32: f16 scale, signed bytes.
    Q8_0,
    /// Blocks of 32: f16 scale, 4-bit values minus 8.
    Q4_0,
    /// Blocks of 256: 4-bit values, 6-bit scales and minima.
    Q4K,
    /// Blocks of 256: 5-bit values, 6-bit scales and minima.
    Q5K,
    /// Blocks of 256: 6-bit values, 8-bit scales.
    Q6K,
}

impl DType {
    /// All types, for messages and tests.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Values in one block.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` values; `None` if the row is not whole blocks or does not fit.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether blocks share a scale.
    #[must_use]
    pub fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// The name in files and tables, `Q4_K` for example.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// All names in one line, for messages.
    pub(crate) fn supported() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Numbers of GGUF tensor types that may have a meaning.
const GGML_NUMBERS: u32 = 64;

/// A storage type as a file names it: one that we compute with, or one that we can only measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The file format's name of the type.
    pub name: &'static str,
    /// The weight type, if the engine knows it.
    pub weight: Option<DType>,
    /// Values in one block.
    pub block_len: u64,
    /// Bytes of one block.
    pub block_bytes: u64,
}

impl Storage {
    const fn known(name: &'static str, weight: DType, block_len: u64, block_bytes: u64) -> Self {
        Self {
            name,
            weight: Some(weight),
            block_len,
            block_bytes,
        }
    }

    const fn other(name: &'static str, block_len: u64, block_bytes: u64) -> Self {
        Self {
            name,
            weight: None,
            block_len,
            block_bytes,
        }
    }

    /// The type behind a number in a GGUF tensor table; `None` for numbers that the format does not store.
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::known("F32", DType::F32, 1, 4),
            1 => Self::known("F16", DType::F16, 1, 2),
            2 => Self::known("Q4_0", DType::Q4_0, 32, 18),
            3 => Self::other("Q4_1", 32, 20),
            6 => Self::other("Q5_0", 32, 22),
            7 => Self::other("Q5_1", 32, 24),
            8 => Self::known("Q8_0", DType::Q8_0, 32, 34),
            10 => Self::other("Q2_K", 256, 84),
            11 => Self::other("Q3_K", 256, 110),
            12 => Self::known("Q4_K", DType::Q4K, 256, 144),
            13 => Self::known("Q5_K", DType::Q5K, 256, 176),
            14 => Self::known("Q6_K", DType::Q6K, 256, 210),
            16 => Self::other("IQ2_XXS", 256, 66),
            17 => Self::other("IQ2_XS", 256, 74),
            18 => Self::other("IQ3_XXS", 256, 98),
            19 => Self::other("IQ1_S", 256, 50),
            20 => Self::other("IQ4_NL", 32, 18),
            21 => Self::other("IQ3_S", 256, 110),
            22 => Self::other("IQ2_S", 256, 82),
            23 => Self::other("IQ4_XS", 256, 136),
            24 => Self::other("I8", 1, 1),
            25 => Self::other("I16", 1, 2),
            26 => Self::other("I32", 1, 4),
            27 => Self::other("I64", 1, 8),
            28 => Self::other("F64", 1, 8),
            29 => Self::other("IQ1_M", 256, 56),
            30 => Self::known("BF16", DType::BF16, 1, 2),
            34 => Self::other("TQ1_0", 256, 54),
            35 => Self::other("TQ2_0", 256, 66),
            39 => Self::other("MXFP4", 32, 17),
            40 => Self::other("NVFP4", 64, 36),
            41 => Self::other("Q1_0", 128, 18),
            _ => return None,
        })
    }

    /// The number of the type in a GGUF tensor table; `None` for types that only other formats have.
    pub(crate) fn ggml_number(&self) -> Option<u32> {
        (0..GGML_NUMBERS).find(|number| Self::from_ggml(*number).as_ref() == Some(self))
    }

    /// The storage of a weight type.
    pub(crate) fn of(weight: DType) -> Self {
        Self::known(
            weight.name(),
            weight,
            weight.block_len() as u64,
            weight.block_bytes() as u64,
        )
    }

    /// The type behind a name in a safetensors header; `None` for names that we cannot measure.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        Some(match name {
            "F32" => Self::known("F32", DType::F32, 1, 4),
            "F16" => Self::known("F16", DType::F16, 1, 2),
            "BF16" => Self::known("BF16", DType::BF16, 1, 2),
            "BOOL" => Self::other("BOOL", 1, 1),
            "U8" => Self::other("U8", 1, 1),
            "I8" => Self::other("I8", 1, 1),
            "F8_E5M2" => Self::other("F8_E5M2", 1, 1),
            "F8_E4M3" => Self::other("F8_E4M3", 1, 1),
            "F8_E8M0" => Self::other("F8_E8M0", 1, 1),
            "U16" => Self::other("U16", 1, 2),
            "I16" => Self::other("I16", 1, 2),
            "U32" => Self::other("U32", 1, 4),
            "I32" => Self::other("I32", 1, 4),
            "F64" => Self::other("F64", 1, 8),
            "U64" => Self::other("U64", 1, 8),
            "I64" => Self::other("I64", 1, 8),
            "C64" => Self::other("C64", 1, 8),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_agree_on_block_sizes() {
        for number in 0..GGML_NUMBERS {
            let Some(storage) = Storage::from_ggml(number) else {
                continue;
            };
            assert_eq!(storage.ggml_number(), Some(number));
            if let Some(weight) = storage.weight {
                assert_eq!(storage.name, weight.name());
                assert_eq!(storage.block_len, weight.block_len() as u64);
                assert_eq!(storage.block_bytes, weight.block_bytes() as u64);
                assert_eq!(storage, Storage::of(weight));
            }
        }
        assert!(
            Storage::from_ggml(9).is_none(),
            "an activation type is never stored"
        );
    }

    #[test]
    fn a_row_must_be_whole_blocks() {
        assert_eq!(DType::Q4K.row_bytes(512), Some(288));
        assert_eq!(DType::Q4K.row_bytes(300), None);
        assert_eq!(DType::F16.row_bytes(3), Some(6));
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
