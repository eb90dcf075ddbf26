//! Which tokens may be drawn at one position: a bit per row of the head.
//!
//! The coordinator computes masks while the forward pass runs; the last stage draws under them. The one idea: a mask
//! that exists allows at least one token, so nobody who holds one can be left with nothing to draw.

use std::sync::Arc;

use thiserror::Error;

use crate::limits;

/// Bits of one word.
const WORD_BITS: u32 = u32::BITS;

/// A set of token ids that is not empty. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenMask {
    /// Bit `id % 32` of word `id / 32`.
    words: Arc<[u32]>,
}

/// Words that are no mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MaskError {
    /// More tokens than a model may have.
    #[error("a token mask of {got} words came, at most {max} are accepted")]
    TooLong {
        /// What came.
        got: usize,
        /// The cap.
        max: u32,
    },
    /// No token may be drawn.
    #[error("a token mask that allows no token came, at least one was expected")]
    Empty,
}

impl TokenMask {
    /// Checks words of 32 tokens each, the lowest ids first.
    ///
    /// # Errors
    /// When there are too many, or none of them has a bit.
    pub fn new(words: impl Into<Arc<[u32]>>) -> Result<Self, MaskError> {
        let words = words.into();
        if words.len() > limits::MASK_WORDS_MAX as usize {
            return Err(MaskError::TooLong {
                got: words.len(),
                max: limits::MASK_WORDS_MAX,
            });
        }
        if words.iter().all(|word| *word == 0) {
            return Err(MaskError::Empty);
        }
        Ok(Self { words })
    }

    /// Words of a mask for a head of so many rows.
    #[must_use]
    pub fn words_for(vocab: u32) -> u32 {
        vocab.div_ceil(WORD_BITS)
    }

    /// The words, lowest ids first.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether a token may be drawn. Ids beyond the mask may not.
    #[must_use]
    pub fn allows(&self, id: u32) -> bool {
        let word = self.words.get((id / WORD_BITS) as usize);
        word.is_some_and(|word| word >> (id % WORD_BITS) & 1 == 1)
    }

    /// The tokens that may be drawn, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(self.words.iter()).flat_map(|(at, word)| {
            let bits = (0..WORD_BITS).filter(move |bit| word >> bit & 1 == 1);
            bits.map(move |bit| at * WORD_BITS + bit)
        })
    }

    /// Whether it is one for a head of so many rows: as long, and with no token beyond it.
    #[must_use]
    pub fn fits(&self, vocab: u32) -> bool {
        let whole = self.words.len() == Self::words_for(vocab) as usize;
        let spare = vocab % WORD_BITS;
        let last = self.words.last().copied().unwrap_or(0);
        whole && (spare == 0 || last >> spare == 0)
    }
}

/// What may be drawn is what was asked for in private: only the size is shown.
impl std::fmt::Debug for TokenMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenMask({} words)", self.words.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_says_which_tokens_it_has() {
        let mask = TokenMask::new([0b101, 0, 1 << 31]).unwrap();
        assert_eq!(mask.ids().collect::<Vec<_>>(), [0, 2, 95]);
        for (id, expected) in [(0, true), (1, false), (2, true), (95, true), (96, false)] {
            assert_eq!(mask.allows(id), expected, "{id}");
        }
    }

    #[test]
    fn words_that_are_no_mask_are_refused() {
        let max = limits::MASK_WORDS_MAX as usize;
        let cases = [
            (vec![], Some(MaskError::Empty)),
            (vec![0; 4], Some(MaskError::Empty)),
            (vec![0, 1], None),
            (vec![1; max], None),
            (
                vec![1; max + 1],
                Some(MaskError::TooLong {
                    got: max + 1,
                    max: limits::MASK_WORDS_MAX,
                }),
            ),
        ];
        for (words, expected) in cases {
            let len = words.len();
            assert_eq!(TokenMask::new(words).err(), expected, "{len} words");
        }
    }

    #[test]
    fn a_mask_fits_one_size_of_head() {
        let mask = TokenMask::new([1, 0b111]).unwrap();
        for (vocab, fits) in [
            (32, false),
            (33, false),
            (34, false),
            (35, true),
            (64, true),
            (65, false),
        ] {
            assert_eq!(mask.fits(vocab), fits, "{vocab}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let mask = TokenMask::new([42]).unwrap();
        assert_eq!(format!("{mask:?}"), "TokenMask(1 words)");
    }
}
