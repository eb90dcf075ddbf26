//! `hf:ORG/REPO@REVISION:FILE` taken apart, and which names of files are safe to make on this machine.

use std::fmt;
use std::str::FromStr;

use crate::HubError;

/// Characters of an organisation, repository or revision.
const WORD_CHARS_MAX: usize = 128;
/// Characters of a file's path in a repository.
const PATH_CHARS_MAX: usize = 512;

/// A model of a hub as its owner names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRef {
    org: String,
    repo: String,
    revision: Option<String>,
    file: Option<String>,
}

impl HubRef {
    /// Whether `text` is meant for a hub rather than a path.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("hf:")
    }

    /// The repository's own name.
    #[must_use]
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// Organisation and repository, `ORG/REPO`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.org, self.repo)
    }

    /// The branch, tag or commit; `main` unless named.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The file, or a part of its name by which it can be told.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl FromStr for HubRef {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Name(crate::error::shown(text));
        let rest = text.strip_prefix("hf:").ok_or_else(wrong)?;
        let (model, file) = match rest.split_once(':') {
            Some((model, file)) => (model, Some(file)),
            None => (rest, None),
        };
        let (model, revision) = match model.split_once('@') {
            Some((model, revision)) => (model, Some(revision)),
            None => (model, None),
        };
        let (org, repo) = model.split_once('/').ok_or_else(wrong)?;
        let words = [Some(org), Some(repo), revision];
        let sound = words.into_iter().flatten().all(is_word) && file.is_none_or(is_safe_path);
        if !sound {
            return Err(wrong());
        }
        Ok(Self {
            org: org.to_owned(),
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.org, self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

/// Letters, digits and `-_.`, as names of organisations, repositories and revisions consist of.
fn is_word(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty()
        && text.len() <= WORD_CHARS_MAX
        && !text.starts_with('.')
        && text.chars().all(allowed)
}

/// Whether a path from the hub stays inside a folder on every system: plain parts between single slashes.
pub(crate) fn is_safe_path(path: &str) -> bool {
    path.len() <= PATH_CHARS_MAX && path.split('/').all(is_safe_part)
}

/// Names that Windows keeps for devices, whatever follows their dot.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "com", "lpt"];

fn is_safe_part(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    !part.is_empty()
        && !part.starts_with('.')
        && !part.ends_with(['.', ' '])
        && !part.starts_with(' ')
        && !part
            .chars()
            .any(|c| c.is_control() || "\\:*?\"<>|%#".contains(c))
        && !DEVICES.contains(&stem)
}

/// The last part of a path.
pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let read: HubRef = "hf:Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M".parse().unwrap();
        assert_eq!(read.path(), "Qwen/Qwen3-30B-A3B-GGUF");
        assert_eq!(
            (read.repo(), read.file()),
            ("Qwen3-30B-A3B-GGUF", Some("Q4_K_M"))
        );
        assert_eq!(read.revision(), "main");
        let read: HubRef = "hf:a/b@v1.0:sub/m.gguf".parse().unwrap();
        assert_eq!((read.revision(), read.file()), ("v1.0", Some("sub/m.gguf")));
        assert_eq!(read.to_string(), "hf:a/b@v1.0:sub/m.gguf");
    }

    #[test]
    fn odd_names_are_refused() {
        for bad in [
            "Qwen/Qwen3",
            "hf:",
            "hf:Qwen",
            "hf:/b",
            "hf:a/",
            "hf:a/b/c",
            "hf:a/..",
            "hf:a/b:",
            "hf:a/b:../m.gguf",
            "hf:a/b@:m.gguf",
            "hf:a/b?x=1",
            "hf:a b/c",
        ] {
            assert!(bad.parse::<HubRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_paths_that_stay_inside_are_safe() {
        for good in [
            "m.gguf",
            "Q4_K_M/m-00001-of-00002.gguf",
            "a b.gguf",
            "config.json",
        ] {
            assert!(is_safe_path(good), "{good}");
        }
        let long = "x".repeat(600);
        for bad in [
            "",
            "/m",
            "a//b",
            "../m",
            "a/../b",
            "a/..",
            ".",
            ".git/config",
            "a\\b",
            "C:m",
            "nul",
            "con.gguf",
            "com1",
            "m.gguf ",
            "m.",
            "a\nb",
            "a\u{7f}",
            "a?b",
            "%2e%2e",
            &long,
        ] {
            assert!(!is_safe_path(bad), "{bad}");
        }
    }
}
