//! The metadata of a safetensors directory in the keys of GGUF.
//!
//! Every number comes from the checked architecture, so that the new file means what was read, not what was written.

use std::path::Path;

use serde_json::Value;

use crate::{
    Checkpoint, DeltaShape, Family, FfnKind, Mixer, ModelError, MoeShape, OutputGate, chat, files,
    gguf::write::Item,
    tokenizer::{self, GgufTokenizer},
};

/// Keys and values in the order in which they are written.
#[derive(Default)]
struct Keys(Vec<(String, Item)>);

impl Keys {
    fn put(&mut self, key: impl Into<String>, item: Item) {
        self.0.push((key.into(), item));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, Item::Text(text.to_owned()));
    }

    fn number(&mut self, key: String, n: usize) {
        // Dimensions were read as at most 2^30.
        self.put(key, Item::U32(u32::try_from(n).unwrap_or(u32::MAX)));
    }
}

/// The keys of the model in `dir`, whose config.json says `config`.
pub(super) fn metadata(
    checkpoint: &Checkpoint,
    dir: &Path,
    config: &Value,
) -> Result<Vec<(String, Item)>, ModelError> {
    let mut keys = Keys::default();
    let family = checkpoint.arch().family;
    keys.text("general.architecture", family.name());
    keys.text("general.type", "model");
    keys.text("general.name", checkpoint.id());
    sampling(checkpoint, &mut keys)?;
    shape(checkpoint, &mut keys)?;
    if let Some(moe) = &checkpoint.arch().moe {
        experts(checkpoint, moe, &mut keys)?;
    }
    if family.has_delta() {
        hybrid(checkpoint, config, &mut keys)?;
    }
    text(checkpoint, dir, &mut keys)?;
    Ok(keys.0)
}

fn refused(checkpoint: &Checkpoint, what: &str, got: &str, expected: &str) -> ModelError {
    ModelError::unsupported(&checkpoint.path().join("config.json"), what, got, expected)
}

fn sampling(checkpoint: &Checkpoint, keys: &mut Keys) -> Result<(), ModelError> {
    let defaults = checkpoint.generation_defaults()?;
    let floats = [
        ("temp", defaults.temperature),
        ("top_p", defaults.top_p),
        ("min_p", defaults.min_p),
        ("penalty_repeat", defaults.repetition_penalty),
    ];
    for (name, value) in floats {
        if let Some(value) = value {
            keys.put(format!("general.sampling.{name}"), Item::F32(value));
        }
    }
    if let Some(k) = defaults.top_k {
        keys.put("general.sampling.top_k", Item::U32(k));
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "files hold f32")]
fn shape(checkpoint: &Checkpoint, keys: &mut Keys) -> Result<(), ModelError> {
    let arch = checkpoint.arch();
    let family = arch.family.name();
    let attention = &arch.attention;
    if arch.family == Family::Llama && arch.rope.dims != attention.head_dim {
        return Err(refused(
            checkpoint,
            "`partial_rotary_factor`",
            "below 1",
            "1: GGUF files of Llama rotate whole heads",
        ));
    }
    let numbers = [
        ("vocab_size", arch.vocab),
        ("block_count", arch.layers.len()),
        ("context_length", arch.context),
        ("embedding_length", arch.hidden),
        ("attention.head_count", attention.heads),
        ("attention.head_count_kv", attention.kv_heads),
        ("attention.key_length", attention.head_dim),
        ("attention.value_length", attention.head_dim),
        ("rope.dimension_count", arch.rope.dims),
    ];
    for (key, n) in numbers {
        keys.number(format!("{family}.{key}"), n);
    }
    if arch.dense_width > 0 {
        keys.number(format!("{family}.feed_forward_length"), arch.dense_width);
    }
    keys.put(
        format!("{family}.rope.freq_base"),
        Item::F32(arch.rope.base as f32),
    );
    keys.put(
        format!("{family}.attention.layer_norm_rms_epsilon"),
        Item::F32(arch.norm_eps),
    );
    Ok(())
}

fn experts(checkpoint: &Checkpoint, moe: &MoeShape, keys: &mut Keys) -> Result<(), ModelError> {
    let arch = checkpoint.arch();
    let family = arch.family.name();
    keys.number(format!("{family}.expert_count"), moe.experts);
    keys.number(format!("{family}.expert_used_count"), moe.used);
    keys.number(format!("{family}.expert_feed_forward_length"), moe.width);
    if let Some(width) = moe.shared_width {
        keys.number(format!("{family}.expert_shared_feed_forward_length"), width);
    }
    if !moe.renormalise {
        keys.put(format!("{family}.expert_weights_norm"), Item::Bool(false));
    }
    let dense = |kind: &crate::LayerKind| kind.ffn == FfnKind::Dense;
    let leading = arch.layers.iter().take_while(|kind| dense(kind)).count();
    if arch.layers.iter().skip(leading).any(dense) {
        return Err(refused(
            checkpoint,
            "`mlp_only_layers` or `decoder_sparse_step`",
            "a layer without experts behind one with experts",
            "layers without experts only at the start, as GGUF can say it",
        ));
    }
    if leading > 0 {
        keys.number(format!("{family}.leading_dense_block_count"), leading);
    }
    Ok(())
}

