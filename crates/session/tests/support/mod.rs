//! A household in memory: a seeded generator, a model that can be computed in one line, a pipeline with delays and
//! faults, a watcher that knows the rules, and a world that runs them under a virtual clock.

pub mod pipeline;
pub mod watch;
pub mod world;

use proto::mask::TokenMask;
use proto::step::{Pooling, Sampling};
use session::{FinishReason, Submission};

/// Small generator (splitmix64): the same schedule for the same seed everywhere.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True once in `n` times; never for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.next().is_multiple_of(n)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The state before any token.
pub const EMPTY: u64 = 0x68_65_61_72_74_68;
/// Tokens that the model can draw.
pub const VOCAB: u64 = 40;

/// The state after one more token.
pub fn fold(state: u64, token: u32) -> u64 {
    mix(state.wrapping_mul(31).wrapping_add(u64::from(token) + 1))
}

/// The token at `position`, from what the cache pages and the slot hold.
pub fn draw(
    (cache, state): (u64, u64),
    sampling: &Sampling,
    position: u32,
    mask: Option<&TokenMask>,
) -> u32 {
    let key = sampling.seed.wrapping_add(u64::from(sampling.choice) << 32);
    let mut token = (mix(cache ^ state.rotate_left(17) ^ mix(key)) % VOCAB) as u32;
    let held_back = |token: u32| {
        let suppressed = position < sampling.suppress_until && sampling.suppress.contains(&token);
        suppressed || mask.is_some_and(|mask| !mask.allows(token))
    };
    while held_back(token) {
        token = (token + 1) % VOCAB as u32;
    }
    token
}

/// The vector of a prompt, from what the cache pages and the slot hold and how many rows were pooled.
pub fn vector(pooling: Pooling, cache: u64, state: u64, rows: u32) -> Vec<f32> {
    let low = |bits: u64| (bits & 0xffff) as f32;
    vec![
        low(cache),
        low(state),
        rows as f32,
        f32::from(u8::from(pooling == Pooling::Mean)),
    ]
}

/// What a constraint allows at a position, whatever came before: some tokens, among them one that ends no answer.
pub fn mask(request: u64, choice: u32, position: u32) -> TokenMask {
    let key = mix(request ^ u64::from(choice) << 40 ^ u64::from(position) << 20);
    let words = [key as u32 | 1 << 20, (key >> 32) as u32 & 0xff];
    TokenMask::new(words).expect("some tokens")
}

/// What one choice gives when nothing else runs, in a context of `context` positions.
pub fn solo(submission: &Submission, choice: u32, context: u32) -> (Vec<u32>, FinishReason) {
    let prompt = submission.prompt.len() as u32;
    let room = context - prompt;
    let most = submission.max_tokens.unwrap_or(room).min(room);
    let mut sampling = submission.sampling.clone();
    sampling.choice = choice;
    if submission.min_tokens > 0 {
        sampling.suppress.clone_from(&submission.stop_ids);
        sampling.suppress_until = prompt + submission.min_tokens;
    }
    let mut state = submission.prompt.iter().fold(EMPTY, |s, t| fold(s, *t));
    let mut tokens = Vec::new();
    for position in prompt..prompt + most {
        let mask = mask(submission.request.0, choice, position);
        let mask = submission.constrained.then_some(&mask);
        let token = draw((state, state), &sampling, position, mask);
        tokens.push(token);
        state = fold(state, token);
        if submission.stop_ids.contains(&token) {
            return (tokens, FinishReason::Stop);
        }
    }
    (tokens, FinishReason::Length)
}
