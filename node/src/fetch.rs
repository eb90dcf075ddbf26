//! Having the shards of a slice: asking where they are, checking what is here, fetching what is missing.
//!
//! Owns the order: catalogue, room on the disk, what opening the model takes, then the weights. Runs on the computing
//! thread, which has nothing else to do until its slice is there; gives up when the epoch does.

mod queue;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::Checkpoint;
use proto::Epoch;
use proto::bulk::{ANSWER_BYTES_MAX, Ask};
use proto::control::{Assign, Held, LoadProgress, NodeMessage, Peer, Sources, Wares};
use shards::{Bits, Catalogue, Digest, Image, ShardError, Store, Unit};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use transport::Endpoint;

use self::transfer::{Source, TransferError, transfer};
use crate::shelf::{Opened, Refusal, refusal};
use crate::worker::Told;

/// Pause between two reports of progress.
const REPORT: Duration = Duration::from_millis(300);
/// Attempts to get a catalogue.
const CATALOGUE_TRIES: u32 = 4;
const CATALOGUE_PAUSE: Duration = Duration::from_millis(200);

/// What the coordinator answered to a seek.
#[derive(Debug, Clone)]
pub struct Found {
    /// The epoch that it is about.
    pub epoch: Epoch,
    /// What there is, or why there is nothing.
    pub wares: Result<Wares, String>,
    /// The coordinator, which has everything.
    pub coordinator: Peer,
}

/// What the daemon tells whoever fetches.
#[derive(Debug, Clone)]
pub struct News {
    /// The last answer of the coordinator.
    pub found: watch::Receiver<Option<Found>>,
    /// The epoch whose slice is wanted.
    pub wanted: watch::Receiver<Option<Epoch>>,
}

/// The daemon's side: passes on what the coordinator says, and knows what to tell it.
#[derive(Debug)]
pub struct Desk {
    found: watch::Sender<Option<Found>>,
    wanted: watch::Sender<Option<Epoch>>,
    /// Where shards are kept.
    pub store: Arc<Store>,
    /// Bytes that came from other members since the start.
    pub fetched: Arc<AtomicU64>,
    /// Bytes that other members got since the start.
    pub lent: Arc<AtomicU64>,
}

impl Desk {
    /// A desk, and the news that come from it.
    #[must_use]
    pub fn new(store: Arc<Store>) -> (Self, News) {
        let (found_in, found) = watch::channel(None);
        let (wanted_in, wanted) = watch::channel(None);
        let desk = Self {
            found: found_in,
            wanted: wanted_in,
            store,
            fetched: Arc::default(),
            lent: Arc::default(),
        };
        (desk, News { found, wanted })
    }

    /// The coordinator has answered.
    pub fn found(&self, sources: Sources, coordinator: Peer) {
        let Sources { epoch, wares } = sources;
        self.found.send_replace(Some(Found {
            epoch,
            wares,
            coordinator,
        }));
    }

    /// The slice of this epoch is wanted, or none; work on another one is given up.
    pub fn want(&self, epoch: Option<Epoch>) {
        self.wanted.send_replace(epoch);
    }

    /// What this machine can lend, for a coordinator that does not know it yet.
    #[must_use]
    pub fn held(&self) -> Vec<NodeMessage> {
        let images = self.store.images();
        images
            .iter()
            .map(|image| NodeMessage::Held(held(image)))
            .collect()
    }
}

/// Gets shards into the store.
pub struct Fetcher {
    /// Dials members.
    pub endpoint: Endpoint,
    /// Where shards are kept.
    pub store: Arc<Store>,
    /// What the daemon knows.
    pub news: News,
    /// Where reports go.
    pub told: mpsc::Sender<Told>,
    /// The runtime that the sockets live on.
    pub runtime: Handle,
    /// Bytes that came over the network since the start.
    pub fetched: Arc<AtomicU64>,
}

/// How far a load is.
struct Progress {
    epoch: Epoch,
    done: Arc<AtomicU64>,
    total_bytes: u64,
    told: Instant,
}

/// What a node of this assignment needs.
fn needed(assign: &Assign, catalogue: &Catalogue) -> Vec<usize> {
    let tied = catalogue.pick(|unit| unit == Unit::Embedding).is_empty();
    catalogue.pick(|unit| match unit {
        Unit::Base => true,
        Unit::Embedding => assign.embedding,
        Unit::Trunk(layer) => assign.layers.contains(&layer),
        Unit::Group { layer, group } => {
            let own = assign.layers.contains(&layer) && !assign.given_groups(layer).contains(group);
            let foreign = assign.foreign.get(&layer);
            own || foreign.is_some_and(|groups| groups.contains(group))
        }
        Unit::Head(block) => {
            let own = assign.head && !assign.given_blocks().contains(block);
            own || assign.head_blocks.contains(block) || (tied && assign.embedding)
        }
    })
}

