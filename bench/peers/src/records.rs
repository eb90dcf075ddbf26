//! Everything that was measured, by thread count, row and side; and the rows of the report made of it. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::settings::Who;
use crate::stats::{Spread, quotients};
use crate::weights::Cost;

/// What a row of the report is about, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Tokens per second, one row a step.
    Decode,
    /// Tokens per second of a prompt.
    Prefill(u32),
    /// Tokens per second of so many sequences together.
    Batch(u32),
    /// The same as a multiple of decode.
    BatchGain(u32),
    /// Decode after so many positions.
    Context(u32),
    /// Decode while another program takes a core.
    BusyDecode,
    /// As a share of decode without it.
    BusyDecodeShare,
    /// Prefill while another program takes a core.
    BusyPrefill,
    /// As a share of prefill without it.
    BusyPrefillShare,
    /// Seconds from the start of the process to the first token.
    Cold,
    /// Resident GiB.
    Resident,
    /// Those that are not the file's.
    ResidentAnon,
    /// All resident bytes as a multiple of the file.
    ResidentShare,
}

impl Metric {
    /// Name and unit.
    #[must_use]
    pub fn words(self) -> (String, &'static str) {
        match self {
            Self::Decode => ("decode".into(), "tokens/s"),
            Self::Prefill(rows) => (format!("prefill {rows}"), "tokens/s"),
            Self::Batch(seqs) => (format!("batch {seqs}"), "tokens/s"),
            Self::BatchGain(seqs) => (format!("batch {seqs} / decode"), "x"),
            Self::Context(rows) => (format!("decode after {rows}"), "tokens/s"),
            Self::BusyDecode => ("decode, busy core".into(), "tokens/s"),
            Self::BusyDecodeShare => ("decode, busy / idle".into(), "x"),
            Self::BusyPrefill => ("prefill 512, busy core".into(), "tokens/s"),
            Self::BusyPrefillShare => ("prefill 512, busy / idle".into(), "x"),
            Self::Cold => ("start to first token".into(), "s"),
            Self::Resident => ("resident".into(), "GiB"),
            Self::ResidentAnon => ("resident, anonymous".into(), "GiB"),
            Self::ResidentShare => ("resident / file".into(), "x"),
        }
    }

    /// Whether the better side has the smaller number.
    #[must_use]
    pub fn less_is_better(self) -> bool {
        matches!(
            self,
            Self::Cold | Self::Resident | Self::ResidentAnon | Self::ResidentShare
        )
    }

    fn best_ratio(self, hearth: &Spread, llama: &Spread) -> Option<f64> {
        match self {
            Self::BatchGain(_) | Self::BusyDecodeShare | Self::BusyPrefillShare => None,
            _ if self.less_is_better() => Some(hearth.min / llama.min),
            _ => Some(hearth.max / llama.max),
        }
    }
}

/// Ceilings, measured with the same number of threads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ceilings {
    /// Bytes read per second.
    pub read_bytes_per_s: Vec<f64>,
    /// Integer operations per second.
    pub dot_ops_per_s: Vec<f64>,
}

/// All measurements with one number of threads.
#[derive(Debug, Clone, Default)]
pub struct Records {
    values: BTreeMap<Metric, BTreeMap<Who, Vec<f64>>>,
    tokens: BTreeMap<u64, BTreeMap<Who, u32>>,
    /// What the machine can do.
    pub ceilings: Ceilings,
    /// Cores that other programs used during each measurement.
    pub others_cores: Vec<f64>,
    /// Processor seconds that the waiting side used, and seconds that it waited.
    pub idle: (f64, f64),
}

/// A row of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Number of threads.
    pub threads: u32,
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// Hearth: median, smallest, largest.
    pub hearth: [f64; 3],
    /// llama.cpp: the same.
    pub llama: [f64; 3],
    /// Ratio of the medians, Hearth / llama.cpp; then smallest and largest ratio of one round.
    pub ratio: [f64; 3],
    /// Ratio of the best rounds, Hearth / llama.cpp: other programs only ever make a round worse. `None` where the
    /// value is a quotient itself, which a disturbed divisor makes better.
    pub best_ratio: Option<f64>,
    /// Whether the better side has the smaller number.
    pub less_is_better: bool,
    /// Share of the ceiling that each median reaches, if the row has one.
    pub of_ceiling: Option<[f64; 2]>,
}

impl Records {
    /// Adds a measurement of the next round.
    pub fn push(&mut self, metric: Metric, who: Who, value: f64) {
        self.values
            .entry(metric)
            .or_default()
            .entry(who)
            .or_default()
            .push(value);
    }

    /// Notes what a side chose after the prompt of this seed.
    pub fn chose(&mut self, seed: u64, who: Who, token: u32) {
        self.tokens.entry(seed).or_default().insert(who, token);
    }

    /// Prompts after which both chose the same token, of all that both had.
    #[must_use]
    pub fn agreement(&self) -> (usize, usize) {
        let both = || {
            self.tokens
                .values()
                .filter_map(|t| Some((t.get(&Who::Hearth)?, t.get(&Who::Llama)?)))
        };
        (both().filter(|(a, b)| a == b).count(), both().count())
    }

