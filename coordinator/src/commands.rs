//! The commands, one a file, and what several of them need: the running service's address, the model, the service itself.

pub(crate) mod approve;
pub(crate) mod demo;
pub(crate) mod invite;
pub(crate) mod key;
pub(crate) mod kick;
pub(crate) mod model;
pub(crate) mod nodes;
pub(crate) mod plan;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod usage;

mod ask;
mod duration;
mod ending;
mod progress;
mod screen;
mod served;
mod service;
mod settings;
