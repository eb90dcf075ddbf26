//! Finds the weights of a slice in the model files.

use kernels::ActFormat;
use model::{Checkpoint, FfnKind, LayerRole, Mixer, OutputGate, Proj, QkNorm, Role};
use proto::facts::{expert_groups, group_experts};

use crate::EngineError;
use crate::delta::{Recurrent, recurrent};
use crate::groups::GroupSet;
use crate::weights::{
    AttentionWeights, DeltaWeights, Experts, FeedForward, FfnWeights, LayerWeights, MixerWeights,
    MoeWeights, Weight, weight_type,
};

struct Layer<'a> {
    checkpoint: &'a Checkpoint,
    index: u32,
}

impl Layer<'_> {
    fn matrix(&self, role: LayerRole) -> Result<Weight, EngineError> {
        Ok(Weight::of(
            &self.checkpoint.matrix(Role::Layer(self.index, role))?,
        ))
    }

    fn vector(&self, role: LayerRole) -> Result<Vec<f32>, EngineError> {
        Ok(self.checkpoint.vector(Role::Layer(self.index, role))?)
    }

    fn expert(&self, expert: u32) -> Result<FfnWeights, EngineError> {
        let of = |proj| -> Result<Weight, EngineError> {
            Ok(Weight::of(
                &self.checkpoint.expert(self.index, proj, expert)?,
            ))
        };
        Ok(FfnWeights {
            gate: of(Proj::Gate)?,
            up: of(Proj::Up)?,
            down: of(Proj::Down)?,
        })
    }

    fn ffn(
        &self,
        gate: LayerRole,
        up: LayerRole,
        down: LayerRole,
    ) -> Result<FfnWeights, EngineError> {
        Ok(FfnWeights {
            gate: self.matrix(gate)?,
            up: self.matrix(up)?,
            down: self.matrix(down)?,
        })
    }

    fn attention(&self) -> Result<AttentionWeights, EngineError> {
        let normed = self.checkpoint.arch().attention.qk_norm == QkNorm::PerHead;
        let norm = |role| normed.then(|| self.vector(role)).transpose();
        Ok(AttentionWeights {
            q: self.matrix(LayerRole::Q)?,
            k: self.matrix(LayerRole::K)?,
            v: self.matrix(LayerRole::V)?,
            o: self.matrix(LayerRole::O)?,
            q_norm: norm(LayerRole::QNorm)?,
            k_norm: norm(LayerRole::KNorm)?,
        })
    }

    fn delta(&self) -> Result<DeltaWeights, EngineError> {
        let arch = self.checkpoint.arch();
        let shape = arch
            .delta
            .as_ref()
            .ok_or(EngineError::NotHeld("delta net shape"))?;
        let vectors = Recurrent {
            conv: self.vector(LayerRole::DeltaConv)?,
            decay: self.vector(LayerRole::DeltaDecay)?,
            dt_bias: self.vector(LayerRole::DeltaDtBias)?,
            norm: self.vector(LayerRole::DeltaNorm)?,
        };
        Ok(DeltaWeights {
            qkv: self.matrix(LayerRole::DeltaQkv)?,
            z: self.matrix(LayerRole::DeltaZ)?,
            b: self.matrix(LayerRole::DeltaB)?,
            a: self.matrix(LayerRole::DeltaA)?,
            out: self.matrix(LayerRole::DeltaOut)?,
            net: recurrent(arch, shape, vectors),
        })
    }

    fn travel_format(&self, experts: u32) -> Result<ActFormat, EngineError> {
        let mut found = None;
        for expert in 0..experts {
            for proj in [Proj::Gate, Proj::Up] {
                let tensor = self.checkpoint.expert(self.index, proj, expert)?;
                let format = weight_type(tensor.ty).act_format();
                if *found.get_or_insert(format) != format {
                    return Ok(ActFormat::F32);
                }
            }
        }
        Ok(found.unwrap_or(ActFormat::F32))
    }

    fn experts(&self, held: GroupSet) -> Result<Experts, EngineError> {
        let shape = self.checkpoint.arch().moe.as_ref();
        let shape = shape.ok_or(EngineError::NotHeld("experts"))?;
        let experts = u32::try_from(shape.experts).unwrap_or(u32::MAX);
        let mut found = vec![None; shape.experts];
        for group in (0..expert_groups(experts)).filter(|g| held.contains(*g)) {
            for expert in group_experts(experts, group) {
                if let Some(slot) = found.get_mut(expert as usize) {
                    *slot = Some(self.expert(expert)?);
                }
            }
        }
        Ok(Experts {
            travel: self.travel_format(experts)?,
            groups: held,
            by_id: found,
        })
    }

    fn moe(&self, held: GroupSet) -> Result<MoeWeights, EngineError> {
        let shape = self.checkpoint.arch().moe.as_ref();
        let shape = shape.ok_or(EngineError::NotHeld("experts"))?;
        let shared = shape.shared_width.is_some();
        let ffn = || {
            self.ffn(
                LayerRole::SharedGate,
                LayerRole::SharedUp,
                LayerRole::SharedDown,
            )
        };
        let router = || self.matrix(LayerRole::SharedRouter);
        let shared_ffn = shared.then(ffn).transpose()?;
        let experts = self.experts(held)?;
        let mut formats: Vec<_> = (experts.by_id.iter().flatten())
            .chain(&shared_ffn)
            .flat_map(|ffn| [ffn.gate.ty.act_format(), ffn.up.ty.act_format()])
            .collect();
        formats.sort_unstable();
        formats.dedup();
        Ok(MoeWeights {
            formats,
            router: self.matrix(LayerRole::Router)?,
            experts,
            shared: shared_ffn,
            shared_router: shared.then(router).transpose()?,
        })
    }
}

