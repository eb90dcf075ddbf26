//! `shard-tool inspect`: what a model consists of.
//!
//! Owns the report and its two forms. All figures come from the model's facts, the same that the planner reads.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use plan::KvType;
use plan::size::size_text;
use plan::table::{Align, columns};
use proto::facts::{LayerFacts, MixerKind, ModelFacts, TypeFacts};
use serde::Serialize;

use crate::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  shard-tool inspect models/hearth-tiny.gguf
  shard-tool inspect model-00001-of-00003.gguf
  shard-tool inspect checkpoints/my-model/ --json")]
pub(crate) struct Arguments {
    /// A .gguf file (the first of split files too) or a safetensors directory
    file: PathBuf,
    /// Print the report as one JSON value on one line
    #[arg(long)]
    json: bool,
}

/// The report. Bytes of embedding, head, trunks, experts and the rest add up to `tensor_bytes`.
#[derive(Serialize)]
struct Report<'f> {
    id: &'f str,
    family: &'f str,
    file_bytes: u64,
    tensor_bytes: u64,
    embedding_bytes: u64,
    /// Head and final norm; of a tied head the norm alone, since the matrix is the embedding.
    head_bytes: u64,
    trunk_bytes: u64,
    expert_bytes: u64,
    /// Tensors outside every part, tables of rope factors for example.
    other_bytes: u64,
    tied_head: bool,
    quantised: bool,
    hidden: u32,
    vocab: u32,
    context: u32,
    experts: u32,
    experts_used: u32,
    expert_groups: u32,
    bytes_read_per_token: u64,
    kv_type: KvType,
    kv_bytes_per_position: u64,
    kv_context: u32,
    kv_bytes_per_sequence: u64,
    state_bytes_per_sequence: u64,
    types: &'f [TypeFacts],
    layers: Vec<LayerReport<'f>>,
}

#[derive(Serialize)]
struct LayerReport<'f> {
    layer: usize,
    mixer: MixerKind,
    bytes: u64,
    trunk_bytes: u64,
    group_bytes: &'f [u64],
    expert_bytes: u64,
    kv_bytes_per_position: u64,
    state_bytes_per_sequence: u64,
}

/// Inspects, and gives the text to print.
pub(crate) fn run(arguments: &Arguments) -> Result<String, Failure> {
    let facts = model::Checkpoint::open(&arguments.file)?.facts();
    let report = report(&facts);
    if arguments.json {
        let line =
            serde_json::to_string(&report).context("the report cannot be written as JSON")?;
        return Ok(format!("{line}\n"));
    }
    Ok(table(&report))
}

fn sum(facts: &ModelFacts, of: impl Fn(&LayerFacts) -> u64) -> u64 {
    facts.layers.iter().map(of).fold(0, u64::saturating_add)
}

fn report(facts: &ModelFacts) -> Report<'_> {
    let kv_type = KvType::for_model(facts);
    let trunk_bytes = sum(facts, |layer| layer.trunk_bytes);
    let expert_bytes = sum(facts, |layer| {
        layer.bytes().saturating_sub(layer.trunk_bytes)
    });
    let head_bytes = if facts.tied_head {
        facts.head_bytes.saturating_sub(facts.embedding_bytes)
    } else {
        facts.head_bytes
    };
    let parts = [facts.embedding_bytes, head_bytes, trunk_bytes, expert_bytes];
    let parts = parts.into_iter().fold(0, u64::saturating_add);
    let tensors = facts.types.iter().map(|kind| kind.bytes);
    let tensor_bytes = tensors.fold(0, u64::saturating_add).max(parts);
    let used = u64::from(facts.experts_used);
    let layers_read = sum(facts, |layer| {
        let experts = used.saturating_mul(layer.expert_bytes);
        layer.trunk_bytes.saturating_add(experts)
    });
    let kv_bytes_per_position = sum(facts, |layer| kv_type.bytes(layer.kv_values_per_position));
    let kv_context = facts.context.min(32_768);
    Report {
        id: &facts.id,
        family: &facts.family,
        file_bytes: facts.file_bytes,
        tensor_bytes,
        embedding_bytes: facts.embedding_bytes,
        head_bytes,
        trunk_bytes,
        expert_bytes,
        other_bytes: tensor_bytes - parts,
        tied_head: facts.tied_head,
        quantised: facts.quantised,
        hidden: facts.hidden,
        vocab: facts.vocab,
        context: facts.context,
        experts: facts.experts,
        experts_used: facts.experts_used,
        expert_groups: proto::facts::expert_groups(facts.experts),
        bytes_read_per_token: layers_read.saturating_add(facts.head_bytes),
        kv_type,
        kv_bytes_per_position,
        kv_context,
        kv_bytes_per_sequence: kv_bytes_per_position.saturating_mul(u64::from(kv_context)),
        state_bytes_per_sequence: sum(facts, |layer| layer.state_bytes_per_sequence),
        types: &facts.types,
        layers: facts
            .layers
            .iter()
            .enumerate()
            .map(|(at, layer)| LayerReport {
                layer: at,
                mixer: layer.mixer,
                bytes: layer.bytes(),
                trunk_bytes: layer.trunk_bytes,
                group_bytes: &layer.group_bytes,
                expert_bytes: layer.expert_bytes,
                kv_bytes_per_position: kv_type.bytes(layer.kv_values_per_position),
                state_bytes_per_sequence: layer.state_bytes_per_sequence,
            })
            .collect(),
    }
}

