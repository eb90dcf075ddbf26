//! Counter-based random numbers: the number is a function of seed, choice and position.

/// A number in [0, 1) with 53 random bits.
pub(super) fn uniform(seed: u64, choice: u32, position: u32) -> f64 {
    let [a, b, ..] = philox([position, choice, 0, 0], seed);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let whole = bits as f64;
    whole * (1.0 / 9_007_199_254_740_992.0)
}

/// Philox4x32 with ten rounds.
fn philox(mut c: [u32; 4], seed: u64) -> [u32; 4] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = seed.to_le_bytes();
    let mut key = [
        u32::from_le_bytes([s0, s1, s2, s3]),
        u32::from_le_bytes([s4, s5, s6, s7]),
    ];
    let halves = |product: u64| {
        let [a, b, c, d, e, f, g, h] = product.to_le_bytes();
        (
            u32::from_le_bytes([e, f, g, h]),
            u32::from_le_bytes([a, b, c, d]),
        )
    };
    for _ in 0..10 {
        let (hi0, lo0) = halves(u64::from(c[0]) * 0xD251_1F53);
        let (hi1, lo1) = halves(u64::from(c[2]) * 0xCD9E_8D57);
        c = [hi1 ^ c[1] ^ key[0], lo1, hi0 ^ c[3] ^ key[1], lo0];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Philox4x32-10 from the Random123 distribution.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox([0; 4], 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                0x299f_31d0_a409_3822
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
