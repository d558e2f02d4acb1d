//! The name of a request, in its answer, in an error's `instance` and in every log line.

use actix_web::http::header::{HeaderMap, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::Clock;

/// The header that carries the name both ways.
pub(super) const HEADER: &str = "x-request-id";

/// The longest name that is taken from a caller.
const CHARS_MAX: usize = 128;

/// A request's name: the caller's own if it is a sane one, else a UUIDv7.
#[derive(Debug, Clone)]
pub(super) struct RequestId(String);

impl RequestId {
    pub(super) fn of(headers: &HeaderMap, clock: &Clock) -> Self {
        let given = headers
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|text| is_sane(text));
        match given {
            Some(text) => Self(text.to_owned()),
            None => Self(new_uuid(clock).to_string()),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.0.as_str()).ok()
    }
}

/// A fresh UUIDv7 of the clock's time.
pub(super) fn new_uuid(clock: &Clock) -> Uuid {
    let now = clock.now();
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        now.timestamp_subsec_nanos(),
    ))
}

/// A name goes into logs, so only what cannot break a line or a quote is let in.
fn is_sane(text: &str) -> bool {
    (1..=CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    #[test]
    fn sane_names_are_kept_and_others_replaced() {
        let id = |given: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                HeaderName::from_static(HEADER),
                HeaderValue::from_static(given),
            );
            RequestId::of(&headers, &Clock::system()).0
        };
        assert_eq!(id("abc-1:2"), "abc-1:2");
        for odd in ["", "a b", "a\"b", "<script>"] {
            assert_ne!(id(odd), odd);
            assert_eq!(id(odd).len(), 36);
        }
    }
}
