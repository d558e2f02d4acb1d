//! Rejected events: kept with their reason and payload, found again, and replayed after a fix.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::metrics::Scrape;
use crate::support::sql::{self, default_project};
use crate::support::{Client, TestApp, assert_ledger, now};

const STOP_BOUND: Duration = Duration::from_secs(20);

/// Starts the server anew with another setting.
fn restart_with(app: &mut TestApp, name: &str, value: &str) {
    app.terminate(STOP_BOUND).unwrap();
    app.set(name, value);
    app.restart();
}

fn count(app: &TestApp, table: &str) -> i64 {
    sql::number(&mut app.sql(), &format!("SELECT count(*) FROM {table}"))
}

fn rejected(client: &Client, query: &str) -> Vec<Value> {
    let list = client
        .get(&format!("/v1/admin/rejected{query}"))
        .expect(200);
    list["rejected"].as_array().unwrap().clone()
}

fn replay(app: &TestApp, id: &Value) -> Value {
    let path = format!("/v1/admin/rejected/{id}/replay");
    app.admin().post(&path, &json!({})).expect(200)
}

/// A batch of a client whose clock is an hour slow, with one event that is over the limit.
fn batch_with_poison(events: usize, poison: usize, happened: DateTime<Utc>) -> Value {
    let batch: Vec<Value> = (0..events)
        .map(|number| {
            let size = if number == poison { 5_000 } else { 5 };
            json!({
                "type": "track", "userId": format!("u{}", number % 10), "event": "Ordered",
                "timestamp": happened, "properties": {"n": number, "note": "\"x".repeat(size)},
            })
        })
        .collect();
    let sent = now() - TimeDelta::hours(1);
    json!({"batch": batch, "context": {"app": "shop"}, "sentAt": sent})
}

/// Each event gets a copy of its batch's context, so that counts with it.
#[test]
fn a_batchs_context_is_part_of_each_events_size() {
    let app = TestApp::start_with(&[("BECKON_LIMIT_EVENT_BYTES", "4KiB")]);
    let batch = |size: usize| {
        json!({
            "context": {"note": "x".repeat(size)},
            "batch": [{"type": "track", "userId": "u", "event": "e"}],
        })
    };
    let answer = app.client().post("/v1/batch", &batch(3_000)).expect(200);
    assert_eq!(answer["accepted"], 1, "{answer}");
    let answer = app.client().post("/v1/batch", &batch(4_096)).expect(200);
    assert_eq!(answer["rejected"][0]["code"], "event_too_large", "{answer}");
    assert_ledger(&app);
}

