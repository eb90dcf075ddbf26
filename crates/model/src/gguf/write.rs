//! The head of a GGUF file as bytes: metadata, tensor table, and where each tensor's data goes. Writes version 3.
//!
//! It never touches a file: who writes it puts [`Layout::header`] first and each tensor's bytes at its place.

use crate::{DType, ModelError, dtype::Storage};

/// Bytes that tensor offsets are multiples of: the format's default, so that no key has to say so.
const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;

/// A metadata value to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// u32
    U32(u32),
    /// f32
    F32(f32),
    /// bool
    Bool(bool),
    /// text
    Text(String),
    /// array of i32
    I32s(Vec<i32>),
    /// array of bool
    Bools(Vec<bool>),
    /// array of texts
    Texts(Vec<String>),
    /// Type and value as they stood in another file.
    Raw(Vec<u8>),
}

impl Item {
    /// Appends type and value.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U32(n) => put_kind(out, 4, &n.to_le_bytes()),
            Self::F32(x) => put_kind(out, 6, &x.to_le_bytes()),
            Self::Bool(b) => put_kind(out, 7, &[u8::from(*b)]),
            Self::Text(text) => {
                put_kind(out, 8, &[]);
                put_text(out, text);
            }
            Self::I32s(list) => {
                put_array(out, 5, list.len());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Bools(list) => {
                put_array(out, 7, list.len());
                out.extend(list.iter().map(|b| u8::from(*b)));
            }
            Self::Texts(list) => {
                put_array(out, 8, list.len());
                list.iter().for_each(|text| put_text(out, text));
            }
            Self::Raw(bytes) => out.extend(bytes),
        }
    }
}

fn put_kind(out: &mut Vec<u8>, kind: u32, value: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(value);
}

fn put_array(out: &mut Vec<u8>, kind: u32, count: usize) {
    put_kind(out, 9, &kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The name in the file.
    pub name: String,
    /// Dimensions, slowest first; the last is a whole number of blocks.
    pub shape: Vec<u64>,
    /// How values are stored.
    pub storage: Storage,
}

impl Head {
    /// A tensor of a type that the engine computes with.
    #[must_use]
    pub fn new(name: impl Into<String>, shape: Vec<u64>, weight: DType) -> Self {
        Self {
            name: name.into(),
            shape,
            storage: Storage::of(weight),
        }
    }
}

/// A head, and the places that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Everything before the first tensor's data, padding included.
    pub header: Vec<u8>,
    /// Of each tensor: first byte in the file, and number of bytes.
    pub places: Vec<(u64, u64)>,
    /// Bytes of the whole file.
    pub file_bytes: u64,
}

/// Lays out a file with these keys and tensors, in this order.
///
/// # Errors
/// A tensor has no whole blocks, a type that GGUF does not know, or the sizes do not fit 64 bits.
pub fn layout(metadata: &[(String, Item)], tensors: &[Head]) -> Result<Layout, ModelError> {
    let mut header = b"GGUF".to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, item) in metadata {
        put_text(&mut header, key);
        item.put(&mut header);
    }
    let mut offset = 0u64;
    let mut places = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let (number, len) = number_and_bytes(tensor)?;
        put_text(&mut header, &tensor.name);
        let dims = u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX);
        header.extend(dims.to_le_bytes());
        for dim in tensor.shape.iter().rev() {
            header.extend(dim.to_le_bytes());
        }
        header.extend(number.to_le_bytes());
        header.extend(offset.to_le_bytes());
        places.push((offset, len));
        offset = offset
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT))
            .ok_or_else(|| unfit(tensor))?;
    }
    let start = (header.len() as u64).next_multiple_of(ALIGNMENT);
    header.resize(usize::try_from(start).unwrap_or(header.len()), 0);
    for (place, _) in &mut places {
        *place = place.saturating_add(start);
    }
    Ok(Layout {
        header,
        places,
        file_bytes: offset.saturating_add(start),
    })
}

