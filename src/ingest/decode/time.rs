//! When an event happened, given clients whose clocks and time zones are wrong.
//!
//! | the event has | its time |
//! |---|---|
//! | `originalTimestamp` and `timestamp` | `timestamp` as it is: the client corrected it itself |
//! | one of them and `sentAt` | corrected by how far `sentAt` is from now, unless under 5 s |
//! | one of them | as it is |
//! | neither, or nothing that reads as a time | now |
//!
//! A time without a zone within 26 h of now is now, because its zone is unknown and zones span
//! 26 h; farther away it is read as UTC. It is never corrected, nor does it correct. A result more
//! than 24 h after now is now. The past is never refused; before the year 1 it is the year 1,
//! which is the earliest that every reader of a timestamp prints. Times are kept to the
//! microsecond, as Postgres does.

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Timelike, Utc};
use serde_json::value::RawValue;

use super::members::string;

const CORRECTION_MIN: TimeDelta = TimeDelta::seconds(5);
const ZONES_SPAN: TimeDelta = TimeDelta::hours(26);
const FUTURE_MAX: TimeDelta = TimeDelta::hours(24);

/// Seconds from the start of 1970 to the start of the year 1.
const EARLIEST_SECONDS: i64 = -62_135_596_800;

/// An epoch number below this is seconds (until the year 5138), from it milliseconds (since 1973).
const EPOCH_MS_MIN: f64 = 1e11;

/// The shortest text of digits that is an epoch number and not, say, a year.
const EPOCH_CHARS_MIN: usize = 9;

/// The longest text that can be a time.
const STAMP_CHARS_MAX: usize = 64;

/// A time as a client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// With a zone, or an epoch number.
    Instant(DateTime<Utc>),
    /// Without a zone.
    Local(NaiveDateTime),
}

/// The times of one event.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stamps {
    pub(super) timestamp: Option<Stamp>,
    pub(super) original: Option<Stamp>,
    pub(super) sent_at: Option<Stamp>,
}

impl Stamps {
    /// When the event happened.
    pub(super) fn settle(self, now: DateTime<Utc>) -> DateTime<Utc> {
        let at = match (self.timestamp, self.original) {
            (Some(stamp), Some(_)) => placed(stamp, now),
            (Some(stamp), None) | (None, Some(stamp)) => self.corrected(stamp, now),
            (None, None) => now,
        };
        let latest = now.checked_add_signed(FUTURE_MAX).unwrap_or(now);
        let at = if at > latest { now } else { at };
        to_microsecond(at.max(earliest()))
    }

    fn corrected(self, stamp: Stamp, now: DateTime<Utc>) -> DateTime<Utc> {
        let (Stamp::Instant(at), Some(Stamp::Instant(sent))) = (stamp, self.sent_at) else {
            return placed(stamp, now);
        };
        let skew = now.signed_duration_since(sent);
        if skew.abs() < CORRECTION_MIN {
            return at;
        }
        at.checked_add_signed(skew).unwrap_or(now)
    }
}

fn placed(stamp: Stamp, now: DateTime<Utc>) -> DateTime<Utc> {
    match stamp {
        Stamp::Instant(at) => at,
        Stamp::Local(local) => {
            let at = local.and_utc();
            if now.signed_duration_since(at).abs() <= ZONES_SPAN {
                now
            } else {
                at
            }
        }
    }
}

fn earliest() -> DateTime<Utc> {
    DateTime::from_timestamp(EARLIEST_SECONDS, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

fn to_microsecond(at: DateTime<Utc>) -> DateTime<Utc> {
    let nanosecond = at.nanosecond() - at.nanosecond() % 1_000;
    at.with_nanosecond(nanosecond).unwrap_or(at)
}

impl Stamp {
    /// Reads a JSON string or number; `None` for anything that is not a time.
    pub(super) fn read(value: &RawValue) -> Option<Self> {
        match string(value) {
            Some(text) => Self::parse(&text),
            None => epoch(value.get()),
        }
    }

    /// Reads ISO 8601 in the spellings that clients use, RFC 2822, or an epoch number as text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > STAMP_CHARS_MAX {
            return None;
        }
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Some(Self::Instant(at.to_utc()));
        }
        const LOCAL: [&str; 4] = [
            "%Y-%m-%dT%H:%M:%S%.f",
            "%Y-%m-%d %H:%M:%S%.f",
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%d %H:%M",
        ];
        for format in LOCAL {
            if let Ok(local) = NaiveDateTime::parse_from_str(text, format) {
                return Some(Self::Local(local));
            }
        }
        const ZONED: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
        for format in ZONED {
            if let Ok(at) = DateTime::parse_from_str(text, format) {
                return Some(Self::Instant(at.to_utc()));
            }
        }
        if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return date.and_hms_opt(0, 0, 0).map(Self::Local);
        }
        if let Ok(at) = DateTime::parse_from_rfc2822(text) {
            return Some(Self::Instant(at.to_utc()));
        }
        (text.len() >= EPOCH_CHARS_MIN)
            .then(|| epoch(text))
            .flatten()
    }
}

fn epoch(text: &str) -> Option<Stamp> {
    let number: f64 = text.parse().ok()?;
    if !number.is_finite() {
        return None;
    }
    let milliseconds = if number.abs() < EPOCH_MS_MIN {
        number * 1_000.0
    } else {
        number
    };
    // The cast saturates; what chrono cannot hold is far past or far future, settled either way.
    let microseconds = (milliseconds * 1_000.0).round() as i64;
    let at = DateTime::from_timestamp_micros(microseconds).unwrap_or(if microseconds < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    });
    Some(Stamp::Instant(at))
}
