//! Which tensors each kind of layer needs and what shape each must have.

use super::{Architecture, FfnKind, Mixer, OutputGate, QkNorm};
use crate::roles::{LayerRole, Role};

/// What a role's tensor must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Dimensions, slowest first.
    pub(crate) shape: Vec<usize>,
    /// How it is read.
    pub(crate) class: Class,
}

/// How a tensor is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Multiplied with straight from the map; any weight type.
    Matrix,
    /// Widened into a vector of floats; float types only.
    Vector,
}

/// The roles of layer `layer` besides its experts, in a fixed order.
pub(crate) fn layer_roles(arch: &Architecture, layer: usize) -> Vec<LayerRole> {
    use LayerRole as R;
    let Some(kind) = arch.layers.get(layer) else {
        return Vec::new();
    };
    let mut roles = vec![R::AttnNorm];
    match kind.mixer {
        Mixer::Attention => {
            roles.extend([R::Q, R::K, R::V, R::O]);
            if arch.attention.qk_norm == QkNorm::PerHead {
                roles.extend([R::QNorm, R::KNorm]);
            }
        }
        Mixer::DeltaNet => roles.extend([
            R::DeltaQkv,
            R::DeltaZ,
            R::DeltaB,
            R::DeltaA,
            R::DeltaConv,
            R::DeltaDecay,
            R::DeltaDtBias,
            R::DeltaNorm,
            R::DeltaOut,
        ]),
    }
    roles.push(R::FfnNorm);
    match kind.ffn {
        FfnKind::Dense => roles.extend([R::Gate, R::Up, R::Down]),
        FfnKind::Moe => {
            roles.push(R::Router);
            if arch.moe.is_some_and(|moe| moe.shared_width.is_some()) {
                roles.extend([R::SharedGate, R::SharedUp, R::SharedDown, R::SharedRouter]);
            }
        }
    }
    roles
}

/// The shape of a role's tensor; `None` where the architecture has no such part.
pub(crate) fn expected_shape(arch: &Architecture, role: Role) -> Option<Expected> {
    let hidden = arch.hidden;
    Some(match role {
        Role::Embedding | Role::Head => matrix(arch.vocab, hidden),
        Role::OutputNorm => vector(&[hidden]),
        Role::RopeFactors => vector(&[arch.rope.dims / 2]),
        Role::Layer(_, role) => return expected_in_layer(arch, role),
    })
}

fn expected_in_layer(arch: &Architecture, role: LayerRole) -> Option<Expected> {
    use LayerRole as R;
    let hidden = arch.hidden;
    let a = &arch.attention;
    let gate = match a.output_gate {
        OutputGate::None => 1,
        OutputGate::Sigmoid => 2,
    };
    Some(match role {
        R::AttnNorm | R::FfnNorm => vector(&[hidden]),
        R::Q => matrix(a.heads * a.head_dim * gate, hidden),
        R::K | R::V => matrix(a.kv_heads * a.head_dim, hidden),
        R::O => matrix(hidden, a.heads * a.head_dim),
        R::QNorm | R::KNorm => vector(&[a.head_dim]),
        R::DeltaQkv => matrix(arch.delta?.channels(), hidden),
        R::DeltaZ => matrix(arch.delta?.value_heads * arch.delta?.value_dim, hidden),
        R::DeltaB | R::DeltaA => matrix(arch.delta?.value_heads, hidden),
        R::DeltaConv => vector(&[arch.delta?.channels(), arch.delta?.conv_kernel]),
        R::DeltaDecay | R::DeltaDtBias => vector(&[arch.delta?.value_heads]),
        R::DeltaNorm => vector(&[arch.delta?.value_dim]),
        R::DeltaOut => matrix(hidden, arch.delta?.value_heads * arch.delta?.value_dim),
        R::Router => matrix(arch.moe?.experts, hidden),
        R::SharedGate | R::SharedUp => matrix(arch.moe?.shared_width?, hidden),
        R::SharedDown => matrix(hidden, arch.moe?.shared_width?),
        R::SharedRouter => matrix(1, hidden),
        R::Gate | R::Up => matrix(arch.dense_width, hidden),
        R::Down => matrix(hidden, arch.dense_width),
    })
}

fn matrix(rows: usize, cols: usize) -> Expected {
    Expected {
        shape: vec![rows, cols],
        class: Class::Matrix,
    }
}

fn vector(shape: &[usize]) -> Expected {
    Expected {
        shape: shape.to_vec(),
        class: Class::Vector,
    }
}
