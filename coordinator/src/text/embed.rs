//! Texts turned into vectors: one pooled prompt each, normalised.
//!
//! Owns how many of them the household is given at once, and the last steps from a pooled row to what clients get. The
//! one idea: a vector depends on its text alone, so they may be computed in any company.

use futures::stream::{FuturesUnordered, StreamExt as _};
use proto::step::{Pooling, Sampling};
use session::Person;
use thiserror::Error;

use crate::gateway::{Event, Failure, Gateway, GenerateRequest, Phase, Refusal, Retry, Stream};

/// Inputs that the household is given at once: enough to fill a step with short texts, too few to fill its queue.
const AT_ONCE: usize = 16;

/// Inputs to be turned into vectors.
#[derive(Debug, Clone)]
pub(crate) struct Embed {
    /// Token ids of each; at least one.
    pub(crate) inputs: Vec<Vec<u32>>,
    /// How the rows of an input become one.
    pub(crate) pooling: Pooling,
    /// How many values are kept.
    pub(crate) dimensions: usize,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vectors {
    /// One for each input, in order, of length 1.
    pub(crate) values: Vec<Vec<f32>>,
    /// Tokens of all inputs.
    pub(crate) tokens: u64,
}

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Error)]
pub(crate) enum EmbedError {
    /// An input has no token.
    #[error("input {0} has no token; expected at least one")]
    Empty(usize),
    /// An input is longer than the context.
    #[error(
        "input {index} has {tokens} tokens; the context holds {context}: shorten it or send it in parts"
    )]
    TooLong {
        /// Which, from 0.
        index: usize,
        /// Its tokens.
        tokens: usize,
        /// Positions of a sequence.
        context: u32,
    },
    /// The household took none on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The household broke off.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Embed {
    /// Computes all vectors for `person`. Dropping the future cancels what is left.
    ///
    /// # Errors
    /// An input does not fit, the service is not ready, or the household refuses or fails.
    pub(crate) async fn run(
        self,
        gateway: &Gateway,
        person: Person,
    ) -> Result<Vectors, EmbedError> {
        let status = gateway.status();
        if status.phase != Phase::Ready {
            return Err(Refusal::NotReady.into());
        }
        for (index, input) in self.inputs.iter().enumerate() {
            let tokens = input.len();
            if tokens == 0 {
                return Err(EmbedError::Empty(index));
            }
            if u32::try_from(tokens).is_ok_and(|tokens| tokens <= status.context) {
                continue;
            }
            return Err(EmbedError::TooLong {
                index,
                tokens,
                context: status.context,
            });
        }
        let tokens: usize = self.inputs.iter().map(Vec::len).sum();
        let mut values = vec![Vec::new(); self.inputs.len()];
        let mut waiting = (0..).zip(self.inputs).peekable();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((index, input)) = waiting.peek()
            {
                match gateway.generate(request(input, self.pooling, person)).await {
                    Ok(stream) => running.push(vector(*index, stream)),
                    // Its queue is full, partly of ours: one of ours will make room.
                    Err(Refusal::Busy { .. }) if !running.is_empty() => break,
                    Err(refusal) => return Err(refusal.into()),
                }
                waiting.next();
            }
            let Some(done) = running.next().await else {
                break;
            };
            let (index, row) = done?;
            let vector = shorten(row, self.dimensions).ok_or_else(no_number)?;
            if let Some(slot) = values.get_mut(index) {
                *slot = vector;
            }
        }
        Ok(Vectors {
            values,
            tokens: u64::try_from(tokens).unwrap_or(u64::MAX),
        })
    }
}

fn request(input: &[u32], pooling: Pooling, person: Person) -> GenerateRequest {
    GenerateRequest {
        prompt: input.to_vec(),
        pooling: Some(pooling),
        choices: 1,
        max_tokens: None,
        min_tokens: 0,
        stop_ids: Vec::new(),
        sampling: Sampling::default(),
        person,
        constraint: None,
    }
}

/// Waits for the vector of one input.
async fn vector(index: usize, mut stream: Stream) -> Result<(usize, Vec<f32>), Failure> {
    let mut row = None;
    loop {
        match stream.next().await {
            Some(Event::Vector(values)) => row = Some(values),
            Some(Event::Failed(failure)) => return Err(failure),
            Some(Event::Finished { .. }) => {
                if let Some(row) = row {
                    return Ok((index, row));
                }
                return Err(broken_off());
            }
            Some(Event::Token { .. }) | None => return Err(broken_off()),
        }
    }
}

fn broken_off() -> Failure {
    Failure {
        code: "broken_off",
        message: "the household ended the request before its vector came; send the request again"
            .to_owned(),
        retry: Retry::Soon,
    }
}

fn no_number() -> Failure {
    Failure {
        code: "bad_vector",
        message: "the model gave a vector with a value that is no finite number: its weights overflow on this input"
            .to_owned(),
        retry: Retry::Never,
    }
}

/// The first values of a row, scaled to length 1; a row of zeros stays as it is. `None` if a value is not finite.
///
/// Sums in 64 bits in order, so that all machines give the same.
#[allow(
    clippy::cast_possible_truncation,
    reason = "values of a vector of length 1 are 32-bit floats to clients"
)]
fn shorten(mut row: Vec<f32>, dimensions: usize) -> Option<Vec<f32>> {
    row.truncate(dimensions);
    let squares = row.iter().map(|x| f64::from(*x) * f64::from(*x));
    let length = squares.fold(0.0, |sum, square| sum + square).sqrt();
    if !length.is_finite() {
        return None;
    }
    if length > 0.0 {
        for value in &mut row {
            *value = (f64::from(*value) / length) as f32;
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_and_then_scaled() {
        let row = vec![3.0, 4.0, 12.0];
        for (dimensions, expected) in [
            (2, vec![0.6, 0.8]),
            (1, vec![1.0]),
            (9, vec![3.0 / 13.0, 4.0 / 13.0, 12.0 / 13.0]),
        ] {
            assert_eq!(shorten(row.clone(), dimensions), Some(expected));
        }
        assert_eq!(shorten(vec![0.0, -0.0], 2), Some(vec![0.0, -0.0]));
        assert_eq!(shorten(vec![f32::MAX, 0.0], 2), Some(vec![1.0, 0.0]));
        let tiny = shorten(vec![f32::MIN_POSITIVE; 4], 4).unwrap();
        assert_eq!(tiny, [0.5; 4]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(shorten(vec![1.0, bad], 2), None);
        }
        assert_eq!(shorten(vec![1.0, f32::NAN], 1), Some(vec![1.0]));
    }
}
