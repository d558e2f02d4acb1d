//! Times, windows and versions as rules write them.
//!
//! A time is one of
//! - RFC 3339 text (`2026-01-31T08:00:00Z`, any offset),
//! - the same without an offset, taken as UTC,
//! - a date (`2026-01-31`), taken as its midnight in UTC,
//! - a number: Unix seconds when its magnitude is below 100,000,000,000 (the year 5138), Unix
//!   milliseconds from there on.
//!
//! A window is a whole number and a unit: `s`, `m`, `h`, `d` (24 hours) or `w`.
//! A version is a semantic version; a leading `v` and missing minor or patch numbers are
//! forgiven (`v2.1` is `2.1.0`), and build metadata does not count.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use semver::Version;

/// Numbers from here on are milliseconds.
const UNIX_MILLISECONDS_FROM: f64 = 1e11;

/// A hundred years: no window in a rule means more.
const WINDOW_SECONDS_MAX: i64 = 36_525 * 86_400;

/// No version in the world is longer, and parsing stays cheap.
const VERSION_BYTES_MAX: usize = 256;

/// Microseconds since the Unix epoch of a time written as text.
pub(super) fn text_micros(text: &str) -> Option<i64> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(moment.timestamp_micros());
    }
    if let Ok(naive) = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f") {
        return Some(naive.and_utc().timestamp_micros());
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_time(NaiveTime::MIN).and_utc().timestamp_micros())
}

/// Microseconds since the Unix epoch of a time written as a number.
pub(super) fn number_micros(number: f64) -> i64 {
    let micros = if number.abs() < UNIX_MILLISECONDS_FROM {
        number * 1e6
    } else {
        number * 1e3
    };
    // The conversion saturates, so that no number is refused for being far away.
    micros.round() as i64
}

/// The seconds of a window such as `3d`.
pub(super) fn window_seconds(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds: i64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let count = text.strip_suffix(unit)?;
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let window = count.parse::<i64>().ok()?.checked_mul(seconds)?;
    (1..=WINDOW_SECONDS_MAX).contains(&window).then_some(window)
}

/// A version, with the forgiveness that the module describes.
pub(super) fn version(text: &str) -> Option<Version> {
    let text = text.trim();
    if text.len() > VERSION_BYTES_MAX {
        return None;
    }
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    if let Ok(version) = Version::parse(text) {
        return Some(version);
    }
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let padding = match numbers.matches('.').count() {
        0 => ".0.0",
        1 => ".0",
        _ => return None,
    };
    Version::parse(&format!("{numbers}{padding}{rest}")).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn times_are_read_in_every_documented_form() {
        let expected = 1_700_000_000_000_000;
        assert_eq!(text_micros("2023-11-14T22:13:20Z"), Some(expected));
        assert_eq!(text_micros("2023-11-15T03:43:20+05:30"), Some(expected));
        assert_eq!(text_micros("2023-11-14T22:13:20.000"), Some(expected));
        assert_eq!(number_micros(1_700_000_000.0), expected);
        assert_eq!(number_micros(1_700_000_000_000.0), expected);
        assert_eq!(text_micros("1970-01-02"), Some(86_400_000_000));
        assert_eq!(text_micros("yesterday"), None);
        assert_eq!(text_micros("2023-02-30"), None);
        assert_eq!(number_micros(1e300), i64::MAX);
    }

    #[test]
    fn windows_have_a_count_and_a_unit() {
        assert_eq!(window_seconds("90s"), Some(90));
        assert_eq!(window_seconds("2m"), Some(120));
        assert_eq!(window_seconds("1h"), Some(3_600));
        assert_eq!(window_seconds("3d"), Some(259_200));
        assert_eq!(window_seconds("2w"), Some(1_209_600));
        for bad in [
            "",
            "d",
            "3",
            "0d",
            "-1d",
            "+1d",
            "1.5d",
            "3 d",
            "3y",
            "3é",
            "99999999999w",
        ] {
            assert_eq!(window_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_forgive_what_people_write() {
        assert_eq!(version("v1.2").unwrap(), Version::new(1, 2, 0));
        assert_eq!(version("3").unwrap(), Version::new(3, 0, 0));
        assert_eq!(version("1.2-beta.1").unwrap().to_string(), "1.2.0-beta.1");
        assert_eq!(version("1.2.3.4"), None);
        assert_eq!(version("latest"), None);
        assert_eq!(version(""), None);
    }
}
