//! Constraints over a small vocabulary: against oracles that try every token, and tables of what is refused.

mod called;
mod finished;
mod random;

use std::path::Path;

use model::{Specials, Tokenizer};
use serde_json::json;

use super::*;
use crate::gateway::{Card, ServedModel};
use crate::text::Strictness;

/// The end token of the model of these tests.
pub(super) const END: u32 = 514;
/// Rows of its head; some have no token.
const VOCAB: u32 = 576;

/// A model with 512 ordinary tokens, each byte among them, and those of control.
pub(super) fn model() -> ServedModel {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/qwen3_5_moe"
    ));
    let file = |name| std::fs::read(folder.join(name)).unwrap();
    ServedModel {
        id: "m".to_owned(),
        tokenizer: Tokenizer::from_json(&file("tokenizer.json"), None).unwrap(),
        template: None,
        defaults: model::GenerationDefaults {
            eos_ids: vec![END, 512],
            ..model::GenerationDefaults::default()
        },
        vocab: VOCAB,
        created_unix_s: 0,
        card: Card::of(&model::Checkpoint::open(folder).unwrap()),
    }
}

pub(super) struct Bench {
    pub grammars: Grammars,
    pub tokenizer: Tokenizer,
}

impl Bench {
    pub fn new() -> Self {
        Self::of(model())
    }

    /// Of a model that writes the marks of calls as ordinary text.
    pub fn without_marks() -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/data/qwen3_5_moe/tokenizer.json"
        );
        let mut file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let added = file["added_tokens"].as_array_mut().unwrap();
        let before = added.len();
        added.retain(|token| !token["content"].as_str().unwrap().contains("tool_call"));
        assert!(added.len() < before);
        let mut model = model();
        model.tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), None).unwrap();
        Self::of(model)
    }

    fn of(model: ServedModel) -> Self {
        Self {
            tokenizer: model.tokenizer.clone(),
            grammars: Grammars::new(Arc::new(model)),
        }
    }

    pub fn compile(&self, form: &Form) -> Result<Constraint, GrammarError> {
        self.grammars.compile(form, Begin::AtOnce)
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, Specials::Parse).unwrap()
    }

    /// Whether a constraint lets a text through as the tokenizer cuts it, end token and all: if not, at which token.
    pub fn lets(&self, constraint: &Constraint, text: &str) -> Result<(), usize> {
        let mut ids = self.ids(text);
        ids.push(END);
        let (mut walk, mut mask) = constraint.begin();
        for (at, id) in ids.iter().enumerate() {
            if !mask.allows(*id) {
                return Err(at);
            }
            if at + 1 < ids.len() {
                mask = walk.next(*id).map_err(|_| at)?;
            }
        }
        Ok(())
    }
}

fn schema(schema: serde_json::Value) -> Form {
    Form::Json {
        schema,
        strictness: Strictness::Strict,
    }
}

/// Follows every way through a finite language and compares each mask with what the texts say.
fn compare_all(bench: &Bench, form: &Form, texts: &[&str]) {
    let constraint = bench.compile(form).unwrap();
    let (walk, mask) = constraint.begin();
    // Walks cannot be copied: each prefix is walked anew.
    drop(walk);
    let mut open: Vec<(Vec<u32>, TokenMask)> = vec![(Vec::new(), mask)];
    let mut masks = 0;
    while let Some((ids, mask)) = open.pop() {
        masks += 1;
        assert!(masks < 20_000, "the language is not finite");
        let before = bench.tokenizer.decode(&ids, model::SpecialText::Keep);
        for id in 0..VOCAB {
            let ends = id == END || id == 512;
            let bytes = bench.tokenizer.token_bytes(id).unwrap_or_default();
            let expected = if bytes.is_empty() {
                false
            } else if bench.tokenizer.is_added(id) {
                ends && texts.contains(&before.as_str())
            } else {
                let text: Vec<u8> = before.bytes().chain(bytes.iter().copied()).collect();
                texts
                    .iter()
                    .any(|known| known.as_bytes().starts_with(&text))
            };
            assert_eq!(mask.allows(id), expected, "{id} after {before:?}");
            if !expected || ends {
                continue;
            }
            let mut longer = ids.clone();
            longer.push(id);
            let (mut walk, _) = constraint.begin();
            let mut next = None;
            for id in &longer {
                next = Some(walk.next(*id).unwrap());
            }
            open.push((longer, next.unwrap()));
        }
    }
    assert!(masks > texts.len());
}

