//! Finds every tensor that the architecture needs, checks its shape and type, and refuses what nobody asked for.
//!
//! After this every question by role is answered by a place whose bytes are known to be there and to be whole rows.

use std::{collections::BTreeMap, path::Path};

use crate::{
    DType, ModelError,
    arch::{Architecture, Class, Expected, FfnKind, expected_shape, layer_roles},
    names::{ExpertNames, Naming},
    roles::{Proj, Role},
    store::{Store, Tensor, show_shape},
};

/// A matrix (or a vector as one row) inside a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Storage.
    pub(crate) dtype: DType,
    /// Rows.
    pub(crate) rows: usize,
    /// Values per row.
    pub(crate) cols: usize,
    /// Index of the file.
    pub(crate) file: usize,
    /// First byte in the file.
    pub(crate) start: u64,
    /// Number of bytes.
    pub(crate) len: u64,
}

/// Where the matrices of one projection lie, by expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stack {
    /// One tensor: the first expert's place, and bytes from one expert to the next.
    Stacked { first: Place, stride: u64 },
    /// A tensor each.
    Single(Vec<Place>),
}

/// The experts of one layer, by projection: gate, up, down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerExperts([Stack; 3]);

impl LayerExperts {
    /// One expert's matrix; `None` beyond the last expert, whose number is the caller's to check for stacks.
    pub(crate) fn place(&self, proj: Proj, expert: u32) -> Option<Place> {
        let [gate, up, down] = &self.0;
        let stack = match proj {
            Proj::Gate => gate,
            Proj::Up => up,
            Proj::Down => down,
        };
        match stack {
            Stack::Single(places) => places.get(usize::try_from(expert).ok()?).copied(),
            Stack::Stacked { first, stride } => Some(Place {
                start: first
                    .start
                    .checked_add(stride.checked_mul(u64::from(expert))?)?,
                ..*first
            }),
        }
    }
}

/// The tensors of a model by role.
#[derive(Debug)]
pub(crate) struct Bound {
    roles: BTreeMap<Role, (Place, Class)>,
    experts: Vec<Option<LayerExperts>>,
    used: Vec<bool>,
}

impl Bound {
    /// The place of a role's tensor and how it is read.
    pub(crate) fn role(&self, role: Role) -> Option<(Place, Class)> {
        self.roles.get(&role).copied()
    }

    /// The experts of a layer.
    pub(crate) fn experts(&self, layer: u32) -> Option<&LayerExperts> {
        self.experts.get(usize::try_from(layer).ok()?)?.as_ref()
    }

    /// Whether the tensor with this index in the store is needed.
    pub(crate) fn is_used(&self, index: usize) -> bool {
        self.used.get(index).copied().unwrap_or(false)
    }
}

/// Binds the tensors in `store` to the roles of `arch`; `model` is the model's path, `paths` those of its files.
pub(crate) fn bind(
    model: &Path,
    paths: &[&Path],
    store: &Store,
    arch: &Architecture,
    naming: &Naming,
) -> Result<Bound, ModelError> {
    let mut binder = Binder {
        model,
        paths,
        store,
        arch,
        naming,
        used: vec![false; store.len()],
    };
    let mut roles = BTreeMap::new();
    for role in [Role::Embedding, Role::OutputNorm] {
        roles.insert(role, binder.role(role)?);
    }
    let head = if arch.tied_head {
        Role::Embedding
    } else {
        Role::Head
    };
    roles.insert(Role::Head, binder.role(head)?);
    if arch.family == crate::Family::Llama
        && store.find(&naming.tensor(Role::RopeFactors)).is_some()
    {
        roles.insert(Role::RopeFactors, binder.role(Role::RopeFactors)?);
    }
    let mut experts = Vec::with_capacity(arch.layers.len());
    for (index, kind) in arch.layers.iter().enumerate() {
        let layer = u32::try_from(index).unwrap_or(u32::MAX);
        for layer_role in layer_roles(arch, index) {
            let role = Role::Layer(layer, layer_role);
            roles.insert(role, binder.role(role)?);
        }
        experts.push(match kind.ffn {
            FfnKind::Dense => None,
            FfnKind::Moe => Some(binder.experts(layer)?),
        });
    }
    binder.refuse_unknown()?;
    Ok(Bound {
        roles,
        experts,
        used: binder.used,
    })
}

struct Binder<'a> {
    model: &'a Path,
    paths: &'a [&'a Path],
    store: &'a Store,
    arch: &'a Architecture,
    naming: &'a Naming,
    used: Vec<bool>,
}

impl<'a> Binder<'a> {
    fn role(&mut self, role: Role) -> Result<(Place, Class), ModelError> {
        let Some(expected) = expected_shape(self.arch, role) else {
            return Err(ModelError::NoSuchRole {
                model: self.model.display().to_string(),
                role: role.to_string(),
            });
        };
        let name = self.naming.tensor(role);
        let tensor = self.needed(&name, &expected.shape)?;
        let place = self.checked(tensor, &expected)?;
        Ok((place, expected.class))
    }

