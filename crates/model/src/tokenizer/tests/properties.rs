//! Round trips, and agreement with the `tokenizers` crate, an independent implementation of the same rules.

use std::sync::LazyLock;

use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;

use super::fixtures::{ARCHS, Fixture};
use crate::tokenizer::{SpecialText, Specials, Tokenizer};

struct Pair {
    arch: &'static str,
    ours: [Tokenizer; 2],
    theirs: tokenizers::Tokenizer,
}

static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    ARCHS
        .iter()
        .map(|arch| {
            let fixture = Fixture::read(arch);
            Pair {
                arch,
                ours: super::both(&fixture).map(|(_, tokenizer)| tokenizer),
                theirs: tokenizers::Tokenizer::from_bytes(&fixture.tokenizer).unwrap(),
            }
        })
        .collect()
});

static LLAMA: LazyLock<Vec<u8>> = LazyLock::new(|| Fixture::read("llama").tokenizer);

/// Texts of words, symbols, white space, foreign scripts, combining marks and control tokens.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z]{1,9}",
        " ",
        "[ \n\r\t]{1,4}",
        "[0-9]{1,5}",
        r"\PC{1,4}",
        "['!?.,<>|{}]{1,3}",
        Just("'ll".to_owned()),
        Just("e\u{301}".to_owned()),
        Just("क्षि".to_owned()),
        Just("🧑\u{200d}🔬".to_owned()),
        Just("<|im_end|>".to_owned()),
        Just("<|eot_id|>".to_owned()),
        Just("<think>".to_owned()),
        Just("<|im_".to_owned()),
    ];
    proptest::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn ids_are_those_of_an_independent_implementation(text in text()) {
        for pair in PAIRS.iter() {
            let want = pair.theirs.encode(text.as_str(), true).unwrap().get_ids().to_vec();
            for ours in &pair.ours {
                let got = ours.encode_prompt(&text, Specials::Parse).unwrap();
                prop_assert_eq!(&got, &want, "{}", pair.arch);
            }
            let decoded = pair.theirs.decode(&want, false).unwrap();
            prop_assert_eq!(pair.ours[0].decode(&want, SpecialText::Keep), decoded);
        }
    }

    #[test]
    fn composed_text_survives_encoding(text in any::<String>()) {
        let text: String = text.nfc().collect();
        for pair in PAIRS.iter() {
            for specials in [Specials::Parse, Specials::AsText] {
                for ours in &pair.ours {
                    let ids = ours.encode(&text, specials).unwrap();
                    prop_assert_eq!(ours.decode(&ids, SpecialText::Keep), text.as_str());
                }
            }
        }
    }

    #[test]
    fn pieces_together_are_the_decoded_text(ids in proptest::collection::vec(0_u32..600, 0..40)) {
        for pair in PAIRS.iter() {
            for special in [SpecialText::Keep, SpecialText::Skip] {
                let ours = &pair.ours[0];
                let mut detokenizer = ours.detokenizer(special);
                let mut pieces: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
                pieces += &detokenizer.finish();
                prop_assert_eq!(pieces, ours.decode(&ids, special));
            }
        }
    }

    #[test]
    fn control_tokens_separate_what_is_around_them(before in text(), after in text()) {
        for pair in PAIRS.iter() {
            let ours = &pair.ours[0];
            let border = if pair.arch == "llama" { "<|eot_id|>" } else { "<|im_end|>" };
            let whole = ours.encode(&format!("{before}{border}{after}"), Specials::Parse).unwrap();
            let mut parts = ours.encode(&before, Specials::Parse).unwrap();
            parts.push(ours.token_id(border).unwrap());
            parts.extend(ours.encode(&after, Specials::Parse).unwrap());
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn no_plain_text_forms_an_added_token(text in text()) {
        for pair in PAIRS.iter() {
            for ours in &pair.ours {
                let ids = ours.encode(&text, Specials::AsText).unwrap();
                prop_assert!(ids.iter().all(|&id| id < 512));
            }
        }
    }

    #[test]
    fn broken_files_are_refused_without_panic(at in 0_usize..23_000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut file = LLAMA.clone();
        if cut {
            file.truncate(at);
        } else {
            file[at] = byte;
        }
        let _ = Tokenizer::from_json(&file, None);
    }
}
