//! What a checkpoint exports is what an independent converter wrote: names, shapes, rows, orders, keys and tokens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use model::gguf::write::{Head, Item, Layout, layout};
use model::{Checkpoint, DType, Export, ExportClass, ExportTensor, Specials};
use support::fixture;

const ALL: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"];

fn both(arch: &str) -> (Checkpoint, Checkpoint) {
    let dir = fixture(arch);
    let hf = Checkpoint::open(&dir).unwrap();
    let gguf = Checkpoint::open(&dir.join("model-f16.gguf")).unwrap();
    (hf, gguf)
}

fn rows(tensor: &ExportTensor<'_>) -> Vec<Vec<f32>> {
    (0..tensor.rows())
        .map(|row| {
            let mut out = vec![f32::NAN; tensor.cols()];
            assert!(tensor.read_row(row, &mut out), "{} {row}", tensor.name);
            out
        })
        .collect()
}

fn without_ones(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|dim| *dim != 1).collect()
}

/// Blocks that only draft are in the files of the converter and not in the model.
fn drafts(tensor: &ExportTensor<'_>, layers: usize) -> bool {
    tensor.name.starts_with(&format!("blk.{layers}."))
}

#[test]
fn directories_export_what_a_converter_wrote() {
    for arch in ALL {
        let (hf, gguf) = both(arch);
        let layers = hf.arch().layers.len();
        let (ours, theirs) = (hf.export().unwrap(), gguf.export().unwrap());
        let theirs: BTreeMap<&str, &ExportTensor<'_>> = theirs
            .tensors
            .iter()
            .filter(|tensor| !drafts(tensor, layers))
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        assert_eq!(ours.tensors.len(), theirs.len(), "{arch}");
        for tensor in &ours.tensors {
            let name = tensor.name.as_str();
            let other = theirs.get(name).unwrap_or_else(|| panic!("{arch} {name}"));
            assert_eq!(tensor.class, other.class, "{arch} {name}");
            let shapes = [&tensor.shape, &other.shape].map(|shape| without_ones(shape));
            assert_eq!(shapes[0], shapes[1], "{arch} {name}");
            let (ours, theirs) = (rows(tensor).concat(), rows(other).concat());
            for (at, (x, y)) in ours.iter().zip(&theirs).enumerate() {
                // Matrices went through f16, decays and norms through other arithmetic.
                let near = (x - y).abs() <= 6e-4 * x.abs() + 1e-7;
                assert!(near, "{arch} {name} value {at}: {x} {y}");
            }
        }
    }
}

/// Writes an export with every matrix in F32, as the smallest possible writer would.
fn written(export: &Export<'_>) -> Vec<u8> {
    let heads: Vec<Head> = export
        .tensors
        .iter()
        .map(|tensor| match tensor.class {
            ExportClass::Kept(storage) => Head {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                storage,
            },
            _ => Head::new(tensor.name.clone(), tensor.shape.clone(), DType::F32),
        })
        .collect();
    let Layout {
        header,
        places,
        file_bytes,
    } = layout(&export.metadata, &heads).unwrap();
    let mut bytes = header;
    bytes.resize(usize::try_from(file_bytes).unwrap(), 0);
    for (tensor, (start, len)) in export.tensors.iter().zip(places) {
        let data = match tensor.kept() {
            Some(kept) => kept.to_vec(),
            None => rows(tensor)
                .concat()
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect(),
        };
        assert_eq!(data.len() as u64, len, "{}", tensor.name);
        let start = usize::try_from(start).unwrap();
        bytes[start..start + data.len()].copy_from_slice(&data);
    }
    bytes
}

const TEXTS: [&str; 4] = [
    "The quick brown fox, 1234 times.\n\n  Don't!",
    "Grüße, e\u{301}lan \u{94d} 世界 🚀",
    "<|im_start|>user\nHello<|im_end|>\n<think>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>",
];

