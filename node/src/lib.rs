//! Hearth node: runs a part of the model on this machine.
//!
//! Owns the machine's side of a household: its terms (memory, threads), its measured speed, the slice it was
//! given, and its two connections' events. Decides nothing about the plan and knows no prompt text. The one
//! idea: one async loop waits and forwards, one thread computes, and neither does the other's work.

pub mod cli;
pub mod cores;
pub mod daemon;
pub mod entry;
pub mod fetch;
pub mod files;
pub mod hello;
pub mod household;
pub mod lend;
pub mod measure;
mod probing;
pub mod seek;
pub mod service;
pub mod shelf;
pub mod terms;
pub mod worker;
