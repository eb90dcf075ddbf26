//! Moments as Ollama writes them: RFC 3339 in UTC.

use std::time::Duration;

const DAY_S: u64 = 86_400;
/// Days from 1 March of year 0 to 1 January 1970, in the calendar that has always been ours.
const DAYS_TO_1970: u64 = 719_468;
/// Days of 400 years.
const ERA_DAYS: u64 = 146_097;

/// A moment by the time since 1970, with as many digits as it needs.
///
/// Years begin in March, so that a leap day is a year's last (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
pub(super) fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let days = (seconds / DAY_S).saturating_add(DAYS_TO_1970);
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let before_year = 365 * year_of_era + year_of_era / 4 - year_of_era / 100;
    let day_of_year = day_of_era - before_year;
    // 153 days in any five months from March on.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, later) = match month_from_march {
        0..=9 => (month_from_march + 3, 0),
        _ => (month_from_march.saturating_sub(9), 1),
    };
    let year = era.saturating_mul(400) + year_of_era + later;
    let of_day = seconds % DAY_S;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let whole = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    match since_1970.subsec_nanos() {
        0 => format!("{whole}Z"),
        nanos => format!("{whole}.{nanos:09}Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_everybody_does() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_399, 0, "2000-02-28T23:59:59Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (951_868_800, 0, "2000-03-01T00:00:00Z"),
            (1_700_000_000, 250_000_000, "2023-11-14T22:13:20.250000000Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (9_214_646_400, 0, "2262-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, nanos)), text);
        }
    }
}