/// Keys of models whose layers may be gated delta nets.
fn hybrid(checkpoint: &Checkpoint, config: &Value, keys: &mut Keys) -> Result<(), ModelError> {
    let arch = checkpoint.arch();
    let family = arch.family.name();
    if arch.attention.output_gate == OutputGate::None {
        return Err(refused(
            checkpoint,
            "`attn_output_gate`",
            "false",
            "true: GGUF files of this family have the gate",
        ));
    }
    keys.put(
        format!("{family}.rope.dimension_sections"),
        Item::I32s(sections(config, arch.rope.dims)),
    );
    let recurrent: Vec<bool> = arch
        .layers
        .iter()
        .map(|kind| kind.mixer == Mixer::DeltaNet)
        .collect();
    let interval = recurrent.iter().position(|recurrent| !recurrent);
    if let Some(interval) = interval {
        keys.number(format!("{family}.full_attention_interval"), interval + 1);
    }
    keys.put(
        format!("{family}.attention.recurrent_layers"),
        Item::Bools(recurrent),
    );
    if let Some(delta) = &arch.delta {
        delta_net(family, delta, keys);
    }
    Ok(())
}

fn delta_net(family: &str, delta: &DeltaShape, keys: &mut Keys) {
    let numbers = [
        ("ssm.conv_kernel", delta.conv_kernel),
        ("ssm.state_size", delta.key_dim),
        ("ssm.group_count", delta.key_heads),
        ("ssm.time_step_rank", delta.value_heads),
        ("ssm.inner_size", delta.value_heads * delta.value_dim),
    ];
    for (key, n) in numbers {
        keys.number(format!("{family}.{key}"), n);
    }
}

/// Rotated pairs of each stream of positions (time, height, width), filled up to four. Text has the same position in
/// all streams, so that any division gives the same numbers.
fn sections(config: &Value, dims: usize) -> Vec<i32> {
    let text = config.get("text_config").unwrap_or(config);
    let nested = ["rope_parameters", "rope_scaling"];
    let given = nested.iter().find_map(|key| {
        let list = text.get(key)?.get("mrope_section")?.as_array()?;
        let numbers = list.iter().map(|n| i32::try_from(n.as_u64()?).ok());
        numbers.collect::<Option<Vec<i32>>>()
    });
    let all = i32::try_from(dims / 2).unwrap_or(i32::MAX);
    let mut sections = given
        .filter(|list| list.len() <= 4 && list.iter().copied().fold(0, i32::saturating_add) == all)
        .unwrap_or_else(|| vec![all]);
    sections.resize(4, 0);
    sections
}

/// Tokenizer, end tokens and chat template.
fn text(checkpoint: &Checkpoint, dir: &Path, keys: &mut Keys) -> Result<(), ModelError> {
    let path = dir.join("tokenizer.json");
    let config = files::read_text_if(&dir.join("tokenizer_config.json"))?;
    let built = tokenizer::to_gguf(
        &files::read_text(&path)?,
        config.as_deref(),
        checkpoint.arch().vocab,
    );
    let (parts, padding) = built.map_err(|source| ModelError::Tokenizer { path, source })?;
    tokens(checkpoint, parts, keys)?;
    if let Some(id) = padding {
        keys.put("tokenizer.ggml.padding_token_id", Item::U32(id));
    }
    if let Some(template) = chat::directory_source(dir)? {
        keys.text("tokenizer.chat_template", &template);
    }
    Ok(())
}

fn tokens(
    checkpoint: &Checkpoint,
    parts: GgufTokenizer,
    keys: &mut Keys,
) -> Result<(), ModelError> {
    let named: Vec<Option<u32>> = end_ids(checkpoint, &parts)?;
    let ids = [
        ("bos_token_id", parts.bos),
        ("eos_token_id", named.first().copied().flatten()),
        ("eot_token_id", named.get(1).copied().flatten()),
        ("eom_token_id", named.get(2).copied().flatten()),
    ];
    keys.text("tokenizer.ggml.model", &parts.model);
    keys.text("tokenizer.ggml.pre", &parts.pre);
    keys.put("tokenizer.ggml.tokens", Item::Texts(parts.tokens));
    keys.put("tokenizer.ggml.token_type", Item::I32s(parts.types));
    keys.put("tokenizer.ggml.merges", Item::Texts(parts.merges));
    for (key, id) in ids {
        if let Some(id) = id {
            keys.put(format!("tokenizer.ggml.{key}"), Item::U32(id));
        }
    }
    for (key, flag) in [
        ("add_bos_token", parts.add_bos),
        ("add_eos_token", parts.add_eos),
    ] {
        if let Some(flag) = flag {
            keys.put(format!("tokenizer.ggml.{key}"), Item::Bool(flag));
        }
    }
    Ok(())
}

/// The end ids that need keys: the tokenizer's own first, then those that no reader would find by their names.
fn end_ids(checkpoint: &Checkpoint, parts: &GgufTokenizer) -> Result<Vec<Option<u32>>, ModelError> {
    let all = checkpoint.generation_defaults()?.eos_ids;
    let found_by_name = |id: u32| {
        let token = usize::try_from(id).ok().and_then(|id| parts.tokens.get(id));
        token.is_some_and(|token| crate::generation::ends_a_turn(token))
    };
    let eos = parts.eos.or_else(|| all.first().copied());
    let more = all
        .into_iter()
        .filter(|id| Some(*id) != eos && !found_by_name(*id));
    let ids: Vec<Option<u32>> = std::iter::once(eos).chain(more.map(Some)).collect();
    if ids.len() > 3 {
        return Err(ModelError::unsupported(
            &checkpoint.path().join("generation_config.json"),
            "`eos_token_id`",
            format!("{} tokens with unusual names", ids.len()),
            "at most 3, as GGUF can say it",
        ));
    }
    Ok(ids)
}
