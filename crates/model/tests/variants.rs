//! What producers of model files do differently is either understood or refused by name, never ignored.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests on small numbers"
)]

mod support;

use std::path::{Path, PathBuf};

use model::{Checkpoint, LayerRole, Mixer, Proj, Role, TensorRef};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Entry, File, Raw, copy_directory, fixture};

/// A fixture's GGUF after a change, opened.
fn gguf(arch: &str, change: impl FnOnce(&mut File)) -> Result<Checkpoint, String> {
    let mut file = File::copy_of(&fixture(arch).join("model-f16.gguf"));
    change(&mut file);
    let dir = tempfile::tempdir().unwrap();
    let path = file.write(dir.path(), "m.gguf");
    Checkpoint::open(&path).map_err(|e| e.to_string())
}

/// A fixture's directory after a change of its config, opened.
fn config(arch: &str, change: impl FnOnce(&mut Value)) -> Result<Checkpoint, String> {
    let dir = copy_directory(arch);
    edit_json(&dir.path().join("config.json"), change);
    Checkpoint::open(dir.path()).map_err(|e| e.to_string())
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

fn refused(result: Result<Checkpoint, String>, words: &[&str]) {
    let text = result.map(|model| model.id().to_owned()).unwrap_err();
    for word in words {
        assert!(text.contains(word), "{word:?} not in: {text}");
    }
}

/// Whether two matrices have the same values, wherever they lie.
fn same(a: Option<TensorRef<'_>>, b: Option<TensorRef<'_>>) -> bool {
    let content = |t: TensorRef<'_>| (t.ty, t.rows, t.cols, t.bytes.to_vec());
    a.map(content) == b.map(content)
}

fn same_weights(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.arch(), b.arch());
    for layer in 0..a.arch().layers.len() as u32 {
        for role in a.layer_roles(layer) {
            let role = Role::Layer(layer, role);
            let (a, b) = (a.matrix(role).ok(), b.matrix(role).ok());
            assert!(same(a, b), "{role}");
        }
        for expert in 0..a.arch().moe.map_or(0, |moe| moe.experts as u32) {
            for proj in Proj::ALL {
                let a = a.expert(layer, proj, expert).ok();
                let b = b.expert(layer, proj, expert).ok();
                assert!(
                    a.is_some() && same(a, b),
                    "{proj:?} {expert} of layer {layer}"
                );
            }
        }
    }
}

fn plain(arch: &str) -> Checkpoint {
    Checkpoint::open(&fixture(arch).join("model-f16.gguf")).unwrap()
}

#[test]
fn a_rewritten_file_is_the_same_model() {
    for arch in ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"] {
        same_weights(&plain(arch), &gguf(arch, |_| ()).unwrap());
    }
}

#[test]
fn heads_may_be_arrays_with_zeros_for_delta_layers() {
    let kinds = [0, 0, 0, 1, 0, 0, 0, 1, 1];
    let model = gguf("qwen3_5_moe", |f| {
        f.unset("qwen35moe.attention.recurrent_layers");
        f.unset("qwen35moe.full_attention_interval");
        f.set(
            "qwen35moe.attention.head_count",
            Raw::u32s(&kinds.map(|k| 4 * k)),
        );
        f.set(
            "qwen35moe.attention.head_count_kv",
            Raw::u32s(&kinds.map(|k| 2 * k)),
        );
    });
    same_weights(&plain("qwen3_5_moe"), &model.unwrap());
    let wrong = gguf("qwen3_5_moe", |f| {
        f.set("qwen35moe.attention.head_count_kv", Raw::u32s(&[2; 8]));
    });
    refused(wrong, &["head_count_kv", "each of the 9 blocks"]);
    let uneven = gguf("qwen3_5_moe", |f| {
        f.set(
            "qwen35moe.attention.head_count_kv",
            Raw::u32s(&[0, 0, 0, 1, 0, 0, 0, 2, 2]),
        );
    });
    refused(
        uneven,
        &["head_count_kv", "1 in one attention layer and 2 in another"],
    );
}

