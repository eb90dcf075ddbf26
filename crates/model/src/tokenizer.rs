//! Text to token ids and back, for byte-level BPE vocabularies.
//!
//! A [`Tokenizer`] is built from a `tokenizer.json` or from the metadata of a GGUF file; both give the same ids. It
//! never guesses: a normaliser, pre-tokeniser, model or option that is not known here is refused by its name.
//! It never puts a beginning-of-text token into a text by itself, except in [`Tokenizer::encode_prompt`].
//!
//! The one idea: encoding has four stages, each of them a small module. *Added* tokens (control tokens and the like)
//! are cut out literally; what is between them is brought to NFC if the family asks for it; a *split pattern* cuts
//! it into words; *merges* turn the bytes of each word into ids.

mod added;
mod bpe;
mod byte_level;
mod detokenizer;
mod error;
mod from_gguf;
mod from_json;
mod splitter;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use added::{AddedMatcher, Piece};
use bpe::{Merges, Scratch};
use splitter::Splitter;
use vocabulary::{TokenKind, Vocabulary};

pub(crate) use from_json::to_gguf;

pub use detokenizer::Detokenizer;
pub use error::TokenizerError;
pub use from_gguf::GgufTokenizer;

/// Bytes of one text that may be encoded.
pub const TEXT_BYTES_MAX: usize = 64 << 20;
/// Bytes of a `tokenizer.json` or `tokenizer_config.json`.
pub const TOKENIZER_JSON_BYTES_MAX: usize = 128 << 20;
/// Highest token id of a vocabulary, plus one.
pub const TOKEN_IDS_MAX: u32 = 1 << 21;

/// What the written form of an added token means inside a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// `<|im_end|>` in the text is the token of that name. For rendered chat templates.
    Parse,
    /// `<|im_end|>` in the text is ten characters; no text can form an added token. For content of strangers.
    AsText,
}

/// What becomes of control tokens when ids are turned into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// They appear as written.
    Keep,
    /// They vanish. Added tokens that are not control tokens (`<think>`, `<tool_call>`) stay.
    Skip,
}

/// How texts are brought to one form before they are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Normalizer {
    /// Bytes as they come.
    None,
    /// Unicode normalisation form C.
    Nfc,
}

/// A vocabulary with its rules. Cheap to clone: clones share one vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

/// Everything that a tokenizer file says, checked.
#[derive(Debug)]
struct Inner {
    vocabulary: Vocabulary,
    merges: Merges,
    splitter: Splitter,
    normalizer: Normalizer,
    /// Added tokens found in the text as it came.
    raw_added: AddedMatcher,
    /// Added tokens found in the normalised text.
    normalized_added: AddedMatcher,
    ignore_merges: bool,
    /// Ids that the file wants before and after a plain prompt.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` and, if there is one, the `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// The files are too large, no JSON, contradict themselves, or ask for something that is not known here.
    pub fn from_json(
        tokenizer_json: &[u8],
        tokenizer_config_json: Option<&[u8]>,
    ) -> Result<Self, TokenizerError> {
        from_json::read(tokenizer_json, tokenizer_config_json).map(Self::new)
    }

    /// Takes the tokenizer out of the metadata of a GGUF file.
    ///
    /// # Errors
    /// The metadata contradicts itself, or names a tokenizer model or pre-tokeniser that is not known here.
    pub fn from_gguf(gguf: GgufTokenizer) -> Result<Self, TokenizerError> {
        from_gguf::read(gguf).map(Self::new)
    }

    fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The ids of `text`, nothing added before or after.
    ///
    /// # Errors
    /// The text is longer than [`TEXT_BYTES_MAX`].
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenizerError::TooLarge {
                what: "text",
                got: text.len(),
                max: TEXT_BYTES_MAX,
            });
        }
        let mut run = Run {
            inner: &self.inner,
            scratch: Scratch::default(),
            ids: Vec::with_capacity(text.len() / 4 + 4),
        };
        match specials {
            Specials::AsText => run.words(&self.inner.normalizer.apply(text)),
            Specials::Parse => run.raw(text),
        }
        Ok(run.ids)
    }

    /// The ids of a plain prompt: as [`Self::encode`], with the ids that the model wants around every prompt
    /// (beginning-of-text, for the families that have one). Not for rendered chat templates, which write them out.
    ///
    /// # Errors
    /// The text is longer than [`TEXT_BYTES_MAX`].
    pub fn encode_prompt(
        &self,
        text: &str,
        specials: Specials,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.inner.prefix.clone();
        ids.extend(self.encode(text, specials)?);
        ids.extend_from_slice(&self.inner.suffix);
        Ok(ids)
    }

    /// The bytes that a token stands for; of an added token, its text. `None` for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.inner.vocabulary.bytes(id)
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD; ids without a token give nothing.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> String {
        let mut bytes = Vec::with_capacity(ids.len().saturating_mul(4));
        for &id in ids {
            bytes.extend_from_slice(self.shown_bytes(id, special));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A decoder for ids that arrive one by one.
    pub fn detokenizer(&self, special: SpecialText) -> Detokenizer {
        Detokenizer::new(self.clone(), special)
    }

    /// The bytes that an id contributes to a decoded text.
    fn shown_bytes(&self, id: u32, special: SpecialText) -> &[u8] {
        if special == SpecialText::Skip && self.is_special(id) {
            return &[];
        }
        self.token_bytes(id).unwrap_or(&[])
    }

    /// The beginning-of-text token, if the model names one. Whether prompts begin with it says [`Self::add_bos`].
    pub fn bos(&self) -> Option<u32> {
        self.inner.bos
    }

    /// The end-of-text token that the tokenizer names, if any. A model may have more of them.
    pub fn eos(&self) -> Option<u32> {
        self.inner.eos
    }

    /// Whether plain prompts begin with [`Self::bos`].
    pub fn add_bos(&self) -> bool {
        self.inner.bos.is_some() && self.inner.prefix.first() == self.inner.bos.as_ref()
    }

    /// The text of the beginning-of-text token, as chat templates want it.
    pub fn bos_text(&self) -> Option<&str> {
        self.text_of(self.inner.bos?)
    }

    /// The text of the end-of-text token, as chat templates want it.
    pub fn eos_text(&self) -> Option<&str> {
        self.text_of(self.inner.eos?)
    }

    fn text_of(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.token_bytes(id)?).ok()
    }

    /// One more than the highest id that has a token. The head of a model may have more rows than that.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.len()
    }

    /// The id of the added token written `text`, else of the ordinary token with these bytes.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let vocabulary = &self.inner.vocabulary;
        vocabulary
            .added_id(text)
            .or_else(|| vocabulary.ordinary_id(text.as_bytes()))
    }

    /// Whether `id` was added beside the ordinary vocabulary, control token or not: no ordinary text encodes to it.
    pub fn is_added(&self, id: u32) -> bool {
        let kind = self.inner.vocabulary.kind(id);
        matches!(kind, Some(TokenKind::Added | TokenKind::Special))
    }

    /// Whether `id` is a control token: one that never belongs into the text that a person reads.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.vocabulary.kind(id) == Some(TokenKind::Special)
    }
}

impl Normalizer {
    fn apply(self, text: &str) -> std::borrow::Cow<'_, str> {
        match self {
            Self::None => text.into(),
            Self::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => text.into(),
            Self::Nfc => text.nfc().collect::<String>().into(),
        }
    }
}

/// One encoding under way.
struct Run<'a> {
    inner: &'a Inner,
    scratch: Scratch,
    ids: Vec<u32>,
}

impl Run<'_> {
    /// Text as it came: added tokens first, then what is between them.
    fn raw(&mut self, text: &str) {
        let inner = self.inner;
        for piece in inner.raw_added.cut(text) {
            match piece {
                Piece::Token(id) => self.ids.push(id),
                Piece::Text(text) => self.normalized(&inner.normalizer.apply(text)),
            }
        }
    }

    /// Normalised text: the added tokens that are looked for in this form, then words.
    fn normalized(&mut self, text: &str) {
        let inner = self.inner;
        for piece in inner.normalized_added.cut(text) {
            match piece {
                Piece::Token(id) => self.ids.push(id),
                Piece::Text(text) => self.words(text),
            }
        }
    }

    /// Plain text without added tokens.
    fn words(&mut self, text: &str) {
        let inner = self.inner;
        for word in inner.splitter.words(text) {
            let bytes = word.as_bytes();
            match inner.vocabulary.ordinary_id(bytes) {
                Some(id) if inner.ignore_merges => self.ids.push(id),
                _ => inner.merges.encode(bytes, &mut self.scratch, &mut self.ids),
            }
        }
    }
}
