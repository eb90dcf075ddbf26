//! The files of the repository, as the tidy tests read them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mask;

/// Folders that are not ours or not written by hand.
const SKIPPED: &[&str] = &[
    "target",
    ".git",
    "corpus",
    "artifacts",
    "node_modules",
    ".venv",
];
/// Files that are read as text beside Rust source.
const TEXTS: &[&str] = &[
    "rs", "toml", "md", "proto", "sh", "yml", "yaml", "service", "plist",
];

/// One Rust file.
pub(crate) struct Source {
    /// From the repository's root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// The same with comments and literals blanked.
    pub code: String,
}

impl Source {
    /// Whether it measures.
    pub(crate) fn is_bench(&self) -> bool {
        self.path.contains("/benches/")
    }

    /// Whether only tests and benches compile it.
    pub(crate) fn is_test(&self) -> bool {
        let parts: Vec<&str> = self.path.trim_end_matches(".rs").split('/').collect();
        parts
            .iter()
            .any(|part| matches!(*part, "tests" | "benches"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !SKIPPED.contains(&name.as_ref()) {
            walk(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

fn files() -> Vec<(String, PathBuf)> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    let mut files: Vec<(String, PathBuf)> = found
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap();
            (relative.to_string_lossy().replace('\\', "/"), path)
        })
        .collect();
    files.sort();
    files
}

/// Every Rust file of ours.
pub(crate) fn sources() -> Vec<Source> {
    let rust = files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"));
    rust.map(|(path, file)| {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{path}: {e}"));
        let code = mask::mask(&text);
        Source { path, text, code }
    })
    .collect()
}

/// Every text of ours, path and content.
pub(crate) fn texts() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|(path, _)| {
            let ends = |ending: &&str| path.ends_with(&format!(".{ending}"));
            TEXTS.iter().any(ends) || path.starts_with(".ci/")
        })
        .map(|(path, file)| {
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{path}: {e}"));
            (path, text)
        })
        .collect()
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_under(folder: &str) -> u64 {
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum()
}
