//! How fast this machine is: read bandwidth and multiply-adds with quantised weights.
//!
//! Measured in under two seconds with the kernels that will run, cached by processor, kernels and threads.

use std::path::Path;
use std::time::{Duration, Instant};

use kernels::{ActFormat, Acts, MatmulTask, Matrix, Pool, Rows, WeightType, parallel_matmul};
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
const TIME_EACH: Duration = Duration::from_millis(400);

fn key(isa: kernels::Isa, threads: usize) -> String {
    format!(
        "{} {isa} {threads} {}",
        terms::processor(),
        env!("CARGO_PKG_VERSION")
    )
}

/// Facts of an earlier measurement on this processor, or a fresh one.
pub fn cached(data_dir: &Path, exec: &engine::Exec, memory_bytes: u64) -> Facts {
    let key = key(exec.isa, exec.pool.threads());
    let path = data_dir.join(FILE_NAME);
    let known = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice::<Cached>(&text).ok())
        .filter(|cached| cached.key == key && cached.facts.sound());
    if let Some(cached) = known {
        return cached.facts;
    }
    let facts = measure(&exec.pool, exec.isa, memory_bytes);
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

/// Measures now.
pub fn measure(pool: &Pool, isa: kernels::Isa, memory_bytes: u64) -> Facts {
    let ty = WeightType::Q4K;
    let row_bytes = ty.row_bytes(COLS).unwrap_or(1);
    let bytes = usize::try_from(BYTES_MAX.min(memory_bytes / 2)).unwrap_or(usize::MAX);
    let rows = (bytes / row_bytes).max(BATCH_ROWS);
    let weights = noise(rows * row_bytes);
    let ones = vec![0.5f32; COLS * BATCH];
    let mut acts = Acts::new();
    acts.quantize(isa, ActFormat::Q8K, &ones, COLS);
    let mut out = vec![0.0; rows.max(BATCH_ROWS * BATCH)];
    let mut best = |w_rows: usize, act_rows: usize| -> f64 {
        let w = Matrix {
            ty,
            rows: w_rows,
            cols: COLS,
            bytes: weights.get(..w_rows * row_bytes).unwrap_or(&[]),
        };
        let mut fastest = f64::INFINITY;
        let begun = Instant::now();
        while begun.elapsed() < TIME_EACH || fastest.is_infinite() {
            let out = out.get_mut(..w_rows * act_rows).unwrap_or_default();
            let task = MatmulTask {
                w,
                acts: &acts,
                act_rows: Rows::Range(0..act_rows),
                segments: 1,
                out,
            };
            let start = Instant::now();
            parallel_matmul(pool, isa, &mut [task]);
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        fastest.max(1e-9)
    };
    #[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    Facts {
        read_bytes_per_s: (rows * row_bytes) as f64 / best(rows, 1),
        macs_per_s: (BATCH_ROWS * COLS * BATCH) as f64 / best(BATCH_ROWS, BATCH),
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

    use super::*;

    #[test]
    fn a_measurement_is_kept_for_the_same_kernels_only() {
        let dir = tempfile::tempdir().unwrap();
        let exec = |threads| engine::Exec {
            pool: Arc::new(Pool::new(threads)),
            isa: kernels::Isa::detect(),
        };
        let first = cached(dir.path(), &exec(1), 8 << 20);
        assert!(first.sound());
        assert_eq!(cached(dir.path(), &exec(1), 8 << 20), first);
        std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert!(cached(dir.path(), &exec(1), 8 << 20).sound());
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
