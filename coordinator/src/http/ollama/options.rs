//! Reads `options`: how Ollama's clients say how answers are drawn.
//!
//! | option | accepted | meaning |
//! |---|---|---|
//! | `temperature`, `top_p`, `min_p`, `presence_penalty`, `frequency_penalty` | as in `/v1` | |
//! | `top_k` | -1, 0 and more | -1 and 0 keep all |
//! | `repeat_penalty` | 0.01 to 10 | 1 is off |
//! | `repeat_last_n` | -1, 0 | -1 looks at the whole text, as always; 0 switches the penalty off |
//! | `seed` | any 64-bit integer | -1 or left out: a random one |
//! | `num_predict` | -2, -1, 1 and more | most tokens; negative: up to the context |
//! | `stop` | text or array of up to 16 texts | |
//! | `num_ctx` | 1 and more | of no effect: the context is the household's; what does not fit it is refused |
//! | `typical_p`, `tfs_z`, `mirostat` | 1, 1, 0 | only where they do nothing |
//!
//! What says how a machine computes (`num_gpu`, `num_thread`, `num_batch`, `num_keep`, `use_mmap` and the like) is the
//! household's affair, changes no answer and is ignored.

use proto::limits;
use serde_json::Value;

use crate::gateway::ServedModel;
use crate::http::error::ApiError;
use crate::http::fields::Fields;
use crate::http::sampling::{Draw, TOP_P, stop_texts};

/// Options that are known but not built, and the value at which they do nothing.
const NEUTRAL: [(&str, f64); 3] = [("typical_p", 1.0), ("tfs_z", 1.0), ("mirostat", 0.0)];

/// Reads the options of a request; what it leaves out is as the model's authors recommend.
///
/// # Errors
/// 400 naming the first bad option.
pub(super) fn read(fields: &Fields<'_>, model: &ServedModel) -> Result<Draw, ApiError> {
    let mut draw = Draw::of(model);
    let Some(object) = fields.object("options")? else {
        return Ok(draw);
    };
    let options = Fields::at("options", object);
    let sampling = &mut draw.sampling;
    let set = |slot: &mut f32, name: &str, range| -> Result<(), ApiError> {
        if let Some(number) = options.number(name, range)? {
            *slot = number;
        }
        Ok(())
    };
    set(&mut sampling.temperature, "temperature", 0.0..=2.0)?;
    set(&mut sampling.top_p, "top_p", TOP_P)?;
    set(&mut sampling.min_p, "min_p", 0.0..=1.0)?;
    set(&mut sampling.repetition, "repeat_penalty", 0.01..=10.0)?;
    set(&mut sampling.presence, "presence_penalty", -2.0..=2.0)?;
    set(&mut sampling.frequency, "frequency_penalty", -2.0..=2.0)?;
    if let Some(top_k) = top_k(&options)? {
        sampling.top_k = top_k.min(model.vocab);
    }
    if let Some(seed) = seed(&options)? {
        sampling.seed = seed;
    }
    if looks_back(&options)? == LooksBack::Never {
        sampling.repetition = 1.0;
    }
    draw.max_tokens = num_predict(&options)?;
    draw.stops = stop_texts(&options, "stop")?;
    options.integer("num_ctx", 1..=u32::MAX)?;
    neutral(&options)?;
    Ok(draw)
}

fn top_k(options: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    match options.get("top_k").and_then(Value::as_i64) {
        Some(-1) => Ok(Some(0)),
        _ => options.integer("top_k", 0..=u32::MAX),
    }
}

/// `None` where a random one is wanted.
fn seed(options: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(value) = options.get("seed") else {
        return Ok(None);
    };
    match (value.as_u64(), value.as_i64()) {
        (Some(seed), _) => Ok(Some(seed)),
        (None, Some(-1)) => Ok(None),
        (None, Some(seed)) => Ok(Some(seed.cast_unsigned())),
        (None, None) => Err(options.wrong("seed", value, "an integer of 64 bits")),
    }
}

/// How far the repetition penalty looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LooksBack {
    /// Over the whole text.
    Always,
    /// Not at all.
    Never,
}

fn looks_back(options: &Fields<'_>) -> Result<LooksBack, ApiError> {
    let Some(value) = options.get("repeat_last_n") else {
        return Ok(LooksBack::Always);
    };
    match value.as_i64() {
        Some(-1) => Ok(LooksBack::Always),
        Some(0) => Ok(LooksBack::Never),
        _ => {
            let error = options.wrong("repeat_last_n", value, "-1 (the whole text) or 0 (off)");
            Err(error)
        }
    }
}

fn num_predict(options: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let Some(value) = options.get("num_predict") else {
        return Ok(None);
    };
    let least = u64::from(limits::SEQUENCE_POSITIONS_MAX);
    match (value.as_u64(), value.as_i64()) {
        // More than any context holds is as good as no bound.
        (Some(most), _) if most > least => Ok(None),
        (Some(1..), _) => options.integer("num_predict", 1..=u32::MAX),
        (None, Some(-2 | -1)) => Ok(None),
        _ => Err(options.wrong("num_predict", value, "-2, -1 or an integer from 1")),
    }
}

fn neutral(options: &Fields<'_>) -> Result<(), ApiError> {
    for (name, nothing) in NEUTRAL {
        if let Some(value) = options.get(name)
            && value.as_f64() != Some(nothing)
        {
            let path = options.path(name);
            let message = format!(
                "`{path}` is set; this service cannot honour it yet and expects nothing or {nothing}"
            );
            return Err(ApiError::unsupported(path, message));
        }
    }
    Ok(())
}
