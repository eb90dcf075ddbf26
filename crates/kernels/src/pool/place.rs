//! Threads that stay on a core.
//!
//! Owns the request to the system that a thread runs on one core only. Nobody is pinned who did not ask: a scheduler
//! that may move threads does better beside other programs.

use crate::KernelError;

/// Refuses cores on which this process may not run.
#[cfg(target_os = "linux")]
pub(super) fn check(cores: &[usize]) -> Result<(), KernelError> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let allowed = sched_getaffinity(None).map_err(|e| KernelError::Pinning(e.to_string()))?;
    let usable = |core: &usize| *core < CpuSet::MAX_CPU && allowed.is_set(*core);
    match cores.iter().find(|core| !usable(core)) {
        None => Ok(()),
        Some(core) => {
            let others: Vec<String> = (0..CpuSet::MAX_CPU)
                .filter(usable)
                .map(|core| core.to_string())
                .collect();
            Err(KernelError::Core(*core, others.join(", ")))
        }
    }
}

/// Keeps the calling thread on `core`, which [`check`] has let pass.
#[cfg(target_os = "linux")]
pub(super) fn pin(core: usize) -> Result<(), KernelError> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).map_err(|e| KernelError::Pinning(e.to_string()))
}

/// Other systems do not let a program choose cores, or only hint at them.
#[cfg(not(target_os = "linux"))]
pub(super) fn check(cores: &[usize]) -> Result<(), KernelError> {
    if cores.is_empty() {
        Ok(())
    } else {
        Err(KernelError::Pinning("only Linux can do that".to_owned()))
    }
}

/// See [`check`].
#[cfg(not(target_os = "linux"))]
pub(super) fn pin(core: usize) -> Result<(), KernelError> {
    check(&[core])
}
