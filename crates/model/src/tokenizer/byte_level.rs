//! The alphabet of byte-level vocabularies: every byte is written as one printable character.
//!
//! Printable Latin-1 characters stand for themselves; the other 68 bytes, in ascending order, are written as the
//! characters from U+0100 on. A space is therefore `Ġ`. It knows nothing of tokens.

/// First character of the bytes that cannot be written as themselves.
const SHIFTED: u32 = 0x100;

/// Whether a byte is written as the Latin-1 character of the same number.
const fn is_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The alphabet, in the direction of decoding.
pub(super) struct Alphabet {
    /// Byte of the character U+0100 + index.
    shifted: Vec<u8>,
}

impl Alphabet {
    pub(super) fn new() -> Self {
        Self {
            shifted: (0..=u8::MAX).filter(|&byte| !is_itself(byte)).collect(),
        }
    }

    /// The byte that a character stands for.
    fn byte(&self, character: char) -> Option<u8> {
        let code = u32::from(character);
        if let Ok(byte) = u8::try_from(code) {
            return is_itself(byte).then_some(byte);
        }
        let index = usize::try_from(code.checked_sub(SHIFTED)?).ok()?;
        self.shifted.get(index).copied()
    }

    /// The bytes of a token as vocabularies write it; `None` if it is not written in this alphabet.
    pub(super) fn decode(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|c| self.byte(c)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let alphabet = Alphabet::new();
        let mut found = [0_u32; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(|c| alphabet.byte(c)) {
                found[usize::from(byte)] += 1;
            }
        }
        assert_eq!(found, [1; 256]);
    }

    #[test]
    fn known_characters() {
        let alphabet = Alphabet::new();
        assert_eq!(alphabet.decode("Ġthe"), Some(b" the".to_vec()));
        assert_eq!(alphabet.decode("Ċ"), Some(b"\n".to_vec()));
        assert_eq!(alphabet.decode("Ã©"), Some("é".as_bytes().to_vec()));
        assert_eq!(alphabet.decode("ł"), Some(vec![0xa0]));
        assert_eq!(alphabet.decode("Ń"), Some(vec![0xad]));
        assert_eq!(alphabet.decode("a b"), None);
        assert_eq!(alphabet.decode("世"), None);
    }
}
