//! From a path to the mapped files of a model, their heads and their tensors.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use proto::limits::MODEL_FILES_MAX;

use crate::{
    ModelError,
    gguf::Gguf,
    map::MappedFile,
    safetensors::{Header, Index},
    store::Store,
};

/// Largest config, index or template file.
const TEXT_FILE_BYTES_MAX: u64 = 64 << 20;
/// The file that says which tensor is in which safetensors file.
pub(crate) const INDEX_NAME: &str = "model.safetensors.index.json";
/// Entries of a model directory that are looked at.
const DIRECTORY_ENTRIES_MAX: usize = 100_000;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// A GGUF file, perhaps one part of several.
    Gguf(PathBuf),
    /// A directory with safetensors files.
    Safetensors(PathBuf, Layout),
}

/// How a directory holds its tensors.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Several files behind this index.
    Sharded(PathBuf),
    /// One file.
    Single(PathBuf),
}

/// The files of a model and what their heads say.
pub(crate) struct Opened {
    /// In order: parts of a GGUF, or files of a safetensors directory by name.
    pub(crate) files: Vec<MappedFile>,
    /// Bytes of the head of each file.
    pub(crate) header_bytes: Vec<u64>,
    /// All tensors.
    pub(crate) store: Store,
}

/// Decides what `path` is: a directory with safetensors wins over GGUF files beside them.
pub(crate) fn locate(path: &Path) -> Result<Located, ModelError> {
    let meta = std::fs::metadata(path).map_err(ModelError::io(path, "open the model"))?;
    if !meta.is_dir() {
        if has_extension(path, "safetensors") {
            return Err(ModelError::NotAModel {
                path: path.to_path_buf(),
                got: "a single safetensors file".to_owned(),
                expected: "its directory, which also holds config.json and the tokenizer"
                    .to_owned(),
            });
        }
        return Ok(Located::Gguf(path.to_path_buf()));
    }
    let index = path.join(INDEX_NAME);
    if index.is_file() {
        return Ok(Located::Safetensors(
            path.to_path_buf(),
            Layout::Sharded(index),
        ));
    }
    let (safetensors, gguf) = list_models(path)?;
    let single = path.join("model.safetensors");
    match (safetensors.as_slice(), gguf.as_slice()) {
        (found, _) if found.contains(&single) => {
            Ok(Located::Safetensors(path.to_path_buf(), Layout::Single(single)))
        }
        ([only], _) => Ok(Located::Safetensors(
            path.to_path_buf(),
            Layout::Single(only.clone()),
        )),
        ([], [only]) => Ok(Located::Gguf(only.clone())),
        (many, ggufs) => Err(ModelError::NotAModel {
            path: path.to_path_buf(),
            got: format!(
                "a directory with {} safetensors files without an index, and {} GGUF models",
                many.len(),
                ggufs.len()
            ),
            expected: "model.safetensors, model.safetensors.index.json with its files, or one GGUF model; \
                       name the .gguf file to choose among several"
                .to_owned(),
        }),
    }
}

