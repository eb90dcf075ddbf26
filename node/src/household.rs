//! Which household this machine belongs to: kept in the data directory, so that it comes back without an invite.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use proto::NodeId;
use proto::limits::ADDRESSES_MAX;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const FILE_NAME: &str = "household.json";
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The household that this machine was paired with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Household {
    /// The coordinator's key.
    pub coordinator: NodeId,
    /// Where it was last seen.
    pub addresses: Vec<SocketAddr>,
}

/// The file in the data directory cannot be used.
#[derive(Debug, Error)]
pub enum HouseholdError {
    /// It cannot be read or written.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// It does not hold a household.
    #[error("{0} does not name a household ({1}); remove it and join again with an invite")]
    Content(String, String),
}

impl Household {
    /// The household of `data_dir`, if this machine was paired.
    ///
    /// # Errors
    /// When the file is there but cannot be read or is not ours.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, HouseholdError> {
        let path = data_dir.join(FILE_NAME);
        let name = path.display().to_string();
        let file = |e| HouseholdError::File(name.clone(), e);
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file(e)),
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(HouseholdError::Content(
                    name,
                    format!("{} bytes long", meta.len()),
                ));
            }
            Ok(_) => {}
        }
        let text = std::fs::read(&path).map_err(file)?;
        let found: Self = serde_json::from_slice(&text)
            .map_err(|e| HouseholdError::Content(name.clone(), e.to_string()))?;
        if found.addresses.is_empty() || found.addresses.len() > ADDRESSES_MAX {
            let count = format!("{} addresses", found.addresses.len());
            return Err(HouseholdError::Content(name, count));
        }
        Ok(Some(found))
    }

    /// Writes it so that a crash leaves the old or the new file, never half of one.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn save(&self, data_dir: &Path) -> Result<(), HouseholdError> {
        let path = data_dir.join(FILE_NAME);
        let fresh = data_dir.join("household.json.new");
        let file = |e| HouseholdError::File(path.display().to_string(), e);
        let text = serde_json::to_vec_pretty(self).map_err(|e| file(e.into()))?;
        let mut out = std::fs::File::create(&fresh).map_err(file)?;
        out.write_all(&text)
            .and_then(|()| out.sync_all())
            .map_err(file)?;
        std::fs::rename(&fresh, &path).map_err(file)
    }

    /// Forgets the household; nothing to forget is fine.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub fn forget(data_dir: &Path) -> Result<(), HouseholdError> {
        let path = data_dir.join(FILE_NAME);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(HouseholdError::File(path.display().to_string(), e))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_again_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Household::load(dir.path()).unwrap(), None);
        let home = Household {
            coordinator: NodeId::new("abc").unwrap(),
            addresses: vec!["127.0.0.1:7411".parse().unwrap()],
        };
        home.save(dir.path()).unwrap();
        assert_eq!(Household::load(dir.path()).unwrap(), Some(home));
        Household::forget(dir.path()).unwrap();
        Household::forget(dir.path()).unwrap();
        assert_eq!(Household::load(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{}", "{\"coordinator\":\"a\",\"addresses\":[]}", "[1]"] {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let error = Household::load(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains(FILE_NAME) && error.contains("join again"),
                "{error}"
            );
        }
    }
}
