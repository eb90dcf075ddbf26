//! A key: made at random, recognised at sight, kept as a hash.

use std::fmt;

use rand::TryRngCore as _;

/// What every key begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "hearth-";
/// Random bytes of a key.
const RANDOM_BYTES: usize = 20;

/// The hash of a key: neither memory dumps nor logs show the key.
#[derive(Clone)]
pub struct ApiKey(blake3::Hash);

impl ApiKey {
    /// The key with this text.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self::of(key.as_bytes())
    }

    /// What came in place of a key.
    pub(super) fn of(offered: &[u8]) -> Self {
        Self(blake3::hash(offered))
    }

    /// A key of the record.
    pub(super) fn of_hash(hash: [u8; 32]) -> Self {
        Self(hash.into())
    }

    /// What the record keeps.
    pub(super) fn hash(&self) -> [u8; 32] {
        *self.0.as_bytes()
    }

    /// Whether both are the same key. Takes the same time whatever they are.
    pub(super) fn same(&self, other: &ApiKey) -> bool {
        // Comparison of these hashes is constant-time.
        self.0 == other.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// A new key: the text to show once.
///
/// # Errors
/// The system gives no random bytes.
pub(super) fn generate() -> Result<String, rand::rand_core::OsError> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes)?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(PREFIX
        .chars()
        .chain(digits.collect::<String>().chars())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_new_each_time_and_easy_to_recognise() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, two);
        for key in [&one, &two] {
            let digits = key.strip_prefix("hearth-").unwrap();
            assert_eq!(digits.len(), 40, "160 bits");
            assert!(digits.bytes().all(|b| b.is_ascii_hexdigit()));
        }
        assert!(ApiKey::new(&one).same(&ApiKey::of(one.as_bytes())));
        assert!(!ApiKey::new(&one).same(&ApiKey::new(&two)));
        assert!(!format!("{:?}", ApiKey::new(&one)).contains(&one));
    }
}
