//! Thousands of schedules against a simulated pipeline: whatever the order, the faults and the losses, every answer
//! that is completed is the answer of a run alone, and nothing is held at the end.
//!
//! A failing schedule prints its seed; a seed that failed once joins `seeds/simulation.txt` for good.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a test program: it may panic, and its numbers are small"
)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use proto::step::Sampling;
use proto::{Epoch, RequestId};
use session::{Capacity, Config, Counters, Person, Submission};
use support::world::{Chaos, World};

const SEEDS: &str = include_str!("seeds/simulation.txt");

fn config() -> Config {
    Config {
        queue_max: 8,
        queue_deadline: Duration::from_secs(20),
        step_deadline: Duration::from_secs(2),
        mask_deadline: Duration::from_secs(1),
    }
}

/// Counts of one schedule.
struct Outcome {
    completed: u64,
    /// Requests that failed for want of a mask, and because it could not be made.
    unmasked: [u64; 2],
    counters: Counters,
}

fn schedule(seed: u64, chaos: Chaos) -> Outcome {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, config());
        world.chaos = chaos;
        world.plan(14, 150_000);
        world.run();
        world.settle();
        Outcome {
            completed: world.watch.completed,
            unmasked: ["constraint_timeout", "constraint_failed"].map(|code| {
                let failures = (1..=14).filter_map(|id| world.watch.failure(RequestId(id)));
                failures.filter(|failure| *failure == code).count() as u64
            }),
            counters: world.session.counters(),
        }
    }));
    ran.unwrap_or_else(|_| panic!("seed {seed} failed under {chaos:?}"))
}

fn rough() -> Chaos {
    Chaos {
        fault: 300,
        swallow: 900,
        freeze: 700,
        repeat: 20,
        forge: 400,
        lose: 6,
        hold: 6,
        leave: 4,
        no_mask: 150,
        late_mask: 60,
        unmaskable: 200,
    }
}

fn total(outcomes: &[Outcome], of: impl Fn(&Counters) -> u64) -> u64 {
    outcomes.iter().map(|o| of(&o.counters)).sum()
}

#[test]
fn every_completed_answer_is_the_answer_of_a_run_alone() {
    let seeds = 0..2000;
    let outcomes: Vec<Outcome> = seeds.map(|seed| schedule(seed, rough())).collect();

    // The schedules are worth something only if all of this really happens in them.
    let completed: u64 = outcomes.iter().map(|o| o.completed).sum();
    assert!(completed > 10_000, "{completed} completed");
    assert!(total(&outcomes, |c| c.faults) > 1000);
    assert!(total(&outcomes, |c| c.overdue_steps) > 500);
    assert!(total(&outcomes, |c| c.stale_answers) > 5000);
    assert!(total(&outcomes, |c| c.bad_answers) > 100);
    for kind in 0..2 {
        let failed: u64 = outcomes.iter().map(|o| o.unmasked[kind]).sum();
        assert!(failed > 100, "{failed} failed by constraint, kind {kind}");
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    for line in SEEDS.lines().filter(|l| !l.starts_with('#')) {
        let seed = line.trim().parse().expect("one seed a line");
        schedule(seed, rough());
    }
}

#[test]
fn without_faults_nothing_fails() {
    for seed in 0..300 {
        let mut world = World::new(
            seed,
            Config {
                queue_max: 99,
                queue_deadline: Duration::from_secs(90),
                ..config()
            },
        );
        world.fixed = Some(Capacity {
            epoch: Epoch(1),
            pages: 40,
            slots: 5,
            context: 900,
            stages: 3,
            chunk_rows: 64,
        });
        world.plan(12, 50_000);
        world.run();
        for request in 1..=12 {
            let failure = world.watch.failure(RequestId(request));
            assert_eq!(failure, None, "seed {seed}, request {request}");
        }
        world.settle();
    }
}

fn prompt_of(request: u64, len: u32, max_tokens: u32) -> Submission {
    Submission {
        request: RequestId(request),
        person: Person::default(),
        prompt: Arc::from_iter((0..len).map(|i| i % 40)),
        pooling: None,
        choices: 1,
        max_tokens: Some(max_tokens),
        min_tokens: 0,
        stop_ids: vec![],
        sampling: Sampling {
            seed: request,
            ..Sampling::default()
        },
        constrained: false,
    }
}

#[test]
fn a_long_prompt_and_running_answers_do_not_starve_each_other() {
    for stages in 1..=4 {
        for seed in 0..6 {
            let mut world = World::new(seed, config());
            world.fixed = Some(Capacity {
                epoch: Epoch(1),
                pages: 600,
                slots: 8,
                context: 32_768,
                stages,
                chunk_rows: 128,
            });
            world.mend_at(0);
            for request in 1..=5 {
                world.submit_at(10 * request, prompt_of(request, 9, 400));
            }
            world.submit_at(20_000, prompt_of(6, 30_000, 3));

            world.run();

            let most = world.watch.most_prefills_between_rows;
            let bound = u64::from(2 * stages);
            assert!(most >= 1, "seed {seed}: the prompt never ran beside");
            assert!(most <= bound, "seed {seed}, {stages} stages: {most}");
            assert_eq!(world.watch.completed, 6, "seed {seed}");
            world.settle();
        }
    }
}
