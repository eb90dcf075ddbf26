//! The small models of every family open in both formats, and both say the same.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests on small numbers"
)]

mod support;

use model::{
    Architecture, Checkpoint, DType, Family, FfnKind, Format, HeadOrder, LayerRole, Mixer,
    OutputGate, Pairing, Part, Proj, QkNorm, RenderInput, Role, SpecialText, Specials, TensorRef,
    merge_ranges,
};
use proto::facts::MixerKind;
use serde_json::json;
use support::fixture;

const ALL: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"];

fn both(arch: &str) -> (Checkpoint, Checkpoint) {
    let dir = fixture(arch);
    let hf = Checkpoint::open(&dir).unwrap();
    let gguf = Checkpoint::open(&dir.join("model-f16.gguf")).unwrap();
    (hf, gguf)
}

/// A matrix in floats that went through f16, as the GGUF files were made, row by row.
fn widen(matrix: TensorRef<'_>) -> Vec<Vec<f32>> {
    let row_bytes = matrix.ty.row_bytes(matrix.cols).unwrap();
    assert_eq!(matrix.bytes.len(), row_bytes * matrix.rows);
    let value = |b: &[u8]| match matrix.ty {
        DType::F32 => f32::from_le_bytes(b.try_into().unwrap()),
        DType::F16 => half::f16::from_le_bytes(b.try_into().unwrap()).to_f32(),
        _ => {
            let value = half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32();
            half::f16::from_f32(value).to_f32()
        }
    };
    matrix
        .bytes
        .chunks(row_bytes)
        .map(|row| row.chunks(matrix.ty.block_bytes()).map(value).collect())
        .collect()
}

#[test]
fn directories_open_as_safetensors_and_files_as_gguf() {
    for arch in ALL {
        let (hf, gguf) = both(arch);
        assert_eq!(hf.id(), arch);
        assert_eq!(hf.format(), Format::Safetensors);
        assert_eq!(gguf.id(), "model-f16");
        assert_eq!(gguf.format(), Format::Gguf);
    }
}

#[test]
fn a_hybrid_moe_model_is_understood() {
    let (hf, gguf) = both("qwen3_5_moe");
    for (model, order) in [(&hf, HeadOrder::Grouped), (&gguf, HeadOrder::Tiled)] {
        let arch = model.arch();
        assert_eq!(arch.family, Family::Qwen35Moe);
        assert_eq!((arch.hidden, arch.vocab, arch.context), (64, 576, 4096));
        assert_eq!(arch.norm_eps, 1e-6);
        let attention: Vec<usize> = (0..8)
            .filter(|i| arch.layers[*i].mixer == Mixer::Attention)
            .collect();
        assert_eq!((arch.layers.len(), attention), (8, vec![3, 7]));
        assert!(arch.layers.iter().all(|l| l.ffn == FfnKind::Moe));
        let a = arch.attention;
        assert_eq!((a.heads, a.kv_heads, a.head_dim), (4, 2, 32));
        assert_eq!(
            (a.output_gate, a.qk_norm),
            (OutputGate::Sigmoid, QkNorm::PerHead)
        );
        assert_eq!((arch.rope.dims, arch.rope.pairing), (8, Pairing::Halves));
        let d = arch.delta.unwrap();
        assert_eq!(
            (d.key_heads, d.value_heads, d.key_dim, d.value_dim),
            (2, 4, 16, 16)
        );
        assert_eq!((d.conv_kernel, d.channels(), d.head_order), (4, 128, order));
        let m = arch.moe.unwrap();
        assert_eq!((m.experts, m.used, m.width), (8, 2, 32));
        assert_eq!((m.shared_width, m.renormalise), (Some(32), true));
        assert!(!arch.tied_head);
    }
}

