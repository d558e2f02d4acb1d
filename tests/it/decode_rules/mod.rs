//! The rules of decoding, one by one.

mod seed;
mod segment;

use beckon::error::{Code, Error};
use beckon::ingest::decode::{
    DecodeLimits, Decoded, Defaults, Item, Rejection, Route, body_keys, decode,
};
use beckon::model::{Call, Dialect, Event, EventKind, IdentityKind};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

const SINGLES: [Route; 6] = [
    Route::Track,
    Route::Identify,
    Route::Page,
    Route::Screen,
    Route::Group,
    Route::Alias,
];

fn now() -> DateTime<Utc> {
    at("2026-11-21T12:00:00Z")
}

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn decoded(route: Route, body: impl AsRef<[u8]>) -> Result<Decoded, Error> {
    decode(
        route,
        body.as_ref(),
        now(),
        &DecodeLimits::default(),
        Defaults::default(),
    )
}

fn item(route: Route, body: impl AsRef<[u8]>) -> Item {
    let decoded = decoded(route, body).unwrap();
    assert!(!decoded.is_batch);
    assert_eq!(decoded.items.len(), 1);
    decoded.items.into_iter().next().unwrap()
}

fn event(route: Route, body: impl AsRef<[u8]>) -> Event {
    good(item(route, body))
}

fn refused(route: Route, body: impl AsRef<[u8]>) -> Rejection {
    bad(item(route, body))
}

fn good(item: Item) -> Event {
    match item {
        Item::Event(event) => *event,
        other => unreachable!("{other:?}"),
    }
}

fn bad(item: Item) -> Rejection {
    match item {
        Item::Rejected(rejection) => rejection,
        other => unreachable!("{other:?}"),
    }
}

fn batch(body: &Value) -> Vec<Item> {
    let decoded = decoded(Route::Batch, body.to_string()).unwrap();
    assert!(decoded.is_batch);
    decoded.items
}

fn details(event: &Event) -> Value {
    event.call.properties().map_or(Value::Null, |raw| {
        serde_json::from_str(raw.as_str()).unwrap()
    })
}

fn context(event: &Event) -> Value {
    event.context.as_ref().map_or(Value::Null, |raw| {
        serde_json::from_str(raw.as_str()).unwrap()
    })
}

fn user(event: &Event) -> Option<&str> {
    event.user.as_ref().map(|id| id.value())
}

fn anonymous(event: &Event) -> Option<&str> {
    event.anonymous.as_ref().map(|id| id.value())
}

#[test]
fn bytes_are_read_leniently() {
    let marked = event(
        Route::Track,
        b"\xef\xbb\xbf {\"user_id\":\"u\",\"event\":\"e\"}\r\n",
    );
    assert_eq!(user(&marked), Some("u"));
    let broken = event(
        Route::Track,
        b"{\"user_id\":\"u\",\"event\":\"a\xffb\",\"properties\":{\"x\":\"\xc3\"}}",
    );
    assert_eq!(broken.call.name(), "a\u{fffd}b");
    assert_eq!(details(&broken), json!({"x": "\u{fffd}"}));
}

#[test]
fn a_body_that_is_no_object_is_malformed() {
    for body in [
        "x",
        "\"x\"",
        "1",
        "null",
        "{",
        "{}{}",
        " ",
        "[1,2",
        "{\"user_id\":",
    ] {
        for route in SINGLES.into_iter().chain([Route::Batch, Route::Leads]) {
            let error = decoded(route, body).unwrap_err();
            assert_eq!(error.code(), Code::MalformedJson, "{body} {route:?}");
        }
    }
}

