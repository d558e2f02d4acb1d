//! What is stored of a call, when it happened, what is answered, and that the same call sent again
//! is the same event.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::sql::{self, quoted};
use crate::support::{TestApp, assert_ledger, now};

fn track(id: &str) -> Value {
    json!({"user_id": "u", "event": "e", "event_id": id, "properties": {"a": 1}})
}

#[test]
fn a_call_sent_again_is_the_same_event() {
    let app = TestApp::start();
    let client = app.client();
    let first = client.post("/v1/track", &track("same")).expect(200);
    assert_ne!(first["duplicate"], true, "{first}");
    for member in ["ok", "success"] {
        assert_eq!(first[member], true, "{first}");
    }
    assert_eq!(first["status"], 1, "{first}");
    for _ in 0..3 {
        let again = client.post("/v1/track", &track("same")).expect(200);
        assert_eq!(again["duplicate"], true, "{again}");
        assert_eq!(again["event"]["id"], first["event"]["id"]);
    }
    // The id counts, not the body, nor the dialect it came in.
    let other = json!({"userId": "v", "event": "f", "messageId": "same"});
    let again = client.post("/v1/track", &other).expect(200);
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(again["event"]["id"], first["event"]["id"]);
    assert_eq!(sql::events_with_id(&mut app.sql(), "same"), 1);
    // Without an id every call is an event of its own.
    let nameless = json!({"user_id": "u", "event": "nameless"});
    let ids: BTreeSet<String> = (0..3)
        .map(|_| client.post("/v1/track", &nameless).expect(200)["event"]["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_duplicate_has_no_effect_and_is_matched_anew() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let identify = |plan: &str, id: &str| {
        let body = json!({"user_id": "u", "traits": {"plan": plan}, "event_id": id});
        admin.post("/v1/identify", &body).expect(200)
    };
    assert_eq!(identify("free", "i-1")["user"], json!({"plan": "free"}));
    assert_eq!(identify("pro", "i-2")["user"], json!({"plan": "pro"}));
    // A late repetition must not bring the old plan back.
    let late = identify("free", "i-1");
    assert_eq!(late["duplicate"], true, "{late}");
    assert_eq!(late["user"], json!({"plan": "pro"}));
    let person = admin.get("/v1/admin/users/u").expect(200);
    assert_eq!(person["traits"]["plan"], "pro", "{person}");

    let before = client.post("/v1/track", &track("t-1")).expect(200);
    assert_eq!(before["matched"], json!([]));
    admin
        .post(
            "/v1/admin/campaigns",
            &json!({"name": "new", "status": "active", "trigger": "e"}),
        )
        .expect(201);
    let again = client.post("/v1/track", &track("t-1")).expect(200);
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(again["matched"][0]["name"], "new", "{again}");
}

#[test]
fn eight_connections_with_one_id_make_one_event() {
    let app = TestApp::start();
    for round in 0..20 {
        let id = format!("race-{round}");
        let start = Barrier::new(8);
        let answers: Vec<Value> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    let (client, id, start) = (app.client(), &id, &start);
                    scope.spawn(move || {
                        // Half of them for another person: the id decides, on whatever shard.
                        let user = if number % 2 == 0 { "u" } else { "v" };
                        let body = json!({"user_id": user, "event": "e", "event_id": id});
                        start.wait();
                        client.post("/v1/track", &body).expect(200)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let fresh = answers
            .iter()
            .filter(|answer| answer["duplicate"] != true)
            .count();
        assert_eq!(fresh, 1, "{answers:?}");
        let ids: BTreeSet<String> = answers
            .iter()
            .map(|answer| answer["event"]["id"].to_string())
            .collect();
        assert_eq!(ids.len(), 1, "{answers:?}");
        assert_eq!(sql::events_with_id(&mut app.sql(), &id), 1);
    }
    let received = "SELECT sum(received) FROM ingest_ledger";
    assert_eq!(sql::number(&mut app.sql(), received), 20 * 8);
    assert_ledger(&app);
}

#[test]
fn one_id_twice_in_a_batch_is_one_event() {
    let app = TestApp::start();
    let event = |id: &str, user: &str| json!({"type": "track", "userId": user, "event": "e", "messageId": id});
    let batch = json!({"batch": [
        event("twice", "u"), event("once", "u"), event("twice", "u"),
        event("across", "u"), event("across", "v"),
    ]});
    let answer = app.client().post("/v1/batch", &batch).expect(200);
    assert_eq!(answer["duplicates"], 2, "{answer}");
    assert_eq!(answer["rejected"], json!([]), "{answer}");
    let mut sql = app.sql();
    for id in ["twice", "once", "across"] {
        assert_eq!(sql::events_with_id(&mut sql, id), 1, "{id}");
    }
    let again = app.client().post("/v1/batch", &batch).expect(200);
    assert_eq!(again["duplicates"], 5, "{again}");
    assert_eq!(sql::number(&mut sql, "SELECT count(*) FROM events"), 3);
    let received = "SELECT sum(received) FROM ingest_ledger";
    assert_eq!(sql::number(&mut sql, received), 10);
    assert_ledger(&app);
}

/// The stored time of the event with this id.
fn stored_time(app: &TestApp, id: &str) -> DateTime<Utc> {
    let rows = sql::rows(
        &mut app.sql(),
        &format!(
            "SELECT to_char(\"timestamp\" AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS at
             FROM events WHERE message_id = {}",
            quoted(id)
        ),
    );
    assert_eq!(rows.len(), 1, "{id}");
    rows[0]["at"].as_str().unwrap().parse().unwrap()
}

#[test]
fn times_are_settled_by_the_table() {
    let app = TestApp::start();
    let client = app.client();
    let started = now();
    let ago = |seconds: i64| started - TimeDelta::seconds(seconds);
    let zoned = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let naive = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let year = 365 * 24 * 3600;
    let cases = [
        ("none", json!({}), started),
        ("plain", json!({"timestamp": zoned(ago(60))}), ago(60)),
        (
            "old",
            json!({"timestamp": zoned(ago(10 * year))}),
            ago(10 * year),
        ),
        (
            "future",
            json!({"timestamp": zoned(ago(-2 * 24 * 3600))}),
            started,
        ),
        (
            "near future",
            json!({"timestamp": zoned(ago(-3600))}),
            ago(-3600),
        ),
        (
            "naive near",
            json!({"timestamp": naive(ago(5 * 3600))}),
            started,
        ),
        (
            "naive far",
            json!({"timestamp": naive(ago(30 * 3600))}),
            ago(30 * 3600),
        ),
        // The client's clock is an hour slow: both its times are moved by an hour.
        (
            "skew",
            json!({"timestamp": zoned(ago(3660)), "sentAt": zoned(ago(3600))}),
            ago(60),
        ),
        // Less than 5 s is no skew worth a correction.
        (
            "steady",
            json!({"timestamp": zoned(ago(60)), "sentAt": zoned(ago(1))}),
            ago(60),
        ),
        // The client has corrected it itself.
        (
            "original",
            json!({"timestamp": zoned(ago(3660)), "originalTimestamp": zoned(ago(7200)),
            "sentAt": zoned(ago(3600))}),
            ago(3660),
        ),
        ("garbage", json!({"timestamp": "yesterday-ish"}), started),
    ];
    for (id, times, expected) in cases {
        let mut body = json!({"userId": "u", "event": "e", "messageId": id});
        for (name, value) in times.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = client.post("/v1/track", &body).expect(200);
        let stored = stored_time(&app, id);
        let off = (stored - expected).abs();
        assert!(
            off < TimeDelta::seconds(4),
            "{id}: {stored}, not {expected}"
        );
        assert_eq!(answer["event"]["ts"], stored.timestamp_millis(), "{id}");
    }
    let batch = json!({"sentAt": zoned(ago(3600)), "batch": [
        {"type": "track", "userId": "u", "event": "e", "messageId": "in batch",
            "timestamp": zoned(ago(3660))},
    ]});
    client.post("/v1/batch", &batch).expect(200);
    let off = (stored_time(&app, "in batch") - ago(60)).abs();
    assert!(off < TimeDelta::seconds(4), "the envelope's sentAt");
    // Retention counts from when an event was received, whatever it says of itself.
    let received = sql::number(
        &mut app.sql(),
        "SELECT count(*) FROM events
         WHERE received_on >= (now() AT TIME ZONE 'UTC')::date - 1
           AND received_at > now() - interval '5 minutes'",
    );
    assert_eq!(received, 12);
}

#[test]
fn leads_are_kept_as_events() {
    let app = TestApp::start();
    let leads = json!({"leads": [
        {"external_id": "lead-1", "name": "Ada", "email": "ada@example.com",
            "phone_number": "1", "properties": {"source": "fair"}},
        {"email": "bob@example.com"},
        {"name": "nobody"},
    ]});
    let answer = app.client().post("/v1/leads", &leads).expect(200);
    assert_eq!(answer["ok"], true, "{answer}");
    let mut sql = app.sql();
    let stored = sql::rows(
        &mut sql,
        "SELECT name, user_id, properties FROM events ORDER BY user_id NULLS LAST",
    );
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert_eq!(stored[0]["user_id"], "lead-1");
    assert_eq!(stored[0]["properties"], leads["leads"][0]);
    assert_eq!(stored[1]["properties"], leads["leads"][1]);
    let refused = sql::rows(&mut sql, "SELECT code, payload FROM rejected_events");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["code"], "missing_identity");
}

#[test]
fn every_kind_of_call_is_stored_with_its_details() {
    let app = TestApp::start();
    let client = app.client();
    for (path, body) in [
        (
            "/v1/page",
            json!({"userId": "u", "name": "Home", "category": "Docs",
            "properties": {"url": "/x"}, "messageId": "page"}),
        ),
        (
            "/v1/screen",
            json!({"userId": "u", "name": "Cart", "properties": {"items": 3},
            "messageId": "screen"}),
        ),
        (
            "/v1/group",
            json!({"userId": "u", "groupId": "g-1", "traits": {"name": "Acme"},
            "messageId": "group"}),
        ),
        (
            "/v1/identify",
            json!({"userId": "u", "traits": {"plan": "pro"},
            "messageId": "identify"}),
        ),
        (
            "/v1/track",
            json!({"userId": "u", "event": "Bought", "properties": {"total": 1},
            "context": {"ip": "1.2.3.4"}, "messageId": "track"}),
        ),
        (
            "/v1/alias",
            json!({"userId": "u", "previousId": "was-u", "messageId": "alias"}),
        ),
    ] {
        let answer = client.post(path, &body).expect(200);
        assert_eq!(answer["success"], true, "{path}: {answer}");
        assert_eq!(answer["status"], 1, "{path}: {answer}");
    }
    let dropped = client
        .post("/v1/m", &json!({"series": [{"metric": "x"}]}))
        .expect(200);
    assert_eq!(dropped["success"], true, "{dropped}");
    let mut sql = app.sql();
    let read = |sql: &mut diesel::PgConnection, id: &str| {
        let rows = sql::rows(
            sql,
            &format!(
                "SELECT kind, name, properties, context FROM events WHERE message_id = {}",
                quoted(id)
            ),
        );
        assert_eq!(rows.len(), 1, "{id}");
        rows.into_iter().next().unwrap()
    };
    let page = read(&mut sql, "page");
    assert_eq!((&page["kind"], &page["name"]), (&json!(2), &json!("page")));
    assert_eq!(
        page["properties"],
        json!({"url": "/x", "name": "Home", "category": "Docs"})
    );
    let screen = read(&mut sql, "screen");
    assert_eq!(screen["properties"], json!({"items": 3, "name": "Cart"}));
    let group = read(&mut sql, "group");
    assert_eq!(
        group["properties"],
        json!({"groupId": "g-1", "traits": {"name": "Acme"}})
    );
    assert_eq!(
        read(&mut sql, "identify")["properties"],
        json!({"plan": "pro"})
    );
    let track = read(&mut sql, "track");
    assert_eq!(
        (&track["kind"], &track["name"]),
        (&json!(0), &json!("Bought"))
    );
    assert_eq!(track["context"], json!({"ip": "1.2.3.4"}));
    assert_eq!(read(&mut sql, "alias")["kind"], 5);
    assert_eq!(sql::number(&mut sql, "SELECT count(*) FROM events"), 6);
}

#[test]
fn a_page_can_trigger_a_campaign() {
    let app = TestApp::start();
    app.admin()
        .post(
            "/v1/admin/campaigns",
            &json!({"name": "on page", "status": "active", "trigger": "page",
                "targeting": {"==": [{"var": "event.properties.name"}, "Home"]}}),
        )
        .expect(201);
    let page = |name: &str| {
        let body = json!({"anonymousId": "a", "name": name});
        app.client().post("/v1/page", &body).expect(200)["matched"].clone()
    };
    assert_eq!(page("Home")[0]["name"], "on page");
    assert_eq!(page("Other"), json!([]));
}

#[test]
fn the_envelope_context_reaches_each_event() {
    let app = TestApp::start();
    let batch = json!({
        "context": {"locale": "nb", "app": {"name": "shop"}},
        "batch": [
            {"type": "track", "userId": "u", "event": "e", "messageId": "plain"},
            {"type": "track", "userId": "u", "event": "e", "messageId": "own",
                "context": {"locale": "en"}},
        ],
    });
    app.client().post("/v1/batch", &batch).expect(200);
    let rows = sql::rows(
        &mut app.sql(),
        "SELECT message_id, context FROM events ORDER BY message_id",
    );
    assert_eq!(
        rows[0]["context"],
        json!({"locale": "en", "app": {"name": "shop"}})
    );
    assert_eq!(
        rows[1]["context"],
        json!({"locale": "nb", "app": {"name": "shop"}})
    );
}

#[test]
fn what_is_refused_is_in_the_ledger_with_its_reason() {
    let app = TestApp::start();
    let batch = json!({"batch": [
        {"type": "track", "userId": "u", "event": "good", "messageId": "good"},
        {"type": "track", "event": "nobody", "messageId": "nobody"},
        {"type": "dance", "userId": "u", "messageId": "dance"},
        {"type": "track", "userId": "u", "messageId": "nameless"},
        {"type": "track", "userId": "u", "event": "e", "messageId": "x".repeat(1_025)},
        {"type": "track", "userId": "u".repeat(256), "event": "e", "messageId": "long"},
        "not an object",
        {"type": "group", "userId": "u", "messageId": "no group"},
    ]});
    let answer = app.client().post("/v1/batch", &batch).expect(200);
    assert_eq!(answer["accepted"], 1, "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    let told: Vec<(u64, &str)> = rejected
        .iter()
        .map(|refusal| {
            assert!(refusal["message"].is_string(), "{refusal}");
            (
                refusal["index"].as_u64().unwrap(),
                refusal["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, "missing_identity"),
            (2, "unknown_type"),
            (3, "invalid_field"),
            (4, "invalid_field"),
            (5, "invalid_field"),
            (6, "invalid_field"),
            (7, "invalid_field"),
        ]
    );
    let ledger = sql::rows(
        &mut app.sql(),
        "SELECT code, message, payload FROM rejected_events ORDER BY id",
    );
    assert_eq!(ledger.len(), 7, "{ledger:?}");
    for (kept, refusal) in ledger.iter().zip(rejected) {
        assert_eq!(kept["code"], refusal["code"]);
        assert_eq!(kept["message"], refusal["message"]);
        let index = usize::try_from(refusal["index"].as_u64().unwrap()).unwrap();
        let payload: Value = serde_json::from_str(kept["payload"].as_str().unwrap()).unwrap();
        assert_eq!(payload, batch["batch"][index]);
    }
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        1
    );
}

#[test]
fn a_seed_event_that_can_never_be_good_is_answered_200_if_it_would_come_back() {
    let app = TestApp::start();
    let client = app.client();
    let ledger = || sql::number(&mut app.sql(), "SELECT count(*) FROM rejected_events");
    // The mobile SDK keeps an event with an id and replays it for ever unless it is taken.
    let with_id = json!({"user_id": "u", "event": "", "event_id": "u_e_1763296496789"});
    let answer = client.post("/v1/track", &with_id).expect(200);
    assert_eq!(answer["matched"], json!([]), "{answer}");
    assert!(
        answer["rejected"].is_array() || answer["rejected"].is_object(),
        "{answer}"
    );
    assert!(answer.to_string().contains("invalid_field"), "{answer}");
    assert_eq!(ledger(), 1);
    let kept = sql::rows(&mut app.sql(), "SELECT * FROM rejected_events");
    assert_eq!(kept[0]["message_id"], "u_e_1763296496789");
    assert_eq!(kept[0]["code"], "invalid_field");
    let without = json!({"user_id": "u", "event": ""});
    let body = client
        .post("/v1/track", &without)
        .expect_problem(400, "invalid_field");
    assert_eq!(body["details"][0]["path"], "event", "{body}");
    // The same for an identify of that SDK.
    let odd = json!({"user_id": "u", "traits": [1], "event_id": "u_identify_1"});
    client.post("/v1/identify", &odd).expect(200);
    let odd = json!({"user_id": "u", "traits": [1]});
    client
        .post("/v1/identify", &odd)
        .expect_problem(400, "invalid_field");
    assert_eq!(
        sql::number(&mut app.sql(), "SELECT count(*) FROM events"),
        0
    );
}

/// Connections that died while nobody used them are replaced; who comes next does not notice.
#[test]
fn the_first_event_after_connections_died_is_stored() {
    let app = TestApp::start();
    let track = |user: String| {
        let event = json!({"user_id": user, "event": "e"});
        app.client().post("/v1/track", &event).expect(200);
    };
    for round in 0..3 {
        (0..20).for_each(|user| track(format!("{round}-{user}")));
        let ended = sql::texts(
            &mut app.sql(),
            "SELECT pg_terminate_backend(pid)::text AS value FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND query ~ 'ingest_ledger|COMMIT'",
        );
        assert!(!ended.is_empty());
    }
    (0..20).for_each(|user| track(format!("last-{user}")));
}

/// What callers send decides how many statements a connection prepares, and these take memory
/// there.
#[test]
fn a_connection_with_too_many_statements_is_replaced() {
    let app = TestApp::start();
    let mut sql = app.sql();
    let mut writers = || {
        sql::texts(
            &mut sql,
            "SELECT pid::text AS value FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
    };
    // Each of these is the same for both events, or not.
    let differs = |choice: usize, bit: usize| choice >> bit & 1 == 1;
    let send = |choice: usize, round: usize| {
        let event = |second: bool| {
            let other = |bit| second && differs(choice, bit);
            let mut event = json!({
                "type": if other(0) { "page" } else { "track" },
                "userId": "u", "event": if other(1) { "b" } else { "a" }, "name": "a",
                "properties": {"n": other(2)}, "context": {"n": other(3)},
            });
            if other(4) {
                event["anonymousId"] = json!("a");
            }
            if differs(choice, 8) || other(5) {
                event["timestamp"] = json!("2026-01-01T00:00:00Z");
            }
            if differs(choice, 6) || other(7) {
                event["messageId"] = json!(format!("{round}-{choice}-{second}"));
            }
            event
        };
        let list = json!({"batch": [event(false), event(true)]});
        app.client().post("/v1/batch", &list).expect(200);
    };
    send(0, 0);
    let before: BTreeSet<String> = writers().into_iter().collect();
    for round in 1..=2 {
        (0..512).for_each(|choice| send(choice, round));
    }
    let after: BTreeSet<String> = writers().into_iter().collect();
    assert!(!before.is_subset(&after), "{before:?} {after:?}");
}
