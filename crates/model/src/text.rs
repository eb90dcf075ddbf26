//! The tokenizer of a checkpoint: where each format keeps its parts.

use std::path::Path;

use crate::{
    Checkpoint, ModelError,
    checkpoint::Meta,
    files,
    gguf::{self, Gguf},
    tokenizer::{GgufTokenizer, Tokenizer},
};

impl Checkpoint {
    /// Builds the tokenizer, from tokenizer.json or from GGUF metadata.
    ///
    /// # Errors
    /// It is missing, broken, of a kind that we do not know, or has more tokens than the model has rows.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let (path, built) = match self.meta() {
            Meta::Gguf(head) => {
                let (path, bytes) = self.head_bytes()?;
                let parts = gguf_tokenizer(path, bytes, head)?;
                (path.to_path_buf(), Tokenizer::from_gguf(parts))
            }
            Meta::Hf { dir, .. } => {
                let path = dir.join("tokenizer.json");
                let config = files::read_text_if(&dir.join("tokenizer_config.json"))?;
                let built = Tokenizer::from_json(&files::read_text(&path)?, config.as_deref());
                (path, built)
            }
        };
        let tokenizer = built.map_err(|source| ModelError::Tokenizer {
            path: path.clone(),
            source,
        })?;
        if tokenizer.vocab_size() > self.arch().vocab {
            return Err(ModelError::malformed(
                &path,
                "the number of tokens",
                tokenizer.vocab_size().to_string(),
                format!("at most the {} rows of the embedding", self.arch().vocab),
            ));
        }
        Ok(tokenizer)
    }

    /// The first file, which holds the metadata.
    pub(crate) fn head_bytes(&self) -> Result<(&Path, &[u8]), ModelError> {
        self.first_file()
            .ok_or_else(|| self.no_role("metadata".to_owned()))
    }
}

/// The id under `tokenizer.ggml.NAME`, if it is there.
pub(crate) fn token_key(path: &Path, head: &Gguf, name: &str) -> Result<Option<u32>, ModelError> {
    let key = format!("tokenizer.ggml.{name}");
    let Some(value) = head.value(&key) else {
        return Ok(None);
    };
    match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(ModelError::malformed(
            path,
            key,
            value.to_string(),
            "a token id",
        )),
    }
}

fn gguf_tokenizer(path: &Path, bytes: &[u8], head: &Gguf) -> Result<GgufTokenizer, ModelError> {
    let text = |name: &str| {
        let key = format!("tokenizer.ggml.{name}");
        let value = head.value(&key);
        value
            .and_then(gguf::Value::as_text)
            .map(str::to_owned)
            .ok_or_else(|| {
                let got = value.map_or_else(|| "missing".to_owned(), ToString::to_string);
                let expected =
                    "the name that the tokenizer has; convert the model with a current tool";
                ModelError::malformed(path, key, got, expected)
            })
    };
    let flag = |name: &str| {
        head.value(&format!("tokenizer.ggml.{name}"))
            .and_then(gguf::Value::as_bool)
    };
    Ok(GgufTokenizer {
        model: text("model")?,
        pre: text("pre")?,
        tokens: texts(path, bytes, head, "tokens")?,
        merges: texts(path, bytes, head, "merges")?,
        types: types(path, bytes, head)?,
        bos: token_key(path, head, "bos_token_id")?,
        eos: token_key(path, head, "eos_token_id")?,
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
    })
}

fn array<'a>(path: &Path, head: &'a Gguf, name: &str) -> Result<&'a gguf::Array, ModelError> {
    let key = format!("tokenizer.ggml.{name}");
    let value = head.value(&key);
    value.and_then(gguf::Value::as_array).ok_or_else(|| {
        let got = value.map_or_else(|| "missing".to_owned(), ToString::to_string);
        ModelError::malformed(path, key, got, "a list, one entry for each token or merge")
    })
}

fn texts(path: &Path, bytes: &[u8], head: &Gguf, name: &str) -> Result<Vec<String>, ModelError> {
    let mut out = Vec::new();
    array(path, head, name)?.for_each_text(path, bytes, |text| out.push(text.to_owned()))?;
    Ok(out)
}

/// Token types as small numbers; what does not fit becomes -1, which no table knows.
fn types(path: &Path, bytes: &[u8], head: &Gguf) -> Result<Vec<i32>, ModelError> {
    let values = array(path, head, "token_type")?.values(path, bytes)?;
    Ok(values
        .iter()
        .map(|value| {
            let number = value.as_u64().and_then(|n| i32::try_from(n).ok());
            number.unwrap_or(-1)
        })
        .collect())
}
