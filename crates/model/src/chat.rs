//! The chat template of a checkpoint: where each format keeps it, and which of several wins.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    Checkpoint, ModelError,
    checkpoint::Meta,
    files,
    gguf::{self, Gguf},
    template::ChatTemplate,
    text::token_key,
};

/// Name of the template that is meant for chats where a file holds several.
const DEFAULT_TEMPLATE: &str = "default";

impl Checkpoint {
    /// The chat template: chat_template.jinja, else the one in tokenizer_config.json, else that of GGUF metadata.
    ///
    /// # Errors
    /// A file is broken or the template is no valid one.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        let found = match self.meta() {
            Meta::Gguf(head) => {
                let (path, bytes) = self.head_bytes()?;
                find_in_gguf(path, bytes, head)?
            }
            Meta::Hf { dir, .. } => find_in_directory(dir)?,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        ChatTemplate::new(&found.source, found.bos.as_deref(), found.eos.as_deref())
            .map(Some)
            .map_err(|source| ModelError::Template {
                path: found.path,
                source,
            })
    }
}

/// A template as it was found, with the texts of the tokens that templates name.
struct Found {
    path: PathBuf,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

fn find_in_gguf(path: &Path, bytes: &[u8], head: &Gguf) -> Result<Option<Found>, ModelError> {
    let key = "tokenizer.chat_template";
    let Some(value) = head.value(key) else {
        return Ok(None);
    };
    let Some(source) = value.as_text() else {
        return Err(ModelError::malformed(path, key, value.to_string(), "text"));
    };
    let (bos, eos) = (
        token_key(path, head, "bos_token_id")?,
        token_key(path, head, "eos_token_id")?,
    );
    let (mut bos_text, mut eos_text, mut id) = (None, None, 0_u32);
    let tokens = head.value("tokenizer.ggml.tokens");
    if let Some(tokens) = tokens.and_then(gguf::Value::as_array) {
        tokens.for_each_text(path, bytes, |token| {
            if bos == Some(id) {
                bos_text = Some(token.to_owned());
            }
            if eos == Some(id) {
                eos_text = Some(token.to_owned());
            }
            id = id.saturating_add(1);
        })?;
    }
    Ok(Some(Found {
        path: path.to_path_buf(),
        source: source.to_owned(),
        bos: bos_text,
        eos: eos_text,
    }))
}

/// The template of a directory as it is written, if it has one.
pub(crate) fn directory_source(dir: &Path) -> Result<Option<String>, ModelError> {
    Ok(find_in_directory(dir)?.map(|found| found.source))
}

fn find_in_directory(dir: &Path) -> Result<Option<Found>, ModelError> {
    let config_path = dir.join("tokenizer_config.json");
    let config = files::read_json_if(&config_path)?.unwrap_or(Value::Null);
    let own = dir.join("chat_template.jinja");
    let (path, source) = match files::read_text_if(&own)? {
        Some(text) => match String::from_utf8(text) {
            Ok(text) => (own, Some(text)),
            Err(_) => return Err(ModelError::malformed(&own, "the file", "no UTF-8", "text")),
        },
        None => (config_path.clone(), in_config(&config_path, &config)?),
    };
    let token = |key: &str| {
        let value = config.get(key)?;
        let text = value.get("content").unwrap_or(value);
        text.as_str().map(str::to_owned)
    };
    Ok(source.map(|source| Found {
        path,
        source,
        bos: token("bos_token"),
        eos: token("eos_token"),
    }))
}

/// The template in tokenizer_config.json: a text, or a list of named ones.
fn in_config(path: &Path, config: &Value) -> Result<Option<String>, ModelError> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => Ok(list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some(DEFAULT_TEMPLATE))
            .and_then(|entry| entry.get("template"))
            .and_then(Value::as_str)
            .map(str::to_owned)),
        Some(_) => Err(ModelError::malformed(
            path,
            "`chat_template`",
            "neither text nor list",
            "text, or a list of templates with names",
        )),
    }
}
