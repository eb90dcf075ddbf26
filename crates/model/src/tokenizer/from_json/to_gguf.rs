//! A `tokenizer.json` in the keys of GGUF.
//!
//! GGUF says the name of a family and nothing of its settings, so a tokenizer is handed on only if all its settings are
//! those that the name stands for.

use super::merge::Merge;
use super::{
    AddedToken, CONFIG, Config, File, Normalizer, TokenizerError, all_added, missing, named_token,
    parse, parse_file, parts, read, shown, vocabulary,
};
use crate::tokenizer::GgufTokenizer;
use crate::tokenizer::splitter::SplitPattern;

const ORDINARY: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The keys of the tokenizer in these files, with a token for each of `rows` rows of the embedding, and the id of the
/// padding token.
///
/// # Errors
/// What [`read`] refuses, settings that no family of GGUF has, or a token beyond the last row.
pub(crate) fn to_gguf(
    tokenizer: &[u8],
    config: Option<&[u8]>,
    rows: usize,
) -> Result<(GgufTokenizer, Option<u32>), TokenizerError> {
    let inner = read(tokenizer, config)?;
    let file = parse_file(tokenizer)?;
    let pre = family(&file, inner.ignore_merges)?;
    let config: Config = match config {
        Some(bytes) => parse(CONFIG, bytes)?,
        None => Config::default(),
    };
    let model = file.model.ok_or_else(|| missing("model"))?;
    let vocab = model.vocab.ok_or_else(|| missing("vocabulary"))?;
    let merges = model.merges.ok_or_else(|| missing("list of merges"))?;
    let added = all_added(file.added_tokens, config.added_tokens_decoder)?;
    let around = |ids: &[u32], token: Option<u32>| match ids {
        [] => Ok(false),
        [only] if Some(*only) == token => Ok(true),
        more => Err(unsupported(
            "post-processor",
            format!("{} ids around a text", more.len()),
        )),
    };
    let add_bos = around(&inner.prefix, inner.bos)?;
    let add_eos = around(&inner.suffix, inner.eos)?;
    // A padding token that is in no vocabulary is never used.
    let padding = named_token(&vocabulary(&vocab, &added)?, "pad_token", &config.pad_token);
    let mut list = List::new(rows);
    for (token, id) in &vocab {
        list.set(*id, token, ORDINARY)?;
    }
    for AddedToken {
        id,
        content,
        special,
        ..
    } in &added
    {
        list.set(*id, content, if *special { CONTROL } else { USER_DEFINED })?;
    }
    let line = |merge: &Merge| {
        let (left, right) = merge.pair();
        format!("{left} {right}")
    };
    let parts = GgufTokenizer {
        model: "gpt2".to_owned(),
        pre: pre.to_owned(),
        tokens: list.tokens,
        types: list.types,
        merges: merges.iter().map(line).collect(),
        bos: inner.bos,
        eos: inner.eos,
        add_bos: Some(add_bos),
        add_eos: Some(add_eos),
    };
    Ok((parts, padding.unwrap_or(None)))
}

/// The name of the family that has these settings.
fn family(file: &File, ignore_merges: bool) -> Result<&'static str, TokenizerError> {
    let pattern = parts::pre_tokenizer(&file.pre_tokenizer)?;
    let normalizer = parts::normalizer(&file.normalizer)?;
    match (pattern, normalizer, ignore_merges) {
        (SplitPattern::Qwen2, Normalizer::Nfc, false) => Ok("qwen2"),
        (SplitPattern::Qwen35, Normalizer::Nfc, false) => Ok("qwen35"),
        (SplitPattern::Llama3, Normalizer::None, true) => Ok("llama-bpe"),
        other => Err(unsupported("combination of settings", format!("{other:?}"))),
    }
}

fn unsupported(what: &'static str, got: String) -> TokenizerError {
    TokenizerError::Unsupported {
        what,
        got,
        expected: "what GGUF has a name for: the tokenizers of Qwen2, Qwen3, Qwen3.5 and Llama 3",
    }
}

/// Tokens by id; ids without a token are filled with names that no text has.
struct List {
    tokens: Vec<String>,
    types: Vec<i32>,
}

impl List {
    fn new(rows: usize) -> Self {
        Self {
            tokens: (0..rows).map(|id| format!("[PAD{id}]")).collect(),
            types: vec![UNUSED; rows],
        }
    }

    fn set(&mut self, id: u32, token: &str, kind: i32) -> Result<(), TokenizerError> {
        let at = usize::try_from(id).unwrap_or(usize::MAX);
        match (self.tokens.get_mut(at), self.types.get_mut(at)) {
            (Some(name), Some(of)) => {
                token.clone_into(name);
                *of = kind;
                Ok(())
            }
            _ => Err(TokenizerError::Id {
                token: shown(token),
                id,
                reason: "the embedding has no row for it",
            }),
        }
    }
}