fn store_refusal(error: &ShardError) -> Refusal {
    refusal(error.code(), error)
}

impl Fetcher {
    /// The model of an assignment with the shards that it needs.
    /// `fits` is asked once the model can be opened, before its weights are fetched.
    ///
    /// # Errors
    /// Why the slice cannot be loaded.
    pub(crate) fn model(
        &self,
        assign: &Assign,
        fits: impl Fn(&Checkpoint) -> Result<(), Refusal>,
    ) -> Result<Opened, Refusal> {
        let epoch = assign.epoch;
        let found = self.runtime.block_on(self.seek(epoch))?;
        let wares = found
            .wares
            .clone()
            .map_err(|why| refusal("no_source", why))?;
        let image = self.image(assign, &found, &wares)?;
        let catalogue = Arc::clone(image.catalogue());
        let needs = needed(assign, &catalogue);
        self.store
            .reserve(&image, &needs)
            .map_err(|e| store_refusal(&e))?;
        let bytes = |at: &usize| catalogue.shards().get(*at).map_or(0, |shard| shard.bytes);
        let left = |at: &usize| bytes(at) - image.held_bytes(*at) + image.unchecked_bytes(*at);
        let mut progress = Progress {
            epoch,
            done: Arc::default(),
            // What is fetched or compared now, and all that is read into memory afterwards.
            total_bytes: needs.iter().map(|at| bytes(at) + left(at)).sum(),
            told: Instant::now(),
        };
        let sources = sources(&catalogue, &found, &wares);
        let base = catalogue.pick(|unit| unit == Unit::Base);
        self.complete(&image, &base, &sources, &mut progress)?;
        fits(&open(&image, assign)?)?;
        self.complete(&image, &needs, &sources, &mut progress)?;
        image.seal().map_err(|e| store_refusal(&e))?;
        self.report_held(&image);
        Ok(Opened {
            checkpoint: open(&image, assign)?,
            done_bytes: progress.done.load(Ordering::Relaxed),
            image: Some(image),
        })
    }

    /// Tells the coordinator what of a model is here.
    fn report_held(&self, image: &Image) {
        let message = NodeMessage::Held(held(image));
        self.tell(message);
    }

    fn tell(&self, message: NodeMessage) {
        // Without a daemon there is nobody left to tell.
        let _gone = self.told.blocking_send(Told::Message(message));
    }

    /// Asks the coordinator where the shards are.
    async fn seek(&self, epoch: Epoch) -> Result<Found, Refusal> {
        let asked = Told::Message(NodeMessage::Seek(epoch));
        if self.told.send(asked).await.is_err() {
            return Err(superseded());
        }
        let mut found = self.news.found.clone();
        let answer = found.wait_for(|found| found.as_ref().is_some_and(|f| f.epoch == epoch));
        tokio::select! {
            answer = answer => match answer.ok().and_then(|found| found.clone()) {
                Some(found) => Ok(found),
                None => Err(superseded()),
            },
            () = self.given_up(epoch) => Err(superseded()),
        }
    }

    /// Waits until the slice of `epoch` is not wanted any more.
    async fn given_up(&self, epoch: Epoch) {
        let mut wanted = self.news.wanted.clone();
        // An error says that the daemon has gone.
        let _gone = wanted.wait_for(|wanted| *wanted != Some(epoch)).await;
    }

    /// The model in the store, with its catalogue, which is fetched if it is new.
    fn image(&self, assign: &Assign, found: &Found, wares: &Wares) -> Result<Arc<Image>, Refusal> {
        let digest = Digest(wares.catalogue);
        if let Some(image) = self.store.find(digest) {
            return Ok(image);
        }
        let fetched = self.runtime.block_on(async {
            tokio::select! {
                fetched = self.catalogue(found, digest) => fetched,
                () = self.given_up(assign.epoch) => Err(superseded()),
            }
        })?;
        if Digest::of(&fetched) != digest {
            return Err(refusal(
                "bad_catalogue",
                "the coordinator sent another shard catalogue than it named",
            ));
        }
        let catalogue = Catalogue::parse(fetched).map_err(|e| store_refusal(&e))?;
        let identity = catalogue.identity();
        if (identity.size_bytes, identity.blake3) != (assign.model_bytes, assign.model_blake3) {
            return Err(refusal(
                "bad_catalogue",
                "the shard catalogue is that of another model",
            ));
        }
        self.store
            .image(Arc::new(catalogue))
            .map_err(|e| store_refusal(&e))
    }

