//! What quantised weights change in a model's answers, with the same tokens forced through both.
//!
//! `cargo bench --profile release -p engine --bench quality -- REFERENCE FILE...`
//!
//! `REFERENCE` is an unquantised checkpoint (a safetensors directory or a GGUF file), each `FILE` the same model in
//! another form; without a `FILE` the bundled model is taken. The texts are the recorded conversations of the bundled
//! model. Prints top-1 agreement and the distance of the logits; caches are f32 on both sides.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
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
use rounding::{distances_from, texts};

fn main() {
    let files: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let Some((reference, files)) = files.split_first() else {
        println!("usage: quality REFERENCE [FILE...]: nothing to compare");
        return;
    };
    let open = |path: &String| Arc::new(Checkpoint::open(path.as_ref()).expect(path));
    let exact = (open(reference), KvType::F32);
    let mut others: Vec<(String, Arc<Checkpoint>)> =
        files.iter().map(|f| (f.clone(), open(f))).collect();
    if others.is_empty() {
        others.push(("the bundled model".to_owned(), rig::bundled()));
    }
    for (name, checkpoint) in others {
        let [distance] = distances_from(&exact, &texts(2000), [(checkpoint, KvType::F32)]);
        println!(
            "{name}: top-1 {:.2} % of {} rows, logits differ by at most {:.3}, rms {:.4}",
            100.0 * distance.agreement(),
            distance.rows,
            distance.worst,
            distance.rms(),
        );
    }
}
