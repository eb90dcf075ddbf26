//! The instruction sets that kernels are written for, and which of them this processor has.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// An instruction set chosen at run time. All of them give equal bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Portable Rust; the definition of every kernel.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// 64-bit Arm with NEON dot product.
    Neon,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The fastest instruction set of this processor.
    #[must_use]
    pub fn detect() -> Isa {
        [Isa::Avx512, Isa::Avx2, Isa::Neon]
            .into_iter()
            .find(|isa| isa.available())
            .unwrap_or(Isa::Scalar)
    }

    /// Whether this processor (and this build) can run kernels of this instruction set.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }

    /// The instruction sets that this processor can run, slowest first.
    pub fn usable() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.available())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    /// Accepts `auto` (the fastest) or the name of one that this processor has.
    fn from_str(text: &str) -> Result<Self, KernelError> {
        if text == "auto" {
            return Ok(Isa::detect());
        }
        Isa::usable()
            .find(|isa| isa.to_string() == text)
            .ok_or_else(|| {
                let others: String = Isa::usable()
                    .filter(|isa| *isa != Isa::Scalar)
                    .map(|isa| format!(", {isa}"))
                    .collect();
                KernelError::Isa(text.to_owned(), others)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_fastest_usable_set() {
        assert_eq!("auto".parse::<Isa>(), Ok(Isa::detect()));
        assert_eq!(Isa::usable().last(), Some(Isa::detect()));
    }

    #[test]
    fn unknown_name_lists_what_can_be_used() {
        let error = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(
            error.contains("sse9") && error.contains("scalar"),
            "{error}"
        );
    }
}