#[test]
fn the_dialect_is_the_bodys() {
    for (body, dialect) in [
        (r#"{"user_id":"u","event":"e"}"#, Dialect::Seed),
        (r#"{"user_id":"u","userId":"v","event":"e"}"#, Dialect::Seed),
        (r#"{"anonymous_id":"a","event":"e"}"#, Dialect::Seed),
        (r#"{"userId":"u","event":"e"}"#, Dialect::Segment),
        (r#"{"userId":"","event":"e"}"#, Dialect::Segment),
        (r#"{"anonymousId":"a","event":"e"}"#, Dialect::Segment),
        (r#"{"event":"e"}"#, Dialect::Seed),
        ("{}", Dialect::Seed),
        ("", Dialect::Seed),
        ("[]", Dialect::Seed),
    ] {
        for route in [Route::Track, Route::Identify] {
            assert_eq!(decoded(route, body).unwrap().dialect, dialect, "{body}");
        }
        let page = decoded(Route::Page, body).unwrap();
        assert_eq!(page.dialect, Dialect::Segment);
    }
}

#[test]
fn repeated_keys_are_the_last_ones() {
    let body =
        r#"{"userId":"a","event":1,"userId":"b","\u0065vent":"e","properties":[],"properties":{}}"#;
    let event = event(Route::Track, body);
    assert_eq!((user(&event), event.call.name()), (Some("b"), "e"));
}

/// An event of so many levels, itself included.
fn nested(levels: usize) -> String {
    let inner = levels - 2;
    format!(
        r#"{{"type":"track","userId":"u","event":"deep","messageId":"m","properties":{{"a":{}{}}}}}"#,
        "[".repeat(inner),
        "]".repeat(inner)
    )
}

#[test]
fn an_event_too_deep_is_rejected_alone() {
    assert_eq!(event(Route::Track, nested(256)).call.name(), "deep");
    assert_eq!(refused(Route::Track, nested(257)).code, Code::TooDeep);
    let body = format!(
        r#"{{"batch":[{0},{1},{0},{2}]}}"#,
        nested(256),
        nested(257),
        nested(100_000)
    );
    let items = decoded(Route::Batch, body).unwrap().items;
    assert!(matches!(
        items.as_slice(),
        [
            Item::Event(_),
            Item::Rejected(_),
            Item::Event(_),
            Item::Rejected(_)
        ]
    ));
    let rejection = bad(items[3].clone());
    assert_eq!(rejection.code, Code::TooDeep);
    assert_eq!(rejection.message_id.as_deref(), Some("m"));
    let kept: String = serde_json::from_str(&rejection.payload).unwrap();
    assert_eq!(kept, nested(100_000));
    let deep = format!(
        r#"{{"batch":[],"context":{{"a":{}1{}}}}}"#,
        "[".repeat(300),
        "]".repeat(300)
    );
    assert_eq!(
        decoded(Route::Batch, deep).unwrap_err().code(),
        Code::TooDeep
    );
}

#[test]
fn an_event_too_large_is_rejected_alone() {
    let sized = |bytes: usize| {
        let empty = r#"{"type":"track","userId":"u","event":"e","properties":{"a":""}}"#;
        empty.replace(
            r#""a":"""#,
            &format!(r#""a":"{}""#, "\\\"".repeat((bytes - empty.len()) / 2)),
        )
    };
    let most = 1024 * 1024;
    let small = sized(300);
    let body = format!(r#"{{"batch":[{small},{},{small}]}}"#, sized(most + 10));
    let items = decoded(Route::Batch, body).unwrap().items;
    assert_eq!(good(items[0].clone()).size_bytes, small.len());
    let rejection = bad(items[1].clone());
    assert_eq!(rejection.code, Code::EventTooLarge);
    // A replay needs all of it, once the limit is raised.
    let kept: String = serde_json::from_str(&rejection.payload).unwrap();
    assert_eq!(kept, sized(most + 10));
    assert!(!rejection.origin.is_cut);
    assert!(matches!(rejection.into_error(), Error::TooLarge { .. }));
    assert!(matches!(items[2], Item::Event(_)));
    assert!(event(Route::Track, sized(most)).size_bytes > most - 2);
}

#[test]
fn a_huge_refused_value_is_shown_in_part() {
    let body = json!({"user_id": "u", "traits": vec!["x"; 10_000]}).to_string();
    let rejection = refused(Route::Identify, body);
    assert_eq!(rejection.fields[0].value.as_str().unwrap().len(), 1_024);
    let deep = format!(
        r#"{{"user_id":"u","traits":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    assert!(refused(Route::Identify, deep).fields[0].value.is_string());
}

#[test]
fn zero_characters_live_in_text_only() {
    let body =
        r#"{"userId":"u","event":"e","properties":{"k\u0000":"\u0000"},"context":{"a":"\u0000"}}"#;
    let event = event(Route::Track, body);
    assert_eq!(
        event.call.properties().unwrap().as_str(),
        r#"{"k\u0000":"\u0000"}"#
    );
    assert_eq!(context(&event), json!({"a": "\0"}));
    for field in ["userId", "anonymousId", "event", "messageId"] {
        let mut body = json!({"userId": "u", "event": "e"});
        body[field] = json!("a\0");
        assert_eq!(
            refused(Route::Track, body.to_string()).code,
            Code::InvalidField,
            "{field}"
        );
    }
}

#[test]
fn leads_are_tracks_of_whoever_can_be_named() {
    let leads = json!({"leads": [
        {"external_id": 7, "name": "Ada", "properties": {"a": 1}},
        {"email": " ada@example.com ", "phone_number": "1"},
        {"external_id": "", "phone_number": 123},
        {"name": "nobody"},
        "odd",
    ]});
    let items = decoded(Route::Leads, leads.to_string()).unwrap().items;
    let first = good(items[0].clone());
    assert_eq!((user(&first), anonymous(&first)), (Some("7"), None));
    assert_eq!(first.call.name(), "lead");
    assert_eq!(details(&first), leads["leads"][0]);
    assert_eq!(
        anonymous(&good(items[1].clone())),
        Some("lead:ada@example.com")
    );
    assert_eq!(anonymous(&good(items[2].clone())), Some("lead:123"));
    assert_eq!(bad(items[3].clone()).code, Code::MissingIdentity);
    assert_eq!(bad(items[4].clone()).code, Code::InvalidField);
}

#[test]
fn the_bodys_keys_are_found_on_every_route() {
    for (body, keys) in [
        (
            r#"{"token":"t","writeKey":"w","api_key":"a"}"#,
            &["w", "a", "t"][..],
        ),
        (r#"{"writeKey":"","api_key":"a","token":"t"}"#, &["a", "t"]),
        (r#"{"writeKey":5,"token":"t","x":NaN}"#, &["t"]),
        (r#"{"batch":[{"writeKey":"inner"}],"writeKey":"w"}"#, &["w"]),
        (r#"{"batch":[{"writeKey":"inner"}]}"#, &[]),
        ("rubbish", &[]),
    ] {
        assert_eq!(body_keys(body.as_bytes()), keys, "{body}");
        for route in SINGLES {
            if let Ok(decoded) = decoded(route, body) {
                assert_eq!(decoded.body_keys, keys, "{body}");
            }
        }
    }
}
