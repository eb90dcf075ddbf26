//! The API over real sockets, with a scripted household behind the gateway: the text, the streams, the errors and
//! the connections are the real ones; only the tokens come from a script.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod admin;
mod anthropic;
mod chat;
mod client;
mod completions;
mod connections;
mod dashboard;
mod demanded;
mod embeddings;
mod format;
mod gateway;
mod household;
mod malformed;
mod malformed_messages;
mod ollama;
mod ollama_chat;
mod openapi;
mod people;
mod replay;
mod responses;
mod service;
mod table;
mod tools;
