//! What makes two copies of a model the same: size of all files, and a hash of everything but the weights.

use std::fmt;

use crate::map::MappedFile;

/// Identity of a model: a node opens a path only if this equals the coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Bytes of all files together.
    pub size_bytes: u64,
    /// BLAKE3 of the heads (metadata and tensor tables) of all files in order, and of config.json for safetensors.
    pub blake3: [u8; 32],
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, ", self.size_bytes)?;
        self.blake3
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Identity {
    /// Hashes the heads of `files`, whose lengths are `header_bytes`, and `config`.
    pub(crate) fn of(files: &[MappedFile], header_bytes: &[u64], config: Option<&[u8]>) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(b"hearth-model-1");
        let mut size_bytes: u64 = 0;
        for (file, header_bytes) in files.iter().zip(header_bytes) {
            size_bytes = size_bytes.saturating_add(file.size_bytes());
            let len = usize::try_from(*header_bytes).unwrap_or(usize::MAX);
            let head = file.bytes().get(..len).unwrap_or(file.bytes());
            hash.update(&file.size_bytes().to_le_bytes());
            hash.update(&(head.len() as u64).to_le_bytes());
            hash.update(head);
        }
        if let Some(config) = config {
            hash.update(&(config.len() as u64).to_le_bytes());
            hash.update(config);
        }
        Self {
            size_bytes,
            blake3: *hash.finalize().as_bytes(),
        }
    }
}