    /// The tensor called `name`, marked as used.
    fn needed(&mut self, name: &str, shape: &[usize]) -> Result<&'a Tensor, ModelError> {
        let Some((index, tensor)) = self.store.find(name) else {
            return Err(ModelError::MissingTensor {
                path: self.model.to_path_buf(),
                tensor: name.to_owned(),
                shape: format!("{shape:?}"),
            });
        };
        if let Some(used) = self.used.get_mut(index) {
            *used = true;
        }
        Ok(tensor)
    }

    fn bad(&self, tensor: &Tensor, got: String, expected: String) -> ModelError {
        let path = self.paths.get(tensor.file).copied().unwrap_or(self.model);
        ModelError::tensor(path, tensor.name.as_str(), got, expected)
    }

    /// Compares shape and type; dimensions of 1 do not matter, they do not move any byte.
    fn checked(&self, tensor: &Tensor, expected: &Expected) -> Result<Place, ModelError> {
        let wanted: Vec<u64> = expected.shape.iter().map(|dim| *dim as u64).collect();
        if squeezed(&tensor.shape) != squeezed(&wanted) {
            return Err(self.bad(
                tensor,
                format!("shape {}", show_shape(&tensor.shape)),
                format!("shape {}", show_shape(&wanted)),
            ));
        }
        let Some(dtype) = tensor.storage.weight else {
            return Err(self.bad(
                tensor,
                format!("storage type {}", tensor.storage.name),
                format!("one of {}", DType::supported()),
            ));
        };
        if expected.class == Class::Vector && dtype.is_quantised() {
            return Err(self.bad(
                tensor,
                format!("storage type {dtype}"),
                "F32, F16 or BF16 for this small tensor".to_owned(),
            ));
        }
        let cols = expected.shape.last().copied().unwrap_or(1);
        let rows = expected.shape.iter().rev().skip(1).product();
        let Some(row_bytes) = dtype.row_bytes(cols) else {
            return Err(self.bad(
                tensor,
                format!("rows of {cols} values of type {dtype}"),
                format!("whole blocks of {}", dtype.block_len()),
            ));
        };
        let len = row_bytes.checked_mul(rows).map(|len| len as u64);
        if len != Some(tensor.len) {
            return Err(self.bad(
                tensor,
                format!("{} bytes", tensor.len),
                format!("{rows} rows of {row_bytes} bytes"),
            ));
        }
        Ok(Place {
            dtype,
            rows,
            cols,
            file: tensor.file,
            start: tensor.start,
            len: tensor.len,
        })
    }

    fn experts(&mut self, layer: u32) -> Result<LayerExperts, ModelError> {
        let names = self.naming.experts(layer);
        let (gate, up) = if self.store.find(&names.gate_up).is_some() {
            self.gate_up(&names)?
        } else {
            (
                self.stack(layer, Proj::Gate, &names)?,
                self.stack(layer, Proj::Up, &names)?,
            )
        };
        let down = self.stack(layer, Proj::Down, &names)?;
        Ok(LayerExperts([gate, up, down]))
    }

    /// Number of experts, and rows and columns of one expert's matrix.
    fn expert_shape(&self, proj: Proj) -> (usize, usize, usize) {
        let (experts, width) = self.arch.moe.map_or((0, 0), |moe| (moe.experts, moe.width));
        match proj {
            Proj::Gate | Proj::Up => (experts, width, self.arch.hidden),
            Proj::Down => (experts, self.arch.hidden, width),
        }
    }

    /// Gate and up from one tensor whose experts hold the gate's rows, then the up's.
    fn gate_up(&mut self, names: &ExpertNames) -> Result<(Stack, Stack), ModelError> {
        let (experts, rows, cols) = self.expert_shape(Proj::Gate);
        let (both, stride) = self.stacked(&names.gate_up, experts, rows * 2, cols)?;
        let half = stride / 2;
        let gate = Place {
            rows,
            len: half,
            ..both
        };
        let up = Place {
            start: gate.start.saturating_add(half),
            ..gate
        };
        let stack = |first| Stack::Stacked { first, stride };
        Ok((stack(gate), stack(up)))
    }

    fn stack(&mut self, layer: u32, proj: Proj, names: &ExpertNames) -> Result<Stack, ModelError> {
        let (experts, rows, cols) = self.expert_shape(proj);
        let [gate, up, down] = &names.stacked;
        let name = match proj {
            Proj::Gate => gate,
            Proj::Up => up,
            Proj::Down => down,
        };
        let first_single = self.naming.expert(layer, proj, 0);
        if self.store.find(name).is_some() || self.store.find(&first_single).is_none() {
            let (first, stride) = self.stacked(name, experts, rows, cols)?;
            return Ok(Stack::Stacked { first, stride });
        }
        let expected = Expected {
            shape: vec![rows, cols],
            class: Class::Matrix,
        };
        let mut places = Vec::new();
        for expert in 0..u32::try_from(experts).unwrap_or(u32::MAX) {
            let tensor = self.needed(&self.naming.expert(layer, proj, expert), &expected.shape)?;
            places.push(self.checked(tensor, &expected)?);
        }
        Ok(Stack::Single(places))
    }

    /// The first expert's place in a tensor of all experts, and the bytes of one expert.
    fn stacked(
        &mut self,
        name: &str,
        experts: usize,
        rows: usize,
        cols: usize,
    ) -> Result<(Place, u64), ModelError> {
        let expected = Expected {
            shape: vec![experts, rows, cols],
            class: Class::Matrix,
        };
        let tensor = self.needed(name, &expected.shape)?;
        let whole = self.checked(tensor, &expected)?;
        // The length is experts * rows whole rows: it divides without remainder.
        let len = whole.len / (experts.max(1) as u64);
        Ok((Place { rows, len, ..whole }, len))
    }

    /// Refuses a tensor that no role needs and that is not known to be unneeded.
    fn refuse_unknown(&self) -> Result<(), ModelError> {
        for (tensor, used) in self.store.iter().zip(&self.used) {
            if !used && !self.naming.is_left_out(&tensor.name) {
                return Err(self.bad(
                    tensor,
                    "a tensor that this architecture does not have".to_owned(),
                    format!(
                        "only tensors of {} as this program computes it (no biases, no extra parts)",
                        self.arch.family.name()
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn squeezed(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|dim| *dim != 1).collect()
}
