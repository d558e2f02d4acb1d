//! What Segment's clients send, one by one and in batches.

use super::*;

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