#[test]
fn the_interval_serves_where_no_list_is() {
    let model = gguf("qwen3_5_moe", |f| {
        f.unset("qwen35moe.attention.recurrent_layers");
    });
    same_weights(&plain("qwen3_5_moe"), &model.unwrap());
    let other = gguf("qwen3_5_moe", |f| {
        f.unset("qwen35moe.attention.recurrent_layers");
        f.set("qwen35moe.full_attention_interval", Raw::u32(2));
    });
    refused(other, &["blk.1.attn_q.weight", "missing", "[256, 64]"]);
}

#[test]
fn fused_gate_and_up_are_taken_apart() {
    let model = gguf("qwen3_5_moe", |f| {
        for layer in 0..8 {
            let gate = f.take(&format!("blk.{layer}.ffn_gate_exps.weight"));
            let up = f.take(&format!("blk.{layer}.ffn_up_exps.weight"));
            let each = gate.data.len() / 8;
            let halves = gate.data.chunks(each).zip(up.data.chunks(each));
            f.tensors.push(Entry {
                name: format!("blk.{layer}.ffn_gate_up_exps.weight"),
                dims: vec![64, 64, 8],
                data: halves.flat_map(|(g, u)| [g, u].concat()).collect(),
                ..gate
            });
        }
    });
    same_weights(&plain("qwen3_5_moe"), &model.unwrap());
}

#[test]
fn experts_may_have_tensors_of_their_own() {
    let split = |f: &mut File, keep: u64| {
        for layer in 0..4 {
            for proj in ["gate", "up", "down"] {
                let all = f.take(&format!("blk.{layer}.ffn_{proj}_exps.weight"));
                let each = all.data.len() / 16;
                for (expert, data) in all.data.chunks(each).enumerate().take(keep as usize) {
                    f.tensors.push(Entry {
                        name: format!("blk.{layer}.ffn_{proj}.{expert}.weight"),
                        dims: all.dims[..2].to_vec(),
                        data: data.to_vec(),
                        ..all.clone()
                    });
                }
            }
        }
    };
    let model = gguf("qwen3_moe", |f| split(f, 16));
    same_weights(&plain("qwen3_moe"), &model.unwrap());
    let missing = gguf("qwen3_moe", |f| split(f, 15));
    refused(
        missing,
        &["blk.0.ffn_gate.15.weight", "[32, 64]", "missing"],
    );
}

#[test]
fn a_split_model_is_one_model() {
    let whole = File::copy_of(&fixture("qwen3_moe").join("model-f16.gguf"));
    let dir = tempfile::tempdir().unwrap();
    let part = |number: u32| {
        let mut file = whole.clone();
        let third = file.tensors.len().div_ceil(3);
        let chunks: Vec<Vec<Entry>> = file.tensors.chunks(third).map(<[_]>::to_vec).collect();
        file.tensors = chunks[number as usize - 1].clone();
        if number > 1 {
            file.meta.clear();
        }
        file.set("split.no", Raw::u32(number - 1));
        file.set("split.count", Raw::u32(3));
        file.set("split.tensors.count", Raw::u32(whole.tensors.len() as u32));
        file
    };
    let name = |number: u32| format!("big-0000{number}-of-00003.gguf");
    let paths: Vec<PathBuf> = (1..=3)
        .map(|n| part(n).write(dir.path(), &name(n)))
        .collect();
    for path in [&paths[0], &paths[2], &dir.path().to_path_buf()] {
        let model = Checkpoint::open(path).unwrap();
        assert_eq!(model.id(), "big");
        same_weights(&plain("qwen3_moe"), &model);
    }
    let open = || Checkpoint::open(&paths[0]).map_err(|e| e.to_string());

    let mut wrong = part(2);
    wrong.set("split.no", Raw::u32(2));
    wrong.write(dir.path(), &name(2));
    refused(
        open(),
        &["big-00002-of-00003.gguf", "split.no is 2", "expected 1"],
    );
    part(1).write(dir.path(), &name(2));
    refused(open(), &["split.no is 0"]);
    let mut short = part(2);
    short.tensors.pop();
    short.write(dir.path(), &name(2));
    refused(open(), &["number of tensors in all parts"]);
    std::fs::remove_file(&paths[1]).unwrap();
    refused(open(), &["missing", "big-00002-of-00003.gguf"]);
    let renamed = dir.path().join("renamed.gguf");
    std::fs::rename(&paths[0], &renamed).unwrap();
    let result = Checkpoint::open(&renamed).map_err(|e| e.to_string());
    refused(result, &["name", "NAME-00001-of-00003.gguf"]);
}

