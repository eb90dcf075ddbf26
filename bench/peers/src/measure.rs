//! The measurements and their order: round by round, thing by thing, the sides taking turns at going first.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::busy::Spinner;
use crate::job::{Job, Took};
use crate::others::Watch;
use crate::peaks::{dot_ops_per_s, read_bytes_per_s};
use crate::peer::{Peer, Room};
use crate::records::{Metric, Records};
use crate::settings::{Clock, Settings, What, Who};

/// Rows of the prompt before single tokens.
const DECODE_PROMPT: u32 = 64;
/// Single tokens.
const DECODE_STEPS: u32 = 64;
/// Positions that the middle one of the single tokens sees.
pub const DECODE_MEAN_POSITION: u32 = DECODE_PROMPT + DECODE_STEPS / 2;
/// Steps of a batch, and after a long context.
const FEW_STEPS: u32 = 32;
/// Rows of the prompt of a cold start.
const COLD_PROMPT: u32 = 16;
/// Rows of the prompt beside a busy core.
const BUSY_PROMPT: u32 = 512;
/// Positions for which a child that is not measured for speed makes room.
const FRESH_CONTEXT: u32 = 1024;

/// A measuring with one number of threads.
pub struct Measuring<'a> {
    settings: &'a Settings,
    threads: u32,
    /// Whether this is the number of threads for which a busy core is tried.
    with_busy: bool,
    /// What was measured.
    pub records: Records,
    /// What each side says about itself.
    pub about: Vec<(Who, String)>,
}

impl<'a> Measuring<'a> {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(settings: &'a Settings, threads: u32) -> Self {
        Self {
            settings,
            threads,
            with_busy: settings.threads.iter().all(|other| *other <= threads),
            records: Records::default(),
            about: Vec::new(),
        }
    }

    /// All rounds.
    ///
    /// # Errors
    /// A child that ended.
    pub fn run(&mut self) -> Result<()> {
        let fresh = self.items(What::is_fresh);
        let warm = self.items(|what| !what.is_fresh());
        let (each, both) = if self.settings.exclusive {
            (warm, Vec::new())
        } else {
            (Vec::new(), warm)
        };
        if !fresh.is_empty() || !each.is_empty() {
            self.one_loaded_at_a_time(&fresh, &each)?;
        }
        if !both.is_empty() {
            self.both_loaded(&both)?;
        }
        Ok(())
    }

    /// Each side in new processes in every round.
    fn one_loaded_at_a_time(&mut self, fresh: &[What], warm: &[What]) -> Result<()> {
        for round in 0..self.settings.rounds {
            self.tell(round, "new processes");
            for who in Who::order(round) {
                if !fresh.is_empty() {
                    self.fresh(who, round, fresh)?;
                }
                if !warm.is_empty() {
                    let mut peer = self.start(who, warm)?;
                    for what in warm {
                        self.measure(*what, &mut peer, round)?;
                    }
                }
            }
            if !warm.is_empty() {
                self.ceilings();
            }
        }
        Ok(())
    }

    /// Both sides in the same processes for all rounds.
    fn both_loaded(&mut self, warm: &[What]) -> Result<()> {
        let hearth = self.start(Who::Hearth, warm)?;
        let mut peers = [hearth, self.start(Who::Llama, warm)?];
        for round in 0..self.settings.rounds {
            self.tell(round, "loaded processes");
            for what in warm {
                for who in Who::order(round) {
                    self.measure_beside(*what, &mut peers, who, round)?;
                }
            }
            peers.iter().try_for_each(Peer::wait_until_asleep)?;
            self.ceilings();
        }
        Ok(())
    }

    /// A long measuring says how far it is.
    fn tell(&self, round: u32, what: &str) {
        let (threads, rounds) = (self.threads, self.settings.rounds);
        eprintln!("threads {threads}: round {} of {rounds}, {what}", round + 1);
    }

