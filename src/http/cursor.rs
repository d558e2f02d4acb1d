//! Where the next page of a list begins: the place of a row in the list's order, which is a time and
//! then an id. As a text it is opaque, so that it may change.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::query::Params;
use crate::error::{Error, FieldError};

/// The latest time that a cursor may name, in microseconds since 1970: the last second of the year
/// 9999.
const LATEST_MICROS: i64 = 253_402_300_799_000_000;

/// The place of a row.
type Place<const N: usize> = (DateTime<Utc>, [u8; N]);

/// The text of a place.
pub(super) fn write<const N: usize>(time: DateTime<Utc>, id: [u8; N]) -> String {
    let time = time.timestamp_micros().to_be_bytes();
    URL_SAFE_NO_PAD.encode([&time[..], &id].concat())
}

/// The place that the parameter `cursor` names, if there is one.
///
/// Fails with [`Error::Validation`] for a text that is no cursor of such a list.
pub(super) fn of<const N: usize>(params: &Params) -> Result<Option<Place<N>>, Error> {
    let Some(text) = params.get("cursor") else {
        return Ok(None);
    };
    read(text).map(Some).ok_or_else(|| {
        let value = Value::from(text);
        Error::field(FieldError::query("cursor", Some(&value), "Invalid cursor"))
    })
}

fn read<const N: usize>(text: &str) -> Option<Place<N>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (time, id) = bytes.split_first_chunk::<8>()?;
    let micros = i64::from_be_bytes(*time);
    if !(0..=LATEST_MICROS).contains(&micros) {
        return None;
    }
    let time = DateTime::from_timestamp_micros(micros)?;
    Some((time, id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    /// Some of them of the right length, or nearly what `write` writes.
    fn any_text() -> impl Strategy<Value = String> {
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        let micros = prop_oneof![
            any::<i64>(),
            prop::sample::select(vec![-1, 0, LATEST_MICROS, LATEST_MICROS + 1]),
        ];
        let placed = (micros, any::<[u8; 16]>(), prop::bool::ANY).prop_map(|(micros, id, half)| {
            let id = if half { &id[..8] } else { &id[..] };
            URL_SAFE_NO_PAD.encode([&micros.to_be_bytes()[..], id].concat())
        });
        prop_oneof![
            any::<String>(),
            "[A-Za-z0-9_=-]{0,40}",
            "AAX[A-Za-z0-9_-]{29}={0,2}",
            "AAX[A-Za-z0-9_-]{19}={0,2}",
            placed,
            bytes.prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes)),
        ]
    }

    fn is_in_time(time: DateTime<Utc>) -> bool {
        (0..=LATEST_MICROS).contains(&time.timestamp_micros())
    }

    proptest! {
        #[test]
        fn any_text_is_a_cursor_or_refused(text in any_text()) {
            if let Some((time, id)) = read::<8>(&text) {
                prop_assert_eq!(write(time, id), &*text);
                prop_assert!(is_in_time(time), "{}", time);
            }
            if let Some((time, id)) = read::<16>(&text) {
                prop_assert_eq!(write(time, id), text);
                prop_assert!(is_in_time(time), "{}", time);
            }
        }

        #[test]
        fn any_place_comes_back(micros in 0..=LATEST_MICROS, id in any::<[u8; 16]>()) {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            let text = write(time, id);
            prop_assert_eq!(read(&text), Some((time, id)));
            prop_assert_eq!(read::<8>(&text), None, "of another list");
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let late = URL_SAFE_NO_PAD.encode([0x7f_u8; 24]);
        // Of one place there is one text, without padding and with nothing in its last bits.
        let place = URL_SAFE_NO_PAD.encode([0_u8; 16]);
        let (padded, other) = (format!("{place}=="), format!("{}B", &place[..21]));
        assert!(read::<8>(&place).is_some());
        for odd in ["", "x", "AAAA", &late, &padded, &other] {
            assert_eq!(read::<16>(odd), None, "{odd}");
            assert_eq!(read::<8>(odd), None, "{odd}");
        }
        for (micros, is_cursor) in [
            (0, true),
            (LATEST_MICROS, true),
            (-1, false),
            (LATEST_MICROS + 1, false),
            (i64::MAX, false),
        ] {
            let text = URL_SAFE_NO_PAD.encode([&micros.to_be_bytes()[..], &[0; 16]].concat());
            assert_eq!(read::<16>(&text).is_some(), is_cursor, "{micros}");
        }
        let none = of::<16>(&Params::parse("limit=1"));
        assert_eq!(none.unwrap(), None);
        assert!(of::<16>(&Params::parse("cursor=x")).is_err());
    }
}
