//! The tokens of a model as the constraint's compiler wants them: a tree of their bytes, made once.
//!
//! Control and added tokens are marked, so that no text of a grammar matches them by their written form. A token that
//! could break the tree (far too long, or with a byte that no text has) is left out: it cannot be drawn under a constraint.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId,
};
use model::Tokenizer;
use proto::limits;
use proto::mask::TokenMask;

use super::GrammarError;
use crate::gateway::ServedModel;

/// Bytes of a token that may be drawn under a constraint.
const TOKEN_BYTES_MAX: usize = 256;
/// States of a constraint's scanner: each takes a kilobyte or two.
const LEXER_STATES_MAX: usize = 50_000;
/// The closing tag of reasoning.
pub(super) const CLOSE: &str = "</think>";

/// What all constraints of a model share.
pub(super) struct Vocabulary {
    pub factory: ParserFactory,
    pub tokenizer: Tokenizer,
    /// Rows of the head.
    pub vocab: u32,
    /// What may be drawn while the model reasons: everything but what ends the answer.
    pub reasoning: TokenMask,
    /// Tokens of line breaks alone, which models put between reasoning and answer, and of how many.
    pub breaks: Vec<(u32, usize)>,
}

/// A quarter of a million tokens are not shown.
impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary({} tokens)", self.vocab)
    }
}

impl Vocabulary {
    /// Builds it: about a second for a quarter of a million tokens.
    pub fn of(model: &ServedModel) -> Result<Self, GrammarError> {
        let vocab = model.vocab;
        if vocab == 0 || vocab > limits::LOGITS_MAX {
            let text = format!(
                "it has {vocab} tokens, 1 to {} were expected",
                limits::LOGITS_MAX
            );
            return Err(GrammarError::Vocabulary(text));
        }
        let tokenizer = &model.tokenizer;
        let mut ends: Vec<TokenId> = model.defaults.eos_ids.clone();
        if ends.is_empty() {
            ends.extend(tokenizer.eos());
        }
        ends.retain(|id| *id < vocab);
        let first = *ends.first().ok_or(GrammarError::NoEnd)?;
        let words: Vec<Vec<u8>> = (0..vocab).map(|id| written(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, first), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::Vocabulary(super::shortened(&error.to_string())))?;
        factory.quiet();
        let bounds = factory.limits_mut();
        bounds.verbose_errors = false;
        bounds.max_lexer_states = LEXER_STATES_MAX;
        let of_breaks = |text: &&str| Some((tokenizer.token_id(text)?, text.len()));
        let breaks = ["\n", "\n\n"].iter().filter_map(of_breaks);
        Ok(Self {
            factory,
            reasoning: reasoning(tokenizer, &words, &ends)?,
            breaks: breaks.filter(|(id, _)| *id < vocab).collect(),
            tokenizer: tokenizer.clone(),
            vocab,
        })
    }
}

/// The bytes of a token in the tree; none if it is not in it.
fn written(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(bytes) = tokenizer.token_bytes(id) else {
        return Vec::new();
    };
    let marker = TokTrie::SPECIAL_TOKEN_MARKER;
    if bytes.len() > TOKEN_BYTES_MAX || bytes.contains(&marker) {
        return Vec::new();
    }
    let mark = tokenizer.is_added(id).then_some(marker);
    mark.into_iter().chain(bytes.iter().copied()).collect()
}

/// Every token but the end tokens. Where the closing tag is no token of its own, tokens that would go on behind its last
/// sign are left out as well, so that the tag ends with a token.
fn reasoning(
    tokenizer: &Tokenizer,
    words: &[Vec<u8>],
    ends: &[TokenId],
) -> Result<TokenMask, GrammarError> {
    let close = tokenizer.token_id(CLOSE);
    let crosses = |word: &[u8]| {
        let before_last = word.len().saturating_sub(1);
        close.is_none() && word.iter().take(before_last).any(|byte| *byte == b'>')
    };
    let mut bits = vec![0u32; words.len().div_ceil(32)];
    for ((id, word), index) in (0u32..).zip(words).zip(0usize..) {
        let drawable = !word.is_empty() && !ends.contains(&id) && !crosses(word);
        if let Some(bit) = bits.get_mut(index / 32).filter(|_| drawable) {
            *bit |= 1 << (id % 32);
        }
    }
    TokenMask::new(bits).map_err(|error| GrammarError::Vocabulary(error.to_string()))
}