    /// The rows, those alone that both sides have.
    #[must_use]
    pub fn rows(&self, threads: u32, cost: &Cost) -> Vec<Row> {
        let row = |(metric, sides): (&Metric, &BTreeMap<Who, Vec<f64>>)| {
            let (ours, theirs) = (sides.get(&Who::Hearth)?, sides.get(&Who::Llama)?);
            let (hearth, llama) = (Spread::of(ours)?, Spread::of(theirs)?);
            let rounds = Spread::of(&quotients(ours, theirs))?;
            let (name, unit) = metric.words();
            let needed = self.share_of_one(*metric, cost);
            Some(Row {
                threads,
                name,
                unit,
                hearth: [hearth.median, hearth.min, hearth.max],
                llama: [llama.median, llama.min, llama.max],
                ratio: [hearth.median / llama.median, rounds.min, rounds.max],
                best_ratio: metric.best_ratio(&hearth, &llama),
                less_is_better: metric.less_is_better(),
                of_ceiling: needed.map(|share| [hearth.median * share, llama.median * share]),
            })
        };
        self.values.iter().filter_map(row).collect()
    }

    /// Share of the ceiling that one token per second takes.
    fn share_of_one(&self, metric: Metric, cost: &Cost) -> Option<f64> {
        let read = || Spread::of(&self.ceilings.read_bytes_per_s).map(|s| s.median);
        let dots = || Spread::of(&self.ceilings.dot_ops_per_s).map(|s| s.median);
        match metric {
            Metric::Decode => {
                Some(cost.decode_bytes_after(crate::measure::DECODE_MEAN_POSITION) / read()?)
            }
            Metric::Context(rows) => Some(cost.decode_bytes_after(rows) / read()?),
            Metric::Prefill(_) => Some(cost.prefill_ops() / dots()?),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        decode_bytes: 100,
        bytes_per_position: 1,
        prefill_macs: 50,
        file_bytes: 1000,
    };

    #[test]
    fn a_row_has_the_ratio_of_medians_and_the_spread_of_the_ratios_of_rounds() {
        let mut records = Records::default();
        for (ours, theirs) in [(10.0, 5.0), (12.0, 12.0), (20.0, 4.0)] {
            records.push(Metric::Prefill(512), Who::Hearth, ours);
            records.push(Metric::Prefill(512), Who::Llama, theirs);
        }
        records.push(Metric::Cold, Who::Hearth, 1.0);
        records.ceilings.dot_ops_per_s = vec![3200.0];
        let rows = records.rows(2, &COST);
        assert_eq!(rows.len(), 1, "only Hearth has a cold start");
        assert_eq!((rows[0].threads, rows[0].name.as_str()), (2, "prefill 512"));
        assert_eq!(rows[0].hearth, [12.0, 10.0, 20.0]);
        assert_eq!(rows[0].llama, [5.0, 4.0, 12.0]);
        assert_eq!(rows[0].ratio, [2.4, 1.0, 5.0]);
        assert_eq!(rows[0].best_ratio, Some(20.0 / 12.0));
        assert_eq!(rows[0].of_ceiling, Some([0.375, 0.15625]));
    }

    #[test]
    fn the_best_cold_start_is_the_shortest() {
        let mut records = Records::default();
        for (ours, theirs) in [(1.0, 5.0), (3.0, 4.0)] {
            records.push(Metric::Cold, Who::Hearth, ours);
            records.push(Metric::Cold, Who::Llama, theirs);
        }
        let rows = records.rows(1, &COST);
        assert_eq!(
            (rows[0].best_ratio, rows[0].less_is_better),
            (Some(0.25), true)
        );
    }

    #[test]
    fn decode_is_compared_with_the_bytes_that_it_reads() {
        let mut records = Records::default();
        for who in [Who::Hearth, Who::Llama] {
            records.push(Metric::Context(900), who, 2.0);
            records.push(Metric::BusyDecode, who, 2.0);
        }
        assert_eq!(
            records.rows(1, &COST)[0].of_ceiling,
            None,
            "no ceiling was measured"
        );
        records.ceilings.read_bytes_per_s = vec![4000.0, 1000.0, 9000.0];
        let rows = records.rows(1, &COST);
        assert_eq!(rows[0].of_ceiling, Some([0.5, 0.5]));
        assert_eq!(rows[1].of_ceiling, None);
        records.push(Metric::BusyDecodeShare, Who::Hearth, 0.5);
        records.push(Metric::BusyDecodeShare, Who::Llama, 0.5);
        assert_eq!(records.rows(1, &COST)[2].best_ratio, None);
    }

    #[test]
    fn agreement_counts_prompts_that_both_had() {
        let mut records = Records::default();
        assert_eq!(records.agreement(), (0, 0));
        for (seed, ours, theirs) in [(1, 5, 5), (2, 5, 6)] {
            records.chose(seed, Who::Hearth, ours);
            records.chose(seed, Who::Llama, theirs);
        }
        records.chose(3, Who::Hearth, 5);
        assert_eq!(records.agreement(), (1, 2));
    }
}
