//! What Ollama's clients ask about models: version, list, details, what runs.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use model::Format;
use serde_json::{Map, Value, json};

use crate::gateway::{Phase, ServedModel};
use crate::http::api::Api;
use crate::http::body;
use crate::http::error::{ApiError, json_response};
use crate::http::fields::Fields;

use super::clock::rfc3339;
use super::{LATEST, check_model};

/// The version of Ollama whose fields are spoken; clients ask for at least some.
const OLLAMA_VERSION: &str = "0.12.6";
/// When a model that stays in memory leaves it: never, written as clients can read it.
const NEVER: &str = "2262-01-01T00:00:00Z";

/// `GET /api/version`.
pub(super) async fn version() -> Response<Body> {
    let body = json!({ "version": OLLAMA_VERSION, "hearth": env!("CARGO_PKG_VERSION") });
    json_response(StatusCode::OK, &body)
}

/// `GET /api/tags`: the models that can be asked for.
pub(super) async fn tags(State(api): State<Arc<Api>>) -> Response<Body> {
    let mut entry = entry(api.gateway.model());
    entry.insert(
        "modified_at".to_owned(),
        created(api.gateway.model()).into(),
    );
    json_response(StatusCode::OK, &json!({ "models": [entry] }))
}

/// `GET /api/ps`: the models that are in memory.
pub(super) async fn running(State(api): State<Arc<Api>>) -> Response<Body> {
    let status = api.gateway.status();
    let mut models = Vec::new();
    if matches!(status.phase, Phase::Ready | Phase::Draining) {
        let mut entry = entry(api.gateway.model());
        entry.insert("expires_at".to_owned(), NEVER.into());
        // Weights are in the memory of CPUs.
        entry.insert("size_vram".to_owned(), 0.into());
        entry.insert("context_length".to_owned(), status.context.into());
        models.push(entry);
    }
    json_response(StatusCode::OK, &json!({ "models": models }))
}

/// `POST /api/show`: details of one model.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let object = body::read_object(&api.config.limits, request).await?;
    let model = api.gateway.model();
    check_model(&Fields::body(&object), model)?;
    let facts = &model.card.facts;
    let context = match api.gateway.status().context {
        // Before there is a plan.
        0 => facts.context,
        served => served,
    };
    let family = &facts.family;
    let mut info = Map::new();
    let mut put = |key: String, value: Value| info.insert(key, value);
    put("general.architecture".to_owned(), family.as_str().into());
    put("general.basename".to_owned(), model.id.as_str().into());
    put(
        "general.parameter_count".to_owned(),
        model.card.parameters().into(),
    );
    put(format!("{family}.context_length"), context.into());
    put(format!("{family}.embedding_length"), facts.hidden.into());
    put(format!("{family}.block_count"), facts.layers.len().into());
    put(format!("{family}.vocab_size"), facts.vocab.into());
    if facts.experts > 0 {
        put(format!("{family}.expert_count"), facts.experts.into());
        put(
            format!("{family}.expert_used_count"),
            facts.experts_used.into(),
        );
    }
    let body = json!({
        "details": details(model),
        "model_info": info,
        "capabilities": capabilities(model),
        "modified_at": created(model),
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// Everything that would change models.
pub(super) async fn owners_alone() -> ApiError {
    ApiError::forbidden(
        "models are the owner's to change: run `coordinator model add` on the coordinator's machine",
    )
}

fn created(model: &ServedModel) -> String {
    rfc3339(Duration::from_secs(model.created_unix_s))
}

/// What every list says of a model.
fn entry(model: &ServedModel) -> Map<String, Value> {
    let name = format!("{}{LATEST}", model.id);
    let digest = model.card.identity.blake3;
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut entry = Map::new();
    let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    put("name", name.as_str().into());
    put("model", name.as_str().into());
    put("size", model.card.identity.size_bytes.into());
    put("digest", digest.into());
    put("details", details(model));
    entry
}

fn details(model: &ServedModel) -> Value {
    let family = &model.card.facts.family;
    json!({
        "parent_model": "",
        "format": match model.card.format {
            Format::Gguf => "gguf",
            Format::Safetensors => "safetensors",
        },
        "family": family,
        "families": [family],
        "parameter_size": parameter_size(model.card.parameters()),
        "quantization_level": model.card.main_type(),
    })
}

fn capabilities(model: &ServedModel) -> Vec<&'static str> {
    let knows = |word: &str| {
        let template = model.template.as_ref();
        template.is_some_and(|template| template.mentions(word))
    };
    let mut all = vec!["completion"];
    if knows("tools") {
        all.push("tools");
    }
    if knows("enable_thinking") || knows("<think>") {
        all.push("thinking");
    }
    all
}

/// A count as people say it: `34.7B`.
fn parameter_size(count: u64) -> String {
    let (unit, letter) = match count {
        1_000_000_000.. => (1_000_000_000, 'B'),
        1_000_000.. => (1_000_000, 'M'),
        1_000.. => (1_000, 'K'),
        _ => return count.to_string(),
    };
    let tenths = count / (unit / 10);
    format!("{}.{}{letter}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_one_digit_after_the_point() {
        for (count, text) in [
            (999, "999"),
            (1_000, "1.0K"),
            (34_660_610_688, "34.6B"),
            (1_050_000, "1.0M"),
            (999_999_999, "999.9M"),
        ] {
            assert_eq!(parameter_size(count), text);
        }
    }
}
