//! Calls of tools under constraints: what may be written, and that what is finished is read as calls that are valid.

use std::sync::Arc;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::Bench;
use super::finished::{Machine, WIDTH};
use crate::text::grammar::{Form, GrammarError};
use crate::text::tools::{CallEvent, CallReader, CallReading, CallStyle, Ending};
use crate::text::{OutputFormat, Parallel, Strictness, Tool, ToolChoice, ToolUse, bound};

const STYLES: [CallStyle; 3] = [CallStyle::Xml, CallStyle::Hermes, CallStyle::Llama];

fn tool(name: &str, schema: Value, strictness: Strictness) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: schema.as_object().cloned(),
        strictness,
        place: "tools[0].function.parameters".to_owned(),
    }
}

fn uses(tools: Vec<Tool>, choice: ToolChoice) -> ToolUse {
    ToolUse {
        tools: tools.into(),
        choice,
        parallel: Parallel::Any,
    }
}

fn reading(style: CallStyle, uses: &ToolUse) -> CallReading {
    CallReading {
        style,
        tools: Arc::clone(&uses.tools),
        parallel: uses.parallel,
    }
}

fn form(
    bench: &Bench,
    style: CallStyle,
    uses: &ToolUse,
    format: &OutputFormat,
) -> Result<Option<Form>, GrammarError> {
    let reading = reading(style, uses);
    bound(&bench.tokenizer, uses, Some(&reading), format)
}

/// Names and arguments of the calls in a text; every one has to be whole.
fn calls(reading: &CallReading, text: &str) -> Vec<(String, Value)> {
    let mut reader = CallReader::new(reading.clone());
    let mut events = reader.push(text);
    events.extend(reader.finish(Ending::Own));
    let (mut all, mut open) = (Vec::new(), None);
    for event in events {
        match event {
            CallEvent::Text(_) => assert!(open.is_none(), "{text}"),
            CallEvent::Begin { name } => assert!(open.replace((name, String::new())).is_none()),
            CallEvent::Arguments(json) => open.as_mut().unwrap().1.push_str(&json),
            CallEvent::End => {
                let (name, json) = open.take().unwrap();
                let arguments = serde_json::from_str(&json);
                all.push((name, arguments.unwrap_or_else(|e| panic!("{text}: {e}"))));
            }
        }
    }
    assert!(open.is_none(), "{text}");
    all
}

/// One call of `weather` in a style, and its city as it is given.
fn weather(style: CallStyle, city: &str) -> String {
    match style {
        CallStyle::Xml => format!(
            "<tool_call>\n<function=weather>\n<parameter=city>\n{city}\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
        ),
        CallStyle::Hermes => format!(
            "<tool_call>\n{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{city}\", \"days\": 3}}}}\n</tool_call>"
        ),
        CallStyle::Llama => format!(
            "{{\"name\": \"weather\", \"parameters\": {{\"city\": \"{city}\", \"days\": 3}}}}"
        ),
    }
}

fn weather_tool(strictness: Strictness) -> Tool {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"$ref": "#/$defs/days"},
            "unit": {"enum": ["C", "F", null]},
        },
        "required": ["city"],
        "additionalProperties": false,
        "$defs": {"days": {"type": "integer", "maximum": 9}},
    });
    tool("weather", schema, strictness)
}

fn now_tool() -> Tool {
    tool("now", json!({}), Strictness::Loose)
}

/// Text that a request lets through, or does not: without marks in the vocabulary as well.
fn check(style: CallStyle, uses: &ToolUse, format: &OutputFormat, cases: &[(String, bool)]) {
    for bench in [Bench::new(), Bench::without_marks()] {
        let form = form(&bench, style, uses, format).unwrap().unwrap();
        let constraint = bench.compile(&form).unwrap();
        for (text, expected) in cases {
            let lets = bench.lets(&constraint, text);
            assert_eq!(lets.is_ok(), *expected, "{style:?} {text}: {lets:?}");
            if *expected && text.contains("weather") {
                assert!(!calls(&reading(style, uses), text).is_empty(), "{text}");
            }
        }
    }
}