#[test]
fn the_other_families_are_understood() {
    let (hf, gguf) = both("qwen3_5");
    for arch in [hf.arch(), gguf.arch()] {
        assert_eq!(arch.family, Family::Qwen35);
        assert!(arch.tied_head && arch.moe.is_none());
        assert_eq!((arch.layers.len(), arch.dense_width), (8, 128));
        assert_eq!(arch.delta.unwrap().value_heads, 6);
    }
    let (hf, gguf) = both("qwen3_moe");
    for arch in [hf.arch(), gguf.arch()] {
        assert_eq!(arch.family, Family::Qwen3Moe);
        assert_eq!((arch.layers.len(), arch.delta), (4, None));
        assert_eq!(arch.attention.output_gate, OutputGate::None);
        assert_eq!(arch.rope.dims, 32);
        let m = arch.moe.unwrap();
        assert_eq!((m.experts, m.used, m.width), (16, 4, 32));
        assert_eq!((m.shared_width, m.renormalise), (None, true));
    }
    let (hf, gguf) = both("llama");
    for (arch, pairing) in [
        (hf.arch(), Pairing::Halves),
        (gguf.arch(), Pairing::Neighbours),
    ] {
        assert_eq!(arch.family, Family::Llama);
        assert_eq!((arch.layers.len(), arch.dense_width), (6, 160));
        assert_eq!(arch.attention.qk_norm, QkNorm::None);
        assert_eq!((arch.rope.pairing, arch.rope.dims), (pairing, 32));
        assert_eq!(arch.norm_eps, 1e-5);
    }
}

#[test]
fn rope_frequencies_agree_between_formats() {
    for arch in ALL {
        let (hf, gguf) = both(arch);
        assert_eq!(hf.arch().rope.inv_freq.len(), hf.arch().rope.dims / 2);
        assert_eq!(
            hf.arch().rope.inv_freq.len(),
            gguf.arch().rope.inv_freq.len()
        );
        let pairs = hf
            .arch()
            .rope
            .inv_freq
            .iter()
            .zip(&gguf.arch().rope.inv_freq);
        for (a, b) in pairs {
            assert!((a / b - 1.0).abs() < 1e-6, "{arch}: {a} {b}");
        }
    }
    // Without the Llama-3 rule the slow half would be eight times faster.
    let (hf, _) = both("llama");
    let last = hf.arch().rope.inv_freq.last().copied().unwrap();
    let plain = 500_000_f64.powf(-30.0 / 32.0);
    assert!((last / (plain / 8.0) - 1.0).abs() < 1e-12);
}

/// Where row `row` of the safetensors matrix is in the GGUF one: value heads are tiled, Llama's rotated heads paired.
fn gguf_row(arch: &Architecture, role: LayerRole, row: usize) -> usize {
    use LayerRole as R;
    let heads_of = |width: usize, offset: usize| match arch.delta {
        Some(d) if row >= offset => offset + tiled(d.key_heads, d.value_heads, width, row - offset),
        _ => row,
    };
    match (role, arch.delta) {
        (R::DeltaQkv | R::DeltaConv, Some(d)) => heads_of(d.value_dim, 2 * d.key_heads * d.key_dim),
        (R::DeltaZ, Some(d)) => heads_of(d.value_dim, 0),
        (R::DeltaB | R::DeltaA | R::DeltaDecay | R::DeltaDtBias, Some(_)) => heads_of(1, 0),
        (R::Q | R::K, _) if arch.family == Family::Llama => {
            let dim = arch.attention.head_dim;
            let (head, i) = (row / dim, row % dim);
            head * dim + (i % (dim / 2)) * 2 + i / (dim / 2)
        }
        _ => row,
    }
}

fn tiled(key_heads: usize, value_heads: usize, width: usize, at: usize) -> usize {
    let (head, inside) = (at / width, at % width);
    let per_key = value_heads / key_heads;
    let (group, i) = (head / per_key, head % per_key);
    (i * key_heads + group) * width + inside
}

