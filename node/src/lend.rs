//! Lending: what of this machine's store other members may have. The socket lets only those in whom the coordinator named.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::bulk::{Ask, Status};
use shards::{Digest, ShardError, Store};
use transport::Lender;

/// Lends out of the store.
#[derive(Debug)]
pub struct StoreLender {
    /// The store.
    pub store: Arc<Store>,
    /// Bytes lent since the start.
    pub lent: Arc<AtomicU64>,
}

impl Lender for StoreLender {
    fn lend(&self, ask: &Ask) -> Result<Vec<u8>, Status> {
        let find =
            |catalogue: &[u8; 32]| self.store.find(Digest(*catalogue)).ok_or(Status::NotHere);
        let bytes = match ask {
            Ask::Catalogue(catalogue) => find(catalogue)?.catalogue().encoded().to_vec(),
            Ask::Pieces {
                catalogue,
                shard,
                first,
                end,
            } => {
                let shard = usize::try_from(*shard).map_err(|_| Status::NotHere)?;
                let read = find(catalogue)?.read(shard, *first, *end);
                read.map_err(|error| match error {
                    ShardError::NotHere { .. } => Status::NotHere,
                    error => {
                        tracing::warn!(%error, "a shard could not be lent");
                        Status::Failed
                    }
                })?
            }
        };
        self.lent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}
