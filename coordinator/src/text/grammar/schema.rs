//! JSON schemas from outside: bounded, looked through for what cannot be honoured, and given the form of JSON that answers
//! have.
//!
//! The compiler of constraints says what is wrong with a schema but not where, and recurses as deeply as references lead.
//! So schemas are walked here first, in the order in which it would.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::GrammarError;
use super::shortened;
use super::vocabulary::Vocabulary;
use crate::text::Strictness;

/// Schemas inside each other, references followed.
const DEPTH_MAX: usize = 96;
/// Schemas in one.
const SCHEMAS_MAX: usize = 10_000;
/// Bytes of a schema.
const BYTES_MAX: usize = 1 << 20;
/// Parts of a schema that are compiled one by one to find the one that is wrong.
const TRIALS_MAX: usize = 32;

/// White space between the parts of an answer's JSON: a blank, or a line break and an indentation. More would let a weak
/// model go on with white space for ever.
const WHITE_SPACE: &str = r"\x20|\r?\n[\x20\x09]{0,40}";

/// Keywords that decide whether a value is valid and that a constraint cannot follow.
const BEYOND: [&str; 20] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "divisibleBy",
    "disallow",
    "extends",
    "contentSchema",
];
/// Keywords whose value is a schema.
const ONE: [&str; 3] = ["additionalProperties", "items", "additionalItems"];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is an object of schemas.
const NAMED: [&str; 2] = ["properties", "patternProperties"];
/// Where schemas lie that references lead to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// The schema as it is compiled.
///
/// # Errors
/// What cannot be honoured, and where: the path begins with `path`.
pub(super) fn checked<'s>(
    schema: &'s Value,
    strictness: Strictness,
    path: &'s str,
) -> Result<Value, GrammarError> {
    let mut bytes = Count(0);
    if serde_json::to_writer(&mut bytes, schema).is_err() || bytes.0 > BYTES_MAX {
        let reason = format!("it is too large, at most {BYTES_MAX} bytes are accepted");
        return Err(wrong(path, &reason));
    }
    let mut walk = Look {
        root: schema,
        base: path,
        strictness,
        seen: HashSet::new(),
        count: 0,
    };
    walk.schema(schema, path, 0)?;
    match schema {
        Value::Object(object) => Ok(formed(object.clone(), strictness)),
        Value::Bool(true) => Ok(formed(Map::new(), strictness)),
        Value::Bool(false) => Err(wrong(path, "it allows nothing")),
        _ => Err(wrong(path, "it is no object; a JSON schema was expected")),
    }
}

/// With the compiler's settings in the place of any that came.
fn formed(mut schema: Map<String, Value>, strictness: Strictness) -> Value {
    let lenient = strictness == Strictness::Loose;
    let settings = json!({
        "whitespace_flexible": true,
        "whitespace_pattern": WHITE_SPACE,
        "coerce_one_of": lenient,
        "lenient": lenient,
    });
    schema.insert("x-guidance".to_owned(), settings);
    Value::Object(schema)
}

fn wrong(path: &str, reason: &str) -> GrammarError {
    GrammarError::Schema {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The path of a part of what lies at a path.
fn below(path: &str, part: &str) -> String {
    if path.is_empty() {
        part.to_owned()
    } else {
        format!("{path}.{part}")
    }
}

/// Bytes that are written, and nothing else of them.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A look at every schema that the compiler would look at.
struct Look<'s> {
    root: &'s Value,
    /// Path of the root.
    base: &'s str,
    strictness: Strictness,
    /// References that were followed.
    seen: HashSet<&'s str>,
    count: usize,
}

impl<'s> Look<'s> {
    fn schema(&mut self, schema: &'s Value, path: &str, depth: usize) -> Result<(), GrammarError> {
        self.count += 1;
        if depth > DEPTH_MAX {
            let reason = format!("it is nested too deeply, at most {DEPTH_MAX} are accepted");
            return Err(wrong(path, &reason));
        }
        if self.count > SCHEMAS_MAX {
            let reason = format!("it has too many parts, at most {SCHEMAS_MAX} are accepted");
            return Err(wrong(path, &reason));
        }
        let object = match schema {
            Value::Object(object) => object,
            Value::Bool(_) => return Ok(()),
            _ => {
                return Err(wrong(
                    path,
                    "it is no schema; an object or a boolean was expected",
                ));
            }
        };
        if self.strictness == Strictness::Strict
            && let Some(keyword) = BEYOND.iter().find(|keyword| object.contains_key(**keyword))
        {
            let reason = "constraints cannot follow this keyword";
            return Err(wrong(&below(path, keyword), reason));
        }
        if let Some(Value::String(reference)) = object.get("$ref") {
            self.reference(reference, path, depth)?;
        }
        for (part, at) in parts(object) {
            self.schema(part, &below(path, &at), depth + 1)?;
        }
        Ok(())
    }

    fn reference(
        &mut self,
        reference: &'s str,
        path: &str,
        depth: usize,
    ) -> Result<(), GrammarError> {
        if !self.seen.insert(reference) {
            return Ok(());
        }
        let (target, at) = resolve(self.root, reference).ok_or_else(|| {
            let reason = "it leads nowhere; a reference of the form #/$defs/NAME to a part of this schema was expected";
            wrong(&below(path, "$ref"), reason)
        })?;
        let at = match at.is_empty() {
            true => self.base.to_owned(),
            false => below(self.base, &at),
        };
        self.schema(target, &at, depth + 1)
    }
}

/// What a reference leads to, and its path; read as the compiler reads it.
fn resolve<'s>(root: &'s Value, reference: &str) -> Option<(&'s Value, String)> {
    let pointer = match reference {
        "#" | "#/" => return Some((root, String::new())),
        other => other.strip_prefix("#/")?,
    };
    let mut at = root;
    for segment in pointer.split('/') {
        at = match at {
            Value::Array(list) => list.get(segment.parse::<usize>().ok()?)?,
            other => other.get(segment)?,
        };
    }
    Some((at, pointer.replace('/', ".")))
}

