//! The processor's cores: which ones the owner gives, and how many threads they are worth.
//!
//! Owns the reading of core lists (`0,2-3`) and the default number of computing threads. It never pins anything itself.
//! The one idea: a thread per physical core that this process may use, since the kernels saturate a core's vector units
//! or its share of the memory, and a second thread on the same core only gets in the way. Efficiency cores count like
//! all others: threads take work instead of being given it, so a slow core does what it can and delays nobody.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer};

/// Largest core number that is understood.
const CORE_MAX: usize = 1023;

/// Reads a list of cores such as `0,2-3`, in the order given.
///
/// # Errors
/// What came and what was expected.
pub fn parse_list(text: &str) -> Result<Vec<usize>, String> {
    let wrong = |part: &str| {
        format!(
            "'{part}' in the cores '{text}'; numbers up to {CORE_MAX} and ranges were expected, such as 0,2-3"
        )
    };
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let number = |digits: &str| digits.trim().parse::<usize>().ok();
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first), number(last)),
            None => (number(part), number(part)),
        };
        match (first, last) {
            (Some(first), Some(last)) if first <= last && last <= CORE_MAX => {
                for core in first..=last {
                    if cores.contains(&core) {
                        return Err(format!(
                            "core {core} stands twice in '{text}'; name it once"
                        ));
                    }
                    cores.push(core);
                }
            }
            _ => return Err(wrong(part)),
        }
    }
    Ok(cores)
}

/// A list of cores as a setting: text, or a single number, which the environment and a file give without quotes.
///
/// # Errors
/// When it is neither.
pub fn setting<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of cores such as 0,2-3 was expected")]
    enum Given {
        One(usize),
        List(String),
    }
    let given = Option::<Given>::deserialize(from)?;
    Ok(given.map(|given| match given {
        Given::One(core) => core.to_string(),
        Given::List(text) => text,
    }))
}

/// What a system says of its processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processors {
    /// Logical processors that this process may run on.
    pub allowed: Vec<usize>,
    /// The processors of each physical core, as far as known. A processor that stands nowhere is a core of its own.
    pub siblings: Vec<Vec<usize>>,
    /// How many processors' time this process may use (a quota may be below the number of them).
    pub quota: usize,
}

impl Processors {
    /// Threads to compute with when the owner does not say: physical cores that may be used, at least 1.
    #[must_use]
    pub fn default_threads(&self) -> usize {
        let core = |cpu: &usize| {
            let of = |group: &&Vec<usize>| group.contains(cpu);
            let group = self.siblings.iter().find(of);
            group.and_then(|g| g.iter().min()).copied().unwrap_or(*cpu)
        };
        let cores: BTreeSet<usize> = self.allowed.iter().map(core).collect();
        cores.len().min(self.quota).max(1)
    }

    /// Looks at this machine: the system's description of its cores.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let quota = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = allowed(&status).unwrap_or_else(|| (0..quota).collect());
        let siblings = allowed
            .iter()
            .filter_map(|cpu| {
                let file =
                    format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
                parse_list(&std::fs::read_to_string(file).ok()?).ok()
            })
            .collect();
        Self {
            allowed,
            siblings,
            quota,
        }
    }

    /// Looks at this machine: as many cores as the system counts.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn look() -> Self {
        let quota = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = sysinfo::System::physical_core_count().unwrap_or(quota);
        Self {
            allowed: (0..cores).collect(),
            siblings: Vec::new(),
            quota,
        }
    }
}

/// The processors that `/proc/self/status` allows.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "only Linux has it")
)]
fn allowed(status: &str) -> Option<Vec<usize>> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_list(list).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_in_order() {
        for (text, cores) in [
            ("0", vec![0]),
            ("0,2-3", vec![0, 2, 3]),
            (" 3 , 1-1\n", vec![3, 1]),
            ("1023", vec![1023]),
        ] {
            assert_eq!(parse_list(text), Ok(cores), "{text}");
        }
        let endless = "0-99999999999";
        for text in [
            "", "a", "1-", "-1", "3-2", "1,,2", "0,0", "0-2,1", "1024", endless,
        ] {
            let error = parse_list(text).unwrap_err();
            assert!(error.contains(text.trim()), "{text}: {error}");
        }
    }

    #[test]
    fn a_setting_of_cores_may_be_a_bare_number() {
        for (given, text) in [
            ("3", Some("3")),
            ("\"0,2-3\"", Some("0,2-3")),
            ("null", None),
        ] {
            let got = setting(&mut serde_json::Deserializer::from_str(given)).unwrap();
            assert_eq!(got.as_deref(), text, "{given}");
        }
        let error = setting(&mut serde_json::Deserializer::from_str("1.5")).unwrap_err();
        assert!(error.to_string().contains("such as 0,2-3"), "{error}");
    }

    #[test]
    fn threads_default_to_the_physical_cores_that_may_be_used() {
        let pairs = |n: usize| -> Vec<Vec<usize>> {
            (0..n).map(|core| vec![2 * core, 2 * core + 1]).collect()
        };
        let hybrid: Vec<Vec<usize>> = [pairs(6), (12..20).map(|cpu| vec![cpu]).collect()].concat();
        let cases = [
            ("two cores", 0..2, vec![vec![0], vec![1]], 2, 2),
            ("four cores with siblings", 0..8, pairs(4), 8, 4),
            ("six with siblings and eight small", 0..20, hybrid, 20, 14),
            ("one core's siblings allowed", 2..4, pairs(4), 2, 1),
            ("half of two cores allowed", 1..3, pairs(4), 2, 2),
            ("a quota of three processors", 0..16, pairs(8), 3, 3),
            ("a quota above the cores", 0..8, pairs(4), 6, 4),
            ("nothing known of siblings", 0..6, vec![], 6, 6),
            ("nothing known at all", 0..0, vec![], 0, 1),
        ];
        for (what, allowed, siblings, quota, threads) in cases {
            let processors = Processors {
                allowed: allowed.collect(),
                siblings,
                quota,
            };
            assert_eq!(processors.default_threads(), threads, "{what}");
        }
    }

    #[test]
    fn the_allowed_processors_stand_in_the_status() {
        let status = "Name:\tnode\nCpus_allowed:\tf\nCpus_allowed_list:\t0-2,5\nMems_allowed:\t1\n";
        assert_eq!(allowed(status), Some(vec![0, 1, 2, 5]));
        assert_eq!(allowed("Name:\tnode\n"), None);
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(Processors::look().default_threads() >= 1);
    }
}