#[test]
fn every_matrix_agrees_between_formats() {
    for name in ALL {
        let (hf, gguf) = both(name);
        let arch = hf.arch();
        for role in [Role::Embedding, Role::Head] {
            let same = widen(hf.matrix(role).unwrap()) == widen(gguf.matrix(role).unwrap());
            assert!(same, "{name} {role}");
        }
        let mut compared = 0;
        for layer in 0..arch.layers.len() as u32 {
            assert_eq!(hf.layer_roles(layer), gguf.layer_roles(layer));
            for role in hf.layer_roles(layer) {
                let Ok(a) = hf.matrix(Role::Layer(layer, role)) else {
                    continue;
                };
                let a = widen(a);
                let b = widen(gguf.matrix(Role::Layer(layer, role)).unwrap());
                assert_eq!(a.len(), b.len());
                for (row, values) in a.iter().enumerate() {
                    let other = &b[gguf_row(arch, role, row)];
                    for (col, value) in values.iter().enumerate() {
                        let col = match (role, arch.delta) {
                            (LayerRole::DeltaOut, Some(d)) => {
                                tiled(d.key_heads, d.value_heads, d.value_dim, col)
                            }
                            _ => col,
                        };
                        // Routers and other small matrices stay F32 in GGUF, without the way through f16.
                        let near = (value - other[col]).abs() <= 1e-7;
                        assert!(near, "{name} layer {layer} {role:?} row {row}");
                    }
                }
                compared += 1;
            }
        }
        assert!(compared >= 5 * arch.layers.len(), "{name}: {compared}");
    }
}

#[test]
fn every_expert_agrees_between_formats() {
    for name in ["qwen3_5_moe", "qwen3_moe"] {
        let (hf, gguf) = both(name);
        let moe = hf.arch().moe.unwrap();
        for layer in 0..hf.arch().layers.len() as u32 {
            for proj in Proj::ALL {
                for expert in 0..moe.experts as u32 {
                    let a = hf.expert(layer, proj, expert).unwrap();
                    let b = gguf.expert(layer, proj, expert).unwrap();
                    let shape = if proj == Proj::Down {
                        (64, 32)
                    } else {
                        (32, 64)
                    };
                    assert_eq!((a.rows, a.cols), shape);
                    assert!(widen(a) == widen(b), "{name} {layer} {proj:?} {expert}");
                }
            }
        }
        assert!(hf.expert(0, Proj::Up, moe.experts as u32).is_err());
        assert!(gguf.expert(0, Proj::Up, u32::MAX).is_err());
        assert!(gguf.expert(99, Proj::Up, 0).is_err());
    }
}

#[test]
fn every_vector_agrees_between_formats() {
    for name in ALL {
        let (hf, gguf) = both(name);
        let arch = hf.arch();
        assert_eq!(
            hf.vector(Role::OutputNorm).unwrap(),
            gguf.vector(Role::OutputNorm).unwrap()
        );
        for layer in 0..arch.layers.len() as u32 {
            for role in hf.layer_roles(layer) {
                if hf.matrix(Role::Layer(layer, role)).is_ok() {
                    continue;
                }
                let a = hf.vector(Role::Layer(layer, role)).unwrap();
                let b = gguf.vector(Role::Layer(layer, role)).unwrap();
                assert_eq!(a.len(), b.len());
                let width = if role == LayerRole::DeltaConv { 4 } else { 1 };
                for (at, value) in a.iter().enumerate() {
                    let other = b[gguf_row(arch, role, at / width) * width + at % width];
                    let near = (value - other).abs() <= 1e-6 * value.abs();
                    assert!(near, "{name} layer {layer} {role:?} {at}: {value} {other}");
                }
            }
        }
    }
}

#[test]
fn norms_are_plain_and_decay_is_negative() {
    let (hf, _) = both("qwen3_5_moe");
    let norm = hf.vector(Role::Layer(0, LayerRole::AttnNorm)).unwrap();
    let mean = norm.iter().sum::<f32>() / norm.len() as f32;
    assert!((0.5..1.5).contains(&mean), "{mean}");
    let decay = hf.vector(Role::Layer(0, LayerRole::DeltaDecay)).unwrap();
    assert!(decay.iter().all(|a| *a < 0.0));
}

