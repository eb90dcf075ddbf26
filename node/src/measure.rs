//! How fast this machine is: read bandwidth and multiply-adds with quantised weights.
//!
//! Measured in under two seconds with the kernels that will run, cached by processor, kernels, threads and cores.

use std::path::Path;
use std::time::{Duration, Instant};

use kernels::{ActFormat, Acts, MatmulTask, Matrix, Rows, WeightType, parallel_matmul};
use serde::{Deserialize, Serialize};

use crate::terms;

/// What the planner needs to know of a machine's speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Bytes of weights read per second with one row.
    pub read_bytes_per_s: f64,
    /// Multiply-adds per second with many rows.
    pub macs_per_s: f64,
}

/// Cached facts and what they hold for.
#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    key: String,
    facts: Facts,
}

const FILE_NAME: &str = "facts.json";
const COLS: usize = 2048;
/// Larger than common last-level caches; less where the owner gives little.
const BYTES_MAX: u64 = 192 << 20;
const BATCH: usize = 64;
const BATCH_ROWS: usize = 1024;
/// Time for each of the two speeds of a type.
const TIME_FACT: Duration = Duration::from_millis(300);
/// Time for each limit.
const TIME_LIMIT: Duration = Duration::from_millis(150);
/// Bytes that one task of the read limit takes.
const READ_PART: usize = 1 << 20;
/// Tasks for each thread in a pass of a peak, and turns in each: a pass takes some tens of milliseconds at most.
const PEAK_TASKS: usize = 32;
const PEAK_TURNS: usize = 10_000;

fn key(isa: kernels::Isa, threads: usize, cores: &[usize]) -> String {
    format!(
        "{} {isa} {threads} {cores:?} {}",
        terms::processor(),
        env!("CARGO_PKG_VERSION")
    )
}

/// Facts of an earlier measurement on this processor, or a fresh one.
pub fn cached(data_dir: &Path, exec: &engine::Exec, cores: &[usize], memory_bytes: u64) -> Facts {
    let key = key(exec.isa, exec.pool.threads(), cores);
    let path = data_dir.join(FILE_NAME);
    let known = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice::<Cached>(&text).ok())
        .filter(|cached| cached.key == key && cached.facts.sound());
    if let Some(cached) = known {
        return cached.facts;
    }
    let facts = measure(exec, memory_bytes);
    let written = serde_json::to_vec(&Cached { key, facts }).map_err(std::io::Error::from);
    if let Err(error) = written.and_then(|text| std::fs::write(&path, text)) {
        tracing::warn!(%error, "the measurement could not be kept; it will be made again");
    }
    facts
}

impl Facts {
    /// Whether both speeds are positive numbers.
    #[must_use]
    pub fn sound(&self) -> bool {
        [self.read_bytes_per_s, self.macs_per_s]
            .iter()
            .all(|v| v.is_finite() && *v > 0.0)
    }

    /// Facts that the owner wrote down.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else than two positive speeds.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let expected = "expected {\"read_bytes_per_s\": number, \"macs_per_s\": number}";
        let text = std::fs::read(path).map_err(|e| format!("facts file {name}: {e}"))?;
        let facts: Self = serde_json::from_slice(&text)
            .map_err(|e| format!("facts file {name}: {e}; {expected}"))?;
        if facts.sound() {
            Ok(facts)
        } else {
            Err(format!(
                "facts file {name}: a speed is not positive; {expected}"
            ))
        }
    }
}

/// What the processor and its memory reach at best, against which the kernels are held.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes per second that one thread reads from memory.
    pub read_bytes_per_s_one_thread: f64,
    /// Bytes per second that all threads together read from memory.
    pub read_bytes_per_s: f64,
    /// Multiply-adds of f32 per second, all threads.
    pub f32_macs_per_s: f64,
    /// Multiply-adds of 8-bit integers per second, all threads.
    pub int8_macs_per_s: f64,
}

/// What the kernels reach with one type of weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TypeSpeed {
    /// The type, `Q4_K` for example.
    pub weights: String,
    /// Bytes of weights read per second with one row.
    pub one_row_bytes_per_s: f64,
    /// Multiply-adds per second with 64 rows.
    pub rows_64_macs_per_s: f64,
    /// Whether the peak for it is that of 8-bit integers.
    pub int8: bool,
}

/// Everything that `node bench` finds out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The instruction set.
    pub kernels: String,
    /// Computing threads.
    pub threads: usize,
    /// What the planner uses.
    #[serde(flatten)]
    pub facts: Facts,
    /// The limits of this machine.
    pub limits: Limits,
    /// The kernels by type of weights: Q4_K alone, or all.
    pub types: Vec<TypeSpeed>,
}

