//! Check words: four words that two people, or one person before two screens, compare.
//!
//! Owns the list and how words come from a hash. Must never carry a secret: words are shown to everybody. Four of 2048
//! words are 44 bits; that suffices because nobody can try many: the words of a request depend on two shares, one of
//! which was committed to before the other was known, and the words of a key only help to choose among households.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use proto::NodeId;

/// Words of the list, in the order of the alphabet; their places are part of the protocol.
static LIST: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("words.txt").split_whitespace().collect());
/// Bits that choose one word.
const WORD_BITS: u32 = 11;
/// Words that are shown.
const WORDS: usize = 4;

/// Four words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckWords([u16; WORDS]);

impl CheckWords {
    /// The words of a coordinator's key: the same on its own screen and on those of machines that want to join.
    #[must_use]
    pub fn of_key(node: &NodeId) -> Self {
        let hash = blake3::derive_key("hearth 2026 check words of a key", node.as_str().as_bytes());
        Self::of_hash(&hash)
    }

    /// The words that the first 44 bits of a hash choose.
    pub(crate) fn of_hash(hash: &[u8; 32]) -> Self {
        let (head, _) = hash.split_at(8);
        let bits = head
            .iter()
            .fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        let mut shift = u64::BITS;
        Self([(); WORDS].map(|()| {
            shift -= WORD_BITS;
            u16::try_from((bits >> shift) & ((1 << WORD_BITS) - 1)).unwrap_or_default()
        }))
    }
}

impl fmt::Display for CheckWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, word) in self.0.iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            let word = LIST.get(usize::from(*word)).copied().unwrap_or("?");
            write!(f, "{gap}{word}")?;
        }
        Ok(())
    }
}

/// A text that is not four words of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not {WORDS} check words as the other screen shows them")]
pub struct CheckWordsError(String);

impl FromStr for CheckWords {
    type Err = CheckWordsError;

    fn from_str(text: &str) -> Result<Self, CheckWordsError> {
        let wrong = || CheckWordsError(text.chars().take(80).collect());
        let places: Vec<u16> = text
            .split(|c: char| c.is_whitespace() || c == '-')
            .filter(|word| !word.is_empty())
            .take(WORDS + 1)
            .map(|word| {
                let place = LIST.binary_search(&word.to_ascii_lowercase().as_str());
                place.ok().and_then(|place| u16::try_from(place).ok())
            })
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        places.try_into().map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_2048_different_plain_words_in_order() {
        assert_eq!(LIST.len(), 1 << WORD_BITS);
        assert!(LIST.is_sorted_by(|a, b| a < b));
        for word in LIST.iter() {
            let plain = word.bytes().all(|b| b.is_ascii_lowercase());
            assert!(plain && (3..=9).contains(&word.len()), "{word}");
        }
    }

    #[test]
    fn the_places_of_words_stay_what_they_are() {
        let list = LIST.join(" ");
        let hash = blake3::hash(list.as_bytes()).to_hex();
        assert_eq!(&hash[..16], "7815cd82ea098632");
    }

    #[test]
    fn words_are_read_back_as_they_are_shown() {
        for byte in 0..=255u8 {
            let words = CheckWords::of_hash(blake3::hash(&[byte]).as_bytes());
            let text = words.to_string();
            assert_eq!(text.split(' ').count(), WORDS);
            assert_eq!(text.parse(), Ok(words));
            let loud = text.to_ascii_uppercase().replace(' ', "-");
            assert_eq!(loud.parse(), Ok(words));
        }
        for wrong in [
            "",
            "acorn",
            "acorn acorn acorn",
            "acorn acorn acorn xyzzy",
            "a b c d e",
        ] {
            assert!(wrong.parse::<CheckWords>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_bits_count() {
        let none = CheckWords::of_hash(&[0; 32]);
        for bit in 0..44 {
            let mut hash = [0u8; 32];
            hash[bit / 8] |= 0x80 >> (bit % 8);
            assert_ne!(CheckWords::of_hash(&hash), none, "bit {bit}");
        }
    }
}
