//! An opened model: files mapped, architecture read, every needed tensor found and checked.
//!
//! Opening touches heads alone; weights become resident when they are asked for. A checkpoint never changes, so
//! it is shared freely between threads.

use std::path::{Path, PathBuf};

use crate::{
    Architecture, DType, Identity, LayerRole, ModelError, Proj, Role,
    arch::{self, Class, GgufModel, layer_roles},
    bind::{self, Bound, Place},
    files::{self, Layout, Located, Opened, SplitName},
    gguf::Gguf,
    map::MappedFile,
    names::{Naming, hf},
    store::Store,
    widen,
};

mod ranges;

pub use ranges::{FileRange, Part, merge_ranges};

/// A matrix straight from the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorRef<'a> {
    /// Storage.
    pub ty: DType,
    /// Rows.
    pub rows: usize,
    /// Values per row.
    pub cols: usize,
    /// Row-major bytes: `rows * ty.row_bytes(cols)`, of no particular alignment.
    pub bytes: &'a [u8],
    /// Where these bytes lie: [`Checkpoint::bytes_at`] gives them again without a look-up by role.
    pub at: FileRange,
}

/// The file format of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One GGUF file or several parts.
    Gguf,
    /// A directory of safetensors files.
    Safetensors,
}

/// Where everything besides weights is read from.
#[derive(Debug)]
pub(crate) enum Meta {
    /// The head of the first file.
    Gguf(Gguf),
    /// Files of this directory; config.json was read at open.
    Hf {
        dir: PathBuf,
        config: serde_json::Value,
        /// As it stands in the file, for the identity.
        config_text: Vec<u8>,
    },
}

/// An opened model.
#[derive(Debug)]
pub struct Checkpoint {
    id: String,
    path: PathBuf,
    files: Vec<MappedFile>,
    header_bytes: Vec<u64>,
    store: Store,
    arch: Architecture,
    naming: Naming,
    bound: Bound,
    identity: Identity,
    meta: Meta,
}