#[test]
fn a_demanded_call_is_all_that_can_be_written() {
    let tools = vec![weather_tool(Strictness::Loose), now_tool()];
    for style in STYLES {
        let between = if style == CallStyle::Llama {
            "; "
        } else {
            "\n"
        };
        let one = weather(style, "Ulm");
        let two = format!("{one}{between}{one}");
        let now = match style {
            CallStyle::Xml => "<tool_call>\n<function=now>\n</function>\n</tool_call>",
            CallStyle::Hermes => {
                "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
            }
            CallStyle::Llama => "{\"name\": \"now\", \"parameters\": {}}",
        };
        let cases = |of_now: bool, of_two: bool| {
            [
                (one.clone(), true),
                (two.clone(), of_two),
                (now.to_owned(), of_now),
                (weather(style, "Ulm over and over"), false),
                (one.replace("weather", "feather"), false),
                (one.replace('3', "30"), false),
                (one.replace("days", "unit").replace('3', "null"), true),
                (one.replace("days", "unit").replace('3', "4"), false),
                (format!("I look. {one}"), false),
                ("I cannot.".to_owned(), false),
                (String::new(), false),
            ]
        };
        let required = uses(tools.clone(), ToolChoice::Required);
        check(style, &required, &OutputFormat::Text, &cases(true, true));
        let named = ToolUse {
            choice: ToolChoice::Named("weather".to_owned()),
            parallel: Parallel::One,
            ..required
        };
        check(style, &named, &OutputFormat::Text, &cases(false, false));
    }
}

#[test]
fn beside_text_the_calls_of_strict_tools_are_held_to_their_schemas() {
    let strict = uses(
        vec![weather_tool(Strictness::Strict), now_tool()],
        ToolChoice::Auto,
    );
    for style in STYLES {
        let apart = style != CallStyle::Llama;
        let one = weather(style, "Ulm");
        let between = if apart { "\n" } else { "; " };
        check(
            style,
            &strict,
            &OutputFormat::Text,
            &[
                ("Plain words: 3 < 4 {}.".to_owned(), true),
                (String::new(), true),
                (one.clone(), true),
                (format!("{one}{between}{one}"), true),
                (one.replace("weather", "feather"), false),
                (format!("{one}{between}Done."), false),
                ("So <function=now>".to_owned(), !apart),
                ("So <|python_tag|>".to_owned(), apart),
            ],
        );
        if apart {
            let long = weather(style, "x".repeat(13).as_str());
            let cases = [
                (format!("I look.\n\n{one}"), true),
                (format!("I look.\n\n{long}"), false),
                ("<tool_call>".to_owned(), false),
            ];
            check(style, &strict, &OutputFormat::Text, &cases);
        }
        let loose = uses(vec![weather_tool(Strictness::Loose)], ToolChoice::Auto);
        let bench = Bench::new();
        assert_eq!(form(&bench, style, &loose, &OutputFormat::Text), Ok(None));
    }
}

#[test]
fn a_format_holds_for_the_text_and_schemas_for_the_calls() {
    let auto = uses(vec![weather_tool(Strictness::Loose)], ToolChoice::Auto);
    let json = |schema: Value| OutputFormat::Form {
        form: Form::Json {
            schema,
            strictness: Strictness::Strict,
        },
        field: "response_format.json_schema.schema".to_owned(),
    };
    let list = json(json!({"type": "array", "items": {"type": "null"}}));
    for style in [CallStyle::Xml, CallStyle::Hermes] {
        let cases = [
            ("[null]".to_owned(), true),
            (weather(style, "Ulm"), true),
            (weather(style, "Ulm").replace('3', "30"), false),
            ("[1]".to_owned(), false),
            ("Words.".to_owned(), false),
        ];
        check(style, &auto, &list, &cases);
        let required = ToolUse {
            choice: ToolChoice::Required,
            ..auto.clone()
        };
        check(
            style,
            &required,
            &list,
            &[("[null]".to_owned(), false), (weather(style, "Ulm"), true)],
        );
    }
    let bench = Bench::new();
    let refused = form(&bench, CallStyle::Llama, &auto, &list).unwrap_err();
    assert!(
        refused.to_string().contains("cannot stand beside tools"),
        "{refused}"
    );
    let regex = OutputFormat::Form {
        form: Form::Regex("a".to_owned()),
        field: "guided_regex".to_owned(),
    };
    assert!(form(&bench, CallStyle::Xml, &auto, &regex).is_err());
    let path = match form(&bench, CallStyle::Xml, &auto, &json(json!({"not": {}}))) {
        Ok(form) => bench.compile(&form.unwrap()).unwrap_err(),
        Err(error) => error,
    };
    assert!(
        path.to_string()
            .starts_with("`response_format.json_schema.schema.not`"),
        "{path}"
    );
}

