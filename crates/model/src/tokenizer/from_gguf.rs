//! A tokenizer from the metadata of a GGUF file.
//!
//! GGUF names the family of a pre-tokeniser (`tokenizer.ggml.pre`) and says nothing of normalisation; both follow
//! from the name, and a name that is not in the table is refused. What the file does say is used as it stands.

use std::collections::HashMap;

use super::added::AddedMatcher;
use super::bpe::Merges;
use super::byte_level::Alphabet;
use super::error::{TokenizerError, shown};
use super::splitter::{SplitPattern, Splitter};
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Inner, Normalizer, TOKEN_IDS_MAX};

/// The keys `tokenizer.ggml.*` of a GGUF file.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `model`: the kind of tokenizer; `gpt2` is byte-level BPE.
    pub model: String,
    /// `pre`: the name of the pre-tokeniser.
    pub pre: String,
    /// `tokens`: all tokens by id.
    pub tokens: Vec<String>,
    /// `merges`: pairs written as `left right`, best first.
    pub merges: Vec<String>,
    /// `token_type`: 1 ordinary, 3 control, 4 added by the user, 5 unused. One for each token.
    pub types: Vec<i32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `add_bos_token`: whether plain prompts begin with `bos`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`: whether plain prompts end with `eos`.
    pub add_eos: Option<bool>,
}

/// What the name of a pre-tokeniser stands for.
struct Family {
    pattern: SplitPattern,
    normalizer: Normalizer,
    ignore_merges: bool,
    /// Whether prompts begin with `bos` if the file does not say.
    add_bos: bool,
}

const QWEN2: Family = Family {
    pattern: SplitPattern::Qwen2,
    normalizer: Normalizer::Nfc,
    ignore_merges: false,
    add_bos: false,
};

fn family(pre: &str) -> Option<Family> {
    match pre {
        "qwen2" => Some(QWEN2),
        "qwen35" => Some(Family {
            pattern: SplitPattern::Qwen35,
            ..QWEN2
        }),
        "llama-bpe" | "llama3" | "llama-v3" => Some(Family {
            pattern: SplitPattern::Llama3,
            normalizer: Normalizer::None,
            ignore_merges: true,
            add_bos: true,
        }),
        _ => None,
    }
}

/// Builds the tokenizer.
pub(super) fn read(gguf: GgufTokenizer) -> Result<Inner, TokenizerError> {
    if gguf.model != "gpt2" {
        return Err(TokenizerError::Unsupported {
            what: "model (tokenizer.ggml.model)",
            got: format!("{:?}", shown(&gguf.model)),
            expected: "\"gpt2\" (byte-level BPE)",
        });
    }
    let family = family(&gguf.pre).ok_or_else(|| TokenizerError::Unsupported {
        what: "pre-tokeniser (tokenizer.ggml.pre)",
        got: format!("{:?}", shown(&gguf.pre)),
        expected: "\"qwen2\", \"qwen35\", \"llama-bpe\"",
    })?;
    check_lengths(&gguf)?;
    let (vocabulary, added) = vocabulary(&gguf)?;
    let merges = merges(&gguf, &vocabulary)?;
    let bos = known(&vocabulary, "bos_token_id", gguf.bos)?;
    let eos = known(&vocabulary, "eos_token_id", gguf.eos)?;
    let with_bos = gguf.add_bos.unwrap_or(family.add_bos);
    let with_eos = gguf.add_eos.unwrap_or(false);
    Ok(Inner {
        vocabulary,
        merges,
        splitter: Splitter::new(family.pattern)?,
        normalizer: family.normalizer,
        raw_added: AddedMatcher::new(&added)?,
        normalized_added: AddedMatcher::new(&[])?,
        ignore_merges: family.ignore_merges,
        prefix: bos.filter(|_| with_bos).into_iter().collect(),
        suffix: eos.filter(|_| with_eos).into_iter().collect(),
        bos,
        eos,
    })
}

fn check_lengths(gguf: &GgufTokenizer) -> Result<(), TokenizerError> {
    let tokens = gguf.tokens.len();
    let max = usize::try_from(TOKEN_IDS_MAX).unwrap_or(usize::MAX);
    if tokens > max {
        return Err(TokenizerError::TooLarge {
            what: "list of tokens (tokenizer.ggml.tokens)",
            got: tokens,
            max,
        });
    }
    if gguf.types.len() != tokens {
        return Err(TokenizerError::Lengths {
            what: "tokenizer.ggml.token_type",
            got: gguf.types.len(),
            expected: tokens,
        });
    }
    Ok(())
}

/// The tokens by kind, and the list of those that are searched for.
fn vocabulary(gguf: &GgufTokenizer) -> Result<(Vocabulary, Vec<(String, u32)>), TokenizerError> {
    const ORDINARY: i32 = 1;
    const CONTROL: i32 = 3;
    const USER_DEFINED: i32 = 4;
    const UNUSED: i32 = 5;
    let alphabet = Alphabet::new();
    let mut vocabulary = Vocabulary::with_capacity(gguf.tokens.len());
    let mut added = Vec::new();
    for ((id, token), &kind) in (0_u32..).zip(&gguf.tokens).zip(&gguf.types) {
        let kind = match kind {
            ORDINARY => {
                vocabulary.insert_ordinary(id, token, alphabet.decode(token))?;
                continue;
            }
            UNUSED => continue,
            CONTROL => TokenKind::Special,
            USER_DEFINED => TokenKind::Added,
            other => {
                return Err(TokenizerError::Unsupported {
                    what: "token type (tokenizer.ggml.token_type)",
                    got: format!("{other} at id {id}"),
                    expected: "1 (ordinary), 3 (control), 4 (user defined), 5 (unused)",
                });
            }
        };
        vocabulary.insert_added(id, token, kind)?;
        added.push((token.clone(), id));
    }
    Ok((vocabulary, added))
}

fn merges(gguf: &GgufTokenizer, vocabulary: &Vocabulary) -> Result<Merges, TokenizerError> {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(gguf.tokens.len());
    for (id, token) in (0_u32..).zip(&gguf.tokens) {
        if vocabulary.kind(id).is_some() && ids.insert(token, id).is_some() {
            return Err(TokenizerError::Id {
                token: shown(token),
                id,
                reason: "the same token is already there under another id",
            });
        }
    }
    let pairs = gguf
        .merges
        .iter()
        .enumerate()
        .map(|(index, line)| {
            split_merge(line).ok_or_else(|| TokenizerError::Merge {
                index,
                merge: shown(line),
                reason: "it is not two tokens with one space between them",
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Merges::new(pairs.into_iter(), vocabulary, |token| {
        ids.get(token).copied()
    })
}

/// The two parts of a merge written as one line.
pub(super) fn split_merge(line: &str) -> Option<(&str, &str)> {
    let (left, right) = line.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then_some((left, right))
}

/// An id from the file, if it is the id of a token.
fn known(
    vocabulary: &Vocabulary,
    what: &'static str,
    id: Option<u32>,
) -> Result<Option<u32>, TokenizerError> {
    match id {
        Some(id) if vocabulary.kind(id).is_none() => Err(TokenizerError::UnknownToken {
            what,
            got: id.to_string(),
        }),
        id => Ok(id),
    }
}
