//! Chat templates against recorded renderings, Python's spelling, and hostile sources.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod golden;
mod hostile;
mod python;

use serde_json::{Map, Value, json};

use super::{ChatTemplate, RenderInput, TemplateError};

/// Renders `source` with these messages and variables.
fn render_with(source: &str, messages: Value, extra: Value) -> Result<String, TemplateError> {
    let empty = Map::new();
    ChatTemplate::new(source, Some("<bos>"), None)?.render(&RenderInput {
        messages: &messages,
        tools: None,
        add_generation_prompt: true,
        extra: extra.as_object().unwrap_or(&empty),
    })
}

/// Renders `source` with one message and the variable `x`.
fn render(source: &str, x: Value) -> Result<String, TemplateError> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    render_with(source, messages, json!({ "x": x }))
}

#[test]
fn messages_take_the_shape_that_templates_expect() {
    let table = [
        (json!({"role": "user", "content": "a"}), "a|"),
        (json!({"role": "user", "content": null}), "|"),
        (json!({"role": "user"}), "|"),
        (
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            "ab|",
        ),
        (
            json!({"role": "assistant", "content": "", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2.0]}"}},
                {"function": {"name": "g", "arguments": ""}},
                {"function": {"name": "h", "arguments": {"k": null}}},
                {"name": "i", "arguments": "{}"},
            ]}),
            r#"|{"b": 1, "a": [2.0]}{}{"k": null}{}"#,
        ),
    ];
    let source = "{{ messages[0].content }}|{% for c in messages[0].tool_calls or [] %}\
        {{ (c.function or c).arguments | tojson }}{% endfor %}";
    for (message, want) in table {
        let got = render_with(source, json!([message.clone()]), json!({})).unwrap();
        assert_eq!(got, want, "{message}");
    }
}

#[test]
fn messages_of_other_shapes_are_refused() {
    let table = [
        (json!({"role": "user"}), "a list of messages"),
        (json!(["hi"]), "message 0 is a text"),
        (json!([{"content": 7}]), "a number"),
        (
            json!([{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            "image_url",
        ),
        (json!([{"content": [{}]}]), "without a type"),
        (
            json!([{"content": "", "tool_calls": [{"function": {"arguments": "{\"a\":"}}]}]),
            "no JSON text",
        ),
        (
            json!([{"content": "", "tool_calls": [{"function": {"arguments": "[1]"}}]}]),
            "a JSON text of a list",
        ),
    ];
    for (messages, want) in table {
        let got = render_with("x", messages, json!({}))
            .unwrap_err()
            .to_string();
        assert!(got.contains(want), "{got:?} lacks {want:?}");
    }
    for name in ["messages", "tools", "+", "a b", ""] {
        assert!(matches!(
            render_with("x", json!([]), json!({ name: 1 })),
            Err(TemplateError::Shape { .. })
        ));
    }
}

#[test]
fn templates_see_tokens_and_variables_but_no_clock() {
    let source = "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ enable_thinking }}\
        {{ tools is none }}{{ strftime_now is defined }}";
    let got = render_with(source, json!([]), json!({"enable_thinking": false})).unwrap();
    assert_eq!(got, "<bos>TrueFalseTrueFalse");
    let template = ChatTemplate::new(source, None, None).unwrap();
    assert!(template.mentions("enable_thinking") && !template.mentions("documents"));
}

#[test]
fn a_refusal_is_told_in_the_templates_words() {
    let source = "{% macro m() %}{{ raise_exception('No user query.') }}{% endmacro %}{{ m() }}";
    match render(source, json!(null)) {
        Err(TemplateError::Refused { message }) => assert_eq!(message, "No user query."),
        other => panic!("{other:?}"),
    }
}

#[test]
fn white_space_and_loops_are_those_of_hugging_face() {
    let source = "{% for m in x %}\n    {% if loop.previtem is defined %}\n<{{ loop.previtem }}\n    {% endif %}\n\
        {{ m }}{% if loop.nextitem is defined %}>{{ loop.nextitem }}{% else %}.{% endif %}\n\n{% endfor %}\n";
    assert_eq!(render(source, json!([1, 2])).unwrap(), "1>2\n<1\n2.\n");
    let source = "{% set ns = namespace(n=0) %}{% for i in x %}{% if i == 2 %}{% continue %}{% endif %}\
        {% if i == 4 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}";
    assert_eq!(render(source, json!([1, 2, 3, 4, 5])).unwrap(), "4");
}
