//! The tensors of a safetensors directory under the names, in the orders and in the forms of GGUF.
//!
//! Three orders differ. Llama rotates neighbours in GGUF and halves of a head elsewhere: rows of Q and K are dealt out
//! anew. A value head of a gated delta net reads key head `j % key_heads` in GGUF and `j / (value_heads / key_heads)`
//! elsewhere: whatever counts value heads is dealt out anew, as rows, as columns of the output projection and as
//! entries of small vectors. Experts are one tensor for each projection.

use crate::{
    Checkpoint, DeltaShape, FfnKind, HeadOrder, LayerRole, ModelError, Pairing, Proj, Role,
    TensorRef,
    arch::{Class, expected_shape},
    export::{Content, ExportClass, ExportTensor, Rows, Runs},
    names::Naming,
};

/// All tensors in the order in which they are used.
pub(super) fn tensors(checkpoint: &Checkpoint) -> Result<Vec<ExportTensor<'_>>, ModelError> {
    let arch = checkpoint.arch();
    let source = Source {
        checkpoint,
        naming: Naming::Gguf {
            family: arch.family,
            drafting: 0..0,
        },
    };
    let mut out = Vec::new();
    if let Some(factors) = arch.rope.factors() {
        out.push(source.small(Role::RopeFactors, vec![factors.len()], factors));
    }
    out.push(source.role(Role::Embedding)?);
    for (layer, kind) in (0u32..).zip(&arch.layers) {
        for role in checkpoint.layer_roles(layer) {
            out.push(source.role(Role::Layer(layer, role))?);
        }
        if kind.ffn == FfnKind::Moe {
            for proj in Proj::ALL {
                out.push(source.experts(layer, proj)?);
            }
        }
    }
    out.push(source.role(Role::OutputNorm)?);
    if !arch.tied_head {
        out.push(source.role(Role::Head)?);
    }
    Ok(out)
}

/// The checkpoint, and how GGUF names its tensors.
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    naming: Naming,
}

