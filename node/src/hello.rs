//! How this node introduces itself to the coordinator.

use proto::control::{CONTROL_PROTOCOL, Hello};

/// How this node introduces itself.
#[must_use]
pub fn hello(
    name: String,
    exec: &engine::Exec,
    memory_bytes: u64,
    facts: crate::measure::Facts,
) -> Hello {
    Hello {
        protocol: CONTROL_PROTOCOL,
        name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        kernels: exec.isa.to_string(),
        threads: u32::try_from(exec.pool.threads()).unwrap_or(u32::MAX),
        memory_bytes,
        read_bytes_per_s: facts.read_bytes_per_s,
        macs_per_s: facts.macs_per_s,
        addresses: Vec::new(),
        paused: String::new(),
    }
}