/// Finds expert groups of a layer whose trunk is elsewhere.
///
/// # Errors
/// When the model has no such layer or group, or the layer no experts.
pub fn experts(
    checkpoint: &Checkpoint,
    index: u32,
    held: GroupSet,
) -> Result<Experts, EngineError> {
    let arch = checkpoint.arch();
    let kind = arch.layers.get(index as usize);
    let groups = arch
        .moe
        .as_ref()
        .filter(|_| kind.is_some_and(|kind| kind.ffn == FfnKind::Moe))
        .map_or(0, |moe| {
            expert_groups(u32::try_from(moe.experts).unwrap_or(u32::MAX))
        });
    if let Some(group) = held.without(GroupSet::all(groups)).iter().next() {
        return Err(EngineError::Slice {
            what: "expert group",
            got: group.into(),
            have: groups.into(),
        });
    }
    Layer { checkpoint, index }.experts(held)
}

/// Finds the weights of one layer, with the expert groups in `held`.
///
/// # Errors
/// When the files do not hold a tensor.
pub fn layer(
    checkpoint: &Checkpoint,
    index: u32,
    held: GroupSet,
) -> Result<LayerWeights, EngineError> {
    let arch = checkpoint.arch();
    let kind = arch.layers.get(index as usize).ok_or(EngineError::Slice {
        what: "layer",
        got: index.into(),
        have: arch.layers.len() as u64,
    })?;
    let layer = Layer { checkpoint, index };
    let mixer = match kind.mixer {
        Mixer::Attention => MixerWeights::Attention(layer.attention()?),
        Mixer::DeltaNet => MixerWeights::Delta(layer.delta()?),
    };
    let ffn = match kind.ffn {
        FfnKind::Dense => {
            FeedForward::Dense(layer.ffn(LayerRole::Gate, LayerRole::Up, LayerRole::Down)?)
        }
        FfnKind::Moe => FeedForward::Moe(layer.moe(held)?),
    };
    Ok(LayerWeights {
        attn_norm: layer.vector(LayerRole::AttnNorm)?,
        ffn_norm: layer.vector(LayerRole::FfnNorm)?,
        mixer,
        ffn,
    })
}

/// Whether the queries of this model carry an output gate.
pub fn gated(checkpoint: &Checkpoint) -> bool {
    checkpoint.arch().attention.output_gate == OutputGate::Sigmoid
}
