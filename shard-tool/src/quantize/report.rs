//! What quantising cost: bytes and error by type, overall, and the tensor that lost most.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use plan::size::size_text;
use plan::table::{Align, columns};
use serde::Serialize;

use super::rows::Squares;

/// What became of one tensor.
pub(super) struct TensorError {
    /// Its name.
    pub(super) name: String,
    /// The type that it has now.
    pub(super) stored: &'static str,
    /// The type that its rows do not suit.
    pub(super) wanted: Option<&'static str>,
    /// Its bytes in the new file.
    pub(super) bytes: u64,
    /// What was lost; `None` for a tensor that was copied.
    pub(super) error: Option<Squares>,
}

/// Facts of a run.
pub(super) struct Done<'r> {
    pub(super) out: &'r Path,
    pub(super) mix: &'static str,
    pub(super) file_bytes: u64,
    pub(super) source_bytes: u64,
    pub(super) threads: usize,
    pub(super) seconds: f64,
    pub(super) errors: Vec<TensorError>,
}

/// The report in both forms.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    out: String,
    #[serde(rename = "type")]
    mix: &'static str,
    bytes: u64,
    source_bytes: u64,
    threads: usize,
    seconds: f64,
    /// Root mean square of all errors by that of all weights.
    relative_rms_error: f64,
    types: Vec<TypeError>,
    worst: Option<Worst>,
    /// Tensors whose rows do not suit the type that was asked for.
    fallbacks: Vec<Fallback>,
}

#[derive(Debug, Serialize)]
struct TypeError {
    name: &'static str,
    tensors: usize,
    bytes: u64,
    relative_rms_error: f64,
}

#[derive(Debug, Serialize)]
struct Worst {
    tensor: String,
    #[serde(rename = "type")]
    stored: &'static str,
    relative_rms_error: f64,
}

#[derive(Debug, Serialize)]
struct Fallback {
    tensor: String,
    wanted: &'static str,
    stored: &'static str,
}

impl Report {
    /// Adds up what the tensors lost.
    pub(super) fn new(done: Done<'_>) -> Self {
        let mut by_type: BTreeMap<&'static str, (usize, u64, Squares)> = BTreeMap::new();
        let (mut all, mut worst, mut fallbacks) = (Squares::default(), None::<Worst>, Vec::new());
        for tensor in done.errors {
            let (tensors, bytes, squares) = by_type.entry(tensor.stored).or_default();
            *tensors += 1;
            *bytes = bytes.saturating_add(tensor.bytes);
            if let Some(error) = tensor.error {
                squares.add(error);
                all.add(error);
                let relative = error.relative();
                if worst
                    .as_ref()
                    .is_none_or(|worst| relative > worst.relative_rms_error)
                {
                    worst = Some(Worst {
                        tensor: tensor.name.clone(),
                        stored: tensor.stored,
                        relative_rms_error: relative,
                    });
                }
            }
            if let Some(wanted) = tensor.wanted {
                fallbacks.push(Fallback {
                    tensor: tensor.name,
                    wanted,
                    stored: tensor.stored,
                });
            }
        }
        let types = by_type
            .into_iter()
            .map(|(name, (tensors, bytes, squares))| TypeError {
                name,
                tensors,
                bytes,
                relative_rms_error: squares.relative(),
            })
            .collect();
        Self {
            out: done.out.display().to_string(),
            mix: done.mix,
            bytes: done.file_bytes,
            source_bytes: done.source_bytes,
            threads: done.threads,
            seconds: done.seconds,
            relative_rms_error: all.relative(),
            types,
            worst,
            fallbacks,
        }
    }

    /// The report for a person.
    pub(super) fn table(&self) -> String {
        let percent = |error: f64| format!("{:.3} %", 100.0 * error);
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{}: {}, {} from {}, in {:.1} s with {} threads\n",
            self.out,
            self.mix,
            size_text(self.bytes),
            size_text(self.source_bytes),
            self.seconds,
            self.threads
        );
        let rows: Vec<Vec<String>> = self
            .types
            .iter()
            .map(|ty| {
                vec![
                    ty.name.to_owned(),
                    ty.tensors.to_string(),
                    size_text(ty.bytes),
                    percent(ty.relative_rms_error),
                ]
            })
            .collect();
        let header = [
            ("type", Align::Left),
            ("tensors", Align::Right),
            ("bytes", Align::Right),
            ("relative RMS error", Align::Right),
        ];
        text.push_str(&columns(&header, &rows));
        let _ = writeln!(
            text,
            "\nover all weights {}",
            percent(self.relative_rms_error)
        );
        if let Some(worst) = &self.worst {
            let error = percent(worst.relative_rms_error);
            let _ = writeln!(
                text,
                "worst tensor {} ({}): {error}",
                worst.tensor, worst.stored
            );
        }
        for fallback in &self.fallbacks {
            let Fallback {
                tensor,
                wanted,
                stored,
            } = fallback;
            let _ = writeln!(
                text,
                "{tensor} is {stored}: its rows are no whole blocks of {wanted}"
            );
        }
        text
    }
}
