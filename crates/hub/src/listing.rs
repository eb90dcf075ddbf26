//! What a repository has: the hub's JSON, read into files whose names, sizes and checksums are sound.

use serde::Deserialize;

use crate::error::shown;
use crate::manifest::{Checksum, WantedFile};
use crate::name::is_safe_path;
use crate::{HubError, HubRef};

/// Files of one repository.
const FILES_MAX: usize = 100_000;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 1 << 44;
/// Digits of a commit.
const COMMIT_DIGITS: usize = 40;

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default, rename = "blobId")]
    blob_id: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: u64,
}

/// A repository at one commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The commit, so that all files are of one state.
    pub(crate) commit: String,
    /// The files that can be fetched here, by path.
    pub(crate) files: Vec<WantedFile>,
}

/// Reads the answer of `host` about `model`. A file without size or checksum, or with a name that is not safe here, is
/// as good as not there: it can never be chosen.
pub(crate) fn read(host: &str, model: &HubRef, text: &[u8]) -> Result<Listing, HubError> {
    let odd = |got: String| HubError::Answer {
        host: host.to_owned(),
        what: model.path(),
        got,
        expected: "the list of a repository's files with their sizes and checksums".to_owned(),
    };
    let answer: Answer =
        serde_json::from_slice(text).map_err(|error| odd(shown(&format!("no list: {error}"))))?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if answer.sha.len() != COMMIT_DIGITS || !answer.sha.bytes().all(hex) {
        return Err(odd(format!("of the commit '{}'", shown(&answer.sha))));
    }
    if answer.siblings.len() > FILES_MAX {
        return Err(odd(format!("{} files", answer.siblings.len())));
    }
    let mut files: Vec<WantedFile> = answer.siblings.into_iter().filter_map(file).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    Ok(Listing {
        commit: answer.sha,
        files,
    })
}

fn file(sibling: Sibling) -> Option<WantedFile> {
    let (bytes, checksum) = match sibling.lfs {
        Some(lfs) => (lfs.size, Checksum::Sha256(lfs.sha256.to_ascii_lowercase())),
        None => (sibling.size?, Checksum::GitBlob(sibling.blob_id?)),
    };
    let sound = is_safe_path(&sibling.rfilename) && checksum.is_sound() && bytes <= FILE_BYTES_MAX;
    sound.then_some(WantedFile {
        path: sibling.rfilename,
        bytes,
        checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Listing, HubError> {
        read("hub", &"hf:a/b".parse().unwrap(), text.as_bytes())
    }

    #[test]
    fn sound_files_are_listed_and_others_left_out() {
        let (commit, sum, blob) = ("0".repeat(40), "a".repeat(64), "b".repeat(40));
        let text = format!(
            r#"{{"sha":"{commit}","extra":[1],"siblings":[
                {{"rfilename":"m.gguf","size":9,"blobId":"{blob}","lfs":{{"sha256":"{sum}","size":9,"pointerSize":1}}}},
                {{"rfilename":"config.json","size":2,"blobId":"{blob}"}},
                {{"rfilename":"../evil.gguf","size":2,"blobId":"{blob}"}},
                {{"rfilename":"no-size.json","blobId":"{blob}"}},
                {{"rfilename":"no-sum.json","size":3}},
                {{"rfilename":"bad-sum.json","size":3,"blobId":"xyz"}},
                {{"rfilename":"huge.gguf","size":18446744073709551615,"blobId":"{blob}"}}]}}"#
        );
        let listing = read_text(&text).unwrap();
        let paths: Vec<&str> = listing
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(paths, ["config.json", "m.gguf"]);
        assert_eq!(listing.files[1].checksum, Checksum::Sha256(sum));
    }

    #[test]
    fn answers_that_are_no_listing_are_refused() {
        for bad in [
            "",
            "<html>login</html>",
            "[]",
            "{}",
            r#"{"sha":"main","siblings":[]}"#,
            r#"{"sha":"../../../../../../../../../../../etc/passwd","siblings":[]}"#,
            r#"{"sha":1,"siblings":[]}"#,
            r#"{"sha":"0000000000000000000000000000000000000000","siblings":{}}"#,
        ] {
            assert!(read_text(bad).is_err(), "{bad}");
        }
    }
}