#[test]
fn masks_allow_what_some_text_goes_on_with_and_nothing_else() {
    let bench = Bench::new();
    let texts = ["the sun", "there", "the", "rain", "{\"a\": 1}"];
    let list = texts.iter().map(|&text| text.to_owned()).collect();
    compare_all(&bench, &Form::Choice(list), &texts);
    let of_regex = ["ab", "abc", "abab", "ababc"];
    compare_all(&bench, &Form::Regex("(ab){1,2}c?".to_owned()), &of_regex);
    let lark = "start: greeting \" \" NAME\ngreeting: \"hello\" | \"he\"\nNAME: \"ann\" | \"anna\"";
    let of_lark = ["hello ann", "hello anna", "he ann", "he anna"];
    compare_all(&bench, &Form::Lark(lark.to_owned()), &of_lark);
    let compact = json!({"enum": ["on", null, 17]});
    let of_schema = ["\"on\"", "null", "17"];
    compare_all(&bench, &schema(compact), &of_schema);
}

#[test]
fn an_answer_ends_where_the_grammar_may_end_and_only_there() {
    let bench = Bench::new();
    let object = schema(json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
        "required": ["city", "degrees"],
        "additionalProperties": false,
    }));
    let constraint = bench.compile(&object).unwrap();
    let good = [
        r#"{"city": "Ulm", "degrees": 17}"#,
        r#"{"city":"Ulm","degrees":17}"#,
        "{\n  \"city\": \"\\u0007 \\\"Ulm\\\"\",\n  \"degrees\": -3\n}",
    ];
    for text in good {
        assert_eq!(bench.lets(&constraint, text), Ok(()), "{text}");
    }
    let bad = [
        r#"{"city": "Ulm"}"#,
        r#"{"degrees": 17, "city": "Ulm"}"#,
        r#"{"city": 3, "degrees": 17}"#,
        r#"{"city": "Ulm", "degrees": 17.5}"#,
        r#"{"city": "Ulm", "degrees": 17"#,
        r#"{"city": "Ulm", "degrees": 17}}"#,
        "{\n\n\"city\": \"Ulm\", \"degrees\": 17}",
        "plain text",
    ];
    for text in bad {
        assert!(bench.lets(&constraint, text).is_err(), "{text}");
    }
    let (mut walk, mut mask) = constraint.begin();
    for id in bench.ids(good[0]) {
        assert!(!mask.allows(END) && !mask.allows(512));
        mask = walk.next(id).unwrap();
    }
    assert_eq!(mask.ids().collect::<Vec<_>>(), [512, END], "complete");
    assert_eq!(walk.next(END).unwrap(), mask, "and stays so");
}

#[test]
fn no_control_token_is_drawn_inside_of_a_text() {
    let bench = Bench::new();
    let constraint = bench.compile(&Form::Regex("(?s:.*)".to_owned())).unwrap();
    let (_, mask) = constraint.begin();
    let added: Vec<u32> = mask
        .ids()
        .filter(|id| bench.tokenizer.is_added(*id))
        .collect();
    assert_eq!(added, [512, END]);
    assert!(bench.lets(&constraint, "a <tool_call> b").is_err());
}

#[test]
fn a_token_that_was_not_allowed_ends_the_walk() {
    let bench = Bench::new();
    let constraint = bench
        .compile(&Form::Choice(vec!["yes".to_owned()]))
        .unwrap();
    let (mut walk, mask) = constraint.begin();
    let no = bench.ids("no")[0];
    assert!(!mask.allows(no));
    assert_eq!(walk.next(no), Err(WalkError::Refused));
    assert_eq!(walk.next(END), Err(WalkError::Stuck));
}