/// A schema of a value between tags, a text, and what it is read as; `None` if it cannot be written.
type BetweenTags = (Value, &'static str, Option<Value>);

fn strings_between_tags() -> Vec<BetweenTags> {
    let string = |more: Value| {
        let mut schema = json!({"type": "string"});
        schema
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        schema
    };
    vec![
        (string(json!({})), "a < b\n</p>", Some(json!("a < b\n</p>"))),
        (string(json!({})), "", Some(json!(""))),
        (string(json!({})), "a</parameter>b", None),
        (
            string(json!({"enum": ["on", "o\"n"]})),
            "o\"n",
            Some(json!("o\"n")),
        ),
        (string(json!({"enum": ["on", "off"]})), "o", None),
        (json!({"const": "a.b"}), "a.b", Some(json!("a.b"))),
        (json!({"const": "a.b"}), "axb", None),
        (
            string(json!({"minLength": 2, "maxLength": 3})),
            "é3",
            Some(json!("é3")),
        ),
        (
            string(json!({"minLength": 2, "maxLength": 3})),
            "abcd",
            None,
        ),
        (
            string(json!({"pattern": "^\\d{2}$"})),
            "42",
            Some(json!("42")),
        ),
        (string(json!({"pattern": "^\\d{2}$"})), "٤٢", None),
        (
            string(json!({"pattern": "b|c\\$"})),
            "abc",
            Some(json!("abc")),
        ),
        (string(json!({"pattern": "b/"})), "a", None),
        (
            string(json!({"format": "date"})),
            "2026-02-28",
            Some(json!("2026-02-28")),
        ),
        (string(json!({"format": "date"})), "2026-02-30", None),
    ]
}

fn others_between_tags() -> Vec<BetweenTags> {
    let either = json!({"type": ["string", "null"]});
    let number = json!({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]});
    vec![
        (either.clone(), "null", Some(Value::Null)),
        (either, "nothing", Some(json!("nothing"))),
        (number.clone(), "7", Some(json!(7))),
        (number.clone(), "4", None),
        (number.clone(), "4a", None),
        (number, "a4", Some(json!("a4"))),
        (json!({"type": "boolean"}), "true", Some(json!(true))),
        (json!({"type": "boolean"}), "yes", None),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "[\"a\", \"b\"]",
            Some(json!(["a", "b"])),
        ),
        (json!({"enum": ["x", 1, null]}), "x", Some(json!("x"))),
        (json!({"enum": ["x", 1, null]}), "1", Some(json!(1))),
        (json!({"enum": ["x", 1, null]}), "2", None),
        (json!({}), "anything", Some(json!("anything"))),
        (
            json!({"oneOf": [{"type": "null"}, {"type": "string"}]}),
            "a",
            Some(json!("a")),
        ),
    ]
}

#[test]
fn values_between_tags_are_what_their_schemas_allow() {
    let bench = Bench::new();
    let cases = [strings_between_tags(), others_between_tags()].concat();
    for (schema, text, expected) in cases {
        let parameters = json!({"properties": {"v": schema}, "required": ["v"]});
        let uses = uses(
            vec![tool("f", parameters, Strictness::Strict)],
            ToolChoice::Required,
        );
        let form = form(&bench, CallStyle::Xml, &uses, &OutputFormat::Text)
            .unwrap()
            .unwrap();
        let constraint = bench.compile(&form).unwrap();
        let call = format!(
            "<tool_call>\n<function=f>\n<parameter=v>\n{text}\n</parameter>\n</function>\n</tool_call>"
        );
        assert_eq!(
            bench.lets(&constraint, &call).is_ok(),
            expected.is_some(),
            "{schema}: {text}"
        );
        if let Some(value) = expected {
            let read = calls(&reading(CallStyle::Xml, &uses), &call);
            assert_eq!(
                read,
                [("f".to_owned(), json!({"v": value}))],
                "{schema}: {text}"
            );
        }
    }
}

/// The schema of a strict tool that is refused, where, and a word of why.
type Refused = (Value, &'static str, &'static str);

/// Parameters with one, `v`.
fn of(value: Value) -> Value {
    json!({"type": "object", "properties": {"v": value}, "required": ["v"]})
}

fn refused_everywhere() -> Vec<Refused> {
    vec![
        (of(json!({"not": {}})), ".properties.v.not", "keyword"),
        (
            of(json!({"type": "array", "uniqueItems": true})),
            ".properties.v.uniqueItems",
            "keyword",
        ),
        (
            of(json!({"type": "array", "items": {"type": "text"}})),
            ".properties.v.items",
            "type",
        ),
        (
            of(json!({"type": "integer", "minimum": "x"})),
            ".properties.v",
            "",
        ),
        (
            json!({"type": "string"}),
            ".type",
            "arguments are an object",
        ),
        (
            json!({"type": "object", "properties": {"v": 3}}),
            ".properties.v",
            "no schema",
        ),
    ]
}

