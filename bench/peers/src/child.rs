//! A child: loads the model with one of the two engines, then does the jobs that come on its standard input.
//!
//! Both engines run under the same loop and the same clock. Between jobs the process waits in a read; the threads
//! of both engines go to sleep a few milliseconds after their last work.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::job::{Answer, Job, Ready, Took};
use crate::settings::Words;
use crate::{hearth, llama};

/// An engine with a loaded model.
pub trait Side {
    /// Version and instruction sets.
    fn about(&self) -> String;
    /// Token ids lie below this.
    fn vocab(&self) -> u32;
    /// Forgets all sequences and makes ready for those of a job. Not measured.
    ///
    /// # Errors
    /// No room.
    fn begin(&mut self, job: &Job) -> Result<()>;
    /// Runs the prompt of a sequence; returns the greedy choice after it.
    ///
    /// # Errors
    /// The engine's.
    fn prompt(&mut self, seq: u32, ids: &[u32]) -> Result<u32>;
    /// Runs one row of each sequence at this position, `ids[seq]`, and chooses greedily after each.
    ///
    /// # Errors
    /// The engine's.
    fn step(&mut self, position: u32, ids: &[u32]) -> Result<()>;
}

/// How an engine is loaded.
#[derive(Debug, Clone)]
pub struct Load {
    /// The model.
    pub file: PathBuf,
    /// Threads.
    pub threads: u32,
    /// Positions of a single sequence.
    pub context: u32,
    /// Most sequences of a job; each then has at most [`Load::BATCH_POSITIONS`].
    pub seqs: u32,
    /// llama.cpp may rearrange weights.
    pub repack: bool,
    /// Hearth's instruction set.
    pub isa: String,
}

impl Load {
    /// Positions of each of several sequences.
    pub const BATCH_POSITIONS: u32 = 256;

    fn from_words(words: &Words, file: &str) -> Result<Self> {
        Ok(Self {
            file: file.into(),
            threads: words.number("threads", 1)?,
            context: words.number("context", 768)?,
            seqs: words.number("seqs", 1)?,
            repack: words.yes("repack", "yes")?,
            isa: words.get("isa", "auto").to_owned(),
        })
    }
}

/// `child hearth|llama FILE name=value...`
///
/// # Errors
/// The engine's, a job that is not understood, or a parent that is gone.
pub fn main(words: &Words) -> Result<()> {
    let begun = Instant::now();
    let [_, who, file] = words.plain.as_slice() else {
        bail!(
            "expected child, hearth or llama, and a file, got {:?}",
            words.plain
        );
    };
    let load = Load::from_words(words, file)?;
    let mut side: Box<dyn Side> = match who.as_str() {
        "hearth" => Box::new(hearth::Hearth::load(&load)?),
        "llama" => Box::new(llama::Llama::load(&load)?),
        other => bail!("{other}: expected hearth or llama"),
    };
    say(&Ready {
        load_s: begun.elapsed().as_secs_f64(),
        about: side.about(),
    })?;
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        say(&run(side.as_mut(), &job)?)?;
    }
    Ok(())
}

fn say(line: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Both clocks at one moment.
struct Clocks {
    wall: Instant,
    cpu_s: f64,
}

impl Clocks {
    fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            wall: Instant::now(),
            cpu_s: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        }
    }

    /// Time since that moment.
    fn took(&self) -> Took {
        Took {
            wall_s: self.wall.elapsed().as_secs_f64(),
            cpu_s: Self::now().cpu_s - self.cpu_s,
        }
    }
}

fn run(side: &mut dyn Side, job: &Job) -> Result<Answer> {
    ensure!(
        job.seqs > 0 && job.prompt > 0,
        "expected a prompt, got {job:?}"
    );
    let vocab = side.vocab();
    let ids: Vec<Vec<u32>> = (0..job.seqs).map(|seq| job.ids(seq, vocab)).collect();
    let split = job.prompt as usize;
    side.begin(job)?;
    let clocks = Clocks::now();
    let mut token = None;
    for (seq, ids) in (0..).zip(&ids) {
        let chosen = side.prompt(seq, ids.get(..split).unwrap_or_default())?;
        token.get_or_insert(chosen);
    }
    let prefill = clocks.took();
    let rows: Vec<Vec<u32>> = (split..job.rows_each() as usize)
        .map(|i| ids.iter().filter_map(|ids| ids.get(i)).copied().collect())
        .collect();
    let clocks = Clocks::now();
    for (position, ids) in (job.prompt..).zip(&rows) {
        side.step(position, ids)?;
    }
    Ok(Answer {
        prefill,
        decode: clocks.took(),
        token: token.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what it is asked to do.
    #[derive(Default)]
    struct Note(Vec<String>);

    impl Side for Note {
        fn about(&self) -> String {
            String::new()
        }
        fn vocab(&self) -> u32 {
            100
        }
        fn begin(&mut self, job: &Job) -> Result<()> {
            self.0.push(format!("begin {}", job.seqs));
            Ok(())
        }
        fn prompt(&mut self, seq: u32, ids: &[u32]) -> Result<u32> {
            self.0.push(format!("prompt {seq} of {}", ids.len()));
            Ok(seq + 40)
        }
        fn step(&mut self, position: u32, ids: &[u32]) -> Result<()> {
            self.0.push(format!("step {position} of {}", ids.len()));
            Ok(())
        }
    }

    #[test]
    fn a_job_is_its_prompts_and_then_its_steps() {
        let mut note = Note::default();
        let job = Job {
            seqs: 2,
            prompt: 3,
            steps: 2,
            seed: 1,
        };
        let answer = run(&mut note, &job).unwrap();
        assert_eq!(
            note.0,
            [
                "begin 2",
                "prompt 0 of 3",
                "prompt 1 of 3",
                "step 3 of 2",
                "step 4 of 2"
            ]
        );
        assert_eq!(answer.token, 40, "the choice after the first sequence");
        assert!(run(&mut note, &Job::single(0, 1, 1)).is_err());
    }
}
