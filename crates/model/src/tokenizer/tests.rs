//! The tokenizer against recorded ids, against an independent implementation, and against hostile files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod fixtures;
mod hostile;
mod properties;

use serde_json::Value;

use super::{SpecialText, Specials, Tokenizer};
use fixtures::{ARCHS, Fixture};

/// Both tokenizers of a fixture: from `tokenizer.json` and from GGUF metadata.
fn both(fixture: &Fixture) -> [(&'static str, Tokenizer); 2] {
    let json = Tokenizer::from_json(&fixture.tokenizer, Some(&fixture.config)).unwrap();
    let gguf = Tokenizer::from_gguf(fixture.gguf()).unwrap();
    [("json", json), ("gguf", gguf)]
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn prompts_encode_to_the_recorded_ids() {
    for arch in ARCHS {
        let fixture = Fixture::read(arch);
        for (source, tokenizer) in both(&fixture) {
            for prompt in fixture.golden["prompts"].as_array().unwrap() {
                let text = prompt["text"].as_str().unwrap();
                let got = tokenizer.encode_prompt(text, Specials::Parse).unwrap();
                assert_eq!(got, ids(&prompt["token_ids"]), "{arch} {source} {text:?}");
            }
        }
    }
}

#[test]
fn greedy_ids_decode_to_the_recorded_text() {
    for arch in ARCHS {
        let fixture = Fixture::read(arch);
        for (source, tokenizer) in both(&fixture) {
            for prompt in fixture.golden["prompts"].as_array().unwrap() {
                let greedy = &prompt["greedy"];
                let ids = ids(&greedy["ids"]);
                let want = greedy["text"].as_str().unwrap();
                let got = tokenizer.decode(&ids, SpecialText::Keep);
                assert_eq!(got, want, "{arch} {source}");
                let mut detokenizer = tokenizer.detokenizer(SpecialText::Keep);
                let mut pieces: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
                pieces += &detokenizer.finish();
                assert_eq!(pieces, want, "{arch} {source} piece by piece");
            }
        }
    }
}

#[test]
fn rendered_chats_encode_to_the_recorded_ids() {
    for arch in ARCHS {
        let fixture = Fixture::read(arch);
        for (source, tokenizer) in both(&fixture) {
            for chat in fixture.golden["chat"].as_array().unwrap() {
                let text = chat["rendered"].as_str().unwrap();
                let got = tokenizer.encode(text, Specials::Parse).unwrap();
                assert_eq!(got, ids(&chat["token_ids"]), "{arch} {source}");
                assert_eq!(tokenizer.decode(&got, SpecialText::Keep), text);
            }
        }
    }
}

#[test]
fn both_sources_agree_on_every_token() {
    for arch in ARCHS {
        let fixture = Fixture::read(arch);
        let [(_, json), (_, gguf)] = both(&fixture);
        assert_eq!(json.vocab_size(), gguf.vocab_size(), "{arch}");
        assert_eq!(json.bos(), gguf.bos());
        assert_eq!(json.eos(), gguf.eos());
        assert_eq!(json.add_bos(), gguf.add_bos());
        assert_eq!(json.add_bos(), arch == "llama");
        for id in 0..u32::try_from(json.vocab_size()).unwrap() {
            assert_eq!(json.token_bytes(id), gguf.token_bytes(id), "{arch} {id}");
            assert_eq!(json.is_special(id), gguf.is_special(id), "{arch} {id}");
        }
    }
}

#[test]
fn control_tokens_are_found_by_name_and_kept_out_of_plain_text() {
    let fixture = Fixture::read("qwen3_5_moe");
    for (_, tokenizer) in both(&fixture) {
        let end = tokenizer.token_id("<|im_end|>").unwrap();
        let think = tokenizer.token_id("<think>").unwrap();
        assert_eq!(tokenizer.eos_text(), Some("<|im_end|>"));
        assert!(tokenizer.is_special(end) && !tokenizer.is_special(think));
        assert_eq!(tokenizer.token_bytes(end), Some(&b"<|im_end|>"[..]));
        let text = "a<|im_end|><think>b";
        let parsed = tokenizer.encode(text, Specials::Parse).unwrap();
        assert!(parsed.contains(&end) && parsed.contains(&think));
        assert_eq!(tokenizer.decode(&parsed, SpecialText::Skip), "a<think>b");
        let plain = tokenizer.encode(text, Specials::AsText).unwrap();
        assert!(plain.iter().all(|&id| id < 512));
        assert_eq!(tokenizer.decode(&plain, SpecialText::Skip), text);
    }
}

#[test]
fn characters_are_held_back_until_whole() {
    let fixture = Fixture::read("qwen3_moe");
    let tokenizer = Tokenizer::from_gguf(fixture.gguf()).unwrap();
    let id = |byte: u8| tokenizer.inner.vocabulary.ordinary_id(&[byte]).unwrap();
    let mut detokenizer = tokenizer.detokenizer(SpecialText::Keep);
    let mut pieces = Vec::new();
    for byte in "a€".bytes().chain([0xe2, 0x82, b'b', 0xff, 0xf0, 0x9f]) {
        pieces.push(detokenizer.push(id(byte)));
    }
    pieces.push(detokenizer.finish());
    assert_eq!(
        pieces,
        [
            "a",
            "",
            "",
            "€",
            "",
            "",
            "\u{fffd}b",
            "\u{fffd}",
            "",
            "",
            "\u{fffd}"
        ]
    );
    assert_eq!(detokenizer.held_bytes(), 0);
    assert_eq!(detokenizer.push(600_000), "");
}

#[test]
fn decomposed_text_is_composed_where_the_family_asks_for_it() {
    for (arch, same) in [("qwen3_moe", true), ("qwen3_5", true), ("llama", false)] {
        for (source, tokenizer) in both(&Fixture::read(arch)) {
            let encode = |text| tokenizer.encode(text, Specials::Parse).unwrap();
            assert_eq!(
                encode("cafe\u{301}") == encode("café"),
                same,
                "{arch} {source}"
            );
        }
    }
}

#[test]
fn a_long_text_without_borders_is_encoded_in_one_go() {
    for (_, tokenizer) in both(&Fixture::read("llama")) {
        for text in ["e".repeat(300_000), " \t".repeat(150_000)] {
            let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
            assert_eq!(tokenizer.decode(&ids, SpecialText::Keep), text);
        }
    }
}

#[test]
fn added_tokens_are_those_beside_the_vocabulary() {
    for (source, tokenizer) in both(&Fixture::read("qwen3_5_moe")) {
        let is = |text: &str| {
            let id = tokenizer.token_id(text).unwrap();
            (tokenizer.is_added(id), tokenizer.is_special(id))
        };
        assert_eq!(is("<|im_end|>"), (true, true), "{source}");
        assert_eq!(is("<tool_call>"), (true, false), "{source}");
        assert_eq!(is("he"), (false, false), "{source}");
        assert!(!tokenizer.is_added(u32::MAX), "{source}");
    }
}