/// Seconds of each of as many passes as fit into `time`, at least three, in ascending order.
fn passes(time: Duration, mut pass: impl FnMut()) -> Vec<f64> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begun.elapsed() < time {
        let start = Instant::now();
        pass();
        times.push(start.elapsed().as_secs_f64().max(1e-9));
    }
    times.sort_by(f64::total_cmp);
    times
}

/// What a limit is: a busy moment spoils single passes.
fn fastest(time: Duration, pass: impl FnMut()) -> f64 {
    passes(time, pass).first().copied().unwrap_or(1e-9)
}

/// What work will find: the median, with what else this machine does.
fn usual(time: Duration, pass: impl FnMut()) -> f64 {
    let times = passes(time, pass);
    times.get(times.len() / 2).copied().unwrap_or(1e-9)
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn per_second(amount: usize, seconds: f64) -> f64 {
    amount as f64 / seconds
}

/// Measures the facts now, on a thread of its own, so that no other thread stays on a chosen core.
pub fn measure(exec: &engine::Exec, memory_bytes: u64) -> Facts {
    apart(exec, || {
        let speed = type_speed(exec, WeightType::Q4K, &buffer(memory_bytes), TIME_FACT);
        facts_of(&speed)
    })
}

/// Measures the facts, the limits and the speed with one type or all types of weights.
pub fn report(exec: &engine::Exec, types: &[WeightType]) -> Report {
    apart(exec, || {
        let bytes = buffer(u64::MAX);
        let speed = |ty: &WeightType| type_speed(exec, *ty, &bytes, TIME_FACT);
        let speeds: Vec<TypeSpeed> = types.iter().map(speed).collect();
        let known = speeds.iter().find(|s| s.weights == WeightType::Q4K.name());
        Report {
            kernels: exec.isa.to_string(),
            threads: exec.pool.threads(),
            facts: known.map_or_else(|| facts_of(&speed(&WeightType::Q4K)), facts_of),
            limits: limits(exec, &bytes),
            types: speeds,
        }
    })
}

/// Runs `work` on a new thread, which stays on the pool's first core if it has cores.
fn apart<T: Send>(exec: &engine::Exec, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = exec.pool.pin_caller() {
                tracing::warn!(%error, "measuring on any core");
            }
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    })
}

fn buffer(memory_bytes: u64) -> Vec<u8> {
    let bytes = usize::try_from(BYTES_MAX.min(memory_bytes / 2)).unwrap_or(usize::MAX);
    noise(bytes.max(BATCH_ROWS * COLS * 4))
}

fn facts_of(speed: &TypeSpeed) -> Facts {
    Facts {
        read_bytes_per_s: speed.one_row_bytes_per_s,
        macs_per_s: speed.rows_64_macs_per_s,
    }
}

fn limits(exec: &engine::Exec, bytes: &[u8]) -> Limits {
    let (pool, isa) = (&exec.pool, exec.isa);
    let one = fastest(TIME_LIMIT, || {
        std::hint::black_box(kernels::read_through(isa, bytes));
    });
    let parts: Vec<&[u8]> = bytes.chunks(READ_PART).collect();
    let all = fastest(TIME_LIMIT, || {
        pool.run(parts.len(), &|part| {
            let part = parts.get(part).copied().unwrap_or_default();
            std::hint::black_box(kernels::read_through(isa, part));
        });
    });
    let tasks = pool.threads() * PEAK_TASKS;
    let peak = |turns: fn(kernels::Isa, usize) -> u64| {
        let each = usize::try_from(turns(isa, PEAK_TURNS)).unwrap_or(usize::MAX);
        let seconds = fastest(TIME_LIMIT, || {
            pool.run(tasks, &|_| {
                std::hint::black_box(turns(isa, PEAK_TURNS));
            });
        });
        per_second(tasks * each, seconds)
    };
    Limits {
        read_bytes_per_s_one_thread: per_second(bytes.len(), one),
        read_bytes_per_s: per_second(bytes.len(), all.min(one)),
        f32_macs_per_s: peak(kernels::multiply_f32),
        int8_macs_per_s: peak(kernels::multiply_i8),
    }
}

