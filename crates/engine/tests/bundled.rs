//! The bundled model against the recorded answers of its unquantised checkpoint.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod rig;

use engine::KvType;
use kernels::Isa;
use proto::step::Logits;
use rig::{Chain, Seq, Want, data, exec};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    token_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
}

/// Quantisation may change a close call, so the recorded tokens are given and each next one is compared.
#[test]
fn quantised_weights_choose_the_recorded_tokens() {
    let text = std::fs::read(data("hearth-tiny-expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&text).unwrap();
    let checkpoint = rig::bundled();
    let (mut same, mut all) = (0, 0);
    for case in &expected.cases {
        let mut chain = Chain::whole(&checkpoint, &exec(Isa::detect(), 2), KvType::F16);
        let mut tokens = case.token_ids.clone();
        tokens.extend(&case.greedy_ids);
        let mut seq = Seq::new(1, &tokens);
        let rows = tokens.len() as u32;
        let drawn = chain.step(&mut [Want {
            logits: Logits::All,
            ..Want::rows(&mut seq, rows)
        }]);
        let first = case.token_ids.len() - 1;
        for (sampled, recorded) in drawn.iter().skip(first).zip(&case.greedy_ids) {
            all += 1;
            same += usize::from(sampled.token == *recorded);
        }
    }
    println!("{same} of {all} tokens as recorded");
    assert!(all > 500 && same * 100 >= all * 99, "{same} of {all}");
}
