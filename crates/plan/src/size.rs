//! Amounts of memory as people write and read them: `8GiB`, `512MiB`, `9GB`, plain bytes.
//!
//! Owns the one parser and the one printer, so that flags, plans and errors agree. Never rounds a parsed amount up.

/// A text that is not an amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an amount of memory; expected a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, 8GiB for example"
)]
pub struct SizeError(String);

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Digits behind the point that count.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads an amount of memory in bytes: digits, at most one point, an optional unit, upper or lower case.
///
/// # Errors
/// When the text is anything else, or the amount does not fit 64 bits.
///
/// ```
/// assert_eq!(plan::size::parse_size("8GiB"), Ok(8 << 30));
/// assert_eq!(plan::size::parse_size("1.5 GB"), Ok(1_500_000_000));
/// assert!(plan::size::parse_size("8 potatoes").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let fail = || SizeError(text.chars().take(40).collect());
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits_end);
    let unit = unit.trim();
    let scale = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, scale)| u128::from(*scale))
        .ok_or_else(fail)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > FRACTION_DIGITS_MAX {
        return Err(fail());
    }
    let whole: u128 = whole.parse().map_err(|_| fail())?;
    let mut bytes = whole.checked_mul(scale).ok_or_else(fail)?;
    if !fraction.is_empty() {
        let parts: u128 = fraction.parse().map_err(|_| fail())?;
        let of = fraction.bytes().fold(1u128, |of, _| of * 10);
        bytes = bytes.checked_add(parts * scale / of).ok_or_else(fail)?;
    }
    u64::try_from(bytes).map_err(|_| fail())
}

/// Prints an amount with three digits or so: `21.2 GiB`, `640 KiB`, `17 B`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    const NAMES: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < NAMES.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = NAMES[unit];
    if value < 9.995 {
        format!("{value:.2} {name}")
    } else if value < 99.95 {
        format!("{value:.1} {name}")
    } else {
        format!("{value:.0} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        let cases: [(&str, Option<u64>); 17] = [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("17B", Some(17)),
            ("8GiB", Some(8 << 30)),
            ("9GB", Some(9_000_000_000)),
            ("512MiB", Some(512 << 20)),
            (" 2 tib ", Some(2 << 40)),
            ("1.5GiB", Some(3 << 29)),
            ("0.5KB", Some(500)),
            ("", None),
            ("GiB", None),
            (".5GiB", None),
            ("1.2.3GiB", None),
            ("-1GiB", None),
            ("8G", None),
            ("99999999999TiB", None),
            ("340282366920938463463374607431768211456", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_with_three_digits() {
        let cases = [
            (17, "17 B"),
            (1024, "1.00 KiB"),
            (640 << 10, "640 KiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (21_160_000_000, "19.7 GiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size_text(bytes), expected);
        }
    }
}
