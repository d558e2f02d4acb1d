//! The seed's own server as the model: its 94 recorded exchanges, replayed in order.
//!
//! Each answer is compared whole, with its content type. What may differ: generated ids (the recorded one stands for ours
//! from its first appearance on, in paths too), times, and members we add. What differs on purpose
//! stands in [`differences`], with our answer and the reason.
//!
//! The recordings come from three runs of the seed's server. 01 to 72 and 84 to 94 are one
//! scenario on one set of data, without keys; here they are sent with the admin key. 73 to 82 ran
//! with keys required, on data of their own; 83 ran with a limit of 100 requests.

mod compare;
mod differences;

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::recordings::{self, Recording};
use crate::support::sql::{KeyRow, default_project};
use crate::support::{Answer, Client, TestApp};
use compare::Ids;
use differences::{DIFFERENCES, Difference};

/// How many recordings there are; a lost fixture must not pass for a passed one.
const RECORDINGS: usize = 94;

/// The keys the recorded clients had.
const RECORDED_CLIENT_KEY: &str = "wk_test_123";
const RECORDED_ADMIN_KEY: &str = "adm_test_1";

#[test]
fn the_seeds_clients_get_the_seeds_answers() {
    let recordings = recordings::all("seed-server");
    assert_eq!(recordings.len(), RECORDINGS);
    let mut listed: BTreeMap<&str, &Difference> = BTreeMap::new();
    for difference in &DIFFERENCES {
        assert!(!difference.reason.is_empty(), "{}", difference.name);
        let earlier = listed.insert(difference.name, difference);
        assert!(earlier.is_none(), "{} is listed twice", difference.name);
    }

    let open = TestApp::start();
    let locked = TestApp::prepared(&[], |sql| {
        let project = default_project(sql);
        KeyRow::good(project, "client", RECORDED_CLIENT_KEY).insert(sql);
        KeyRow::good(project, "admin", RECORDED_ADMIN_KEY).insert(sql);
    });
    let (open, locked) = (open.admin(), locked.nobody());
    let mut ids = Ids::default();
    let mut problems = Vec::new();
    for recording in &recordings {
        let client = if with_keys(&recording.name) {
            &locked
        } else {
            &open
        };
        let answer = replay(client, recording, &ids);
        let difference = listed.remove(recording.name.as_str());
        let checked = check(recording, difference, &answer, &mut ids);
        if let Err(problem) = checked.and_then(|()| check_content_type(recording, &answer)) {
            problems.push(format!("{}: {problem}", recording.name));
        }
    }
    problems.extend(
        listed
            .keys()
            .map(|name| format!("{name}: listed as a difference, and there is no such recording")),
    );
    assert!(
        problems.is_empty(),
        "{} of {RECORDINGS} exchanges:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

fn with_keys(name: &str) -> bool {
    name.get(3..).is_some_and(|call| call.starts_with("auth-"))
}

fn replay(client: &Client, recording: &Recording, ids: &Ids) -> Answer {
    let headers: Vec<(&str, &str)> = recording
        .headers
        .0
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let body = body(recording);
    client.send(
        &recording.method,
        &ids.in_path(&recording.path),
        &headers,
        body.as_deref(),
    )
}

/// What the recorded client sent. A body that is no JSON is recorded as a string of its text.
fn body(recording: &Recording) -> Option<Vec<u8>> {
    if recording.name == "31-gzip-body" {
        // The recorder read the compressed bytes as text; this is what they said.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder
            .write_all(br#"{"user_id":"u-gz","event":"e"}"#)
            .unwrap();
        return Some(encoder.finish().unwrap());
    }
    match serde_json::from_str(recording.body.get()).unwrap() {
        Value::Null => None,
        Value::String(text) => Some(text.into_bytes()),
        json => Some(json.to_string().into_bytes()),
    }
}

fn check(
    recording: &Recording,
    difference: Option<&Difference>,
    answer: &Answer,
    ids: &mut Ids,
) -> Result<(), String> {
    let recorded = &recording.response;
    let mut learned = ids.clone();
    let as_recorded = compare::answers(
        (recorded.status, &recorded.body),
        (answer.status, &read(answer)),
        &mut learned,
    );
    match (difference, as_recorded) {
        (None, Ok(())) => {
            *ids = learned;
            Ok(())
        }
        (None, Err(problem)) => Err(format!("{problem}\n    ours: {}", answer.text())),
        (Some(_), Ok(())) => Err("listed as a difference, and it does not differ".to_owned()),
        (Some(difference), Err(_)) => {
            let expected = serde_json::from_str(difference.body).unwrap();
            compare::answers(
                (difference.status, &expected),
                (answer.status, &read(answer)),
                ids,
            )
            .map_err(|problem| {
                format!(
                    "differs otherwise than listed: {problem}\n    ours: {}",
                    answer.text()
                )
            })
        }
    }
}

/// The seed's Flutter SDK takes a text for Latin-1 unless its charset is named. Refusals have a type
/// of their own.
fn check_content_type(recording: &Recording, answer: &Answer) -> Result<(), String> {
    let Some(recorded) = recording.response.headers["content-type"].as_str() else {
        return Ok(());
    };
    let expected = match answer.status {
        ..400 => recorded,
        _ => "application/problem+json; charset=utf-8",
    };
    let ours = answer.header("content-type");
    if ours != expected {
        return Err(format!("the type is {ours:?} instead of {expected:?}"));
    }
    Ok(())
}

/// The body as JSON; an empty one as the empty string, as it is recorded.
fn read(answer: &Answer) -> Value {
    if answer.body.is_empty() {
        Value::String(String::new())
    } else {
        answer.json()
    }
}