impl Checkpoint {
    /// Opens a `.gguf` file (any part of a split one) or a directory. In a directory safetensors win over GGUF.
    ///
    /// # Errors
    /// The files are broken, incomplete, changed in a way that we cannot compute, or not there.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        match files::locate(path)? {
            Located::Gguf(path) => Self::open_gguf(&path),
            Located::Safetensors(dir, layout) => Self::open_safetensors(&dir, &layout),
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let (opened, head) = files::open_gguf(path)?;
        let Some(first) = opened.files.first() else {
            return Err(ModelError::malformed(
                path,
                "the model",
                "without files",
                "at least one",
            ));
        };
        let (arch, drafting) = arch::from_gguf(&GgufModel {
            path: first.path(),
            gguf: &head,
            bytes: first.bytes(),
            store: &opened.store,
            rope_factors: rope_factors(&opened)?,
        })?;
        let layers = u32::try_from(arch.layers.len()).unwrap_or(u32::MAX);
        let naming = Naming::Gguf {
            family: arch.family,
            drafting: layers..layers.saturating_add(drafting),
        };
        let id = SplitName::of(path).map_or_else(|| stem(path), |name| name.stem);
        Self::finish(id, path, opened, arch, naming, Meta::Gguf(head))
    }

    fn open_safetensors(dir: &Path, layout: &Layout) -> Result<Self, ModelError> {
        let opened = files::open_safetensors(dir, layout)?;
        let config_path = dir.join("config.json");
        let config_text = files::read_text(&config_path)?;
        let config = files::parse_json(&config_path, &config_text)?;
        let arch = arch::from_config(&config_path, &config, &opened.store)?;
        let has_embedding = |prefix: &&str| {
            opened
                .store
                .find(&format!("{prefix}embed_tokens.weight"))
                .is_some()
        };
        let prefix = hf::PREFIXES
            .into_iter()
            .find(has_embedding)
            .unwrap_or("model.");
        let naming = Naming::Hf {
            family: arch.family,
            prefix,
            tied: arch.tied_head,
        };
        let meta = Meta::Hf {
            dir: dir.to_path_buf(),
            config,
            config_text,
        };
        Self::finish(directory_name(dir), dir, opened, arch, naming, meta)
    }

    fn finish(
        id: String,
        path: &Path,
        opened: Opened,
        arch: Architecture,
        naming: Naming,
        meta: Meta,
    ) -> Result<Self, ModelError> {
        let Opened {
            files,
            header_bytes,
            store,
        } = opened;
        let paths: Vec<&Path> = files.iter().map(MappedFile::path).collect();
        let bound = bind::bind(path, &paths, &store, &arch, &naming)?;
        let config = match &meta {
            Meta::Gguf(_) => None,
            Meta::Hf { config_text, .. } => Some(config_text.as_slice()),
        };
        let identity = Identity::of(&files, &header_bytes, config);
        let checkpoint = Self {
            id,
            path: path.to_path_buf(),
            files,
            header_bytes,
            store,
            arch,
            naming,
            bound,
            identity,
            meta,
        };
        checkpoint.release_heads();
        Ok(checkpoint)
    }

    /// The name under which clients ask for the model: the file's stem or the directory's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self.meta {
            Meta::Gguf(_) => Format::Gguf,
            Meta::Hf { .. } => Format::Safetensors,
        }
    }

    /// What the model computes.
    #[must_use]
    pub fn arch(&self) -> &Architecture {
        &self.arch
    }

    /// What makes two copies of the model the same.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether all files are still as they were opened: size, time of change, and place under their names.
    ///
    /// # Errors
    /// [`ModelError::Changed`] names the first file that is not.
    pub fn unchanged(&self) -> Result<(), ModelError> {
        self.files.iter().try_for_each(MappedFile::unchanged)
    }

    /// A matrix by its role: embedding, head, projections and routers.
    ///
    /// # Errors
    /// The model has no such role, or the role is a vector.
    pub fn matrix(&self, role: Role) -> Result<TensorRef<'_>, ModelError> {
        match self.bound.role(role) {
            Some((place, Class::Matrix)) => self.tensor(place),
            Some((_, Class::Vector)) => {
                Err(self.no_role(format!("{role} as a matrix; it is read as a vector")))
            }
            None => Err(self.no_role(role.to_string())),
        }
    }

    /// One expert's matrix, whatever layout the file has.
    ///
    /// # Errors
    /// The layer has no experts, or not so many.
    pub fn expert(&self, layer: u32, proj: Proj, expert: u32) -> Result<TensorRef<'_>, ModelError> {
        self.tensor(self.expert_place(layer, proj, expert)?)
    }

    /// The bytes of a range that a [`TensorRef`] of this checkpoint named; empty for a range of another model.
    #[must_use]
    pub fn bytes_at(&self, range: FileRange) -> &[u8] {
        let file = self.files.get(range.file);
        file.and_then(|file| file.bytes().get(range.bytes()))
            .unwrap_or_default()
    }

    /// A small tensor as the mathematics wants it, in row-major order: norms as plain weights, the decay as
    /// `-exp(A_log)`, the convolution as [channels, kernel]. Float matrices can be had too.
    ///
    /// # Errors
    /// The model has no such role, or it is stored quantised.
    pub fn vector(&self, role: Role) -> Result<Vec<f32>, ModelError> {
        let Some((place, _)) = self.bound.role(role) else {
            return Err(self.no_role(role.to_string()));
        };
        let Some(mut values) = widen::widen(place.dtype, self.bytes(place)?) else {
            return Err(self.no_role(format!("{role} in floats; it is stored as {}", place.dtype)));
        };
        if self.naming.zero_centred(role) {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        if matches!(role, Role::Layer(_, LayerRole::DeltaDecay)) && self.naming.log_decay() {
            values
                .iter_mut()
                .for_each(|value| *value = widen::decay_of_log(*value));
        }
        Ok(values)
    }

    /// The roles of a layer besides its experts, in a fixed order.
    #[must_use]
    pub fn layer_roles(&self, layer: u32) -> Vec<LayerRole> {
        layer_roles(&self.arch, usize::try_from(layer).unwrap_or(usize::MAX))
    }

    /// Lets go of the pages of metadata and tensor tables, which were read to open the model.
    pub fn release_heads(&self) {
        for (file, header_bytes) in self.files.iter().zip(&self.header_bytes) {
            file.release(0..usize::try_from(*header_bytes).unwrap_or(0));
        }
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The first file with its bytes, in which metadata arrays lie.
    pub(crate) fn first_file(&self) -> Option<(&Path, &[u8])> {
        self.files.first().map(|file| (file.path(), file.bytes()))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn bound(&self) -> &Bound {
        &self.bound
    }

    pub(crate) fn files(&self) -> &[MappedFile] {
        &self.files
    }

    pub(crate) fn expert_place(
        &self,
        layer: u32,
        proj: Proj,
        expert: u32,
    ) -> Result<Place, ModelError> {
        let experts = self.arch.moe.map_or(0, |moe| moe.experts);
        self.bound
            .experts(layer)
            .filter(|_| usize::try_from(expert).is_ok_and(|expert| expert < experts))
            .and_then(|stacks| stacks.place(proj, expert))
            .ok_or_else(|| self.no_role(format!("expert {expert} in layer {layer}")))
    }

    pub(crate) fn no_role(&self, role: String) -> ModelError {
        ModelError::NoSuchRole {
            model: self.id.clone(),
            role,
        }
    }

    fn tensor(&self, place: Place) -> Result<TensorRef<'_>, ModelError> {
        Ok(TensorRef {
            ty: place.dtype,
            rows: place.rows,
            cols: place.cols,
            bytes: self.bytes(place)?,
            at: FileRange::of(place),
        })
    }

    fn bytes(&self, place: Place) -> Result<&[u8], ModelError> {
        let start = usize::try_from(place.start).unwrap_or(usize::MAX);
        let end = usize::try_from(place.start.saturating_add(place.len)).unwrap_or(usize::MAX);
        self.files
            .get(place.file)
            .and_then(|file| file.bytes().get(start..end))
            .ok_or_else(|| self.no_role(format!("bytes {start} to {end} in file {}", place.file)))
    }
}

/// Values of `rope_freqs.weight`, if a float tensor of this name is there; its shape is checked when it is bound.
fn rope_factors(opened: &Opened) -> Result<Option<Vec<f32>>, ModelError> {
    let Some((_, tensor)) = opened.store.find("rope_freqs.weight") else {
        return Ok(None);
    };
    let start = usize::try_from(tensor.start).unwrap_or(usize::MAX);
    let end = usize::try_from(tensor.start.saturating_add(tensor.len)).unwrap_or(usize::MAX);
    let file = opened.files.get(tensor.file);
    let bytes = file.and_then(|file| file.bytes().get(start..end));
    let values = tensor
        .storage
        .weight
        .zip(bytes)
        .and_then(|(dtype, bytes)| widen::widen(dtype, bytes));
    match (values, file) {
        (None, Some(file)) => Err(ModelError::tensor(
            file.path(),
            tensor.name.as_str(),
            format!("storage type {}", tensor.storage.name),
            "F32, F16 or BF16",
        )),
        (values, _) => Ok(values),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(
        || "model".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

fn directory_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole.file_name().map_or_else(
        || "model".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}