impl<'a> Source<'a> {
    fn role(&self, role: Role) -> Result<ExportTensor<'a>, ModelError> {
        let arch = self.checkpoint.arch();
        let no_role = || self.checkpoint.no_role(role.to_string());
        let expected = expected_shape(arch, role).ok_or_else(no_role)?;
        let router = matches!(
            role,
            Role::Layer(_, LayerRole::Router | LayerRole::SharedRouter)
        );
        if expected.class == Class::Vector || router {
            let mut values = self.checkpoint.vector(role)?;
            self.reorder(role, &mut values);
            return Ok(self.small(role, expected.shape, values));
        }
        let matrix = self.float(role, self.checkpoint.matrix(role)?)?;
        let (row_order, column_order) = self.orders(role, &matrix);
        Ok(ExportTensor {
            name: self.naming.tensor(role),
            shape: vec![matrix.rows as u64, matrix.cols as u64],
            class: ExportClass::Matrix,
            content: Content::Rows(Rows {
                pieces: vec![matrix],
                row_order,
                column_order,
            }),
        })
    }

    fn small(&self, role: Role, shape: Vec<usize>, values: Vec<f32>) -> ExportTensor<'a> {
        ExportTensor {
            name: self.naming.tensor(role),
            shape: shape.into_iter().map(|dim| dim as u64).collect(),
            class: ExportClass::Small,
            content: Content::Values(values),
        }
    }

    fn experts(&self, layer: u32, proj: Proj) -> Result<ExportTensor<'a>, ModelError> {
        let experts = self.checkpoint.arch().moe.map_or(0, |moe| moe.experts);
        let [gate, up, down] = self.naming.experts(layer).stacked;
        let name = match proj {
            Proj::Gate => gate,
            Proj::Up => up,
            Proj::Down => down,
        };
        let mut pieces = Vec::with_capacity(experts);
        for expert in 0..u32::try_from(experts).unwrap_or(u32::MAX) {
            let matrix = self.checkpoint.expert(layer, proj, expert)?;
            if matrix.ty.is_quantised() {
                return Err(self.checkpoint.not_floats(&name, matrix.ty.name()));
            }
            pieces.push(matrix);
        }
        let (rows, cols) = pieces
            .first()
            .map_or((0, 0), |piece| (piece.rows, piece.cols));
        Ok(ExportTensor {
            name,
            shape: vec![experts as u64, rows as u64, cols as u64],
            class: ExportClass::Matrix,
            content: Content::Rows(Rows::plain(pieces)),
        })
    }

    fn float(&self, role: Role, matrix: TensorRef<'a>) -> Result<TensorRef<'a>, ModelError> {
        if matrix.ty.is_quantised() {
            let name = self.naming.tensor(role);
            return Err(self.checkpoint.not_floats(&name, matrix.ty.name()));
        }
        Ok(matrix)
    }

    /// The delta net, if its value heads have to be dealt out anew.
    fn dealt(&self) -> Option<DeltaShape> {
        let delta = self.checkpoint.arch().delta;
        delta.filter(|delta| delta.head_order == HeadOrder::Grouped)
    }

    /// Orders of rows and columns that GGUF has and the source has not.
    fn orders(&self, role: Role, matrix: &TensorRef<'_>) -> (Option<Vec<usize>>, Option<Runs>) {
        use LayerRole as R;
        let Role::Layer(_, role) = role else {
            return (None, None);
        };
        let arch = self.checkpoint.arch();
        let rows = match (role, self.dealt()) {
            (R::Q | R::K, _)
                if arch.family == crate::Family::Llama && arch.rope.pairing == Pairing::Halves =>
            {
                Some(neighbours(matrix.rows, arch.attention.head_dim))
            }
            (R::DeltaQkv, Some(delta)) => Some(channels(&delta)),
            (R::DeltaZ, Some(delta)) => Some(runs(&heads(&delta), delta.value_dim)),
            (R::DeltaB | R::DeltaA, Some(delta)) => Some(heads(&delta)),
            _ => None,
        };
        let columns = match (role, self.dealt()) {
            (R::DeltaOut, Some(delta)) => Some(Runs {
                len: delta.value_dim,
                order: heads(&delta),
            }),
            _ => None,
        };
        (rows, columns)
    }

    /// Brings the entries of a small tensor into the order of GGUF.
    fn reorder(&self, role: Role, values: &mut Vec<f32>) {
        use LayerRole as R;
        let (Role::Layer(_, role), Some(delta)) = (role, self.dealt()) else {
            return;
        };
        let order = match role {
            R::DeltaDecay | R::DeltaDtBias => heads(&delta),
            R::DeltaConv => runs(&channels(&delta), delta.conv_kernel),
            _ => return,
        };
        let at = |from: &usize| values.get(*from).copied().unwrap_or_default();
        *values = order.iter().map(at).collect();
    }
}

/// Of each value head in the order of GGUF: its place in groups by key head.
fn heads(delta: &DeltaShape) -> Vec<usize> {
    let each = delta.value_heads / delta.key_heads;
    (0..delta.value_heads)
        .map(|head| head % delta.key_heads * each + head / delta.key_heads)
        .collect()
}

/// An order of runs as an order of what they consist of.
fn runs(order: &[usize], len: usize) -> Vec<usize> {
    let run = |at: &usize| at * len..(at + 1) * len;
    order.iter().flat_map(run).collect()
}

/// The order of queries, keys and values of a delta net: only values are dealt out anew.
fn channels(delta: &DeltaShape) -> Vec<usize> {
    let before = 2 * delta.key_heads * delta.key_dim;
    let values = runs(&heads(delta), delta.value_dim);
    let values = values.into_iter().map(|at| before + at);
    (0..before).chain(values).collect()
}

/// The order of rows in which the two values that turn together are neighbours instead of half a head apart.
fn neighbours(rows: usize, head_dim: usize) -> Vec<usize> {
    (0..rows)
        .map(|row| {
            let (head, at) = (row / head_dim, row % head_dim);
            head * head_dim + at % 2 * (head_dim / 2) + at / 2
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_dealt_out_by_key_head() {
        let delta = DeltaShape {
            key_heads: 2,
            value_heads: 6,
            key_dim: 1,
            value_dim: 2,
            conv_kernel: 4,
            head_order: HeadOrder::Grouped,
        };
        // Groups of three by key head become turns of two.
        assert_eq!(heads(&delta), [0, 3, 1, 4, 2, 5]);
        let order = channels(&delta);
        assert_eq!(order[..4], [0, 1, 2, 3]);
        assert_eq!(order[4..8], [4, 5, 10, 11]);
    }

    #[test]
    fn turning_pairs_become_neighbours() {
        assert_eq!(neighbours(8, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