/// The schemas inside of a schema, with their paths from it; not those behind references.
fn parts(object: &Map<String, Value>) -> Vec<(&Value, String)> {
    let mut all = Vec::new();
    for keyword in NAMED {
        if let Some(Value::Object(named)) = object.get(keyword) {
            let path = |name: &String| format!("{keyword}.{name}");
            all.extend(named.iter().map(|(name, part)| (part, path(name))));
        }
    }
    for keyword in LIST {
        if let Some(Value::Array(list)) = object.get(keyword) {
            let path = |at: usize| format!("{keyword}.{at}");
            all.extend(list.iter().enumerate().map(|(at, part)| (part, path(at))));
        }
    }
    for keyword in ONE {
        match object.get(keyword) {
            None | Some(Value::Array(_)) => {}
            Some(part) => all.push((part, keyword.to_owned())),
        }
    }
    all
}

/// The smallest part of a refused schema that is refused by itself, and why: parts are compiled one by one.
pub(super) fn locate(
    vocabulary: &Vocabulary,
    schema: &Value,
    strictness: Strictness,
    reason: String,
) -> (String, String) {
    let mut found = (String::new(), reason);
    let Value::Object(root) = schema else {
        return found;
    };
    let mut trials = 0;
    let mut at = schema;
    'deeper: while let Value::Object(object) = at {
        let behind = match object.get("$ref") {
            Some(Value::String(reference)) => resolve(schema, reference),
            _ => None,
        };
        let inside = parts(object).into_iter();
        let inside = inside.map(|(part, path)| (part, below(&found.0, &path)));
        let behind = behind.filter(|(_, path)| !found.0.starts_with(path.as_str()));
        for (part, path) in inside.chain(behind) {
            trials += 1;
            if trials > TRIALS_MAX {
                return found;
            }
            if let Some(reason) = refused(vocabulary, root, part, strictness) {
                found = (path, reason);
                at = part;
                continue 'deeper;
            }
        }
        return found;
    }
    found
}

/// Where and why a schema cannot be compiled by itself, if it cannot; the path begins with `base`.
pub(super) fn refused_at(
    vocabulary: &Vocabulary,
    schema: &Value,
    strictness: Strictness,
    base: &str,
) -> Option<(String, String)> {
    let Value::Object(root) = schema else {
        return None;
    };
    let reason = refused(vocabulary, root, schema, strictness)?;
    let (path, reason) = locate(vocabulary, schema, strictness, reason);
    let path = match path.is_empty() {
        true => base.to_owned(),
        false => below(base, &path),
    };
    Some((path, reason))
}

/// Why a part of a schema cannot be compiled by itself, if it cannot.
fn refused(
    vocabulary: &Vocabulary,
    root: &Map<String, Value>,
    part: &Value,
    strictness: Strictness,
) -> Option<String> {
    let Value::Object(part) = part else {
        return None;
    };
    let mut alone = part.clone();
    for keyword in DEFINITIONS {
        if let Some(definitions) = root.get(keyword) {
            alone.insert(keyword.to_owned(), definitions.clone());
        }
    }
    let schema = formed(alone, strictness);
    let grammar = llguidance::api::TopLevelGrammar::from_json_schema(schema);
    let error = vocabulary.factory.create_parser(grammar).err()?;
    Some(shortened(&error.to_string()))
}
