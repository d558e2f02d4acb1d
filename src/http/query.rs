//! The query string, parsed at the edge.
//!
//! A number out of range is clamped, as clients of the seed expect; a number that is none is
//! refused, so that a mistake is seen. An empty value is the same as none.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::problem::Problem;
use crate::error::{Error, FieldError};
use crate::model::{Identity, IdentityKind};

/// The deepest offset of a page of what grows without end, such as events; deeper ones are read by
/// cursor.
pub const OFFSET_MAX: i64 = 100_000;

/// The parameters of a request's query, by name; of two with one name the first counts.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<(String, String)>);

/// The pairs of a query string, decoded; nothing when it cannot be decoded.
pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    web::Query::<Vec<(String, String)>>::from_query(query)
        .map(web::Query::into_inner)
        .unwrap_or_default()
}

impl Params {
    /// Parses a query string.
    pub fn parse(query: &str) -> Self {
        Self(pairs(query))
    }

    /// The value of a parameter, unless it is absent or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Refuses parameters of other names, for a call whose effect a mistyped one would widen.
    pub fn only(&self, known: &[&str]) -> Result<(), Error> {
        let unknown = self
            .0
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()));
        unknown.map_or(Ok(()), |(name, value)| {
            let reason = format!("unknown parameter; known are {}", known.join(", "));
            Err(refuse(name, value, reason))
        })
    }

    /// How many rows a page holds, clamped to `1..=max`.
    pub fn limit(&self, default: i64, max: i64) -> Result<i64, Error> {
        self.number("limit", default, 1, max)
    }

    /// How many rows are skipped, clamped to `0..=OFFSET_MAX`.
    pub fn offset(&self) -> Result<i64, Error> {
        self.number("offset", 0, 0, OFFSET_MAX)
    }

    /// As [`Self::offset`], however deep: for lists of what people made, where no cursor goes on.
    pub fn offset_of_all(&self) -> Result<i64, Error> {
        self.number("offset", 0, 0, i64::MAX)
    }

    /// A whole number, clamped.
    pub fn number(&self, name: &str, default: i64, min: i64, max: i64) -> Result<i64, Error> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse(name, text, format!("{name} must be a whole number")));
        }
        // What does not fit is far out of range on the side of its sign.
        let overflow = if text.starts_with('-') { min } else { max };
        Ok(text.parse::<i64>().unwrap_or(overflow).clamp(min, max))
    }

    /// A switch, which is off unless it is `true`.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(refuse(name, text, format!("{name} must be true or false"))),
        }
    }

    /// A time in RFC 3339, or in milliseconds since 1970.
    pub fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let millis = text
            .parse::<i64>()
            .ok()
            .and_then(DateTime::from_timestamp_millis);
        let parsed = millis.or_else(|| {
            DateTime::parse_from_rfc3339(text)
                .ok()
                .map(|time| time.to_utc())
        });
        match parsed.filter(in_database_range) {
            Some(time) => Ok(Some(time)),
            None => Err(refuse(
                name,
                text,
                format!("{name} must be a time in RFC 3339"),
            )),
        }
    }

    /// A text that the database can compare with: no `\0`, and not longer than any that is stored.
    pub fn text(&self, name: &str, chars_max: usize) -> Result<Option<&str>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        if text.contains('\0') {
            let reason = format!("{name} must not contain \\u0000");
            return Err(refuse(name, text, reason));
        }
        if text.chars().count() > chars_max {
            return Err(refuse(name, text, format!("{name} too long")));
        }
        Ok(Some(text))
    }

    /// The person the query names, by `user_id`, else `anonymous_id`: the first of these that is known,
    /// as [`Identity::readings`] has it. None is nobody.
    pub fn identities(&self) -> Result<Vec<Identity>, Error> {
        for (name, kind) in [
            ("user_id", IdentityKind::User),
            ("anonymous_id", IdentityKind::Anonymous),
        ] {
            let text = self.get(name).unwrap_or_default();
            let readings = Identity::readings(kind, text).map_err(|_| {
                let reason = if text.contains('\0') {
                    format!("{name} must not contain \\u0000")
                } else {
                    format!("{name} too long")
                };
                refuse(name, text, reason)
            })?;
            if !readings.is_empty() {
                return Ok(readings);
            }
        }
        Ok(Vec::new())
    }
}

/// Postgres keeps years up to 294276; what is far outside of any event is refused before.
fn in_database_range(time: &DateTime<Utc>) -> bool {
    use chrono::Datelike;
    (1..=9_999).contains(&time.year())
}

fn refuse(name: &str, text: &str, reason: String) -> Error {
    Error::field(FieldError::query(
        name,
        Some(&Value::String(text.to_owned())),
        reason,
    ))
}

impl FromRequest for Params {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        ready(Ok(Self::parse(request.query_string())))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn numbers_are_clamped_and_nonsense_is_refused() {
        let limit = |query: &str| Params::parse(query).limit(20, 100);
        assert_eq!(limit("").unwrap(), 20);
        assert_eq!(limit("limit=").unwrap(), 20);
        assert_eq!(limit("limit=0").unwrap(), 1);
        assert_eq!(limit("limit=-1").unwrap(), 1);
        assert_eq!(limit("limit=99999999999999999999").unwrap(), 100);
        assert_eq!(limit("limit=-99999999999999999999").unwrap(), 1);
        assert!(limit("limit=ten").is_err());
        assert!(limit("limit=1e3").is_err());
        assert_eq!(Params::parse("offset=-5").offset().unwrap(), 0);
    }

    #[test]
    fn user_goes_before_anonymous_and_spaces_are_nobody() {
        let both = Params::parse("anonymous_id=a&user_id=%20u%20");
        let readings = [" u ", "u"].map(|id| Identity::user(id).unwrap());
        assert_eq!(both.identities().unwrap(), readings);
        let spaces = Params::parse("user_id=%20&anonymous_id=a");
        let anonymous = Identity::anonymous("a").unwrap();
        assert_eq!(spaces.identities().unwrap(), [anonymous]);
        assert_eq!(Params::parse("user_id=%20").identities().unwrap(), []);
        // With the spaces it is no id, so it was stored without them.
        let wide = Params::parse(&format!("user_id=%20{}", "x".repeat(255)));
        assert_eq!(wide.identities().unwrap().len(), 1);
        let long = Params::parse(&format!("user_id={}", "x".repeat(256)));
        let Err(Error::Validation { fields, .. }) = long.identities() else {
            unreachable!("a long id is refused");
        };
        assert_eq!(fields[0].msg, "user_id too long");
        assert_eq!(fields[0].location, "query");
    }

    #[test]
    fn times_come_in_two_forms() {
        let time = |query: &str| Params::parse(query).time("from");
        assert_eq!(
            time("from=1970-01-01T00:00:01%2B00:00").unwrap(),
            time("from=1000").unwrap()
        );
        assert!(time("from=yesterday").is_err());
        assert!(time("from=9223372036854775807").is_err());
    }
}
