//! What an answer has to look like: `response_format` and the extensions that say the same in other words.
//!
//! | field | accepted | meaning |
//! |---|---|---|
//! | `response_format` | `{"type": "text"}` | any text |
//! | | `{"type": "json_object"}` | a JSON object |
//! | | `{"type": "json_schema", "json_schema": {"schema": .., "name": .., "strict": ..}}` | JSON that the schema allows |
//! | `guided_json`, `structured_outputs.json` | a schema, or its text | as `json_schema` with `strict` |
//! | `structured_outputs.json_object` | `true` | a JSON object |
//! | `guided_regex`, `structured_outputs.regex` | a regular expression | text that matches it as a whole |
//! | `guided_choice`, `structured_outputs.choice` | an array of texts | one of them |
//! | `grammar`, `guided_grammar`, `structured_outputs.grammar` | a Lark grammar | text of its rule `start` |
//!
//! At most one of them. With `strict` a schema that cannot be followed in full is refused, with the path of what cannot.
//! Without it (as if `false`) the answer is constrained all the same, and what cannot be followed is left out: unknown
//! formats and keywords such as `uniqueItems` and `not`, and `oneOf` is read as `anyOf`.
//!
//! Together with tools that may be called, an answer is text of the format or calls alone: with `json_object` and
//! `json_schema`, and models whose calls have marks of their own. Everything else is refused then. Where a call is
//! demanded there is no text that could have a format.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::gateway::Constraint;
use crate::text::{
    Begin, Element, Form, GrammarError, OutputFormat, Reading, Reasoning, Strictness, ToolUse,
    bound,
};

use super::api::Api;
use super::error::ApiError;
use super::fields::{Fields, wrong};

/// A form that was asked for, and by which field.
struct Asked {
    form: Form,
    /// Path of the field, for errors.
    field: String,
}

/// Characters of a schema's name, which nothing depends on.
const NAME_CHARS_MAX: usize = 64;

/// Reads the format that a request asks for.
///
/// # Errors
/// 400 naming the first bad field, or the second of two formats.
pub(super) fn read(fields: &Fields<'_>) -> Result<OutputFormat, ApiError> {
    let mut all = Vec::new();
    all.extend(response_format(fields)?);
    let own = [
        ("grammar", Kind::Lark),
        ("guided_grammar", Kind::Lark),
        ("guided_json", Kind::Json),
        ("guided_regex", Kind::Regex),
        ("guided_choice", Kind::Choice),
    ];
    all.extend(of_kinds(fields, &own)?);
    if let Some(object) = fields.object("structured_outputs")? {
        let inner = [
            ("json", Kind::Json),
            ("json_object", Kind::Object),
            ("regex", Kind::Regex),
            ("choice", Kind::Choice),
            ("grammar", Kind::Lark),
        ];
        let inside = Fields::at("structured_outputs", object);
        let known = |name: &String| inner.iter().any(|(known, _)| known == name);
        if let Some(name) = object.keys().find(|name| !known(name)) {
            let path = inside.path(name);
            let message = format!(
                "`{path}` is not known; expected one of json, json_object, regex, choice and grammar"
            );
            return Err(ApiError::unsupported(path, message));
        }
        all.extend(of_kinds(&inside, &inner)?);
    }
    if let [first, second, ..] = all.as_slice() {
        let message = format!(
            "`{}` and `{}` both say what the answer looks like; expected at most one of them",
            first.field, second.field
        );
        return Err(ApiError::field(second.field.clone(), message));
    }
    if let Some(format) = all.first()
        && fields.flag("ignore_eos")? == Some(true)
    {
        let message = format!(
            "`ignore_eos` is true together with `{}`; a constrained answer ends with an end token, so expected one of the two",
            format.field
        );
        return Err(ApiError::field("ignore_eos", message));
    }
    Ok(match all.pop() {
        None => OutputFormat::Text,
        Some(Asked { form, field }) => OutputFormat::Form { form, field },
    })
}

