//! What parent and child say to each other: one line of JSON each way. Pure.
//!
//! Every measurement is one kind of job, so that both sides do the same work on the same token ids: prompts one
//! after the other, then steps of one row per sequence. Ids are drawn from a seed; greedy output of a model cut to
//! a few layers would repeat itself and always use the same experts.

use serde::{Deserialize, Serialize};

/// Prompts, then steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Sequences.
    pub seqs: u32,
    /// Rows of each prompt.
    pub prompt: u32,
    /// Steps after the prompts.
    pub steps: u32,
    /// Of all token ids.
    pub seed: u64,
}

impl Job {
    /// One sequence.
    #[must_use]
    pub fn single(prompt: u32, steps: u32, seed: u64) -> Self {
        Self {
            seqs: 1,
            prompt,
            steps,
            seed,
        }
    }

    /// Rows of one sequence.
    #[must_use]
    pub fn rows_each(&self) -> u32 {
        self.prompt.saturating_add(self.steps)
    }

    /// Token ids of sequence `seq`, prompt and steps. The last sixteenth of the vocabulary, where control tokens
    /// are, is left out.
    #[must_use]
    pub fn ids(&self, seq: u32, vocab: u32) -> Vec<u32> {
        let bound = u64::from((vocab - vocab / 16).max(1));
        let start = mix(self.seed).wrapping_add(u64::from(seq) << 40);
        (0..u64::from(self.rows_each()))
            .map(|i| mix(start.wrapping_add(i)) % bound)
            .map(|id| u32::try_from(id).unwrap_or(0))
            .collect()
    }
}

/// The finaliser of splitmix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The first line of a child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Seconds from the start of the child's `main` until the model could be used.
    pub load_s: f64,
    /// What the side says about itself: version, instruction sets.
    pub about: String,
}

/// Time that a part of a job took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Took {
    /// Seconds on the wall.
    pub wall_s: f64,
    /// Seconds of processor time, of all threads of the child.
    pub cpu_s: f64,
}

/// The line that answers a job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// All prompts.
    pub prefill: Took,
    /// All steps.
    pub decode: Took,
    /// Greedy choice after the first prompt, to see that both sides compute the same model.
    pub token: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_seed_and_sequence_alone_and_stay_in_the_vocabulary() {
        let job = Job::single(64, 2, 7);
        let ids = job.ids(0, 1000);
        assert_eq!(ids.len(), 66);
        assert!(ids.iter().all(|id| *id < 938));
        assert_eq!(ids, job.ids(0, 1000));
        assert_ne!(ids, job.ids(1, 1000));
        assert_ne!(ids, Job::single(64, 2, 8).ids(0, 1000));
        assert_eq!(Job::single(1, 0, 0).ids(0, 1), [0]);
    }

    #[test]
    fn lines_survive_the_way_to_the_other_side() {
        let job = Job::single(512, 0, u64::MAX);
        let line = serde_json::to_string(&job).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Job>(&line).unwrap(), job);
        assert!(
            serde_json::from_str::<Job>(r#"{"seqs":1,"prompt":-1,"steps":0,"seed":0}"#).is_err()
        );
        let ready = Ready {
            load_s: 0.5,
            about: "two\nlines".to_owned(),
        };
        let line = serde_json::to_string(&ready).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Ready>(&line).unwrap(), ready);
    }
}
