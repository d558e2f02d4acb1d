//! Every recorded exchange of the real SDKs decodes from the bytes that were sent.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use beckon::ingest::decode::{DecodeLimits, Decoded, Defaults, Encodings, Item, Route, decode};
use beckon::model::{Call, Dialect, EventKind};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// One recorded exchange.
#[derive(Deserialize)]
pub struct Recording {
    pub method: String,
    pub path: String,
    pub headers: Value,
    body: Box<RawValue>,
    raw_body_base64: Option<String>,
    raw_length: Option<usize>,
    pub response: Value,
}

pub fn recordings(folder: &str) -> Vec<(PathBuf, Recording)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            let recording = serde_json::from_str(&text).unwrap();
            (file, recording)
        })
        .collect()
}

impl Recording {
    /// The bytes that were sent. Where the recorder kept only the parsed body, its text is spaced
    /// as the SDK's serializer does and must come out at the recorded length.
    pub fn raw_body(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw_body_base64 {
            return base64::engine::general_purpose::STANDARD
                .decode(raw)
                .unwrap();
        }
        let body = self.body.get();
        if let Ok(text) = serde_json::from_str::<String>(body) {
            return text.into_bytes();
        }
        // The recorder's numbers are doubles; these were Python integers.
        let body = body
            .replace("1e+30,", "1000000000000000000000000000000,")
            .replace("18446744073709552000", "18446744073709551616")
            .replace("-9223372036854776000", "-9223372036854775809");
        let spaced = [respaced(&body, ",", ":"), respaced(&body, ", ", ": ")];
        let Some(length) = self.raw_length else {
            return spaced[0].clone().into_bytes();
        };
        let lengths = [spaced[0].len(), spaced[1].len()];
        let raw = spaced.into_iter().find(|text| text.len() == length);
        raw.unwrap_or_else(|| unreachable!("{body}: {lengths:?}, not {length}"))
            .into_bytes()
    }

    pub fn is_event(&self) -> bool {
        self.method == "POST"
    }

    pub fn route(&self) -> Route {
        match self.path.as_str() {
            "/v1/track" | "/v1/t" => Route::Track,
            "/v1/identify" | "/v1/i" => Route::Identify,
            "/v1/p" => Route::Page,
            "/v1/g" => Route::Group,
            "/v1/a" => Route::Alias,
            "/v1/batch" | "/v1/b" => Route::Batch,
            other => unreachable!("{other}"),
        }
    }

    pub fn content_encoding(&self) -> Option<&str> {
        let headers = self.headers.as_object().unwrap();
        headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("content-encoding"))
            .and_then(|(_, value)| value.as_str())
    }

    fn plain_body(&self) -> Vec<u8> {
        let raw = self.raw_body();
        let encodings = Encodings::of(self.content_encoding(), &raw).unwrap();
        let plain = encodings.undo(&raw, &DecodeLimits::default()).unwrap();
        plain.into_owned()
    }

    fn decoded(&self) -> Decoded {
        let limits = DecodeLimits::default();
        let body = self.plain_body();
        decode(self.route(), &body, now(), &limits, Defaults::default()).unwrap()
    }
}

fn respaced(json: &str, comma: &str, colon: &str) -> String {
    let mut output = String::new();
    let mut inside = false;
    let mut escaped = false;
    for c in json.chars() {
        if inside {
            output.push(c);
            inside = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ',' => output.push_str(comma),
            ':' => output.push_str(colon),
            c if c.is_ascii_whitespace() => {}
            c => {
                inside = c == '"';
                output.push(c);
            }
        }
    }
    output
}

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-21T01:46:00Z")
        .unwrap()
        .to_utc()
}

/// What the recording says was sent, by a parser that is not ours.
fn sent(recording: &Recording) -> Vec<Value> {
    let text = String::from_utf8(recording.plain_body()).unwrap();
    let text = text
        .replace("-Infinity", "null")
        .replace(": NaN", ": null")
        .replace(": Infinity", ": null");
    let body: Value = serde_json::from_str(&text).unwrap();
    match body.get("batch") {
        Some(batch) => batch.as_array().unwrap().clone(),
        None => vec![body],
    }
}

