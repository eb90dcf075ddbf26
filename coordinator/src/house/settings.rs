//! What a household is started with, and why it may not start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::Checkpoint;
use plan::{KvType, Plan};
use thiserror::Error;

use crate::people::People;
use crate::store::StoreError;

/// Sequences at a time that caches get room for when nobody says.
const SEQUENCES: u32 = 8;

/// Everything that a household is told at its start.
#[derive(Debug, Clone)]
pub struct HouseSettings {
    /// Holds the key and the record; must exist.
    pub data_dir: PathBuf,
    /// What is served.
    pub model: Arc<Checkpoint>,
    /// Address and UDP port of the mesh; port 0 takes a free one.
    pub mesh: SocketAddr,
    /// Whether the mesh is announced to the network; one on loopback never is.
    pub discovery: bool,
    /// Machines that must be in before the first plan is made; `None` is one.
    pub expect: Option<usize>,
    /// How the plan is made.
    pub plan: PlanChoice,
    /// Positions per sequence; `None` takes the model's, at most 32768, lowered to what fits.
    pub context: Option<u32>,
    /// Type of the attention cache; `None` goes by the model.
    pub kv: Option<KvType>,
    /// Sequences at a time that the caches should have room for; lowered to what fits.
    pub sequences: u32,
    /// How long to wait for what.
    pub timing: HouseTiming,
    /// Bounds of the queue and of a step.
    pub session: session::Config,
    /// Keys and counts, if they were opened before the household; their record is the household's.
    pub people: Option<People>,
}

impl HouseSettings {
    /// Settings with a default for everything that has one.
    #[must_use]
    pub fn new(data_dir: PathBuf, model: Arc<Checkpoint>, mesh: SocketAddr) -> Self {
        Self {
            data_dir,
            model,
            mesh,
            discovery: true,
            expect: None,
            plan: PlanChoice::Auto,
            context: None,
            kv: None,
            sequences: SEQUENCES,
            timing: HouseTiming::default(),
            session: session::Config::default(),
            people: None,
        }
    }
}

/// How a plan is made.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanChoice {
    /// The fastest for one conversation; machines may be left out.
    Auto,
    /// Every machine gets at least one layer.
    Layers,
    /// Every machine gets layers, expert groups or head blocks.
    Experts,
    /// As somebody wrote it; used once its machines are in.
    File(Box<Plan>),
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HouseTiming {
    /// A node is lost when nothing was heard of it for this long.
    pub lease: Duration,
    /// Pause after the last machine came in before a plan is made, so that machines that start together get one plan.
    pub settle: Duration,
    /// How long a machine is given to turn out dead after its neighbour reported it unreachable.
    pub doubt: Duration,
    /// Loading fails when no machine has made progress for this long.
    pub load_silence: Duration,
    /// A machine that wants to go waits so long for running answers.
    pub leave: Duration,
    /// Running answers get so long when the service ends.
    pub drain: Duration,
    /// First pause of a machine that failed to load; doubles with each failure.
    pub trouble: Duration,
    /// A plan waits at most so long for links that were not measured yet.
    pub survey: Duration,
    /// Links are measured anew after this long.
    pub survey_every: Duration,
    /// A better plan is looked for once what the machines give has stayed the same for this long, and taken once
    /// nothing was asked of the service for this long.
    pub calm: Duration,
    /// Shortest time between two changes to a better plan.
    pub apart: Duration,
    /// Timing of connections.
    pub transport: transport::Timing,
}

impl Default for HouseTiming {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            settle: Duration::from_millis(300),
            doubt: Duration::from_secs(2),
            load_silence: Duration::from_secs(120),
            leave: Duration::from_secs(8),
            drain: Duration::from_secs(10),
            trouble: Duration::from_secs(2),
            survey: Duration::from_secs(2),
            survey_every: Duration::from_secs(900),
            calm: Duration::from_secs(30),
            apart: Duration::from_secs(60),
            transport: transport::Timing::default(),
        }
    }
}

/// Why a household cannot start, or cannot do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HouseError {
    /// The record cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key cannot be used.
    #[error(transparent)]
    Identity(#[from] transport::IdentityError),
    /// The mesh socket cannot be opened.
    #[error(transparent)]
    Transport(#[from] transport::TransportError),
    /// The model's path cannot be told to the nodes.
    #[error(
        "the model's path {path} cannot be told to other machines: {why}; move the model to a path of plain text, at most 4096 bytes long"
    )]
    ModelPath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The model's heads are not made of whole blocks of a q8 cache.
    #[error(
        "an attention cache of type q8 holds heads of whole blocks of 32 values, but this model's have {head_dim}; use --kv f16 or f32"
    )]
    CacheType {
        /// Values of a head.
        head_dim: usize,
    },
    /// No machine could find the coordinator with such an invite.
    #[error(
        "no invite can be made: {0}; give the mesh an address that other machines can reach, with --mesh"
    )]
    Invite(#[from] transport::InviteError),
    /// A lifetime that no invite may have.
    #[error("an invite cannot live for {got_s} seconds; expected 1 to {max_s}")]
    InviteLife {
        /// What came.
        got_s: u64,
        /// The longest.
        max_s: u64,
    },
}

impl HouseError {
    /// A stable name of the kind of error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            HouseError::Store(error) => error.code(),
            HouseError::Identity(_) => "identity",
            HouseError::Transport(error) => error.code(),
            HouseError::ModelPath { .. } => "model_path",
            HouseError::CacheType { .. } => "kv_unsupported",
            HouseError::Invite(_) => "invite_address",
            HouseError::InviteLife { .. } => "invite_life",
        }
    }
}
