//! What an answer with calls of tools is held to.
//!
//! Brings the description of calls, the choice of tools and the format of the answer together into one [`Form`].
//!
//! | the request | the answer |
//! |---|---|
//! | a call is demanded | calls and nothing else, whatever format is asked for: there is no text that could have one |
//! | a format, and tools that may be called | text of the format, or calls and nothing else |
//! | a strict tool that may be called | any text, then calls or none |
//! | neither | whatever the model writes |
//!
//! Every call follows the schema of its tool as far as the tool is strict; those of other tools as far as it goes. What
//! would be read as a call cannot be written as text beside it.

mod values;

use model::Tokenizer;
use serde_json::{Map, Value};

use super::chat::{OutputFormat, Parallel, Strictness, Tool, ToolChoice, ToolUse};
use super::grammar::{Element, Form, GrammarError, check_schema};
use super::tools::{CallBody, CallForm, CallGrammar, CallReading, CallStyle};

use values::{Value as TagValue, contains};

/// Names of function tags, which are read as calls without any markup around them.
const FUNCTION: &str = "<function=";
const PYTHON_TAG: &str = "<|python_tag|>";

/// The form that binds an answer; `None` if nothing does. `calls` says how its calls are read.
///
/// # Errors
/// A strict schema that cannot be followed; paths begin at the request. A format that cannot stand beside calls.
pub(crate) fn bound(
    tokenizer: &Tokenizer,
    uses: &ToolUse,
    calls: Option<&CallReading>,
    format: &OutputFormat,
) -> Result<Option<Form>, GrammarError> {
    let format = match format {
        OutputFormat::Text => None,
        OutputFormat::Form { form, field } => Some((form, field)),
    };
    let Some(calls) = calls else {
        return Ok(format.map(|(form, _)| form.clone()));
    };
    let binder = Binder { tokenizer, calls };
    let part = match (&uses.choice, format) {
        (ToolChoice::Required, _) => binder.calls(&calls.grammar(None))?,
        (ToolChoice::Named(name), _) => binder.calls(&calls.grammar(Some(name)))?,
        (ToolChoice::Auto | ToolChoice::None, Some((form, field))) => {
            let text = beside_calls(calls.style, form, field)?;
            let calls = binder.calls(&calls.grammar(None))?;
            Element::OneOf(vec![text, calls])
        }
        (ToolChoice::Auto | ToolChoice::None, None) if uses.binds() => {
            binder.text_and_calls(&calls.grammar(None))?
        }
        (ToolChoice::Auto | ToolChoice::None, None) => return Ok(None),
    };
    Ok(Some(Form::Parts(part)))
}

/// A format whose text no call begins like.
fn beside_calls(style: CallStyle, form: &Form, field: &str) -> Result<Element, GrammarError> {
    match (style, form) {
        (CallStyle::Xml | CallStyle::Hermes, Form::Json { schema, strictness }) => {
            Ok(Element::Json {
                schema: schema.clone(),
                strictness: *strictness,
                path: field.to_owned(),
            })
        }
        _ => Err(GrammarError::Form(
            "with this model it cannot stand beside tools that may be called; expected `tool_choice` to be none or to demand a call, or no tools".to_owned(),
        )),
    }
}

fn text(text: &str) -> Element {
    Element::Text(text.to_owned())
}

/// Makes parts of descriptions.
struct Binder<'b> {
    tokenizer: &'b Tokenizer,
    calls: &'b CallReading,
}

