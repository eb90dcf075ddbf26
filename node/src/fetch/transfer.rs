//! Getting missing pieces from several members at once.
//!
//! Each source has two connections with one ask at a time, so that the pause between two asks of one is filled by the
//! other. Each piece is compared with its hash before it is written. A source that fails is asked again a few times, then
//! left; what it had not sent is fetched elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::bulk::Ask;
use proto::control::Peer;
use shards::{Bits, Image, ShardError};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use transport::{BulkLink, BulkTransferError, Endpoint};

use super::queue::{Queue, Run, Turn};

/// Pieces of one ask.
const RUN_PIECES: u32 = 4;
/// Connections to one source.
const LANES: usize = 2;
/// Sources at a time.
const SOURCES_MAX: usize = 8;
/// Failures of a connection in a row after which its source is left.
const STRIKES_MAX: u32 = 4;
/// Pause after the first failure; it grows with each.
const PAUSE: Duration = Duration::from_millis(150);
/// A run that takes longer is fetched from a second source when nothing else is left.
const LATE: Duration = Duration::from_secs(3);
/// How often a free connection looks whether a run has become late.
const LOOK: Duration = Duration::from_millis(500);

/// A member that lends, and what.
#[derive(Debug, Clone)]
pub struct Source {
    /// Who and where.
    pub peer: Peer,
    /// The shards that it has.
    pub shards: Bits,
}

/// What all connections of a transfer share.
struct Shared {
    endpoint: Endpoint,
    image: Arc<Image>,
    sources: Vec<Source>,
    state: Mutex<State>,
    /// Something was finished or given back.
    news: Notify,
    /// Bytes of pieces that came over the network.
    fetched: Arc<AtomicU64>,
    /// Bytes that are here now and were not before.
    gained: Arc<AtomicU64>,
}

struct State {
    queue: Queue,
    /// Why nothing more can be kept here.
    broken: Option<ShardError>,
    /// The last thing that a source did wrong.
    fault: Option<String>,
}

/// Why a run broke off.
enum Fault {
    /// The connection failed.
    Link(String),
    /// The source has not the shard, or has it damaged.
    Shard(String),
    /// This machine cannot keep what comes.
    Here(ShardError),
}

/// Why pieces are still missing.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// This machine cannot keep them.
    #[error(transparent)]
    Here(ShardError),
    /// Nobody could give them.
    #[error("{unit} cannot be had from any member ({fault})")]
    Nowhere {
        /// A shard that is missing.
        unit: String,
        /// The last thing that a source did wrong.
        fault: String,
    },
}

/// Fetches all missing pieces of `shards`. `fetched` counts what comes over the network, `gained` what is kept of it.
///
/// # Errors
/// When pieces cannot be kept, or nobody has them.
pub async fn transfer(
    endpoint: &Endpoint,
    image: &Arc<Image>,
    shards: &[usize],
    mut sources: Vec<Source>,
    [fetched, gained]: [Arc<AtomicU64>; 2],
) -> Result<(), TransferError> {
    let missing = shards.iter().map(|shard| (*shard, image.missing(*shard)));
    let missing: Vec<_> = missing.filter(|(_, pieces)| !pieces.is_empty()).collect();
    sources.truncate(SOURCES_MAX);
    let has = sources.iter().map(|source| source.shards.clone()).collect();
    let shared = Arc::new(Shared {
        endpoint: endpoint.clone(),
        image: Arc::clone(image),
        state: Mutex::new(State {
            queue: Queue::new(&missing, RUN_PIECES, has, LATE),
            broken: None,
            fault: None,
        }),
        sources,
        news: Notify::new(),
        fetched,
        gained,
    });
    let mut lanes = JoinSet::new();
    for source in 0..shared.sources.len() {
        for _ in 0..LANES {
            lanes.spawn(lane(Arc::clone(&shared), source));
        }
    }
    while lanes.join_next().await.is_some() {}
    let mut state = shared.state();
    if let Some(error) = state.broken.take() {
        return Err(TransferError::Here(error));
    }
    let Some(run) = state.queue.stuck() else {
        return Ok(());
    };
    let unit = image.catalogue().shards().get(run.shard);
    Err(TransferError::Nowhere {
        unit: unit.map_or_else(String::new, |shard| shard.unit.to_string()),
        fault: state
            .fault
            .take()
            .unwrap_or_else(|| "nobody has it".to_owned()),
    })
}

