//! Bodies that strict parsers refuse, that want too much, or that are nothing at all.
//!
//! One odd event costs at most itself, a body that is too much costs a refusal, and nothing here
//! costs a 500.

use diesel::PgConnection;
use serde_json::{Value, json};

use crate::support::raw;
use crate::support::recordings::{self, Recording};
use crate::support::sql::{self, KeyRow, default_project, quoted};
use crate::support::{CLIENT_KEY, TestApp};

#[test]
fn good_neighbours_of_a_recorded_odd_event_live() {
    let app = TestApp::prepared(&[], |sql| {
        let project = default_project(sql);
        KeyRow::good(project, "client", "wk_test_123").insert(sql);
    });
    let recordings = recordings::all("hostile");
    assert_eq!(recordings.len(), 10);
    for round in 1..=2 {
        for recording in &recordings {
            let bytes = raw::request(
                &recording.method,
                &recording.path,
                &recording.headers.0,
                &recording.bytes(),
            );
            let answer = raw::exchange(app.address(), &bytes)
                .unwrap_or_else(|| panic!("{}: no answer", recording.name))
                .expect_object(200);
            check_neighbours(recording, &answer, round, &mut app.sql());
        }
    }
}

/// The outer two of the three are stored once; the one between them once, or it is in the ledger.
fn check_neighbours(recording: &Recording, answer: &Value, round: i64, sql: &mut PgConnection) {
    let name = &recording.name;
    let ids = recording.message_ids();
    let [before, odd, after] = ids.as_slice() else {
        panic!("{name}: {ids:?}");
    };
    for good in [before, after] {
        assert_eq!(sql::events_with_id(sql, good), 1, "{name}: {good}");
    }
    let rejected = answer["rejected"].as_array().unwrap();
    let stored = sql::events_with_id(sql, odd);
    let ledger = sql::rows(
        sql,
        &format!(
            "SELECT code, message, payload FROM rejected_events WHERE message_id = {}",
            quoted(odd)
        ),
    );
    match (stored, rejected.as_slice()) {
        (1, []) => assert!(ledger.is_empty(), "{name}: {ledger:?}"),
        (0, [refusal]) => {
            assert_eq!(refusal["index"], 1, "{name}: {refusal}");
            assert!(refusal["code"].is_string(), "{name}: {refusal}");
            assert!(!ledger.is_empty() && ledger.len() as i64 <= round, "{name}");
            let kept = &ledger[0];
            assert_eq!(kept["code"], refusal["code"], "{name}");
            assert!(!kept["message"].as_str().unwrap().is_empty(), "{name}");
            assert!(kept["payload"].as_str().unwrap().contains(odd), "{name}");
        }
        _ => panic!("{name}: {stored} rows, answer {answer}"),
    }
}

/// The odd recorded events, and whether each can be stored: only a name with U+0000 and a name of
/// nothing but a space leave a choice.
#[test]
fn nearly_all_recorded_odd_events_are_stored() {
    let app = TestApp::prepared(&[], |sql| {
        let project = default_project(sql);
        KeyRow::good(project, "client", "wk_test_123").insert(sql);
    });
    let mut refused = Vec::new();
    for recording in recordings::all("hostile") {
        let bytes = raw::request(
            "POST",
            &recording.path,
            &recording.headers.0,
            &recording.bytes(),
        );
        let answer = raw::exchange(app.address(), &bytes)
            .unwrap()
            .expect_object(200);
        if answer["accepted"] != 3 {
            refused.push(recording.name);
        }
    }
    refused.retain(|name| name != "06-empty-and-dollar-keys");
    assert_eq!(refused, ["02-nul-and-controls"]);
    let mut sql = app.sql();
    let read = |sql: &mut PgConnection, user: &str, name: &str| {
        let rows = sql::rows(
            sql,
            &format!(
                "SELECT name, properties::text AS properties FROM events
                 WHERE user_id = {} AND name LIKE {}",
                quoted(user),
                quoted(name)
            ),
        );
        assert_eq!(rows.len(), 1, "{name}: {rows:?}");
        (
            rows[0]["name"].as_str().unwrap().to_owned(),
            rows[0]["properties"].as_str().unwrap().to_owned(),
        )
    };
    let (name, properties) = read(&mut sql, "u-1001", "Bad %");
    assert_eq!(name, "Bad \u{fffd} Emoji");
    let properties: Value = serde_json::from_str(&properties).unwrap();
    assert_eq!(properties, json!({"s": "x\u{fffd}y"}));
    let (_, properties) = read(&mut sql, "u-1001", "NaN");
    let properties: Value = serde_json::from_str(&properties).unwrap();
    assert_eq!(properties, json!({"x": null, "y": null, "z": null}));
    let (_, properties) = read(&mut sql, "u-1001", "BigInt");
    for digits in [
        "1000000000000000000000000000000",
        "18446744073709551616",
        "-9223372036854775809",
    ] {
        assert!(properties.contains(digits), "{properties}");
    }
    let (_, properties) = read(&mut sql, "__proto__", "constructor");
    assert!(properties.contains("__proto__"), "{properties}");
}

