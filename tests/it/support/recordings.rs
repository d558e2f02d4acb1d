//! The recorded exchanges of real clients, as the bytes they sent.
//!
//! A recording holds a body as JSON. The bytes are put together again from its text, without
//! parsing it: a lone surrogate or a number beyond a double would not survive a parser. The
//! recorded length tells that they are the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// One recorded exchange.
#[derive(Debug, Deserialize)]
pub struct Recording {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers in their order.
    #[serde(default)]
    pub headers: Headers,
    /// The body: JSON, or a JSON string that holds the text of a body that is none.
    pub body: Box<RawValue>,
    raw_body_base64: Option<String>,
    raw_length: Option<usize>,
    /// What the recorded server answered.
    pub response: Response,
}

/// What a recorded server answered.
#[derive(Debug, Deserialize)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers; null where they were not recorded.
    #[serde(default)]
    pub headers: Value,
    /// The body.
    pub body: Value,
}

/// Headers in the order they were sent.
#[derive(Debug, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Headers;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(Headers(headers))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Where the fixtures are.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Every recording of a folder, in the order of their numbers.
pub fn all(name: &str) -> Vec<Recording> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Recording {
    let text = fs::read_to_string(path).unwrap();
    let mut recording: Recording =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    recording.name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    recording
}

/// Numbers that the recorder's own JSON rounded, as the client wrote them.
const ROUNDED: [(&str, &str, &str); 3] = [
    ("09-py-bigint", "1e+30", "1000000000000000000000000000000"),
    (
        "09-py-bigint",
        "18446744073709552000",
        "18446744073709551616",
    ),
    (
        "09-py-bigint",
        "-9223372036854776000",
        "-9223372036854775809",
    ),
];

impl Recording {
    /// The body as the client sent it.
    pub fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw_body_base64 {
            return STANDARD.decode(raw).unwrap();
        }
        let text = self.body.get();
        if text == "null" {
            return Vec::new();
        }
        let length = self.raw_length.unwrap_or_default();
        [Spacing::None, Spacing::Python]
            .into_iter()
            .map(|spacing| {
                ROUNDED
                    .iter()
                    .filter(|(name, ..)| *name == self.name)
                    .fold(respaced(text, spacing), |text, (_, rounded, written)| {
                        text.replace(rounded, written)
                    })
            })
            .find(|text| text.len() == length)
            .unwrap_or_else(|| panic!("{}: no spacing gives the {length} bytes sent", self.name))
            .into_bytes()
    }

    /// The message ids in the body: its own, and each item's of a batch. Empty for a body that
    /// is no JSON.
    pub fn message_ids(&self) -> Vec<String> {
        // The ids stand in plain ASCII, so they can be read where the rest cannot be parsed.
        let text = self.body.get().replace("\\\"", "\"");
        let mut ids = Vec::new();
        for piece in text.split("\"messageId\"").skip(1) {
            let value = piece.trim_start_matches([':', ' ']);
            if let Some(id) = value
                .strip_prefix('"')
                .and_then(|rest| rest.split('"').next())
            {
                ids.push(id.to_owned());
            }
        }
        ids
    }
}

#[derive(Debug, Clone, Copy)]
enum Spacing {
    /// As JavaScript writes JSON.
    None,
    /// As Python does: a space after each comma and colon.
    Python,
}

/// The same JSON text with other white space between its tokens.
fn respaced(text: &str, spacing: Spacing) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut escaped = false;
    for letter in text.chars() {
        if in_string {
            out.push(letter);
            in_string = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
            continue;
        }
        match letter {
            ' ' | '\n' | '\r' | '\t' => {}
            ',' | ':' => {
                out.push(letter);
                if matches!(spacing, Spacing::Python) {
                    out.push(' ');
                }
            }
            _ => {
                in_string = letter == '"';
                out.push(letter);
            }
        }
    }
    out
}

#[test]
fn only_the_space_between_tokens_changes() {
    let text = "{ \"a, b\":\n [1,2 , \"x\\\" : y\"] }";
    assert_eq!(respaced(text, Spacing::None), r#"{"a, b":[1,2,"x\" : y"]}"#);
    assert_eq!(
        respaced(text, Spacing::Python),
        r#"{"a, b": [1, 2, "x\" : y"]}"#
    );
}

#[test]
fn every_recording_of_an_sdk_has_the_length_it_was_sent_with() {
    let mut read = 0;
    for name in [
        "hostile",
        "segment-analytics-node",
        "segment-analytics-python",
        "segment-analytics-next-chromium",
    ] {
        for recording in all(name) {
            assert_eq!(
                recording.bytes().len(),
                recording.raw_length.unwrap(),
                "{}",
                recording.name
            );
            read += 1;
        }
    }
    assert_eq!(read, 10 + 25 + 25 + 18);
}