#[test]
fn reasoning_is_free_and_the_grammar_holds_after_it() {
    let bench = Bench::new();
    let form = Form::Choice(vec!["yes".to_owned(), "no".to_owned()]);
    let after = bench
        .grammars
        .compile(&form, Begin::AfterReasoning)
        .unwrap();
    let good = [
        "Well. {\"a\"} <tool_call> hm</think>\n\nyes",
        "</think>no",
        "a </thin> b</think>\nno",
    ];
    for text in good {
        assert_eq!(bench.lets(&after, text), Ok(()), "{text}");
    }
    let bad = [
        "yes",
        "still at it",
        "a</think>\n\nmaybe",
        "a</think>\n\n",
        "a</think>\n\n\n\nyes",
        "a</think> yes",
    ];
    for text in bad {
        assert!(bench.lets(&after, text).is_err(), "{text}");
    }
}

#[test]
fn the_closing_tag_ends_with_a_token_where_it_is_none_itself() {
    let mut model = model();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/qwen3_5_moe/tokenizer.json"
    );
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let added = file["added_tokens"].as_array_mut().unwrap();
    added.retain(|token| token["content"] != CLOSE_TAG);
    let file = serde_json::to_vec(&file).unwrap();
    model.tokenizer = Tokenizer::from_json(&file, None).unwrap();
    model.vocab = 537;
    let bench = Bench {
        tokenizer: model.tokenizer.clone(),
        grammars: Grammars::new(Arc::new(model)),
    };
    let form = Form::Choice(vec!["yes".to_owned()]);
    let after = bench
        .grammars
        .compile(&form, Begin::AfterReasoning)
        .unwrap();
    assert_eq!(bench.lets(&after, "a > b</think>yes"), Ok(()));
    assert!(bench.lets(&after, "a > b</think>no").is_err());
    let (_, mask) = after.begin();
    let crossing = mask.ids().filter(|id| {
        let bytes = bench.tokenizer.token_bytes(*id).unwrap();
        bytes.contains(&b'>') && !bytes.ends_with(b">") && !bench.tokenizer.is_added(*id)
    });
    assert_eq!(crossing.count(), 0);
}

const CLOSE_TAG: &str = vocabulary::CLOSE;

fn text(text: &str) -> Element {
    Element::Text(text.to_owned())
}

fn weather() -> Element {
    Element::Json {
        schema: json!({
            "type": "object",
            "properties": {"city": {"enum": ["Ulm", "Bonn"]}},
            "required": ["city"],
            "additionalProperties": false,
        }),
        strictness: Strictness::Strict,
        path: "tools[0].function.parameters".to_owned(),
    }
}

/// One call in the form of Hermes, or several.
fn calls(begin: &str, end: &str) -> Element {
    let call = Element::Sequence(vec![
        text(&format!(
            "{begin}\n{{\"name\": \"weather\", \"arguments\": "
        )),
        weather(),
        text(&format!("}}\n{end}")),
    ]);
    Element::Several {
        part: Box::new(call),
        between: "\n".to_owned(),
    }
}

#[test]
fn calls_of_tools_are_parts() {
    let bench = Bench::new();
    let one =
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}\n</tool_call>";
    let required = Form::Parts(calls("<tool_call>", "</tool_call>"));
    let auto = Form::Parts(Element::Sequence(vec![
        Element::Free,
        Element::Optional(Box::new(calls("<tool_call>", "</tool_call>"))),
    ]));
    let xml = Form::Parts(Element::Sequence(vec![
        text("<tool_call>\n<function=say>\n<parameter=words>\n"),
        Element::Until("\n</parameter>\n".to_owned()),
        text("</function>\n</tool_call>"),
    ]));
    // Where the marks are ordinary text.
    let plain = Form::Parts(Element::OneOf(vec![
        Element::Sequence(vec![
            Element::Until("[CALL]".to_owned()),
            weather(),
            text("[END]"),
        ]),
        Element::Regex("[^\\[]*".to_owned()),
    ]));
    let two = format!("{one}\n{one}");
    let said = format!("Let me look: 3 < 4.\n\n{one}");
    let cases: [(&Form, &str, bool); 15] = [
        (&required, one, true),
        (&required, &two, true),
        (&required, &said, false),
        (&required, "I cannot.", false),
        (&required, &one.replace("Ulm", "Rome"), false),
        (&required, &one.replace("weather", "feather"), false),
        (&auto, &said, true),
        (&auto, one, true),
        (&auto, "Plain words.", true),
        (&auto, &said.replace("Ulm", "Rome"), false),
        (
            &xml,
            "<tool_call>\n<function=say>\n<parameter=words>\na < b\n</p>\n</parameter>\n</function>\n</tool_call>",
            true,
        ),
        (
            &xml,
            "<tool_call>\n<function=say>\n<parameter=words>\na\n</function>\n</tool_call>",
            false,
        ),
        (&plain, "see [CALL]{\"city\": \"Ulm\"}[END]", true),
        (&plain, "no call", true),
        (&plain, "see [CALL]{\"city\": 1}[END]", false),
    ];
    for (form, text, expected) in cases {
        let constraint = bench.compile(form).unwrap();
        let lets = bench.lets(&constraint, text);
        assert_eq!(lets.is_ok(), expected, "{text}: {lets:?}");
    }
}

