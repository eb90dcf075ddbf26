//! Builds GGUF and safetensors files for tests, sound ones and broken ones. Knows nothing of the readers but their
//! public face, from which a fixture is copied before a test changes it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test support: each test file uses its part of it, and small numbers fit"
)]

use std::path::{Path, PathBuf};

use model::gguf::{Gguf, Value};

/// The path of a fixture of an architecture.
pub fn fixture(arch: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(arch)
}

/// A metadata entry as bytes: type, then value.
#[derive(Debug, Clone)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    pub fn u32(n: u32) -> Self {
        Self::of(4, &n.to_le_bytes())
    }
    pub fn f32(x: f32) -> Self {
        Self::of(6, &x.to_le_bytes())
    }
    pub fn bool(b: u8) -> Self {
        Self::of(7, &[b])
    }
    pub fn text(text: &str) -> Self {
        Self::of(8, &string(text))
    }
    pub fn u32s(list: &[u32]) -> Self {
        let mut bytes = array_head(4, list.len() as u64);
        list.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        Self::of(9, &bytes)
    }
    pub fn texts(list: &[&str]) -> Self {
        let mut bytes = array_head(8, list.len() as u64);
        list.iter().for_each(|text| bytes.extend(string(text)));
        Self::of(9, &bytes)
    }
    pub fn of(kind: u32, value: &[u8]) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(value);
        Self(bytes)
    }
}

pub fn array_head(kind: u32, count: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(count.to_le_bytes());
    bytes
}

pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    /// Fastest first, as GGUF has it.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Offset to claim instead of the true one.
    pub offset: Option<u64>,
}

/// A GGUF file to write.
#[derive(Debug, Clone)]
pub struct File {
    pub magic: [u8; 4],
    pub version: u32,
    pub meta: Vec<(String, Raw)>,
    pub tensors: Vec<Entry>,
    pub alignment: u64,
    /// Counts to claim instead of the true ones: tensors, keys.
    pub counts: Option<(u64, u64)>,
}

impl File {
    /// Two small tensors and a few keys of every kind; a sound file, though no model.
    pub fn small() -> Self {
        let tensor = |name: &str, dims: &[u64]| Entry {
            name: name.to_owned(),
            dims: dims.to_vec(),
            kind: 0,
            data: vec![0; 4 * dims.iter().product::<u64>() as usize],
            offset: None,
        };
        Self {
            magic: *b"GGUF",
            version: 3,
            meta: vec![
                ("general.architecture".to_owned(), Raw::text("llama")),
                ("a.number".to_owned(), Raw::u32(7)),
                ("a.flag".to_owned(), Raw::bool(1)),
                ("a.float".to_owned(), Raw::f32(0.5)),
                ("a.list".to_owned(), Raw::u32s(&[1, 2, 3])),
                ("a.words".to_owned(), Raw::texts(&["one", "two"])),
            ],
            tensors: vec![tensor("first", &[3, 5]), tensor("second", &[8])],
            alignment: 32,
            counts: None,
        }
    }

    /// The content of the GGUF file at `path`.
    pub fn copy_of(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let head = Gguf::parse(path, &bytes, 0).unwrap();
        let meta = head
            .keys()
            .map(|key| (key.to_owned(), raw(path, &bytes, head.value(key).unwrap())))
            .collect();
        let tensors = head
            .tensors()
            .iter()
            .map(|tensor| Entry {
                name: tensor.name.clone(),
                dims: tensor.shape.iter().rev().copied().collect(),
                kind: match tensor.storage.name {
                    "F32" => 0,
                    "F16" => 1,
                    other => panic!("no fixture has {other}"),
                },
                data: bytes[tensor.start as usize..(tensor.start + tensor.len) as usize].to_vec(),
                offset: None,
            })
            .collect();
        Self {
            magic: *b"GGUF",
            version: 3,
            meta,
            tensors,
            alignment: 32,
            counts: None,
        }
    }

    pub fn set(&mut self, key: &str, value: Raw) -> &mut Self {
        self.unset(key);
        self.meta.push((key.to_owned(), value));
        self
    }

    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.meta.retain(|(other, _)| other != key);
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Entry {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn take(&mut self, name: &str) -> Entry {
        let at = self
            .tensors
            .iter()
            .position(|tensor| tensor.name == name)
            .unwrap_or_else(|| panic!("no tensor {name}"));
        self.tensors.remove(at)
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        let (tensors, keys) = self
            .counts
            .unwrap_or((self.tensors.len() as u64, self.meta.len() as u64));
        out.extend(tensors.to_le_bytes());
        out.extend(keys.to_le_bytes());
        for (key, value) in &self.meta {
            out.extend(string(key));
            out.extend(&value.0);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor
                .dims
                .iter()
                .for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset = (offset + tensor.data.len() as u64).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            out.extend(&tensor.data);
        }
        out
    }

    /// Writes the file into `dir` and returns its path.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

fn raw(path: &Path, bytes: &[u8], value: &Value) -> Raw {
    match value {
        Value::Unsigned(n) => Raw::of(10, &n.to_le_bytes()),
        Value::Signed(n) => Raw::of(11, &n.to_le_bytes()),
        Value::Float(x) => Raw::of(12, &x.to_le_bytes()),
        Value::Bool(b) => Raw::bool(u8::from(*b)),
        Value::Text(text) => Raw::text(text),
        Value::Array(array) if array.is_text() => {
            let mut list = Vec::new();
            array
                .for_each_text(path, bytes, |text| list.push(text))
                .unwrap();
            Raw::texts(&list)
        }
        Value::Array(array) => {
            let list: Vec<u32> = array
                .values(path, bytes)
                .unwrap()
                .iter()
                .map(|value| match value {
                    Value::Bool(b) => u32::from(*b),
                    other => other.as_u64().unwrap() as u32,
                })
                .collect();
            Raw::u32s(&list)
        }
    }
}

/// A safetensors file from a header text and data.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

/// A copy of a fixture's safetensors directory that a test may change.
pub fn copy_directory(arch: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(arch)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.extension().is_some_and(|e| e != "gguf") && name != "golden.json" {
            std::fs::copy(&path, dir.path().join(name)).unwrap();
        }
    }
    dir
}
