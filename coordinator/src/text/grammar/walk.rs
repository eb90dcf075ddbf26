//! One choice on its way through a constraint: a token in, the mask of the next token out.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use proto::mask::TokenMask;
use thiserror::Error;

use super::form::Begin;
use super::vocabulary::{CLOSE, Vocabulary};
use super::{Compiled, GrammarError};

/// Line breaks between reasoning and answer.
const BREAKS_MAX: usize = 2;

/// Why there is no mask. Says nothing of what was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WalkError {
    /// The grammar takes more work for one token than is spent on it, or leads where no token of the model follows.
    #[error(
        "the constraint cannot be followed any further: it became too complex, or no token of the model fits it; ask for a \
         simpler one"
    )]
    Stuck,
    /// A token that the mask did not allow.
    #[error(
        "a token was drawn that the constraint does not allow; update Hearth on all machines to the same version"
    )]
    Refused,
}

/// How far a choice is.
enum Phase {
    /// The model reasons; the last bytes, as many as the closing tag has at most.
    Reasoning(Vec<u8>),
    /// The reasoning is over; so many line breaks may follow before the grammar holds.
    Breaks(usize),
    /// The grammar holds.
    Grammar,
}

/// One choice on its way through a [`super::Constraint`].
pub struct Walk {
    compiled: Arc<Compiled>,
    matcher: Matcher,
    phase: Phase,
}

impl Walk {
    pub(super) fn new(compiled: &Arc<Compiled>, matcher: Matcher) -> (Self, TokenMask) {
        let (phase, mask) = match compiled.begin {
            Begin::AtOnce => (Phase::Grammar, &compiled.first),
            Begin::AfterReasoning => (Phase::Reasoning(Vec::new()), &compiled.vocabulary.reasoning),
        };
        let walk = Self {
            compiled: Arc::clone(compiled),
            matcher,
            phase,
        };
        (walk, mask.clone())
    }

    /// Takes the token that was drawn, and gives the mask of the next. Microseconds to milliseconds of computing.
    ///
    /// # Errors
    /// The token is none that was allowed, or no mask follows.
    pub fn next(&mut self, token: u32) -> Result<TokenMask, WalkError> {
        let vocabulary = &self.compiled.vocabulary;
        match &mut self.phase {
            Phase::Reasoning(tail) => {
                let bytes = vocabulary.tokenizer.token_bytes(token).unwrap_or_default();
                tail.extend_from_slice(bytes);
                if !tail.ends_with(CLOSE.as_bytes()) {
                    tail.drain(..tail.len().saturating_sub(CLOSE.len()));
                    return Ok(vocabulary.reasoning.clone());
                }
                Ok(self.breaks(BREAKS_MAX))
            }
            Phase::Breaks(left) => {
                let mut breaks = vocabulary.breaks.iter();
                let found = breaks.find(|(id, _)| *id == token && !self.compiled.first.allows(*id));
                match found {
                    Some((_, count)) => {
                        let left = left.saturating_sub(*count);
                        Ok(self.breaks(left))
                    }
                    None => {
                        self.phase = Phase::Grammar;
                        self.follow(token)
                    }
                }
            }
            Phase::Grammar => self.follow(token),
        }
    }

    /// What the grammar begins with, or some more line breaks.
    fn breaks(&mut self, left: usize) -> TokenMask {
        self.phase = Phase::Breaks(left);
        let fits = |(id, count): &(u32, usize)| (*count <= left).then_some(*id);
        let more: Vec<u32> = self
            .compiled
            .vocabulary
            .breaks
            .iter()
            .filter_map(fits)
            .collect();
        with(&self.compiled.first, &more)
    }

    fn follow(&mut self, token: u32) -> Result<TokenMask, WalkError> {
        if !self.matcher.is_stopped() {
            let taken = self.matcher.consume_token(token);
            taken.map_err(|_| WalkError::Refused)?;
        }
        mask_of(&self.compiled.vocabulary, &mut self.matcher).map_err(|_| WalkError::Stuck)
    }
}

/// What is drawn stays private.
impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Walk(..)")
    }
}

/// The tokens that a matcher allows next; the end tokens alone once it is complete.
pub(super) fn mask_of(
    vocabulary: &Vocabulary,
    matcher: &mut Matcher,
) -> Result<TokenMask, GrammarError> {
    let failed = |text: String| GrammarError::Form(super::shortened(&text));
    let set: SimpleVob = matcher
        .compute_mask_or_eos()
        .map_err(|error| failed(error.to_string()))?;
    let words = TokenMask::words_for(vocabulary.vocab) as usize;
    let mut words: Vec<u32> = set.as_slice().iter().copied().take(words).collect();
    let spare = vocabulary.vocab % 32;
    if let Some(last) = words.last_mut().filter(|_| spare > 0) {
        *last &= (1 << spare) - 1;
    }
    TokenMask::new(words).map_err(|error| failed(error.to_string()))
}

/// A mask with some more tokens.
fn with(mask: &TokenMask, more: &[u32]) -> TokenMask {
    let mut words = mask.words().to_vec();
    for id in more {
        if let Some(word) = words.get_mut(*id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }
    TokenMask::new(words).unwrap_or_else(|_| mask.clone())
}
