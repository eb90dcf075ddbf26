//! Small tensors and single rows as f32, the only arithmetic that this crate does on weights.

use half::{bf16, f16};

use crate::DType;

/// The values of a float tensor; `None` for quantised types.
pub(crate) fn widen(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    let count = bytes.len() / dtype.block_bytes();
    let mut values = vec![0.0; count];
    widen_into(dtype, bytes, &mut values)?;
    Some(values)
}

/// Writes the values of a float tensor's bytes into `out`; `None` for quantised types or another number of values.
pub(crate) fn widen_into(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    if dtype.is_quantised() || dtype.row_bytes(out.len()) != Some(bytes.len()) {
        return None;
    }
    match dtype {
        DType::F32 => fill(out, bytes, f32::from_le_bytes),
        DType::F16 => fill(out, bytes, |b| f16::from_le_bytes(b).to_f32()),
        _ => fill(out, bytes, |b| bf16::from_le_bytes(b).to_f32()),
    }
    Some(())
}

fn fill<const N: usize>(out: &mut [f32], bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = read(*bytes);
    }
}

/// The decay from its stored logarithm: `-exp(a)`, with a portable `exp` so that every machine has the same bits.
#[allow(clippy::cast_possible_truncation, reason = "rounded once, to f32")]
pub(crate) fn decay_of_log(a: f32) -> f32 {
    -libm::exp(f64::from(a)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_widens_without_loss() {
        assert_eq!(widen(DType::F32, &1.5f32.to_le_bytes()), Some(vec![1.5]));
        assert_eq!(
            widen(DType::F16, &[0x00, 0x3c, 0x01, 0x00]),
            Some(vec![1.0, 5.960_464_5e-8])
        );
        assert_eq!(widen(DType::BF16, &[0x80, 0xbf]), Some(vec![-1.0]));
        assert_eq!(widen(DType::Q8_0, &[0; 34]), None);
    }

    #[test]
    fn decay_is_minus_exp() {
        assert!((decay_of_log(0.0) - -1.0).abs() < f32::EPSILON);
        assert!((decay_of_log(2.0) - -7.389_056).abs() < 1e-6);
    }
}