/// Schemas that are refused, where, and a word of why.
fn refused_schemas() -> Vec<(serde_json::Value, &'static str, &'static str)> {
    let within = |inner: serde_json::Value| json!({"type": "object", "properties": {"a": {"type": "array", "items": inner}}});
    let node = json!({"type": "object", "properties": {"next": {"not": {}}}});
    vec![
        (json!({"not": {"type": "null"}}), "not", "keyword"),
        (
            within(json!({"uniqueItems": true})),
            "properties.a.items.uniqueItems",
            "keyword",
        ),
        (
            json!({"anyOf": [true, {"if": {}}]}),
            "anyOf.1.if",
            "keyword",
        ),
        (
            json!({"$ref": "#/$defs/node", "$defs": {"node": node}}),
            "$defs.node.properties.next.not",
            "keyword",
        ),
        (
            within(json!({"$ref": "#/nowhere"})),
            "properties.a.items.$ref",
            "leads nowhere",
        ),
        (
            within(json!({"$ref": "http://x.org/y"})),
            "properties.a.items.$ref",
            "leads nowhere",
        ),
        (
            within(json!({"type": "text"})),
            "properties.a.items",
            "Invalid type",
        ),
        (
            within(json!({"format": "colour"})),
            "properties.a.items",
            "Unknown format",
        ),
        (within(json!({"pattern": "("})), "properties.a.items", ""),
        (
            within(json!({"enum": "x"})),
            "properties.a.items",
            "enum must be an array",
        ),
        (json!({"properties": {"a": 3}}), "properties.a", "no schema"),
        (
            within(json!({"oneOf": [{"minimum": 1}, {"maximum": 5}]})),
            "properties.a.items",
            "oneOf",
        ),
        (
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            "",
            "minLength",
        ),
        (json!(false), "", "allows nothing"),
        (json!(7), "", "no schema"),
    ]
}

#[test]
fn what_a_schema_cannot_express_is_named_by_its_path() {
    let bench = Bench::new();
    for (refused, path, reason) in refused_schemas() {
        match bench.compile(&schema(refused.clone())).unwrap_err() {
            GrammarError::Schema {
                path: got,
                reason: why,
            } => {
                assert_eq!(got, path, "{refused}: {why}");
                assert!(why.contains(reason), "{refused}: {why}");
            }
            other => panic!("{refused}: {other}"),
        }
    }
}