/// One connection to one source, until nothing is left for it.
async fn lane(shared: Arc<Shared>, source: usize) {
    let mut link = None;
    let mut strikes = 0;
    while strikes < STRIKES_MAX {
        let turn = {
            let mut state = shared.state();
            if state.broken.is_some() {
                return;
            }
            state.queue.turn(source, Instant::now())
        };
        let (ticket, run) = match turn {
            Turn::Fetch(ticket, run) => (ticket, run),
            Turn::Over => return,
            Turn::Wait => {
                // Without news it is time to look for late runs.
                let _late = tokio::time::timeout(LOOK, shared.news.notified()).await;
                continue;
            }
        };
        let mut at = run.first;
        let result = shared.run(&mut link, source, run, &mut at).await;
        let pause = {
            let mut state = shared.state();
            match result {
                Ok(()) => {
                    state.queue.done(ticket);
                    strikes = 0;
                    None
                }
                Err(fault) => {
                    state.queue.broke(ticket, at);
                    link = None;
                    strikes += 1;
                    state.note(fault, source, run.shard);
                    Some(PAUSE.saturating_mul(strikes))
                }
            }
        };
        shared.news.notify_waiters();
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

impl State {
    fn note(&mut self, fault: Fault, source: usize, shard: usize) {
        match fault {
            Fault::Link(text) => self.fault = Some(text),
            Fault::Shard(text) => {
                self.queue.refuse(source, shard);
                self.fault = Some(text);
            }
            Fault::Here(error) => self.broken = Some(error),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches a run; `at` is the first piece that is not here yet.
    async fn run(
        &self,
        link: &mut Option<BulkLink>,
        source: usize,
        run: Run,
        at: &mut u32,
    ) -> Result<(), Fault> {
        let Some(from) = self.sources.get(source) else {
            return Ok(());
        };
        let who = &from.peer.node;
        let link = match link {
            Some(link) => link,
            None => {
                let dialled = self.endpoint.bulk(&from.peer).await;
                link.insert(dialled.map_err(|error| Fault::Link(error.to_string()))?)
            }
        };
        let catalogue = self.image.catalogue();
        let told = |error: BulkTransferError| {
            let text = format!("{who}: {error}");
            match error {
                BulkTransferError::NotHere | BulkTransferError::Failed => Fault::Shard(text),
                _ => Fault::Link(text),
            }
        };
        let ask = Ask::Pieces {
            catalogue: catalogue.digest().0,
            shard: u32::try_from(run.shard).unwrap_or(u32::MAX),
            first: run.first,
            end: run.end,
        };
        let mut answer = link.ask(&ask).await.map_err(told)?;
        let Some(shard) = catalogue.shards().get(run.shard) else {
            return Ok(());
        };
        while *at < run.end {
            let part = shard.piece(*at, catalogue.piece_bytes());
            let len = part.end - part.start;
            let bytes = answer.take(len).await.map_err(told)?;
            self.fetched
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.keep(run.shard, *at, bytes)
                .await
                .map_err(|error| match error {
                    ShardError::Damaged { .. } => Fault::Shard(format!("{who}: {error}")),
                    other => Fault::Here(other),
                })?;
            *at += 1;
        }
        Ok(())
    }

    async fn keep(&self, shard: usize, piece: u32, bytes: Vec<u8>) -> Result<(), ShardError> {
        let image = Arc::clone(&self.image);
        let len = bytes.len() as u64;
        let written = tokio::task::spawn_blocking(move || image.write(shard, piece, &bytes)).await;
        match written {
            Ok(Ok(shards::Written::New)) => {
                self.gained.fetch_add(len, Ordering::Relaxed);
                Ok(())
            }
            Ok(Ok(shards::Written::Already)) => Ok(()),
            Ok(Err(error)) => Err(error),
            // The runtime is ending, and with it the transfer.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
