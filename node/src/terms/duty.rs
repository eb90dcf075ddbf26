//! Serve or pause: the owner's terms against what is the case. Pure: the clock, the battery and the people at the machine
//! are arguments.
//!
//! What a term asks for and nobody can tell counts as outside the terms, and the reason says so: the owner comes first.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hours::Hours;

/// Seconds without a touch after which nobody counts as being at the machine, where the owner does not say.
const UNUSED_S: u32 = 300;
/// The longest that may be asked for: a day.
const UNUSED_S_MAX: u32 = 86_400;

/// Whether a machine serves while somebody is at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WhileUsed {
    /// It does.
    #[default]
    Yes,
    /// Only once nobody has touched it for so many seconds.
    After(u32),
}

impl FromStr for WhileUsed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "yes" => Ok(Self::Yes),
            "no" => Ok(Self::After(UNUSED_S)),
            seconds => match seconds.parse() {
                Ok(seconds @ 1..=UNUSED_S_MAX) => Ok(Self::After(seconds)),
                _ => Err(format!(
                    "'{}' came; expected yes, no ({UNUSED_S} s without a touch) or a number of seconds from 1 to {UNUSED_S_MAX}",
                    seconds.chars().take(40).collect::<String>()
                )),
            },
        }
    }
}

impl TryFrom<String> for WhileUsed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<WhileUsed> for String {
    fn from(used: WhileUsed) -> Self {
        used.to_string()
    }
}

impl fmt::Display for WhileUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::After(seconds) => write!(f, "{seconds}"),
        }
    }
}

/// Whether a machine serves on battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBattery {
    /// It does.
    #[default]
    Yes,
    /// It does not.
    No,
}

impl FromStr for OnBattery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "yes" => Ok(Self::Yes),
            "no" => Ok(Self::No),
            other => Err(format!(
                "'{}' came; expected yes or no",
                other.chars().take(40).collect::<String>()
            )),
        }
    }
}

impl fmt::Display for OnBattery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::No => "no",
        })
    }
}

/// When a machine serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// In these hours.
    pub hours: Hours,
    /// On battery or not.
    pub battery: OnBattery,
    /// While somebody is at it or not.
    pub while_used: WhileUsed,
    /// The owner has paused it.
    pub paused: bool,
}

/// Where the power comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// The machine has no battery.
    NoBattery,
    /// It has one and does not live on it.
    Mains,
    /// It lives on it.
    Battery,
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// How long nobody has touched the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// So long.
    For(Duration),
    /// It cannot be told, for this reason.
    Unknown(String),
    /// No term asks for it.
    NotAsked,
}

/// What is the case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// Minute of the day by the local clock, 0 to 1439.
    pub minute: u16,
    /// Where the power comes from.
    pub power: Power,
    /// How long nobody has touched the machine.
    pub idle: Idle,
}

/// What a machine has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Take part.
    Serve,
    /// Stay a member, without a part and without its memory; for this reason.
    Pause(String),
}

impl Duty {
    /// Why it pauses; empty if it serves.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Serve => "",
            Self::Pause(reason) => reason,
        }
    }
}

/// Decides. The reasons hold no figures that change from minute to minute, so an unchanged duty stays equal to itself.
#[must_use]
pub fn decide(terms: &Terms, now: &Situation) -> Duty {
    let broken = by_owner(terms)
        .or_else(|| by_hours(terms, now))
        .or_else(|| by_power(terms, now))
        .or_else(|| by_use(terms, now));
    broken.map_or(Duty::Serve, Duty::Pause)
}

fn by_owner(terms: &Terms) -> Option<String> {
    let reason = "its owner has paused it; `node resume` there brings it back";
    terms.paused.then(|| reason.to_owned())
}

fn by_hours(terms: &Terms, now: &Situation) -> Option<String> {
    let hours = &terms.hours;
    (!hours.contain(now.minute)).then(|| format!("it serves in the hours {hours} only"))
}