/// The safetensors files of a directory, and its GGUF models (of split ones the first part).
fn list_models(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ModelError> {
    let entries = std::fs::read_dir(dir).map_err(ModelError::io(dir, "list the directory"))?;
    let (mut safetensors, mut gguf) = (Vec::new(), Vec::new());
    for entry in entries.take(DIRECTORY_ENTRIES_MAX) {
        let path = entry
            .map_err(ModelError::io(dir, "list the directory"))?
            .path();
        if has_extension(&path, "safetensors") {
            safetensors.push(path);
        } else if has_extension(&path, "gguf")
            && SplitName::of(&path).is_none_or(|split| split.number == 1)
        {
            gguf.push(path);
        }
    }
    Ok((safetensors, gguf))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// The parts of a name like `model-00001-of-00003.gguf`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SplitName {
    /// What precedes the numbers.
    pub(crate) stem: String,
    /// This part, from 1.
    pub(crate) number: u32,
    /// All parts.
    pub(crate) count: u32,
}

impl SplitName {
    /// Takes a file's name apart; `None` if it is not of that form.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let name = name.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let number = Self::digits(number)?;
        let count = Self::digits(count)?;
        (number >= 1 && number <= count).then(|| Self {
            stem: stem.to_owned(),
            number,
            count,
        })
    }

    fn digits(text: &str) -> Option<u32> {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse().ok())
            .flatten()
    }

    /// The file name of part `number`.
    pub(crate) fn part(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// Opens a GGUF model whole: the file, or all parts if it is one of several. Also the head of the first part.
pub(crate) fn open_gguf(path: &Path) -> Result<(Opened, Gguf), ModelError> {
    let file = MappedFile::open(path)?;
    let mut head = Gguf::parse(path, file.bytes(), 0)?;
    let count = split_number(path, &head, "split.count")?.unwrap_or(1);
    if count <= 1 {
        let mut opened = Opened {
            header_bytes: vec![head.header_bytes],
            files: vec![file],
            store: Store::default(),
        };
        opened.store.add(path, head.take_tensors())?;
        return Ok((opened, head));
    }
    drop((file, head));
    open_parts(path, count)
}

fn open_parts(path: &Path, count: u64) -> Result<(Opened, Gguf), ModelError> {
    let name = SplitName::of(path).filter(|name| u64::from(name.count) == count);
    let Some(name) = name.filter(|name| name.count <= MODEL_FILES_MAX) else {
        return Err(ModelError::malformed(
            path,
            "the file's name",
            "not that of a part",
            format!(
                "NAME-00001-of-{count:05}.gguf, since split.count is {count} (at most {MODEL_FILES_MAX})"
            ),
        ));
    };
    let mut opened = Opened {
        files: Vec::new(),
        header_bytes: Vec::new(),
        store: Store::default(),
    };
    let mut first = None;
    for number in 1..=name.count {
        let part = path.with_file_name(name.part(number));
        if !part.exists() {
            return Err(ModelError::MissingPart {
                path: path.to_path_buf(),
                missing: part.display().to_string(),
            });
        }
        let file = MappedFile::open(&part)?;
        let mut head = Gguf::parse(&part, file.bytes(), opened.files.len())?;
        check_part(&part, &head, number, count)?;
        opened.store.add(&part, head.take_tensors())?;
        opened.header_bytes.push(head.header_bytes);
        opened.files.push(file);
        first.get_or_insert(head);
    }
    let Some(head) = first else {
        return Err(ModelError::malformed(
            path,
            "split.count",
            "0",
            "at least 1",
        ));
    };
    if let Some(wanted) = split_number(path, &head, "split.tensors.count")?
        && wanted != opened.store.len() as u64
    {
        return Err(ModelError::malformed(
            path,
            "the number of tensors in all parts",
            opened.store.len().to_string(),
            format!("{wanted}, as split.tensors.count says"),
        ));
    }
    Ok((opened, head))
}

fn split_number(path: &Path, head: &Gguf, key: &str) -> Result<Option<u64>, ModelError> {
    let Some(value) = head.value(key) else {
        return Ok(None);
    };
    match value.as_u64() {
        Some(n) => Ok(Some(n)),
        None => Err(ModelError::malformed(
            path,
            key,
            value.to_string(),
            "a whole number",
        )),
    }
}

fn check_part(path: &Path, head: &Gguf, number: u32, count: u64) -> Result<(), ModelError> {
    let wanted = [("split.no", u64::from(number) - 1), ("split.count", count)];
    for (key, wanted) in wanted {
        let got = split_number(path, head, key)?;
        if got != Some(wanted) {
            return Err(ModelError::malformed(
                path,
                key,
                got.map_or_else(|| "missing".to_owned(), |n| n.to_string()),
                format!("{wanted}: the parts must be of one model and keep their names"),
            ));
        }
    }
    Ok(())
}

/// Opens the safetensors files of a directory.
pub(crate) fn open_safetensors(dir: &Path, layout: &Layout) -> Result<Opened, ModelError> {
    let mut opened = Opened {
        files: Vec::new(),
        header_bytes: Vec::new(),
        store: Store::default(),
    };
    match layout {
        Layout::Single(path) => add_safetensors(&mut opened, path, None)?,
        Layout::Sharded(path) => {
            let index = Index::parse(path, &read_text(path)?)?;
            for name in index.files() {
                let file = dir.join(name);
                if !file.exists() {
                    return Err(ModelError::MissingPart {
                        path: path.clone(),
                        missing: file.display().to_string(),
                    });
                }
                add_safetensors(&mut opened, &file, Some((&index, name)))?;
            }
        }
    }
    Ok(opened)
}

fn add_safetensors(
    opened: &mut Opened,
    path: &Path,
    index: Option<(&Index, &str)>,
) -> Result<(), ModelError> {
    let file = MappedFile::open(path)?;
    let header = Header::parse(path, file.bytes(), opened.files.len())?;
    if let Some((index, name)) = index {
        index.check_file(path, name, &header.tensors)?;
    }
    opened.store.add(path, header.tensors)?;
    opened.header_bytes.push(header.header_bytes);
    opened.files.push(file);
    Ok(())
}

/// A small file as a whole.
pub(crate) fn read_text(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path, "open the file"))?;
    let mut bytes = Vec::new();
    file.take(TEXT_FILE_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(ModelError::io(path, "read the file"))?;
    if bytes.len() as u64 > TEXT_FILE_BYTES_MAX {
        return Err(ModelError::malformed(
            path,
            "the file's size",
            "more than the limit",
            format!("at most {TEXT_FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// A small file as a whole, if it is there.
pub(crate) fn read_text_if(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    if path.is_file() {
        read_text(path).map(Some)
    } else {
        Ok(None)
    }
}

/// A small JSON file.
fn read_json(path: &Path) -> Result<serde_json::Value, ModelError> {
    parse_json(path, &read_text(path)?)
}

/// The JSON in `text`, the content of the file at `path`.
pub(crate) fn parse_json(path: &Path, text: &[u8]) -> Result<serde_json::Value, ModelError> {
    serde_json::from_slice(text).map_err(|e| {
        let got = format!("no JSON: {e}");
        ModelError::malformed(path, "the file", got, "a JSON object")
    })
}

/// A small JSON file, if it is there.
pub(crate) fn read_json_if(path: &Path) -> Result<Option<serde_json::Value>, ModelError> {
    if path.is_file() {
        read_json(path).map(Some)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_are_taken_apart_and_made() {
        let name = SplitName::of(Path::new("/m/q-35b-00002-of-00010.gguf")).unwrap();
        assert_eq!(
            (name.stem.as_str(), name.number, name.count),
            ("q-35b", 2, 10)
        );
        assert_eq!(name.part(7), "q-35b-00007-of-00010.gguf");
        for other in [
            "m.gguf",
            "m-1-of-2.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "m-00001-of-00002.bin",
            "-00001-of.gguf",
        ] {
            assert_eq!(SplitName::of(Path::new(other)), None, "{other}");
        }
    }
}
