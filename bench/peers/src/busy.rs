//! Another program that takes a core: this program again, in a session of its own, spinning.
//!
//! A session of its own matters: kernels that group by session give each group its share, as between real programs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, set_parent_process_death_signal, setsid};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::settings::Words;

/// `spin core=N`: never returns.
///
/// # Errors
/// No such core.
pub fn main(words: &Words) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    setsid()?;
    let mut cores = CpuSet::new();
    cores.set(words.number("core", 0)? as usize);
    sched_setaffinity(None::<Pid>, &cores)?;
    println!("spinning");
    std::io::stdout().flush()?;
    loop {
        std::hint::black_box(0);
    }
}

/// A program that spins until this is dropped.
pub struct Spinner(Child);

impl Spinner {
    /// Returns when it spins.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(core: u32) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["spin", &format!("core={core}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child
            .stdout
            .take()
            .context("no output of the spinning program")?;
        let spinner = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(
            !line.is_empty(),
            "the spinning program ended: is there a core {core}?"
        );
        Ok(spinner)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