fn refused_in_tags() -> Vec<Refused> {
    vec![
        (json!({"anyOf": [{}]}), ".anyOf", "tags"),
        (json!({"required": ["w"]}), ".required", "properties"),
        (
            of(json!({"type": "string", "format": "hostname"})),
            ".properties.v.format",
            "date",
        ),
        (
            of(json!({"minLength": 3})),
            ".properties.v",
            "names no `type`",
        ),
        (
            of(json!({"allOf": [{"type": "string"}]})),
            ".properties.v",
            "allOf",
        ),
        (
            of(json!({"oneOf": [{"type": "string"}, {"type": "string"}]})),
            ".properties.v",
            "oneOf",
        ),
        (of(json!(false)), ".properties.v", "no tag"),
        (
            json!({"properties": {"a>": {}}, "required": ["a>"]}),
            ".properties.a>",
            "no tag",
        ),
        (
            of(json!({"type": "string", "enum": []})),
            ".properties.v",
            "allows nothing",
        ),
    ]
}

#[test]
fn what_a_strict_tool_cannot_promise_is_named_by_its_path() {
    let bench = Bench::new();
    let (everywhere, in_tags) = (refused_everywhere(), refused_in_tags());
    for style in STYLES {
        let tags = in_tags.iter().filter(|_| style == CallStyle::Xml);
        for (schema, path, reason) in everywhere.iter().chain(tags) {
            let strict = tool("f", schema.clone(), Strictness::Strict);
            let uses = uses(vec![strict], ToolChoice::Auto);
            let made = form(&bench, style, &uses, &OutputFormat::Text);
            let error = made.and_then(|form| bench.compile(&form.unwrap()).map(drop));
            match error.unwrap_err() {
                GrammarError::Schema {
                    path: got,
                    reason: why,
                } => {
                    assert_eq!(
                        got,
                        format!("tools[0].function.parameters{path}"),
                        "{style:?} {schema}"
                    );
                    assert!(why.contains(reason), "{schema}: {why}");
                }
                other => panic!("{style:?} {schema}: {other}"),
            }
        }
    }
}

/// Whether a number in a text is beyond what machines' numbers reach.
fn beyond_numbers(text: &str) -> bool {
    let of_number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let pieces = text.split(|c| !of_number(c));
    pieces.flat_map(str::parse::<f64>).any(f64::is_infinite)
}

/// Everything that a model with random weights finishes, in every style, is read as calls that are valid.
#[test]
fn finished_calls_of_random_tools_are_valid() {
    const SCHEMAS: u32 = 100;
    let bench = Bench::new();
    let mut machine = Machine::new();
    let mut runner = TestRunner::deterministic();
    let strategy = super::random::arguments();
    for style in STYLES {
        let (mut made, mut called) = (0, 0);
        let uses_of = |schema: &Value, choice| {
            let strict = tool("act", schema.clone(), Strictness::Strict);
            uses(vec![strict, now_tool()], choice)
        };
        while made < SCHEMAS || !machine.runs.is_empty() {
            while made < SCHEMAS && machine.runs.len() < WIDTH as usize {
                let schema = strategy.new_tree(&mut runner).unwrap().current();
                let choice = match made % 4 {
                    0 => ToolChoice::Auto,
                    1 => ToolChoice::Required,
                    _ => ToolChoice::Named("act".to_owned()),
                };
                let uses = uses_of(&schema, choice);
                let form = form(&bench, style, &uses, &OutputFormat::Text);
                let form = form
                    .unwrap_or_else(|error| panic!("{schema}: {error}"))
                    .unwrap();
                let constraint = bench.compile(&form);
                let constraint = constraint.unwrap_or_else(|error| panic!("{schema}: {error}"));
                machine.add(schema, constraint);
                made += 1;
            }
            for run in machine.finish_some() {
                let text = bench.tokenizer.decode(&run.drawn, model::SpecialText::Keep);
                let uses = uses_of(&run.schema, ToolChoice::Required);
                if beyond_numbers(&text) {
                    continue;
                }
                let validator = jsonschema::options()
                    .should_validate_formats(true)
                    .build(&run.schema)
                    .unwrap();
                for (name, arguments) in calls(&reading(style, &uses), &text) {
                    called += 1;
                    let valid = name == "now" || validator.is_valid(&arguments);
                    assert!(valid, "{style:?} {}: {text:?}", run.schema);
                }
            }
        }
        assert!(
            called > SCHEMAS / 6,
            "{called} calls of {SCHEMAS} in {style:?}"
        );
    }
}
