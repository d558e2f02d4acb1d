//! What the seed's clients send.

use super::*;

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
