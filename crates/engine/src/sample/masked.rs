//! Draws under a token mask: what is not in the mask cannot be drawn, whatever the other parameters say.

use proto::mask::TokenMask;
use proto::step::Sampling;

use super::{History, adjust, greedy, pick, value};

/// The token for `position` among those that the mask allows. Where the allowed tokens are all held back by
/// `suppress`, or have no number for a logit, the mask holds alone.
pub(super) fn draw(
    (logits, mask): (&[f32], &TokenMask),
    history: &History,
    sampling: &Sampling,
    position: u32,
) -> u32 {
    let mut adjusted = adjust(logits, history, sampling, position);
    if !restrict(&mut adjusted, mask) {
        adjusted.copy_from_slice(logits);
        restrict(&mut adjusted, mask);
    }
    let best = greedy(&adjusted);
    let token = if sampling.temperature <= 0.0 {
        best
    } else {
        pick(adjusted, sampling, position)
    };
    if mask.allows(token) {
        token
    } else {
        mask.ids().next().unwrap_or(best)
    }
}

/// Leaves nothing but what the mask allows; whether anything is left.
fn restrict(logits: &mut [f32], mask: &TokenMask) -> bool {
    let words = mask.words().iter().copied().chain(std::iter::repeat(0));
    let mut left = false;
    for (row, word) in logits.chunks_mut(32).zip(words) {
        for (bit, logit) in row.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            } else {
                left |= value(*logit) > f32::NEG_INFINITY;
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proto::step::Open;

    use super::super::{From, draw as whole};
    use super::*;

    fn token(logits: &[f32], words: &[u32], sampling: Sampling) -> (u32, f32) {
        let mask = TokenMask::new(words).unwrap();
        let from = From {
            logits,
            history: &History::default(),
            open: &Open {
                prompt_len: 0,
                sampling,
            },
            mask: Some(&mask),
        };
        let (token, logprob, _) = whole(kernels::Isa::Scalar, &from, 3);
        (token, logprob)
    }

    /// What it shows, logits, the mask's word, how it is drawn, and the token.
    type Case = (&'static str, [f32; 4], u32, Sampling, u32);

    fn cases() -> Vec<Case> {
        let greedy = Sampling::default();
        let biased = Sampling {
            bias: vec![(2, 100.0)],
            ..greedy.clone()
        };
        let suppressed = Sampling {
            suppress: vec![1, 3],
            suppress_until: 9,
            ..greedy.clone()
        };
        let hot = Sampling {
            temperature: 1.0,
            top_k: 2,
            ..greedy.clone()
        };
        let none = f32::NEG_INFINITY;
        vec![
            (
                "the best allowed",
                [9.0, 1.0, 9.0, 2.0],
                0b1010,
                greedy.clone(),
                3,
            ),
            (
                "ties go to the lower id",
                [9.0, 2.0, 9.0, 2.0],
                0b1010,
                greedy.clone(),
                1,
            ),
            (
                "bias does not open it",
                [0.0, 1.0, 0.0, 2.0],
                0b1010,
                biased,
                3,
            ),
            (
                "suppression holds beside it",
                [0.0, 9.0, 1.0, 2.0],
                0b1110,
                suppressed.clone(),
                2,
            ),
            ("but not alone", [0.0, 9.0, 1.0, 2.0], 0b1010, suppressed, 1),
            (
                "no number for any",
                [0.0, f32::NAN, 1.0, none],
                0b1010,
                greedy.clone(),
                1,
            ),
            (
                "the same when drawn by chance",
                [0.0, f32::NAN, 1.0, none],
                0b1010,
                hot.clone(),
                1,
            ),
            (
                "top-k counts allowed tokens",
                [9.0, none, 8.0, 0.0],
                0b1010,
                hot,
                3,
            ),
        ]
    }

    #[test]
    fn nothing_outside_the_mask_is_drawn() {
        for (what, logits, word, sampling, expected) in cases() {
            assert_eq!(token(&logits, &[word], sampling).0, expected, "{what}");
        }
    }

    #[test]
    fn every_way_of_drawing_stays_inside() {
        let logits: Vec<f32> = (0..100u8).map(|i| f32::from(i % 7)).collect();
        let words = [0x0001_0000, 0x8000_0001, 0, 0b100];
        let mask = TokenMask::new(words).unwrap();
        for seed in 0..500 {
            let ways = [(0, 1.0, 0.0), (3, 1.0, 0.0), (0, 0.5, 0.0), (0, 1.0, 0.4)];
            for (top_k, top_p, min_p) in ways {
                let sampling = Sampling {
                    temperature: 1.5,
                    top_k,
                    top_p,
                    min_p,
                    seed,
                    presence: 0.5,
                    ..Sampling::default()
                };
                let (token, _) = token(&logits, &words, sampling);
                assert!(mask.allows(token), "{token} of seed {seed}");
            }
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_raw_logits() {
        let logits = [1.0f32, 2.0, 3.0];
        let sampling = Sampling {
            logprobs: Some(0),
            ..Sampling::default()
        };
        let (token, logprob) = token(&logits, &[0b001], sampling);
        let norm = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        assert_eq!(token, 0);
        assert!((f64::from(logprob) - (1.0 - norm)).abs() < 1e-6);
    }
}
