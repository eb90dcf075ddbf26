//! The tensors of a model by name, whatever format they came from. Knows bytes and shapes, not their meaning.

use std::{collections::HashMap, path::Path};

use crate::{ModelError, dtype::Storage};

/// One tensor: where its bytes are and how they are stored. The range is known to lie inside its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name in the file.
    pub name: String,
    /// How values are stored.
    pub storage: Storage,
    /// Dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Index of the file.
    pub file: usize,
    /// First byte in the file.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

/// All tensors of a model.
#[derive(Debug, Default)]
pub(crate) struct Store {
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

impl Store {
    /// Adds the tensors of the file at `path`; a name that is already there is refused.
    pub(crate) fn add(&mut self, path: &Path, tensors: Vec<Tensor>) -> Result<(), ModelError> {
        for tensor in tensors {
            if self
                .by_name
                .insert(tensor.name.clone(), self.tensors.len())
                .is_some()
            {
                return Err(ModelError::tensor(
                    path,
                    tensor.name,
                    "the name is used twice",
                    "each name once in all files of the model",
                ));
            }
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// The tensors in file order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// Number of tensors.
    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// The tensor called `name` and its index.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Tensor)> {
        let index = *self.by_name.get(name)?;
        self.tensors.get(index).map(|tensor| (index, tensor))
    }
}

/// A shape as messages show it, `[576, 64]`.
pub(crate) fn show_shape(shape: &[u64]) -> String {
    format!("{shape:?}")
}
