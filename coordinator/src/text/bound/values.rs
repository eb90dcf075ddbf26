//! Values between tags: strings are written bare, everything else as JSON.
//!
//! What a text between tags means follows from the schema: it is the first kind of value that fits, and a string
//! otherwise. So a string that may be written must not look like any other kind that the schema allows.

use serde_json::{Map, Value as Json};

use super::{text, wrong};
use crate::text::chat::{Strictness, Tool};
use crate::text::grammar::{Element, GrammarError};
use crate::text::tools::{Kinds, resolve};

/// References and alternatives inside each other.
const DEPTH_MAX: u32 = 16;
/// Alternatives of one value.
const ALTERNATIVES_MAX: usize = 64;

/// Keywords that say nothing about which values are valid.
const SAYING: [&str; 13] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
    "$defs",
    "definitions",
];
/// Keywords about strings that are followed, beside `type`, `enum` and `const`.
const OF_STRINGS: [&str; 4] = ["minLength", "maxLength", "pattern", "format"];

/// How a string may look in a format.
const FORMATS: [(&str, &str); 5] = [
    ("date", DATE),
    (
        "date-time",
        "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
    ),
    (
        "uuid",
        "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    ),
    (
        "ipv4",
        "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    ),
    (
        "email",
        "[A-Za-z0-9_%+-]{1,30}(?:\\.[A-Za-z0-9_%+-]{1,30})?@(?:[A-Za-z0-9]{1,30}\\.){1,3}[A-Za-z]{2,10}",
    ),
];
const DATE: &str = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-9]))";

/// An expression of every text with this one in it.
pub(super) fn contains(text: &str) -> String {
    format!("(?s:.*){}(?s:.*)", quoted(text))
}

/// A text as an expression.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for sign in text.chars() {
        if r"\.+*?()|[]{}^$#&-~/".contains(sign) && sign != '/' {
            quoted.push('\\');
        }
        quoted.push(sign);
    }
    quoted
}

/// The value of one parameter.
pub(super) struct Value<'v> {
    /// The whole schema of the arguments.
    pub root: &'v Map<String, Json>,
    pub tool: Option<&'v Tool>,
    /// The parameter's name.
    pub name: &'v str,
    pub strictness: Strictness,
    /// What closes it.
    pub end: &'v str,
}

