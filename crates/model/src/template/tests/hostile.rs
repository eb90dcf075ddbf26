//! Templates that run away, in every way known: each must end soon in an error, without harm.

use serde_json::json;

use super::render;
use crate::template::{ChatTemplate, TEMPLATE_BYTES_MAX, TemplateError};

#[test]
fn templates_that_run_away_are_stopped() {
    let table = [
        // steps
        "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = b %}{% endfor %}{% endfor %}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{{ a }}{% endfor %}{% endfor %}",
        // depth
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        // texts and lists that double
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s | length }}",
        "{{ 'aaaa' * 90000000 }}",
        "{{ [0] * 90000000 }}",
        "{% set n = 90000000 %}{{ 'aaaa' * n }}",
        "{% set n = 90000000 %}{{ [0] * n }}",
        "{% set n = 9000000000000 %}{{ [] * n }}",
        "{{ 2 ** 2 ** 2 }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{{ a | replace('a', a) }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{{ a.replace('a', a) }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{{ (['a'] * n) | join(a) }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{{ a.join(['a'] * n) }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{% set a = [a] * n %}{{ a }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{% set a = [a] * n %}{{ a | tojson }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{% set a = [a] * n %}{{ a | map('upper') | list | length }}",
        "{% set n = 60000 %}{% set a = 'a' * n %}{% set a = [a] * n %}{{ a | string | length }}",
        "{% set n = 600000 %}{% set a = '\n' * n %}{{ a | indent(1000) }}",
        "{% set n = 600000 %}{% set a = 'a' * n %}{% for i in range(90000) %}{% set b = a[1:] %}{% endfor %}",
        "{% set n = 600000 %}{% set a = 'a' * n %}{% for i in range(90000) %}{% set b = a | upper %}{% endfor %}",
        "{% set n = 600000 %}{% set a = 'a' * n %}{% for i in range(90000) %}{% set b = a.strip() %}{% endfor %}",
        "{% set a %}{% for i in range(90000) %}{{ 'a' * 600 }}{% endfor %}{% endset %}",
    ];
    for source in table {
        match render(source, json!(null)) {
            Err(TemplateError::RunAway { .. }) => {}
            Err(other) => panic!("{source}: {other}"),
            Ok(text) => panic!("{source}: {} bytes", text.len()),
        }
    }
}

#[test]
fn long_plain_text_in_a_loop_is_stopped() {
    let source = format!(
        "{{% for i in range(90000) %}}{}{{% endfor %}}",
        "x".repeat(100_000)
    );
    assert!(matches!(
        render(&source, json!(null)),
        Err(TemplateError::RunAway { .. })
    ));
}

#[test]
fn operations_without_a_bound_do_not_exist() {
    for source in [
        "{{ '%0999999999d' | format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ [1] | batch(999999999, 0) }}",
        "{{ lipsum() }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ strftime_now('%Y') }}",
        "{{ x.__class__ + '' }}",
        "{{ 'a' | no_such_filter }}",
    ] {
        assert!(render(source, json!("a")).is_err(), "{source}");
    }
}

#[test]
fn sources_nested_as_deep_as_fits_are_compiled_or_refused() {
    let table = [
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~1", " }}"),
        ("{{ 2", "**2", " }}"),
        ("{{ 1", "<1", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", "|e", " }}"),
        ("{{ x", ".a", " }}"),
        ("{{ x", "[0]", " }}"),
        ("{{ x", "()", " }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "(", " }}"),
        ("{{ ", "[", " }}"),
        ("{{ ", "{1:", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", " is odd", " }}"),
        ("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        ("", "{% if 1 %}", ""),
        ("", "{% for a in b %}", ""),
        ("", "{% macro m() %}", ""),
        ("", "{% set x %}", ""),
        ("", "{{", ""),
        ("", "{#", ""),
        ("", "{{ 1 }}", ""),
    ];
    for (before, unit, after) in table {
        let times = (TEMPLATE_BYTES_MAX - before.len() - after.len()) / unit.len();
        let source = format!("{before}{}{after}", unit.repeat(times));
        let _ = ChatTemplate::new(&source, None, None).and_then(|_| render(&source, json!([])));
    }
    let long = " ".repeat(TEMPLATE_BYTES_MAX + 1);
    assert!(matches!(
        ChatTemplate::new(&long, None, None),
        Err(TemplateError::TooLarge { .. })
    ));
    match ChatTemplate::new("a\n{% if %}", None, None) {
        Err(TemplateError::Syntax { line: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
}
