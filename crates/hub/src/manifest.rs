//! What a folder is to hold: written before the download, read by everything afterwards.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proto::limits::MODEL_FILES_MAX;
use serde::{Deserialize, Serialize};

use crate::HubError;
use crate::name::{base_name, is_safe_path};

/// Name of the page in its folder.
const NAME: &str = "hearth-model.json";
/// Bytes of the page.
const BYTES_MAX: u64 = 1 << 20;
/// The form of the page.
const VERSION: u32 = 1;

/// A checksum as the hub gives it, in small hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// SHA-256 of the content: large files.
    Sha256(String),
    /// The name that git gives the content: small files.
    GitBlob(String),
}

impl Checksum {
    /// The digits.
    #[must_use]
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    /// What it is called.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "git blob id",
        }
    }

    /// Whether the digits are as many as the kind has.
    pub(crate) fn is_sound(&self) -> bool {
        let count = match self {
            Self::Sha256(_) => 64,
            Self::GitBlob(_) => 40,
        };
        let small = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        self.digits().len() == count && self.digits().bytes().all(small)
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedFile {
    /// Its path in the repository; here it has the last part of it as its name.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// What its content is compared with.
    pub checksum: Checksum,
}

impl WantedFile {
    /// The name here.
    #[must_use]
    pub fn name(&self) -> &str {
        base_name(&self.path)
    }

    /// Where it stands in `dir`, once it is whole.
    #[must_use]
    pub fn place(&self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }

    /// Where it grows in `dir`. Named by its checksum, so that two versions of a file never mix.
    pub(crate) fn part(&self, dir: &Path) -> PathBuf {
        let digits = self.checksum.digits();
        let tag = digits.get(..16).unwrap_or(digits);
        dir.join(format!(".{}.{tag}.part", self.name()))
    }

    /// Bytes of it that are in `dir`, in the file or in the part of it.
    pub(crate) fn bytes_here(&self, dir: &Path) -> u64 {
        let len = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        if self.is_here(dir) {
            self.bytes
        } else {
            len(&self.part(dir)).min(self.bytes)
        }
    }

    /// Whether it stands in `dir` with its size. Content was compared before it got its name.
    #[must_use]
    pub fn is_here(&self, dir: &Path) -> bool {
        std::fs::metadata(self.place(dir))
            .is_ok_and(|meta| meta.is_file() && meta.len() == self.bytes)
    }
}

/// What one model consists of and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// The model as its owner named it, `hf:ORG/REPO:FILE`.
    pub model: String,
    /// The commit that the files are of.
    pub commit: String,
    /// The host that was asked.
    pub host: String,
    /// The files; of a GGUF model the first part comes first.
    pub files: Vec<WantedFile>,
}

impl Manifest {
    /// A page for these files.
    pub(crate) fn new(model: String, commit: String, host: String, files: Vec<WantedFile>) -> Self {
        Self {
            version: VERSION,
            model,
            commit,
            host,
            files,
        }
    }

    /// Reads the page of `dir`; `None` if there is none.
    ///
    /// # Errors
    /// The page is broken, or names files outside its folder.
    pub fn read(dir: &Path) -> Result<Option<Self>, HubError> {
        let path = dir.join(NAME);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HubError::io(&path, "cannot be opened")(error)),
        };
        let mut text = String::new();
        file.take(BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(HubError::io(&path, "cannot be read"))?;
        let page: Option<Self> = serde_json::from_str(&text).ok();
        match page.filter(Self::is_sound) {
            Some(page) => Ok(Some(page)),
            None => Err(HubError::Folder {
                path,
                what: "is no page that this program wrote; remove it, the files beside it are kept"
                    .to_owned(),
            }),
        }
    }

    /// Writes the page into `dir`: whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), HubError> {
        let path = dir.join(NAME);
        let temporary = dir.join(format!(".{NAME}.part"));
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let written = std::fs::File::create(&temporary).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        });
        written.map_err(HubError::io(&path, "cannot be written"))
    }

    fn is_sound(&self) -> bool {
        let mut names: Vec<&str> = self.files.iter().map(WantedFile::name).collect();
        names.sort_unstable();
        names.dedup();
        self.version == VERSION
            && !self.files.is_empty()
            && self.files.len() <= usize::try_from(MODEL_FILES_MAX).unwrap_or(usize::MAX)
            && names.len() == self.files.len()
            && self
                .files
                .iter()
                .all(|file| is_safe_path(&file.path) && file.checksum.is_sound())
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = self.files.iter().map(|file| file.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// Bytes that are in `dir` already.
    #[must_use]
    pub fn bytes_here(&self, dir: &Path) -> u64 {
        let bytes = self.files.iter().map(|file| file.bytes_here(dir));
        bytes.fold(0, u64::saturating_add)
    }

    /// The files that are not whole in `dir`.
    #[must_use]
    pub fn missing(&self, dir: &Path) -> Vec<&WantedFile> {
        self.files
            .iter()
            .filter(|file| !file.is_here(dir))
            .collect()
    }

    /// What a program opens: the (first) GGUF file, or the directory.
    #[must_use]
    pub fn model_path(&self, dir: &Path) -> PathBuf {
        match self.files.first() {
            Some(first) if first.name().ends_with(".gguf") => first.place(dir),
            _ => dir.to_path_buf(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str) -> Manifest {
        let file = WantedFile {
            path: path.to_owned(),
            bytes: 4,
            checksum: Checksum::GitBlob("a".repeat(40)),
        };
        Manifest::new("hf:a/b".into(), "c".into(), "h".into(), vec![file])
    }

    #[test]
    fn a_page_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        let page = page("sub/m.gguf");
        page.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), Some(page.clone()));
        assert_eq!(page.missing(dir.path()).len(), 1);
        assert_eq!(page.model_path(dir.path()), dir.path().join("m.gguf"));
        std::fs::write(page.files[0].part(dir.path()), "ab").unwrap();
        assert_eq!(page.bytes_here(dir.path()), 2);
        std::fs::write(dir.path().join("m.gguf"), "abcd").unwrap();
        assert_eq!(
            (page.bytes_here(dir.path()), page.missing(dir.path()).len()),
            (4, 0)
        );
    }

    #[test]
    fn a_page_that_somebody_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../m.gguf", "/m.gguf", ""] {
            page(path).write(dir.path()).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "{path}");
        }
        for text in ["", "{}", "[1]", "{\"version\":1}"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "{text}");
        }
        let mut twice = page("a/m.gguf");
        twice.files.push(page("b/m.gguf").files.remove(0));
        twice.write(dir.path()).unwrap();
        assert!(Manifest::read(dir.path()).is_err(), "two files of one name");
    }
}
