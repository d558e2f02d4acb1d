//! No bytes upset the decoder, and whatever comes out of it can be stored.

use std::collections::HashSet;

use beckon::ingest::decode::{
    DecodeLimits, Decoded, Defaults, Encodings, Item, Route, body_keys, decode,
};
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::decode_recordings::recordings;

const ROUTES: [Route; 8] = [
    Route::Track,
    Route::Identify,
    Route::Page,
    Route::Screen,
    Route::Group,
    Route::Alias,
    Route::Batch,
    Route::Leads,
];

fn parsed<T: DeserializeOwned>(text: &str) -> T {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    T::deserialize(&mut deserializer).unwrap()
}

fn assert_storable(decoded: &Decoded) {
    for item in &decoded.items {
        match item {
            Item::Event(event) => {
                assert!(event.identity().is_some());
                for raw in [event.call.properties(), event.context.as_ref()]
                    .into_iter()
                    .flatten()
                {
                    parsed::<Map<String, Value>>(raw.as_str());
                }
            }
            Item::Rejected(rejection) => {
                parsed::<Value>(&rejection.payload);
                assert!(!rejection.fields.is_empty());
                assert!(!rejection.message_id.iter().any(|id| id.contains('\0')));
            }
        }
    }
}

fn decode_everywhere(body: &[u8]) {
    let now = DateTime::<Utc>::from_timestamp(1_795_000_000, 0).unwrap();
    for limits in [
        DecodeLimits::default(),
        DecodeLimits {
            event_bytes_max: 300,
            body_bytes_max: 2_000,
            batch_events_max: 3,
            nesting_max: 4,
            message_id_chars_max: 36,
        },
    ] {
        for encoding in [
            None,
            Some("gzip"),
            Some("deflate"),
            Some("br"),
            Some("zstd"),
        ] {
            if let Ok(encodings) = Encodings::of(encoding, body)
                && let Ok(body) = encodings.undo(body, &limits)
            {
                assert!(body.len() <= limits.body_bytes_max);
            }
        }
        for route in ROUTES {
            if let Ok(decoded) = decode(route, body, now, &limits, Defaults::default()) {
                assert_storable(&decoded);
                assert_eq!(decoded.body_keys, body_keys(body));
            }
        }
    }
}

fn bodies() -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let mut seen = HashSet::new();
    for folder in ["hostile", "segment-analytics-next-chromium", "seed-server"] {
        for (_, recording) in recordings(folder) {
            if recording.is_event() {
                let body = recording.raw_body();
                if body.len() < 4_000 && seen.insert(body.clone()) {
                    bodies.push(body);
                }
            }
        }
    }
    bodies
}

/// More than the 512 of the short form if `PROPTEST_CASES` says so.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(512),
        ..asked
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes(body in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_everywhere(&body);
    }

    #[test]
    fn random_texts(body in r#"([\[\]{},: ]|"(user_id|event|batch|userId|type|track|identify|context|traits|leads|timestamp|a)"|NaN|null|true|-?[0-9]{1,3}|"\\ud83d"){0,40}"#) {
        decode_everywhere(body.as_bytes());
    }

    #[test]
    fn odd_members(
        members in prop::collection::vec((
            prop::sample::select(vec![
                "user_id", "userId", "anonymousId", "anonymous_id", "event", "type", "properties",
                "traits", "context", "name", "groupId", "previousId", "messageId", "event_id",
                "timestamp", "sentAt", "originalTimestamp", "writeKey", "external_id", "email", "x",
            ]),
            prop::sample::select(vec![
                "null", "true", "1", "-0", "1.5e3", "1e400", r#""""#, r#"" ""#, r#""u""#, r#""track""#,
                r#""group""#, r#""a\u0000""#, r#""\ud800""#, "[]", r#"["a",1,null]"#, "[[1]]", "{}",
                r#"{"traits":{"a":1}}"#, r#"{"a":{"b":{"c":{"d":{}}}}}"#, r#""2026-11-21T10:00:00""#,
                "NaN", "1763296496789",
            ]),
        ), 0..12)
    ) {
        let members: Vec<String> =
            members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let event = format!("{{{}}}", members.join(","));
        decode_everywhere(event.as_bytes());
        let shared = members.first().map_or(String::new(), |member| format!(",{member}"));
        decode_everywhere(format!("{{\"batch\":[{event},1,{event}]{shared}}}").as_bytes());
        decode_everywhere(format!("{{\"leads\":[{event},{event}]}}").as_bytes());
    }

    #[test]
    fn mutated_recordings(
        mut body in prop::sample::select(bodies()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        for (at, byte, change) in changes {
            let at = at.index(body.len().max(1));
            match change {
                0 if at < body.len() => body[at] = byte,
                1 if at < body.len() => { body.remove(at); }
                2 => body.truncate(at),
                _ => body.insert(at.min(body.len()), byte),
            }
        }
        decode_everywhere(&body);
    }
}