impl Binder<'_> {
    /// One call, or several.
    fn calls(&self, grammar: &CallGrammar) -> Result<Element, GrammarError> {
        let call = Element::OneOf(self.forms(grammar, "")?);
        Ok(match grammar.parallel {
            Parallel::One => call,
            Parallel::Any => Element::Several {
                part: Box::new(call),
                between: grammar.between.to_owned(),
            },
        })
    }

    /// Any text that cannot be taken for a call, then calls or none.
    fn text_and_calls(&self, grammar: &CallGrammar) -> Result<Element, GrammarError> {
        let words = |like: &str, never: &[&str]| {
            let words = Element::Words {
                like: vec![like.to_owned()],
                unlike: never.iter().map(|text| contains(text)).collect(),
                end: String::new(),
            };
            Element::Optional(Box::new(words))
        };
        if self.calls.style == CallStyle::Llama {
            // A call stands alone: the answer's first sign says what it is.
            let said = words(r"\s*[^\s{](?s:.*)", &[PYTHON_TAG]);
            return Ok(Element::OneOf(vec![self.calls(grammar)?, said]));
        }
        let never = [grammar.trigger, FUNCTION];
        let mark = self.tokenizer.token_id(grammar.trigger);
        if mark.is_some_and(|id| self.tokenizer.is_added(id)) {
            let calls = Element::Optional(Box::new(self.calls(grammar)?));
            return Ok(Element::Sequence(vec![words("(?s:.+)", &never), calls]));
        }
        // Where the mark is ordinary text it is found by its first occurrence.
        let said = Element::Words {
            like: vec!["(?s:.*)".to_owned()],
            unlike: never.iter().map(|text| contains(text)).collect(),
            end: grammar.trigger.to_owned(),
        };
        let mut marked = vec![said, Element::OneOf(self.forms(grammar, grammar.trigger)?)];
        if grammar.parallel == Parallel::Any {
            let more = vec![text(grammar.between), self.calls(grammar)?];
            marked.push(Element::Optional(Box::new(Element::Sequence(more))));
        }
        let plain = words("(?s:.+)", &never);
        Ok(Element::OneOf(vec![Element::Sequence(marked), plain]))
    }

    /// Every form without what is written already.
    fn forms(&self, grammar: &CallGrammar, written: &str) -> Result<Vec<Element>, GrammarError> {
        let forms = grammar.forms.iter();
        forms.map(|form| self.form(form, written)).collect()
    }

    fn form(&self, form: &CallForm, written: &str) -> Result<Element, GrammarError> {
        let tool = self.calls.tools.iter().find(|tool| tool.name == form.tool);
        let (strictness, place) = match tool {
            Some(tool) => (tool.strictness, tool.place.as_str()),
            None => (Strictness::Loose, "tools"),
        };
        let begin = form.begin.strip_prefix(written).unwrap_or(&form.begin);
        let mut parts = vec![text(begin)];
        match &form.body {
            CallBody::Json(schema) => parts.push(Element::Json {
                schema: of_object(schema, place)?,
                strictness,
                path: place.to_owned(),
            }),
            CallBody::Tags { schema, .. } => {
                let schema = of_object(schema, place)?;
                check_schema(&schema, strictness, place)?;
                if let Value::Object(root) = &schema {
                    tags(root, form, (tool, strictness, place), &mut parts)?;
                }
            }
        }
        parts.push(text(form.end));
        Ok(Element::Sequence(parts))
    }
}

/// The schema of arguments, which are always an object.
fn of_object(schema: &Value, place: &str) -> Result<Value, GrammarError> {
    const OBJECT: &str = "object";
    let Value::Object(schema) = schema else {
        return Err(wrong(place, "it is no object; a JSON schema was expected"));
    };
    let mut schema = schema.clone();
    match schema.get("type") {
        None => {}
        Some(Value::String(name)) if name == OBJECT => {}
        Some(Value::Array(names)) if names.iter().any(|name| name == OBJECT) => {}
        Some(_) => {
            let place = format!("{place}.type");
            return Err(wrong(&place, "arguments are an object"));
        }
    }
    schema.insert("type".to_owned(), OBJECT.into());
    Ok(Value::Object(schema))
}

fn wrong(path: &str, reason: &str) -> GrammarError {
    GrammarError::Schema {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Keywords about the arguments as a whole, which no order of tags can follow.
const BEYOND_TAGS: [&str; 9] = [
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "enum",
    "const",
    "patternProperties",
    "minProperties",
    "maxProperties",
];

/// Parameters in the order of the schema, and none that it does not name.
fn tags(
    root: &Map<String, Value>,
    form: &CallForm,
    (tool, strictness, place): (Option<&Tool>, Strictness, &str),
    parts: &mut Vec<Element>,
) -> Result<(), GrammarError> {
    let CallBody::Tags { parameters, .. } = &form.body else {
        return Ok(());
    };
    let strict = strictness == Strictness::Strict;
    if strict && let Some(keyword) = BEYOND_TAGS.iter().find(|name| root.contains_key(**name)) {
        let reason = "calls of this model are written in tags, which cannot follow this keyword";
        return Err(wrong(&format!("{place}.{keyword}"), reason));
    }
    let required = root.get("required").and_then(Value::as_array);
    let missing = |name: &&Value| !parameters.iter().any(|known| **name == *known.name);
    if strict && required.into_iter().flatten().any(|name| missing(&name)) {
        let reason = "it names what is not in `properties`, which tags cannot follow";
        return Err(wrong(&format!("{place}.required"), reason));
    }
    for parameter in parameters {
        let path = format!("{place}.properties.{}", parameter.name);
        let writable = !parameter.name.is_empty() && !parameter.name.contains(['>', '\n', '\r']);
        let allowed = parameter.schema != Value::Bool(false);
        if !writable || !allowed {
            if strict && parameter.required {
                return Err(wrong(&path, "no tag can be written for it"));
            }
            continue;
        }
        let value = TagValue {
            root,
            tool,
            name: &parameter.name,
            strictness,
            end: &parameter.end,
        };
        let part = Element::Sequence(vec![
            text(&parameter.begin),
            value.part(&parameter.schema, &path)?,
        ]);
        parts.push(match parameter.required {
            true => part,
            false => Element::Optional(Box::new(part)),
        });
    }
    Ok(())
}
