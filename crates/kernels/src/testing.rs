//! What the tests of this crate share: reproducible inputs and comparisons. Built for tests only.

/// `n` values in about -2 .. 2 from a fixed generator, different for each `seed`.
pub(crate) fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 2.0
        })
        .collect()
}

/// The bits of every value, for comparisons that mean equality.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Asserts `|got - want| <= bound * max(1, |want|)` for every value.
pub(crate) fn assert_close(got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(
            error <= bound * want.abs().max(1.0),
            "value {i}: got {got}, expected {want}"
        );
    }
}
