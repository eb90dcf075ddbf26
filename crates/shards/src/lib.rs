//! Shards of a model: what they are, what their hashes are, and where a machine keeps them.
//!
//! Owns the catalogue (a description that anybody can check), the reading of shards out of ordinary model files, and the
//! store on disk. Must never open a socket, and never take a byte for a weight before its hash was compared.
//!
//! The one idea: a shard is addressed by the hash of its content and kept where it lies in the model's files. The store
//! holds each file of a model at its full length with holes where nothing was fetched yet, so that the reader and the
//! memory map of ordinary model files serve a part of a model as well.

mod bits;
mod cache;
mod catalogue;
mod digest;
mod disk;
mod error;
mod image;
mod make;
mod read;
mod split;
mod store;
mod unit;
mod verify;

pub use bits::Bits;
pub use cache::catalogue_of;
pub use catalogue::{Catalogue, ModelFile, Shard};
pub use digest::Digest;
pub use error::ShardError;
pub use image::{Image, Written};
pub use make::{Source, make};
pub use read::Reader;
pub use split::{CATALOGUE_FILE, SplitReport, shard_file, split};
pub use store::{Store, default_limit};
pub use unit::Unit;
pub use verify::{Damage, VerifyReport, verify};
