//! Decides what happens next for one model in one household.
//!
//! Owns requests, sequences, cache pages, state slots and the steps in flight. Holds no socket, task, lock, clock
//! or random source: time is an argument. The one idea: a [`Session`] is a state machine with five words,
//! [`Session::handle_input`], [`Session::handle_timeout`], [`Session::poll_output`], [`Session::poll_timeout`]
//! and [`Session::is_done`]; whoever drives it carries out its outputs, and a simulator can drive it as well.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use proto::{Epoch, RequestId};
//! use session::{Capacity, Config, Input, Output, Session, Submission};
//!
//! let mut session = Session::new(Config::default());
//! let now = Duration::ZERO;
//! session.handle_input(now, Input::Ready(Capacity {
//!     epoch: Epoch(1), pages: 16, slots: 2, context: 512, stages: 1, chunk_rows: 128,
//! }))?;
//! session.handle_input(now, Input::Submit(Submission {
//!     request: RequestId(7), person: session::Person::default(), prompt: Arc::from([1, 2, 3]), pooling: None,
//!     choices: 1, max_tokens: Some(8),
//!     min_tokens: 0, stop_ids: vec![0], sampling: proto::step::Sampling::default(), constrained: false,
//! }))?;
//! assert!(matches!(session.poll_output(), Some(Output::Accepted { .. })));
//! assert!(matches!(session.poll_output(), Some(Output::Send(step)) if step.tokens == [1, 2, 3]));
//! # Ok::<(), session::InputError>(())
//! ```

mod config;
mod input;
mod output;
mod pace;
mod pages;
mod person;
mod queue;
mod request;
mod schedule;
mod sequence;
mod serving;
mod session;
mod shares;

pub use config::Config;
pub use input::{Capacity, Input, InputError, MaskedToken, Submission};
pub use output::{Counters, ErrorCode, FinishReason, Load, Output, Retry, SessionError};
pub use person::{Person, Priority};
pub use session::Session;
