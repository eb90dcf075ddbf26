//! Steps that end in quantised rows.
//!
//! Owns compositions of an elementwise step and the quantiser. Never rounds anything that the steps alone would not.
//! The idea: a row goes from one step to the next in the nearest cache instead of through a buffer of all rows.

use super::{ActFormat, quantize_row};
use crate::norm::rms_norm;
use crate::weight::SUPER;
use crate::{Isa, add, swiglu};

/// Values that go through both steps at a time, a multiple of every block.
const PIECE: usize = 2 * SUPER;

/// Quantises `silu(gate) * up`: one row, or any whole blocks.
///
/// # Panics
/// If the lengths of `gate` and `up` differ, or as [`quantize_row`].
pub fn swiglu_quantize(isa: Isa, format: ActFormat, gate: &[f32], up: &[f32], out: &mut [u8]) {
    assert_eq!(gate.len(), up.len(), "rows of different lengths");
    assert_eq!(
        format.row_bytes(gate.len()),
        Some(out.len()),
        "{} values in {format:?}",
        gate.len()
    );
    let mut mid = [0.0; PIECE];
    let bytes = PIECE / format.block_len() * format.block_bytes();
    let pieces = gate.chunks(PIECE).zip(up.chunks(PIECE));
    for ((gate, up), out) in pieces.zip(out.chunks_mut(bytes)) {
        let mid = &mut mid[..gate.len()];
        swiglu(isa, gate, up, mid);
        quantize_row(isa, format, mid, out);
    }
}

/// One row: `x += y`, `normed = rms_norm(x)`, and `normed` quantised into `quantized` if that is wanted.
///
/// # Panics
/// If lengths differ, or as [`quantize_row`].
pub fn add_norm_quantize(
    isa: Isa,
    (x, y): (&mut [f32], &[f32]),
    (weight, eps): (&[f32], f32),
    normed: &mut [f32],
    quantized: Option<(ActFormat, &mut [u8])>,
) {
    add(isa, x, y);
    rms_norm(isa, x, weight, eps, normed);
    if let Some((format, out)) = quantized {
        quantize_row(isa, format, normed, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Acts;
    use crate::testing::{bits, values};

    const FORMATS: [ActFormat; 3] = [ActFormat::F32, ActFormat::Q8_0, ActFormat::Q8K];

    #[test]
    fn gated_rows_have_the_bytes_of_both_steps() {
        for (format, cols) in FORMATS
            .into_iter()
            .flat_map(|format| [(format, 256), (format, 1280)])
            .chain([(ActFormat::Q8_0, 544)])
        {
            let (gate, up) = (values(cols, 30), values(cols, 31));
            let (mut mid, mut want) = (vec![0.0; cols], Acts::new());
            swiglu(Isa::Scalar, &gate, &up, &mut mid);
            want.quantize(Isa::Scalar, format, &mid, cols);
            for isa in Isa::usable() {
                let mut got = Acts::new();
                got.reset(format, 1, cols);
                swiglu_quantize(isa, format, &gate, &up, got.as_bytes_mut());
                assert_eq!(got.as_bytes(), want.as_bytes(), "{isa} {format:?} {cols}");
            }
        }
    }

    #[test]
    fn normed_sums_have_the_bits_of_all_steps() {
        let (start, y, weight) = (values(768, 32), values(768, 33), values(768, 34));
        let (mut x, mut normed) = (start.clone(), vec![0.0; 768]);
        add(Isa::Scalar, &mut x, &y);
        rms_norm(Isa::Scalar, &x, &weight, 1e-6, &mut normed);
        for (isa, format) in Isa::usable().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
            let mut want = Acts::new();
            want.quantize(Isa::Scalar, format, &normed, 768);
            let mut got = Acts::new();
            got.reset(format, 1, 768);
            let (mut sum, mut out) = (start.clone(), vec![0.0; 768]);
            let quantized = Some((format, got.as_bytes_mut()));
            add_norm_quantize(isa, (&mut sum, &y), (&weight, 1e-6), &mut out, quantized);
            assert_eq!((bits(&sum), bits(&out)), (bits(&x), bits(&normed)), "{isa}");
            assert_eq!(got.as_bytes(), want.as_bytes(), "{isa} {format:?}");
            let mut again = start.clone();
            add_norm_quantize(isa, (&mut again, &y), (&weight, 1e-6), &mut out, None);
            assert_eq!(bits(&again), bits(&x), "{isa}");
        }
    }
}
