//! What f16 and q8 caches change in the bundled model's answers, with the same tokens forced through each.
//!
//! `cargo bench --profile release -p engine --bench kv -- [FILE.gguf] [tokens=N]`
//!
//! Prints, by cache type, bytes a position, top-1 agreement with the f32 cache, and the distance of the logits.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a measuring program"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;
#[path = "../tests/rig/rounding.rs"]
mod rounding;

use std::sync::Arc;

use engine::KvType;
use model::Checkpoint;
use rounding::{distances, texts};

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let file = args.iter().find(|a| !a.contains('='));
    let tokens = args.iter().find_map(|a| a.strip_prefix("tokens="));
    let tokens = tokens.map_or(2000, |n| n.parse().unwrap());
    let checkpoint = file.map_or_else(rig::bundled, |file| {
        Arc::new(Checkpoint::open(file.as_ref()).unwrap())
    });
    // Another model knows other tokens; their numbers are a text to it all the same.
    let types = [KvType::F32, KvType::F16, KvType::Q8];
    let found = distances(&checkpoint, &texts(tokens), types);
    let attention = &checkpoint.arch().attention;
    for (kv, distance) in types.into_iter().zip(found) {
        let of_head = match kv {
            KvType::F32 => 4 * attention.head_dim,
            KvType::F16 => 2 * attention.head_dim,
            KvType::Q8 => attention.head_dim / 32 * 36,
        };
        println!(
            "{kv:?}: {} bytes a position and layer, top-1 {:.2} % of {} rows, logits differ by at most {:.4}, rms {:.5}",
            2 * attention.kv_heads * of_head,
            100.0 * distance.agreement(),
            distance.rows,
            distance.worst,
            distance.rms(),
        );
    }
}
