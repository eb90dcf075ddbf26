//! What a rounded cache does to the answers of the bundled model: the same tokens are forced through each cache.

use std::sync::Arc;

use engine::KvType;
use kernels::Isa;
use model::Checkpoint;
use proto::step::Logits;
use serde::Deserialize;

use crate::rig::{self, Chain, Seq, Want, exec};

/// Rows of a step: as many as the head keeps logits of.
const ROWS: u32 = 16;

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    token_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
}

/// Distance of a cache's logits from those of the f32 cache.
#[derive(Debug, Default)]
pub struct Distance {
    /// Positions compared.
    pub rows: usize,
    /// Positions whose likeliest token is the same.
    pub same: usize,
    /// Largest difference of a logit.
    pub worst: f32,
    /// Sum of the squares of differences, and their number.
    pub squares: f64,
    pub values: usize,
}

impl Distance {
    /// Share of positions with the same likeliest token.
    pub fn agreement(&self) -> f64 {
        self.same as f64 / self.rows as f64
    }

    /// Root of the mean square difference.
    pub fn rms(&self) -> f64 {
        (self.squares / self.values as f64).sqrt()
    }

    fn add(&mut self, exact: &[f32], rounded: &[f32]) {
        let likeliest = |row: &[f32]| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map(|(token, _)| token)
        };
        self.rows += 1;
        self.same += usize::from(likeliest(exact) == likeliest(rounded));
        for (x, y) in exact.iter().zip(rounded) {
            self.worst = self.worst.max((x - y).abs());
            self.squares += f64::from(x - y).powi(2);
            self.values += 1;
        }
    }
}

/// The recorded conversations, each by itself, and `joined` tokens of all of them as one long text.
pub fn texts(joined: usize) -> Vec<Vec<u32>> {
    let text = std::fs::read(rig::data("hearth-tiny-expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&text).unwrap();
    let cases = expected.cases.into_iter();
    let mut texts: Vec<Vec<u32>> = cases
        .map(|case| [case.token_ids, case.greedy_ids].concat())
        .collect();
    texts.push(texts.iter().flatten().copied().take(joined).collect());
    texts
}

/// A model with a type of cache.
pub type Variant = (Arc<Checkpoint>, KvType);

/// Compares the logits of caches of one model after every token of `texts` with those of its f32 cache.
pub fn distances<const N: usize>(
    checkpoint: &Arc<Checkpoint>,
    texts: &[Vec<u32>],
    types: [KvType; N],
) -> [Distance; N] {
    let of = |kv| (Arc::clone(checkpoint), kv);
    distances_from(&of(KvType::F32), texts, types.map(of))
}

/// Compares the logits of models with the same vocabulary after every token of `texts` with those of `exact`.
pub fn distances_from<const N: usize>(
    exact: &Variant,
    texts: &[Vec<u32>],
    others: [Variant; N],
) -> [Distance; N] {
    let vocab = exact.0.arch().vocab;
    let mut found = others.clone().map(|_| Distance::default());
    let exec = exec(Isa::detect(), 2);
    for text in texts {
        let chain =
            |(checkpoint, kv): &Variant| (Chain::whole(checkpoint, &exec, *kv), Seq::new(1, text));
        let mut exact = chain(exact);
        let mut others = others.each_ref().map(chain);
        while (exact.1.len as usize) < text.len() {
            let rows = ROWS.min(text.len() as u32 - exact.1.len);
            let logits = |(chain, seq): &mut (Chain, Seq)| {
                chain.step(&mut [Want {
                    logits: Logits::All,
                    ..Want::rows(seq, rows)
                }]);
                chain.logits()
            };
            let want = logits(&mut exact);
            for (other, found) in others.iter_mut().zip(&mut found) {
                let got = logits(other);
                for (x, y) in want.chunks(vocab).zip(got.chunks(vocab)) {
                    found.add(x, y);
                }
            }
        }
    }
    found
}
