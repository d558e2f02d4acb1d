//! The rules of decoding, one by one.

use beckon::error::{Code, Error};
use beckon::ingest::decode::{
    DecodeLimits, Decoded, Defaults, Item, Rejection, Route, body_key, decode,
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
fn the_seeds_ids_and_names_are_stringified_and_trimmed() {
    for (json, text) in [
        (r#""u""#, "u"),
        (r#""  sp\t""#, "sp"),
        ("5", "5"),
        ("1.0", "1"),
        ("1.50", "1.5"),
        ("1e21", "1e+21"),
        ("1e-7", "1e-7"),
        ("-0", "0"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("true", "true"),
        (r#"["a"," b ",3]"#, "a,b,3"),
    ] {
        let body = format!(r#"{{"user_id":{json},"event":{json}}}"#);
        let event = event(Route::Track, body);
        assert_eq!(user(&event), Some(text), "{json}");
        assert_eq!(event.call.name(), text, "{json}");
    }
}

#[test]
fn the_seeds_bad_ids_are_refused() {
    let long = "x".repeat(256);
    for (json, message, code) in [
        (
            "null".to_owned(),
            "user_id is required",
            Code::MissingIdentity,
        ),
        (
            r#""  ""#.to_owned(),
            "user_id is required",
            Code::MissingIdentity,
        ),
        (
            "[]".to_owned(),
            "user_id is required",
            Code::MissingIdentity,
        ),
        (format!("{long:?}"), "user_id too long", Code::InvalidField),
        (
            r#""a\u0000b""#.to_owned(),
            "user_id must not contain \\u0000",
            Code::InvalidField,
        ),
        (
            r#"{"a":1}"#.to_owned(),
            "user_id must be a string",
            Code::InvalidField,
        ),
        (
            "[[1]]".to_owned(),
            "user_id must be a string",
            Code::InvalidField,
        ),
    ] {
        let rejection = refused(Route::Identify, format!(r#"{{"user_id":{json}}}"#));
        assert_eq!(
            (rejection.message.as_str(), rejection.code),
            (message, code),
            "{json}"
        );
        assert_eq!(rejection.fields.len(), 1);
        assert!(matches!(rejection.into_error(), Error::Validation { .. }));
    }
    assert!(
        user(&event(
            Route::Identify,
            format!(r#"{{"user_id":"{}"}}"#, &long[1..])
        ))
        .is_some()
    );
}

#[test]
fn the_seeds_event_names_are_any_text() {
    for name in [
        "Order Completed",
        "$identify",
        "/_Viewed",
        "DialogRoute<dynamic>_Viewed",
        "購入",
    ] {
        let body = json!({"user_id": "u", "event": name}).to_string();
        assert_eq!(event(Route::Track, body).call.name(), name);
    }
    let longest = "é".repeat(200);
    let body = |name: &str| json!({"user_id": "u", "event": name}).to_string();
    assert_eq!(event(Route::Track, body(&longest)).call.name(), longest);
    let too_long = refused(Route::Track, body(&"é".repeat(201)));
    assert_eq!(too_long.message, "event name too long");
    let nul = refused(Route::Track, body("a\0"));
    assert_eq!(nul.message, "event must not contain \\u0000");
}

#[test]
fn the_seeds_properties_may_be_null_and_its_traits_may_not() {
    let none = event(
        Route::Track,
        r#"{"user_id":"u","event":"e","properties":null}"#,
    );
    assert!(none.call.properties().is_none());
    for wrong in ["[1]", "\"x\"", "1", "true"] {
        let body = format!(r#"{{"user_id":"u","event":"e","properties":{wrong}}}"#);
        assert_eq!(
            refused(Route::Track, body).message,
            "properties must be an object"
        );
    }
    let null = refused(Route::Identify, r#"{"user_id":"u","traits":null}"#);
    assert_eq!(null.message, "traits must be an object");
    assert_eq!(null.fields[0].value, Value::Null);
    assert!(
        event(Route::Identify, r#"{"user_id":"u"}"#)
            .call
            .properties()
            .is_none()
    );
}

#[test]
fn a_refused_event_of_the_flutter_sdk_names_its_id() {
    let body = r#"{"event_id":"u_e_1","user_id":"","event":""}"#;
    let rejection = refused(Route::Track, body);
    assert_eq!(rejection.message_id.as_deref(), Some("u_e_1"));
    assert_eq!(rejection.payload, body);
    assert_eq!(rejection.fields.len(), 3);
    let long = format!("{}\u{0}", "i".repeat(1_024));
    let body = json!({"event_id": long, "user_id": "u", "event": "e"}).to_string();
    let rejection = refused(Route::Track, &body);
    assert_eq!(rejection.code, Code::InvalidField);
    assert_eq!(rejection.message_id, Some("i".repeat(1_024)));
    let body = json!({"event_id": "a\0", "user_id": "u", "event": "e"}).to_string();
    assert_eq!(
        refused(Route::Track, &body).message_id.as_deref(),
        Some("a\u{fffd}")
    );
}

#[test]
fn the_seeds_other_members_become_context() {
    let body = r#"{"event_id":"i","timestamp":"2025-11-16T12:34:56.789012","user_id":"u",
        "event":"e","sdk_version":"f_1","page":null,"external_id":"x","api_key":"secret",
        "context":{"a":1,"external_id":"own"}}"#;
    let event = event(Route::Track, body);
    assert_eq!(
        context(&event),
        json!({"a": 1, "external_id": "own", "sdk_version": "f_1"})
    );
    assert_eq!(event.message_id.as_ref().unwrap().as_str(), "i");
    assert_eq!(event.timestamp, at("2025-11-16T12:34:56.789012Z"));
    assert_eq!(event.received_at, now());
    assert_eq!(event.size_bytes, body.len());
}

#[test]
fn segments_ids_may_be_missing_in_four_ways() {
    for absent in [
        "",
        r#""userId":null,"#,
        r#""userId":"","#,
        r#""userId":null,"userId":"","#,
    ] {
        let body = format!(r#"{{{absent}"anonymousId":"a","event":"e"}}"#);
        let event = event(Route::Track, body);
        assert_eq!((user(&event), anonymous(&event)), (None, Some("a")));
    }
    let both = event(Route::Track, r#"{"userId":5,"anonymousId":1.0,"event":7}"#);
    assert_eq!((user(&both), anonymous(&both)), (Some("5"), Some("1")));
    assert_eq!(both.call.name(), "7");
    let none = refused(Route::Page, r#"{"userId":"","anonymousId":null}"#);
    assert_eq!(none.code, Code::MissingIdentity);
    for odd in [
        r#"{"userId":{}}"#,
        r#"{"userId":"u","anonymousId":[1]}"#,
        r#"{"userId":"a\u0000"}"#,
    ] {
        assert_eq!(refused(Route::Page, odd).code, Code::InvalidField, "{odd}");
    }
    let snake = event(Route::Page, r#"{"user_id":"u","anonymous_id":"a"}"#);
    assert_eq!((user(&snake), anonymous(&snake)), (Some("u"), Some("a")));
}

#[test]
fn segments_message_ids_are_optional() {
    for absent in ["null", r#""""#, r#"" ""#, "[]", "{}", "true"] {
        let body = format!(r#"{{"userId":"u","messageId":{absent}}}"#);
        assert!(event(Route::Page, body).message_id.is_none(), "{absent}");
    }
    let number = event(Route::Page, r#"{"userId":"u","messageId":42}"#);
    assert_eq!(number.message_id.unwrap().as_str(), "42");
    let long = json!({"userId": "u", "messageId": "m".repeat(1_025)}).to_string();
    assert_eq!(refused(Route::Page, long).code, Code::InvalidField);
}

#[test]
fn a_message_id_over_the_limit_refuses_its_event() {
    let limits = DecodeLimits {
        message_id_chars_max: 36,
        ..DecodeLimits::default()
    };
    let coded = |body: &Value| {
        let body = body.to_string();
        let decoded = decode(
            Route::Track,
            body.as_bytes(),
            now(),
            &limits,
            Defaults::default(),
        );
        decoded.unwrap().items.remove(0)
    };
    let long = "\u{e9}".repeat(37);
    let short = "\u{e9}".repeat(36);
    let segment = |id: &str| json!({"userId": "u", "event": "e", "messageId": id});
    let seed = |id: &str| json!({"user_id": "u", "event": "e", "event_id": id});
    for body in [segment(&long), seed(&long)] {
        assert_eq!(bad(coded(&body)).code, Code::InvalidField, "{body}");
    }
    for body in [segment(&short), seed(&short)] {
        assert_eq!(good(coded(&body)).message_id.unwrap().as_str(), short);
    }
}

#[test]
fn traits_are_joined_with_the_contexts() {
    for (body, expected) in [
        (r#"{"userId":"u","traits":{"a":1}}"#, json!({"a": 1})),
        (
            r#"{"userId":"u","context":{"traits":{"a":1}}}"#,
            json!({"a": 1}),
        ),
        (
            r#"{"userId":"u","traits":{"a":1,"\u0062":null},"context":{"traits":{"b":2,"c":"}{"}}}"#,
            json!({"a": 1, "b": null, "c": "}{"}),
        ),
        (
            r#"{"userId":"u","traits":{},"context":{"traits":{"a":1}}}"#,
            json!({"a": 1}),
        ),
        (
            r#"{"userId":"u","traits":null,"context":{"traits":[]}}"#,
            Value::Null,
        ),
        (r#"{"userId":"u","context":"odd"}"#, Value::Null),
    ] {
        let event = event(Route::Identify, body);
        assert_eq!(details(&event), expected, "{body}");
    }
    // The current traits of a track are no identify.
    let track = event(
        Route::Track,
        r#"{"userId":"u","event":"e","context":{"traits":{"a":1}}}"#,
    );
    assert!(track.call.properties().is_none());
    let wrong = refused(Route::Identify, r#"{"userId":"u","traits":[1]}"#);
    assert_eq!(wrong.message, "traits must be an object");
}

#[test]
fn pages_and_screens_keep_their_name_among_the_properties() {
    for route in [Route::Page, Route::Screen] {
        for (body, expected) in [
            (
                r#"{"userId":"u","name":"Home","category":"Docs","properties":{"path":"/","name":"own"}}"#,
                json!({"name": "own", "category": "Docs", "path": "/"}),
            ),
            (r#"{"userId":"u","name":"Home"}"#, json!({"name": "Home"})),
            (r#"{"userId":"u","name":null,"properties":{ }}"#, json!({})),
            (r#"{"userId":"u"}"#, Value::Null),
        ] {
            assert_eq!(details(&event(route, body)), expected, "{body}");
        }
    }
}

#[test]
fn groups_need_an_id() {
    let group = event(
        Route::Group,
        r#"{"userId":"u","groupId":42,"traits":{"a":[1]}}"#,
    );
    assert_eq!(
        details(&group),
        json!({"groupId": "42", "traits": {"a": [1]}})
    );
    for bad in ["null", r#""""#, "{}", r#""a\u0000""#] {
        let body = format!(r#"{{"userId":"u","groupId":{bad}}}"#);
        assert_eq!(
            refused(Route::Group, body).code,
            Code::InvalidField,
            "{bad}"
        );
    }
}

#[test]
fn an_alias_names_a_user_unless_it_is_the_events_own_anonymous_id() {
    for (body, kind) in [
        (r#"{"userId":"u","previousId":"p"}"#, IdentityKind::User),
        (
            r#"{"userId":"u","anonymousId":"a","previousId":"p"}"#,
            IdentityKind::User,
        ),
        (
            r#"{"userId":"u","anonymousId":"p","previousId":"p"}"#,
            IdentityKind::Anonymous,
        ),
    ] {
        let Call::Alias { previous } = event(Route::Alias, body).call else {
            unreachable!();
        };
        assert_eq!((previous.kind(), previous.value()), (kind, "p"), "{body}");
    }
    assert_eq!(
        refused(Route::Alias, r#"{"userId":"u"}"#).message,
        "previousId is required"
    );
}

#[test]
fn repeated_keys_are_the_last_ones() {
    let body =
        r#"{"userId":"a","event":1,"userId":"b","\u0065vent":"e","properties":[],"properties":{}}"#;
    let event = event(Route::Track, body);
    assert_eq!((user(&event), event.call.name()), (Some("b"), "e"));
}

#[test]
fn a_batch_decodes_each_element_alone() {
    let items = batch(&json!({"batch": [
        {"type": "track", "userId": "u", "event": "e"},
        {"type": "Identify", "user_id": " u "},
        {"user_id": "u", "event": " seed "},
        {"type": "page", "user_id": "u"},
        {"type": "screen", "userId": "u"},
        {"type": "group", "userId": "u", "group_id": "g"},
        {"type": "alias", "userId": "u", "previous_id": "p"},
        {"type": "teleport", "userId": "u", "messageId": "m"},
        {"userId": "u"},
        {"type": 1, "userId": "u"},
        {"type": "track", "userId": "u"},
        1,
        [{}],
        null,
    ]}));
    let kinds: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Event(event) => Ok((event.call.kind(), event.dialect)),
            Item::Rejected(rejection) => Err(rejection.code),
            Item::Ignored => unreachable!(),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            Ok((EventKind::Track, Dialect::Segment)),
            Ok((EventKind::Identify, Dialect::Seed)),
            Ok((EventKind::Track, Dialect::Seed)),
            Ok((EventKind::Page, Dialect::Segment)),
            Ok((EventKind::Screen, Dialect::Segment)),
            Ok((EventKind::Group, Dialect::Segment)),
            Ok((EventKind::Alias, Dialect::Segment)),
            Err(Code::UnknownType),
            Err(Code::UnknownType),
            Err(Code::UnknownType),
            Err(Code::InvalidField),
            Err(Code::InvalidField),
            Err(Code::InvalidField),
            Err(Code::InvalidField),
        ]
    );
    let unknown = bad(items[7].clone());
    assert_eq!(unknown.message_id.as_deref(), Some("m"));
    assert_eq!(
        unknown.payload,
        r#"{"messageId":"m","type":"teleport","userId":"u"}"#
    );
}

#[test]
fn an_envelope_lends_its_context_and_time() {
    let items = batch(&json!({
        "batch": [
            {"type": "page", "userId": "u", "timestamp": "2026-11-21T10:00:00Z"},
            {"type": "page", "userId": "u", "timestamp": "2026-11-21T10:00:00Z",
             "sentAt": "2026-11-21T12:00:00Z", "context": {"a": {"own": 1}, "c": 3}},
            {"type": "track", "event": "e", "user_id": "u", "page": "p"},
        ],
        "context": {"a": 1, "b": 2},
        "sent_at": "2026-11-21T11:00:00Z",
        "integrations": {"All": true},
    }));
    let events: Vec<Event> = items.into_iter().map(good).collect();
    assert_eq!(context(&events[0]), json!({"a": 1, "b": 2}));
    assert_eq!(
        context(&events[1]),
        json!({"a": {"own": 1}, "b": 2, "c": 3})
    );
    assert_eq!(context(&events[2]), json!({"a": 1, "b": 2, "page": "p"}));
    assert_eq!(events[0].timestamp, at("2026-11-21T11:00:00Z"));
    assert_eq!(events[1].timestamp, at("2026-11-21T10:00:00Z"));
}

#[test]
fn a_header_can_say_when_the_request_was_sent() {
    let defaults = Defaults {
        sent_at: Some("2026-11-21T11:00:00Z"),
    };
    let body = br#"{"userId":"u","originalTimestamp":"2026-11-21T10:00:00Z"}"#;
    let decoded = decode(Route::Page, body, now(), &DecodeLimits::default(), defaults).unwrap();
    let event = good(decoded.items.into_iter().next().unwrap());
    assert_eq!(event.timestamp, at("2026-11-21T11:00:00Z"));
}

#[test]
fn an_envelopes_context_cannot_be_multiplied_past_the_body_limit() {
    let events = vec![json!({"type": "page", "userId": "u"}); 2_000];
    let body = json!({"batch": events, "context": {"a": "x".repeat(5_000)}}).to_string();
    let error = decoded(Route::Batch, body).unwrap_err();
    assert_eq!(error.code(), Code::BodyTooLarge);
}

#[test]
fn an_envelope_needs_its_list() {
    for body in [
        "{}",
        "[]",
        r#"{"batch":{}}"#,
        r#"{"batch":null}"#,
        r#"{"batch":"x"}"#,
    ] {
        let error = decoded(Route::Batch, body).unwrap_err();
        assert_eq!(error.code(), Code::InvalidField, "{body}");
    }
    assert!(
        decoded(Route::Batch, r#"{"batch":[]}"#)
            .unwrap()
            .items
            .is_empty()
    );
    assert!(decoded(Route::Leads, r#"{"batch":[]}"#).is_err());
}

#[test]
fn a_list_over_the_limit_is_refused_whole() {
    let list = |count: usize| {
        let event = json!({"type": "page", "userId": "u"}).to_string();
        format!("{{\"batch\":[{}]}}", vec![event; count].join(","))
    };
    assert_eq!(
        decoded(Route::Batch, list(2_500)).unwrap().items.len(),
        2_500
    );
    let error = decoded(Route::Batch, list(2_501)).unwrap_err();
    assert_eq!(error.code(), Code::BatchTooLarge);
    let tiny = format!("{{\"batch\":[{}1]}}", "1,".repeat(4_000_000));
    assert_eq!(
        decoded(Route::Batch, tiny).unwrap_err().code(),
        Code::BatchTooLarge
    );
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
fn metrics_are_dropped_whatever_they_are() {
    for body in ["{\"series\":[]}", "rubbish", ""] {
        assert!(matches!(item(Route::Metrics, body), Item::Ignored));
    }
}

#[test]
fn the_bodys_key_is_found_on_every_route() {
    for (body, key) in [
        (r#"{"writeKey":"w","api_key":"a","token":"t"}"#, Some("w")),
        (r#"{"writeKey":"","api_key":"a","token":"t"}"#, Some("a")),
        (r#"{"writeKey":5,"token":"t","x":NaN}"#, Some("t")),
        (
            r#"{"batch":[{"writeKey":"inner"}],"writeKey":"w"}"#,
            Some("w"),
        ),
        (r#"{"batch":[{"writeKey":"inner"}]}"#, None),
        ("rubbish", None),
    ] {
        assert_eq!(body_key(body.as_bytes()).as_deref(), key, "{body}");
        for route in SINGLES {
            if let Ok(decoded) = decoded(route, body) {
                assert_eq!(decoded.body_key.as_deref(), key, "{body}");
            }
        }
    }
}
