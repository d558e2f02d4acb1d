//! What Segment's SDKs really sent, sent again byte for byte.
//!
//! Their recorded servers failed on purpose now and then; here every call must be answered with
//! 200 and an object, and every message id be stored once, however often it was sent.

use std::collections::BTreeSet;

use diesel::PgConnection;
use serde_json::Value;

use crate::support::app::CORS_ORIGINS;
use crate::support::raw::{self, RawAnswer};
use crate::support::recordings::{self, Recording};
use crate::support::sql::{self, KeyRow, default_project};
use crate::support::{TestApp, client};

/// The write key of every recorded client.
const WRITE_KEY: &str = "wk_test_123";
/// The origin of the recorded pages.
const PAGE_ORIGIN: &str = "http://127.0.0.1:9920";

/// The folders and how many recordings each holds.
const FOLDERS: [(&str, usize); 3] = [
    ("segment-analytics-node", 25),
    ("segment-analytics-python", 25),
    ("segment-analytics-next-chromium", 18),
];

fn start() -> TestApp {
    TestApp::prepared(&[(CORS_ORIGINS, PAGE_ORIGIN)], |sql| {
        let project = default_project(sql);
        KeyRow::good(project, "client", WRITE_KEY).insert(sql);
    })
}

fn recorded() -> Vec<Recording> {
    FOLDERS
        .iter()
        .flat_map(|(folder, count)| {
            let found = recordings::all(folder);
            assert_eq!(found.len(), *count, "{folder}");
            found
        })
        .collect()
}

fn replay(app: &TestApp, recording: &Recording) -> RawAnswer {
    let bytes = raw::request(
        &recording.method,
        &recording.path,
        &recording.headers.0,
        &recording.bytes(),
    );
    raw::exchange(app.address(), &bytes).unwrap_or_else(|| panic!("{}: no answer", recording.name))
}

/// What is stored: each event's message id, and how many have none.
fn stored(connection: &mut PgConnection) -> (Vec<String>, i64) {
    let ids = sql::texts(
        connection,
        "SELECT message_id AS value FROM events WHERE message_id IS NOT NULL ORDER BY message_id",
    );
    let without = sql::number(
        connection,
        "SELECT count(*) FROM events WHERE message_id IS NULL",
    );
    (ids, without)
}

#[test]
fn every_call_is_taken_and_every_message_is_stored_once() {
    let app = start();
    let recordings = recorded();
    let sent: BTreeSet<String> = recordings.iter().flat_map(Recording::message_ids).collect();
    assert!(sent.len() > 180, "only {} ids in the fixtures", sent.len());

    let mut posts = 0;
    for _ in 0..2 {
        for recording in &recordings {
            let answer = replay(&app, recording);
            match recording.method.as_str() {
                "POST" => {
                    let body = answer.expect_object(200);
                    assert_eq!(body["success"], true, "{}: {body}", recording.name);
                    assert_eq!(body["ok"], true, "{}: {body}", recording.name);
                    if let Some(rejected) = body["rejected"].as_array() {
                        assert!(rejected.is_empty(), "{}: {body}", recording.name);
                    }
                    posts += 1;
                }
                "OPTIONS" => check_preflight(recording, &answer),
                "GET" => check_settings(recording, &answer.expect_object(200)),
                other => panic!("{}: {other} is new", recording.name),
            }
        }
        let mut connection = app.sql();
        let (ids, without) = stored(&mut connection);
        let expected: Vec<String> = sent.iter().cloned().collect();
        assert_eq!(ids, expected, "each message id once");
        assert_eq!(without, 0, "every recorded message has an id");
        let refused = sql::number(&mut connection, "SELECT count(*) FROM rejected_events");
        assert_eq!(refused, 0);
    }
    assert_eq!(posts, 2 * (25 + 25 + 8));
}