fn by_power(terms: &Terms, now: &Situation) -> Option<String> {
    match (terms.battery, &now.power) {
        (OnBattery::Yes, _) | (OnBattery::No, Power::NoBattery | Power::Mains) => None,
        (OnBattery::No, Power::Battery) => Some("it runs on battery".to_owned()),
        (OnBattery::No, Power::Unknown(why)) => Some(format!(
            "nobody can tell whether it runs on battery ({why}); `node set --battery yes` there lets it serve"
        )),
    }
}

fn by_use(terms: &Terms, now: &Situation) -> Option<String> {
    let WhileUsed::After(seconds) = terms.while_used else {
        return None;
    };
    match &now.idle {
        Idle::For(idle) if *idle >= Duration::from_secs(seconds.into()) => None,
        Idle::For(_) => Some(format!(
            "somebody is at it; it serves after {seconds} s without a touch"
        )),
        Idle::Unknown(why) => Some(format!(
            "nobody can tell whether somebody is at it ({why}); `node set --while-used yes` there lets it serve"
        )),
        Idle::NotAsked => Some("whether somebody is at it is not known yet".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(minute: u16, power: Power, idle_s: u64) -> Situation {
        Situation {
            minute,
            power,
            idle: Idle::For(Duration::from_secs(idle_s)),
        }
    }

    fn terms(hours: &str, battery: &str, while_used: &str) -> Terms {
        Terms {
            hours: hours.parse().unwrap(),
            battery: battery.parse().unwrap(),
            while_used: while_used.parse().unwrap(),
            paused: false,
        }
    }

    /// What is said if it pauses; empty if it serves.
    fn said(terms: &Terms, now: &Situation) -> String {
        decide(terms, now).reason().to_owned()
    }

    #[test]
    fn a_day_and_a_night_by_the_clock() {
        let night = terms("22:00-07:00", "yes", "yes");
        let mut serving = Vec::new();
        for minute in 0..1440 {
            let now = situation(minute, Power::NoBattery, 0);
            if decide(&night, &now) == Duty::Serve {
                serving.push(minute);
            }
        }
        let expected: Vec<u16> = (0..420).chain(1320..1440).collect();
        assert_eq!(serving, expected);
        let noon = situation(720, Power::NoBattery, 0);
        assert!(said(&night, &noon).contains("22:00-07:00"));
        assert_eq!(said(&terms("always", "yes", "yes"), &noon), "");
    }

    #[test]
    fn battery_use_and_the_owner_are_obeyed_and_what_is_unknown_is_said() {
        let strict = terms("always", "no", "60");
        let unknown = |why: &str| Power::Unknown(why.to_owned());
        let cases = [
            (situation(0, Power::Mains, 60), ""),
            (situation(0, Power::NoBattery, 3600), ""),
            (situation(0, Power::Battery, 60), "on battery"),
            (
                situation(0, unknown("no list"), 60),
                "nobody can tell whether it runs on battery (no list)",
            ),
            (situation(0, Power::Mains, 59), "after 60 s without a touch"),
        ];
        for (now, expected) in &cases {
            let reason = said(&strict, now);
            assert!(
                reason.contains(expected) && reason.is_empty() == expected.is_empty(),
                "{reason}"
            );
            // Without these terms nothing of it matters.
            assert_eq!(said(&terms("always", "yes", "yes"), now), "");
        }
        let blind = Situation {
            idle: Idle::Unknown("no logind".to_owned()),
            ..situation(0, Power::Mains, 0)
        };
        assert!(said(&strict, &blind).contains("somebody is at it (no logind)"));
        let paused = Terms {
            paused: true,
            ..terms("always", "yes", "yes")
        };
        assert!(said(&paused, &cases[0].0).contains("node resume"));
    }

    #[test]
    fn words_are_read_and_written() {
        for (word, written) in [("yes", "yes"), ("no", "300"), ("90", "90")] {
            assert_eq!(word.parse::<WhileUsed>().unwrap().to_string(), written);
        }
        for wrong in ["", "0", "-1", "86401", "maybe", "1.5"] {
            assert!(wrong.parse::<WhileUsed>().unwrap_err().contains("expected"));
        }
        assert!("on".parse::<OnBattery>().unwrap_err().contains("yes or no"));
    }
}
