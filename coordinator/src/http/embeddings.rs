//! `POST /v1/embeddings`: texts turned into vectors of length 1.
//!
//! | field | accepted | meaning |
//! |---|---|---|
//! | `input` | text, array of texts, token ids, array of token ids | up to 2048, none empty |
//! | `dimensions` | 1 to the model's own | that many values are kept, then scaled to length 1 |
//! | `encoding_format` | `float`, `base64` | base64 of 32-bit floats, little-endian |
//! | `pooling` | `last`, `mean` | ours: the row of the last token (left out: this), or the mean of all rows |
//! | `user` | anything | ignored |

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::step::Pooling;
use serde::Serialize;
use serde_json::Value;

use crate::gateway::ServedModel;
use crate::text::{Embed, Prompt, Vectors, encode_prompts};

use super::api::Api;
use super::error::{ApiError, json_response};
use super::fields::{Fields, wrong};
use super::{body, guard, sampling};

/// Inputs of one request.
const INPUTS_MAX: usize = 2048;
/// Values of all vectors of one request: 16 MiB of 32-bit floats.
const VALUES_MAX: usize = 4 << 20;

/// The route.
pub(super) async fn handle(
    State(api): State<Arc<Api>>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let object = body::read_object(&api.config.limits, request).await?;
    let model = Arc::clone(api.gateway.model());
    let fields = Fields::body(&object);
    super::api::check_model(&fields, &model)?;
    let encoding = match fields.text("encoding_format")? {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => {
            return Err(ApiError::field(
                "encoding_format",
                "`encoding_format` is an unknown text; expected float or base64",
            ));
        }
    };
    let wanted = Wanted::read(&fields, "input", &model)?;
    drop(object);
    let inputs = wanted.encoded(&api, Cut::Never).await?;
    let vectors = wanted.vectors(&api, inputs).await?;
    let written = move || json_response(StatusCode::OK, &List::new(&model.id, vectors, encoding));
    api.compute(written).await
}

/// What a request for vectors asks, in any dialect.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    inputs: Vec<Prompt>,
    pooling: Pooling,
    dimensions: usize,
    /// The field that errors name.
    field: &'static str,
}

/// What becomes of an input that is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is refused.
    Never,
    /// Its end is left out.
    End,
}

impl Wanted {
    /// Reads the inputs from `field`, `dimensions` and `pooling`.
    ///
    /// # Errors
    /// 400 naming the first bad field.
    pub(super) fn read(
        fields: &Fields<'_>,
        field: &'static str,
        model: &ServedModel,
    ) -> Result<Self, ApiError> {
        let hidden = model.card.facts.hidden;
        let dimensions = fields.integer("dimensions", 1..=hidden)?.unwrap_or(hidden);
        let dimensions = usize::try_from(dimensions).unwrap_or(usize::MAX);
        let pooling = match fields.text("pooling")? {
            None | Some("last") => Pooling::Last,
            Some("mean") => Pooling::Mean,
            Some(_) => {
                return Err(ApiError::field(
                    "pooling",
                    "`pooling` is an unknown text; expected last or mean",
                ));
            }
        };
        let inputs = inputs(fields, field, model)?;
        let most = VALUES_MAX / dimensions.max(1);
        if inputs.len() > most {
            let message = format!(
                "`{field}` is an array of {} with vectors of {dimensions} values; expected at most {most}: send several requests",
                inputs.len()
            );
            return Err(ApiError::field(field, message));
        }
        Ok(Self {
            inputs,
            pooling,
            dimensions,
            field,
        })
    }

    /// The ids of all inputs.
    ///
    /// # Errors
    /// 400 if an input cannot be tokenised, 503 while the service cannot answer.
    pub(super) async fn encoded(
        &self,
        api: &Arc<Api>,
        cut: Cut,
    ) -> Result<Vec<Vec<u32>>, ApiError> {
        api.ready()?;
        let model = Arc::clone(api.gateway.model());
        let (inputs, field) = (self.inputs.clone(), self.field);
        let mut inputs = api
            .compute(move || encode_prompts(&model.tokenizer, inputs))
            .await?
            .map_err(|error| ApiError::prompt(field, &error))?;
        if cut == Cut::End {
            let context = usize::try_from(api.gateway.status().context).unwrap_or(usize::MAX);
            let end = api.gateway.model().tokenizer.eos();
            inputs
                .iter_mut()
                .for_each(|input| cut_end(input, context, end));
        }
        Ok(inputs)
    }

