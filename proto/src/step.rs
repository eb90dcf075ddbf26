//! One pass of a batch through the pipeline: what every stage has to know about its rows.
//!
//! The session makes steps, the wire carries them, the engine runs them. Ids of cache pages and state slots
//! are assigned by the session and mean the same on every stage; a node never allocates on its own.

use crate::ids::{Epoch, SequenceId, StepId};

/// Which stream a step travels on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepClass {
    /// Few rows, each the newest token of a sequence.
    Decode,
    /// A chunk of a prompt.
    Prefill,
}

/// A batch of rows: the segments' rows one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The plan that the step was made for.
    pub epoch: Epoch,
    /// Counts up within an epoch.
    pub id: StepId,
    /// Which stream carries it.
    pub class: StepClass,
    /// One run of positions of one sequence each; a sequence is in a step at most once.
    pub segments: Vec<Segment>,
    /// One token id per row. Later stages need them too: the sampler counts them.
    pub tokens: Vec<u32>,
}

impl Step {
    /// Rows of the step, as the segments say.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.segments
            .iter()
            .fold(0u32, |sum, segment| sum.saturating_add(segment.rows))
    }
}

/// Consecutive positions of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Whose positions they are.
    pub sequence: SequenceId,
    /// The recurrent-state slot of the sequence.
    pub slot: u32,
    /// Position of the first row.
    pub start: u32,
    /// Number of rows.
    pub rows: u32,
    /// What the last stage makes of the rows.
    pub logits: Logits,
    /// How many provisional rows of the sequence's previous forward are kept; the others are forgotten.
    pub commit: u32,
    /// How many of the last rows are provisional until a later segment commits them.
    pub provisional: u32,
    /// Cache pages added to the sequence's page table by this segment, in order of position.
    pub pages: Vec<u32>,
    /// Present in the first segment of a sequence: forgets everything that was known under this id.
    pub open: Option<Open>,
}

/// What the last stage makes of the rows of a segment: which are sampled, or how they are pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// No row.
    None,
    /// The last row.
    Last,
    /// Every row.
    All,
    /// No row is sampled. The rows after the final norm are pooled; the segment that ends the prompt gives the vector.
    /// All segments of a prompt say the same, and none of their rows is provisional.
    Pool(Pooling),
    /// The last row, drawn under a token mask that comes in a frame of its own.
    Masked,
}

/// How the rows of a prompt, after the final norm, become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The row of the last token.
    Last,
    /// The mean of all rows: their sum in 32 bits in the order of positions, divided by their number. So it depends
    /// neither on chunks nor on the split.
    Mean,
}

/// What the stages learn about a sequence when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// Tokens below this position are the prompt; the others count as output in the penalties.
    pub prompt_len: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
}

/// How a token is drawn from the logits. The order is: bias, suppression, repetition, presence and frequency
/// penalties, token mask, temperature, top-k, top-p, min-p, draw. Where mask and suppression together leave nothing,
/// the mask holds alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 means greedy: the largest logit, ties to the lower id.
    pub temperature: f32,
    /// Keep the k largest; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this share of the largest probability; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition: f32,
    /// Subtracted once from tokens seen in the output.
    pub presence: f32,
    /// Subtracted per occurrence in the output.
    pub frequency: f32,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// Which choice of the request this is; part of the generator's counter.
    pub choice: u32,
    /// Alternatives to report beside the chosen token; `None` reports no log-probability at all.
    pub logprobs: Option<u32>,
    /// Added to the logits of these tokens.
    pub bias: Vec<(u32, f32)>,
    /// Tokens that cannot be drawn for positions below `suppress_until`.
    pub suppress: Vec<u32>,
    /// First position at which `suppress` no longer holds.
    pub suppress_until: u32,
}

impl Default for Sampling {
    /// Greedy, no penalties, no log-probabilities.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
            seed: 0,
            choice: 0,
            logprobs: None,
            bias: Vec::new(),
            suppress: Vec::new(),
            suppress_until: 0,
        }
    }
}

/// A drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// For which sequence.
    pub sequence: SequenceId,
    /// The position that the token will have.
    pub position: u32,
    /// The token.
    pub token: u32,
    /// Log-softmax of the raw logits (before bias, penalties and temperature) at the token; 0 if not asked for.
    pub logprob: f32,
    /// The largest raw log-probabilities with their tokens, largest first; empty if not asked for.
    pub top: Vec<(u32, f32)>,
}

/// The pooled rows of a prompt, not normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// For which sequence.
    pub sequence: SequenceId,
    /// As many values as a row has.
    pub values: Vec<f32>,
}