/// One way in which a value may be written.
enum Way<'v> {
    /// Any text: every value is valid.
    Any,
    /// A string of this schema.
    Text(Map<String, Json>, &'v str),
    /// JSON of this schema that is no string.
    Json(Json, &'v str),
}

impl<'v> Value<'v> {
    /// The value and what closes it.
    pub fn part(&self, schema: &'v Json, path: &'v str) -> Result<Element, GrammarError> {
        let mut ways = Vec::new();
        self.gather(schema, path, DEPTH_MAX, &mut ways)?;
        if ways.len() > ALTERNATIVES_MAX {
            return Err(wrong(path, "it has too many alternatives"));
        }
        if ways.is_empty() && self.strictness == Strictness::Strict {
            return Err(wrong(path, "it allows nothing"));
        }
        if ways.is_empty() || ways.iter().any(|way| matches!(way, Way::Any)) {
            return Ok(self.words(vec!["(?s:.*)".to_owned()], Vec::new()));
        }
        let parts: Result<Vec<Element>, GrammarError> = ways
            .into_iter()
            .map(|way| match way {
                Way::Any => Ok(self.words(vec!["(?s:.*)".to_owned()], Vec::new())),
                Way::Text(schema, path) => self.string(&schema, path),
                Way::Json(schema, path) => Ok(Element::Sequence(vec![
                    Element::Json {
                        schema: self.with_definitions(schema),
                        strictness: self.strictness,
                        path: path.to_owned(),
                    },
                    text(self.end),
                ])),
            })
            .collect();
        Ok(Element::OneOf(parts?))
    }

    /// Text between the tags.
    fn words(&self, like: Vec<String>, mut unlike: Vec<String>) -> Element {
        // The first closing tag closes, wherever it stands.
        unlike.push(contains(self.end.trim()));
        Element::Words {
            like,
            unlike,
            end: self.end.to_owned(),
        }
    }

    /// What cannot be followed: refused if it has to be, any text otherwise.
    fn beyond(
        &self,
        path: &str,
        reason: &str,
        ways: &mut Vec<Way<'v>>,
    ) -> Result<(), GrammarError> {
        if self.strictness == Strictness::Strict {
            return Err(wrong(path, reason));
        }
        ways.push(Way::Any);
        Ok(())
    }

    fn gather(
        &self,
        schema: &'v Json,
        path: &'v str,
        depth: u32,
        ways: &mut Vec<Way<'v>>,
    ) -> Result<(), GrammarError> {
        let object = match schema {
            Json::Object(object) => object,
            Json::Bool(false) => return Ok(()),
            _ => {
                ways.push(Way::Any);
                return Ok(());
            }
        };
        let deeper = depth.checked_sub(1);
        if deeper.is_none() || ways.len() > ALTERNATIVES_MAX {
            return self.beyond(path, "it refers to too much else", ways);
        }
        let deeper = deeper.unwrap_or_default();
        let telling: Vec<&str> = object.keys().map(String::as_str).collect();
        let telling: Vec<&str> = telling
            .into_iter()
            .filter(|name| !SAYING.contains(name))
            .collect();
        match telling.as_slice() {
            [] => ways.push(Way::Any),
            ["$ref"] => {
                let reference = object.get("$ref").and_then(Json::as_str);
                match reference.and_then(|reference| resolve(self.root, reference)) {
                    Some(target) => return self.gather(target, path, deeper, ways),
                    None => return self.beyond(path, "its reference leads nowhere", ways),
                }
            }
            [word @ ("anyOf" | "oneOf")] if self.may_part(object, word) => {
                let options = object.get(*word).and_then(Json::as_array);
                for option in options.into_iter().flatten() {
                    self.gather(option, path, deeper, ways)?;
                }
            }
            _ => return self.leaf(object, path, ways),
        }
        Ok(())
    }

    /// Whether alternatives can be written one by one. Of `oneOf` a strict schema allows one alone: those of different
    /// kinds exclude each other.
    fn may_part(&self, object: &Map<String, Json>, word: &str) -> bool {
        if word == "anyOf" || self.strictness == Strictness::Loose {
            return true;
        }
        let options = object.get(word).and_then(Json::as_array);
        let mut seen = Kinds::default();
        options.into_iter().flatten().all(|option| {
            let mut kinds = Kinds::of_schema(self.root, option);
            if kinds.has(Kinds::NUMBER) {
                kinds.add(Kinds::INTEGER);
            }
            let apart = !seen.has(kinds);
            seen.add(kinds);
            apart
        })
    }

    /// A schema without alternatives: the strings of it, and the rest.
    fn leaf(
        &self,
        object: &Map<String, Json>,
        path: &'v str,
        ways: &mut Vec<Way<'v>>,
    ) -> Result<(), GrammarError> {
        let kinds = Kinds::of_schema(self.root, &Json::Object(object.clone()));
        let values = object.get("enum").and_then(Json::as_array);
        let values: Option<Vec<Json>> = match (values, object.get("const")) {
            (Some(values), None) => Some(values.clone()),
            (None, Some(value)) => Some(vec![value.clone()]),
            (None, None) => None,
            (Some(_), Some(_)) => return self.beyond(path, "it has `enum` and `const`", ways),
        };
        if values.is_none() && object.contains_key("enum") {
            return self.beyond(path, "`enum` is no array", ways);
        }
        if !kinds.has(Kinds::STRING) {
            ways.push(Way::Json(Json::Object(object.clone()), path));
            return Ok(());
        }
        let followed = |name: &String| {
            let name = name.as_str();
            OF_STRINGS.contains(&name)
                || SAYING.contains(&name)
                || matches!(name, "type" | "enum" | "const")
        };
        let only_strings = kinds.verbatim();
        let lost = |name: &&String| match only_strings {
            true => !followed(name),
            false => matches!(name.as_str(), "allOf" | "anyOf" | "oneOf" | "$ref"),
        };
        if let Some(name) = object.keys().find(lost) {
            let reason = format!(
                "strings of this model's calls are bare text, which cannot follow `{name}`"
            );
            return self.beyond(path, &reason, ways);
        }
        let typed = object.get("type").is_some();
        if !typed && values.is_none() {
            return self.beyond(path, "it names no `type`", ways);
        }
        let mut strings = object.clone();
        let mut others = object.clone();
        if let Some(values) = values {
            let (texts, rest): (Vec<Json>, Vec<Json>) =
                values.into_iter().partition(Json::is_string);
            for (schema, list) in [(&mut strings, texts), (&mut others, rest)] {
                schema.shift_remove("const");
                schema.insert("enum".to_owned(), list.into());
            }
        }
        if let Some(Json::Array(names)) = object.get("type") {
            let rest = names.iter().filter(|name| *name != "string").cloned();
            others.insert("type".to_owned(), rest.collect());
        }
        let some = |schema: &Map<String, Json>| {
            let values = schema.get("enum").and_then(Json::as_array);
            values.is_none_or(|values| !values.is_empty())
        };
        if some(&strings) {
            ways.push(Way::Text(strings, path));
        }
        if !only_strings && some(&others) {
            ways.push(Way::Json(Json::Object(others), path));
        }
        Ok(())
    }

    /// A string, written bare.
    fn string(&self, schema: &Map<String, Json>, path: &str) -> Result<Element, GrammarError> {
        let strict = self.strictness == Strictness::Strict;
        let mut like = Vec::new();
        if let Some(Json::Array(values)) = schema.get("enum") {
            let texts = values.iter().filter_map(Json::as_str).map(quoted);
            like.push(format!("(?:{})", texts.collect::<Vec<_>>().join("|")));
        }
        let least = schema.get("minLength").and_then(Json::as_u64).unwrap_or(0);
        match schema.get("maxLength").and_then(Json::as_u64) {
            Some(most) if most < least => {
                return Err(wrong(path, "`minLength` is greater than `maxLength`"));
            }
            Some(most) => like.push(format!("(?s:.{{{least},{most}}})")),
            None if least > 0 => like.push(format!("(?s:.{{{least},}})")),
            None => {}
        }
        match schema.get("pattern") {
            Some(Json::String(pattern)) => like.push(whole(pattern)),
            Some(_) if strict => return Err(wrong(&format!("{path}.pattern"), "it is no string")),
            _ => {}
        }
        if let Some(format) = schema.get("format").and_then(Json::as_str) {
            match FORMATS.iter().find(|(name, _)| *name == format) {
                Some((_, regex)) => like.push((*regex).to_owned()),
                None if strict => {
                    let known: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
                    let known = known.join(", ");
                    let reason = format!("of formats bare text can follow {known}");
                    return Err(wrong(&format!("{path}.format"), &reason));
                }
                None => {}
            }
        }
        if like.is_empty() {
            like.push("(?s:.*)".to_owned());
        }
        Ok(self.words(like, self.other_kinds()))
    }

    /// Texts that begin like another kind of value. Those that go on otherwise would be read as strings, but what ends
    /// the other value could not be told from them.
    fn other_kinds(&self) -> Vec<String> {
        let kinds = Kinds::of(self.tool, self.name);
        let looks = [
            (Kinds::NULL, r"\s*null(?s:.*)"),
            (Kinds::BOOLEAN, r"\s*(?:true|false|True|False)(?s:.*)"),
            (Kinds::NUMBER, NUMBER),
            (Kinds::INTEGER, NUMBER),
            (Kinds::ARRAY, r"\s*\[(?s:.*)"),
            (Kinds::OBJECT, r"\s*\{(?s:.*)"),
        ];
        let looks = looks.into_iter().filter(|(kind, _)| kinds.has(*kind));
        looks.map(|(_, regex)| regex.to_owned()).collect()
    }

    /// A part of a schema with what it may refer to.
    fn with_definitions(&self, schema: Json) -> Json {
        let Json::Object(mut schema) = schema else {
            return schema;
        };
        for keyword in ["$defs", "definitions"] {
            if let Some(definitions) = self.root.get(keyword) {
                schema.insert(keyword.to_owned(), definitions.clone());
            }
        }
        Json::Object(schema)
    }
}

const NUMBER: &str = r"\s*-?[0-9](?s:.*)";

/// A schema's pattern, which may match anywhere, as an expression that matches as a whole. Where alternatives have
/// anchors of their own it allows less than the pattern, never more.
fn whole(pattern: &str) -> String {
    let (front, rest) = match pattern.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => ("(?s:.*)", pattern),
    };
    let escapes = |text: &str| text.chars().rev().take_while(|sign| *sign == '\\').count();
    let (inner, back) = match rest.strip_suffix('$') {
        Some(inner) if escapes(inner) % 2 == 0 => (inner, ""),
        _ => (rest, "(?s:.*)"),
    };
    format!("{front}(?:{inner}){back}")
}