/// Reads a format whose type and schema are in one object, as in `text.format` of a response.
///
/// # Errors
/// 400 naming the first bad field.
pub(super) fn read_flat(fields: &Fields<'_>, name: &str) -> Result<OutputFormat, ApiError> {
    const EXPECTED: &str = "text, json_object or json_schema";
    let Some(object) = fields.object(name)? else {
        return Ok(OutputFormat::Text);
    };
    let inside = Fields::at(&fields.path(name), object);
    let asked = match inside.text("type")? {
        None => return Err(inside.missing("type", EXPECTED)),
        Some("text") => return Ok(OutputFormat::Text),
        Some("json_object") => Asked {
            form: any_object(),
            field: fields.path(name),
        },
        Some("json_schema") => json_schema(&inside)?,
        Some(_) => {
            let path = inside.path("type");
            let message = format!("`{path}` is an unknown text; expected {EXPECTED}");
            return Err(ApiError::unsupported(path, message));
        }
    };
    let Asked { form, field } = asked;
    Ok(OutputFormat::Form { form, field })
}

/// Reads a format that is a word or a schema, as in Ollama's `format`. What a schema cannot say is left out.
///
/// # Errors
/// 400 if it is neither.
pub(super) fn read_word_or_schema(
    fields: &Fields<'_>,
    name: &str,
) -> Result<OutputFormat, ApiError> {
    let form = match fields.get(name) {
        None => return Ok(OutputFormat::Text),
        Some(Value::String(word)) if word.is_empty() => return Ok(OutputFormat::Text),
        Some(Value::String(word)) if word == "json" => any_object(),
        Some(schema @ Value::Object(_)) => Form::Json {
            schema: schema.clone(),
            strictness: Strictness::Loose,
        },
        Some(other) => return Err(fields.wrong(name, other, "`json` or a JSON schema")),
    };
    let field = fields.path(name);
    Ok(OutputFormat::Form { form, field })
}

/// What a field of an extension holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Json,
    Object,
    Regex,
    Choice,
    Lark,
}

fn of_kinds(fields: &Fields<'_>, kinds: &[(&str, Kind)]) -> Result<Vec<Asked>, ApiError> {
    let mut all = Vec::new();
    for (name, kind) in kinds {
        let form = match kind {
            Kind::Json => guided_json(fields, name)?,
            Kind::Object => fields
                .flag(name)?
                .filter(|wanted| *wanted)
                .map(|_| any_object()),
            Kind::Regex => fields.text(name)?.map(|text| Form::Regex(text.to_owned())),
            Kind::Lark => fields.text(name)?.map(|text| Form::Lark(text.to_owned())),
            Kind::Choice => choice(fields, name)?,
        };
        let field = fields.path(name);
        all.extend(form.map(|form| Asked { form, field }));
    }
    Ok(all)
}

fn any_object() -> Form {
    Form::Json {
        schema: json!({"type": "object"}),
        strictness: Strictness::Strict,
    }
}

/// A schema as an object or as its text.
fn guided_json(fields: &Fields<'_>, name: &str) -> Result<Option<Form>, ApiError> {
    const EXPECTED: &str = "a JSON schema, as an object or as its text";
    let schema = match fields.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) => {
            let read = super::body::parse_object(text.as_bytes()).map(Value::Object);
            read.map_err(|_| {
                ApiError::field(
                    fields.path(name),
                    format!(
                        "`{}` is a string that is no JSON object; expected {EXPECTED}",
                        fields.path(name)
                    ),
                )
            })?
        }
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => return Err(fields.wrong(name, other, EXPECTED)),
    };
    let strictness = Strictness::Strict;
    Ok(Some(Form::Json { schema, strictness }))
}

fn choice(fields: &Fields<'_>, name: &str) -> Result<Option<Form>, ApiError> {
    let Some(list) = fields.array(name)? else {
        return Ok(None);
    };
    let text = |(at, value): (usize, &Value)| match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        other => Err(wrong(
            &format!("{}[{at}]", fields.path(name)),
            other,
            "a string that is not empty",
        )),
    };
    let texts: Result<Vec<String>, ApiError> = list.iter().enumerate().map(text).collect();
    Ok(Some(Form::Choice(texts?)))
}

fn response_format(fields: &Fields<'_>) -> Result<Option<Asked>, ApiError> {
    const EXPECTED: &str = "text, json_object or json_schema";
    let Some(object) = fields.object("response_format")? else {
        return Ok(None);
    };
    let inside = Fields::at("response_format", object);
    match inside.text("type")? {
        None => Err(inside.missing("type", EXPECTED)),
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Asked {
            form: any_object(),
            field: fields.path("response_format"),
        })),
        Some("json_schema") => {
            let object = inside.object("json_schema")?;
            let object =
                object.ok_or_else(|| inside.missing("json_schema", "an object with `schema`"))?;
            json_schema(&Fields::at(&inside.path("json_schema"), object)).map(Some)
        }
        Some(_) => {
            let path = inside.path("type");
            let message = format!("`{path}` is an unknown text; expected {EXPECTED}");
            Err(ApiError::unsupported(path, message))
        }
    }
}

