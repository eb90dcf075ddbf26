//! Draws a token from one row of logits.
//!
//! A draw is a pure function of the logits, the tokens seen so far, the sampling parameters and the position:
//! the random number is Philox4x32-10 of (seed, choice, position) (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", 2011), so any node can redraw it and nothing has to be carried along.

use std::cmp::Ordering;
use std::collections::HashMap;

use proto::mask::TokenMask;
use proto::step::{Open, Sampled, Sampling};

mod masked;
mod philox;

use philox::uniform;

/// How often a token was seen in a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// In prompt and output.
    pub total: u32,
    /// In the output alone.
    pub output: u32,
}

/// The tokens that a sequence has seen.
#[derive(Debug, Clone, Default)]
pub struct History {
    tokens: Vec<u32>,
    seen: HashMap<u32, Seen>,
}

impl History {
    /// Appends the token at the next position.
    pub fn push(&mut self, token: u32, prompt_len: u32) {
        let output = self.tokens.len() >= prompt_len as usize;
        let seen = self.seen.entry(token).or_default();
        seen.total += 1;
        seen.output += u32::from(output);
        self.tokens.push(token);
    }

    /// Forgets the tokens from position `len` on.
    pub fn truncate(&mut self, len: u32, prompt_len: u32) {
        while self.tokens.len() > len as usize {
            let Some(token) = self.tokens.pop() else {
                break;
            };
            let output = self.tokens.len() >= prompt_len as usize;
            if let Some(seen) = self.seen.get_mut(&token) {
                seen.total -= 1;
                seen.output -= u32::from(output);
            }
        }
    }
}

/// What a token is drawn from.
#[derive(Debug, Clone, Copy)]
pub struct From<'r> {
    /// `[vocab]` raw values of the row before the token. NaN counts as the smallest value.
    pub logits: &'r [f32],
    /// The tokens before it.
    pub history: &'r History,
    /// How it is drawn.
    pub open: &'r Open,
    /// What may be drawn, if not everything.
    pub mask: Option<&'r TokenMask>,
}

/// Draws the token for `position` and fills in the log-probabilities that were asked for.
pub fn draw(isa: kernels::Isa, from: &From<'_>, position: u32) -> (u32, f32, Vec<(u32, f32)>) {
    let From {
        logits,
        history,
        open,
        mask,
    } = *from;
    let sampling = &open.sampling;
    let token = if let Some(mask) = mask {
        masked::draw((logits, mask), history, sampling, position)
    } else if plain_greedy(sampling, position) {
        greedy(logits)
    } else {
        let adjusted = adjust(logits, history, sampling, position);
        if sampling.temperature <= 0.0 {
            greedy(&adjusted)
        } else {
            pick(adjusted, sampling, position)
        }
    };
    let Some(k) = sampling.logprobs else {
        return (token, 0.0, Vec::new());
    };
    let norm = kernels::LogSum::of(isa, logits).value();
    #[allow(clippy::cast_possible_truncation, reason = "reported as f32")]
    let of = |id: u32| match logits.get(id as usize) {
        Some(l) => (f64::from(*l) - norm) as f32,
        None => f32::NEG_INFINITY,
    };
    let top = largest(logits, k as usize)
        .into_iter()
        .map(|id| (id, of(id)))
        .collect();
    (token, of(token), top)
}

/// One drawn token as it travels.
pub fn sampled(
    sequence: proto::SequenceId,
    position: u32,
    drawn: (u32, f32, Vec<(u32, f32)>),
) -> Sampled {
    let (token, logprob, top) = drawn;
    Sampled {
        sequence,
        position,
        token,
        logprob,
        top,
    }
}

fn plain_greedy(s: &Sampling, position: u32) -> bool {
    #[allow(clippy::float_cmp, reason = "1 and 0 are exact marks for 'off'")]
    let no_penalty = s.repetition == 1.0 && s.presence == 0.0 && s.frequency == 0.0;
    let suppressed = position < s.suppress_until && !s.suppress.is_empty();
    s.temperature <= 0.0 && no_penalty && s.bias.is_empty() && !suppressed
}

fn adjust(logits: &[f32], history: &History, s: &Sampling, position: u32) -> Vec<f32> {
    let mut out = logits.to_vec();
    for (id, bias) in &s.bias {
        if let Some(l) = out.get_mut(*id as usize) {
            *l += bias;
        }
    }
    if position < s.suppress_until {
        for id in &s.suppress {
            if let Some(l) = out.get_mut(*id as usize) {
                *l = f32::NEG_INFINITY;
            }
        }
    }
    for (id, seen) in &history.seen {
        let Some(l) = out.get_mut(*id as usize) else {
            continue;
        };
        if seen.total > 0 {
            *l = if *l > 0.0 {
                *l / s.repetition
            } else {
                *l * s.repetition
            };
        }
        if seen.output > 0 {
            #[allow(clippy::cast_precision_loss, reason = "counts are small")]
            let times = seen.output as f32;
            *l -= s.presence + s.frequency * times;
        }
    }
    out
}

