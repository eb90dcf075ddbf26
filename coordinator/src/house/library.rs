//! The coordinator as a source of weights: its model's catalogue, and pieces out of its files.
//!
//! The catalogue is made when a machine first asks for it, not at the start: where all machines read the same files
//! nobody needs it, and reading a large model through would push what they loaded out of memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use model::Checkpoint;
use proto::bulk::{Ask, Status};
use proto::limits::PIECE_BYTES;
use shards::{Catalogue, Reader, ShardError, Source};
use transport::Lender;

/// Where catalogues are kept in the data directory.
const DIR: &str = "catalogues";

/// What this coordinator lends.
#[derive(Debug)]
pub(super) struct Library {
    model: Arc<Checkpoint>,
    dir: PathBuf,
    stock: OnceLock<Stock>,
}

#[derive(Debug)]
struct Stock {
    catalogue: Catalogue,
    paths: Vec<PathBuf>,
}

impl Library {
    pub fn new(model: Arc<Checkpoint>, data_dir: &Path) -> Self {
        Self {
            model,
            dir: data_dir.join(DIR),
            stock: OnceLock::new(),
        }
    }

    /// The catalogue's hash; makes the catalogue where that was not done yet, which may take as long as reading the model.
    pub fn catalogue(&self) -> Result<[u8; 32], ShardError> {
        if let Some(stock) = self.stock.get() {
            return Ok(stock.catalogue.digest().0);
        }
        // The files must still be those that are served.
        self.model.unchanged()?;
        let paths = Source::of(&self.model)?.paths().to_vec();
        let catalogue = shards::catalogue_of(&self.model, &self.dir, PIECE_BYTES)?;
        tracing::info!(catalogue = %catalogue.digest(), shards = catalogue.shards().len(), "the model's shards are known");
        let stock = self.stock.get_or_init(|| Stock { catalogue, paths });
        Ok(stock.catalogue.digest().0)
    }
}

impl Lender for Library {
    fn lend(&self, ask: &Ask) -> Result<Vec<u8>, Status> {
        let stock = self.stock.get().ok_or(Status::NotHere)?;
        let ours = stock.catalogue.digest().0;
        match ask {
            Ask::Catalogue(digest) if *digest == ours => Ok(stock.catalogue.encoded().to_vec()),
            Ask::Pieces {
                catalogue,
                shard,
                first,
                end,
            } if *catalogue == ours => stock.pieces(*shard, *first..*end),
            _ => Err(Status::NotHere),
        }
    }
}

impl Stock {
    fn pieces(&self, shard: u32, pieces: std::ops::Range<u32>) -> Result<Vec<u8>, Status> {
        let shard = usize::try_from(shard).ok();
        let shard = shard.and_then(|shard| self.catalogue.shards().get(shard));
        let shard = shard.filter(|shard| pieces.end <= shard.piece_count());
        let (Some(shard), Some(last)) = (shard, pieces.end.checked_sub(1)) else {
            return Err(Status::NotHere);
        };
        let size = self.catalogue.piece_bytes();
        let part = shard.piece(pieces.start, size).start..shard.piece(last, size).end;
        let mut bytes = Vec::new();
        let read = Reader::new(self.paths.clone()).read(&shard.places(part), &mut bytes);
        match read {
            Ok(()) => Ok(bytes),
            Err(error) => {
                tracing::warn!(%error, "a shard could not be lent");
                Err(Status::Failed)
            }
        }
    }
}