#[test]
fn every_sdk_recording_decodes_to_the_events_sent() {
    let mut seen = 0;
    for sdk in ["node", "python", "next-chromium"] {
        for (file, recording) in recordings(&format!("segment-analytics-{sdk}")) {
            if !recording.is_event() {
                continue;
            }
            let decoded = recording.decoded();
            let sent = sent(&recording);
            assert_eq!(decoded.body_keys, ["wk_test_123"], "{file:?}");
            assert_eq!(decoded.items.len(), sent.len(), "{file:?}");
            for (item, sent) in decoded.items.iter().zip(&sent) {
                assert_as_sent(item, sent, &file);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 200);
}

fn assert_as_sent(item: &Item, sent: &Value, file: &Path) {
    let Item::Event(event) = item else {
        unreachable!("{file:?}: {item:?}");
    };
    assert_eq!(event.dialect, Dialect::Segment);
    assert_eq!(event.call.kind().as_str(), sent["type"], "{file:?}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let user = event.user.as_ref().map(|user| user.value().to_owned());
    assert_eq!(user, text(&sent["userId"]), "{file:?}");
    let anonymous = event.anonymous.as_ref().map(|id| id.value().to_owned());
    assert_eq!(anonymous, text(&sent["anonymousId"]), "{file:?}");
    let id = event.message_id.as_ref().map(|id| id.as_str().to_owned());
    assert_eq!(id, text(&sent["messageId"]), "{file:?}");
    let context: Value = serde_json::from_str(event.context.as_ref().unwrap().as_str()).unwrap();
    assert_eq!(context, sent["context"], "{file:?}");
    let details = event.call.properties().map(|raw| raw.as_str());
    let details: Option<Value> = details.map(|text| serde_json::from_str(text).unwrap());
    match event.call.kind() {
        EventKind::Track => {
            assert_eq!(event.call.name(), sent["event"], "{file:?}");
            assert_eq!(details.as_ref(), sent.get("properties"), "{file:?}");
        }
        EventKind::Identify => assert_eq!(details.as_ref(), sent.get("traits"), "{file:?}"),
        EventKind::Page | EventKind::Screen => {
            let mut expected = sent["properties"].clone();
            for key in ["name", "category"] {
                if !sent[key].is_null() {
                    expected[key] = sent[key].clone();
                }
            }
            assert_eq!(details, Some(expected), "{file:?}");
        }
        EventKind::Group => {
            let details = details.unwrap();
            assert_eq!(details["groupId"], sent["groupId"], "{file:?}");
            assert_eq!(details["traits"], sent["traits"], "{file:?}");
        }
        EventKind::Alias => {
            let Call::Alias { previous } = &event.call else {
                unreachable!();
            };
            assert_eq!(previous.value(), sent["previousId"], "{file:?}");
        }
    }
}

#[test]
fn every_hostile_recording_decodes_around_its_odd_event() {
    for (file, recording) in recordings("hostile") {
        let decoded = recording.decoded();
        let names: Vec<String> = decoded
            .items
            .iter()
            .map(|item| match item {
                Item::Event(event) => event.call.name().to_owned(),
                Item::Rejected(rejection) => format!("{:?}", rejection.code),
            })
            .collect();
        let odd = match file.file_stem().unwrap().to_str().unwrap() {
            "01-lone-surrogate" => "Bad \u{fffd} Emoji",
            // A name is used as a key in many places, so it may not hold \u0000.
            "02-nul-and-controls" => "InvalidField",
            "03-deep-nesting-150" => "Deep",
            "04-proto-keys" => "constructor",
            "05-numbers" => "Numbers",
            "06-empty-and-dollar-keys" => " ",
            "07-empty-userid-with-anon" => "Empty User Id",
            "08-py-nan-infinity" => "NaN",
            "09-py-bigint" => "BigInt",
            "10-py-lone-surrogate" => "bad \u{fffd}",
            other => unreachable!("{other}"),
        };
        assert_eq!(names, ["Good Before", odd, "Good After"], "{file:?}");
    }
}

#[test]
fn hostile_values_are_kept_as_far_as_json_can() {
    let properties = |number: usize| {
        let (_, recording) = recordings("hostile").swap_remove(number - 1);
        let decoded = recording.decoded();
        match &decoded.items[1] {
            Item::Event(event) => event.call.properties().unwrap().as_str().to_owned(),
            Item::Rejected(rejection) => rejection.payload.clone(),
        }
    };
    assert_eq!(properties(1), r#"{"s":"x\ufffdy"}"#);
    assert!(properties(2).contains(r#""k\u0000":"#));
    assert_eq!(properties(3).matches('{').count(), 151);
    assert_eq!(
        properties(5),
        r#"{"a":1e+308,"b":0,"c":9007199254740992,"d":5e-324,"e":0.30000000000000004,"f":1e+21}"#
    );
    assert_eq!(properties(8), r#"{"x": null, "y": null, "z": null}"#);
    assert_eq!(
        properties(9),
        concat!(
            r#"{"n": 1000000000000000000000000000000, "#,
            r#""m": 18446744073709551616, "i": -9223372036854775809}"#
        )
    );
}

#[test]
fn the_seeds_refusals_have_the_seeds_words() {
    // What is accepted on purpose: null properties, other characters in event names, longer
    // names, any content type. NaN is read as null.
    const ACCEPTED: [&str; 8] = ["17-", "18-", "19-", "20-", "21-", "22-", "27-", "30-"];
    for (file, recording) in recordings("seed-server") {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let number: u32 = name[..2].parse().unwrap();
        // The damaged gzip body is no text; other routes are not the decoder's.
        if !(2..=30).contains(&number) {
            continue;
        }
        let limits = DecodeLimits::default();
        let body = recording.raw_body();
        // The recorder noted the text of this body, and the text is the body.
        let body = if name.starts_with("29-") {
            b"\"x\"".to_vec()
        } else {
            body
        };
        let decoded = decode(
            recording.route(),
            &body,
            now(),
            &limits,
            Defaults::default(),
        );
        let status = recording.response["status"].as_u64().unwrap();
        let accepted = status == 200 || ACCEPTED.iter().any(|prefix| name.starts_with(prefix));
        match decoded {
            Err(error) => {
                assert_eq!(recording.response["body"]["message"], error.to_string());
            }
            Ok(decoded) => match &decoded.items[0] {
                Item::Event(event) => {
                    assert!(accepted, "{name}");
                    assert_eq!(event.dialect, Dialect::Seed, "{name}");
                    if status == 200 && recording.route() == Route::Track {
                        let answer = &recording.response["body"]["event"];
                        assert_eq!(answer["event"], event.call.name(), "{name}");
                        let user = event.user.as_ref().unwrap().value();
                        assert_eq!(answer["user_id"], user, "{name}");
                    }
                }
                Item::Rejected(rejection) => {
                    assert!(!accepted, "{name}: {rejection:?}");
                    assert_eq!(decoded.dialect, Dialect::Seed, "{name}");
                    let details = serde_json::to_value(&rejection.fields).unwrap();
                    assert_eq!(recording.response["body"]["details"], details, "{name}");
                }
            },
        }
    }
}
