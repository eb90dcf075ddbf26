//! Rounded caches of the bundled model against its f32 cache.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "test code"
)]

mod rig;
#[path = "rig/rounding.rs"]
mod rounding;

use engine::KvType;
use rounding::{distances, texts};

#[test]
fn rounded_caches_choose_the_same_tokens() {
    // The long text alone: it holds the others, and rows that see more than one span.
    let text = texts(1000).split_off(32);
    let [exact, f16, q8] = distances(
        &rig::bundled(),
        &text,
        [KvType::F32, KvType::F16, KvType::Q8],
    );
    assert!(exact.worst == 0.0 && exact.same == 1000, "{exact:?}");
    let cases = [("f16", f16, 0.99, 0.1), ("q8", q8, 0.98, 0.1)];
    for (name, distance, agreement, rms) in cases {
        let (found, far) = (distance.agreement(), distance.rms());
        println!(
            "{name}: agreement {found}, rms {far}, worst {}",
            distance.worst
        );
        assert!(found >= agreement, "{name}: {distance:?}");
        assert!(far > 0.0 && far < rms, "{name}: {far}");
    }
}
