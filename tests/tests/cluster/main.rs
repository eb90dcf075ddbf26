//! Households of real processes on loopback: exact whatever the split, clear and unharmed whatever comes in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

mod added;
mod commands;
mod crowds;
mod demo;
mod embeddings;
mod endings;
mod exact;
mod invites;
#[cfg(target_os = "linux")]
mod lan;
mod losses;
mod models;
mod pairing;
mod people;
mod spread;
mod structured;
mod terms;
mod weights;
