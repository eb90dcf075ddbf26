//! What a parameter may be, from the JSON schema of a tool: markup writes every value as text, and the schema says
//! which texts are numbers, flags, lists and objects.
//!
//! Schemas come from strangers: references are followed a bounded number of times, and what is not understood allows
//! any kind.

use serde_json::{Map, Value};

use crate::text::chat::Tool;

/// Steps through references and alternatives of one schema.
const STEPS_MAX: u32 = 256;

/// Kinds of JSON values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::text) struct Kinds(u8);

impl Kinds {
    pub(in crate::text) const STRING: Self = Self(1);
    pub(in crate::text) const NUMBER: Self = Self(2);
    pub(in crate::text) const INTEGER: Self = Self(4);
    pub(in crate::text) const BOOLEAN: Self = Self(8);
    pub(in crate::text) const OBJECT: Self = Self(16);
    pub(in crate::text) const ARRAY: Self = Self(32);
    pub(in crate::text) const NULL: Self = Self(64);
    const ANY: Self = Self(127);

    /// What a parameter of a tool may be. Of an unknown tool or parameter only that it was written as text is known.
    pub(in crate::text) fn of(tool: Option<&Tool>, parameter: &str) -> Self {
        let Some(root) = tool.and_then(|tool| tool.parameters.as_ref()) else {
            return Self::STRING;
        };
        let named = root.get("properties").and_then(|all| all.get(parameter));
        let other = root.get("additionalProperties").filter(|s| s.is_object());
        match named.or(other) {
            Some(schema) => Self::of_schema(root, schema),
            None => Self::STRING,
        }
    }

    /// What a schema allows inside of a document that it may refer to.
    pub(in crate::text) fn of_schema(root: &Map<String, Value>, schema: &Value) -> Self {
        let mut kinds = Self::default();
        let mut steps = STEPS_MAX;
        kinds.gather(root, schema, &mut steps);
        if kinds == Self::default() {
            Self::ANY
        } else {
            kinds
        }
    }

    fn gather(&mut self, root: &Map<String, Value>, schema: &Value, steps: &mut u32) {
        let Some(left) = steps.checked_sub(1) else {
            return;
        };
        *steps = left;
        match schema.get("type") {
            Some(Value::String(name)) => self.add(Self::named(name)),
            Some(Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                names.for_each(|name| self.add(Self::named(name)));
            }
            _ => {
                let listed = schema.get("enum").and_then(Value::as_array);
                let only = schema.get("const");
                let values = listed.into_iter().flatten().chain(only);
                values.for_each(|value| self.add(Self::of_value(value)));
            }
        }
        for word in ["anyOf", "oneOf", "allOf"] {
            let inner = schema.get(word).and_then(Value::as_array);
            for schema in inner.into_iter().flatten() {
                self.gather(root, schema, steps);
            }
        }
        let reference = schema.get("$ref").and_then(Value::as_str);
        if let Some(schema) = reference.and_then(|reference| resolve(root, reference)) {
            self.gather(root, schema, steps);
        }
    }

    /// With the kinds of another.
    pub(in crate::text) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether it may be of one of these kinds.
    pub(in crate::text) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "number" => Self::NUMBER,
            "integer" => Self::INTEGER,
            "boolean" => Self::BOOLEAN,
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            "null" => Self::NULL,
            _ => Self::ANY,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(_) => Self::NUMBER,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    /// Whether a text is its value as it stands, so that it can be given out as it comes.
    pub(in crate::text) fn verbatim(self) -> bool {
        self == Self::STRING
    }

    /// The JSON text of a value that was written as `text`: of the first kind that fits, else a string.
    pub(super) fn json(self, text: &str) -> String {
        let trimmed = text.trim();
        self.parsed(trimmed)
            .unwrap_or_else(|| Value::from(text).to_string())
    }

    fn parsed(self, text: &str) -> Option<String> {
        // Templates that print earlier calls spell these as Python does, and models follow.
        match text {
            "True" if self.has(Self::BOOLEAN) => return Some("true".to_owned()),
            "False" if self.has(Self::BOOLEAN) => return Some("false".to_owned()),
            "None" if self.has(Self::NULL) && !self.has(Self::STRING) => {
                return Some("null".to_owned());
            }
            _ => {}
        }
        let fits = match serde_json::from_str(text).ok()? {
            Value::Null => self.has(Self::NULL),
            Value::Bool(_) => self.has(Self::BOOLEAN),
            Value::Number(number) => {
                let whole = number.is_i64()
                    || number.is_u64()
                    || number.as_f64().is_some_and(|number| number.fract() == 0.0);
                self.has(Self::NUMBER) || (self.has(Self::INTEGER) && whole)
            }
            Value::Array(_) => self.has(Self::ARRAY),
            Value::Object(_) => self.has(Self::OBJECT),
            // A string is written without quotes; quotes belong to it.
            Value::String(_) => false,
        };
        // As it was written: numbers keep their digits.
        fits.then(|| text.to_owned())
    }
}

