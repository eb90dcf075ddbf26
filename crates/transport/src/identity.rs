//! The key that says who this machine is.
//!
//! Owns the key file: 64 hexadecimal digits in a file that its owner alone may read, written once, whole or
//! not at all. Must never show the key in a log or an error. The id of a machine is its public key (PeerId).

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use libp2p_identity::{Keypair, ed25519};
use proto::NodeId;
use thiserror::Error;

const FIRST_LINE: &str = "hearth identity 1";
const FILE_BYTES_MAX: u64 = 256;

/// A machine's key pair.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    node: NodeId,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("key", &"(masked)")
            .finish()
    }
}

/// The key file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot {act} the key file {path}: {source}")]
    File {
        /// `read`, `write` or the like.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others may read the key.
    #[error(
        "the key file {path} may be read by others (mode {mode:03o}, expected 600): if nobody else had it, run `chmod 600 {path}`; otherwise delete it and join anew"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no key file.
    #[error(
        "{path} is not a Hearth key file ({what}): restore it from a backup, or delete it and join anew"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

impl Identity {
    /// A new key, kept in memory alone.
    #[must_use]
    pub fn generate() -> Self {
        Self::of(ed25519::Keypair::generate())
    }

    /// Reads the key file, or makes a new key and its file. Two programs that start at once get the same key.
    ///
    /// # Errors
    /// When the file cannot be read or written, when others may read it, or when it is no key file.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(path)? {
            return Ok(identity);
        }
        let identity = Self::generate();
        if identity.store(path)? {
            return Ok(identity);
        }
        Self::load(path)?.ok_or_else(|| IdentityError::File {
            act: "read",
            path: path.into(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// The machine's id.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        &self.node
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    #[allow(
        clippy::expect_used,
        reason = "our own invariant: the base58 form of an Ed25519 PeerId is 52 letters and digits"
    )]
    fn of(keypair: ed25519::Keypair) -> Self {
        let keypair = Keypair::from(keypair);
        let text = keypair.public().to_peer_id().to_base58();
        Self {
            node: NodeId::new(text).expect("a PeerId is letters and digits"),
            keypair,
        }
    }

    fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let failed = |source| IdentityError::File {
            act: "read",
            path: path.into(),
            source,
        };
        let malformed = |what| IdentityError::Malformed {
            path: path.into(),
            what,
        };
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(malformed("it is not a file"));
        }
        refuse_exposed(path, &metadata)?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|_| malformed("it is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(malformed("its first line is another"));
        }
        let mut seed = [0; 32];
        let digits = lines.next().unwrap_or_default().as_bytes();
        if digits.len() != 64 || lines.next().is_some() {
            return Err(malformed("its second line is not the whole key"));
        }
        HEXLOWER
            .decode_mut(digits, &mut seed)
            .map_err(|_| malformed("its second line is not hexadecimal"))?;
        let secret = ed25519::SecretKey::try_from_bytes(&mut seed)
            .map_err(|_| malformed("its key is not an Ed25519 key"))?;
        Ok(Some(Self::of(secret.into())))
    }

    /// Writes the file beside its place and links it there, so that it is whole or absent. `false` when
    /// another program was faster.
    fn store(&self, path: &Path) -> Result<bool, IdentityError> {
        let failed = |act| {
            move |source| IdentityError::File {
                act,
                path: path.into(),
                source,
            }
        };
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let part = folder.join(format!(".identity-{:016x}.part", rand::random::<u64>()));
        let written = self.write_part(&part).map_err(failed("write"));
        let linked = written.and_then(|()| link(&part, path).map_err(failed("create")));
        let removed = fs::remove_file(&part);
        let linked = linked?;
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("tidy up after")(error));
            }
            _ => {}
        }
        sync_folder(folder).map_err(failed("keep"))?;
        Ok(linked)
    }

    fn write_part(&self, part: &Path) -> io::Result<()> {
        let keypair = self.keypair.clone().try_into_ed25519();
        let keypair = keypair.map_err(io::Error::other)?;
        let seed = keypair.secret();
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(part)?;
        let digits = HEXLOWER.encode(seed.as_ref());
        file.write_all(format!("{FIRST_LINE}\n{digits}\n").as_bytes())?;
        file.sync_all()
    }
}

/// Gives a finished file its name without replacing another; where links are unknown, by renaming.
fn link(part: &Path, path: &Path) -> io::Result<bool> {
    match fs::hard_link(part, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) if !path.exists() => fs::rename(part, path).map(|()| true),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, metadata: &fs::Metadata) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            path: path.into(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path, _: &fs::Metadata) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_the_same_and_is_masked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.node_id(), second.node_id());
        assert!(first.node_id().as_str().starts_with("12D3KooW"));
        let text = fs::read_to_string(&path).unwrap();
        let digits = text.lines().nth(1).unwrap();
        assert_eq!(digits.len(), 64);
        assert!(!format!("{first:?}").contains(digits));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_creator_takes_the_first_ones_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        assert!(Identity::generate().store(&path).unwrap());
        let before = fs::read(&path).unwrap();
        assert!(!Identity::generate().store(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        Identity::load_or_create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        for mode in [0o640, 0o604, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Exposed { .. }));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn files_that_are_no_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let key = "ab".repeat(32);
        for text in [
            String::new(),
            format!("hearth identity 2\n{key}\n"),
            format!("{FIRST_LINE}\n"),
            format!("{FIRST_LINE}\n{}\n", &key[..62]),
            format!("{FIRST_LINE}\n{key}\n{key}\n"),
            format!("{FIRST_LINE}\n{}zz\n", &key[..62]),
            "x".repeat(1 << 20),
        ] {
            let _ = fs::remove_file(&path);
            let part = folder.path().join("part");
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options
                .open(&part)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            fs::rename(&part, &path).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
        }
        assert!(Identity::load_or_create(folder.path()).is_err());
    }
}