fn json_schema(inside: &Fields<'_>) -> Result<Asked, ApiError> {
    if let Some(name) = inside.text("name")?
        && name.chars().count() > NAME_CHARS_MAX
    {
        let expected = format!("at most {NAME_CHARS_MAX} characters");
        return Err(inside.wrong("name", &Value::from(name), &expected));
    }
    inside.text("description")?;
    let strictness = match inside.flag("strict")? {
        Some(true) => Strictness::Strict,
        Some(false) | None => Strictness::Loose,
    };
    let schema = inside.object("schema")?.cloned();
    let schema: Map<String, Value> =
        schema.ok_or_else(|| inside.missing("schema", "a JSON schema"))?;
    Ok(Asked {
        form: Form::Json {
            schema: Value::Object(schema),
            strictness,
        },
        field: inside.path("schema"),
    })
}

/// What binds an answer: its format and the calls that it may or has to make.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    /// What was asked of the text.
    pub(super) format: OutputFormat,
    /// What was asked of the calls.
    pub(super) tools: ToolUse,
}

impl Binding {
    /// Of text without calls.
    pub(super) fn of(format: OutputFormat) -> Self {
        let tools = ToolUse::default();
        Self { format, tools }
    }

    /// The field that errors without a path name.
    fn field(&self) -> &str {
        match &self.format {
            OutputFormat::Form { field, .. } => field,
            OutputFormat::Text => "tools",
        }
    }
}

impl Api {
    /// Compiles what binds an answer outside the async threads; an answer that begins inside its reasoning is
    /// constrained after it.
    ///
    /// # Errors
    /// 400 naming what cannot be honoured.
    pub(super) async fn constraint(
        self: &Arc<Self>,
        binding: Binding,
        reading: &Reading,
    ) -> Result<Option<Constraint>, ApiError> {
        if binding.format == OutputFormat::Text && !binding.tools.binds() {
            return Ok(None);
        }
        let begin = match reading.reasoning {
            Reasoning::Inside => Begin::AfterReasoning,
            Reasoning::Off | Reasoning::Watch => Begin::AtOnce,
        };
        // Never closed; without a place one would only wait no longer.
        let _place = self.compilations.acquire().await.ok();
        let grammars = self.grammars.clone();
        let model = Arc::clone(self.gateway.model());
        let calls = reading.calls.clone();
        self.compute(move || {
            let Binding { format, tools } = &binding;
            let form = bound(&model.tokenizer, tools, calls.as_ref(), format);
            let form = form.map_err(|error| refusal(&binding, None, &error))?;
            let Some(form) = form else {
                return Ok(None);
            };
            let compiled = grammars.compile(&form, begin);
            let compiled = compiled.map_err(|error| refusal(&binding, Some(&form), &error))?;
            Ok(Some(compiled))
        })
        .await?
    }

    /// Compiles a recorded answer.
    ///
    /// # Errors
    /// 400 if it cannot be drawn.
    pub(super) async fn exactly(self: &Arc<Self>, text: String) -> Result<Constraint, ApiError> {
        let _place = self.compilations.acquire().await.ok();
        let grammars = self.grammars.clone();
        let form = Form::Parts(Element::Text(text));
        let compiled = self.compute(move || grammars.compile(&form, Begin::AtOnce));
        let refused = |error| {
            let binding = Binding::of(OutputFormat::Text);
            refusal(&binding, None, &error)
        };
        compiled.await?.map_err(refused)
    }
}

/// Paths in errors of a format by itself begin at its schema, those of others at the request.
fn refusal(binding: &Binding, form: Option<&Form>, error: &GrammarError) -> ApiError {
    let field = binding.field();
    match error {
        GrammarError::Schema { path, reason } => {
            let path = match form {
                None | Some(Form::Parts(_)) => path.clone(),
                Some(_) if path.is_empty() => field.to_owned(),
                Some(_) => format!("{field}.{path}"),
            };
            let message = format!("`{path}` cannot be honoured: {reason}");
            ApiError::field(path, message)
        }
        GrammarError::Form(reason) => {
            ApiError::field(field, format!("`{field}` cannot be honoured: {reason}"))
        }
        GrammarError::NoEnd | GrammarError::Vocabulary(_) => {
            ApiError::unsupported(field, format!("`{field}` cannot be honoured: {error}"))
        }
    }
}
