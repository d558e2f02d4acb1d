#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::Value;

use super::lenient::{depth, strict};
use super::time::{Stamp, Stamps};

fn made_strict(text: &str) -> Option<String> {
    strict(text).ok().map(|strict| strict.text.into_owned())
}

#[test]
fn strict_text_is_borrowed_as_it_is() {
    let long = format!("0.{}", "1".repeat(350));
    for text in [
        "{}",
        " [ ] ",
        r#"{"a":[1,-0,-1.5e+3,1E2,0.1],"b":{"c":null,"d":true,"e":false},"":"\u0000\ud83d\ude00é"}"#,
        r#""a\"\\\/\b\f\n\r\t""#,
        "123456789012345678901234567890",
        "1e308",
        "5e-324",
        long.as_str(),
    ] {
        let strict = strict(text).unwrap();
        assert!(
            matches!(strict.text, std::borrow::Cow::Borrowed(_)),
            "{text}"
        );
        assert_eq!(strict.text, text);
    }
}

#[test]
fn lenient_text_becomes_strict() {
    let many_digits = "1".repeat(401);
    let many_decimals = format!("0.{}", "5".repeat(500));
    for (text, expected) in [
        ("[NaN,Infinity,-Infinity]", "[null,null,null]"),
        (r#"{"a":NaN}"#, r#"{"a":null}"#),
        (r#""x\ud83d""#, r#""x\ufffd""#),
        (r#""\udc00y""#, r#""\ufffdy""#),
        (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
        (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#),
        (r#"{"\uD83D":1}"#, r#"{"\ufffd":1}"#),
        (r#""\\ud83d""#, r#""\\ud83d""#),
        ("\"a\u{0}b\nc\"", r#""a\u0000b\u000ac""#),
        ("\"\t\\\"\u{1f}\"", r#""\u0009\"\u001f""#),
        ("1e400", "null"),
        ("[-1e400]", "[null]"),
        ("1e-400", "0"),
        ("0e99999999999", "0"),
        (many_digits.as_str(), "null"),
        (many_decimals.as_str(), "0.5555555555555556"),
    ] {
        assert_eq!(made_strict(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[}",
        "{]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{1:2}",
        "1 2",
        "{}x",
        "nul",
        "tru e",
        "01",
        "+1",
        ".5",
        "1.",
        "1e",
        "-",
        "-NaN",
        "--1",
        "\"",
        "\"\\",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud83d\\u\"",
        "\u{feff}{}",
        "[1],",
    ] {
        assert!(strict(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_million_levels_need_no_stack() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert_eq!(strict(&deep).unwrap().depth, 1_000_000);
    assert_eq!(depth(&deep), 1_000_000);
    assert!(strict(&"{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn depth_ignores_brackets_in_strings() {
    assert_eq!(depth(r#"{"[[[\"[{":["]","\\"]}"#), 2);
    assert_eq!(depth(r#""[""#), 0);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((".*", inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn valid_json_means_the_same(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        let strict = made_strict(&text).unwrap();
        prop_assert_eq!(
            serde_json::from_str::<Value>(&strict).unwrap(),
            serde_json::from_str::<Value>(&text).unwrap()
        );
    }

    #[test]
    fn the_output_always_parses(
        text in r#"([\[\]{},: ]|"[a\\u0dD8c\x00-\x1f"]{0,8}"|"(\\u[dD][89a-fA-F][0-9]{2}|\\n|x){0,4}"|NaN|-?Infinity|null|-?[0-9]{1,4}([eE][+-]?[0-9]{1,4})?){0,24}"#
    ) {
        // The parser agrees on what is JSON, except for what is lenient on purpose.
        match made_strict(&text) {
            Some(strict) => { serde_json::from_str::<Value>(&strict).unwrap(); }
            None => prop_assert!(serde_json::from_str::<Value>(&text).is_err()),
        }
    }

    #[test]
    fn lists_of_odd_scalars_parse(
        items in prop::collection::vec(
            r#"NaN|-?Infinity|-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,4})?|"(\\u[dD][89a-fA-F][0-9a-f]{2}|\\n|[x\x00-\x1f]){0,4}""#,
            0..8,
        )
    ) {
        let text = format!("[{}]", items.join(","));
        let strict = made_strict(&text).unwrap();
        let parsed: Vec<Value> = serde_json::from_str(&strict).unwrap();
        prop_assert_eq!(parsed.len(), items.len());
    }

    #[test]
    fn settled_times_stay_in_bounds(
        timestamp in prop::option::of(any_stamp()),
        original in prop::option::of(any_stamp()),
        sent_at in prop::option::of(any_stamp()),
    ) {
        let now = at("2026-11-21T12:00:00Z");
        let settled = Stamps { timestamp, original, sent_at }.settle(now);
        prop_assert!(settled <= now + TimeDelta::hours(24));
        prop_assert!(settled >= at("0001-01-01T00:00:00Z"));
        prop_assert_eq!(settled.timestamp_subsec_nanos() % 1_000, 0);
    }

    #[test]
    fn no_text_upsets_the_time(text in ".{0,70}") {
        let _ = Stamp::parse(&text);
    }
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<i64>(), any::<bool>()).prop_map(|(micros, zoned)| {
        let instant = DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        });
        if zoned {
            Stamp::Instant(instant)
        } else {
            Stamp::Local(instant.naive_utc())
        }
    })
}

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// `(timestamp, originalTimestamp, sentAt, expected)` at noon; an empty text is an absent member.
const TIMES: [(&str, &str, &str, &str); 28] = [
    ("", "", "", "2026-11-21T12:00:00Z"),
    ("rubbish", "", "", "2026-11-21T12:00:00Z"),
    ("", "", "2026-11-21T09:00:00Z", "2026-11-21T12:00:00Z"),
    (
        "2026-11-21T11:00:00.123Z",
        "",
        "",
        "2026-11-21T11:00:00.123Z",
    ),
    (
        "2026-11-21T11:00:00.123456789+00:00",
        "",
        "",
        "2026-11-21T11:00:00.123456Z",
    ),
    ("2026-11-21T11:00:00+0200", "", "", "2026-11-21T09:00:00Z"),
    (
        "2026-11-21 11:00:00.5+00:00",
        "",
        "",
        "2026-11-21T11:00:00.5Z",
    ),
    // Segment's formula: the client's clock is two hours behind.
    (
        "2026-11-21T09:59:00Z",
        "",
        "2026-11-21T10:00:00Z",
        "2026-11-21T11:59:00Z",
    ),
    // Two hours ahead.
    (
        "2026-11-21T13:59:00Z",
        "",
        "2026-11-21T14:00:00Z",
        "2026-11-21T11:59:00Z",
    ),
    // A correction under five seconds is skipped, from five on it is made.
    (
        "2026-11-21T11:59:00Z",
        "",
        "2026-11-21T11:59:55.001Z",
        "2026-11-21T11:59:00Z",
    ),
    (
        "2026-11-21T11:59:00Z",
        "",
        "2026-11-21T11:59:55Z",
        "2026-11-21T11:59:05Z",
    ),
    // A historical time stays historical.
    (
        "2020-01-01T00:00:00Z",
        "",
        "2026-11-21T11:59:59Z",
        "2020-01-01T00:00:00Z",
    ),
    // With originalTimestamp the timestamp is already corrected.
    (
        "2026-11-21T11:00:00Z",
        "2026-11-21T09:00:00Z",
        "2026-11-21T10:00:00Z",
        "2026-11-21T11:00:00Z",
    ),
    (
        "",
        "2026-11-21T09:00:00Z",
        "2026-11-21T10:00:00Z",
        "2026-11-21T11:00:00Z",
    ),
    (
        "2026-11-21T09:00:00Z",
        "rubbish",
        "2026-11-21T10:00:00Z",
        "2026-11-21T11:00:00Z",
    ),
    // Local times: the zone is unknown within 26 h, UTC beyond.
    ("2026-11-21T17:29:33.530696", "", "", "2026-11-21T12:00:00Z"),
    ("2026-11-20T10:00:00", "", "", "2026-11-21T12:00:00Z"),
    ("2026-11-20T09:59:59", "", "", "2026-11-20T09:59:59Z"),
    (
        "2025-11-16T20:59:33.530696",
        "",
        "2026-11-21T10:00:00Z",
        "2025-11-16T20:59:33.530696Z",
    ),
    ("2025-11-16", "", "", "2025-11-16T00:00:00Z"),
    // The future, up to a day.
    ("2026-11-22T12:00:00Z", "", "", "2026-11-22T12:00:00Z"),
    (
        "2026-11-22T12:00:00.000001Z",
        "",
        "",
        "2026-11-21T12:00:00Z",
    ),
    ("9999-12-31T23:59:59Z", "", "", "2026-11-21T12:00:00Z"),
    // The past is never refused.
    ("0000-01-01T00:00:00Z", "", "", "0001-01-01T00:00:00Z"),
    ("0001-01-01T00:00:00Z", "", "", "0001-01-01T00:00:00Z"),
    // A correction beyond what a calendar holds.
    (
        "0001-01-01T00:00:00Z",
        "",
        "9999-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
    ),
    // Epoch numbers as text.
    ("1763296496789", "", "", "2025-11-16T12:34:56.789Z"),
    ("2026", "", "", "2026-11-21T12:00:00Z"),
];

#[test]
fn times_follow_the_table() {
    let now = at("2026-11-21T12:00:00Z");
    for (timestamp, original, sent_at, expected) in TIMES {
        let stamps = Stamps {
            timestamp: Stamp::parse(timestamp),
            original: Stamp::parse(original),
            sent_at: Stamp::parse(sent_at),
        };
        assert_eq!(
            stamps.settle(now),
            at(expected),
            "{timestamp:?} {original:?} {sent_at:?}"
        );
    }
}

#[test]
fn numbers_are_epochs() {
    let now = at("2026-11-21T12:00:00Z");
    for (json, expected) in [
        ("1763296496789", "2025-11-16T12:34:56.789Z"),
        ("1763296496", "2025-11-16T12:34:56Z"),
        ("1763296496.5", "2025-11-16T12:34:56.5Z"),
        ("0", "1970-01-01T00:00:00Z"),
        ("-86400", "1969-12-31T00:00:00Z"),
        ("-1e300", "0001-01-01T00:00:00Z"),
        ("1e300", "2026-11-21T12:00:00Z"),
        ("true", "2026-11-21T12:00:00Z"),
        ("{}", "2026-11-21T12:00:00Z"),
        ("[1]", "2026-11-21T12:00:00Z"),
    ] {
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(json).unwrap();
        let stamps = Stamps {
            timestamp: Stamp::read(&raw),
            ..Stamps::default()
        };
        assert_eq!(stamps.settle(now), at(expected), "{json}");
    }
}
