//! `shard-tool quantize`: a smaller GGUF file from unquantised weights, with the error that this costs.
//!
//! Owns the order of events: read the heads, choose a type for every tensor, write under a temporary name, read the result
//! with our own strict reader, and only then give it its name. It must never replace a file. Which tensor gets which type is
//! `mix`, the arithmetic is `kernels`, what stands in the file is `model`.

mod mix;
mod report;
mod rows;
mod target;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use model::gguf::write::{Head, Item, Layout, layout};
use model::{Checkpoint, Export, ExportClass, ExportTensor};

use crate::Failure;
use mix::{Chosen, Mix};
use report::{Report, TensorError};
use rows::Quantiser;
use target::Target;

/// Threads that one machine could have.
const THREADS_MAX: i64 = 1024;
/// The version of block formats that readers ask for.
const BLOCK_FORMATS: u32 = 2;

#[derive(Args)]
#[command(
    after_help = "Types: q8_0 (8.5 bits a weight), q6_k (6.6), q4_k (4.5), q4_k_m (about 4.9: Q4_K, and Q6_K for the head,
for values, and for down projections of the first and last eighth of the layers and of every third between).
Norms, routers, convolutions and small vectors stay F32. Rows that are no whole blocks of 256 become Q8_0, no whole
blocks of 32 F16.

Examples:
  shard-tool quantize checkpoints/my-model/ --type q4_k_m --out my-model-Q4_K_M.gguf
  shard-tool quantize my-model-BF16.gguf --type q8_0 --out my-model-Q8_0.gguf --threads 8"
)]
pub(crate) struct Arguments {
    /// A safetensors directory, or a GGUF file with F32, F16 or BF16 weights (the first of split files too)
    source: PathBuf,
    /// Type of the new weights
    #[arg(long = "type", value_enum, value_name = "TYPE", ignore_case = true)]
    mix: Mix,
    /// The new file; it must not be there yet
    #[arg(long, value_name = "FILE.gguf")]
    out: PathBuf,
    /// Threads that compute [default: one for each processor]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    threads: Option<u16>,
    /// Print the report as one JSON value on one line
    #[arg(long)]
    json: bool,
}

/// Quantises, and gives the text to print.
pub(crate) fn run(arguments: &Arguments) -> Result<String, Failure> {
    if arguments
        .out
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case("gguf"))
    {
        return Err(Failure::Usage(anyhow!(
            "--out {} came; expected a name that ends with .gguf",
            arguments.out.display()
        )));
    }
    let begun = Instant::now();
    let checkpoint = Checkpoint::open(&arguments.source)?;
    let export = checkpoint.export()?;
    let chosen = mix::choose(
        arguments.mix,
        &export.tensors,
        checkpoint.arch().layers.len(),
    );
    let plan = arrange(arguments.mix, export, chosen)?;
    let threads = match arguments.threads {
        Some(threads) => usize::from(threads),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let target = Target::create(&arguments.out, plan.layout.file_bytes)?;
    let errors = write(&checkpoint, &plan, threads, target)?;
    let facts = checkpoint.facts();
    let report = Report::new(report::Done {
        out: &arguments.out,
        mix: arguments.mix.name(),
        file_bytes: plan.layout.file_bytes,
        source_bytes: facts.file_bytes,
        threads,
        seconds: begun.elapsed().as_secs_f64(),
        errors,
    });
    if arguments.json {
        let line =
            serde_json::to_string(&report).context("the report cannot be written as JSON")?;
        return Ok(format!("{line}\n"));
    }
    Ok(report.table())
}

/// Everything that is decided before the first weight is read.
struct Arranged<'a> {
    tensors: Vec<(ExportTensor<'a>, Chosen)>,
    layout: Layout,
}

fn arrange(mix: Mix, export: Export<'_>, chosen: Vec<Chosen>) -> Result<Arranged<'_>, Failure> {
    let mut metadata = export.metadata;
    metadata.push(("general.file_type".to_owned(), Item::U32(mix.file_type())));
    let formats = Item::U32(BLOCK_FORMATS);
    metadata.push(("general.quantization_version".to_owned(), formats));
    let heads: Vec<Head> = export
        .tensors
        .iter()
        .zip(&chosen)
        .map(|(tensor, chosen)| {
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            match tensor.class {
                ExportClass::Kept(storage) => Head {
                    name,
                    shape,
                    storage,
                },
                ExportClass::Matrix | ExportClass::Small => Head::new(name, shape, chosen.ty),
            }
        })
        .collect();
    let layout = layout(&metadata, &heads)?;
    let tensors = export.tensors.into_iter().zip(chosen).collect();
    Ok(Arranged { tensors, layout })
}

/// Writes the file; whatever fails, no file is left behind.
fn write(
    checkpoint: &Checkpoint,
    plan: &Arranged<'_>,
    threads: usize,
    mut target: Target,
) -> Result<Vec<TensorError>, Failure> {
    target.put(0, &plan.layout.header)?;
    let mut errors = Vec::with_capacity(plan.tensors.len());
    for ((tensor, chosen), (start, bytes)) in plan.tensors.iter().zip(&plan.layout.places) {
        let error = match tensor.kept() {
            Some(kept) => {
                target.put(*start, kept)?;
                None
            }
            None => Some(Quantiser::new(tensor, chosen.ty, threads)?.write(*start, &mut target)?),
        };
        checkpoint.release(&tensor.source());
        errors.push(TensorError {
            name: tensor.name.clone(),
            stored: chosen.name(tensor.class),
            wanted: chosen.instead_of.map(|ty| ty.name()),
            bytes: *bytes,
            error,
        });
    }
    checkpoint.unchanged()?;
    target.finish(|written| check(checkpoint, written))?;
    Ok(errors)
}

/// Reads the new file as every command would, its tokenizer too if `source` has one.
fn check(source: &Checkpoint, written: &Path) -> Result<(), Failure> {
    let read = Checkpoint::open(written).context("the file that was written cannot be read")?;
    if source.tokenizer().is_ok() {
        let tokenizer = read.tokenizer();
        tokenizer.context("the tokenizer that was written cannot be read")?;
    }
    Ok(())
}
