//! Checksums as the hub gives them, computed while bytes pass.
//!
//! Large files have the SHA-256 of their content. Others have the name that git gives them: the SHA-1 of a short head with
//! the length, and the content.

use std::io::Read;

use sha2::Digest as _;

use crate::manifest::Checksum;

/// A checksum in the making.
#[derive(Clone)]
pub(crate) enum Running {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
}

impl Running {
    /// Begins the kind of checksum that a file of `bytes` is compared with.
    pub(crate) fn begin(checksum: &Checksum, bytes: u64) -> Self {
        match checksum {
            Checksum::Sha256(_) => Self::Sha256(sha2::Sha256::new()),
            Checksum::GitBlob(_) => {
                let mut hash = sha1::Sha1::new();
                hash.update(format!("blob {bytes}\0").as_bytes());
                Self::Git(hash)
            }
        }
    }

    /// Takes in more of the content.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// The checksum in small hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => hex::encode(hash.finalize()),
            Self::Git(hash) => hex::encode(hash.finalize()),
        }
    }
}

/// Takes in all that `reader` has; gives the number of bytes.
pub(crate) fn update_from(running: &mut Running, mut reader: impl Read) -> std::io::Result<u64> {
    let mut buffer = vec![0u8; 1 << 20];
    let mut total = 0u64;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        running.update(buffer.get(..count).unwrap_or_default());
        total = total.saturating_add(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_checksums_are_those_of_their_tools() {
        let of = |checksum: Checksum| {
            let mut running = Running::begin(&checksum, 6);
            update_from(&mut running, b"hello\n".as_slice()).unwrap();
            running.finish()
        };
        // `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(
            of(Checksum::Sha256(String::new())),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!(
            of(Checksum::GitBlob(String::new())),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
    }
}