    /// The vectors of all inputs.
    ///
    /// # Errors
    /// 400, 429, 500 or 503.
    pub(super) async fn vectors(
        &self,
        api: &Arc<Api>,
        inputs: Vec<Vec<u32>>,
    ) -> Result<Vectors, ApiError> {
        let embed = Embed {
            inputs,
            pooling: self.pooling,
            dimensions: self.dimensions,
        };
        let caller = guard::caller()?;
        let visit = caller.enter(&api.gateway.model().id);
        let visit = visit.map_err(|over| ApiError::over_limit(&over))?;
        let vectors = embed
            .run(&api.gateway, caller.person())
            .await
            .map_err(|error| ApiError::embed(self.field, &error, &api.gateway.status()))?;
        visit.begin(vectors.tokens);
        Ok(vectors)
    }
}

/// Leaves out the end of an input that is too long. An end-of-text token that its model puts there stays the last one:
/// the row of that token is what such a model was trained to give.
fn cut_end(input: &mut Vec<u32>, context: usize, end: Option<u32>) {
    if input.len() <= context {
        return;
    }
    let last = input.last().copied().filter(|last| Some(*last) == end);
    input.truncate(context);
    if let (Some(slot), Some(last)) = (input.last_mut(), last) {
        *slot = last;
    }
}

fn inputs(
    fields: &Fields<'_>,
    field: &'static str,
    model: &ServedModel,
) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str =
        "a string, an array of token ids, an array of strings, or an array of arrays of token ids";
    let value = fields
        .get(field)
        .ok_or_else(|| fields.missing(field, EXPECTED))?;
    let list = match value {
        Value::String(text) => return Ok(vec![some_text(field, text)?]),
        Value::Array(list) if !list.is_empty() => list,
        other => return Err(wrong(field, other, EXPECTED)),
    };
    if list.first().is_some_and(Value::is_number) {
        let ids = sampling::token_ids(field, list, model)?;
        return Ok(vec![Prompt::Ids(ids)]);
    }
    if list.len() > INPUTS_MAX {
        let expected = format!("at most {INPUTS_MAX}: send several requests");
        return Err(wrong(field, value, &expected));
    }
    let one = |(index, entry): (usize, &Value)| {
        let path = format!("{field}[{index}]");
        match entry {
            Value::String(text) => some_text(&path, text),
            Value::Array(ids) if !ids.is_empty() => {
                Ok(Prompt::Ids(sampling::token_ids(&path, ids, model)?))
            }
            other => Err(wrong(
                &path,
                other,
                "a string or an array of token ids, not empty",
            )),
        }
    };
    list.iter().enumerate().map(one).collect()
}

fn some_text(path: &str, text: &str) -> Result<Prompt, ApiError> {
    if text.is_empty() {
        let message = format!("`{path}` is a string of 0 bytes; expected a text that is not empty");
        return Err(ApiError::field(path, message));
    }
    Ok(Prompt::Text(text.to_owned()))
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Float,
    Base64,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Written,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Floats(Vec<f32>),
    Text(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl<'a> List<'a> {
    fn new(model: &'a str, vectors: Vectors, encoding: Encoding) -> Self {
        let entries = vectors.values.into_iter().enumerate();
        Self {
            object: "list",
            data: entries
                .map(|(index, vector)| Entry {
                    object: "embedding",
                    index,
                    embedding: match encoding {
                        Encoding::Float => Written::Floats(vector),
                        Encoding::Base64 => Written::Text(base64_of(&vector)),
                    },
                })
                .collect(),
            model,
            usage: Usage {
                prompt_tokens: vectors.tokens,
                total_tokens: vectors.tokens,
            },
        }
    }
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_input_keeps_its_end_of_text() {
        for (input, end, expected) in [
            (vec![1, 2, 3], Some(9), vec![1, 2, 3]),
            (vec![1, 2, 3, 4], Some(9), vec![1, 2, 3]),
            (vec![1, 2, 3, 9], Some(9), vec![1, 2, 9]),
            (vec![1, 2, 3, 9], None, vec![1, 2, 3]),
        ] {
            let mut cut = input.clone();
            cut_end(&mut cut, 3, end);
            assert_eq!(cut, expected, "{input:?}");
        }
        let mut none = vec![9, 9];
        cut_end(&mut none, 0, Some(9));
        assert!(none.is_empty());
    }
}
