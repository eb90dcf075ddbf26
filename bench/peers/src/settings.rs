//! What the person asked for, and what the parent asks of a child: words of the form `name=value` and one file. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

/// Measured unless `what=` says otherwise.
const WHAT: &str = "decode,prefill512,prefill2048,batch8,cold,busy,memory,context1k,context8k";
/// Names that are understood.
const NAMES: [&str; 13] = [
    "what",
    "threads",
    "rounds",
    "exclusive",
    "json",
    "repack",
    "isa",
    "busy_core",
    "token_bytes",
    "seqs",
    "context",
    "core",
    "clock",
];

/// One of the two engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Ours.
    Hearth,
    /// llama.cpp.
    Llama,
}

impl Who {
    /// The word on the command line of a child.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hearth => "hearth",
            Self::Llama => "llama",
        }
    }

    /// Whose turn it is: Hearth first in even rounds, llama.cpp first in odd ones.
    #[must_use]
    pub fn order(round: u32) -> [Self; 2] {
        if round.is_multiple_of(2) {
            [Self::Hearth, Self::Llama]
        } else {
            [Self::Llama, Self::Hearth]
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// One row a step.
    Decode,
    /// A prompt of so many rows.
    Prefill(u32),
    /// So many sequences a step.
    Batch(u32),
    /// One row a step after so many rows.
    Context(u32),
    /// Decode and prefill while another program takes a core.
    Busy,
    /// From the start of the process to the first token.
    Cold,
    /// Resident bytes.
    Memory,
}

impl What {
    fn parse(word: &str) -> Result<Self> {
        let (name, number) = word.split_at(
            word.find(|c: char| c.is_ascii_digit())
                .unwrap_or(word.len()),
        );
        let rows = if number.is_empty() {
            None
        } else {
            Some(rows(number)?)
        };
        Ok(match (name, rows) {
            ("decode", None) => Self::Decode,
            ("prefill", Some(rows)) => Self::Prefill(rows),
            ("batch", Some(seqs)) => Self::Batch(seqs),
            ("context", Some(rows)) => Self::Context(rows),
            ("busy", None) => Self::Busy,
            ("cold", None) => Self::Cold,
            ("memory", None) => Self::Memory,
            _ => bail!(
                "what={word}: expected decode, prefillN, batchN, contextN, busy, cold or memory"
            ),
        })
    }

    /// Whether it needs a process that has done nothing yet.
    #[must_use]
    pub fn is_fresh(self) -> bool {
        matches!(self, Self::Cold | Self::Memory)
    }
}

/// `512`, or `8k` for 8 x 1024.
fn rows(number: &str) -> Result<u32> {
    let (digits, unit) = match number.strip_suffix('k') {
        Some(digits) => (digits, 1024),
        None => (number, 1),
    };
    let rows = digits.parse::<u32>().ok().and_then(|n| n.checked_mul(unit));
    rows.filter(|rows| (1..=1 << 20).contains(rows))
        .with_context(|| format!("{number}: expected a number from 1 to 1024k"))
}

/// Words of a command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words {
    /// Those without `=`.
    pub plain: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Words {
    /// # Errors
    /// A name that is not understood, or given twice.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut words = Self::default();
        for arg in args {
            let Some((name, value)) = arg.split_once('=') else {
                words.plain.push(arg);
                continue;
            };
            ensure!(
                NAMES.contains(&name),
                "{arg}: expected one of {}",
                NAMES.join(", ")
            );
            let before = words.named.insert(name.to_owned(), value.to_owned());
            ensure!(before.is_none(), "{name} is given twice");
        }
        Ok(words)
    }

    /// A value or its default.
    #[must_use]
    pub fn get<'a>(&'a self, name: &str, or: &'a str) -> &'a str {
        self.named.get(name).map_or(or, String::as_str)
    }

    /// # Errors
    /// Not a number.
    pub fn number(&self, name: &str, or: u32) -> Result<u32> {
        let value = self.named.get(name);
        value.map_or(Ok(or), |value| {
            value
                .parse()
                .with_context(|| format!("{name}={value}: expected a number"))
        })
    }

    /// # Errors
    /// Neither `yes` nor `no`.
    pub fn yes(&self, name: &str, or: &str) -> Result<bool> {
        match self.get(name, or) {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => bail!("{name}={other}: expected yes or no"),
        }
    }
}

/// By which clock speeds are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The one on the wall.
    Wall,
    /// Processor time divided by the number of threads: what the wall would show if no other program ran.
    Cpu,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The model.
    pub file: PathBuf,
    /// Measurements in the order asked for, each once.
    pub what: Vec<What>,
    /// Numbers of threads, one table each.
    pub threads: Vec<u32>,
    /// Measurements of everything on each side.
    pub rounds: u32,
    /// Only one side is loaded at a time.
    pub exclusive: bool,
    /// Also one line of JSON per row of the table.
    pub json: bool,
    /// Whether llama.cpp may rearrange weights in memory of its own.
    pub repack: bool,
    /// Hearth's instruction set.
    pub isa: String,
    /// The core that the other program takes in `busy`; the last one by default.
    pub busy_core: Option<u32>,
    /// By which clock speeds are told.
    pub clock: Clock,
    /// Bytes read per decoded token, if not those counted from the file.
    pub token_bytes: Option<u64>,
}

