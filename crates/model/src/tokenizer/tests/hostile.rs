//! Files that must be refused, each with a word of the reason.

use serde_json::{Value, json};

use super::fixtures::Fixture;
use crate::tokenizer::{GgufTokenizer, Tokenizer, TokenizerError};

/// The refusal of a changed `tokenizer.json`.
fn refusal(change: impl Fn(&mut Value)) -> String {
    let mut json = Fixture::read("llama").json();
    change(&mut json);
    let bytes = serde_json::to_vec(&json).unwrap();
    Tokenizer::from_json(&bytes, None).unwrap_err().to_string()
}

#[test]
fn unknown_parts_are_refused_by_name() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 20] = [
        (|j| j["model"] = json!(null), "no model"),
        (|j| j["model"]["type"] = json!("WordPiece"), "WordPiece"),
        (
            |j| j["model"] = json!({"type": "Unigram", "vocab": [["a", 0.0]]}),
            "Unigram",
        ),
        (
            |j| drop(j["model"].as_object_mut().unwrap().remove("vocab")),
            "vocabulary",
        ),
        (
            |j| drop(j["model"].as_object_mut().unwrap().remove("merges")),
            "merges",
        ),
        (|j| j["model"]["dropout"] = json!(0.1), "dropout"),
        (
            |j| j["model"]["byte_fallback"] = json!(true),
            "byte_fallback",
        ),
        (|j| j["model"]["new_option"] = json!(1), "new_option"),
        (
            |j| j["normalizer"] = json!({"type": "Lowercase"}),
            "Lowercase",
        ),
        (
            |j| {
                j["normalizer"] =
                    json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]})
            },
            "Strip",
        ),
        (
            |j| j["pre_tokenizer"] = json!({"type": "Metaspace"}),
            "Metaspace",
        ),
        (|j| j["pre_tokenizer"] = json!(null), "pre-tokenizer"),
        (
            |j| j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w+"),
            r"\\w+",
        ),
        (
            |j| j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed"),
            "Removed",
        ),
        (
            |j| j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true),
            "add_prefix_space",
        ),
        (|j| j["decoder"] = json!({"type": "WordPiece"}), "WordPiece"),
        (
            |j| j["post_processor"] = json!({"type": "BertProcessing"}),
            "BertProcessing",
        ),
        (
            |j| j["post_processor"]["special_tokens"]["<|begin_of_text|>"]["ids"] = json!([9999]),
            "9999",
        ),
        (|j| j["added_tokens"][0]["lstrip"] = json!(true), "lstrip"),
        (
            |j| j["post_processor"]["single"] = json!([]),
            "TemplateProcessing",
        ),
    ];
    for (index, (change, want)) in table.into_iter().enumerate() {
        let got = refusal(change);
        assert!(got.contains(want), "case {index}: {got:?} lacks {want:?}");
    }
}

#[test]
fn contradictions_are_refused() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 10] = [
        (
            |j| j["model"]["merges"][0] = json!(["zzz", "y"]),
            "no token",
        ),
        (|j| j["model"]["merges"][0] = json!(["z", "z"]), "result"),
        (
            |j| j["model"]["merges"][1] = j["model"]["merges"][0].clone(),
            "twice",
        ),
        (|j| j["model"]["merges"][0] = json!("a b c"), "one space"),
        (|j| j["model"]["merges"][0] = json!(["a"]), "merge"),
        (|j| j["model"]["vocab"]["e"] = json!(3), "another token"),
        (
            |j| j["model"]["vocab"]["e"] = json!(4_000_000_000_u32),
            "out of bounds",
        ),
        (|j| j["model"]["vocab"]["e"] = json!(-1), "-1"),
        (|j| j["added_tokens"][1]["id"] = json!(512), "another token"),
        (|j| j["added_tokens"][0]["content"] = json!(""), "1 to 512"),
    ];
    for (index, (change, want)) in table.into_iter().enumerate() {
        let got = refusal(change);
        assert!(got.contains(want), "case {index}: {got:?} lacks {want:?}");
    }
    let missing_byte = refusal(|j| {
        j["model"]["merges"] = json!([]);
        j["model"]["vocab"].as_object_mut().unwrap().remove("Ā");
    });
    assert!(missing_byte.contains("byte 0x00"), "{missing_byte}");
}

#[test]
fn configuration_must_agree() {
    let fixture = Fixture::read("llama");
    let read = |config: Value| {
        let config = serde_json::to_vec(&config).unwrap();
        Tokenizer::from_json(&fixture.tokenizer, Some(&config))
    };
    assert!(read(json!({"bos_token": "<nobody>"})).is_err());
    assert!(
        read(json!({"eos_token": {"content": "<|eot_id|>"}}))
            .unwrap()
            .eos()
            == Some(517)
    );
    assert!(read(json!({"added_tokens_decoder": {"1": {"content": "<|eot_id|>"}}})).is_err());
    let more =
        read(json!({"added_tokens_decoder": {"519": {"content": "<new>", "special": true}}}));
    assert_eq!(more.unwrap().token_id("<new>"), Some(519));
}

#[test]
fn files_that_are_no_json_are_refused() {
    for bytes in [&b""[..], b"null", b"[]", b"{\"model\":", &[b'['; 100_000]] {
        assert!(matches!(
            Tokenizer::from_json(bytes, None),
            Err(TokenizerError::Json { .. })
        ));
    }
}

#[test]
fn gguf_metadata_is_checked() {
    type Change = fn(&mut GgufTokenizer);
    let table: [(Change, &str); 10] = [
        (|g| g.model = "llama".into(), "\"llama\""),
        (|g| g.pre = "tekken".into(), "\"tekken\""),
        (|g| g.pre.clear(), "pre-tokeniser"),
        (|g| g.types.truncate(9), "token_type"),
        (|g| g.types[3] = 6, "6 at id 3"),
        (|g| g.tokens[3] = g.tokens[4].clone(), "another id"),
        (|g| g.merges[0] = "zzz y".into(), "no token"),
        (|g| g.merges[0] = "ab".into(), "one space"),
        (|g| g.eos = Some(570), "eos_token_id"),
        (|g| g.tokens.clear(), "token_type"),
    ];
    for (index, (change, want)) in table.into_iter().enumerate() {
        let mut gguf = Fixture::read("llama").gguf();
        change(&mut gguf);
        let got = Tokenizer::from_gguf(gguf).unwrap_err().to_string();
        assert!(got.contains(want), "case {index}: {got:?} lacks {want:?}");
    }
}
