//! Where a request may carry its key.
//!
//! The order is the contract's: Basic user, `X-Write-Key`, `x-api-key`, Bearer (an `Authorization`
//! without a scheme is a key), query `writeKey`; the body's key comes last and is added by whoever
//! reads the body. Each is tried until one is known, so an OAuth token beside a write key does no
//! harm. Pure over the request's head.

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest text that is looked up as a key, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// The texts in a request's head that may be a key, in the order in which they are tried.
pub(super) fn candidates(request: &HttpRequest) -> Vec<String> {
    from_parts(request.headers(), request.query_string())
}

fn from_parts(headers: &HeaderMap, query: &str) -> Vec<String> {
    let mut found = Vec::new();
    let authorization = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .unwrap_or_default();
    let (scheme, rest) = match authorization.split_once(' ') {
        Some((scheme, rest)) => (scheme, rest.trim()),
        None if is_scheme(authorization) => (authorization, ""),
        None => ("", authorization),
    };
    if scheme.eq_ignore_ascii_case("basic") {
        push(&mut found, basic_user(rest).as_deref());
    }
    for name in ["x-write-key", "x-api-key"] {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        push(&mut found, value);
    }
    if scheme.is_empty() || scheme.eq_ignore_ascii_case("bearer") {
        push(&mut found, Some(rest));
    }
    push(&mut found, query_key(query).as_deref());
    found
}

fn is_scheme(word: &str) -> bool {
    word.eq_ignore_ascii_case("basic") || word.eq_ignore_ascii_case("bearer")
}

/// Adds a text unless it is empty, too long to be a key, or there already.
pub(super) fn push(found: &mut Vec<String>, text: Option<&str>) {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return;
    };
    let text = if text.len() > KEY_BYTES_MAX {
        "?"
    } else {
        text
    };
    if !found.iter().any(|known| known == text) {
        found.push(text.to_owned());
    }
}

fn basic_user(encoded: &str) -> Option<String> {
    let decoded = STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let user = text.split_once(':').map_or(text.as_str(), |(user, _)| user);
    Some(user.to_owned())
}

fn query_key(query: &str) -> Option<String> {
    crate::http::query::pairs(query)
        .into_iter()
        .find(|(name, _)| name == "writeKey")
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn found(headers: &[(&str, &str)], query: &str) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::try_from(*value).unwrap(),
            );
        }
        from_parts(&map, query)
    }

    #[test]
    fn order_is_the_contracts() {
        let headers = [
            ("authorization", "Basic d2tfdGVzdF8xMjM6"),
            ("x-api-key", "b"),
            ("x-write-key", "a"),
        ];
        assert_eq!(
            found(&headers, "x=1&writeKey=c%20d"),
            ["wk_test_123", "a", "b", "c d"]
        );
        let bearer = [("authorization", "Bearer t"), ("x-api-key", "b")];
        assert_eq!(found(&bearer, ""), ["b", "t"]);
    }

    #[test]
    fn authorization_without_scheme_is_a_key() {
        assert_eq!(found(&[("authorization", "wk_1")], ""), ["wk_1"]);
    }

    #[test]
    fn damaged_and_empty_credentials_are_nothing() {
        assert!(found(&[("authorization", "Basic ***")], "").is_empty());
        assert!(found(&[("authorization", "Basic Og==")], "").is_empty());
        assert!(found(&[("authorization", "Bearer ")], "writeKey=").is_empty());
        assert!(found(&[("authorization", "Digest x")], "").is_empty());
    }

    #[test]
    fn an_endless_key_is_not_kept() {
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(found(&[("x-api-key", &long)], ""), ["?"]);
    }
}
