//! The hours of the day in which a machine serves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ranges in one setting.
const RANGES_MAX: usize = 16;
const DAY_MINUTES: u16 = 24 * 60;

/// Ranges of local time; none means always.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours(Vec<Range>);

/// From a minute of the day up to, not including, another; past midnight if the end is not after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u16,
    end: u16,
}

impl Hours {
    /// Whether a minute of the day (0 to 1439) lies in them.
    #[must_use]
    pub fn contain(&self, minute: u16) -> bool {
        self.0.is_empty() || self.0.iter().any(|range| range.contains(minute))
    }

    /// Whether they are the whole day.
    #[must_use]
    pub fn always(&self) -> bool {
        self.0.is_empty()
    }
}

impl Range {
    fn contains(self, minute: u16) -> bool {
        if self.start < self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once('-');
        let ends = ends.and_then(|(start, end)| Some((minute(start)?, minute(end)?)));
        match ends {
            Some((start, end)) if start < DAY_MINUTES && start != end => Ok(Self { start, end }),
            Some((start, end)) if start == end => Err(format!(
                "'{text}' has no length; say always for the whole day"
            )),
            _ => Err(format!(
                "'{}' is no range of hours; expected HH:MM-HH:MM, such as 22:00-07:00",
                text.chars().take(40).collect::<String>()
            )),
        }
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "always" {
            return Ok(Self::default());
        }
        let count = text.split(',').count();
        if count > RANGES_MAX {
            return Err(format!(
                "{count} ranges of hours came, at most {RANGES_MAX} were expected"
            ));
        }
        let ranges = text.split(',').map(|range| range.trim().parse());
        Ok(Self(ranges.collect::<Result<_, _>>()?))
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start, self.end);
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{}", clock(start), clock(end))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("always");
        }
        let ranges: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_lie_in_ranges_or_not() {
        let cases: [(&str, &[u16], &[u16]); 4] = [
            ("always", &[0, 720, 1439], &[]),
            ("09:00-17:30", &[540, 1049], &[539, 1050, 0]),
            ("22:00-07:00", &[1320, 1439, 0, 419], &[420, 1319]),
            (
                "12:00-13:00, 23:00-24:00",
                &[720, 1380, 1439],
                &[780, 0, 1379],
            ),
        ];
        for (text, inside, outside) in cases {
            let hours: Hours = text.parse().unwrap();
            assert!(inside.iter().all(|minute| hours.contain(*minute)), "{text}");
            assert!(
                !outside.iter().any(|minute| hours.contain(*minute)),
                "{text}"
            );
            assert_eq!(hours.to_string(), text.replace(' ', ""));
        }
    }

    #[test]
    fn what_is_no_range_is_refused_by_name() {
        let many = vec!["01:00-02:00"; 17].join(",");
        for text in [
            "",
            "9-17",
            "09:00",
            "24:00-01:00",
            "09:60-10:00",
            "09:00-25:00",
            "+9:00-10:00",
            "08:00-08:00",
            "a:b-c:d",
            &many,
        ] {
            let error = text.parse::<Hours>().unwrap_err();
            assert!(
                error.contains("expected") || error.contains("always"),
                "{text}: {error}"
            );
        }
    }
}
