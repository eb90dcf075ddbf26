//! `shard-tool quantize` on the models of the repository: what it writes, what it says, and what the engine makes of it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

#[path = "../../crates/engine/tests/rig/mod.rs"]
mod rig;
#[path = "../../crates/engine/tests/rig/rounding.rs"]
mod rounding;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use engine::KvType;
use kernels::{Isa, WeightType, dequantize_row};
use model::gguf::Gguf;
use model::gguf::write::{Head, Item, layout};
use model::{Checkpoint, DType};
use rig::{Chain, Seq, data, exec};
use serde_json::Value;

const FAMILIES: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"];

fn run(source: &Path, mix: &str, out: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shard-tool"))
        .arg("quantize")
        .arg(source)
        .args(["--type", mix, "--out"])
        .arg(out)
        .args(more)
        .output()
        .unwrap()
}

/// The report of a run that must succeed.
fn quantised(source: &Path, mix: &str, out: &Path, more: &[&str]) -> Value {
    let output = run(source, mix, out, &[&["--json"], more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.is_empty(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    serde_json::from_str(&text).unwrap()
}

fn refused(source: &Path, mix: &str, out: &Path, code: i32) -> String {
    let output = run(source, mix, out, &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    stderr
}

fn sources(family: &str) -> [PathBuf; 2] {
    [data(family), data(&format!("{family}/model-f16.gguf"))]
}

/// The types of all tensors of a file, by name.
fn types(path: &Path) -> Vec<(String, &'static str)> {
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(path, &bytes, 0).unwrap();
    let tensors = gguf.tensors().iter();
    tensors
        .map(|tensor| (tensor.name.clone(), tensor.storage.name))
        .collect()
}

/// Last logits of a recorded prompt, and the recorded ones.
fn logits(checkpoint: &Arc<Checkpoint>, prompt: &Value) -> (Vec<f32>, Vec<f32>) {
    let ids: Vec<u32> = serde_json::from_value(prompt["token_ids"].clone()).unwrap();
    let recorded = serde_json::from_value(prompt["last_logits"].clone()).unwrap();
    let mut chain = Chain::whole(checkpoint, &exec(Isa::detect(), 2), KvType::F32);
    let (logits, _) = chain.generate(&mut Seq::new(1, &ids), &[u32::MAX], 1);
    (logits, recorded)
}

/// Root mean square of the difference by that of the recorded logits.
fn distance(logits: &[f32], recorded: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let pairs = logits.iter().zip(recorded);
    let off: f64 = pairs.map(|(x, y)| square(f64::from(x - y))).sum();
    let power: f64 = recorded.iter().map(|y| square(f64::from(*y))).sum();
    (off / power).sqrt()
}

/// Random weights answer chaotically, so the tolerance is on the logits and not on tokens: small for attention alone,
/// larger where the delta rule feeds errors back. A wrong order of rows or a wrong key gives a distance of about 1.4, as
/// unrelated logits have, and both sources must agree far more closely, since the same weights are rounded.
#[test]
fn every_family_in_q8_0_gives_the_recorded_logits() {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = std::fs::read(data(&format!("{family}/golden.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let tolerance = if family.starts_with("qwen3_5") {
            0.6
        } else {
            0.06
        };
        let mut found: Vec<Vec<f32>> = Vec::new();
        for (at, source) in sources(family).iter().enumerate() {
            let out = folder.path().join(format!("{family}-{at}.gguf"));
            let report = quantised(source, "q8_0", &out, &[]);
            assert!(report["relative_rms_error"].as_f64().unwrap() < 0.007);
            let checkpoint = Arc::new(Checkpoint::open(&out).unwrap());
            for prompt in golden["prompts"].as_array().unwrap() {
                let (logits, recorded) = logits(&checkpoint, prompt);
                let distance = distance(&logits, &recorded);
                println!("{family} {at} {}: {distance:.4}", prompt["name"]);
                assert!(distance < tolerance, "{family} {at}: {distance}");
                found.push(logits);
            }
        }
        let (directory, file) = found.split_at(found.len() / 2);
        for (one, other) in directory.iter().zip(file) {
            assert!(distance(one, other) < 0.02, "{family}");
        }
    }
}

#[test]
fn threads_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = floats_of_the_bundled_model(folder.path());
    for mix in ["q8_0", "q6_k", "q4_k_m"] {
        let mut seen: Option<(Vec<u8>, Value)> = None;
        for threads in ["1", "2", "5"] {
            let out = folder.path().join(format!("{mix}-{threads}.gguf"));
            let report = quantised(&source, mix, &out, &["--threads", threads]);
            assert_eq!(report["threads"].to_string(), threads);
            let made = (std::fs::read(&out).unwrap(), report["worst"].clone());
            match &seen {
                None => seen = Some(made),
                Some(first) => assert!(*first == made, "{mix} with {threads} threads"),
            }
        }
    }
}

/// The bundled model with its weights in F32, so that it can be quantised again.
fn floats_of_the_bundled_model(folder: &Path) -> PathBuf {
    let source = rig::bundled().path().to_owned();
    let bytes = std::fs::read(&source).unwrap();
    let gguf = Gguf::parse(&source, &bytes, 0).unwrap();
    let metadata: Vec<(String, Item)> = gguf
        .keys()
        .map(|key| {
            let raw = gguf.raw(key, &bytes).unwrap();
            (key.to_owned(), Item::Raw(raw.to_vec()))
        })
        .collect();
    let tensors = gguf.tensors();
    let heads: Vec<Head> = tensors
        .iter()
        .map(|tensor| Head::new(tensor.name.clone(), tensor.shape.clone(), DType::F32))
        .collect();
    let layout = layout(&metadata, &heads).unwrap();
    let mut out = layout.header;
    out.resize(layout.file_bytes as usize, 0);
    for (tensor, (start, len)) in tensors.iter().zip(layout.places) {
        let stored = &bytes[tensor.start as usize..(tensor.start + tensor.len) as usize];
        let ty = match tensor.storage.name {
            "Q8_0" => WeightType::Q8_0,
            _ => WeightType::F32,
        };
        let mut values = vec![0f32; len as usize / 4];
        dequantize_row(ty, stored, &mut values);
        let place = &mut out[start as usize..(start + len) as usize];
        for (to, value) in place.chunks_exact_mut(4).zip(values) {
            to.copy_from_slice(&value.to_le_bytes());
        }
    }
    let path = folder.join("floats.gguf");
    std::fs::write(&path, out).unwrap();
    path
}

/// Trained weights: the same likeliest token at nearly every position.
#[test]
fn the_bundled_model_keeps_its_answers() {
    let folder = tempfile::tempdir().unwrap();
    let source = floats_of_the_bundled_model(folder.path());
    let exact = (rig::bundled(), KvType::F32);
    let texts = rounding::texts(0);
    for (mix, agreement, error) in [("q6_k", 0.99, 0.02), ("q4_k_m", 0.98, 0.085)] {
        let out = folder.path().join(format!("{mix}.gguf"));
        let report = quantised(&source, mix, &out, &[]);
        assert!(
            report["relative_rms_error"].as_f64().unwrap() < error,
            "{report}"
        );
        let made = Arc::new(Checkpoint::open(&out).unwrap());
        let [found] = rounding::distances_from(&exact, &texts[..20], [(made, KvType::F32)]);
        println!("{mix}: {:.4} of {} rows", found.agreement(), found.rows);
        assert!(
            found.rows > 400 && found.agreement() > agreement,
            "{mix}: {found:?}"
        );
    }
}

#[test]
fn the_mix_is_what_the_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let source = floats_of_the_bundled_model(folder.path());
    let out = folder.path().join("mix.gguf");
    quantised(&source, "q4_k_m", &out, &[]);
    let types = types(&out);
    let of = |name: &str| types.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(of("output.weight"), "Q6_K");
    assert_eq!(of("token_embd.weight"), "Q4_K");
    for (layer, raised) in (0..8).map(|layer| (layer, [0, 3, 6, 7].contains(&layer))) {
        let expected = if raised { "Q6_K" } else { "Q4_K" };
        assert_eq!(of(&format!("blk.{layer}.ffn_down_exps.weight")), expected);
        assert_eq!(of(&format!("blk.{layer}.ffn_up_exps.weight")), "Q4_K");
        assert_eq!(of(&format!("blk.{layer}.ffn_gate_inp.weight")), "F32");
        assert_eq!(of(&format!("blk.{layer}.attn_norm.weight")), "F32");
    }
    assert_eq!(of("blk.0.ssm_conv1d.weight"), "F32");
}

#[test]
fn short_rows_fall_back_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small.gguf");
    let source = data("llama");
    let report = quantised(&source, "q4_k", &out, &[]);
    let fallbacks = report["fallbacks"].as_array().unwrap();
    assert!(
        fallbacks
            .iter()
            .all(|f| f["wanted"] == "Q4_K" && f["stored"] == "Q8_0")
    );
    assert!(!fallbacks.is_empty());
    let other = folder.path().join("other.gguf");
    let table = run(&source, "Q4_K", &other, &[]);
    let table = String::from_utf8(table.stdout).unwrap();
    for part in [
        "relative RMS error",
        "worst tensor",
        "no whole blocks of Q4_K",
        "over all weights",
    ] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
}

#[test]
fn what_cannot_be_quantised_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new.gguf");
    let bundled = rig::bundled().path().to_owned();
    let message = refused(&bundled, "q4_k", &out, 1);
    assert!(message.contains("stored as Q8_0"), "{message}");
    let message = refused(&data("llama"), "q5_k", &out, 2);
    assert!(message.contains("q4_k_m"), "{message}");
    let message = refused(&data("llama"), "q8_0", &folder.path().join("new.bin"), 2);
    assert!(message.contains(".gguf"), "{message}");
    let message = refused(&folder.path().join("none"), "q8_0", &out, 1);
    assert!(message.contains("none"), "{message}");
    let message = refused(
        &data("llama"),
        "q8_0",
        &folder.path().join("no/folder.gguf"),
        1,
    );
    assert!(message.contains("cannot be created"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::write(&out, "mine").unwrap();
    let message = refused(&data("llama"), "q8_0", &out, 1);
    assert!(message.contains("is there already"), "{message}");
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
}

#[test]
fn broken_weights_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let source = floats_of_the_bundled_model(folder.path());
    let mut bytes = std::fs::read(&source).unwrap();
    let gguf = Gguf::parse(&source, &bytes, 0).unwrap();
    let tensor = gguf
        .tensors()
        .iter()
        .find(|t| t.name == "blk.3.attn_q.weight")
        .unwrap();
    let at = tensor.start as usize + 4 * 256 * 5;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&source, bytes).unwrap();
    let out = folder.path().join("new.gguf");
    let message = refused(&source, "q4_k_m", &out, 1);
    assert!(
        message.contains("blk.3.attn_q.weight") && message.contains("row 5"),
        "{message}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
