//! One body, several instruction sets.
//!
//! Owns the macro that instantiates a kernel once for each instruction set. Every kernel is written once, in
//! plain Rust with fixed lanes; the compiler may choose other instructions for it, but never other roundings,
//! since Rust neither reorders nor contracts floating point. So equal bits hold by construction.

/// Declares `fn name(isa, args..)` that runs `body(args..)`, an `#[inline(always)]` function, compiled for `isa`.
/// An instruction set that this processor lacks runs the portable form.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "functions with target features are called after a check for them")]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 if isa.available() => {
                    // SAFETY: the processor has just been asked for these features.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 if isa.available() => {
                    // SAFETY: the processor has just been asked for these features.
                    unsafe { avx2($($arg),*) }
                }
                // On 64-bit Arm the portable form already compiles to NEON with fused multiply-add.
                _ => $body($($arg),*),
            }
        }
    };
}
