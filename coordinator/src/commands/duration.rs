//! Times as people write them: `90s`, `10m`, `2h`, `1d`; a bare number is seconds.

use std::time::Duration;

/// Reads a time of at least a second.
///
/// # Errors
/// What came and what was expected.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!("'{text}' is not a time; expected a whole number with s, m, h or d, such as 10m")
    };
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit.trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .filter(|seconds| *seconds > 0)
        .ok_or_else(expected)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("2h", 7200),
            ("1d", 86_400),
            ("7", 7),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "0",
            "m",
            "1w",
            "-1s",
            "1.5h",
            "99999999999999999999d",
            "9999999999999999999d",
        ] {
            assert!(
                parse(bad).is_err_and(|error| error.contains("10m")),
                "{bad}"
            );
        }
    }
}
