//! A set of numbers below a fixed count, as bytes: which shards or pieces somebody has.

/// A set of numbers; number `n` is bit `n % 8` of byte `n / 8`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    /// The empty set of numbers below `count`.
    #[must_use]
    pub fn none(count: usize) -> Self {
        Self {
            bytes: vec![0; count.div_ceil(8)],
            count,
        }
    }

    /// All numbers below `count`.
    #[must_use]
    pub fn all(count: usize) -> Self {
        let mut bits = Self::none(count);
        (0..count).for_each(|n| bits.set(n));
        bits
    }

    /// From bytes; `None` unless they are exactly as many as `count` numbers need and no number beyond is in.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>, count: usize) -> Option<Self> {
        let spare = bytes.len().checked_mul(8)?.checked_sub(count)?;
        let last = bytes.last().copied().unwrap_or(0);
        let clean = spare < 8 && (spare == 0 || last.leading_zeros() as usize >= spare);
        clean.then_some(Self { bytes, count })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `n` is in.
    #[must_use]
    pub fn has(&self, n: usize) -> bool {
        n < self.count
            && self
                .bytes
                .get(n / 8)
                .is_some_and(|byte| byte >> (n % 8) & 1 == 1)
    }

    /// Puts `n` in; numbers that do not exist are ignored.
    pub fn set(&mut self, n: usize) {
        if n < self.count
            && let Some(byte) = self.bytes.get_mut(n / 8)
        {
            *byte |= 1 << (n % 8);
        }
    }

    /// Takes `n` out.
    pub fn clear(&mut self, n: usize) {
        if let Some(byte) = self.bytes.get_mut(n / 8) {
            *byte &= !(1 << (n % 8));
        }
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
            .iter()
            .map(|byte| byte.count_ones() as usize)
            .sum()
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out_and_bytes_are_checked() {
        let mut bits = Bits::none(11);
        for n in [0, 7, 8, 10, 11, 500] {
            bits.set(n);
        }
        assert_eq!((bits.len(), bits.has(10), bits.has(11)), (4, true, false));
        assert_eq!(bits.as_bytes(), [0x81, 0x05]);
        assert_eq!(Bits::from_bytes(vec![0x81, 0x05], 11), Some(bits.clone()));
        bits.clear(7);
        assert!(!bits.has(7) && bits.has(8));
        assert!(Bits::from_bytes(vec![0x81, 0x0d], 11).is_none());
        assert!(Bits::from_bytes(vec![0x81], 11).is_none());
        assert!(Bits::from_bytes(vec![0, 0, 0], 11).is_none());
        assert_eq!(Bits::from_bytes(Vec::new(), 0), Some(Bits::none(0)));
        assert_eq!(Bits::all(11).len(), 11);
        assert!(Bits::none(11).is_empty());
    }
}