    fn items(&self, which: impl Fn(What) -> bool) -> Vec<What> {
        let all = self.settings.what.iter().copied();
        all.filter(|what| which(*what) && (*what != What::Busy || self.with_busy))
            .collect()
    }

    fn ceilings(&mut self) {
        let ceilings = &mut self.records.ceilings;
        ceilings
            .read_bytes_per_s
            .push(read_bytes_per_s(self.threads));
        ceilings.dot_ops_per_s.extend(dot_ops_per_s(self.threads));
    }

    /// Starts a child and lets it do a little of everything that will be measured.
    fn start(&mut self, who: Who, items: &[What]) -> Result<Peer> {
        let room = Room {
            threads: self.threads,
            context: self.settings.context(),
            seqs: self.settings.seqs(),
        };
        let mut peer = Peer::spawn(who, self.settings, room)?;
        let ready = peer.ready()?;
        if self.about.iter().all(|(other, _)| *other != who) {
            self.about.push((who, ready.about));
        }
        peer.ask(&Job::single(512, 8, 0))?;
        for what in items {
            if let What::Batch(seqs) = what {
                peer.ask(&batch(*seqs, 0))?;
            }
        }
        Ok(peer)
    }

    /// A new process: its way to the first token, and what it holds after some work.
    fn fresh(&mut self, who: Who, round: u32, items: &[What]) -> Result<()> {
        read_through(&self.settings.file)?;
        let room = Room {
            threads: self.threads,
            context: FRESH_CONTEXT,
            seqs: 1,
        };
        let mut peer = Peer::spawn(who, self.settings, room)?;
        peer.ready()?;
        let answer = peer.ask(&Job::single(COLD_PROMPT, 0, seed(round, 0)))?;
        let cold_s = peer.age_s();
        self.records.chose(seed(round, 0), who, answer.token);
        if items.contains(&What::Cold) {
            self.records.push(Metric::Cold, who, cold_s);
        }
        if items.contains(&What::Memory) {
            peer.ask(&Job::single(DECODE_PROMPT, DECODE_STEPS, seed(round, 1)))?;
            peer.ask(&Job::single(512, 0, seed(round, 2)))?;
            let resident = peer.resident()?;
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let all = gib(resident.anon + resident.file);
            let file = gib(std::fs::metadata(&self.settings.file)?.len());
            self.records.push(Metric::Resident, who, all);
            self.records
                .push(Metric::ResidentAnon, who, gib(resident.anon));
            self.records.push(Metric::ResidentShare, who, all / file);
        }
        Ok(())
    }

