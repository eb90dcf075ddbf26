//! Answers with calls, cut in every way.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::text::chat::Strictness;
use crate::text::tools::events::{arguments, text};

fn tool(name: &str, parameters: Option<Value>) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: parameters.map(|schema| schema.as_object().unwrap().clone()),
        strictness: Strictness::Loose,
        place: "tools[0].function.parameters".to_owned(),
    }
}

fn reading(style: CallStyle, parallel: Parallel) -> CallReading {
    let weather = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": "array"},
    }, "required": ["city"]});
    let write = json!({"type": "object", "properties": {
        "path": {"type": "string"}, "text": {"type": "string"},
    }});
    CallReading {
        style,
        tools: Arc::new([
            tool("weather", Some(weather)),
            tool("write", Some(write)),
            tool("now", None),
        ]),
        parallel,
    }
}

fn merge(all: &mut Vec<CallEvent>, more: Vec<CallEvent>) {
    for event in more {
        match event {
            CallEvent::Text(words) => text(all, &words),
            CallEvent::Arguments(json) => arguments(all, &json),
            other => all.push(other),
        }
    }
}

fn read<'a>(
    reading: &CallReading,
    pieces: impl IntoIterator<Item = &'a str>,
    ending: Ending,
) -> Vec<CallEvent> {
    let mut reader = CallReader::new(reading.clone());
    let mut all = Vec::new();
    for piece in pieces {
        merge(&mut all, reader.push(piece));
    }
    merge(&mut all, reader.finish(ending));
    all
}

/// Events in short: texts as they are, calls as `⟦name|arguments⟧`, `…` in place of the end of one that has none.
fn short(events: &[CallEvent]) -> String {
    let mut out = String::new();
    let mut open = false;
    for event in events {
        match event {
            CallEvent::Begin { name } => {
                out.push_str(&format!("⟦{name}|"));
                open = true;
                continue;
            }
            CallEvent::Arguments(json) => out.push_str(json),
            CallEvent::End => {
                out.push('⟧');
                open = false;
            }
            CallEvent::Text(words) => {
                if std::mem::take(&mut open) {
                    out.push('…');
                }
                out.push_str(words);
            }
        }
    }
    if open {
        out.push('…');
    }
    out
}

/// Every call that ended has an object for its arguments.
fn assert_sound(events: &[CallEvent], from: &str) {
    let mut json = None;
    for event in events {
        match event {
            CallEvent::Begin { .. } => json = Some(String::new()),
            CallEvent::Arguments(more) => json.as_mut().unwrap().push_str(more),
            CallEvent::End => {
                let text = json.take().unwrap();
                assert!(
                    matches!(serde_json::from_str(&text), Ok(Value::Object(_))),
                    "{text:?} from {from:?}"
                );
            }
            CallEvent::Text(words) => assert!(!words.is_empty()),
        }
    }
}

/// All pieces of one width, and all cuts into three.
fn cuts(whole: &str) -> Vec<Vec<&str>> {
    let borders: Vec<usize> = whole.char_indices().map(|(place, _)| place).collect();
    let mut all = vec![vec![whole]];
    for width in 1..borders.len().min(9) {
        let ends = borders.iter().copied().step_by(width).skip(1);
        let mut start = 0;
        let mut pieces = Vec::new();
        for end in ends.chain([whole.len()]) {
            pieces.push(&whole[start..end]);
            start = end;
        }
        all.push(pieces);
    }
    for (index, &first) in borders.iter().enumerate() {
        let second = borders[index..]
            .iter()
            .copied()
            .nth(7)
            .unwrap_or(whole.len());
        all.push(vec![
            &whole[..first],
            &whole[first..second],
            &whole[second..],
        ]);
    }
    all
}

fn check(style: CallStyle, cases: &[(&str, &str)]) {
    let reading = reading(style, Parallel::Any);
    for (whole, expected) in cases {
        for pieces in cuts(whole) {
            let events = read(&reading, pieces.iter().copied(), Ending::Own);
            assert_eq!(short(&events), *expected, "{whole:?} as {pieces:?}");
            assert_sound(&events, whole);
        }
    }
}