fn value(l: f32) -> f32 {
    if l.is_nan() { f32::NEG_INFINITY } else { l }
}

/// Larger logit first, ties to the lower id.
fn by_logit(logits: &[f32], a: u32, b: u32) -> Ordering {
    let of = |id: u32| {
        value(
            logits
                .get(id as usize)
                .copied()
                .unwrap_or(f32::NEG_INFINITY),
        )
    };
    of(b).total_cmp(&of(a)).then(a.cmp(&b))
}

fn ids(logits: &[f32]) -> Vec<u32> {
    (0..u32::try_from(logits.len()).unwrap_or(u32::MAX)).collect()
}

fn greedy(logits: &[f32]) -> u32 {
    let mut best = (0u32, f32::NEG_INFINITY);
    for (id, l) in (0u32..).zip(logits) {
        if *l > best.1 {
            best = (id, *l);
        }
    }
    best.0
}

/// The `k` largest in order.
fn largest(logits: &[f32], k: usize) -> Vec<u32> {
    let mut all = ids(logits);
    if k < all.len() {
        if k == 0 {
            return Vec::new();
        }
        all.select_nth_unstable_by(k - 1, |a, b| by_logit(logits, *a, *b));
        all.truncate(k);
    }
    all.sort_unstable_by(|a, b| by_logit(logits, *a, *b));
    all
}

/// Weights relative to the largest logit at the given temperature.
fn weights(logits: &[f32], kept: &[u32], s: &Sampling) -> Vec<f32> {
    let scaled = |id: &u32| {
        value(
            logits
                .get(*id as usize)
                .copied()
                .unwrap_or(f32::NEG_INFINITY),
        ) / s.temperature
    };
    let max = kept.iter().map(scaled).fold(f32::NEG_INFINITY, f32::max);
    kept.iter()
        .map(|id| kernels::exp(scaled(id) - max))
        .collect()
}

fn pick(logits: Vec<f32>, s: &Sampling, position: u32) -> u32 {
    let all = s.top_k == 0 || s.top_k as usize >= logits.len();
    let plain = all && s.top_p >= 1.0 && s.min_p <= 0.0;
    // Without a filter the order of the walk is the order of ids and nothing has to be sorted.
    let kept = match (plain, all) {
        (true, _) => ids(&logits),
        (false, false) => largest(&logits, s.top_k as usize),
        (false, true) => nucleus_candidates(&logits, s),
    };
    let weights = weights(&logits, &kept, s);
    let whole: f64 = if all && !plain {
        self::weights(&logits, &ids(&logits), s)
            .iter()
            .map(|w| f64::from(*w))
            .sum()
    } else {
        weights.iter().map(|w| f64::from(*w)).sum()
    };
    let mut kept_sum = 0.0f64;
    let mut n = 0;
    for w in &weights {
        let reached = !plain && kept_sum >= f64::from(s.top_p) * whole;
        if n > 0 && (reached || *w < s.min_p) {
            break;
        }
        kept_sum += f64::from(*w);
        n += 1;
    }
    let target = uniform(s.seed, s.choice, position) * kept_sum;
    let mut sum = 0.0f64;
    let mut last = 0;
    for (id, w) in kept.iter().zip(&weights).take(n) {
        sum += f64::from(*w);
        if *w > 0.0 {
            last = *id;
            if sum > target {
                return *id;
            }
        }
    }
    last
}