#[test]
fn settings_that_change_the_result_are_refused() {
    let cases = [
        ("rope.scaling.type", Raw::text("yarn"), "`yarn`"),
        ("rope.scaling.factor", Raw::f32(4.0), "is 4"),
        ("attention.sliding_window", Raw::u32(128), "is 128"),
        ("final_logit_softcapping", Raw::f32(30.0), "is 30"),
        ("attention.causal", Raw::bool(0), "is false"),
        ("expert_count", Raw::u32(8), "is 8"),
        ("attention.value_length", Raw::u32(16), "is 16"),
    ];
    for (key, value, word) in cases {
        let key = format!("llama.{key}");
        let result = gguf("llama", |f| {
            f.set(&key, value);
        });
        refused(result, &[&key, word, "not supported"]);
    }
    let neutral = gguf("llama", |f| {
        f.set("llama.rope.scaling.type", Raw::text("none"));
        f.set("llama.rope.scaling.factor", Raw::f32(1.0));
        f.set("llama.expert_count", Raw::u32(0));
    });
    neutral.unwrap();
}

#[test]
fn senseless_metadata_is_refused_by_key() {
    let cases: [(&str, Raw, &str); 12] = [
        ("block_count", Raw::u32(0), "1 to"),
        ("block_count", Raw::u32(u32::MAX), "1 to"),
        ("block_count", Raw::text("6"), "whole number"),
        ("embedding_length", Raw::u32(1 << 30), "1 to"),
        ("attention.head_count", Raw::u32(0), "heads"),
        ("attention.head_count_kv", Raw::u32(3), "divisor"),
        (
            "attention.layer_norm_rms_epsilon",
            Raw::f32(f32::NAN),
            "finite",
        ),
        (
            "attention.layer_norm_rms_epsilon",
            Raw::f32(-1.0),
            "between 0 and 1",
        ),
        ("rope.freq_base", Raw::f32(0.0), "above 1"),
        ("rope.dimension_count", Raw::u32(33), "even number"),
        (
            "nextn_predict_layers",
            Raw::u32(6),
            "less than the 6 blocks",
        ),
        ("vocab_size", Raw::u32(575), "576"),
    ];
    for (key, value, word) in cases {
        let key = format!("llama.{key}");
        let result = gguf("llama", |f| {
            f.set(&key, value);
        });
        refused(result, &[word]);
    }
    for key in [
        "block_count",
        "embedding_length",
        "context_length",
        "attention.head_count",
        "feed_forward_length",
    ] {
        let key = format!("llama.{key}");
        let result = gguf("llama", |f| {
            f.unset(&key);
        });
        refused(result, &[&key, "missing"]);
    }
    let family = gguf("llama", |f| {
        f.set("general.architecture", Raw::text("gemma3"));
    });
    refused(
        family,
        &["`gemma3`", "qwen35moe, qwen35, qwen3moe, qwen3, llama"],
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let bias = gguf("llama", |f| {
        let like = f.tensor("blk.0.attn_norm.weight").clone();
        f.tensors.push(Entry {
            name: "blk.0.attn_q.bias".to_owned(),
            ..like
        });
    });
    refused(bias, &["`blk.0.attn_q.bias`", "does not have"]);
    let beyond = gguf("llama", |f| {
        let like = f.tensor("blk.0.attn_norm.weight").clone();
        f.tensors.push(Entry {
            name: "blk.6.attn_norm.weight".to_owned(),
            ..like
        });
    });
    refused(beyond, &["`blk.6.attn_norm.weight`"]);
    let missing = gguf("llama", |f| {
        f.take("blk.3.attn_v.weight");
    });
    refused(missing, &["`blk.3.attn_v.weight`", "[64, 64]", "missing"]);
    let transposed = gguf("llama", |f| f.tensor("blk.2.ffn_up.weight").dims.reverse());
    refused(
        transposed,
        &[
            "`blk.2.ffn_up.weight`",
            "shape [64, 160]",
            "expected shape [160, 64]",
        ],
    );
    let kind = gguf("llama", |f| {
        let tensor = f.tensor("blk.2.ffn_up.weight");
        tensor.kind = 6;
        tensor.data.truncate(160 * 64 / 32 * 22);
    });
    refused(kind, &["`blk.2.ffn_up.weight`", "Q5_0", "Q4_K"]);
    let norm = gguf("llama", |f| {
        let tensor = f.tensor("blk.2.ffn_norm.weight");
        tensor.kind = 8;
        tensor.data.truncate(68);
    });
    refused(norm, &["`blk.2.ffn_norm.weight`", "Q8_0", "small tensor"]);
    let factors = gguf("llama", |f| f.tensor("rope_freqs.weight").dims = vec![15]);
    refused(factors, &["rope_freqs.weight", "15"]);
}

#[test]
fn a_type_that_we_do_not_compute_is_no_harm_where_it_is_not_needed() {
    let model = gguf("qwen3_5", |f| {
        let tensor = f.tensor("blk.8.ffn_up.weight");
        tensor.kind = 6;
        tensor.data.truncate(128 * 64 / 32 * 22);
        let like = tensor.clone();
        f.tensors.push(Entry {
            name: "v.patch_embd.weight".to_owned(),
            ..like
        });
    });
    same_weights(&plain("qwen3_5"), &model.unwrap());
}

#[test]
fn a_router_gate_may_have_one_dimension() {
    let model = gguf("qwen3_5_moe", |f| {
        for layer in 0..8 {
            f.tensor(&format!("blk.{layer}.ffn_gate_inp_shexp.weight"))
                .dims = vec![64];
        }
    });
    same_weights(&plain("qwen3_5_moe"), &model.unwrap());
}

#[test]
fn configs_are_read_as_they_are_met() {
    let text_only = config("qwen3_5_moe", |c| {
        let text = c["text_config"].clone();
        *c = text;
    });
    let reference = Checkpoint::open(&fixture("qwen3_5_moe")).unwrap();
    same_weights(&reference, &text_only.unwrap());
    let flat = config("qwen3_5_moe", |c| {
        let text = c["text_config"].as_object_mut().unwrap();
        text.remove("rope_parameters");
        text.remove("layer_types");
        text.insert("rope_theta".to_owned(), json!(1e7));
        text.insert("rope_scaling".to_owned(), Value::Null);
    });
    same_weights(&reference, &flat.unwrap());
    let legacy = config("llama", |c| {
        let mut rope = c["rope_parameters"].clone();
        let kind = rope["rope_type"].take();
        rope["type"] = kind;
        rope.as_object_mut().unwrap().remove("rope_type");
        c.as_object_mut().unwrap().remove("rope_parameters");
        c["rope_scaling"] = rope;
        c["rope_theta"] = json!(500_000.0);
    });
    same_weights(
        &Checkpoint::open(&fixture("llama")).unwrap(),
        &legacy.unwrap(),
    );
    let untied = config("qwen3_5", |c| {
        c.as_object_mut().unwrap().remove("tie_word_embeddings");
        c["text_config"]
            .as_object_mut()
            .unwrap()
            .remove("tie_word_embeddings");
    });
    assert!(untied.unwrap().arch().tied_head);
    let listed = config("qwen3_5_moe", |c| {
        c["text_config"]["layer_types"][0] = json!("full_attention")
    });
    refused(listed, &["layers.0.self_attn.q_proj.weight", "missing"]);
}

#[test]
fn configs_that_we_cannot_honour_are_refused() {
    let cases: [(&str, Value, &str); 14] = [
        ("model_type", json!("gemma3"), "gemma3"),
        ("attention_bias", json!(true), "attention_bias"),
        ("mlp_bias", json!(true), "mlp_bias"),
        ("hidden_act", json!("gelu"), "gelu"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("sliding_window", json!(4096), "sliding_window"),
        ("quantization_config", json!({"quant_method": "fp8"}), "fp8"),
        ("layer_types", json!(["sliding_attention"]), "layer_types"),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0}),
            "yarn",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "llama3", "rope_theta": 5e5}),
            "factor",
        ),
        ("rope_parameters", json!({"rope_theta": 0.5}), "rope base"),
        ("hidden_size", json!(-64), "hidden_size"),
        ("num_hidden_layers", json!(1_000_000), "num_hidden_layers"),
        ("num_key_value_heads", json!(3), "num_key_value_heads"),
    ];
    for (key, value, word) in cases {
        refused(config("llama", |c| c[key] = value), &["config.json", word]);
    }
    for key in [
        "model_type",
        "hidden_size",
        "vocab_size",
        "rms_norm_eps",
        "num_attention_heads",
    ] {
        let result = config("llama", |c| {
            c.as_object_mut().unwrap().remove(key);
        });
        refused(result, &[key, "missing"]);
    }
    refused(
        config("llama", |c| c["vocab_size"] = json!(600)),
        &["embed_tokens", "[576, 64]", "[600, 64]"],
    );
}