/// Answers with tags, and what they are read as.
const TAGS: &[(&str, &str)] = &[
    ("Just text < 5 & <b>.\n", "Just text < 5 & <b>.\n"),
    (
        "Let me see.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "Let me see.⟦weather|{\"city\": \"Paris\", \"days\": 3}⟧",
    ),
    // Two calls, and text behind them.
    (
        "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n\nDone. ",
        "⟦now|{}⟧⟦now|{}⟧Done. ",
    ),
    // Values keep their own lines, quotes, tags and spaces.
    (
        "<tool_call>\n<function=write>\n<parameter=path>\na b.html\n</parameter>\n<parameter=text>\n\n<p class=\"x\">1 < 2</p>\n  </para\n\u{e9}\\n\n\n</parameter>\n</function>\n</tool_call>",
        "⟦write|{\"path\": \"a b.html\", \"text\": \"\\n<p class=\\\"x\\\">1 < 2</p>\\n  </para\\n\u{e9}\\\\n\\n\"}⟧",
    ),
    (
        "<tool_call><function=write><parameter=text>one</parameter><parameter=path></parameter></function></tool_call>",
        "⟦write|{\"text\": \"one\", \"path\": \"\"}⟧",
    ),
    // Typed by the schema; what does not fit is a string.
    (
        "<tool_call>\n<function=weather>\n<parameter=near>\n[1,\n 2]\n</parameter>\n<parameter=days>\nmany\n</parameter>\n<parameter=other>\n7\n</parameter>\n</function>\n</tool_call>",
        "⟦weather|{\"near\": [1,\n 2], \"days\": \"many\", \"other\": \"7\"}⟧",
    ),
    // Tags that are missing.
    ("<function=now>\n</function>\n</tool_call>", "⟦now|{}⟧"),
    (
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</tool_call>\n<tool_call>\n<function=now>\n</tool_call>",
        "⟦weather|{\"city\": \"Rome\"}⟧⟦now|{}⟧",
    ),
    (
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<tool_call>\n<function=now>\n</function>",
        "⟦weather|{\"city\": \"Rome\"}⟧⟦now|{}⟧",
    ),
    // The other kind of call in this markup.
    (
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        "⟦now|{}⟧",
    ),
    // Words between parameters are passed over.
    (
        "<tool_call>\n<function=weather>\nwith <b> the city\n<parameter=city>\nRome\n</parameter>\nthere</function>\n</tool_call>",
        "⟦weather|{\"city\": \"Rome\"}⟧",
    ),
    // A tool that was not offered.
    (
        "<tool_call>\n<function=erase>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>",
        "⟦erase|{\"n\": \"1\"}⟧",
    ),
    // Not called without the first tag, though.
    (
        "Write <function=erase> to erase.",
        "Write <function=erase> to erase.",
    ),
    // Never closed, in every place.
    ("See <tool_", "See <tool_"),
    ("See <tool_call>", "See <tool_call>"),
    (
        "<tool_call>\n<function=weath",
        "<tool_call>\n<function=weath",
    ),
    ("<tool_call>\n<function=weather>\n", "⟦weather|{}⟧"),
    (
        "<tool_call>\n<function=weather>\n<parameter=ci",
        "⟦weather|…",
    ),
    (
        "<tool_call>\n<function=weather>\n<parameter=city>\nPar",
        "⟦weather|{\"city\": \"Par…",
    ),
    (
        "<tool_call>\n<function=weather>\n<parameter=days>\n1",
        "⟦weather|{\"days\": …",
    ),
    (
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n",
        "⟦weather|{\"city\": \"Paris\"}⟧",
    ),
    // No call at all.
    (
        "<tool_call>\nnothing</tool_call>",
        "<tool_call>\nnothing</tool_call>",
    ),
    (
        "<tool_call>\n<function=we ather>\n</function>",
        "<tool_call>\n<function=we ather>\n</function>",
    ),
    (
        "<tool_call><tool_call>\n<function=now></function></tool_call>",
        "<tool_call>⟦now|{}⟧",
    ),
    (
        "<tool_call>\n<function=>\n</function>",
        "<tool_call>\n<function=>\n</function>",
    ),
];

#[test]
fn tags_become_calls() {
    check(CallStyle::Xml, TAGS);
}

/// Answers with JSON in tags.
const JSON_IN_TAGS: &[(&str, &str)] = &[
    (
        "Well.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\", \"days\": [1, {\"a\": \"}\"}]}}\n</tool_call>",
        "Well.⟦weather|{\"city\": \"Paris\", \"days\": [1, {\"a\": \"}\"}]}⟧",
    ),
    (
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\"}\n</tool_call> So.",
        "⟦now|{}⟧⟦now|{}⟧So.",
    ),
    // Arguments first, as a text, as nothing; members that are not known.
    (
        "<tool_call>{\"arguments\": {\"city\": \"Bonn\"}, \"id\": 7, \"name\": \"weather\"}</tool_call>",
        "⟦weather|{\"city\": \"Bonn\"}⟧",
    ),
    (
        "<tool_call>{\"name\": \"weather\", \"arguments\": \"{\\\"city\\\": \\\"Bonn\\\"}\"}</tool_call>",
        "⟦weather|{\"city\":\"Bonn\"}⟧",
    ),
    (
        "<tool_call>{\"name\": \"now\", \"arguments\": null, \"type\": [{}], \"arguments\": {}}</tool_call>",
        "⟦now|{}⟧",
    ),
    // Strings that are not quite JSON.
    (
        "<tool_call>{\"name\": \"write\", \"arguments\": {\"text\": \"a\nb\\d\"}}</tool_call>",
        "⟦write|{\"text\": \"a\\nb\\\\d\"}⟧",
    ),
    // One brace too many, one too few, and no closing tag.
    (
        "<tool_call>{\"name\": \"now\", \"arguments\": {}}}\n</tool_call>Yes.",
        "⟦now|{}⟧Yes.",
    ),
    (
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {}\n</tool_call>Yes.",
        "⟦now|{}⟧Yes.",
    ),
    (
        "<tool_call>{\"name\": \"now\", \"arguments\": {}} Yes.",
        "⟦now|{}⟧Yes.",
    ),
    (
        "<tool_call>{\"name\": \"now\", \"arguments\": {}",
        "⟦now|{}⟧",
    ),
    (
        "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_c",
        "⟦now|{}⟧</tool_c",
    ),
    // A tool that was not offered.
    (
        "<tool_call>{\"name\": \"erase\", \"arguments\": {\"a\": 1}}</tool_call>",
        "⟦erase|{\"a\": 1}⟧",
    ),
    // Never closed.
    ("<tool_call>{\"name\": \"wea", "<tool_call>{\"name\": \"wea"),
    (
        "<tool_call>{\"name\": \"weather\", ",
        "<tool_call>{\"name\": \"weather\", ",
    ),
    (
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Pa",
        "⟦weather|{\"city\": \"Pa…",
    ),
    // Not JSON: text, from the place where that shows.
    (
        "<tool_call>\n{'name': 'now'}\n</tool_call>",
        "<tool_call>\n{'name': 'now'}\n</tool_call>",
    ),
    (
        "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call>",
    ),
    (
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": Paris}}</tool_call>",
        "⟦weather|{\"city\": …Paris}}</tool_call>",
    ),
    (
        "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>",
    ),
    (
        "<tool_call>{\"name\": 5} <tool_call>{\"name\": \"now\"}</tool_call>",
        "<tool_call>{\"name\": 5}⟦now|{}⟧",
    ),
    (
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
    ),
];

#[test]
fn json_in_tags_becomes_calls() {
    check(CallStyle::Hermes, JSON_IN_TAGS);
}

/// Answers with bare JSON.
const BARE_JSON: &[(&str, &str)] = &[
    (
        "{\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}",
        "⟦weather|{\"city\": \"Paris\"}⟧",
    ),
    (
        " <|python_tag|>{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}",
        "⟦now|{}⟧",
    ),
    (
        "I look.\n<|python_tag|>{\"name\": \"erase\", \"parameters\": {}}",
        "I look.⟦erase|{}⟧",
    ),
    (
        "{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}\nSo.",
        "⟦now|{}⟧⟦now|{}⟧So.",
    ),
    // An answer in JSON is an answer.
    (
        "{\"name\": \"Ada\", \"age\": 3}",
        "{\"name\": \"Ada\", \"age\": 3}",
    ),
    ("{\"name\": \"now\"}", "{\"name\": \"now\"}"),
    (
        "\n{\"a\": {\"name\": \"now\"}}",
        "\n{\"a\": {\"name\": \"now\"}}",
    ),
    (
        "Look: {\"name\": \"now\", \"parameters\": {}}",
        "Look: {\"name\": \"now\", \"parameters\": {}}",
    ),
    ("{", "{"),
    (
        "<|python_tag|>print(\"now\")",
        "<|python_tag|>print(\"now\")",
    ),
    ("<|python_tag|>", "<|python_tag|>"),
    (
        "{\"name\": \"weather\", \"parameters\": {\"city\": \"Pa",
        "⟦weather|{\"city\": \"Pa…",
    ),
    (" ", " "),
    ("", ""),
];

#[test]
fn bare_json_becomes_calls() {
    check(CallStyle::Llama, BARE_JSON);
}

#[test]
fn one_call_ends_an_answer_that_may_have_one() {
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let mut reader = CallReader::new(reading(CallStyle::Hermes, Parallel::One));
    let mut events = reader.push("First. ");
    assert!(!reader.is_over());
    merge(&mut events, reader.push(&format!("{call}\n{call} more")));
    assert!(reader.is_over());
    merge(&mut events, reader.finish(Ending::Own));
    assert_eq!(short(&events), "First.⟦now|{}⟧");
}

#[test]
fn an_answer_that_was_cut_off_between_parameters_may_lack_some() {
    let whole = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n";
    let reading = reading(CallStyle::Xml, Parallel::Any);
    let cut = read(&reading, [whole], Ending::Cut);
    assert_eq!(short(&cut), "⟦weather|{\"city\": \"Paris\"…");
    // Arguments in JSON that are whole are whole, however the answer ended.
    let whole = "<tool_call>{\"name\": \"now\", \"arguments\": {}";
    let cut = read(&reading, [whole], Ending::Cut);
    assert_eq!(short(&cut), "⟦now|{}⟧");
}

#[test]
fn arguments_leave_as_they_come() {
    let mut reader = CallReader::new(reading(CallStyle::Xml, Parallel::Any));
    reader.push("<tool_call>\n<function=write>\n<parameter=text>\n");
    assert_eq!(reader.push("abc"), [CallEvent::Arguments("abc".to_owned())]);
    assert_eq!(reader.push("\n</par"), []);
    assert_eq!(
        reader.push("x"),
        [CallEvent::Arguments("\\n</parx".to_owned())]
    );
    let mut reader = CallReader::new(reading(CallStyle::Hermes, Parallel::Any));
    let events = reader.push("<tool_call>{\"name\": \"write\", \"arguments\": {\"text\": \"ab");
    assert_eq!(short(&events), "⟦write|{\"text\": \"ab…");
    assert_eq!(reader.push("c"), [CallEvent::Arguments("c".to_owned())]);
}

#[test]
fn markup_that_never_says_a_name_is_text_in_the_end() {
    let long = format!("<tool_call>{{\"x\": \"{}\"}}", "y".repeat(10_000));
    let reading = reading(CallStyle::Hermes, Parallel::Any);
    let mut reader = CallReader::new(reading);
    let mut events = reader.push(&long);
    let held: usize = long.len() - short(&events).len();
    assert_eq!(held, 0, "nothing is held back any more");
    merge(&mut events, reader.finish(Ending::Own));
    assert_eq!(short(&events), long);
}

#[test]
fn templates_tell_the_style() {
    let style = |source: &str| CallStyle::of(&ChatTemplate::new(source, None, None).unwrap());
    for (source, expected) in [
        ("{{ messages }}", None),
        ("{{ tools }} call them as you like", None),
        ("{{ tools }}<tool_call><function=f>", Some(CallStyle::Xml)),
        (
            "{{ tools }}<tool_call>{\"name\": ..}",
            Some(CallStyle::Hermes),
        ),
        (
            "{{ tools }}<|start_header_id|>\"parameters\"",
            Some(CallStyle::Llama),
        ),
        ("{{ tools }}<|python_tag|>", Some(CallStyle::Llama)),
        ("no list of any: <tool_call>", None),
    ] {
        assert_eq!(style(source), expected, "{source}");
    }
}

#[test]
fn what_a_grammar_describes_is_read_as_the_call() {
    for (style, arguments) in [
        (CallStyle::Hermes, "{\"city\": \"Rome\", \"days\": 2}"),
        (CallStyle::Llama, "{\"city\": \"Rome\", \"days\": 2}"),
        (CallStyle::Xml, ""),
    ] {
        let reading = reading(style, Parallel::Any);
        let all = reading.grammar(None);
        let names: Vec<&str> = all.forms.iter().map(|form| form.tool.as_str()).collect();
        assert_eq!(names, ["weather", "write", "now"]);
        let grammar = reading.grammar(Some("weather"));
        let [form] = grammar.forms.as_slice() else {
            panic!("one form");
        };
        assert!(form.begin.starts_with(grammar.trigger));
        let body = match &form.body {
            grammar::CallBody::Json(schema) => {
                assert_eq!(schema["required"], json!(["city"]));
                arguments.to_owned()
            }
            grammar::CallBody::Tags { parameters, schema } => {
                assert_eq!(schema["required"], json!(["city"]));
                let required: Vec<bool> = parameters.iter().map(|p| p.required).collect();
                assert_eq!(required, [true, false, false]);
                assert_eq!(parameters[1].schema, json!({"type": "integer"}));
                let values = parameters.iter().zip(["Rome", "2"]);
                values
                    .map(|(p, value)| format!("{}{value}{}", p.begin, p.end))
                    .collect()
            }
        };
        let call = format!("{}{body}{}", form.begin, form.end);
        let two = format!("{call}{}{call}", grammar.between);
        let expected = "⟦weather|{\"city\": \"Rome\", \"days\": 2}⟧".repeat(2);
        assert_eq!(
            short(&read(&reading, [two.as_str()], Ending::Own)),
            expected
        );
    }
}

/// Pieces of which answers with and without calls are made.
const FRAGMENTS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<function=",
    "weather",
    "erase",
    ">",
    "\n",
    "<parameter=",
    "city",
    "days",
    "</parameter>",
    "</function>",
    "{",
    "}",
    "\"name\": ",
    "\"weather\"",
    ", ",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"city\": \"a",
    "\"}",
    "\\",
    "\\u12",
    "\\ud83d",
    "12",
    "null",
    "[",
    "]",
    "<|python_tag|>",
    "; ",
    " ",
    "text",
    "é",
    "<",
    "\"",
    "{\"name\": \"weather\", \"arguments\": {\"city\": \"",
    "<tool_call>\n<function=weather>\n<parameter=city>\n",
    "\n</parameter>\n",
    "</function>\n</tool_call>",
];

