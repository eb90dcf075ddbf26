//! Opening the model that is to be served.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use command::Failure;
use coordinator::gateway::{Card, ServedModel};
use model::Checkpoint;

/// A model as the household and the API need it.
pub(crate) struct Opened {
    /// The files.
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// Text, templates and defaults.
    pub(crate) served: Arc<ServedModel>,
}

/// Opens a `.gguf` file or a safetensors directory, off the async threads.
///
/// # Errors
/// The path is not a model that we can run, or has no tokenizer.
pub(crate) async fn open(reference: &Path) -> Result<Opened, Failure> {
    let path = std::path::absolute(reference)?;
    tokio::task::spawn_blocking(move || read(&path)).await?
}

fn read(path: &Path) -> Result<Opened, Failure> {
    if !path.exists() {
        return Err(Failure::Failed(format!(
            "no model at {}; expected a .gguf file (of split files the first), a safetensors directory, or the name of a model that `coordinator model list` shows",
            path.display()
        )));
    }
    let checkpoint = Checkpoint::open(path)?;
    let template = checkpoint.chat_template()?;
    if template.is_none() {
        tracing::warn!(
            model = checkpoint.id(),
            "the model has no chat template: chats are answered with 400"
        );
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH);
    let served = ServedModel {
        id: checkpoint.id().to_owned(),
        tokenizer: checkpoint.tokenizer()?,
        template,
        defaults: checkpoint.generation_defaults()?,
        vocab: checkpoint.facts().vocab,
        card: Card::of(&checkpoint),
        created_unix_s: created.map_or(0, |since| since.as_secs()),
    };
    Ok(Opened {
        checkpoint: Arc::new(checkpoint),
        served: Arc::new(served),
    })
}