#[test]
fn a_layer_outside_the_sparse_step_is_dense() {
    let result = config("qwen3_moe", |c| c["mlp_only_layers"] = json!([1]));
    refused(result, &["layers.1.mlp.gate_proj.weight", "[128, 64]"]);
    let result = config("qwen3_moe", |c| c["decoder_sparse_step"] = json!(2));
    refused(result, &["layers.0.mlp.gate_proj.weight"]);
    let plain = config("qwen3_moe", |c| c["norm_topk_prob"] = json!(false)).unwrap();
    assert!(!plain.arch().moe.unwrap().renormalise);
}

#[test]
fn broken_directories_are_refused() {
    let dir = copy_directory("llama");
    let open = || Checkpoint::open(dir.path()).map_err(|e| e.to_string());
    let index = dir.path().join("model.safetensors.index.json");
    let sound = std::fs::read(&index).unwrap();

    edit_json(&index, |i| {
        i["weight_map"]["lm_head.weight"] = json!("model-00003-of-00003.safetensors")
    });
    refused(
        open(),
        &["lm_head.weight", "model-00003-of-00003.safetensors"],
    );
    edit_json(&index, |i| {
        i["weight_map"]["lm_head.weight"] = json!("../x.safetensors")
    });
    refused(open(), &["lm_head.weight", "plain name"]);
    std::fs::write(&index, &sound).unwrap();
    edit_json(&index, |i| {
        i["weight_map"]["ghost"] = json!("model-00001-of-00003.safetensors")
    });
    refused(open(), &["`ghost`", "not in this file"]);
    std::fs::write(&index, &sound).unwrap();
    std::fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    refused(open(), &["model-00002-of-00003.safetensors", "missing"]);
    std::fs::remove_file(&index).unwrap();
    refused(open(), &["2 safetensors files without an index"]);
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    std::fs::remove_file(dir.path().join("model-00003-of-00003.safetensors")).unwrap();
    refused(open(), &["config.json"]);
    let single = dir.path().join("model-00001-of-00003.safetensors");
    refused(
        Checkpoint::open(&single).map_err(|e| e.to_string()),
        &["its directory"],
    );
    refused(
        Checkpoint::open(&dir.path().join("absent.gguf")).map_err(|e| e.to_string()),
        &["absent.gguf", "cannot open"],
    );
}