fn number_and_bytes(tensor: &Head) -> Result<(u32, u64), ModelError> {
    let fastest = tensor.shape.last().copied().unwrap_or(0);
    let number = tensor.storage.ggml_number();
    let bytes = super::tensors::stored_bytes(&tensor.storage, fastest, &tensor.shape);
    number.zip(bytes).ok_or_else(|| unfit(tensor))
}

fn unfit(tensor: &Head) -> ModelError {
    ModelError::tensor(
        std::path::Path::new("the new file"),
        tensor.name.as_str(),
        format!("shape {:?} of type {}", tensor.shape, tensor.storage.name),
        "rows of whole blocks of a type that GGUF has, with sizes that fit",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gguf::{Gguf, Value};

    fn items() -> Vec<(String, Item)> {
        [
            ("a.u32", Item::U32(7)),
            ("a.f32", Item::F32(0.5)),
            ("a.bool", Item::Bool(true)),
            ("a.text", Item::Text("Grüße".to_owned())),
            ("a.i32s", Item::I32s(vec![-1, 2])),
            ("a.bools", Item::Bools(vec![true, false])),
            ("a.texts", Item::Texts(vec!["x".to_owned(), String::new()])),
        ]
        .map(|(key, item)| (key.to_owned(), item))
        .to_vec()
    }

    fn file(layout: &Layout) -> Vec<u8> {
        let mut bytes = layout.header.clone();
        bytes.resize(usize::try_from(layout.file_bytes).unwrap(), 1);
        bytes
    }

    #[test]
    fn the_strict_reader_reads_what_was_written() {
        let tensors = [
            Head::new("one", vec![3], DType::F32),
            Head::new("two", vec![2, 4, 256], DType::Q4K),
        ];
        let layout = layout(&items(), &tensors).unwrap();
        let bytes = file(&layout);
        let read = Gguf::parse(Path::new("m"), &bytes, 0).unwrap();
        assert_eq!(read.value("a.u32"), Some(&Value::Unsigned(7)));
        assert_eq!(read.value("a.f32"), Some(&Value::Float(0.5)));
        assert_eq!(read.value("a.bool"), Some(&Value::Bool(true)));
        assert_eq!(read.value("a.text").and_then(Value::as_text), Some("Grüße"));
        let list = |key: &str| {
            let array = read.value(key).and_then(Value::as_array).unwrap();
            array.values(Path::new("m"), &bytes).unwrap()
        };
        assert_eq!(list("a.i32s"), [Value::Signed(-1), Value::Signed(2)]);
        assert_eq!(list("a.bools"), [Value::Bool(true), Value::Bool(false)]);
        assert_eq!(list("a.texts").len(), 2);
        for (tensor, place) in read.tensors().iter().zip(&layout.places) {
            assert_eq!((tensor.start, tensor.len), *place);
            assert_eq!(tensor.start % ALIGNMENT, 0);
        }
        assert_eq!(read.tensors()[1].shape, [2, 4, 256]);
        assert_eq!(read.tensors()[1].storage.name, "Q4_K");
    }

    #[test]
    fn raw_values_are_copied_to_the_bit() {
        let first = layout(&items(), &[]).unwrap();
        let bytes = file(&first);
        let read = Gguf::parse(Path::new("m"), &bytes, 0).unwrap();
        let raw = items()
            .into_iter()
            .map(|(key, _)| {
                let item = Item::Raw(read.raw(&key, &bytes).unwrap().to_vec());
                (key, item)
            })
            .collect::<Vec<_>>();
        assert_eq!(layout(&raw, &[]).unwrap(), first);
    }

    #[test]
    fn parts_of_blocks_are_refused() {
        let odd = Head::new("odd", vec![2, 100], DType::Q4K);
        assert!(layout(&[], &[odd]).is_err());
        let empty = Head::new("empty", vec![], DType::F32);
        assert!(layout(&[], &[empty]).is_err());
    }
}
