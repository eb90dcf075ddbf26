//! Hearth's engine and llama.cpp on the same file, in the same run: medians, spread, and their ratios.
//!
//! One program in three parts: the parent, which measures; a child per engine, which computes; and a program that
//! takes a core away. The parent never computes while a child is measured, and only one child is measured at a time.

mod busy;
mod child;
mod hearth;
mod job;
mod llama;
mod measure;
mod others;
mod peaks;
mod peer;
mod records;
mod report;
mod settings;
mod stats;
mod weights;

use anyhow::Result;
use model::Checkpoint;

use measure::Measuring;
use settings::{Clock, Settings, Who, Words};
use stats::Spread;
use weights::Cost;

fn main() -> Result<()> {
    let words = Words::parse(std::env::args().skip(1))?;
    match words.plain.first().map(String::as_str) {
        Some("child") => child::main(&words),
        Some("spin") => busy::main(&words),
        _ => compare(&Settings::from_words(&words)?),
    }
}

fn compare(settings: &Settings) -> Result<()> {
    let mut cost = Cost::of(&Checkpoint::open(&settings.file)?)?;
    if let Some(bytes) = settings.token_bytes {
        cost.decode_bytes = bytes;
    }
    println!(
        "{}: {:.2} GB; {:.3} GB read per decoded token and {:.1} kB more per position; {:.3} G multiply-adds per prompt token",
        settings.file.display(),
        cost.file_bytes as f64 / 1e9,
        cost.decode_bytes as f64 / 1e9,
        cost.bytes_per_position as f64 / 1e3,
        cost.prefill_macs as f64 / 1e9,
    );
    println!(
        "{} rounds, {} clock, {}; median (smallest to largest)",
        settings.rounds,
        match settings.clock {
            Clock::Wall => "wall",
            Clock::Cpu => "processor",
        },
        if settings.exclusive {
            "one side loaded at a time"
        } else {
            "both sides loaded"
        },
    );
    for (i, threads) in settings.threads.iter().enumerate() {
        let mut measuring = Measuring::new(settings, *threads);
        measuring.run()?;
        show(settings, &cost, *threads, i == 0, &measuring);
    }
    Ok(())
}

fn show(settings: &Settings, cost: &Cost, threads: u32, first: bool, measuring: &Measuring) {
    if first {
        for (who, about) in &measuring.about {
            println!("{}: {about}", who.word());
            if *who == Who::Llama && lacks_wide_instructions(about) {
                println!(
                    "  WARNING: llama.cpp is not built for this processor: see README.md on RUSTFLAGS"
                );
            }
        }
    }
    let records = &measuring.records;
    let rows = records.rows(threads, cost);
    println!("\nthreads: {threads}");
    let ceilings = [
        (
            "memory read",
            report::billions(&records.ceilings.read_bytes_per_s, "GB/s"),
        ),
        (
            "8-bit dot products",
            report::billions(&records.ceilings.dot_ops_per_s, "Gop/s"),
        ),
    ];
    for (name, ceiling) in ceilings {
        if let Some(ceiling) = ceiling {
            println!("ceiling, {name}: {ceiling}");
        }
    }
    print!("{}", report::table(&rows));
    let (same, prompts) = records.agreement();
    println!("same greedy token after {same} of {prompts} prompts");
    if let Some(cores) = Spread::of(&records.others_cores) {
        println!(
            "other programs used {:.2} cores during a measurement ({:.2} to {:.2})",
            cores.median, cores.min, cores.max
        );
    }
    let (used, waited) = records.idle;
    if waited > 0.0 {
        println!(
            "the waiting side used {:.2} % of a core",
            100.0 * used / waited
        );
    }
    if settings.json {
        for row in &rows {
            match serde_json::to_string(row) {
                Ok(line) => println!("{line}"),
                Err(error) => println!("{row:?}: {error}"),
            }
        }
    }
}

/// Whether the processor has vector instructions that llama.cpp says it was not built with.
#[cfg(target_arch = "x86_64")]
fn lacks_wide_instructions(about: &str) -> bool {
    let lacks = |has: bool, name: &str| has && !about.contains(&format!("{name} = 1"));
    lacks(is_x86_feature_detected!("avx2"), "AVX2")
        || lacks(is_x86_feature_detected!("avx512f"), "AVX512")
        || lacks(is_x86_feature_detected!("avx512vnni"), "AVX512_VNNI")
}

#[cfg(not(target_arch = "x86_64"))]
fn lacks_wide_instructions(_: &str) -> bool {
    false
}