    async fn catalogue(&self, found: &Found, digest: Digest) -> Result<Vec<u8>, Refusal> {
        let mut tries = 0;
        loop {
            let attempt = async {
                let link = self
                    .endpoint
                    .bulk(&found.coordinator)
                    .await
                    .map_err(|e| e.to_string())?;
                let answer = link.ask(&Ask::Catalogue(digest.0)).await;
                let mut answer = answer.map_err(|e| e.to_string())?;
                answer
                    .take(ANSWER_BYTES_MAX)
                    .await
                    .map_err(|e| e.to_string())
            };
            match attempt.await {
                Ok(bytes) => {
                    self.fetched
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Ok(bytes);
                }
                Err(_) if tries < CATALOGUE_TRIES => tries += 1,
                Err(error) => {
                    let text =
                        format!("the shard catalogue did not come from the coordinator: {error}");
                    return Err(refusal("no_source", text));
                }
            }
            tokio::time::sleep(CATALOGUE_PAUSE.saturating_mul(tries)).await;
        }
    }

    /// Makes sure that `shards` are here and right.
    fn complete(
        &self,
        image: &Arc<Image>,
        shards: &[usize],
        sources: &[Source],
        progress: &mut Progress,
    ) -> Result<(), Refusal> {
        for shard in shards {
            if *self.news.wanted.borrow() != Some(progress.epoch) {
                return Err(superseded());
            }
            let before = image.unchecked_bytes(*shard);
            let damaged = image.check(*shard).map_err(|e| store_refusal(&e))?;
            if !damaged.is_empty() {
                let unit = image
                    .catalogue()
                    .shards()
                    .get(*shard)
                    .map(|shard| shard.unit.to_string());
                tracing::warn!(shard = unit, pieces = ?damaged, "damaged on disk, fetched again");
            }
            progress.done.fetch_add(before, Ordering::Relaxed);
            if progress.told.elapsed() >= REPORT {
                self.tell(progress.message());
            }
        }
        self.runtime
            .block_on(self.get(image, shards, sources, progress))
    }

    /// Fetches what is missing, and reports while it does.
    async fn get(
        &self,
        image: &Arc<Image>,
        shards: &[usize],
        sources: &[Source],
        progress: &mut Progress,
    ) -> Result<(), Refusal> {
        let counters = [Arc::clone(&self.fetched), Arc::clone(&progress.done)];
        let transfer = transfer(&self.endpoint, image, shards, sources.to_vec(), counters);
        tokio::pin!(transfer);
        let mut ticks = tokio::time::interval(REPORT);
        loop {
            tokio::select! {
                result = &mut transfer => return result.map_err(|error| match error {
                    TransferError::Here(error) => store_refusal(&error),
                    nowhere @ TransferError::Nowhere { .. } => refusal("no_source", nowhere),
                }),
                () = self.given_up(progress.epoch) => return Err(superseded()),
                _ = ticks.tick() => {
                    // A full queue gets the next report.
                    let _full = self.told.try_send(Told::Message(progress.message()));
                }
            }
        }
    }
}

impl Progress {
    fn message(&mut self) -> NodeMessage {
        self.told = Instant::now();
        NodeMessage::Load(LoadProgress {
            epoch: self.epoch,
            done_bytes: self.done.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
        })
    }
}

/// What of a model is here, for the coordinator.
#[must_use]
pub fn held(image: &Image) -> Held {
    Held {
        catalogue: image.catalogue().digest().0,
        shards: image.held().as_bytes().to_vec(),
    }
}

/// The code of a refusal that nobody waits for.
pub const SUPERSEDED: &str = "superseded";

fn superseded() -> Refusal {
    refusal(SUPERSEDED, "the slice is not wanted any more")
}

/// Members that lend what they said, and the coordinator, which has everything.
fn sources(catalogue: &Catalogue, found: &Found, wares: &Wares) -> Vec<Source> {
    let count = catalogue.shards().len();
    let members = wares.sources.iter().filter_map(|source| {
        Some(Source {
            peer: source.peer.clone(),
            shards: Bits::from_bytes(source.shards.clone(), count)?,
        })
    });
    let coordinator = Source {
        peer: found.coordinator.clone(),
        shards: Bits::all(count),
    };
    std::iter::once(coordinator).chain(members).collect()
}

/// Opens the model as far as it is here, and makes sure that it is the one that was assigned.
fn open(image: &Image, assign: &Assign) -> Result<Checkpoint, Refusal> {
    let path: PathBuf = image.model_path();
    let checkpoint = Checkpoint::open(&path).map_err(|e| refusal("model_unreadable", e))?;
    let here = checkpoint.identity();
    if (here.size_bytes, here.blake3) != (assign.model_bytes, assign.model_blake3) {
        return Err(refusal(
            "bad_catalogue",
            "the shards are those of another model",
        ));
    }
    // Weights that no shard covers would be holes.
    let ours = shards::Source::of(&checkpoint).map_err(|e| store_refusal(&e))?;
    ours.agrees(image.catalogue())
        .map_err(|e| store_refusal(&e))?;
    Ok(checkpoint)
}