/// Tracks one event with these properties, as text, and gives the stored text.
fn round_trip(app: &TestApp, properties: &str) -> String {
    let body = format!(r#"{{"user_id":"u","event":"round","properties":{properties}}}"#);
    let answer = app.client().post_text("/v1/track", &body).expect(200);
    let id = answer["event"]["id"].as_str().unwrap();
    let stored = sql::texts(
        &mut app.sql(),
        &format!(
            "SELECT properties::text AS value FROM events WHERE id = {}",
            quoted(id)
        ),
    );
    assert_eq!(stored.len(), 1, "{properties}");
    // What is answered is what is stored.
    let told = serde_json::to_value(&answer["event"]["properties"]).unwrap();
    let read: Value = serde_json::from_str(&stored[0]).unwrap();
    assert_eq!(told, read, "{properties}");
    stored[0].clone()
}

#[test]
fn odd_values_are_kept_as_they_were_sent() {
    let app = TestApp::start();
    for kept in [
        r#"{"a\u0000b":"\u0000","c":"x\u0000"}"#,
        r#"{"n":9223372036854775808,"m":-9223372036854775809,"u":18446744073709551616}"#,
        r#"{"f":0.1,"e":1e308,"z":-0.0,"t":1.10}"#,
        r#"{"":{"":[]},"$set":{},"a.b":1,"__proto__":{"x":1},"constructor":"c"}"#,
        r#"{"emoji":"😀","escaped":"\ud83d\ude00","separators":"\u2028\u2029"}"#,
    ] {
        assert_eq!(round_trip(&app, kept), kept);
    }
    for (sent, meant) in [
        (
            r#"{"x":NaN,"y":Infinity,"z":-Infinity}"#,
            r#"{"x":null,"y":null,"z":null}"#,
        ),
        (r#"{"x":1e400,"y":-1e400}"#, r#"{"x":null,"y":null}"#),
        (r#"{"s":"\ud83d"}"#, r#"{"s":"\ufffd"}"#),
    ] {
        let stored: Value = serde_json::from_str(&round_trip(&app, sent)).unwrap();
        let meant: Value = serde_json::from_str(meant).unwrap();
        assert_eq!(stored, meant, "{sent}");
    }
    // Of a repeated key the last one counts, in the answer and for whoever reads the table.
    let stored: Value = serde_json::from_str(&round_trip(&app, r#"{"d":1,"d":2}"#)).unwrap();
    assert_eq!(stored["d"], 2);
}

#[test]
fn odd_values_in_traits_do_not_fail() {
    let app = TestApp::start();
    for traits in [
        r#"{"a\u0000b":"\u0000"}"#,
        r#"{"n":9223372036854775808,"big":1e400,"f":1e308}"#,
        r#"{"d":1,"d":2,"d":{"d":3}}"#,
        r#"{"s":"\ud83d","__proto__":{"admin":true}}"#,
    ] {
        let body = format!(r#"{{"user_id":"odd","traits":{traits}}}"#);
        let answer = app.client().post_text("/v1/identify", &body);
        assert!(
            matches!(answer.status, 200 | 400),
            "{traits}: {}",
            answer.text()
        );
        // Whatever became of it, the person still works.
        let next = json!({"user_id": "odd", "event": "after"});
        app.client().post("/v1/track", &next).expect(200);
    }
    let body = app.admin().get("/v1/admin/users/odd").expect(200);
    assert_eq!(body["id"], "odd", "{body}");
}

#[test]
fn ids_with_a_nul_are_refused_and_never_fail() {
    let app = TestApp::start();
    let client = app.client();
    for body in [
        r#"{"user_id":"a\u0000b","event":"e"}"#,
        r#"{"user_id":"u","event":"a\u0000b"}"#,
    ] {
        client
            .post_text("/v1/track", body)
            .expect_problem(400, "invalid_field");
    }
    // Segment's SDKs would send a refused event again: it is answered 200. All are in the ledger.
    for body in [
        r#"{"userId":"a\u0000b","event":"e"}"#,
        r#"{"anonymousId":"a\u0000b","event":"e"}"#,
        r#"{"userId":"u","event":"a\u0000b"}"#,
    ] {
        let answer = client.post_text("/v1/track", body).expect(200);
        assert_eq!(answer["rejected"][0]["code"], "invalid_field", "{answer}");
    }
    let mut sql = app.sql();
    assert_eq!(sql::number(&mut sql, "SELECT count(*) FROM events"), 0);
    let ledger = sql::number(&mut sql, "SELECT count(*) FROM rejected_events");
    assert_eq!(ledger, 5);
    assert_eq!(client.get("/v1/campaigns?user_id=a%00b").status, 400);
    for path in [
        "/v1/admin/users/a%00b",
        "/v1/admin/campaigns/a%00b",
        "/v1/admin/segments/%FF",
        "/v1/admin/campaigns/%F0%9F%98%80",
    ] {
        app.admin().get(path).expect_problem(404, "not_found");
    }
    let flag = client.get("/v1/features/a%00b?user_id=u");
    assert!(matches!(flag.status, 200 | 400 | 404), "{}", flag.text());
}

#[test]
fn deep_nesting_is_refused_and_spares_the_neighbours() {
    let app = TestApp::start();
    let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let event = |id: &str, value: &str| {
        format!(
            r#"{{"type":"track","event":"e","userId":"u","messageId":"{id}","properties":{{"d":{value}}}}}"#
        )
    };
    let batch = format!(
        r#"{{"batch":[{},{},{}]}}"#,
        event("before", "1"),
        event("deep", &nest(10_000)),
        event("after", &nest(200)),
    );
    let answer = app.client().post_text("/v1/batch", &batch).expect(200);
    assert_eq!(answer["accepted"], 2, "{answer}");
    assert_eq!(answer["rejected"][0]["index"], 1, "{answer}");
    assert_eq!(answer["rejected"][0]["code"], "too_deep", "{answer}");
    let mut sql = app.sql();
    for (id, rows) in [("before", 1), ("deep", 0), ("after", 1)] {
        assert_eq!(sql::events_with_id(&mut sql, id), rows, "{id}");
    }
    let single = format!(
        r#"{{"user_id":"u","event":"e","properties":{{"d":{}}}}}"#,
        nest(10_000)
    );
    app.client()
        .post_text("/v1/track", &single)
        .expect_problem(400, "too_deep");
    // A million levels, in places that are not an event's.
    for body in [
        nest(1_000_000),
        "[".repeat(1_000_000),
        format!(r#"{{"a":{}}}"#, nest(500_000)),
    ] {
        let answer = app.client().post_text("/v1/batch", &body);
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let rule = format!(r#"{{"name":"deep","targeting":{{"!":{}}}}}"#, nest(10_000));
    let answer = app.admin().post_text("/v1/admin/campaigns", &rule);
    assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
    app.nobody().get("/livez").expect(200);
}

#[test]
fn a_body_over_the_limit_is_413_and_one_under_it_is_taken() {
    let app = TestApp::start();
    let batch = |filler_bytes: usize| {
        let filler = "x".repeat(filler_bytes / 9);
        let events: Vec<Value> = (0..9)
            .map(|number| {
                json!({"type": "track", "event": "big", "userId": "u",
                    "messageId": format!("big-{number}"), "properties": {"f": filler}})
            })
            .collect();
        json!({"batch": events}).to_string()
    };
    // Over a socket of its own, since the answer comes before all is sent.
    let headers = [
        ("Host".to_owned(), "localhost".to_owned()),
        ("x-api-key".to_owned(), CLIENT_KEY.to_owned()),
    ];
    let body = batch(9 * 1024 * 1024);
    let bytes = raw::request("POST", "/v1/batch", &headers, body.as_bytes());
    let answer = raw::exchange(app.address(), &bytes)
        .unwrap()
        .expect_object(413);
    assert_eq!(answer["code"], "body_too_large", "{answer}");
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        0
    );
    let answer = app
        .client()
        .post_text("/v1/batch", &batch(7 * 1024 * 1024))
        .expect(200);
    assert_eq!(answer["accepted"], 9, "{answer}");
    // One event over its own limit, in a body that is not.
    let filler = "x".repeat(1024 * 1024 + 1);
    let body = json!({"user_id": "u", "event": "big", "properties": {"f": filler}});
    app.client()
        .post("/v1/track", &body)
        .expect_problem(413, "event_too_large");
}

#[test]
fn what_cannot_be_read_is_a_400() {
    let app = TestApp::start();
    let client = app.client();
    let send = |headers: &[(&str, &str)], body: &[u8]| {
        client.send("POST", "/v1/batch", headers, Some(body))
    };
    send(&[("content-encoding", "rot13")], b"{}").expect_problem(400, "malformed_encoding");
    send(&[("content-encoding", "gzip")], b"not gzip").expect_problem(400, "malformed_encoding");
    send(&[], b"\x1f\x8bnot gzip").expect_problem(400, "malformed_encoding");
    for body in [
        "{",
        "{\"batch\":[}",
        "\"x\"",
        "1",
        "nul",
        "{} {}",
        "\u{feff}",
    ] {
        let answer = send(&[], body.as_bytes());
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
        assert_eq!(answer.json()["success"], false);
    }
    send(&[], b"{").expect_problem(400, "malformed_json");
    send(&[], b"").expect_problem(400, "invalid_field");
    send(&[], br#"{"batch":{}}"#).expect_problem(400, "invalid_field");
    send(&[], b"\xff\xfe\xfd").expect_problem(400, "malformed_json");
    let empty = send(&[], br#"{"batch":[]}"#).expect(200);
    assert_eq!(empty["accepted"], 0, "{empty}");
    client
        .post_text("/v1/track", "")
        .expect_problem(400, "missing_identity");
}

#[test]
fn a_batch_over_its_limit_is_refused_whole() {
    let app = TestApp::start();
    let batch = |count: usize| {
        let events: Vec<Value> = (0..count)
            .map(|number| {
                json!({"type": "track", "event": "many", "userId": format!("u-{}", number % 50),
                    "messageId": format!("many-{number}")})
            })
            .collect();
        json!({"batch": events})
    };
    app.client()
        .post("/v1/batch", &batch(2_501))
        .expect_problem(413, "batch_too_large");
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        0
    );
    let answer = app.client().post("/v1/batch", &batch(2_500)).expect(200);
    assert_eq!(answer["accepted"], 2_500, "{answer}");
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        2_500
    );
}

#[test]
fn one_poison_event_among_a_thousand_costs_only_itself() {
    let app = TestApp::start();
    let mut events: Vec<Value> = (0..1_000)
        .map(|number| {
            json!({"type": "track", "event": "e", "userId": format!("u-{number}"),
                "messageId": format!("poison-{number}")})
        })
        .collect();
    events[421] = json!({"type": "track", "event": {"no": "name"}, "userId": "u-421",
        "messageId": "poison-421", "properties": {"mark": "kept"}});
    let body = json!({"batch": events});
    let answer = app.client().post("/v1/batch", &body).expect(200);
    assert_eq!(answer["accepted"], 999, "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0]["index"], 421);
    assert_eq!(rejected[0]["code"], "invalid_field");
    let mut sql = app.sql();
    assert_eq!(
        sql::number(&mut sql, "SELECT count(DISTINCT message_id) FROM events"),
        999
    );
    let ledger = sql::rows(&mut sql, "SELECT * FROM rejected_events");
    assert_eq!(ledger.len(), 1, "{ledger:?}");
    assert_eq!(ledger[0]["code"], "invalid_field");
    assert_eq!(ledger[0]["message_id"], "poison-421");
    assert!(!ledger[0]["message"].as_str().unwrap().is_empty());
    let payload: Value = serde_json::from_str(ledger[0]["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload, events[421]);
    // After a fix the same id is welcome: a refusal must not have claimed it.
    events[421]["event"] = json!("e");
    let answer = app
        .client()
        .post("/v1/batch", &json!({"batch": events}))
        .expect(200);
    assert_eq!(answer["duplicates"], 999, "{answer}");
    assert_eq!(
        sql::number(&mut sql, "SELECT count(DISTINCT message_id) FROM events"),
        1_000
    );
}

#[test]
fn requests_that_proxies_disagree_about_are_refused() {
    let app = TestApp::start();
    let body = r#"{"user_id":"u","event":"smuggled"}"#;
    let key = ("x-api-key".to_owned(), CLIENT_KEY.to_owned());
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let length = body.len().to_string();
    for headers in [
        vec![
            header("Host", "localhost"),
            key.clone(),
            header("Content-Length", &length),
            header("Transfer-Encoding", "chunked"),
        ],
        vec![
            header("Host", "localhost"),
            key.clone(),
            header("Content-Length", &length),
            header("Content-Length", "3"),
        ],
        vec![
            header("Host", "localhost"),
            key,
            header("Content-Length", "+5"),
        ],
    ] {
        let bytes = raw::request("POST", "/v1/track", &headers, body.as_bytes());
        // Refused, or cut off without a status; either is safe.
        if let Some(answer) = raw::exchange(app.address(), &bytes) {
            assert_eq!(answer.status, 400, "{headers:?}: {}", answer.text());
        }
    }
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        0
    );
}
