//! Where a node takes a model from: a file of its own that is the coordinator's, or shards out of its store.

use std::path::Path;
use std::sync::Arc;

use command::Failure;
use model::Checkpoint;
use proto::control::Assign;
use shards::{Image, Store};
use tokio::sync::mpsc;
use transport::Endpoint;

use crate::fetch::{Desk, Fetcher};
use crate::lend::StoreLender;
use crate::worker::Told;

/// Why a slice could not be loaded: a stable code and words for a person.
#[derive(Debug)]
pub struct Refusal {
    /// The code.
    pub code: &'static str,
    /// The words.
    pub text: String,
}

pub(crate) fn refusal(code: &'static str, text: impl std::fmt::Display) -> Refusal {
    Refusal {
        code,
        text: text.to_string(),
    }
}

/// Whether files of this machine are opened where the coordinator's model lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedFiles {
    /// If they are the same, nothing has to travel.
    Try,
    /// The owner does not want it.
    Never,
}

/// Opens models.
pub struct Shelf {
    /// Whether to look for a file first.
    pub files: SharedFiles,
    /// Gets shards; without it files are the only way.
    pub fetcher: Option<Fetcher>,
}

/// An opened model.
pub(crate) struct Opened {
    /// The model, whole or in part.
    pub checkpoint: Checkpoint,
    /// What of it is here, if it lies in the store.
    pub image: Option<Arc<Image>>,
    /// Bytes that were fetched and compared for it.
    pub done_bytes: u64,
}

impl Shelf {
    /// The model of an assignment. `fits` is asked before weights are fetched or read.
    pub(crate) fn open(
        &self,
        assign: &Assign,
        fits: &dyn Fn(&Checkpoint) -> Result<(), Refusal>,
    ) -> Result<Opened, Refusal> {
        let why = match self.file(assign) {
            Ok(checkpoint) => {
                fits(&checkpoint)?;
                return Ok(Opened {
                    checkpoint,
                    image: None,
                    done_bytes: 0,
                });
            }
            Err(why) => why,
        };
        let Some(fetcher) = &self.fetcher else {
            return Err(why);
        };
        tracing::info!(
            why = why.text,
            "the model's shards are taken from other machines"
        );
        let opened = fetcher.model(assign, fits);
        opened.map_err(|error| match error.code {
            // Both ways are closed: the owner may open either.
            "no_source" => refusal(
                why.code,
                format_args!(
                    "{}; and its shards cannot be fetched: {}",
                    why.text, error.text
                ),
            ),
            _ => error,
        })
    }

    fn file(&self, assign: &Assign) -> Result<Checkpoint, Refusal> {
        if self.files == SharedFiles::Never {
            return Err(refusal(
                "no_shared_files",
                "this machine opens no model file of its own",
            ));
        }
        let checkpoint = Checkpoint::open(Path::new(&assign.model_path))
            .map_err(|e| refusal("model_unreadable", e))?;
        let here = checkpoint.identity();
        if (here.size_bytes, here.blake3) != (assign.model_bytes, assign.model_blake3) {
            return Err(refusal(
                "model_mismatch",
                format_args!(
                    "{} on this machine is not the coordinator's model: {} bytes here, {} there; copy the coordinator's files",
                    assign.model_path, here.size_bytes, assign.model_bytes
                ),
            ));
        }
        Ok(checkpoint)
    }
}

/// Where weights from other machines are kept in the data directory.
const STORE_DIR: &str = "store";

/// The store of this node, within the limit that the owner gave.
pub(crate) fn store(dir: &std::path::Path, wanted: Option<&str>) -> Result<Store, Failure> {
    let parsed = wanted.map(plan::size::parse_size).transpose();
    let wanted = parsed.map_err(|e| Failure::Usage(format!("--store-limit: {e}")))?;
    let store = Store::open(&dir.join(STORE_DIR), wanted.unwrap_or(u64::MAX))?;
    Ok(match wanted {
        Some(_) => store,
        None => {
            let limit = shards::default_limit(dir, store.held_bytes());
            store.with_limit(limit)
        }
    })
}

/// Where models come from, what is told to it, and what is lent out of it.
pub(crate) fn shelf(
    files: SharedFiles,
    store: Arc<Store>,
    endpoint: &Endpoint,
    told: &mpsc::Sender<Told>,
) -> (Shelf, Desk) {
    let (desk, news) = Desk::new(Arc::clone(&store));
    endpoint.lend(Arc::new(StoreLender {
        store: Arc::clone(&store),
        lent: Arc::clone(&desk.lent),
    }));
    let fetcher = Fetcher {
        endpoint: endpoint.clone(),
        store,
        news,
        told: told.clone(),
        runtime: tokio::runtime::Handle::current(),
        fetched: Arc::clone(&desk.fetched),
    };
    let shelf = Shelf {
        files,
        fetcher: Some(fetcher),
    };
    (shelf, desk)
}
