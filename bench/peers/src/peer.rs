//! The parent's end of a child: start it, give it jobs, watch what it uses.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use crate::job::{Answer, Job, Ready};
use crate::settings::{Settings, Who};

/// A child that still computes so long after its answer spoils what is measured beside it.
const REST_MAX: Duration = Duration::from_secs(2);

/// A running child.
pub struct Peer {
    /// Which engine.
    pub who: Who,
    child: Child,
    /// `None` once it shall end.
    jobs: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    spawned: Instant,
}

/// How much room a child makes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Threads.
    pub threads: u32,
    /// Positions of a single sequence.
    pub context: u32,
    /// Sequences at once.
    pub seqs: u32,
}

/// Resident bytes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resident {
    /// Its own.
    pub anon: u64,
    /// Of mapped files.
    pub file: u64,
}

impl Peer {
    /// Starts a child; it loads the model while this returns.
    ///
    /// # Errors
    /// It did not start.
    pub fn spawn(who: Who, settings: &Settings, room: Room) -> Result<Self> {
        let spawned = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["child", who.word()])
            .arg(&settings.file)
            .arg(format!("threads={}", room.threads))
            .arg(format!("context={}", room.context))
            .arg(format!("seqs={}", room.seqs))
            .arg(format!(
                "repack={}",
                if settings.repack { "yes" } else { "no" }
            ))
            .arg(format!("isa={}", settings.isa))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let jobs = child.stdin.take();
        let answers = child.stdout.take().context("no output of the child")?;
        Ok(Self {
            who,
            child,
            jobs,
            answers: BufReader::new(answers),
            spawned,
        })
    }

    /// Waits for the model to be loaded.
    ///
    /// # Errors
    /// The child ended.
    pub fn ready(&mut self) -> Result<Ready> {
        self.line()
    }

    /// Does a job.
    ///
    /// # Errors
    /// The child ended.
    pub fn ask(&mut self, job: &Job) -> Result<Answer> {
        let mut line = serde_json::to_vec(job)?;
        line.push(b'\n');
        let jobs = self.jobs.as_mut().context("a child that was told to end")?;
        jobs.write_all(&line)?;
        self.line()
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| {
            format!(
                "{} answered {line:?}; what it said before stands above",
                self.who.word()
            )
        })
    }

    /// Seconds since the child was started.
    #[must_use]
    pub fn age_s(&self) -> f64 {
        self.spawned.elapsed().as_secs_f64()
    }

    fn proc(&self, name: &str) -> Result<String> {
        let path = Path::new("/proc")
            .join(self.child.id().to_string())
            .join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Waits until every thread of the child sleeps: those of both engines spin for some milliseconds after their
    /// last work.
    ///
    /// # Errors
    /// The child ended, or does not rest.
    pub fn wait_until_asleep(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.is_asleep()? {
            ensure!(
                begun.elapsed() < REST_MAX,
                "{} still computes {REST_MAX:?} after its answer",
                self.who.word()
            );
            std::thread::yield_now();
        }
        Ok(())
    }

    fn is_asleep(&self) -> Result<bool> {
        let tasks = Path::new("/proc")
            .join(self.child.id().to_string())
            .join("task");
        for task in std::fs::read_dir(&tasks).with_context(|| tasks.display().to_string())? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            if state(&stat) != Some("S") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Resident bytes.
    ///
    /// # Errors
    /// The child ended.
    pub fn resident(&self) -> Result<Resident> {
        resident(&self.proc("status")?)
    }

    /// Seconds of processor time used so far.
    ///
    /// # Errors
    /// The child ended.
    pub fn cpu_s(&self) -> Result<f64> {
        let ticks = cpu_ticks(&self.proc("stat")?)?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A child ends when its input ends; if it cannot be waited for, it is gone already.
        self.jobs = None;
        let _ = self.child.wait();
    }
}

/// From the text of `/proc/PID/status`.
fn resident(status: &str) -> Result<Resident> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kib = value.and_then(|value| value.trim().parse::<u64>().ok());
        kib.and_then(|kib| kib.checked_mul(1024))
            .with_context(|| format!("no {name} in the status of a process"))
    };
    Ok(Resident {
        anon: bytes("RssAnon:")?,
        file: bytes("RssFile:")?,
    })
}

/// What a thread does, from the text of its `stat`: `S` for sleeping.
fn state(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().next()
}

/// User and system time from the text of `/proc/PID/stat`; the name in brackets may hold anything.
fn cpu_ticks(stat: &str) -> Result<u64> {
    let after = stat.rsplit_once(')').map(|(_, after)| after);
    let mut fields = after.unwrap_or_default().split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    next()
        .zip(next())
        .map(|(user, system)| user + system)
        .context("no times in the stat of a process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_bytes_are_read_from_the_status() {
        let status = "Name:\tpeers\nVmRSS:\t  30 kB\nRssAnon:\t     12 kB\nRssFile:\t   3 kB\n";
        let expected = Resident {
            anon: 12288,
            file: 3072,
        };
        assert_eq!(resident(status).unwrap(), expected);
        assert!(resident("RssAnon:\t1 kB\n").is_err());
        assert!(resident("RssAnon:\tx kB\nRssFile:\t1 kB\n").is_err());
    }

    #[test]
    fn processor_time_is_found_after_any_name() {
        let stat = "12 (a) b) 7) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_ticks(stat).unwrap(), 300);
        assert_eq!(state(stat), Some("S"));
        assert_eq!(state("12 (a)"), None);
        assert!(cpu_ticks("12 (a) S 1 2").is_err());
        assert!(cpu_ticks("").is_err());
    }

    #[test]
    fn this_process_can_be_read() {
        let own = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap();
        assert!(resident(&own("status")).unwrap().anon > 0);
        cpu_ticks(&own("stat")).unwrap();
    }
}
