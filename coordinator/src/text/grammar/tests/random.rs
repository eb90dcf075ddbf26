//! Schemas at random, of what constraints can express.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

const NAMES: [&str; 8] = ["a", "name", "the \"x\"", "größe", "id", "of", "next", "at"];

fn scalar() -> impl Strategy<Value = Value> {
    let bounded =
        |low: i64, width: i64| json!({"type": "integer", "minimum": low, "maximum": low + width});
    prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "integer"})),
        (-500i64..500, 0i64..2000).prop_map(move |(low, width)| bounded(low, width)),
        (-50i64..50).prop_map(|low| json!({"type": "number", "minimum": low})),
        (-50i64..50, 1i64..40).prop_map(|(low, width)| {
            json!({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + width})
        }),
        (2u32..9).prop_map(
            |of| json!({"type": "integer", "multipleOf": of, "minimum": 0, "maximum": 9000})
        ),
        (0usize..4, 0usize..8).prop_map(|(least, more)| {
            json!({"type": "string", "minLength": least, "maxLength": least + more})
        }),
        select(vec![
            "^[a-z]{1,4}$",
            "^\\d{3}-\\d{2}$",
            "^(in|out)$",
            "[A-Z]{2}[0-9]?$",
            "^x"
        ])
        .prop_map(|pattern| json!({"type": "string", "pattern": pattern, "maxLength": 9})),
        select(vec!["uuid", "ipv4"]).prop_map(|format| json!({"type": "string", "format": format})),
        subsequence(vec!["red", "the sun", "größe", "a\nb", "\"", ""], 1..4)
            .prop_map(|texts| json!({"type": "string", "enum": texts})),
        subsequence(
            vec![
                json!(1),
                json!(-2.5),
                json!(null),
                json!("x"),
                json!([1, {"a": true}])
            ],
            1..4
        )
        .prop_map(|values| json!({"enum": values})),
        Just(json!({"const": {"a": [1, "b"]}})),
        Just(json!({"type": ["string", "null"], "maxLength": 6})),
        Just(json!({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]})),
        Just(json!({})),
    ]
}

fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let properties = subsequence(NAMES.to_vec(), 0..5)
        .prop_flat_map(|names| (subsequence(names.clone(), 0..=names.len()), Just(names)));
    (properties, vec(inner, 5), 0..3u8).prop_map(|((required, names), schemas, more)| {
        let properties: Map<String, Value> = names
            .iter()
            .zip(&schemas)
            .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
            .collect();
        let mut object = json!({"type": "object", "properties": properties, "required": required});
        match more {
            0 => object["additionalProperties"] = schemas[4].clone(),
            1 => {}
            _ => object["additionalProperties"] = json!(false),
        }
        object
    })
}

fn array(inner: impl Strategy<Value = Value> + Clone) -> impl Strategy<Value = Value> {
    let list = (inner.clone(), 0usize..3, 0usize..3).prop_map(|(items, least, more)| {
        json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
    });
    let tuple = vec(inner, 1..4).prop_map(|items| {
        let count = items.len();
        json!({"type": "array", "prefixItems": items, "items": false, "minItems": count})
    });
    prop_oneof![list, tuple]
}

/// A schema of arguments. No parameter refers to anything.
pub(super) fn arguments() -> impl Strategy<Value = Value> {
    let value = scalar().prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            object(inner.clone()),
            array(inner.clone()),
            vec(inner, 2..4).prop_map(|options| json!({"anyOf": options})),
        ]
    });
    object(value)
}

/// A schema of what constraints can express. Answers of most are short.
pub(super) fn schema() -> impl Strategy<Value = Value> {
    let nested = scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            3 => object(inner.clone()),
            2 => array(inner.clone()),
            1 => vec(inner.clone(), 2..4).prop_map(|options| json!({"anyOf": options})),
            1 => inner.prop_map(|of| json!({
                "oneOf": [{"type": "null"}, {"type": "array", "items": of, "maxItems": 2}]
            })),
        ]
    });
    (nested, 0..6u8).prop_map(|(schema, kind)| match kind {
        // A tree, by reference to itself.
        0 => json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "type": "object",
                "properties": {
                    "value": schema,
                    "below": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
                },
                "required": ["value"],
                "additionalProperties": false,
            }},
        }),
        _ => schema,
    })
}
