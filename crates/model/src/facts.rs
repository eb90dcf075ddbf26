//! The facts that planner and tools need, counted from the bound tensors.

use std::collections::BTreeMap;

use proto::facts::{LayerFacts, MixerKind, ModelFacts, TypeFacts};

use crate::{
    Architecture, Checkpoint, DeltaShape, FfnKind, Mixer, ModelError, Part, Proj, Role,
    checkpoint::FileRange,
};

/// Bytes of one value of recurrent state.
const STATE_VALUE_BYTES: u64 = 4;

impl Checkpoint {
    /// Bytes, multiply-adds, cache and state sizes of every part.
    #[must_use]
    pub fn facts(&self) -> ModelFacts {
        let arch = self.arch();
        let moe = arch.moe;
        let (types, quantised) = self.type_facts();
        let rows = narrow(arch.vocab);
        let head = self.bytes_of(&Part::HeadRows(0..rows));
        ModelFacts {
            id: self.id().to_owned(),
            family: arch.family.name().to_owned(),
            hidden: narrow(arch.hidden),
            vocab: rows,
            context: narrow(arch.context),
            experts: moe.map_or(0, |moe| narrow(moe.experts)),
            experts_used: moe.map_or(0, |moe| narrow(moe.used)),
            embedding_bytes: self.bytes_of(&Part::Embedding),
            tied_head: arch.tied_head,
            head_bytes: head.saturating_add(self.bytes_of(&Part::OutputNorm)),
            head_macs: product(&[arch.vocab, arch.hidden]),
            layers: (0..narrow(arch.layers.len()))
                .map(|layer| self.layer_facts(layer))
                .collect(),
            file_bytes: self.identity().size_bytes,
            quantised,
            types,
        }
    }

    fn layer_facts(&self, layer: u32) -> LayerFacts {
        let arch = self.arch();
        let kind = usize::try_from(layer)
            .ok()
            .and_then(|layer| arch.layers.get(layer));
        let attention = kind.is_none_or(|kind| kind.mixer == Mixer::Attention);
        let has_experts = kind.is_some_and(|kind| kind.ffn == FfnKind::Moe);
        let delta = arch.delta.filter(|_| !attention);
        let groups = self.groups(layer);
        LayerFacts {
            mixer: if attention {
                MixerKind::Attention
            } else {
                MixerKind::DeltaNet
            },
            trunk_bytes: self.bytes_of(&Part::Trunk(layer)),
            trunk_macs: self
                .matrix_macs(layer)
                .saturating_add(delta.map_or(0, |delta| delta_macs(&delta))),
            group_bytes: (0..groups)
                .map(|group| self.bytes_of(&Part::ExpertGroup { layer, group }))
                .collect(),
            expert_bytes: if has_experts {
                self.expert_bytes(layer)
            } else {
                0
            },
            expert_macs: if has_experts { expert_macs(arch) } else { 0 },
            kv_values_per_position: if attention {
                product(&[2, arch.attention.kv_heads, arch.attention.head_dim])
            } else {
                0
            },
            state_bytes_per_sequence: delta.map_or(0, |delta| state_bytes(&delta)),
        }
    }

    /// Bytes of a part; a part that the model does not have has none.
    fn bytes_of(&self, part: &Part) -> u64 {
        self.ranges(part).map_or(0, |ranges| sum(&ranges))
    }

    fn matrix_macs(&self, layer: u32) -> u64 {
        self.layer_roles(layer)
            .into_iter()
            .filter_map(|role| self.matrix(Role::Layer(layer, role)).ok())
            .map(|matrix| product(&[matrix.rows, matrix.cols]))
            .fold(0, u64::saturating_add)
    }

    fn expert_bytes(&self, layer: u32) -> u64 {
        Proj::ALL
            .into_iter()
            .map(|proj| {
                let place: Result<_, ModelError> = self.expert_place(layer, proj, 0);
                place.map_or(0, |place| place.len)
            })
            .fold(0, u64::saturating_add)
    }

    /// Tensors by type, and whether quantised types hold most bytes. Tensors that are not needed do not count.
    fn type_facts(&self) -> (Vec<TypeFacts>, bool) {
        let mut by_type: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        let (mut quantised, mut all) = (0_u64, 0_u64);
        for (index, tensor) in self.store().iter().enumerate() {
            if !self.bound().is_used(index) {
                continue;
            }
            let (tensors, bytes) = by_type.entry(tensor.storage.name).or_default();
            *tensors = tensors.saturating_add(1);
            *bytes = bytes.saturating_add(tensor.len);
            all = all.saturating_add(tensor.len);
            if tensor.storage.block_len > 1 {
                quantised = quantised.saturating_add(tensor.len);
            }
        }
        let types = by_type
            .into_iter()
            .map(|(name, (tensors, bytes))| TypeFacts {
                name: name.to_owned(),
                tensors,
                bytes,
            })
            .collect();
        (types, quantised > all / 2)
    }
}

fn expert_macs(arch: &Architecture) -> u64 {
    let width = arch.moe.map_or(0, |moe| moe.width);
    product(&[3, width, arch.hidden])
}

/// Convolution, and per value of the state: decay, read by key, write, read by query.
fn delta_macs(delta: &DeltaShape) -> u64 {
    let state = product(&[4, delta.value_heads, delta.key_dim, delta.value_dim]);
    state.saturating_add(product(&[delta.channels(), delta.conv_kernel]))
}

/// The state matrix of every value head, and the rows that the convolution still needs.
fn state_bytes(delta: &DeltaShape) -> u64 {
    let state = product(&[delta.value_heads, delta.key_dim, delta.value_dim]);
    let rows = product(&[delta.conv_kernel.saturating_sub(1), delta.channels()]);
    state.saturating_add(rows).saturating_mul(STATE_VALUE_BYTES)
}

fn sum(ranges: &[FileRange]) -> u64 {
    ranges
        .iter()
        .fold(0, |sum, range| sum.saturating_add(range.len))
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, factor| {
        product.saturating_mul(*factor as u64)
    })
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
