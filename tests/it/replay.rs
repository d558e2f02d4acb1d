//! A draft tried on stored events: over HTTP, from the command line, and beside ingest.

mod running;

use std::time::Duration;

use beckon::model::ProjectId;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::import::import_text;
use crate::support::sql::{self, KeyRow};
use crate::support::{Client, TestApp, now};

const PATH: &str = "/v1/admin/campaigns/replay";
const OTHER_ADMIN: &str = "admin_key_of_another_project_0123456789";

fn lines(client: &Client, question: &Value) -> Vec<Value> {
    let answer = client.post(PATH, question);
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn report(client: &Client, question: &Value) -> Value {
    let mut lines = lines(client, question);
    let last = lines.pop().unwrap();
    assert!(
        lines.iter().all(|line| line["progress"].is_object()),
        "{lines:?}"
    );
    assert!(last["report"].is_object(), "{last}");
    last["report"].clone()
}

fn identify(app: &TestApp, user: &str, traits: &Value) {
    let call = json!({"user_id": user, "traits": traits});
    app.client().post("/v1/identify", &call).expect(200);
}

/// Tracks; returns the event's id and the ids of what it was answered with.
fn track(app: &TestApp, user: &str, total: i64) -> (Value, Vec<Value>) {
    let call = json!({"user_id": user, "event": "Ordered", "properties": {"total": total}});
    let answer = app.client().post("/v1/track", &call).expect(200);
    let matched = answer["matched"].as_array().unwrap().iter();
    let matched = matched.map(|campaign| campaign["id"].clone()).collect();
    (answer["event"]["id"].clone(), matched)
}

fn draft() -> Value {
    json!({
        "name": "Draft", "status": "draft", "trigger": "Ordered",
        "rules": [{"type": "event", "field": "total", "operator": ">=", "value": 50}],
        "targeting": {"==": [{"var": "user.traits.plan"}, "free"]},
    })
}

fn create(app: &TestApp, campaign: &Value) -> String {
    let made = app
        .admin()
        .post("/v1/admin/campaigns", campaign)
        .expect(201);
    made["id"].as_str().unwrap().to_owned()
}

/// Ada was free, then pro, then free again; Bob was always free; Cleo is nobody's plan.
///
/// Returns the events of the draft's trigger and what they were answered with, oldest first.
fn played(app: &TestApp) -> Vec<(Value, Vec<Value>)> {
    let mut tracked = Vec::new();
    for (plan, total) in [("free", 80), ("pro", 80), ("free", 50)] {
        identify(app, "ada", &json!({"plan": plan, "n": total}));
        tracked.push(track(app, "ada", total));
    }
    identify(app, "bob", &json!({"plan": "free"}));
    tracked.push(track(app, "bob", 99));
    tracked.push(track(app, "bob", 49));
    tracked.push(track(app, "cleo", 500));
    let other = json!({"user_id": "bob", "event": "Opened", "properties": {"total": 99}});
    app.client().post("/v1/track", &other).expect(200);
    // What they are now must not count.
    identify(app, "bob", &json!({"plan": "pro"}));
    identify(app, "cleo", &json!({"plan": "free"}));
    tracked
}

#[test]
fn a_replay_matches_what_the_campaign_would_have_matched_when_it_was_live() {
    let app = TestApp::start();
    let live = create(
        &app,
        &json!({
            "name": "Live", "status": "active", "trigger": "Ordered",
            "rules": [{"type": "event", "field": "total", "operator": ">", "value": 70}],
        }),
    );
    // The same campaign, live: what it is answered with is what the replay must find.
    let twin = json!({"name": "Twin", "status": "active", "trigger": "Ordered",
                      "rules": draft()["rules"], "targeting": draft()["targeting"]});
    let twin = create(&app, &twin);
    let tracked = played(&app).into_iter();
    let expected: Vec<Value> = tracked
        .filter(|(_, matched)| matched.contains(&json!(twin)))
        .map(|(event, _)| event)
        .collect();
    assert_eq!(expected.len(), 3);
    let report = report(&app.admin(), &json!({"campaign": draft()}));
    assert_eq!(report["events"], 6, "{report}");
    assert_eq!(
        (&report["matches"], &report["users"]),
        (&json!(3), &json!(2)),
        "{report}"
    );
    assert_eq!(report["first_closed"]["rules"], 1);
    assert_eq!(report["first_closed"]["targeting"], 2);
    let today = now().date_naive();
    assert_eq!(
        report["by_day"],
        json!([{"day": today, "events": 6, "matches": 3}])
    );
    // The twin, on the same facts, matches as the draft does.
    let overlap = json!([{"campaign_id": twin, "events": 3, "users": 2},
                         {"campaign_id": live, "events": 2, "users": 2}]);
    assert_eq!(report["live_overlap"], overlap);
    // One of each person, oldest first.
    let sample: Vec<&Value> = report["sample"].as_array().unwrap().iter().collect();
    assert_eq!(sample.len(), 2);
    assert_eq!(sample[0]["event_id"], expected[0]);
    assert_eq!(sample[1]["event_id"], expected[2]);
    assert_eq!(sample[1]["user_id"], "bob");
    assert_eq!(report["traits"]["uncertain"], 0);
    assert_eq!(report["traits"]["rebuilt"], 5, "{report}");
}

/// What somebody said before the span counts, if it can still be read.
#[test]
fn traits_that_were_set_before_the_span_are_those_of_then() {
    let app = TestApp::start();
    for user in ["ada", "bob", "cleo"] {
        identify(&app, user, &json!({"plan": "free"}));
        sql::age_events(&mut app.sql(), user, "identify", 30);
    }
    let expected: Vec<Value> = ["ada", "bob", "cleo"]
        .map(|user| {
            let (event, _) = track(&app, user, 80);
            sql::age_events(&mut app.sql(), user, "Ordered", 5);
            // Since then they said the same again, or something else.
            identify(&app, user, &json!({"plan": "pro"}));
            sql::age_events(&mut app.sql(), user, "identify", 2);
            event
        })
        .into();
    let found = |report: &Value| -> Vec<Value> {
        let sample = report["sample"].as_array().unwrap().iter();
        sample.map(|found| found["event_id"].clone()).collect()
    };
    let question = json!({"campaign": draft()});
    let whole = report(&app.admin(), &question);
    assert_eq!(found(&whole), expected, "{whole}");
    let traits = |report: &Value| {
        let of = |name: &str| report["traits"][name].as_u64().unwrap();
        (of("unchanged"), of("rebuilt"), of("uncertain"))
    };
    assert_eq!(traits(&whole), (0, 3, 0));
    // Bob did a lot in between, so that it is not looked for; of Cleo it is not there any more.
    sql::run(
        &mut app.sql(),
        "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
                             \"timestamp\", received_at) \
         SELECT received_on, gen_random_uuid(), project_id, person_id, 0, 'Opened', user_id, \
                \"timestamp\", received_at + n * interval '1 ms' \
         FROM events, generate_series(1, 200) n WHERE user_id = 'bob' AND name = 'identify' \
           AND received_on < current_date - 20; \
         DELETE FROM events WHERE user_id = 'cleo' AND received_on < current_date - 20; \
         UPDATE projects SET retention_days = 20",
    );
    let cut = report(&app.admin(), &question);
    assert_eq!(found(&cut), expected[..1], "{cut}");
    assert_eq!(traits(&cut), (0, 1, 2), "{cut}");
    sql::run(&mut app.sql(), "UPDATE projects SET retention_days = 90");
    assert_eq!(traits(&report(&app.admin(), &question)), (0, 2, 1));
}

/// However much somebody said, a replay reads a part of it that it has room for.
#[test]
fn of_very_large_calls_the_newest_are_read() {
    let app = TestApp::start();
    track(&app, "ada", 80);
    for n in 0..4 {
        identify(&app, "ada", &json!({"plan": "x".repeat(200_000), "n": n}));
        track(&app, "ada", 80);
    }
    let report = report(&app.admin(), &json!({"campaign": draft()}));
    // The last call is that of now, the one before it was read, and the others take too much.
    let known = json!({"unchanged": 1, "rebuilt": 1, "uncertain": 3});
    assert_eq!(report["traits"], known, "{report}");
}

/// Somebody who came within the span may have been given a trait by a call that is not read, too.
#[test]
fn of_very_many_calls_the_newest_are_read() {
    let app = TestApp::start();
    identify(&app, "ada", &json!({"plan": "free"}));
    for n in 0..120 {
        identify(&app, "ada", &json!({"n": n}));
        if n == 60 {
            track(&app, "ada", 80);
        }
    }
    identify(&app, "ada", &json!({"plan": "pro"}));
    let report = report(&app.admin(), &json!({"campaign": draft()}));
    let known = json!({"unchanged": 0, "rebuilt": 0, "uncertain": 1});
    assert_eq!(report["traits"], known, "{report}");
}

/// What an import gave somebody is not kept once a call has changed it.
#[test]
fn traits_that_an_import_may_have_given_are_uncertain() {
    let app = TestApp::prepared(&[], |connection| {
        let project = ProjectId(sql::default_project(connection));
        let people = json!({"users": {"ada": {"plan": "free"}}});
        import_text(connection, project, &people.to_string());
    });
    track(&app, "ada", 80);
    identify(&app, "ada", &json!({"plan": "pro"}));
    track(&app, "ada", 80);
    let report = report(&app.admin(), &json!({"campaign": draft()}));
    let known = json!({"unchanged": 1, "rebuilt": 0, "uncertain": 1});
    assert_eq!(report["traits"], known, "{report}");
}

/// Whatever they did before counts, replayed or not.
#[test]
fn people_were_last_seen_when_they_were_last_seen() {
    let app = TestApp::start();
    let away = json!({"!": [{"within_last": [{"var": "user.last_seen_at"}, "7d"]}]});
    let draft = json!({"name": "d", "trigger": "Ordered", "targeting": away});
    let twin = create(
        &app,
        &json!({"name": "t", "status": "active", "trigger": "Ordered",
                                    "targeting": away}),
    );
    for (user, days) in [("ada", 1), ("bob", 9)] {
        let opened = json!({"user_id": user, "event": "Opened"});
        app.client().post("/v1/track", &opened).expect(200);
        sql::age_events(&mut app.sql(), user, "Opened", days);
    }
    sql::age_events(&mut app.sql(), "ada", "Ordered", 30);
    let (ada, _) = track(&app, "ada", 1);
    let (bob, _) = track(&app, "bob", 1);
    track(&app, "bob", 1);
    let report = report(&app.admin(), &json!({"campaign": draft}));
    assert_eq!(
        (&report["events"], &report["matches"]),
        (&json!(3), &json!(1)),
        "{report}"
    );
    assert_eq!(report["sample"][0]["event_id"], bob);
    for (event, is_shown) in [(ada, false), (bob, true)] {
        let question = json!({"event_id": event, "campaign_id": twin});
        let explained = app.admin().post("/v1/admin/explain", &question).expect(200);
        let gates = explained["campaigns"][0]["gates"].as_array().unwrap();
        let targeting = gates
            .iter()
            .find(|gate| gate["gate"] == "targeting")
            .unwrap();
        assert_eq!(targeting["passes"], is_shown, "{targeting}");
    }
}

/// Events that are committed together are told of each other, as they would be alone, and so is a
/// list that follows at once, whose people are read anew.
#[test]
fn in_a_list_people_were_last_seen_at_the_event_before() {
    let mut app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1")]);
    let away = json!({"!": [{"within_last": [{"var": "user.last_seen_at"}, "7d"]}]});
    let campaign =
        json!({"name": "t", "status": "active", "trigger": "Ordered", "targeting": away});
    create(&app, &campaign);
    let users = ["ada", "bob", "cyd"];
    for user in users {
        let opened = json!({"user_id": user, "event": "Opened"});
        app.client().post("/v1/track", &opened).expect(200);
        sql::age_events(&mut app.sql(), user, "Opened", 9);
    }
    // Nobody is remembered.
    app.terminate(Duration::from_secs(10));
    let aged =
        "UPDATE persons SET last_seen_at = now() - interval '9 days'; DELETE FROM people_seen";
    sql::run(&mut app.sql(), aged);
    app.restart();
    let ordered = |user: &str| json!({"type": "track", "userId": user, "event": "Ordered"});
    let identified =
        |user: &str, n: u32| json!({"type": "identify", "userId": user, "traits": {"n": n}});
    let send = |list: Value| {
        let body = json!({ "batch": list });
        let answer = app
            .client()
            .post("/v1/batch?matched=true", &body)
            .expect(200);
        let shown = |result: &Value| result["matched"].as_array().unwrap().len();
        let results = answer["results"].as_array().unwrap();
        results.iter().map(shown).collect::<Vec<usize>>()
    };
    assert_eq!(send(json!([ordered("ada"), ordered("ada")])), [1, 0]);
    let mixed = json!([ordered("bob"), identified("bob", 1), ordered("bob")]);
    assert_eq!(send(mixed), [1, 0, 0]);
    let first = json!([ordered("cyd"), ordered("ada")]);
    assert_eq!(send(first), [1, 0]);
    let later = json!([ordered("cyd"), identified("cyd", 1)]);
    assert_eq!(send(later), [0, 0]);
    let report = report(&app.admin(), &json!({ "campaign": campaign }));
    assert_eq!(
        (&report["events"], &report["matches"]),
        (&json!(7), &json!(3)),
        "{report}"
    );
}

/// The id that an alias names is kept with it, but no decision saw it.
#[test]
fn an_alias_is_decided_as_it_was() {
    let app = TestApp::start();
    let rule = json!({"exists": [{"var": "event.properties.previousId"}]});
    let body = json!({"name": "d", "status": "active", "trigger": "alias", "targeting": rule});
    create(&app, &body);
    let call = json!({"userId": "ada", "previousId": "a1"});
    app.client().post("/v1/alias", &call).expect(200);
    let event = sql::texts(&mut app.sql(), "SELECT id::text AS value FROM events");
    let question = json!({"event_id": event[0]});
    let explained = app.admin().post("/v1/admin/explain", &question).expect(200);
    let live = app
        .client()
        .post("/v1/track", &json!({"user_id": "ada", "event": "alias"}));
    assert_eq!(live.expect(200)["matched"], json!([]));
    assert_eq!(explained["matched"], json!([]), "{explained}");
    let report = report(&app.admin(), &json!({"campaign": body}));
    assert_eq!(report["matches"], 0, "{report}");
}

#[test]
fn the_span_is_cut_by_the_time_of_receipt_and_days_are_told_apart() {
    let app = TestApp::start();
    let (first, _) = track(&app, "ada", 80);
    track(&app, "ada", 80);
    let draft = json!({"name": "d", "trigger": "Ordered"});
    // The first was received yesterday, in yesterday's partition.
    sql::run(
        &mut app.sql(),
        &format!(
            "UPDATE events SET received_on = current_date - 1, \
             received_at = received_at - interval '1 day' WHERE id = {}",
            sql::quoted(first.as_str().unwrap())
        ),
    );
    let both = report(&app.admin(), &json!({"campaign": draft}));
    let (today, yesterday) = (
        now().date_naive(),
        (now() - TimeDelta::days(1)).date_naive(),
    );
    let days = json!([{"day": yesterday, "events": 1, "matches": 1},
                      {"day": today, "events": 1, "matches": 1}]);
    assert_eq!(both["by_day"], days);
    let hour_ago = now() - TimeDelta::hours(1);
    let late = report(&app.admin(), &json!({"campaign": draft, "from": hour_ago}));
    assert_eq!(late["events"], 1);
    let early = report(&app.admin(), &json!({"campaign": draft, "to": hour_ago}));
    assert_eq!(early["events"], 1);
    // A schedule counts only if it is asked for.
    let scheduled = json!({"name": "d", "trigger": "Ordered", "schedule": {"start": hour_ago}});
    let without = report(&app.admin(), &json!({"campaign": scheduled}));
    assert_eq!(without["matches"], 2);
    let kept = json!({"campaign": scheduled, "keep_schedule": true});
    let kept = report(&app.admin(), &kept);
    assert_eq!(
        (&kept["matches"], &kept["first_closed"]["schedule"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn mistakes_are_refused_and_other_projects_are_not_seen() {
    let app = TestApp::prepared(&[], |connection| {
        let other = sql::project(connection, "other");
        KeyRow::good(other, "admin", OTHER_ADMIN).insert(connection);
    });
    track(&app, "ada", 80);
    let draft = json!({"name": "d", "trigger": "Ordered"});
    let theirs = report(&app.with_key(OTHER_ADMIN), &json!({"campaign": draft}));
    assert_eq!(theirs["events"], 0);
    let soon = now() + TimeDelta::hours(1);
    for (odd, status, code) in [
        (json!({}), 400, "invalid_field"),
        (json!({"campaign": []}), 400, "invalid_field"),
        (
            json!({"campaign": {"name": "no trigger"}}),
            400,
            "invalid_field",
        ),
        // As saving it would.
        (
            json!({"campaign": {"trigger": "a\0b"}}),
            400,
            "invalid_field",
        ),
        (
            json!({"campaign": {"trigger": "e", "status": "odd"}}),
            400,
            "invalid_field",
        ),
        (
            json!({"campaign": draft, "form": soon}),
            400,
            "invalid_field",
        ),
        (
            json!({"campaign": draft, "from": "monday"}),
            400,
            "invalid_field",
        ),
        (
            json!({"campaign": draft, "from": soon}),
            400,
            "invalid_field",
        ),
        (
            json!({"campaign": draft, "keep_schedule": 1}),
            400,
            "invalid_field",
        ),
        (
            json!({"campaign": {"trigger": "e", "targeting": {"nope": []}}}),
            422,
            "invalid_rule",
        ),
    ] {
        let refused = app.admin().post(PATH, &odd).expect(status);
        assert_eq!(refused["code"], code, "{odd}");
    }
    let metrics = app.admin().get("/metrics").text();
    let route = "route=\"/v1/admin/campaigns/replay\",status=\"400\"";
    assert!(metrics.contains(route), "{metrics}");
}

#[test]
fn the_command_line_replays_the_same() {
    let app = TestApp::start();
    played(&app);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), draft().to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    let run = |arguments: &[&str]| app.launch().command(arguments).output().unwrap();
    let json = run(&["replay", "--campaign", path, "--json"]);
    assert!(json.status.success(), "{json:?}");
    let mut said: Value = serde_json::from_slice(&json.stdout).unwrap();
    let progress = String::from_utf8(json.stderr).unwrap();
    assert!(progress.contains("0 events, 0 matches"), "{progress}");
    let mut answer = report(&app.admin(), &json!({"campaign": draft()}));
    for document in [&mut said, &mut answer] {
        for end in ["from", "to"] {
            let time = document[end]
                .as_str()
                .unwrap()
                .parse::<DateTime<Utc>>()
                .unwrap();
            assert!((now() - time) < TimeDelta::days(8));
            document[end] = Value::Null;
        }
    }
    assert_eq!(said, answer);
    let text = run(&["replay", "--campaign", path, "--from", "2026-01-01"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("3 of 6 events of \"Ordered\" match, of 2 people"),
        "{text}"
    );
    for wrong in [
        &["replay", "--campaign", "/no/such/file"][..],
        &["replay", "--campaign", path, "--from", "2999-01-01"][..],
        &["replay"][..],
    ] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
