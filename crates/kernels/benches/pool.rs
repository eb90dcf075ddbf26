//! What the border of a parallel region costs.
//!
//! `cargo bench --profile release -p kernels --bench pool -- [THREADS…]`
//!
//! Prints nanoseconds per region with warm workers: of empty tasks, of tiny tasks, and after a serial part between two
//! regions, as a step has them; then what one region costs whose workers sleep. Each figure is the best and the median of
//! several rounds, since a foreign program makes single rounds slow.
#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    reason = "a measuring program"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kernels::Pool;

const ROUNDS: usize = 21;
const REGIONS: u32 = 4000;

/// Work of about `loops` cycles that a compiler cannot remove.
fn work(loops: u32) {
    for i in 0..loops {
        black_box(i);
    }
}

/// Best and median nanoseconds per call of `region`.
fn rounds(count: usize, calls: u32, mut region: impl FnMut()) -> (f64, f64) {
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..calls {
                region();
            }
            begun.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

fn show(threads: usize, what: &str, (best, median): (f64, f64)) {
    println!("{threads:3} threads  {what:42} {best:9.0} ns best {median:9.0} ns median");
}

fn measure(threads: usize) {
    let pool = Pool::new(threads);
    for tasks in [2, 16, 64] {
        let got = rounds(ROUNDS, REGIONS, || pool.run(tasks, &|_| ()));
        show(threads, &format!("{tasks} empty tasks"), got);
    }
    if threads > 1 {
        let met = AtomicUsize::new(0);
        let got = rounds(ROUNDS, REGIONS, || {
            met.store(0, Ordering::Relaxed);
            pool.run(threads, &|_| {
                met.fetch_add(1, Ordering::Relaxed);
                while met.load(Ordering::Relaxed) < threads {
                    std::hint::spin_loop();
                }
            });
        });
        show(threads, "a task each, which all wait for the others", got);
    }
    for tasks in [2, 16] {
        let got = rounds(ROUNDS, REGIONS, || pool.run(tasks, &|_| work(2000)));
        show(threads, &format!("{tasks} tasks of 2000 loops"), got);
    }
    let got = rounds(ROUNDS, REGIONS, || {
        work(2000);
        pool.run(16, &|_| work(2000));
    });
    show(threads, "2000 loops alone, then 16 tasks of 2000", got);
    let alone = rounds(ROUNDS, REGIONS, || work(2000));
    show(threads, "2000 loops alone", alone);
    let mut woken = Vec::new();
    for _ in 0..ROUNDS {
        // Longer than threads stay awake.
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        pool.run(64, &|_| work(2000));
        woken.push(begun.elapsed().as_nanos() as f64);
    }
    woken.sort_by(f64::total_cmp);
    show(
        threads,
        "64 tasks of 2000, workers asleep",
        (woken[0], woken[ROUNDS / 2]),
    );
}

fn main() {
    let wanted: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let wanted = if wanted.is_empty() {
        vec![1, 2]
    } else {
        wanted
    };
    for threads in wanted {
        measure(threads);
    }
}