#[test]
fn a_written_export_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for arch in ALL {
        let (hf, gguf) = both(arch);
        for (source, name) in [(&hf, "from-hf.gguf"), (&gguf, "from-gguf.gguf")] {
            let path = folder.path().join(name);
            std::fs::write(&path, written(&source.export().unwrap())).unwrap();
            let new = Checkpoint::open(&path).unwrap();
            let of_gguf = gguf.arch();
            assert_eq!(new.arch().layers, of_gguf.layers, "{arch}");
            assert_eq!(new.arch().attention, of_gguf.attention, "{arch}");
            assert_eq!(new.arch().delta, of_gguf.delta, "{arch}");
            assert_eq!(new.arch().moe, of_gguf.moe, "{arch}");
            assert_eq!(new.arch().tied_head, of_gguf.tied_head, "{arch}");
            assert_eq!(new.arch().context, of_gguf.context, "{arch}");
            let pairs = new.arch().rope.inv_freq.iter().zip(&of_gguf.rope.inv_freq);
            for (x, y) in pairs {
                assert!((x / y - 1.0).abs() < 1e-6, "{arch} {x} {y}");
            }
            same_text(arch, &hf, &new);
        }
    }
}

fn same_text(arch: &str, hf: &Checkpoint, new: &Checkpoint) {
    let (old, read) = (hf.tokenizer().unwrap(), new.tokenizer().unwrap());
    for text in TEXTS {
        for specials in [Specials::Parse, Specials::AsText] {
            let want = old.encode_prompt(text, specials).unwrap();
            assert_eq!(read.encode_prompt(text, specials).unwrap(), want, "{arch}");
        }
    }
    assert_eq!(
        new.generation_defaults().unwrap(),
        hf.generation_defaults().unwrap(),
        "{arch}"
    );
    assert!(new.chat_template().unwrap().is_some(), "{arch}");
}

/// Keys that say where a file comes from, which converters fill in their own way.
fn is_of_the_converter(key: &str) -> bool {
    let words = ["general.name", "general.size_label"];
    words.contains(&key) || key.ends_with("nextn_predict_layers")
}

#[test]
fn keys_are_those_of_a_converter() {
    for arch in ALL {
        let (hf, gguf) = both(arch);
        let (ours, theirs) = (hf.export().unwrap(), gguf.export().unwrap());
        let ours: BTreeMap<String, Item> = ours.metadata.into_iter().collect();
        // Neutral for byte-level tokens, and written by some converters only.
        let neutral = [
            "tokenizer.ggml.add_space_prefix",
            "tokenizer.ggml.add_sep_token",
        ];
        for (key, _) in theirs.metadata {
            // The width of dense layers is there for models that have none, too.
            let unused = arch == "qwen3_moe" && key.ends_with(".feed_forward_length");
            if !is_of_the_converter(&key) && !neutral.contains(&key.as_str()) && !unused {
                assert!(ours.contains_key(&key), "{arch} lacks {key}");
            }
        }
        assert!(!ours.contains_key("general.file_type"), "the writer's");
    }
}

#[test]
fn quantised_sources_are_refused_by_name() {
    let bundled = fixture("../../models/hearth-tiny.gguf");
    let error = Checkpoint::open(&bundled).unwrap().export().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Q8_0") && text.contains("original"), "{text}");
}

/// A directory whose config.json is changed by `change`.
fn changed(arch: &str, change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(arch)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("config.json");
    let mut value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&config, value.to_string()).unwrap();
    folder
}

#[test]
fn what_keys_cannot_say_is_refused() {
    let folder = changed("qwen3_moe", |config| {
        config["norm_topk_prob"] = serde_json::json!(false);
    });
    let export = Checkpoint::open(folder.path())
        .unwrap()
        .export()
        .map(|e| e.metadata);
    let norm = ("qwen3moe.expert_weights_norm".to_owned(), Item::Bool(false));
    assert!(export.unwrap().contains(&norm), "said by a key");
    let folder = tempfile::tempdir().unwrap();
    for name in std::fs::read_dir(fixture("llama")).unwrap() {
        let path = name.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let tokenizer = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    let text = text.replace("\"ignore_merges\": true", "\"ignore_merges\": false");
    let text = text.replace("\"ignore_merges\":true", "\"ignore_merges\":false");
    std::fs::write(&tokenizer, text).unwrap();
    let refused = Checkpoint::open(folder.path())
        .unwrap()
        .export()
        .map(|_| ());
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("combination of settings"), "{text}");
}