#[test]
fn an_event_without_an_id_is_stored_each_time_it_is_sent() {
    let app = start();
    let body = br#"{"batch":[{"type":"track","event":"No Id","userId":"u"}]}"#;
    let headers = [
        ("Host", "localhost"),
        ("Authorization", "Basic d2tfdGVzdF8xMjM6"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for times in 1..=2 {
        let bytes = raw::request("POST", "/v1/batch", &headers, body);
        let answer = raw::exchange(app.address(), &bytes)
            .unwrap()
            .expect_object(200);
        assert_eq!(answer["accepted"], 1, "{answer}");
        let rows = sql::number(
            &mut app.sql(),
            "SELECT count(*) FROM events WHERE name = 'No Id'",
        );
        assert_eq!(rows, times);
    }
}

/// The page of the recorded browser may send what it asked for, and read what it must.
fn check_preflight(recording: &Recording, answer: &RawAnswer) {
    let name = &recording.name;
    assert!(matches!(answer.status, 200 | 204), "{name}: {answer:?}");
    let asked = |header: &str| {
        recording
            .headers
            .0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(header))
            .map(|(_, value)| value.to_ascii_lowercase())
            .unwrap()
    };
    assert_eq!(
        answer.header("access-control-allow-origin"),
        asked("origin"),
        "{name}"
    );
    let allowed = answer
        .header("access-control-allow-headers")
        .to_ascii_lowercase();
    for header in asked("access-control-request-headers").split(',') {
        assert!(
            allowed
                .split(',')
                .any(|known| known.trim() == header.trim()),
            "{name}: {header} is not in {allowed}"
        );
    }
    assert!(
        answer
            .header("access-control-allow-methods")
            .contains(&asked("access-control-request-method").to_ascii_uppercase()),
        "{name}: {answer:?}"
    );
}

/// Without this integration the browser SDK sends nothing.
fn check_settings(recording: &Recording, settings: &Value) {
    let recorded = &recording.response.body;
    assert_eq!(
        settings["integrations"]["Segment.io"]["apiKey"],
        recorded["integrations"]["Segment.io"]["apiKey"],
        "{}: {settings}",
        recording.name
    );
    // The SDK reads these without asking whether they are there.
    for member in ["integrations", "plan"] {
        assert!(settings[member].is_object(), "{member} of {settings}");
    }
    if let Some(rate) = settings.pointer("/metrics/sampleRate") {
        assert_eq!(rate, 0, "nobody reads the SDK's own metrics");
    }
}

#[test]
fn a_page_may_read_what_it_needs_and_a_foreign_one_nothing() {
    let app = start();
    let nobody = app.nobody();
    let track = |origin: &str| {
        nobody.send(
            "POST",
            "/v1/t",
            &[
                ("authorization", "Basic d2tfdGVzdF8xMjM6"),
                ("content-type", "text/plain"),
                ("origin", origin),
            ],
            Some(br#"{"event":"e","userId":"u","messageId":"cors"}"#),
        )
    };
    let own = track(PAGE_ORIGIN);
    own.expect(200);
    assert_eq!(own.header("access-control-allow-origin"), PAGE_ORIGIN);
    let exposed = own
        .header("access-control-expose-headers")
        .to_ascii_lowercase();
    for header in ["retry-after", "x-request-id"] {
        assert!(exposed.contains(header), "{exposed}");
    }
    assert!(!own.header("x-request-id").is_empty());
    let foreign: client::Answer = track("http://evil.example");
    assert_eq!(foreign.header("access-control-allow-origin"), "");
}

#[test]
fn settings_of_the_other_browser_sdk_are_enabled() {
    let app = start();
    let answer = app.nobody().send(
        "GET",
        &format!("/sourceConfig/?p=web&v=3.34.1&build=modern&writeKey={WRITE_KEY}"),
        &[("authorization", "Basic d2tfdGVzdF8xMjM6")],
        None,
    );
    let settings = answer.expect(200);
    let source = &settings["source"];
    assert_eq!(source["enabled"], true, "{settings}");
    assert!(source["config"].is_object(), "{settings}");
    assert_eq!(source["destinations"], serde_json::json!([]), "{settings}");
}
