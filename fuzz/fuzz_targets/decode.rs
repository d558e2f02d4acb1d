//! The decoder: no bytes upset it, and whatever comes out of it can be stored.
//!
//! The input is a byte that chooses the route and the encoding, and the body.
#![no_main]

use beckon::ingest::decode::{
    DecodeLimits, Decoded, Defaults, Encodings, Item, Route, body_keys, decode,
};
use chrono::{DateTime, Utc};
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

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

const ENCODINGS: [Option<&str>; 6] = [
    None,
    Some("gzip"),
    Some("deflate"),
    Some("br"),
    Some("zstd"),
    Some("odd"),
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else {
        return;
    };
    let choice = usize::from(*choice);
    let limits = if choice >= 128 {
        DecodeLimits {
            event_bytes_max: 300,
            body_bytes_max: 2_000,
            batch_events_max: 3,
            nesting_max: 4,
            message_id_chars_max: 36,
        }
    } else {
        DecodeLimits::default()
    };
    let route = ROUTES[choice % ROUTES.len()];
    let encoding = ENCODINGS[choice / ROUTES.len() % ENCODINGS.len()];
    let encodings = Encodings::of(encoding, body);
    let Ok(body) = encodings.and_then(|encodings| encodings.undo(body, &limits)) else {
        return;
    };
    assert!(body.len() <= limits.body_bytes_max);
    let now: DateTime<Utc> = DateTime::from_timestamp(1_795_000_000, 0).unwrap_or_default();
    if let Ok(decoded) = decode(route, &body, now, &limits, Defaults::default()) {
        assert_storable(&decoded);
        assert_eq!(decoded.body_keys, body_keys(&body));
    }
});

fn assert_storable(decoded: &Decoded) {
    for item in &decoded.items {
        match item {
            Item::Event(event) => {
                assert!(event.identity().is_some());
                let objects = [event.call.properties(), event.context.as_ref()];
                for raw in objects.into_iter().flatten() {
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

fn parsed<T: DeserializeOwned>(text: &str) {
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.disable_recursion_limit();
    let value = T::deserialize(&mut parser);
    assert!(value.is_ok(), "{text}");
}