proptest! {
    #[test]
    fn cuts_change_nothing(
        fragments in prop::collection::vec(prop::sample::select(FRAGMENTS), 0..24),
        widths in prop::collection::vec(1_usize..6, 1..8),
        style in prop::sample::select(vec![CallStyle::Xml, CallStyle::Hermes, CallStyle::Llama]),
        ending in prop::sample::select(vec![Ending::Own, Ending::Cut]),
    ) {
        let whole = fragments.concat();
        let reading = reading(style, Parallel::Any);
        let at_once = read(&reading, [whole.as_str()], ending);
        let mut rest = whole.as_str();
        let mut pieces = Vec::new();
        for width in widths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let end = rest.char_indices().nth(*width).map_or(rest.len(), |(place, _)| place);
            let (piece, left) = rest.split_at(end);
            pieces.push(piece);
            rest = left;
        }
        let in_pieces = read(&reading, pieces, ending);
        prop_assert_eq!(short(&in_pieces), short(&at_once));
        prop_assert_eq!(in_pieces, at_once);
    }

    #[test]
    fn calls_that_end_are_whole(
        fragments in prop::collection::vec(prop::sample::select(FRAGMENTS), 0..24),
        style in prop::sample::select(vec![CallStyle::Xml, CallStyle::Hermes, CallStyle::Llama]),
    ) {
        let whole = fragments.concat();
        let events = read(&reading(style, Parallel::Any), [whole.as_str()], Ending::Own);
        assert_sound(&events, &whole);
    }
}
