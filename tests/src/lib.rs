//! Builders of cluster tests: the programs, clusters of real processes, the API as a client sees it, and the fixtures.
//!
//! Owns every process that a test starts and ends it with the test. It must never be used by production code and holds
//! no expectation of its own. The one idea: a test says what it wants to see; ports, folders, invites, waiting (always
//! for an event, always with a deadline) and logs are done here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a builder that fails is the failure of the test that called it"
)]

pub mod api;
pub mod cluster;
pub mod fixtures;
pub mod lan;
#[cfg(target_os = "linux")]
pub mod namespaces;
pub mod oracles;
pub mod plans;
pub mod process;
pub mod programs;
pub mod set;

pub use api::{Api, Reply};
pub use cluster::{Cluster, Member, Wanted};
pub use process::Process;
