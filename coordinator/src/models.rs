//! The models that the owner added: one folder each, under a name, in the data directory.
//!
//! It never fetches and never looks outside its folder. The one idea: a folder with a page is a model, whole or not, and a
//! name is a folder's name, so a name is checked before it becomes part of a path.

use std::path::{Path, PathBuf};

use hub::{HubError, HubRef, Manifest};

/// Characters of a name.
const NAME_CHARS_MAX: usize = 128;
/// Models that are listed.
const MODELS_MAX: usize = 1024;

/// Why a name leads to no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// The name cannot be a folder's.
    #[error(
        "'{0}' is no name for a model; expected letters, digits and -_. not beginning with a dot"
    )]
    Name(String),
    /// There is no such model.
    #[error("no model '{0}' was added; `coordinator model list` shows the names")]
    Unknown(String),
    /// Files of it are missing.
    #[error(
        "the model '{name}' lacks {missing_bytes} bytes; run `coordinator model add {model}` again to go on"
    )]
    Incomplete {
        /// Its name.
        name: String,
        /// Where it comes from.
        model: String,
        /// Bytes that are still to come.
        missing_bytes: u64,
    },
    /// Its page is broken.
    #[error(transparent)]
    Page(#[from] HubError),
    /// The system refuses.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A model that was added.
#[derive(Debug)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// What belongs to it.
    pub manifest: Manifest,
    /// What is opened.
    pub path: PathBuf,
    /// Bytes that are still to come.
    pub missing_bytes: u64,
}

/// Where added models stand.
#[derive(Debug, Clone)]
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// The shelf in a data directory.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("models"),
        }
    }

    /// The name of a model if its owner gives none: the file's without ending and part, else the repository's, with the
    /// label that chose a file.
    #[must_use]
    pub fn name_for(model: &HubRef) -> String {
        let Some(file) = model.file() else {
            return model.repo().to_owned();
        };
        let base = file.rsplit('/').next().unwrap_or(file);
        let Some(stem) = base.strip_suffix(".gguf") else {
            let repo = model.repo();
            let repo = repo.strip_suffix("-GGUF").unwrap_or(repo);
            return format!("{repo}-{base}");
        };
        let numbered = stem.rsplit_once("-of-").and_then(|(rest, count)| {
            let (stem, number) = rest.rsplit_once('-')?;
            let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            (digits(number) && digits(count)).then_some(stem)
        });
        numbered.unwrap_or(stem).to_owned()
    }

    /// The folder of a name.
    ///
    /// # Errors
    /// The name could lead outside.
    pub fn dir(&self, name: &str) -> Result<PathBuf, ModelsError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let sound = !name.is_empty()
            && name.len() <= NAME_CHARS_MAX
            && !name.starts_with('.')
            && !name.ends_with('.')
            && name.chars().all(allowed);
        if sound {
            Ok(self.dir.join(name))
        } else {
            Err(ModelsError::Name(name.chars().take(60).collect()))
        }
    }

    /// A model by its name, whole or not.
    ///
    /// # Errors
    /// There is none, or its page is broken.
    pub fn find(&self, name: &str) -> Result<Added, ModelsError> {
        let dir = self.dir(name)?;
        let Some(manifest) = Manifest::read(&dir)? else {
            return Err(ModelsError::Unknown(name.to_owned()));
        };
        let missing = manifest.missing(&dir).is_empty();
        let missing_bytes = match missing {
            true => 0,
            // A file that is all here but not compared yet counts as a byte to come.
            false => manifest
                .bytes()
                .saturating_sub(manifest.bytes_here(&dir))
                .max(1),
        };
        Ok(Added {
            name: name.to_owned(),
            path: manifest.model_path(&dir),
            manifest,
            missing_bytes,
        })
    }

    /// The path of a model that is whole.
    ///
    /// # Errors
    /// There is none of this name, or files of it are missing.
    pub fn open(&self, name: &str) -> Result<PathBuf, ModelsError> {
        let added = self.find(name)?;
        match added.missing_bytes {
            0 => Ok(added.path),
            missing_bytes => Err(ModelsError::Incomplete {
                name: added.name,
                model: added.manifest.model,
                missing_bytes,
            }),
        }
    }

    /// All models by name.
    ///
    /// # Errors
    /// The folder cannot be read, or a page is broken.
    pub fn list(&self) -> Result<Vec<Added>, ModelsError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.io("cannot be listed")(error)),
        };
        let mut found = Vec::new();
        for entry in entries.take(MODELS_MAX) {
            let name = entry.map_err(self.io("cannot be listed"))?.file_name();
            let name = name.to_string_lossy();
            match self.find(&name) {
                Ok(added) => found.push(added),
                // Something that is not ours stands there.
                Err(ModelsError::Unknown(_) | ModelsError::Name(_)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Deletes a model, whole or not; gives the bytes that are free again.
    ///
    /// # Errors
    /// There is no such model, or the system refuses.
    pub fn remove(&self, name: &str) -> Result<u64, ModelsError> {
        let dir = self.dir(name)?;
        let added = self.find(name)?;
        let freed = added.manifest.bytes_here(&dir);
        std::fs::remove_dir_all(&dir).map_err(|source| ModelsError::Io {
            path: dir,
            what: "cannot be deleted",
            source,
        })?;
        Ok(freed)
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> ModelsError {
        let path = self.dir.clone();
        move |source| ModelsError::Io { path, what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_files_and_repositories() {
        for (model, name) in [
            ("hf:Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M", "Qwen3-30B-A3B-Q4_K_M"),
            ("hf:a/b:sub/m-Q8_0-00001-of-00003.gguf", "m-Q8_0"),
            ("hf:a/b:m.gguf", "m"),
            ("hf:a/b-GGUF", "b-GGUF"),
        ] {
            assert_eq!(Shelf::name_for(&model.parse().unwrap()), name);
        }
    }

    #[test]
    fn names_never_lead_outside() {
        let shelf = Shelf::of(Path::new("data"));
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            ".x",
            "x.",
            "a b",
            &"x".repeat(200),
        ] {
            assert!(shelf.dir(bad).is_err(), "{bad}");
        }
        assert_eq!(shelf.dir("m-1.0").unwrap(), Path::new("data/models/m-1.0"));
    }

    #[test]
    fn folders_without_a_page_are_no_models() {
        let data = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(data.path());
        assert!(shelf.list().unwrap().is_empty());
        std::fs::create_dir_all(data.path().join("models/mine")).unwrap();
        assert!(shelf.list().unwrap().is_empty());
        assert!(matches!(shelf.remove("mine"), Err(ModelsError::Unknown(_))));
        assert!(data.path().join("models/mine").exists());
    }
}
