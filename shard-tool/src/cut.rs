//! `shard-tool split` and `verify`: shards as files of their own, and whether what lies on a disk is what it should be.
//!
//! Owns the two reports. Must never change what it verifies.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use plan::size::size_text;
use proto::limits::PIECE_BYTES;
use serde_json::json;
use shards::{Source, VerifyReport};

use crate::Failure;

#[derive(Args)]
#[command(
    after_help = "A shard is the trunk of one layer, one expert group, the embedding or one block of head rows: the same
for every plan. Each becomes a file named by its BLAKE3 hash; catalogue.json says what is what. Shards that
are there already are not written again, so a split that broke off goes on.

Examples:
  shard-tool split models/hearth-tiny.gguf --out shards/
  shard-tool split big-00001-of-00003.gguf --out disk/shards --json"
)]
pub(crate) struct SplitArguments {
    /// A .gguf file (the first of split files too) or a safetensors directory
    file: PathBuf,
    /// Where the shards go; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the report as one JSON value on one line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(
    after_help = "Names every shard of which a piece is damaged, and exits with 1 if there is one. A node that finds a
damaged piece in its store fetches it again by itself; a damaged split directory is repaired by deleting
the named file and running `shard-tool split` again.

Examples:
  shard-tool verify shards/
  shard-tool verify ~/.local/share/hearth/node/store --json
  shard-tool verify model.gguf --catalogue shards/catalogue.json"
)]
pub(crate) struct VerifyArguments {
    /// A directory that `split` wrote, a node's store, or a model together with --catalogue
    path: PathBuf,
    /// The catalogue to compare a model with
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Print the report as one JSON value on one line
    #[arg(long)]
    json: bool,
}

/// Splits, and gives the text to print.
pub(crate) fn split(arguments: &SplitArguments) -> Result<String, Failure> {
    let checkpoint = model::Checkpoint::open(&arguments.file)?;
    // Every byte is hashed, then written.
    let mut meter = Meter::new(Source::of(&checkpoint)?.bytes().saturating_mul(2));
    let report = shards::split(&checkpoint, &arguments.out, PIECE_BYTES, &mut |bytes| {
        meter.add(bytes);
    })?;
    meter.end();
    if arguments.json {
        let value = json!({
            "model": checkpoint.id(),
            "out": arguments.out,
            "catalogue": report.catalogue,
            "shards": report.shards,
            "bytes": report.bytes,
            "written_bytes": report.written_bytes,
        });
        return Ok(format!("{value}\n"));
    }
    Ok(format!(
        "{}: {} shards, {}, {} of them written now\ncatalogue {}\n",
        checkpoint.id(),
        report.shards,
        size_text(report.bytes),
        size_text(report.written_bytes),
        report.catalogue
    ))
}

/// Verifies and prints; damage is a failure.
pub(crate) fn verify(arguments: &VerifyArguments) -> Result<String, Failure> {
    let report = shards::verify(&arguments.path, arguments.catalogue.as_deref())?;
    let text = if arguments.json {
        let damaged = report.damage.iter().map(|damage| {
            json!({
                "catalogue": damage.catalogue,
                "shard": damage.unit,
                "pieces": damage.pieces,
                "unreadable": damage.unreadable,
            })
        });
        let value = json!({
            "shards": report.shards,
            "pieces": report.pieces,
            "bytes": report.bytes,
            "damaged": damaged.collect::<Vec<_>>(),
        });
        format!("{value}\n")
    } else {
        lines(&report)
    };
    if report.damage.is_empty() {
        return Ok(text);
    }
    crate::print(&text)?;
    Err(Failure::Failed(anyhow!(
        "{} of {} shards are damaged",
        report.damage.len(),
        report.shards
    )))
}

fn lines(report: &VerifyReport) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        let what = match &damage.unreadable {
            Some(why) => why.clone(),
            None => format!("pieces {:?} differ", damage.pieces),
        };
        // Writing to a text cannot fail.
        let _ = writeln!(text, "damaged: {}: {what}", damage.unit);
    }
    let _ = writeln!(
        text,
        "{} shards, {} pieces, {} compared",
        report.shards,
        report.pieces,
        size_text(report.bytes)
    );
    text
}

/// Per cent on a terminal; silent elsewhere.
struct Meter {
    total: u64,
    done: u64,
    shown: Option<u64>,
}

impl Meter {
    fn new(total: u64) -> Self {
        Self {
            total: total.max(1),
            done: 0,
            shown: std::io::stderr().is_terminal().then_some(0),
        }
    }

    fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        let percent = self.done.saturating_mul(100) / self.total;
        if self.shown.is_some_and(|shown| shown < percent) {
            self.shown = Some(percent);
            // A terminal that is gone needs no figures.
            let _ = write!(std::io::stderr(), "\r{percent} %");
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