/// `16 x 30.0 MiB`, or the least and the most where the groups differ.
fn groups_text(groups: &[u64]) -> String {
    match (groups.iter().min(), groups.iter().max()) {
        (Some(least), Some(most)) if least == most => {
            format!("{} x {}", groups.len(), size_text(*most))
        }
        (Some(least), Some(most)) => {
            let (least, most) = (size_text(*least), size_text(*most));
            format!("{} x {least} to {most}", groups.len())
        }
        _ => "-".to_owned(),
    }
}

fn or_dash(bytes: u64) -> String {
    if bytes == 0 {
        "-".to_owned()
    } else {
        size_text(bytes)
    }
}

fn table(report: &Report<'_>) -> String {
    let mut text = summary(report);
    text.push('\n');
    let of = |bytes: u64| {
        let share = 100.0 * bytes as f64 / report.tensor_bytes.max(1) as f64;
        format!("{share:.1} %")
    };
    let part = |name: &str, bytes: u64| vec![name.to_owned(), size_text(bytes), of(bytes)];
    let mut parts = vec![
        part("embedding", report.embedding_bytes),
        part("trunks", report.trunk_bytes),
        part("experts", report.expert_bytes),
        part("head", report.head_bytes),
    ];
    if report.other_bytes > 0 {
        parts.push(part("other", report.other_bytes));
    }
    parts.push(part("all tensors", report.tensor_bytes));
    let header = [
        ("part", Align::Left),
        ("bytes", Align::Right),
        ("share", Align::Right),
    ];
    text.push_str(&columns(&header, &parts));
    text.push('\n');
    let types: Vec<Vec<String>> = report
        .types
        .iter()
        .map(|kind| {
            let count = kind.tensors.to_string();
            vec![
                kind.name.clone(),
                count,
                size_text(kind.bytes),
                of(kind.bytes),
            ]
        })
        .collect();
    let header = [
        ("type", Align::Left),
        ("tensors", Align::Right),
        ("bytes", Align::Right),
        ("share", Align::Right),
    ];
    text.push_str(&columns(&header, &types));
    text.push('\n');
    text.push_str(&layers_table(report));
    text
}

fn summary(report: &Report<'_>) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "{}: {}, {} layers, hidden {}, vocabulary {}, context {}",
        report.id,
        report.family,
        report.layers.len(),
        report.hidden,
        report.vocab,
        report.context
    );
    let _ = if report.experts == 0 {
        writeln!(text, "dense, no experts")
    } else {
        writeln!(
            text,
            "{} experts a layer in {} groups, {} used per token",
            report.experts, report.expert_groups, report.experts_used
        )
    };
    let _ = writeln!(
        text,
        "files {}, read per token {}{}",
        size_text(report.file_bytes),
        size_text(report.bytes_read_per_token),
        if report.tied_head {
            ", the head is the embedding"
        } else {
            ""
        }
    );
    let _ = writeln!(
        text,
        "a sequence of {} positions: attention cache {} ({}), state {}",
        report.kv_context,
        size_text(report.kv_bytes_per_sequence),
        report.kv_type,
        or_dash(report.state_bytes_per_sequence)
    );
    text
}

fn layers_table(report: &Report<'_>) -> String {
    let header = [
        ("layer", Align::Right),
        ("mixer", Align::Left),
        ("in all", Align::Right),
        ("trunk", Align::Right),
        ("expert groups", Align::Left),
        ("one expert", Align::Right),
        ("cache/position", Align::Right),
        ("state/sequence", Align::Right),
    ];
    let rows: Vec<Vec<String>> = report
        .layers
        .iter()
        .map(|layer| {
            vec![
                layer.layer.to_string(),
                match layer.mixer {
                    MixerKind::Attention => "attention".to_owned(),
                    MixerKind::DeltaNet => "delta net".to_owned(),
                },
                size_text(layer.bytes),
                size_text(layer.trunk_bytes),
                groups_text(layer.group_bytes),
                or_dash(layer.expert_bytes),
                or_dash(layer.kv_bytes_per_position),
                or_dash(layer.state_bytes_per_sequence),
            ]
        })
        .collect();
    columns(&header, &rows)
}