    /// Measures one side and watches that the other does nothing.
    fn measure_beside(
        &mut self,
        what: What,
        peers: &mut [Peer; 2],
        who: Who,
        round: u32,
    ) -> Result<()> {
        let [hearth, llama] = peers;
        let (peer, other) = match who {
            Who::Hearth => (hearth, llama),
            Who::Llama => (llama, hearth),
        };
        other.wait_until_asleep()?;
        let (used, begun) = (other.cpu_s()?, Instant::now());
        self.measure(what, peer, round)?;
        self.records.idle.0 += other.cpu_s()? - used;
        self.records.idle.1 += begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn measure(&mut self, what: What, peer: &mut Peer, round: u32) -> Result<()> {
        let watch = Watch::begin(peer)?;
        self.measure_now(what, peer, round)?;
        if what != What::Busy {
            self.records.others_cores.push(watch.cores_of_others(peer)?);
        }
        Ok(())
    }

    fn measure_now(&mut self, what: What, peer: &mut Peer, round: u32) -> Result<()> {
        let who = peer.who;
        let place = self
            .settings
            .what
            .iter()
            .position(|other| *other == what)
            .unwrap_or(0);
        let seed = seed(round, 3 + u32::try_from(place)?);
        match what {
            What::Decode => {
                let speed = self.decode(peer, seed)?;
                self.records.push(Metric::Decode, who, speed);
            }
            What::Prefill(rows) => {
                let speed = self.prefill(peer, rows, seed)?;
                self.records.push(Metric::Prefill(rows), who, speed);
            }
            What::Batch(seqs) => {
                let single = self.decode(peer, seed)?;
                let answer = peer.ask(&batch(seqs, seed))?;
                let speed = f64::from(seqs * FEW_STEPS) / self.seconds(&answer.decode);
                self.records.push(Metric::Batch(seqs), who, speed);
                self.records
                    .push(Metric::BatchGain(seqs), who, speed / single);
            }
            What::Context(rows) => {
                let answer = self.ask(peer, &Job::single(rows, FEW_STEPS, seed))?;
                self.records
                    .push(Metric::Context(rows), who, f64::from(FEW_STEPS) / answer);
            }
            What::Busy => self.busy(peer, seed)?,
            What::Cold | What::Memory => {}
        }
        Ok(())
    }

    fn busy(&mut self, peer: &mut Peer, seed: u64) -> Result<()> {
        let who = peer.who;
        let decode = self.decode(peer, seed)?;
        let prefill = self.prefill(peer, BUSY_PROMPT, seed)?;
        let cores = std::thread::available_parallelism()?.get();
        let last = u32::try_from(cores)?.saturating_sub(1);
        let spinner = Spinner::start(self.settings.busy_core.unwrap_or(last))?;
        let busy_decode = self.decode(peer, seed)?;
        let busy_prefill = self.prefill(peer, BUSY_PROMPT, seed)?;
        drop(spinner);
        self.records.push(Metric::BusyDecode, who, busy_decode);
        self.records
            .push(Metric::BusyDecodeShare, who, busy_decode / decode);
        self.records.push(Metric::BusyPrefill, who, busy_prefill);
        self.records
            .push(Metric::BusyPrefillShare, who, busy_prefill / prefill);
        Ok(())
    }

    fn decode(&mut self, peer: &mut Peer, seed: u64) -> Result<f64> {
        let seconds = self.ask(peer, &Job::single(DECODE_PROMPT, DECODE_STEPS, seed))?;
        Ok(f64::from(DECODE_STEPS) / seconds)
    }

    fn prefill(&mut self, peer: &mut Peer, rows: u32, seed: u64) -> Result<f64> {
        let seconds = self.ask(peer, &Job::single(rows, 0, seed))?;
        Ok(f64::from(rows) / seconds)
    }

    /// Seconds of the steps, or of the prompt if there are none.
    fn ask(&mut self, peer: &mut Peer, job: &Job) -> Result<f64> {
        let answer = peer.ask(job)?;
        // The choice after a prompt depends on its length as well as on its seed.
        self.records.chose(
            job.seed << 32 | u64::from(job.prompt),
            peer.who,
            answer.token,
        );
        Ok(self.seconds(if job.steps > 0 {
            &answer.decode
        } else {
            &answer.prefill
        }))
    }

    fn seconds(&self, took: &Took) -> f64 {
        match self.settings.clock {
            Clock::Wall => took.wall_s,
            Clock::Cpu => took.cpu_s / f64::from(self.threads),
        }
    }
}

fn batch(seqs: u32, seed: u64) -> Job {
    Job {
        seqs,
        prompt: DECODE_PROMPT,
        steps: FEW_STEPS,
        seed,
    }
}

/// The same for both sides, another in every round and for every measurement.
fn seed(round: u32, place: u32) -> u64 {
    u64::from(round + 1) << 8 | u64::from(place)
}

/// Reads a file, so that a start finds it in the page cache.
fn read_through(path: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    std::io::copy(&mut file, &mut std::io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_measurements_share_a_seed() {
        let mut seeds: Vec<u64> = (0..20)
            .flat_map(|round| (0..30).map(move |place| seed(round, place)))
            .collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 600);
        assert!(seeds.iter().all(|seed| *seed > 0), "0 is the warm-up's");
    }
}
