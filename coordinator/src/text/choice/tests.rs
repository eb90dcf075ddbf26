//! Choices token by token: calls, stop texts and reasoning together.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::text::chat::{Parallel, Strictness, Tool};
use crate::text::tools::CallStyle;

const END: u32 = 514;

/// The vocabulary of the test models; `special` makes the markup of calls and reasoning control tokens.
fn tokenizer(special: &[&str]) -> Tokenizer {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/qwen3_5_moe"
    ));
    let text = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for token in json["added_tokens"].as_array_mut().unwrap() {
        let content = token["content"].as_str().unwrap().to_owned();
        if special.contains(&content.as_str()) {
            token["special"] = true.into();
        }
    }
    Tokenizer::from_json(json.to_string().as_bytes(), None).unwrap()
}

fn reading(reasoning: Reasoning, parallel: Parallel) -> Reading {
    let tool = Tool {
        name: "now".to_owned(),
        description: None,
        parameters: None,
        strictness: Strictness::Loose,
        place: "tools[0].function.parameters".to_owned(),
    };
    Reading {
        reasoning,
        calls: Some(CallReading {
            style: CallStyle::Hermes,
            tools: Arc::new([tool]),
            parallel,
        }),
    }
}

/// Parts in short, with the finish and whether the choice stopped itself.
fn run(choice: &mut ChoiceText, ids: &[u32], finish: Finish) -> (String, Option<Finish>, bool) {
    let mut out = String::new();
    let mut write = |piece: &Piece| {
        for part in &piece.parts {
            match part {
                Part::Reasoning(text) => out.push_str(&format!("({text})")),
                Part::Text(text) => out.push_str(text),
                Part::CallBegin { call, id, name } => {
                    assert!(id.starts_with("call_") && id.len() == 29, "{id}");
                    out.push_str(&format!("⟦{call} {name}|"));
                }
                Part::CallArguments { json, .. } => out.push_str(json),
                Part::CallEnd { call } => out.push_str(&format!("{call}⟧")),
            }
        }
    };
    for &id in ids {
        let piece = choice.token(id, None);
        write(&piece);
        if piece.finish.is_some() {
            return (out, piece.finish, piece.stopped_here);
        }
    }
    let last = match finish {
        Finish::Stop => choice.token(END, Some(Finish::Stop)),
        other => choice.end(other),
    };
    write(&last);
    (out.replace(")(", ""), last.finish, last.stopped_here)
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": \"STOP\"}}\n</tool_call>";

/// How the prompt ended, the answer and its ending; what is read, the finish, and whether the choice stopped itself.
type Case = (Reasoning, String, Finish, String, Finish, bool);

fn cases() -> Vec<Case> {
    use Reasoning::{Inside, Watch};
    let call = "⟦0 now|{\"a\": \"STOP\"}0⟧";
    vec![
        // A stop text inside a call is part of its arguments.
        (
            Watch,
            format!("Well. {CALL}"),
            Finish::Stop,
            format!("Well.{call}"),
            Finish::ToolCalls,
            false,
        ),
        // Outside it ends the choice, also behind a call, whose result is waited for all the same.
        (
            Watch,
            format!("WeSTOPll. {CALL}"),
            Finish::Stop,
            "We".to_owned(),
            Finish::StopText(1),
            true,
        ),
        (
            Watch,
            format!("{CALL}aSTOPb"),
            Finish::Stop,
            format!("{call}a"),
            Finish::ToolCalls,
            true,
        ),
        // Text on both sides of a call makes no stop text together.
        (
            Watch,
            format!("ST{CALL}OP"),
            Finish::Stop,
            format!("ST{call}OP"),
            Finish::ToolCalls,
            false,
        ),
        // Markup in the reasoning is reasoning.
        (
            Inside,
            format!("<tool_call></think>\n\n{CALL}"),
            Finish::Stop,
            format!("(<tool_call>){call}"),
            Finish::ToolCalls,
            false,
        ),
        (
            Watch,
            "<think>STOP</think>".to_owned(),
            Finish::Stop,
            String::new(),
            Finish::StopText(1),
            true,
        ),
    ]
}

/// Answers in which nothing is stopped.
fn open_cases() -> Vec<Case> {
    use Reasoning::Watch;
    vec![
        // Cut off inside.
        (
            Watch,
            CALL.split_once("OP").unwrap().0.to_owned(),
            Finish::Length,
            "⟦0 now|{\"a\": \"ST".to_owned(),
            Finish::Length,
            false,
        ),
        (
            Watch,
            "<tool_call>never".to_owned(),
            Finish::Stop,
            "<tool_call>never".to_owned(),
            Finish::Stop,
            false,
        ),
    ]
}

#[test]
fn calls_stops_and_reasoning_do_not_disturb_each_other() {
    let tokenizer = tokenizer(&[]);
    let stops = ["never asked".to_owned(), "STOP".to_owned()];
    for (reasoning, text, ending, expected, finish, stopped) in [cases(), open_cases()].concat() {
        let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
        let mut choice = ChoiceText::new(&tokenizer, &stops, &reading(reasoning, Parallel::Any));
        let got = run(&mut choice, &ids, ending);
        assert_eq!(got, (expected, Some(finish), stopped), "{text}");
        assert!(choice.is_done());
    }
}

#[test]
fn markup_is_seen_where_it_is_a_control_token() {
    let tokenizer = tokenizer(&["<tool_call>", "</tool_call>", "<think>", "</think>"]);
    let text = format!("<think>hm</think>\n\n{CALL}\n<tool_call>x");
    let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
    assert!(ids.iter().filter(|id| tokenizer.is_special(**id)).count() == 5);
    let mut choice = ChoiceText::new(&tokenizer, &[], &reading(Reasoning::Watch, Parallel::Any));
    let got = run(&mut choice, &ids, Finish::Stop);
    let expected = "(hm)⟦0 now|{\"a\": \"STOP\"}0⟧<tool_call>x".to_owned();
    assert_eq!(got, (expected, Some(Finish::ToolCalls), false));
    // Where nothing is split, control tokens stay hidden.
    let mut choice = ChoiceText::new(&tokenizer, &[], &Reading::plain());
    let (shown, ..) = run(&mut choice, &ids, Finish::Stop);
    assert!(
        !shown.contains("tool_call") && !shown.contains("think"),
        "{shown}"
    );
}

#[test]
fn the_one_call_that_was_wanted_ends_the_choice() {
    let tokenizer = tokenizer(&[]);
    let ids = tokenizer
        .encode(&format!("{CALL}\n{CALL} tail"), Specials::Parse)
        .unwrap();
    let mut choice = ChoiceText::new(&tokenizer, &[], &reading(Reasoning::Watch, Parallel::One));
    let got = run(&mut choice, &ids, Finish::Stop);
    let expected = "⟦0 now|{\"a\": \"STOP\"}0⟧".to_owned();
    assert_eq!(got, (expected, Some(Finish::ToolCalls), true));
}
