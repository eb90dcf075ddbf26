//! The API's certificate: the household's own, made once, or one that the owner has.
//!
//! Owns its two files and what TLS is agreed on. Must never show a private key. The household's own certificate is
//! signed by itself: clients are told to trust it by its file or its fingerprint.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// The household's certificate in the data directory; clients may be given a copy.
pub const CERT_FILE: &str = "api-cert.pem";
/// Its private key.
pub const KEY_FILE: &str = "api-key.pem";
/// Bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Certificates of a chain.
const CHAIN_MAX: usize = 16;

/// A certificate with its key, ready to serve.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    fingerprint: String,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({})", self.fingerprint)
    }
}

/// Why there is no certificate to serve with.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {act} {path}: {source}")]
    File {
        /// `read` or `write`.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {expected} in PEM form")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// Certificate and key do not work.
    #[error(
        "{cert} cannot be served: {text}; the certificate has to come first in its file, and the key has to be its own"
    )]
    Unfit {
        /// The certificate's file.
        cert: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The household's own certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Made(String),
}

impl Tls {
    /// The owner's certificate, with the chain behind it if there is one.
    ///
    /// # Errors
    /// A file cannot be read, or both do not belong together.
    pub fn given(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| TlsError::Content {
            path: key.to_owned(),
            expected: "private key",
        })?;
        let fingerprint = chain
            .first()
            .map(|first| fingerprint(first))
            .unwrap_or_default();
        let unfit = |error: rustls::Error| TlsError::Unfit {
            cert: cert.to_owned(),
            text: error.to_string(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unfit)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            fingerprint,
        })
    }

    /// The household's own certificate, made for these names and addresses if there is none yet.
    ///
    /// # Errors
    /// It cannot be made, read or written.
    pub fn household(data_dir: &Path, names: Vec<String>) -> Result<Self, TlsError> {
        let (cert, key) = (data_dir.join(CERT_FILE), data_dir.join(KEY_FILE));
        if !cert.exists() {
            // Written last: a key without it was never served.
            make(&cert, &key, names)?;
        }
        Self::given(&cert, &key)
    }

    /// SHA-256 of the certificate, as browsers show it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = || TlsError::Content {
        path: path.to_owned(),
        expected: "certificate",
    };
    let bytes = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes)
        .take(CHAIN_MAX)
        .collect();
    let chain = chain.map_err(|_| content())?;
    if chain.is_empty() {
        Err(content())
    } else {
        Ok(chain)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fail = |source| TlsError::File {
        act: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(bytes)
}

fn make(cert: &Path, key: &Path, mut names: Vec<String>) -> Result<(), TlsError> {
    let made = |error: rcgen::Error| TlsError::Made(error.to_string());
    names.insert(0, "localhost".to_owned());
    names.sort();
    names.dedup();
    let mut params = CertificateParams::new(names).map_err(made)?;
    let mut who = DistinguishedName::new();
    who.push(DnType::CommonName, "Hearth household");
    params.distinguished_name = who;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let pair = KeyPair::generate().map_err(made)?;
    let signed = params.self_signed(&pair).map_err(made)?;
    write(key, pair.serialize_pem().as_bytes())?;
    write(cert, signed.pem().as_bytes())
}

/// Writes a file that its owner alone may read, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let fail = |source| TlsError::File {
        act: "write",
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    // Temporary files are their owner's alone, and stay so under their new name.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

fn fingerprint(cert: &CertificateDer<'_>) -> String {
    let pairs = Sha256::digest(cert.as_ref());
    let pairs: Vec<String> = pairs.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["hearth.home".to_owned(), "192.168.1.5".to_owned()]
    }

    #[test]
    fn the_households_certificate_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Tls::household(dir.path(), names()).unwrap();
        assert_eq!(first.fingerprint().len(), 32 * 3 - 1);
        let again = Tls::household(dir.path(), Vec::new()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        // A key that no certificate goes with is replaced.
        fs::remove_file(dir.path().join(CERT_FILE)).unwrap();
        let anew = Tls::household(dir.path(), names()).unwrap();
        assert_ne!(first.fingerprint(), anew.fingerprint());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(dir.path().join(KEY_FILE))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0);
        }
    }

    #[test]
    fn files_that_do_not_serve_are_named() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Tls::household(dir.path(), names()).unwrap();
        Tls::household(other.path(), names()).unwrap();
        let (cert, key) = (dir.path().join(CERT_FILE), dir.path().join(KEY_FILE));
        let missing = dir.path().join("missing.pem");
        for (cert, key, words) in [
            (&missing, &key, "cannot read"),
            (&cert, &missing, "cannot read"),
            (&key, &key, "no certificate"),
            (&cert, &cert, "no private key"),
            (&cert, &other.path().join(KEY_FILE), "cannot be served"),
        ] {
            let text = Tls::given(cert, key).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