/// A schema that another one refers to: only inside the same document.
pub(in crate::text) fn resolve<'a>(
    root: &'a Map<String, Value>,
    reference: &str,
) -> Option<&'a Value> {
    let path = reference.strip_prefix("#/")?;
    let (first, rest) = match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let found = root.get(&first.replace("~1", "/").replace("~0", "~"))?;
    match rest {
        Some(rest) => found.pointer(&format!("/{rest}")),
        None => Some(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chat::Strictness;
    use serde_json::json;

    fn tool() -> Tool {
        let parameters = json!({
            "type": "object",
            "$defs": {"Count": {"type": "integer"}, "Loop": {"$ref": "#/$defs/Loop"}, "a/b": {"type": "array"}},
            "properties": {
                "text": {"type": "string"},
                "count": {"$ref": "#/$defs/Count"},
                "slash": {"$ref": "#/$defs/a~1b"},
                "loop": {"$ref": "#/$defs/Loop"},
                "gone": {"$ref": "#/$defs/Gone"},
                "ratio": {"type": "number"},
                "flag": {"type": "boolean"},
                "list": {"type": "array", "items": {"type": "integer"}},
                "map": {"type": "object"},
                "maybe": {"type": ["string", "null"]},
                "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "mixed": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
                "level": {"enum": ["low", "high"]},
                "grade": {"enum": [1, 2, null]},
                "one": {"const": true},
                "any": {},
            },
        });
        let Value::Object(parameters) = parameters else {
            panic!("an object");
        };
        Tool {
            name: "t".to_owned(),
            description: None,
            parameters: Some(parameters),
            strictness: Strictness::Loose,
            place: "tools[0].function.parameters".to_owned(),
        }
    }

    #[test]
    fn texts_become_values_of_the_kind_that_the_schema_names() {
        let tool = tool();
        for (parameter, text, expected) in [
            ("text", "5", r#""5""#),
            ("text", " a \"b\"\n", r#"" a \"b\"\n""#),
            ("text", "null", r#""null""#),
            ("count", " 5 ", "5"),
            (
                "count",
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("count", "5.0", "5.0"),
            ("count", "5.5", r#""5.5""#),
            ("count", "five", r#""five""#),
            ("slash", "[1]", "[1]"),
            ("ratio", "-1.25e2", "-1.25e2"),
            ("ratio", "1.", r#""1.""#),
            ("ratio", "1e999", r#""1e999""#),
            ("ratio", "NaN", r#""NaN""#),
            ("flag", "true", "true"),
            ("flag", "False", "false"),
            ("flag", "yes", r#""yes""#),
            ("list", "[1, 2]\n", "[1, 2]"),
            ("list", "[1, 2", r#""[1, 2""#),
            ("list", "{}", r#""{}""#),
            ("map", "{\"a\": {\"b\": 1}}", "{\"a\": {\"b\": 1}}"),
            ("map", "{'a': 1}", r#""{'a': 1}""#),
            ("maybe", "null", "null"),
            ("maybe", "None", r#""None""#),
            ("maybe", "x", r#""x""#),
            ("either", "None", "null"),
            ("either", "7", "7"),
            ("mixed", "7", "7"),
            ("mixed", "007", r#""007""#),
            ("level", "low", r#""low""#),
            ("level", "1", r#""1""#),
            ("grade", "1", "1"),
            ("one", "True", "true"),
            ("any", "[1]", "[1]"),
            ("any", "\"quoted\"", r#""\"quoted\"""#),
            ("loop", "3", "3"),
            ("gone", "{}", "{}"),
            ("unheard_of", "3", r#""3""#),
        ] {
            let json = Kinds::of(Some(&tool), parameter).json(text);
            assert_eq!(json, expected, "{parameter}: {text}");
            serde_json::from_str::<Value>(&json).unwrap();
        }
        assert_eq!(Kinds::of(None, "count").json("3"), r#""3""#);
        assert!(Kinds::of(Some(&tool), "text").verbatim());
        assert!(Kinds::of(Some(&tool), "level").verbatim());
        assert!(!Kinds::of(Some(&tool), "maybe").verbatim());
    }

    #[test]
    fn schemas_that_branch_without_end_are_left() {
        let branches: Vec<Value> = vec![json!({"$ref": "#/properties/a"}); 64];
        let Value::Object(parameters) = json!({"properties": {"a": {"anyOf": branches}}}) else {
            panic!("an object");
        };
        let tool = Tool {
            parameters: Some(parameters),
            ..tool()
        };
        assert_eq!(Kinds::of(Some(&tool), "a"), Kinds::ANY);
    }
}
