//! Real sockets on loopback: who comes in, what travels, what happens to those who misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that meets the unexpected has failed"
)]

mod admission;
mod bulk;
mod codes;
mod control;
mod hostile;
mod house;
mod mesh;
mod pairing;
mod probe;
