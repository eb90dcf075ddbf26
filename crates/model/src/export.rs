//! A checkpoint as the contents of one GGUF file: metadata, and every tensor by its name and rows.
//!
//! It gives floats row by row and never holds a matrix; which type a matrix is stored in is the caller's to decide. From
//! GGUF everything is handed on under its own name. From safetensors names, orders of rows and stored forms become
//! those that GGUF readers expect; a setting that GGUF has no key for is refused, so that no reader computes something
//! else from the new file. The one idea: orders differ by whole rows or whole heads, so a row of the new file is always
//! a row of the old one, at most with its heads in another order.

mod describe;
mod directory;
mod names;

use crate::{
    Checkpoint, DType, FileRange, ModelError, Storage, TensorRef,
    checkpoint::Meta,
    gguf::{Gguf, write::Item},
    store::Tensor,
    widen,
};

/// Keys that belong to the old file's form, not to the model.
const OF_THE_FILE: [&str; 3] = [
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
];

/// What a new file has to contain.
#[derive(Debug)]
pub struct Export<'a> {
    /// Metadata but for `general.file_type` and `general.quantization_version`, which the writer adds.
    pub metadata: Vec<(String, Item)>,
    /// The tensors in order.
    pub tensors: Vec<ExportTensor<'a>>,
}

/// What may become of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportClass {
    /// A matrix of a product: of any type.
    Matrix,
    /// A norm, router, convolution or small vector: F32.
    Small,
    /// Something that we do not compute with: copied byte for byte.
    Kept(Storage),
}

/// One tensor of a new file.
#[derive(Debug)]
pub struct ExportTensor<'a> {
    /// Its name in GGUF.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<u64>,
    /// What may become of it.
    pub class: ExportClass,
    content: Content<'a>,
}

#[derive(Debug)]
enum Content<'a> {
    Rows(Rows<'a>),
    Values(Vec<f32>),
    Bytes(&'a [u8], FileRange),
}

/// Rows of a matrix, perhaps of one matrix after the other (experts), perhaps in another order.
#[derive(Debug)]
struct Rows<'a> {
    /// All of one shape and float type.
    pieces: Vec<TensorRef<'a>>,
    /// Of each row of a piece: where it is in the source.
    row_order: Option<Vec<usize>>,
    /// Of each run of `len` columns: where it is in the source.
    column_order: Option<Runs>,
}

/// An order of equal runs of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Runs {
    len: usize,
    order: Vec<usize>,
}

impl ExportTensor<'_> {
    /// Values in one row.
    #[must_use]
    pub fn cols(&self) -> usize {
        match &self.content {
            Content::Rows(rows) => rows.pieces.first().map_or(0, |piece| piece.cols),
            Content::Values(values) => values.len(),
            Content::Bytes(..) => 0,
        }
    }

    /// Rows of [`ExportTensor::cols`] values. A small tensor is one row; a kept one has none.
    #[must_use]
    pub fn rows(&self) -> usize {
        match &self.content {
            Content::Rows(rows) => rows.pieces.iter().map(|piece| piece.rows).sum(),
            Content::Values(_) => 1,
            Content::Bytes(..) => 0,
        }
    }

    /// Writes row `index` as floats into `out`, which has [`ExportTensor::cols`] values; `false` if there is no such row
    /// or `out` has another length.
    #[must_use]
    pub fn read_row(&self, index: usize, out: &mut [f32]) -> bool {
        match &self.content {
            Content::Rows(rows) => rows.read(index, out).is_some(),
            Content::Values(values) if index == 0 && out.len() == values.len() => {
                out.copy_from_slice(values);
                true
            }
            Content::Values(_) | Content::Bytes(..) => false,
        }
    }

    /// The bytes of a kept tensor.
    #[must_use]
    pub fn kept(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Bytes(bytes, _) => Some(bytes),
            Content::Rows(_) | Content::Values(_) => None,
        }
    }

    /// Where rows and kept bytes come from, so that their pages can be let go once they were read.
    #[must_use]
    pub fn source(&self) -> Vec<FileRange> {
        match &self.content {
            Content::Rows(rows) => rows.pieces.iter().map(|piece| piece.at).collect(),
            Content::Values(_) => Vec::new(),
            Content::Bytes(_, at) => vec![*at],
        }
    }
}