#[test]
fn questions_for_what_is_not_there_are_refused() {
    let (hf, gguf) = both("llama");
    for model in [&hf, &gguf] {
        assert!(model.matrix(Role::Layer(0, LayerRole::DeltaQkv)).is_err());
        assert!(model.matrix(Role::Layer(6, LayerRole::Q)).is_err());
        assert!(model.matrix(Role::OutputNorm).is_err());
        assert!(model.expert(0, Proj::Gate, 0).is_err());
        assert!(model.ranges(&Part::Trunk(6)).is_err());
        assert!(
            model
                .ranges(&Part::ExpertGroup { layer: 0, group: 0 })
                .is_err()
        );
        assert!(model.ranges(&Part::HeadRows(0..577)).is_err());
    }
    assert!(gguf.vector(Role::RopeFactors).is_ok());
    assert!(hf.vector(Role::RopeFactors).is_err());
}

#[test]
fn facts_count_every_needed_byte_once() {
    for name in ALL {
        for model in <[Checkpoint; 2]>::from(both(name)) {
            let facts = model.facts();
            let types: u64 = facts.types.iter().map(|t| t.bytes).sum();
            let norm = 64 * if model.format() == Format::Gguf { 4 } else { 2 };
            let untied = if facts.tied_head { norm } else { 0 };
            // Frequency factors are read into the architecture, they are no weights of a part.
            let factors = model
                .vector(Role::RopeFactors)
                .map_or(0, |f| 4 * f.len() as u64);
            assert_eq!(facts.weight_bytes() + untied + factors, types, "{name}");
            assert!(facts.file_bytes > types && !facts.quantised);
            assert_eq!(facts.layers.len(), model.arch().layers.len());
        }
    }
}

#[test]
fn facts_of_the_hybrid_model_are_right() {
    let (hf, gguf) = both("qwen3_5_moe");
    for model in [&hf, &gguf] {
        let facts = model.facts();
        assert_eq!((facts.experts, facts.experts_used), (8, 2));
        assert_eq!(
            (facts.embedding_bytes, facts.head_macs),
            (576 * 64 * 2, 576 * 64)
        );
        let delta = &facts.layers[0];
        assert_eq!(delta.mixer, MixerKind::DeltaNet);
        assert_eq!(delta.state_bytes_per_sequence, 4 * (4 * 16 * 16 + 3 * 128));
        assert_eq!(delta.kv_values_per_position, 0);
        assert_eq!(delta.expert_bytes, 3 * 32 * 64 * 2);
        assert_eq!(delta.expert_macs, 3 * 32 * 64);
        assert_eq!(delta.group_bytes, vec![delta.expert_bytes; 8]);
        let attention = &facts.layers[3];
        assert_eq!(attention.mixer, MixerKind::Attention);
        assert_eq!(attention.kv_values_per_position, 2 * 2 * 32);
        assert_eq!(attention.state_bytes_per_sequence, 0);
        let shared = 3 * 32 * 64 + 64;
        let attention_macs = 256 * 64 + 2 * 64 * 64 + 64 * 128 + 8 * 64 + shared;
        assert_eq!(attention.trunk_macs, attention_macs);
    }
}

#[test]
fn parts_can_be_read_in_and_let_go() {
    for model in <[Checkpoint; 2]>::from(both("qwen3_5_moe")) {
        let mut ranges = Vec::new();
        for layer in 0..8 {
            ranges.extend(model.ranges(&Part::Trunk(layer)).unwrap());
            for group in 0..model.groups(layer) {
                ranges.extend(model.ranges(&Part::ExpertGroup { layer, group }).unwrap());
            }
        }
        let ranges = merge_ranges(ranges);
        let wanted: u64 = ranges.iter().map(|r| r.len).sum();
        let mut done = 0;
        model.prefault(&ranges, &mut |bytes| done += bytes);
        assert_eq!(done, wanted);
        let before = model.vector(Role::Layer(0, LayerRole::AttnNorm)).unwrap();
        model.release(&ranges);
        assert_eq!(
            model.vector(Role::Layer(0, LayerRole::AttnNorm)).unwrap(),
            before
        );
        model.unchanged().unwrap();
    }
}

