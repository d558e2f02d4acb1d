//! A replay while it runs: what it tells, how it ends, and what is beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATH, draft, track};
use crate::support::journal::{Load, Plan};
use crate::support::{ADMIN_KEY, TestApp, eventually, is_soak, pause, sql};

/// Opens a replay by hand, to read it line by line and to leave in the middle.
fn open(app: &TestApp, question: &Value) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(app.address()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let body = question.to_string();
    write!(
        socket,
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN_KEY}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    while !line.contains("progress") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "it ended");
    }
    reader
}

#[test]
fn a_slow_replay_is_told_as_it_goes_ends_with_its_client_and_leaves_ingest_alone() {
    // Ten events a second, in pages of ten.
    let app = TestApp::start_with(&[("BECKON_REPLAY_EVENTS_PER_SECOND", "10")]);
    let batch: Vec<Value> = (0..200)
        .map(|n| json!({"type": "track", "userId": format!("u{}", n % 7), "event": "Ordered"}))
        .collect();
    app.client()
        .post("/v1/batch", &json!({ "batch": batch }))
        .expect(200);
    let question = json!({"campaign": {"name": "d", "trigger": "Ordered"}});
    let mut reader = open(&app, &question);
    // One at a time.
    let refused = app.admin().post(PATH, &question).expect(409);
    assert_eq!(refused["code"], "conflict");
    // Lines come while it goes on.
    let mut events = 0;
    while events < 20 {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "it ended");
        // Between the lines are the lengths of their chunks.
        let told = line.trim().parse::<Value>().unwrap_or_default();
        assert!(told["report"].is_null(), "{line}");
        events = told["progress"]["events"].as_u64().unwrap_or(events);
    }
    // Ingest goes on beside it.
    let began = Instant::now();
    track(&app, "ada", 1);
    assert!(began.elapsed() < Duration::from_secs(2));
    drop(reader);
    // The place is free soon after the client has left, long before the twenty seconds are over.
    let began = Instant::now();
    let draft = json!({"campaign": {"name": "d", "trigger": "never"}});
    eventually("the replay has ended", Duration::from_secs(10), || {
        let answer = app.admin().post(PATH, &draft);
        (answer.status == 200).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(8));
}

/// Stores so many events of each of some people past ingest, for a replay to read.
fn store_past(app: &TestApp, people: u32, of_each: u32) {
    let identifies: Vec<Value> = (0..people)
        .map(|n| json!({"type": "identify", "userId": format!("past-{n}"), "traits": {"plan": "free"}}))
        .collect();
    let batch = json!({ "batch": identifies });
    app.client().post("/v1/batch", &batch).expect(200);
    sql::run(
        &mut app.sql(),
        &format!(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id,
                 properties, \"timestamp\", received_at)
             SELECT received_on, gen_random_uuid(), project_id, person_id, 0, 'Ordered', user_id,
                 '{{\"total\": 80}}', now(), received_at + n * interval '1 microsecond'
             FROM events, generate_series(1, {of_each}) n WHERE name IS DISTINCT FROM 'Ordered';
             ANALYZE events"
        ),
    );
}

/// How long the slowest but one in a hundred of tracks took that some clients sent, each at its own
/// times, however long the others' took.
fn slow_track(app: &TestApp, prefix: &str) -> Duration {
    let load = Load::of(
        app.base(),
        Plan {
            every: Some(Duration::from_millis(40)),
            ..Plan::new(8, prefix)
        },
    );
    pause(Duration::from_secs(if is_soak() { 10 } else { 2 }));
    let journal = load.end();
    journal.check_refusals();
    assert!(journal.refused.is_empty(), "{:?}", journal.refused);
    journal.percentile(99)
}

#[test]
fn a_replay_at_its_usual_rate_does_not_slow_tracks_down() {
    let app = TestApp::start();
    // More than it reads meanwhile.
    store_past(&app, 100, if is_soak() { 1_500 } else { 500 });
    let question = json!({"campaign": draft()});
    let (mut alone, mut beside) = (Duration::MAX, Duration::MAX);
    for round in 0..2 {
        alone = alone.min(slow_track(&app, &format!("alone-{round}")));
        let reader = eventually(
            "the replay before has ended",
            Duration::from_secs(10),
            || {
                let answer = app.admin().post(
                    PATH,
                    &json!({"campaign": {"name": "d", "trigger": "never"}}),
                );
                (answer.status == 200).then(|| open(&app, &question))
            },
        );
        beside = beside.min(slow_track(&app, &format!("beside-{round}")));
        // It went on all the while.
        let refused = app.admin().post(PATH, &question).expect(409);
        assert_eq!(refused["code"], "conflict");
        drop(reader);
    }
    println!("99 of 100 tracks: {alone:?} alone, {beside:?} beside a replay");
    let bound = match is_soak() {
        true => alone * 2 + Duration::from_millis(10),
        false => alone * 4 + Duration::from_millis(200),
    };
    assert!(
        beside < bound,
        "{alone:?} alone, {beside:?} beside a replay"
    );
}

#[test]
fn a_replay_waits_for_nobody_when_the_server_stops() {
    // It would take half a minute, and requests in flight are waited for that long.
    let mut app = TestApp::start_with(&[
        ("BECKON_REPLAY_EVENTS_PER_SECOND", "1"),
        ("BECKON_SHUTDOWN_TIMEOUT_MS", "30000"),
    ]);
    for _ in 0..30 {
        track(&app, "ada", 80);
    }
    let mut reader = open(
        &app,
        &json!({"campaign": {"name": "d", "trigger": "Ordered"}}),
    );
    pause(Duration::from_millis(200));
    assert!(
        app.terminate(Duration::from_secs(15)).is_some(),
        "it did not stop"
    );
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("shutting_down"), "{rest}");
}