impl Rows<'_> {
    fn read(&self, index: usize, out: &mut [f32]) -> Option<()> {
        let rows = self.pieces.first()?.rows;
        let piece = self.pieces.get(index.checked_div(rows)?)?;
        let mut row = index.checked_rem(rows)?;
        if let Some(order) = &self.row_order {
            row = *order.get(row)?;
        }
        let len = piece.ty.row_bytes(piece.cols)?;
        let start = row.checked_mul(len)?;
        let bytes = piece.bytes.get(start..start.checked_add(len)?)?;
        let Some(runs) = &self.column_order else {
            return widen::widen_into(piece.ty, bytes, out);
        };
        let each = piece.ty.row_bytes(runs.len)?;
        for (out, from) in out.chunks_mut(runs.len).zip(&runs.order) {
            let start = from.checked_mul(each)?;
            let run = bytes.get(start..start.checked_add(each)?)?;
            widen::widen_into(piece.ty, run, out)?;
        }
        Some(())
    }
}

impl Checkpoint {
    /// What a GGUF file of this model contains.
    ///
    /// # Errors
    /// A matrix is stored quantised, or the model has a setting that GGUF cannot say.
    pub fn export(&self) -> Result<Export<'_>, ModelError> {
        match self.meta() {
            Meta::Gguf(head) => Ok(Export {
                metadata: self.copied_metadata(head)?,
                tensors: self.copied_tensors()?,
            }),
            Meta::Hf { dir, config, .. } => Ok(Export {
                metadata: describe::metadata(self, dir, config)?,
                tensors: directory::tensors(self)?,
            }),
        }
    }

    /// All keys as they stand in the first file, but for those of the file's own form.
    fn copied_metadata(&self, head: &Gguf) -> Result<Vec<(String, Item)>, ModelError> {
        let (_, bytes) = self.head_bytes()?;
        let kept = |key: &&str| !OF_THE_FILE.contains(key) && !key.starts_with("split.");
        Ok(head
            .keys()
            .filter(kept)
            .filter_map(|key| {
                let raw = head.raw(key, bytes)?;
                Some((key.to_owned(), Item::Raw(raw.to_vec())))
            })
            .collect())
    }

    fn copied_tensors(&self) -> Result<Vec<ExportTensor<'_>>, ModelError> {
        self.store()
            .iter()
            .enumerate()
            .map(|(index, tensor)| self.copied_tensor(index, tensor))
            .collect()
    }

    fn copied_tensor(&self, index: usize, tensor: &Tensor) -> Result<ExportTensor<'_>, ModelError> {
        let at = FileRange {
            file: tensor.file,
            start: tensor.start,
            len: tensor.len,
        };
        let bytes = self.bytes_at(at);
        let used = self.bound().is_used(index);
        let (class, content) = if names::is_matrix(&tensor.name) {
            let piece = self.float_piece(tensor, bytes, at)?;
            (ExportClass::Matrix, Content::Rows(Rows::plain(vec![piece])))
        } else if used {
            let ty = self.float_type(tensor)?;
            let values = widen::widen(ty, bytes).unwrap_or_default();
            (ExportClass::Small, Content::Values(values))
        } else {
            (ExportClass::Kept(tensor.storage), Content::Bytes(bytes, at))
        };
        Ok(ExportTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            class,
            content,
        })
    }

    fn float_piece<'a>(
        &self,
        tensor: &Tensor,
        bytes: &'a [u8],
        at: FileRange,
    ) -> Result<TensorRef<'a>, ModelError> {
        let (cols, outer) = tensor.shape.split_last().unwrap_or((&0, &[]));
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(TensorRef {
            ty: self.float_type(tensor)?,
            rows: size(outer.iter().product()),
            cols: size(*cols),
            bytes,
            at,
        })
    }

    fn float_type(&self, tensor: &Tensor) -> Result<DType, ModelError> {
        match tensor.storage.weight {
            Some(ty) if !ty.is_quantised() => Ok(ty),
            _ => Err(self.not_floats(&tensor.name, tensor.storage.name)),
        }
    }

    fn not_floats(&self, tensor: &str, got: &str) -> ModelError {
        ModelError::tensor(
            self.path(),
            tensor,
            format!("stored as {got}"),
            "F32, F16 or BF16: quantise the original, a second rounding only adds error",
        )
    }
}

impl<'a> Rows<'a> {
    /// Rows as they come.
    fn plain(pieces: Vec<TensorRef<'a>>) -> Self {
        Self {
            pieces,
            row_order: None,
            column_order: None,
        }
    }
}