impl Settings {
    /// # Errors
    /// What was given and what was expected.
    pub fn from_words(words: &Words) -> Result<Self> {
        let [file] = words.plain.as_slice() else {
            bail!("expected one model file, got {:?}", words.plain);
        };
        let mut what = Vec::new();
        for word in words.get("what", WHAT).split(',') {
            let item = What::parse(word)?;
            if !what.contains(&item) {
                what.push(item);
            }
        }
        let threads = words.get("threads", "1,2").split(',').map(|word| {
            let threads = word.parse().ok().filter(|n| (1..=256).contains(n));
            threads.with_context(|| format!("threads={word}: expected numbers from 1 to 256"))
        });
        let rounds = words.number("rounds", 5)?;
        ensure!(rounds > 0, "rounds=0: expected at least one");
        let optional = |name: &str| match words.get(name, "") {
            "" => Ok(None),
            value => value
                .parse()
                .map(Some)
                .with_context(|| format!("{name}={value}: expected a number")),
        };
        Ok(Self {
            file: file.into(),
            what,
            threads: threads.collect::<Result<_>>()?,
            rounds,
            exclusive: words.yes("exclusive", "no")?,
            json: words.yes("json", "no")?,
            repack: words.yes("repack", "yes")?,
            isa: words.get("isa", "auto").to_owned(),
            busy_core: optional("busy_core")?.map(u32::try_from).transpose()?,
            clock: match words.get("clock", "wall") {
                "wall" => Clock::Wall,
                "cpu" => Clock::Cpu,
                other => bail!("clock={other}: expected wall or cpu"),
            },
            token_bytes: optional("token_bytes")?,
        })
    }

    /// Sequences for which a child that measures speed makes room.
    #[must_use]
    pub fn seqs(&self) -> u32 {
        let batch = self.what.iter().filter_map(|what| match what {
            What::Batch(seqs) => Some(*seqs),
            _ => None,
        });
        batch.max().unwrap_or(1)
    }

    /// Positions of its single sequence for which a child makes room.
    #[must_use]
    pub fn context(&self) -> u32 {
        let rows = self.what.iter().map(|what| match what {
            What::Prefill(rows) | What::Context(rows) => *rows,
            _ => 0,
        });
        rows.max().unwrap_or(0).max(512) + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings> {
        Settings::from_words(&Words::parse(line.split(' ').map(str::to_owned))?)
    }

    #[test]
    fn a_file_alone_measures_everything() {
        let settings = settings("m.gguf").unwrap();
        assert_eq!(settings.file, PathBuf::from("m.gguf"));
        assert_eq!(settings.what.len(), 9);
        assert_eq!(settings.threads, [1, 2]);
        assert_eq!(
            (settings.rounds, settings.exclusive, settings.json),
            (5, false, false)
        );
        assert_eq!((settings.seqs(), settings.context()), (8, 8192 + 256));
        assert!(settings.repack);
        assert_eq!(settings.clock, Clock::Wall);
    }

    #[test]
    fn measurements_are_named_with_their_size() {
        let all =
            settings("m what=decode,prefill512,context32k,batch3,busy,cold,memory,decode").unwrap();
        use What::{Batch, Busy, Cold, Context, Decode, Memory, Prefill};
        let expected = [
            Decode,
            Prefill(512),
            Context(32768),
            Batch(3),
            Busy,
            Cold,
            Memory,
        ];
        assert_eq!(all.what, expected);
        assert_eq!((all.seqs(), all.context()), (3, 32768 + 256));
        let small = settings("m what=decode").unwrap();
        assert_eq!((small.seqs(), small.context()), (1, 768));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "",
            "m n",
            "m what=",
            "m what=prefill",
            "m what=decode5",
            "m what=prefill0",
            "m what=batch9999999999",
            "m what=context4096k",
            "m threads=0",
            "m threads=1,",
            "m threads=x",
            "m rounds=0",
            "m rounds=-1",
            "m exclusive=1",
            "m colour=red",
            "m rounds=1 rounds=2",
            "m busy_core=x",
            "m token_bytes=1.5",
            "m clock=sun",
        ] {
            let line = line.trim();
            let words = Words::parse(line.split_whitespace().map(str::to_owned));
            assert!(
                words
                    .and_then(|words| Settings::from_words(&words))
                    .is_err(),
                "{line:?}"
            );
        }
    }

    #[test]
    fn sides_take_turns_at_going_first() {
        let turns: Vec<Who> = (0..4).flat_map(Who::order).collect();
        use Who::{Hearth as H, Llama as L};
        assert_eq!(turns, [H, L, L, H, H, L, L, H]);
    }
}
