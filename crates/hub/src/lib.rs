//! Models from a hub (huggingface.co, or a mirror that answers like it) into a folder of this machine.
//!
//! Owns the whole way: what a repository has, which of its files make one model, the owner's consent, the download, its
//! resumption and its verification. It is the only crate that names the HTTP client's types. It must never ask a host that
//! the owner did not name or that the hub did not redirect to, never send the token anywhere but to the hub, and never let
//! a file stand under its own name before its checksum was compared. The one idea: what is to be fetched is decided and
//! written down (the [`Manifest`]) before the first byte of a model comes; from then on everything, offline too, is a
//! comparison of the folder with that page.

mod client;
mod consent;
mod digest;
mod error;
mod fetch;
mod listing;
mod manifest;
mod name;
mod pull;
mod select;
mod settings;
mod show;

pub use consent::{Answer, ask};
pub use error::HubError;
pub use manifest::{Checksum, Manifest, WantedFile};
pub use name::HubRef;
pub use pull::{Plan, Pulled, Request, offline, pull};
pub use settings::{Settings, Token};
pub use show::Bars;

/// Told how a download goes on.
pub trait Progress {
    /// A file begins, of which `have` of `bytes` are here already.
    fn begin(&mut self, file: &str, have: u64, bytes: u64);
    /// Bytes that came and were written.
    fn advance(&mut self, bytes: u64);
    /// The connection was lost; it is tried again.
    fn retry(&mut self, why: &str);
    /// The file has to be fetched again from its first byte, `have` bytes were in vain.
    fn restart(&mut self, have: u64);
}