fn type_speed(exec: &engine::Exec, ty: WeightType, bytes: &[u8], time: Duration) -> TypeSpeed {
    let row_bytes = ty.row_bytes(COLS).unwrap_or(1);
    let rows = bytes.len() / row_bytes;
    let mut acts = Acts::new();
    acts.quantize(exec.isa, ty.act_format(), &vec![0.5; COLS * BATCH], COLS);
    let mut out = vec![0.0; rows.max(BATCH_ROWS * BATCH)];
    let mut product = |w_rows: usize, act_rows: usize| {
        usual(time, || {
            let w = Matrix {
                ty,
                rows: w_rows,
                cols: COLS,
                bytes: bytes.get(..w_rows * row_bytes).unwrap_or(&[]),
            };
            let task = MatmulTask {
                w,
                acts: &acts,
                act_rows: Rows::Range(0..act_rows),
                segments: 1,
                out: out.get_mut(..w_rows * act_rows).unwrap_or_default(),
            };
            parallel_matmul(&exec.pool, exec.isa, &mut [task]);
        })
    };
    TypeSpeed {
        weights: ty.name().to_owned(),
        one_row_bytes_per_s: per_second(rows * row_bytes, product(rows, 1)),
        rows_64_macs_per_s: per_second(BATCH_ROWS * COLS * BATCH, product(BATCH_ROWS, BATCH)),
        int8: ty.act_format() != ActFormat::F32,
    }
}

impl Report {
    /// The table that a person reads.
    #[must_use]
    pub fn table(&self) -> String {
        let limits = &self.limits;
        let mut text = format!(
            "{} on {} thread{}\n\nlimits of this machine\n  memory      {:8.1} GB/s, one thread {:.1} GB/s\n  f32 peak    {:8.1} Gop/s\n  int8 peak   {:8.1} Gop/s\n\n{:8} {:>12} {:>10} {:>14} {:>10}\n",
            self.kernels,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            limits.read_bytes_per_s / 1e9,
            limits.read_bytes_per_s_one_thread / 1e9,
            limits.f32_macs_per_s * 2e-9,
            limits.int8_macs_per_s * 2e-9,
            "weights",
            "one row",
            "of memory",
            "64 rows",
            "of peak",
        );
        for speed in &self.types {
            let peak = if speed.int8 {
                limits.int8_macs_per_s
            } else {
                limits.f32_macs_per_s
            };
            text += &format!(
                "{:8} {:7.1} GB/s {:8.0} % {:8.1} Gop/s {:8.0} %\n",
                speed.weights,
                speed.one_row_bytes_per_s / 1e9,
                100.0 * speed.one_row_bytes_per_s / limits.read_bytes_per_s,
                speed.rows_64_macs_per_s * 2e-9,
                100.0 * speed.rows_64_macs_per_s / peak,
            );
        }
        text
    }
}

/// Bytes without a pattern that a processor could profit from.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernels::Pool;

    use super::*;

    #[test]
    fn a_measurement_is_kept_for_the_same_kernels_only() {
        let dir = tempfile::tempdir().unwrap();
        let exec = |threads| engine::Exec {
            pool: Arc::new(Pool::new(threads)),
            isa: kernels::Isa::detect(),
        };
        let first = cached(dir.path(), &exec(1), &[], 8 << 20);
        assert!(first.sound());
        assert_eq!(cached(dir.path(), &exec(1), &[], 8 << 20), first);
        std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert!(cached(dir.path(), &exec(1), &[], 8 << 20).sound());
    }

    #[test]
    fn measurements_hold_for_the_same_cores_only() {
        let isa = kernels::Isa::detect();
        assert_ne!(key(isa, 2, &[]), key(isa, 2, &[0, 1]));
        assert_ne!(key(isa, 2, &[0, 1]), key(isa, 2, &[0, 2]));
        assert_ne!(key(isa, 1, &[]), key(isa, 2, &[]));
    }

    #[test]
    fn the_table_holds_each_speed_against_its_own_peak() {
        let speed = |weights: &str, int8| TypeSpeed {
            weights: weights.to_owned(),
            one_row_bytes_per_s: 15e9,
            rows_64_macs_per_s: 20e9,
            int8,
        };
        let report = Report {
            kernels: "avx2".to_owned(),
            threads: 2,
            facts: facts_of(&speed("Q4_K", true)),
            limits: Limits {
                read_bytes_per_s_one_thread: 10e9,
                read_bytes_per_s: 20e9,
                f32_macs_per_s: 40e9,
                int8_macs_per_s: 200e9,
            },
            types: vec![speed("Q4_K", true), speed("F32", false)],
        };
        let table = report.table();
        let line = |name: &str| table.lines().find(|l| l.starts_with(name)).unwrap();
        assert!(
            line("Q4_K").contains("75 %") && line("Q4_K").ends_with(" 10 %"),
            "{table}"
        );
        assert!(line("F32").ends_with(" 50 %"), "{table}");
    }

    #[test]
    fn written_facts_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        for bad in ["{}", "[]", "{\"read_bytes_per_s\":-1,\"macs_per_s\":1}"] {
            std::fs::write(&path, bad).unwrap();
            assert!(
                Facts::read(&path).unwrap_err().contains("expected"),
                "{bad}"
            );
        }
        std::fs::write(&path, "{\"read_bytes_per_s\":1e9,\"macs_per_s\":2e9}").unwrap();
        assert!(Facts::read(&path).unwrap().sound());
    }
}
