//! A rejected event, decoded again, is the event it would have been.

use beckon::error::{Code, Error};
use beckon::ingest::decode::{
    DecodeLimits, Defaults, Item, Kept, Rejection, Route, decode, replay,
};
use beckon::model::Event;
use chrono::{DateTime, Utc};

fn received() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn items(route: Route, body: &str, limits: &DecodeLimits) -> Vec<Item> {
    let defaults = Defaults {
        sent_at: Some("2026-05-28T19:00:00Z"),
    };
    let decoded = decode(route, body.as_bytes(), received(), limits, defaults);
    decoded.unwrap().items
}

fn event(item: Item) -> Event {
    match item {
        Item::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}

fn rejection(item: Item) -> Rejection {
    match item {
        Item::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

fn kept(rejection: &Rejection) -> Kept<'_> {
    Kept {
        route: rejection.origin.route,
        code: rejection.code.as_str(),
        payload: &rejection.payload,
        context: rejection.origin.context.as_deref(),
        received_at: rejection.origin.received_at,
        timestamp: Some(rejection.origin.timestamp),
    }
}

/// What is stored of an event and what it does, without how it came.
fn meaning(event: &Event) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {} {} {:?}",
        event.call,
        event.user,
        event.anonymous,
        event.message_id,
        event.timestamp,
        event.received_at,
        event.context,
    )
}

const ENVELOPE: &str =
    r#"{"context":{"app":{"v":1.0},"ip":"::1"},"sentAt":"2026-05-28T20:00:00Z","batch":["#;

/// Traits that an identify of the batch does not take, unless they are its own context's.
const ENVELOPE_WITH_TRAITS: &str =
    r#"{"context":{ "traits" : {"b":3,"c":3}, "app":{"v":1.0} },"batch":["#;

const ELEMENTS: [&str; 11] = [
    r#"{"type":"track","userId":"u","event":"E","properties":{"n":1.0,"z":"\u0000","big":12345678901234567890123},"timestamp":"2026-05-28T01:00:00Z"}"#,
    r#"{"type":"track","user_id":"u","anonymous_id":"a","event":" E ","event_id":"m-1","extra":[1]}"#,
    r#"{"type":"identify","userId":"u","anonymousId":"a","traits":{"a":null},"context":{"traits":{"b":2},"ip":"1"}}"#,
    r#"{"type":"identify","userId":"u","traits":{"a":1},"messageId":"m-3"}"#,
    r#"{"type":"identify","userId":"u","context":{"ip" : "1"}}"#,
    r#"{"type":"identify","user_id":"u","traits":{"a":1},"context":{"traits":{"d":4}},"x":1}"#,
    r#"{"type":"page","anonymousId":"a","name":"Home","category":"c","properties":{"name":"own"}}"#,
    r#"{"type":"screen","userId":5,"name":"Home","messageId":"m \"2\""}"#,
    r#"{"type":"group","userId":"u","groupId":7,"traits":{"size":3}}"#,
    r#"{"type":"alias","userId":"u","previousId":"v"}"#,
    r#"{"type":"alias","userId":"u","anonymousId":"a","previousId":"a","timestamp":"2026-05-28 03:00"}"#,
];

/// Alone, by their own routes.
const IDENTIFIES: [&str; 5] = [
    r#"{"user_id":"u","traits":{"a":1},"context":{ "traits" : {"b":2}, "ip":"1"}}"#,
    r#"{"user_id":"u","context":{"traits":{"b":2}},"page":"p"}"#,
    r#"{"user_id":"u","traits":{"a":1},"context":{}}"#,
    r#"{"userId":"u","traits":{"a":1},"context":{ "traits" : {"b":2}, "ip":"1"}}"#,
    r#"{"userId":"u","traits":{"a":1},"context":{"traits":"none"}}"#,
];

#[test]
fn what_ingest_refuses_is_decoded_again_as_the_same_event() {
    let limits = DecodeLimits::default();
    let batches = [ENVELOPE, ENVELOPE_WITH_TRAITS]
        .into_iter()
        .flat_map(|envelope| {
            let batch = move |element| (Route::Batch, format!("{envelope}{element}]}}"));
            ELEMENTS.into_iter().map(batch)
        });
    let singles = IDENTIFIES.map(|body| (Route::Identify, body.to_owned()));
    for (route, body) in batches.chain(singles) {
        let first = event(items(route, &body, &limits).pop().unwrap());
        // What a replay is refused for is replayed again, too.
        let mut last = first.clone();
        for _ in 0..2 {
            let refused = Rejection::of_event(&last, Code::TraitsTooLarge, String::new());
            last = event(replay(&kept(&refused), &limits).unwrap());
            assert_eq!(meaning(&last), meaning(&first), "{body}");
        }
    }
}

#[test]
fn what_decoding_refuses_is_the_event_it_would_have_been_once_the_limits_allow() {
    let wide = DecodeLimits::default();
    let bodies = [
        (
            Route::Track,
            r#"{"user_id":"u","event":"E","properties":{"a":{"b":{}}},"x":1}"#.to_owned(),
        ),
        (
            Route::Identify,
            r#"{"userId":"u","traits":{"a":{"b":{}}}}"#.to_owned(),
        ),
        (
            Route::Alias,
            r#"{"userId":"u","previousId":"v","context":{"a":{"b":1}}}"#.to_owned(),
        ),
        (
            Route::Leads,
            r#"{"leads":[{"email":"a@b.c","deep":{"a":{"b":"\"x\u00e9"}}}]}"#.to_owned(),
        ),
        (
            Route::Batch,
            format!(
                r#"{ENVELOPE}{{"type":"screen","userId":"u","timestamp":"2026-05-28T01:00:00Z","properties":{{"a":{{"b":{{}}}}}}}}]}}"#
            ),
        ),
    ];
    for (route, body) in bodies {
        let good = event(items(route, &body, &wide).pop().unwrap());
        for (narrow, code) in [
            (
                DecodeLimits {
                    event_bytes_max: 20,
                    ..wide.clone()
                },
                Code::EventTooLarge,
            ),
            (
                DecodeLimits {
                    nesting_max: 2,
                    ..wide.clone()
                },
                Code::TooDeep,
            ),
        ] {
            // The envelope's own context is nested as deep as the narrow limit allows or deeper.
            if code == Code::TooDeep && route == Route::Batch {
                continue;
            }
            let refused = rejection(items(route, &body, &narrow).pop().unwrap());
            assert_eq!(refused.code, code, "{body}");
            let still = replay(&kept(&refused), &narrow).unwrap();
            assert_eq!(rejection(still).code, code, "{body}");
            let again = event(replay(&kept(&refused), &wide).unwrap());
            assert_eq!(meaning(&again), meaning(&good), "{body}");
        }
    }
}

#[test]
fn a_payload_over_the_body_limit_is_cut_and_says_so() {
    let limits = DecodeLimits {
        event_bytes_max: 50,
        body_bytes_max: 150,
        ..DecodeLimits::default()
    };
    let body = format!(
        r#"{{"user_id":"u","event":"E","x":"{}"}}"#,
        r#"\""#.repeat(40)
    );
    assert!(body.len() < 150);
    let refused = rejection(items(Route::Track, &body, &limits).pop().unwrap());
    assert!(refused.origin.is_cut);
    let nonsense = Kept {
        payload: "{",
        code: "invalid_field",
        ..kept(&refused)
    };
    let wrong = replay(&nonsense, &DecodeLimits::default());
    assert!(matches!(wrong, Err(Error::MalformedJson)), "{wrong:?}");
}
