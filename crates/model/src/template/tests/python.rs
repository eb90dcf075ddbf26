//! Values as Python writes them: what `json.dumps`, `str` and the operators of Python give for the same input.

use serde_json::json;

use super::render;

#[test]
fn values_are_written_as_python_writes_them() {
    let value = json!({"b": [1, 2.0, 1e16, 1e-5, 1e15, -0.0, 0.1], "a": "ü\"\n\u{7f}<&'", "n": null, "t": true, "e": [], "m": {}});
    let table = [
        (
            "{{ x | tojson }}",
            "{\"b\": [1, 2.0, 1e+16, 1e-05, 1000000000000000.0, -0.0, 0.1], \"a\": \"ü\\\"\\n\u{7f}<&'\", \"n\": null, \"t\": true, \"e\": [], \"m\": {}}",
        ),
        (
            "{{ x | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}",
            r#"{"a":"\u00fc\"\n\u007f<&'","b":[1,2.0,1e+16,1e-05,1000000000000000.0,-0.0,0.1],"e":[],"m":{},"n":null,"t":true}"#,
        ),
        (
            "{{ {'k': [1, {}], 'e': []} | tojson(indent=2) }}",
            "{\n  \"k\": [\n    1,\n    {}\n  ],\n  \"e\": []\n}",
        ),
        (
            "{{ x }}",
            "{'b': [1, 2.0, 1e+16, 1e-05, 1000000000000000.0, -0.0, 0.1], 'a': 'ü\"\\n\\x7f<&\\'', 'n': None, 't': True, 'e': [], 'm': {}}",
        ),
        ("{{ 'x' ~ none ~ true ~ 1.0 ~ undefined }}", "xNoneTrue1.0"),
        (
            "{{ true | string }}{{ [1, 'a', \"it's\"] | join('-') }}",
            "True1-a-it's",
        ),
        (
            "{{ '😀' | tojson(ensure_ascii=true) }}",
            r#""\ud83d\ude00""#,
        ),
        ("{{ ['it\\'s', (1,), ()] }}", r#"["it's", (1,), ()]"#),
    ];
    for (source, want) in table {
        assert_eq!(render(source, value.clone()).unwrap(), want, "{source}");
    }
}

#[test]
fn operators_are_those_of_python() {
    let table = [
        ("{{ 1 + 2 }} {{ 1 + 2.5 }} {{ true + 1 }}", "3 3.5 2"),
        (
            "{{ 'a' + 'b' }} {{ [1] + [2] }} {{ (1,) + (2,) }}",
            "ab [1, 2] (1, 2)",
        ),
        (
            "{{ 3 * 4 }} {{ 'ab' * 2 }} {{ 2 * [0] }} {{ 'a' * -1 }}.",
            "12 abab [0, 0] .",
        ),
        (
            "{{ 'héllo'[1:3] }} {{ 'abc'[::-1] }} {{ 'abcdef'[-3:-1] }}",
            "él cba de",
        ),
        (
            "{{ x[::-1] }} {{ x[1:] }} {{ x[:-1] }} {{ x[::2] }} {{ x[9:] }}",
            "[3, 2, 1] [2, 3] [1, 2] [1, 3] []",
        ),
        (
            "{{ x[-1:0:-1] }} {{ x[2::-2] }} {{ x[-9:9] }}",
            "[3, 2] [3, 1] [1, 2, 3]",
        ),
        (
            "{{ 2 in x }} {{ 'b' in 'abc' }} {{ 'k' in {'k': 1} }} {{ 9 not in x }} {{ 1 in missing }}",
            "True True True True False",
        ),
        (
            "{{ 'a' is sequence }} {{ {} is iterable }} {{ 1 is iterable }} {{ x is mapping }}",
            "True True False False",
        ),
    ];
    for (source, want) in table {
        assert_eq!(render(source, json!([1, 2, 3])).unwrap(), want, "{source}");
    }
    for source in [
        "{{ 'a' + 1 }}",
        "{{ missing + 'a' }}",
        "{{ [1] + 'a' }}",
        "{{ {} * 2 }}",
        "{{ x[0] in 'a' }}",
        "{{ x[::0] }}",
    ] {
        assert!(render(source, json!([1])).is_err(), "{source}");
    }
}

#[test]
fn methods_are_those_of_python() {
    let source = "{{ x.split('</t>')[-1].lstrip('\n') }}|{{ x.split('</t>')[0].rstrip('\n').split('<t>')[-1] }}|\
        {{ x.startswith('<t>') }}|{{ x.replace('a', 'bb', 1) }}|{{ 'ab'.removeprefix('a') }}|{{ ', '.join(['p', 'q']) }}|\
        {{ {'k': 1}.get('k') }}{{ {'k': 1}.get('z', 2) }}{% for k, v in {'m': 3}.items() %}{{ k }}{{ v }}{% endfor %}|\
        {{ ' s ' | trim }}|{{ 'a\nb' | indent(2) }}|{{ x | replace('<t>', '') | length }}";
    assert_eq!(
        render(source, json!("<t>a\n</t>\na")).unwrap(),
        "a|a|True|<t>bb\n</t>\na|b|p, q|12m3|s|a\n  b|8"
    );
}