#[test]
fn generation_settings_are_checked() {
    let dir = copy_directory("qwen3_5_moe");
    let file = dir.path().join("generation_config.json");
    let model = Checkpoint::open(dir.path()).unwrap();
    std::fs::write(
        &file,
        r#"{"do_sample": false, "temperature": 0.7, "repetition_penalty": 1.1, "eos_token_id": 7}"#,
    )
    .unwrap();
    let defaults = model.generation_defaults().unwrap();
    assert_eq!(
        (defaults.temperature, defaults.repetition_penalty),
        (Some(0.0), Some(1.1))
    );
    assert_eq!(defaults.eos_ids, [7, 512, 514]);
    for bad in [
        r#"{"top_p": 2.0}"#,
        r#"{"temperature": -1}"#,
        r#"{"eos_token_id": "x"}"#,
        "{",
    ] {
        std::fs::write(&file, bad).unwrap();
        let text = model.generation_defaults().unwrap_err().to_string();
        assert!(text.contains("generation_config.json"), "{text}");
    }
}

#[test]
fn an_all_attention_hybrid_needs_no_delta_shape() {
    let layers = vec![0_u32; 9];
    let result = gguf("qwen3_5_moe", |f| {
        f.set("qwen35moe.attention.recurrent_layers", Raw::u32s(&layers));
        f.unset("qwen35moe.ssm.state_size");
    });
    refused(result, &["blk.0.attn_q.weight"]);
    let model = plain("qwen3_5_moe");
    assert_eq!(model.arch().layers[0].mixer, Mixer::DeltaNet);
    assert!(
        model
            .vector(Role::Layer(0, LayerRole::DeltaConv))
            .unwrap()
            .len()
            == 512
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A fixture with flipped bytes in its head, or cut, either opens or is refused; what opens can be read.
    #[test]
    fn damaged_models_never_panic(flips in prop::collection::vec((0_usize..1 << 24, any::<u8>()), 0..4), cut in prop::option::of(0_usize..1 << 24)) {
        let source = fixture("llama").join("model-f16.gguf");
        let mut bytes = std::fs::read(&source).unwrap();
        let head = model::gguf::Gguf::parse(&source, &bytes, 0).unwrap().header_bytes as usize;
        for (at, value) in flips {
            bytes[at % head] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % bytes.len());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(model) = Checkpoint::open(&path) {
            let _ = model.facts();
            let _ = model.generation_defaults();
            for role in model.layer_roles(0) {
                let _ = model.matrix(Role::Layer(0, role));
                let _ = model.vector(Role::Layer(0, role));
            }
        }
    }

    #[test]
    fn damaged_configs_never_panic(at in 0_usize..4096, value in any::<u8>()) {
        let dir = copy_directory("qwen3_5_moe");
        let path = dir.path().join("config.json");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        std::fs::write(&path, bytes).unwrap();
        let _ = Checkpoint::open(dir.path());
    }
}

fn text_of<T>(result: Result<T, model::ModelError>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_tokenizer_that_is_missing_or_unknown_is_refused_when_it_is_asked_for() {
    for key in ["model", "pre", "tokens", "merges", "token_type"] {
        let key = format!("tokenizer.ggml.{key}");
        let model = gguf("llama", |f| {
            f.unset(&key);
        });
        let text = text_of(model.unwrap().tokenizer());
        assert!(text.contains(&key) && text.contains("missing"), "{text}");
    }
    let model = gguf("llama", |f| {
        f.set("tokenizer.ggml.pre", Raw::text("martian"));
    });
    let text = text_of(model.unwrap().tokenizer());
    assert!(
        text.contains("m.gguf") && text.contains("martian"),
        "{text}"
    );
    let dir = copy_directory("llama");
    let model = Checkpoint::open(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let text = text_of(model.tokenizer());
    assert!(
        text.contains("tokenizer.json") && text.contains("cannot open"),
        "{text}"
    );
}

#[test]
fn more_tokens_than_rows_are_refused() {
    let model = gguf("llama", |f| {
        let words: Vec<String> = (0..600).map(|i| format!("t{i}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        f.set("tokenizer.ggml.tokens", Raw::texts(&words));
        f.set("tokenizer.ggml.token_type", Raw::u32s(&[1; 600]));
        f.set("tokenizer.ggml.merges", Raw::texts(&[]));
    });
    let text = text_of(model.unwrap().tokenizer());
    assert!(!text.is_empty());
}

#[test]
fn the_template_file_wins_over_the_configuration() {
    let dir = copy_directory("llama");
    let model = Checkpoint::open(dir.path()).unwrap();
    let own = dir.path().join("chat_template.jinja");
    let config = dir.path().join("tokenizer_config.json");
    let shown = || {
        let template = model.chat_template().unwrap()?;
        let names = ["from_file", "from_config", "from_list"];
        names.into_iter().find(|name| template.mentions(name))
    };
    edit_json(&config, |c| c["chat_template"] = json!("{{ from_config }}"));
    std::fs::write(&own, "{{ from_file }}").unwrap();
    assert_eq!(shown(), Some("from_file"));
    std::fs::remove_file(&own).unwrap();
    assert_eq!(shown(), Some("from_config"));
    edit_json(&config, |c| {
        c["chat_template"] = json!([{"name": "rag", "template": "x"}, {"name": "default", "template": "{{ from_list }}"}]);
    });
    assert_eq!(shown(), Some("from_list"));
    edit_json(&config, |c| c["chat_template"] = Value::Null);
    assert!(model.chat_template().unwrap().is_none());
    edit_json(&config, |c| c["chat_template"] = json!(7));
    assert!(text_of(model.chat_template()).contains("tokenizer_config.json"));
    std::fs::write(&own, "{% if").unwrap();
    assert!(text_of(model.chat_template()).contains("chat_template.jinja"));
}