#[test]
fn identity_is_that_of_the_content() {
    let (hf, gguf) = both("llama");
    assert_ne!(hf.identity(), gguf.identity());
    let (again, _) = both("llama");
    assert_eq!(hf.identity(), again.identity());
    let copy = support::copy_directory("llama");
    let copied = Checkpoint::open(copy.path()).unwrap();
    assert_eq!(hf.identity(), copied.identity());

    let config = copy.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("500000.0", "400000.0")).unwrap();
    let other = Checkpoint::open(copy.path()).unwrap();
    assert_eq!(hf.identity().size_bytes, other.identity().size_bytes);
    assert_ne!(hf.identity().blake3, other.identity().blake3);
}

#[test]
fn a_file_that_changes_is_noticed() {
    let copy = support::copy_directory("llama");
    let model = Checkpoint::open(copy.path()).unwrap();
    model.unchanged().unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(copy.path().join("model-00002-of-00003.safetensors"))
        .unwrap();
    file.set_len(100).unwrap();
    let text = model.unchanged().unwrap_err().to_string();
    assert!(
        text.contains("model-00002-of-00003") && text.contains("changed under"),
        "{text}"
    );
}

#[test]
fn every_stop_id_is_found() {
    for (name, ids) in [
        ("qwen3_5_moe", vec![512, 514]),
        ("qwen3_5", vec![512, 514]),
        ("qwen3_moe", vec![512, 514]),
        ("llama", vec![513, 517]),
    ] {
        let (hf, gguf) = both(name);
        for model in [&hf, &gguf] {
            let defaults = model.generation_defaults().unwrap();
            assert_eq!(defaults.eos_ids, ids, "{name} {:?}", model.format());
            assert_eq!(defaults.temperature, Some(1.0));
            assert_eq!((defaults.top_p, defaults.top_k), (Some(0.95), Some(20)));
            assert_eq!((defaults.min_p, defaults.repetition_penalty), (None, None));
        }
    }
}

#[test]
fn the_bundled_model_opens() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/hearth-tiny.gguf");
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(model.id(), "hearth-tiny");
    let arch = model.arch();
    assert_eq!(
        (arch.family, arch.hidden, arch.vocab),
        (Family::Qwen35Moe, 256, 1536)
    );
    assert_eq!(model.matrix(Role::Head).unwrap().ty, DType::Q8_0);
    assert!(model.facts().quantised);
    assert!(model.generation_defaults().unwrap().eos_ids.contains(&1525));
}

#[test]
fn tokenizers_of_both_formats_agree() {
    for name in ALL {
        let (hf, gguf) = both(name);
        let (a, b) = (hf.tokenizer().unwrap(), gguf.tokenizer().unwrap());
        assert_eq!((a.bos(), a.add_bos()), (b.bos(), b.add_bos()), "{name}");
        for text in ["Hello, world! 12345", "  été\n\n<|im_end|> naïve"] {
            for specials in [Specials::Parse, Specials::AsText] {
                let ids = a.encode(text, specials).unwrap();
                assert_eq!(ids, b.encode(text, specials).unwrap(), "{name}");
                assert_eq!(a.decode(&ids, SpecialText::Keep), text);
            }
        }
    }
}

#[test]
fn chat_templates_of_both_formats_agree() {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for name in ALL {
        let (hf, gguf) = both(name);
        let render = |model: &Checkpoint| {
            let input = RenderInput {
                messages: &messages,
                tools: None,
                add_generation_prompt: true,
                extra: &serde_json::Map::new(),
            };
            let template = model.chat_template().unwrap().unwrap();
            template.render(&input).unwrap()
        };
        let text = render(&hf);
        assert_eq!(text, render(&gguf));
        assert!(text.contains("Hi"), "{text}");
    }
}