/// The JSON library reads 128 levels; the row wraps the value into some more.
#[test]
fn a_deep_refused_value_can_be_read_again_and_does_not_stop_a_replay() {
    let app = TestApp::start();
    let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
    let body = format!(r#"{{"user_id":"u","event":"e","event_id":"x","properties":{deep}}}"#);
    let answer = app.client().post_text("/v1/track", &body).expect(200);
    assert_eq!(answer["rejected"][0]["code"], "invalid_field", "{answer}");
    let id = &rejected(&app.admin(), "")[0]["id"];
    let path = format!("/v1/admin/rejected/{id}");
    let shown = app.admin().get(&path);
    assert_eq!(shown.status, 200);
    // The value is shown as a text.
    let quoted = format!(r#""value":"{deep}""#);
    assert!(shown.text().contains(&quoted), "{}", shown.text());
    assert_eq!(replay(&app, id)["outcome"], "refused");
    // As rows of earlier versions have it.
    sql::run(
        &mut app.sql(),
        &format!(r#"UPDATE rejected_events SET fields = '[{{"value": {deep}}}]'"#),
    );
    let shown = app.admin().get(&path);
    assert_eq!(shown.status, 200);
    assert!(shown.text().contains(&deep), "{}", shown.text());
    assert_eq!(replay(&app, id)["outcome"], "refused");
}

#[test]
fn one_poison_event_among_a_thousand_costs_itself_and_is_stored_after_the_fix() {
    let mut app = TestApp::start_with(&[("BECKON_LIMIT_EVENT_BYTES", "4KiB")]);
    let happened = now() - TimeDelta::hours(3);
    let batch = batch_with_poison(1_000, 617, happened);
    let answer = app.client().post("/v1/batch", &batch).expect(200);
    assert_eq!(answer["accepted"], 999, "{answer}");
    assert_eq!(answer["rejected"][0]["index"], 617);
    assert_eq!(count(&app, "events"), 999);

    let listed = rejected(&app.admin(), "");
    assert_eq!(listed.len(), 1);
    let (id, row) = (&listed[0]["id"], &listed[0]);
    assert_eq!(row["code"], "event_too_large");
    assert_eq!(
        (&row["route"], &row["cut"]),
        (&json!("batch"), &json!(false))
    );
    let shown = app
        .admin()
        .get(&format!("/v1/admin/rejected/{id}"))
        .expect(200);
    let kept: Value = serde_json::from_str(shown["payload"].as_str().unwrap()).unwrap();
    assert_eq!(kept, batch["batch"][617]);
    assert_eq!(shown["context"], json!({"app": "shop"}));

    // Before the fix it is refused again, and nothing changes.
    let refused = replay(&app, id);
    assert_eq!(refused["outcome"], "refused", "{refused}");
    assert_eq!(refused["code"], "event_too_large");
    assert_eq!(
        (count(&app, "events"), count(&app, "rejected_events")),
        (999, 1)
    );

    assert_ledger(&app);

    restart_with(&mut app, "BECKON_LIMIT_EVENT_BYTES", "1MiB");
    let stored = replay(&app, id);
    assert_eq!(stored["outcome"], "stored", "{stored}");
    assert_eq!(count(&app, "events"), 1_000);
    let query = "SELECT id::text AS id, properties, context, timestamp, received_at, \
                 timestamp - (SELECT min(timestamp) FROM events WHERE user_id = 'u6') AS off \
                 FROM events WHERE properties ->> 'n' = '617'";
    let found = sql::rows(&mut app.sql(), query);
    assert_eq!(found[0]["id"], stored["event_id"]);
    assert_eq!(found[0]["properties"], batch["batch"][617]["properties"]);
    assert_eq!(found[0]["context"], json!({"app": "shop"}));
    assert_eq!(
        found[0]["off"], "00:00:00",
        "corrected as its neighbours: {found:?}"
    );
    let timestamp = found[0]["timestamp"].as_str().unwrap();
    let timestamp = DateTime::parse_from_rfc3339(timestamp).unwrap().to_utc();
    assert!((timestamp - happened - TimeDelta::hours(1)).abs() < TimeDelta::minutes(1));

    // A second replay is a duplicate, whether or not the first one was noted.
    let again = replay(&app, id);
    assert_eq!(again["outcome"], "duplicate", "{again}");
    assert_eq!(again["event_id"], stored["event_id"]);
    let forget = "UPDATE rejected_events SET replayed_at = NULL, replayed_as = NULL";
    sql::run(&mut app.sql(), forget);
    let again = replay(&app, id);
    assert_eq!(again["outcome"], "duplicate", "{again}");
    assert_eq!(again["event_id"], stored["event_id"]);
    assert_eq!(count(&app, "events"), 1_000);
    assert_eq!(
        rejected(&app.admin(), "?replayed=true")[0]["replayed_as"],
        stored["event_id"]
    );
    assert!(rejected(&app.admin(), "?replayed=false").is_empty());
    assert_ledger(&app);
    // The first call stays rejected; the replays are calls of their own: one stored, and of the
    // two duplicates the one that had to ask.
    let sums = app.admin().get("/v1/admin/ledger").expect(200);
    let total = |name: &str| -> i64 {
        let days = sums["days"].as_array().unwrap().iter();
        days.map(|day| day[name].as_i64().unwrap()).sum()
    };
    let sums = ["received", "stored", "duplicate", "rejected"].map(total);
    assert_eq!(sums, [1_002, 1_000, 1, 1]);
}

#[test]
fn what_ingest_refuses_again_is_kept_once_more_and_not_replayed_twice() {
    let mut app = TestApp::start_with(&[("BECKON_LIMIT_TRAITS_BYTES", "1KiB")]);
    let traits = json!({"bio": "b".repeat(2_000), "plan": "pro", "n": 1.0, "nul": "a\u{0}b"});
    let call = json!({"type": "identify", "userId": "u", "anonymousId": "a", "messageId": "m-1",
                      "traits": traits, "context": {"ip": "1.2.3.4"}});
    let page = json!({"type": "page", "userId": "u", "messageId": "m-2", "name": "Home"});
    let batch = json!({"batch": [call, page, {"type": "track", "userId": "u"}]});
    let answer = app.client().post("/v1/batch", &batch).expect(200);
    assert_eq!(answer["rejected"].as_array().unwrap().len(), 2, "{answer}");
    let all = app
        .admin()
        .post("/v1/admin/rejected/replay", &json!({}))
        .expect(200);
    assert_eq!(
        (&all["refused"], &all["stored"]),
        (&json!(2), &json!(0)),
        "{all}"
    );
    assert_eq!(all["results"][0]["code"], "traits_too_large");
    assert_eq!(all["results"][1]["code"], "invalid_field");
    assert_eq!(all["results"][1]["fields"][0]["path"], "event");
    // The attempt that reached ingest is on record, beside the event it was about.
    let listed = rejected(&app.admin(), "");
    assert_eq!(listed.len(), 3, "{listed:?}");
    let attempt = listed
        .iter()
        .find(|row| !row["replay_of"].is_null())
        .unwrap();
    assert_eq!(attempt["replay_of"], all["results"][0]["id"]);
    let again = app
        .admin()
        .post("/v1/admin/rejected/replay", &json!({}))
        .expect(200);
    assert_eq!(again["refused"], 2, "attempts are not replayed: {again}");

    restart_with(&mut app, "BECKON_LIMIT_TRAITS_BYTES", "256KiB");
    let path = "/v1/admin/rejected/replay?code=traits_too_large";
    let fixed = app.admin().post(path, &json!({})).expect(200);
    assert_eq!(
        (&fixed["stored"], &fixed["refused"]),
        (&json!(1), &json!(0)),
        "{fixed}"
    );
    let person = app.admin().get("/v1/admin/users/a").expect(200);
    assert_eq!(person["id"], "u", "the link is made: {person}");
    assert_eq!(person["traits"]["bio"], traits["bio"]);
    let event = sql::texts(
        &mut app.sql(),
        "SELECT properties::text || ' ' || context::text AS value FROM events WHERE kind = 1",
    );
    assert_eq!(
        event,
        [format!("{} {{\"ip\":\"1.2.3.4\"}}", call["traits"])]
    );
    let late = json!({"batch": [call]});
    let duplicate = app.client().post("/v1/batch", &late).expect(200);
    assert_eq!(
        duplicate["duplicates"], 1,
        "its own message id holds: {duplicate}"
    );
    let audited = sql::rows(
        &mut app.sql(),
        "SELECT action, object_kind, object_id, request_id IS NOT NULL AS asked FROM audit_log \
         WHERE action = 'replay'",
    );
    let id = fixed["results"][0]["id"].to_string();
    assert_ledger(&app);
    let row = json!({"action": "replay", "object_kind": "rejected_event", "object_id": id, "asked": true});
    assert_eq!(audited, [row]);
}

#[test]
fn lists_are_filtered_and_paged_without_gaps() {
    let app = TestApp::start();
    let project = default_project(&mut app.sql());
    sql::run(
        &mut app.sql(),
        &format!(
            "INSERT INTO rejected_events (project_id, received_at, code, message, message_id, payload)
             SELECT {project}, timestamptz '2026-03-01' + n / 10 * interval '1 hour',
                    CASE WHEN n % 2 = 0 THEN 'too_deep' ELSE 'invalid_field' END, 'm',
                    'id-' || n, '{{}}' FROM generate_series(0, 249) AS n"
        ),
    );
    let mut seen = Vec::new();
    let mut query = "?limit=60&code=too_deep".to_owned();
    loop {
        let page = app
            .admin()
            .get(&format!("/v1/admin/rejected{query}"))
            .expect(200);
        assert_eq!(page["total"], 125);
        let rows = page["rejected"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
        assert!(seen.len() <= 125, "a row is listed twice");
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=60&code=too_deep&cursor={cursor}"),
            None => break,
        }
    }
    let mut sorted = seen.clone();
    sorted.sort_unstable_by(|one, other| other.cmp(one));
    sorted.dedup();
    assert_eq!(
        (seen.len(), &seen),
        (125, &sorted),
        "newest first, each once"
    );
    assert_eq!(
        rejected(&app.admin(), "?message_id=id-7")[0]["code"],
        "invalid_field"
    );
    let hour = "?from=2026-03-01T02:00:00Z&to=2026-03-01T03:00:00Z";
    assert_eq!(rejected(&app.admin(), hour).len(), 10);
    for odd in [
        "code=x",
        "replayed=x",
        "cursor=x",
        "from=x",
        "limit=x",
        "message_id=%00",
    ] {
        let refused = app.admin().get(&format!("/v1/admin/rejected?{odd}"));
        assert_eq!(refused.status, 400, "{odd}");
        let refused = app
            .admin()
            .post(&format!("/v1/admin/rejected/replay?{odd}"), &json!({}));
        assert_eq!(refused.status, 400, "{odd}");
    }
    for odd in ["0", "x", "99999999999999999999", "-1"] {
        let path = format!("/v1/admin/rejected/{odd}");
        assert_eq!(app.admin().get(&path).status, 404, "{odd}");
        let missing = app.admin().post(&format!("{path}/replay"), &json!({}));
        assert_eq!(missing.status, 404, "{odd}");
    }
}

#[test]
fn a_replay_by_filter_goes_on_where_the_last_one_ended() {
    let app = TestApp::start();
    let project = default_project(&mut app.sql());
    // Two in three are good today: a newer version knows more than the one that refused them.
    sql::run(
        &mut app.sql(),
        &format!(
            "INSERT INTO rejected_events (project_id, received_at, code, message, route, payload,
                                          \"timestamp\")
             SELECT {project}, now() - interval '1 day', 'invalid_field', '', 'track',
                    CASE WHEN n % 3 = 0 THEN '{{\"user_id\":\"u\",\"event\":\"\"}}'
                         ELSE '{{\"user_id\":\"u\",\"event\":\"e\"}}' END, '2026-03-01'
             FROM generate_series(1, 30) AS n"
        ),
    );
    // A filter that is not understood must not be taken for none.
    for (query, body) in [("?cod=x", json!({})), ("", json!({"code": "x"}))] {
        let path = format!("/v1/admin/rejected/replay{query}");
        let answer = app.admin().post(&path, &body);
        answer.expect_problem(400, "invalid_field");
    }
    let (mut stored, mut refused, mut calls) = (0, 0, 0);
    let mut query = "?limit=7".to_owned();
    loop {
        let path = format!("/v1/admin/rejected/replay{query}");
        let page = app.admin().post(&path, &json!({})).expect(200);
        stored += page["stored"].as_i64().unwrap();
        refused += page["refused"].as_i64().unwrap();
        calls += 1;
        assert!(calls <= 5, "the replay does not come to its end");
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=7&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!((stored, refused, calls), (20, 10, 5));
    assert_eq!(count(&app, "events"), 20);
    let metrics = Scrape::of(&app.admin());
    for (name, events) in [("received", 20.0), ("stored", 20.0), ("rejected", 0.0)] {
        let name = format!("beckon_ingest_{name}_events_total");
        assert_eq!(metrics.sum(&name, ""), events, "{name}");
    }
    assert_eq!(
        count(&app, "rejected_events"),
        30,
        "decoding refused; nothing is added"
    );
    let times = "SELECT count(*) FROM events WHERE timestamp = '2026-03-01' \
                 AND received_at > now() - interval '1 hour'";
    assert_eq!(sql::number(&mut app.sql(), times), 20);
}

/// Runs `beckon rejected` and gives its exit code and what it printed.
fn command(app: &TestApp, variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let mut launch = app.launch();
    for (name, value) in variables {
        launch = launch.set(name, value);
    }
    let output = launch
        .command(&[&["rejected"], arguments].concat())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[test]
fn the_command_lists_shows_and_replays_beside_a_running_server() {
    let app = TestApp::start_with(&[("BECKON_LIMIT_TRAITS_BYTES", "1KiB")]);
    let campaign = json!({"name": "for pros", "status": "active", "trigger": "open",
                          "targeting": {"==": [{"var": "user.traits.plan"}, "pro"]}});
    app.admin()
        .post("/v1/admin/campaigns", &campaign)
        .expect(201);
    let open = json!({"user_id": "u", "event": "open"});
    let matched = || {
        let answer = app.client().post("/v1/track", &open).expect(200);
        answer["matched"].as_array().unwrap().len()
    };
    assert_eq!(matched(), 0, "the server remembers them now");
    let traits = json!({"plan": "pro", "bio": "\u{1b}[2J".repeat(500)});
    let identify = json!({"type": "identify", "userId": "u", "messageId": "m", "traits": traits});
    let bad = json!({"type": "track", "userId": "u", "messageId": "\u{1b}[31m", "event": ""});
    let batch = json!({"batch": [identify, bad]});
    app.client().post("/v1/batch", &batch).expect(200);

    let (exit, said) = command(&app, &[], &["list"]);
    assert_eq!(exit, 0, "{said}");
    assert!(
        said.contains("traits_too_large") && said.contains("invalid_field"),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let (_, said) = command(&app, &[], &["list", "--code", "traits_too_large", "--json"]);
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let id = listed[0]["id"].to_string();
    let (exit, said) = command(&app, &[], &["show", &id, "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((exit, &shown["payload"]["traits"]), (0, &traits));
    let (_, said) = command(&app, &[], &["show", &id]);
    assert!(
        said.contains("messageId") && !said.contains('\u{1b}'),
        "{said:?}"
    );
    let (exit, said) = command(&app, &[], &["show", "999999"]);
    assert_eq!(exit, 1, "{said}");

    for wrong in [
        &["replay"][..],
        &["replay", "1", "--all"],
        &["list", "--code", "x"],
    ] {
        let (exit, said) = command(&app, &[], wrong);
        assert_eq!(exit, 2, "{wrong:?}: {said}");
    }
    let (exit, said) = command(&app, &[], &["replay", &id, "--json"]);
    let refused: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (exit, &refused["results"][0]["code"]),
        (1, &json!("traits_too_large"))
    );
    assert_eq!(matched(), 0);

    let fix = [("BECKON_LIMIT_TRAITS_BYTES", "256KiB")];
    let (exit, said) = command(&app, &fix, &["replay", "--all"]);
    assert_eq!(exit, 1, "one of two is still bad: {said}");
    assert!(
        said.contains("1 stored, 0 stored before, 1 still refused"),
        "{said}"
    );
    assert_eq!(
        matched(),
        1,
        "the server does not decide on what it remembered"
    );
    let (exit, said) = command(&app, &fix, &["replay", &id]);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("0 stored, 1 stored before"), "{said}");
    let actor = "SELECT count(*) FROM audit_log WHERE action = 'replay' AND actor = 'cli'";
    assert_eq!(sql::number(&mut app.sql(), actor), 1);
    assert_ledger(&app);
}