/// A sorted prefix of the vocabulary that surely holds the whole nucleus: doubled until its sum reaches top-p
/// or its last weight falls below min-p.
fn nucleus_candidates(logits: &[f32], s: &Sampling) -> Vec<u32> {
    let everything = weights(logits, &ids(logits), s);
    let whole: f64 = everything.iter().map(|w| f64::from(*w)).sum();
    let mut k = 256;
    loop {
        let kept = largest(logits, k);
        let of = |id: &u32| everything.get(*id as usize).copied().unwrap_or(0.0);
        let sum: f64 = kept.iter().map(|id| f64::from(of(id))).sum();
        let below = kept.last().map_or(0.0, of) < s.min_p;
        if kept.len() == logits.len() || sum >= f64::from(s.top_p) * whole || below {
            return kept;
        }
        k *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sampling: Sampling) -> Open {
        Open {
            prompt_len: 2,
            sampling,
        }
    }

    fn history(tokens: &[u32]) -> History {
        let mut h = History::default();
        for t in tokens {
            h.push(*t, 2);
        }
        h
    }

    fn token(logits: &[f32], h: &History, s: Sampling, position: u32) -> u32 {
        raw(logits, h, s, position).0
    }

    fn raw(
        logits: &[f32],
        history: &History,
        s: Sampling,
        position: u32,
    ) -> (u32, f32, Vec<(u32, f32)>) {
        let from = From {
            logits,
            history,
            open: &open(s),
            mask: None,
        };
        draw(kernels::Isa::Scalar, &from, position)
    }

    #[test]
    fn greedy_takes_the_largest_and_ties_go_to_the_lower_id() {
        let h = history(&[]);
        assert_eq!(
            token(&[0.0, 3.0, 3.0, f32::NAN], &h, Sampling::default(), 0),
            1
        );
    }

    #[test]
    fn penalties_count_prompt_and_output_apart() {
        let h = history(&[0, 1, 2, 2]);
        let logits = [4.0, 4.0, 4.0, 1.0];
        let with = |f: fn(&mut Sampling)| {
            let mut s = Sampling::default();
            f(&mut s);
            adjust(&logits, &h, &s, 4)
        };
        assert_eq!(with(|s| s.repetition = 2.0), [2.0, 2.0, 2.0, 1.0]);
        assert_eq!(with(|s| s.presence = 1.0), [4.0, 4.0, 3.0, 1.0]);
        assert_eq!(with(|s| s.frequency = 1.0), [4.0, 4.0, 2.0, 1.0]);
        assert_eq!(with(|s| s.bias = vec![(3, 9.0)]), [4.0, 4.0, 4.0, 10.0]);
    }

    #[test]
    fn suppressed_tokens_come_back_at_their_position() {
        let h = history(&[]);
        let s = Sampling {
            suppress: vec![1],
            suppress_until: 5,
            ..Sampling::default()
        };
        assert_eq!(token(&[1.0, 9.0], &h, s.clone(), 4), 0);
        assert_eq!(token(&[1.0, 9.0], &h, s, 5), 1);
    }

    #[test]
    fn filters_keep_what_they_should() {
        let logits: Vec<f32> = (0..400u16).map(|i| -f32::from(i) * 0.01).collect();
        let h = history(&[]);
        let drawn = |s: Sampling| -> std::collections::BTreeSet<u32> {
            (0..4000)
                .map(|p| token(&logits, &h, s.clone(), p))
                .collect()
        };
        let base = Sampling {
            temperature: 1.0,
            seed: 7,
            ..Sampling::default()
        };
        let k = drawn(Sampling {
            top_k: 3,
            ..base.clone()
        });
        assert_eq!(k.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        let whole: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let mut sum = 0.0;
        let n = logits
            .iter()
            .take_while(|l| {
                let go = sum < 0.02 * whole;
                sum += f64::from(**l).exp();
                go
            })
            .count();
        let p = drawn(Sampling {
            top_p: 0.02,
            ..base.clone()
        });
        assert_eq!(p.len(), n);
        let m = drawn(Sampling {
            min_p: 0.955,
            ..base
        });
        assert_eq!(m.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let logits = [0.0, f32::ln(3.0)];
        let h = history(&[]);
        let s = Sampling {
            temperature: 1.0,
            seed: 11,
            ..Sampling::default()
        };
        let ones = (0..20_000)
            .filter(|p| token(&logits, &h, s.clone(), *p) == 1)
            .count();
        assert!(
            (14_700..15_300).contains(&ones),
            "{ones} of 20000, 15000 expected"
        );
        let run = |seed, choice| -> Vec<u32> {
            let s = Sampling {
                seed,
                choice,
                ..s.clone()
            };
            (0..64).map(|p| token(&logits, &h, s.clone(), p)).collect()
        };
        assert_eq!(run(1, 0), run(1, 0));
        assert_ne!(run(1, 0), run(2, 0));
        assert_ne!(run(1, 0), run(1, 1));
    }

    #[test]
    fn logprobs_are_the_raw_log_softmax() {
        let logits = [1.0, 2.0, 3.0];
        let s = Sampling {
            logprobs: Some(2),
            bias: vec![(0, 50.0)],
            ..Sampling::default()
        };
        let (id, logprob, top) = raw(&logits, &history(&[]), s, 0);
        let norm = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        assert_eq!(id, 0);
        assert!((f64::from(logprob) - (1.0 - norm)).abs() < 1e-6);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
        assert!((f64::from(top[0].1) - (3.0 - norm)).abs() < 1e-6);
    }

    #[test]
    fn truncated_history_is_as_if_never_pushed() {
        let mut a = history(&[5, 6, 7, 7]);
        a.truncate(3, 2);
        let b = history(&[5, 6, 7]);
        assert_eq!(a.tokens, b.tokens);
        assert!(b.seen.iter().all(|(id, seen)| a.seen.get(id) == Some(seen)));
    }
}