#[test]
fn without_strict_what_cannot_be_followed_is_left_out() {
    let bench = Bench::new();
    let form = Form::Json {
        schema: json!({
            "type": "object",
            "properties": {
                "a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": true},
                "b": {"type": "string", "format": "colour"},
                "c": {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": 5}]},
            },
            "required": ["a", "b", "c"],
            "additionalProperties": false,
        }),
        strictness: Strictness::Loose,
    };
    let constraint = bench.compile(&form).unwrap();
    let text = r#"{"a": [1, 1], "b": "red", "c": 3}"#;
    assert_eq!(bench.lets(&constraint, text), Ok(()));
    assert!(bench.lets(&constraint, r#"{"a": ["x"]}"#).is_err());
}

/// `{"$ref": ..}` from one definition to the next, so many times.
fn chain(links: usize) -> serde_json::Value {
    let mut definitions = serde_json::Map::new();
    for at in 0..links {
        let next = json!({"type": "object", "properties": {"n": {"$ref": format!("#/$defs/d{}", at + 1)}}});
        definitions.insert(format!("d{at}"), next);
    }
    definitions.insert(format!("d{links}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

/// Forms that are too large, too deep or no forms, and a word of why they are refused.
fn refused_forms() -> Vec<(&'static str, Form, &'static str)> {
    let texts = |count: usize| Form::Choice(vec!["a".to_owned(); count]);
    let wide: serde_json::Map<String, serde_json::Value> = (0..20_000)
        .map(|at| (format!("p{at}"), json!({})))
        .collect();
    let long = "x".repeat(70_000);
    vec![
        (
            "a chain of references",
            schema(chain(5000)),
            "nested too deeply",
        ),
        (
            "many parts",
            schema(json!({"properties": wide})),
            "too many parts",
        ),
        (
            "a long schema",
            schema(json!({"const": "x".repeat(2 << 20)})),
            "too large",
        ),
        (
            "a long expression",
            Form::Regex(long.clone()),
            "16384 are accepted",
        ),
        (
            "a long grammar",
            Form::Lark(format!("start: {long:?}")),
            "65536 are accepted",
        ),
        (
            "a deep grammar",
            Form::Lark(format!("start: {}", "(".repeat(5000))),
            "nested too deeply",
        ),
        (
            "a chain of negations",
            Form::Lark(format!("start: {}A", "~".repeat(5000))),
            "nested too deeply",
        ),
        ("no text", texts(0), "1 to 1024 were expected"),
        ("many texts", texts(2000), "1 to 1024 were expected"),
        ("long texts", Form::Choice(vec![long]), "65536 are accepted"),
        (
            "an open expression",
            Form::Regex("(a".to_owned()),
            "cannot be honoured",
        ),
        (
            "no rule",
            Form::Lark("start: nobody".to_owned()),
            "cannot be honoured",
        ),
        (
            "no start",
            Form::Lark("a: \"b\"".to_owned()),
            "cannot be honoured",
        ),
        (
            "a wrong text",
            Form::Lark("start: \u{0}".to_owned()),
            "cannot be honoured",
        ),
    ]
}

#[test]
fn forms_without_bounds_are_refused() {
    let bench = Bench::new();
    for (what, form, expected) in refused_forms() {
        let refused = bench.compile(&form).err();
        let error = refused
            .unwrap_or_else(|| panic!("{what} was taken"))
            .to_string();
        assert!(error.contains(expected), "{what}: {error}");
        assert!(error.len() < 400, "{what}: {error}");
    }
    let good = bench.compile(&schema(chain(40))).unwrap();
    assert_eq!(bench.lets(&good, r#"{"n": {}}"#), Ok(()));
}

#[test]
fn settings_of_the_compiler_do_not_come_from_outside() {
    let bench = Bench::new();
    let form = schema(json!({
        "type": "array", "uniqueItems": false,
        "x-guidance": {"lenient": true, "whitespace_flexible": false},
    }));
    let error = bench.compile(&form).unwrap_err().to_string();
    assert!(error.contains("`uniqueItems`"), "{error}");
}

#[test]
fn a_model_without_an_end_token_is_told() {
    let mut model = model();
    model.defaults.eos_ids = vec![VOCAB, u32::MAX];
    let grammars = Grammars::new(Arc::new(model));
    let form = Form::Choice(vec!["a".to_owned()]);
    let refused = grammars.compile(&form, Begin::AtOnce);
    assert_eq!(refused, Err(GrammarError::NoEnd));
}

#[test]
fn nothing_of_a_constraint_is_shown() {
    let bench = Bench::new();
    let constraint = bench
        .compile(&Form::Choice(vec!["secret".to_owned()]))
        .unwrap();
    let (walk, mask) = constraint.begin();
    let shown = format!("{constraint:?} {walk:?} {mask:?}");
    assert_eq!(shown, "Constraint(..) Walk(..) TokenMask(18 words)");
    assert_eq!(constraint, constraint.clone());
}
