//! A campaign that fails again and again goes out of service, visibly, and comes back when it is
//! saved.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use beckon::matcher::{Campaign, CampaignRow, Snapshot};
use beckon::rules::{EventFacts, FactsArena, Limits, Object, UserFacts};
use beckon::segments::Segments;
use chrono::DateTime;
use diesel::connection::SimpleConnection;
use serde_json::{Value, json};

use crate::campaign_flow::{NONE, create, identify, on_buy, shown};
use crate::support::metrics::Scrape;
use crate::support::{CLIENT_KEY, Client, TestApp, eventually, pause, sql};

const FAILURES_MAX: (&str, &str) = ("BECKON_CAMPAIGN_FAILURES_MAX", "5");
const BOUND: Duration = Duration::from_secs(10);
/// Long enough for the thread that takes campaigns out to have come by.
const TWO_TURNS: Duration = Duration::from_millis(1_300);

/// Fails on a text that is no number.
fn arithmetic() -> Value {
    json!({">": [{"-": [{"var": "event.properties.total"}, 1]}, 0]})
}

/// Makes a campaign whose targeting fails on a total that is no number, and one that is always shown; the
/// first one's id.
fn odd_and_sound(admin: &Client) -> String {
    let id = create(admin, on_buy("odd", json!({"targeting": arithmetic()})));
    create(admin, on_buy("sound", json!({})));
    id
}

fn fail(client: &Client, times: usize) {
    for _ in 0..times {
        assert_eq!(
            shown(client, "u", "buy", json!({"total": "much"})),
            ["sound"]
        );
    }
}

fn quarantine_of(admin: &Client, id: &str) -> Value {
    let campaign = admin.get(&format!("/v1/admin/campaigns/{id}")).expect(200);
    campaign["evaluation"]["quarantine"].clone()
}

/// Waits until a scrape, which may be a moment old, gives this sum.
fn shows(admin: &Client, name: &str, expected: f64) {
    eventually(name, BOUND, || {
        let sum = Scrape::of(admin).sum(name, "");
        ((sum - expected).abs() < 0.5).then_some(())
    });
}

#[test]
fn a_campaign_that_fails_in_a_row_goes_out_of_service_everywhere() {
    let app = TestApp::start_with(&[FAILURES_MAX]);
    let other = app.another_node();
    other.wait_until_ready();
    let elsewhere = Client::new(other.base()).key(CLIENT_KEY);
    let (admin, client) = (app.admin(), app.client());
    let id = odd_and_sound(&admin);
    let well = json!({"total": 9});
    let mut both = ["odd", "sound"];
    both.sort_unstable();
    let sorted = |client: &Client| {
        let mut names = shown(client, "u", "buy", json!({"total": 9}));
        names.sort();
        names
    };
    fail(&client, 4);
    // A run ends with an evaluation that does not fail, whatever it says.
    assert_eq!(shown(&client, "u", "buy", json!({"total": 0})), ["sound"]);
    fail(&client, 4);
    pause(TWO_TURNS);
    assert_eq!(sorted(&client), both);
    assert_eq!(quarantine_of(&admin, &id), Value::Null);

    fail(&client, 5);
    let found = eventually("the quarantine", BOUND, || {
        let found = quarantine_of(&admin, &id);
        found.is_object().then_some(found)
    });
    assert_eq!(
        (&found["reason"], &found["failures"]),
        (&json!("type"), &json!(5)),
        "{found}"
    );
    assert!(found["since"].as_str().unwrap().ends_with('Z'), "{found}");
    assert_eq!(shown(&client, "u", "buy", well.clone()), ["sound"]);
    eventually("the other node follows", BOUND, || {
        (shown(&elsewhere, "u", "buy", well.clone()) == ["sound"]).then_some(())
    });
    // It is as active as its admin made it, and easily found.
    let list = admin
        .get("/v1/admin/campaigns?quarantined=true")
        .expect(200);
    assert_eq!(
        (&list["total"], &list["campaigns"][0]["id"]),
        (&json!(1), &json!(id))
    );
    assert_eq!(list["campaigns"][0]["status"], "active");
    shows(&admin, "beckon_snapshot_quarantined_campaigns", 1.0);
    shows(&admin, "beckon_snapshot_campaigns", 1.0);
    let logged = "SELECT concat_ws(' ', actor, object_kind, object_id) AS value FROM audit_log \
                  WHERE action = 'quarantine'";
    assert_eq!(
        sql::texts(&mut app.sql(), logged),
        [format!("beckon campaign {id}")]
    );

    let question = json!({"user_id": "u", "event": "buy", "campaign_id": id});
    let answer = admin.post("/v1/admin/explain", &question).expect(200);
    let campaign = &answer["campaigns"][0];
    assert_eq!(campaign["first_closed_gate"], "status", "{answer}");
    let seen = &campaign["gates"][0]["conditions"][0]["seen"];
    assert_eq!(
        *seen,
        json!([{"path": "status", "value": "quarantined"}]),
        "{answer}"
    );
    let now = crate::support::now().to_rfc3339();
    let question = json!({"user_id": "u", "campaign_id": id, "at": now});
    let answer = admin.post("/v1/admin/explain", &question).expect(200);
    assert_eq!(
        answer["campaigns"][0]["first_closed_gate"], "status",
        "{answer}"
    );

    let all = json!({"user_id": "u", "event": "buy"});
    let closed = |question: &Value| {
        let answer = admin.post("/v1/admin/explain", question).expect(200);
        let gates = &answer["summary"]["first_closed"];
        assert_eq!(gates["status"], 1, "{answer}");
        let campaigns = answer["campaigns"].as_array().unwrap();
        assert_eq!(campaigns.len(), 2, "{answer}");
    };
    closed(&all);
    let event = client
        .post("/v1/track", &json!({"user_id": "u", "event": "buy"}))
        .expect(200);
    let stored = json!({"event_id": event["event"]["id"]});
    closed(&stored);

    // Saving it again is a new start.
    let saved = admin
        .put(&format!("/v1/admin/campaigns/{id}"), &json!({}))
        .expect(200);
    assert_eq!(saved["evaluation"]["quarantine"], Value::Null);
    assert_eq!(sorted(&client), both);
    eventually("the other node follows", BOUND, || {
        (sorted(&elsewhere) == both).then_some(())
    });
    shows(&admin, "beckon_snapshot_quarantined_campaigns", 0.0);
    // It was out of service then all the same.
    closed(&stored);
    fail(&client, 4);
    pause(TWO_TURNS);
    assert_eq!(sorted(&client), both);
}

/// An import may hold the project's row for minutes.
#[test]
fn nobody_waits_for_whoever_holds_the_project_of_a_failing_campaign() {
    let app = TestApp::start_with(&[FAILURES_MAX]);
    let (admin, client) = (app.admin(), app.client());
    let id = odd_and_sound(&admin);
    let mut import = app.sql();
    let lock = "BEGIN; UPDATE project_revisions SET revision = revision + 1";
    import.batch_execute(lock).unwrap();
    fail(&client, 5);
    pause(Duration::from_secs(4));
    // What the hub looks after is as current as ever.
    let scrape = Scrape::of(&admin);
    let staleness = scrape.value("beckon_staleness_seconds");
    assert!(staleness < 2.0, "{staleness}");
    assert_eq!(quarantine_of(&admin, &id), Value::Null);
    import.batch_execute("ROLLBACK").unwrap();
    eventually("the quarantine", BOUND, || {
        quarantine_of(&admin, &id).is_object().then_some(())
    });
}

/// Client keys are public, so anybody can send bad data.
#[test]
fn no_single_call_takes_a_campaign_out_of_service() {
    let app = TestApp::start_with(&[FAILURES_MAX]);
    let (admin, client) = (app.admin(), app.client());
    let id = odd_and_sound(&admin);
    let bad = json!({"type": "track", "userId": "u", "event": "buy", "properties": {"total": "x"}});
    let batch = json!({"batch": vec![bad; 100]});
    client.post("/v1/batch?matched=true", &batch).expect(200);
    shows(&admin, "beckon_rule_errors_total", 100.0);
    fail(&client, 3);
    pause(TWO_TURNS);
    assert_eq!(quarantine_of(&admin, &id), Value::Null);
    fail(&client, 1);
    eventually("the quarantine", BOUND, || {
        quarantine_of(&admin, &id).is_object().then_some(())
    });
}

/// Nor does it by being repeated, which anybody does who heard nothing.
#[test]
fn a_repeated_call_counts_once() {
    let app = TestApp::start_with(&[FAILURES_MAX]);
    let (admin, client) = (app.admin(), app.client());
    let id = odd_and_sound(&admin);
    let one =
        json!({"user_id": "u", "event": "buy", "properties": {"total": "x"}, "event_id": "1"});
    let item = |id: usize| {
        json!({"type": "track", "userId": "u", "event": "buy", "properties": {"total": "x"},
               "messageId": id.to_string()})
    };
    let list = json!({"batch": [item(1), item(2), item(2)]});
    for _ in 0..10 {
        let one = client.post("/v1/track", &one).expect(200);
        let list = client.post("/v1/batch?matched=true", &list).expect(200);
        for answer in [&one, &list["results"][0], &list["results"][2]] {
            assert_eq!(answer["matched"][0]["name"], "sound", "{answer}");
        }
    }
    shows(&admin, "beckon_decisions_total", 2.0);
    shows(&admin, "beckon_matches_total", 2.0);
    shows(&admin, "beckon_rule_errors_total", 2.0);
    pause(TWO_TURNS);
    assert_eq!(quarantine_of(&admin, &id), Value::Null);
    fail(&client, 3);
    eventually("the quarantine", BOUND, || {
        quarantine_of(&admin, &id).is_object().then_some(())
    });
}

/// Whatever is tried again, an event counts once.
#[test]
fn a_transaction_that_is_tried_again_counts_once() {
    let app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1")]);
    let (admin, client) = (app.admin(), app.client());
    create(&admin, on_buy("odd", json!({"targeting": arithmetic()})));
    create(&admin, on_buy("sound", json!({})));
    fail(&client, 1);
    // The bucket of message ids that the shard knows is not the current one any more.
    let moved = "UPDATE message_buckets SET current_bucket = 1 - current_bucket";
    app.sql().batch_execute(moved).unwrap();
    let retried = |scrape: &Scrape| scrape.sum("beckon_ingest_batch_retries_total", "");
    let before = retried(&Scrape::of(&admin));
    let body =
        json!({"user_id": "u", "event": "buy", "properties": {"total": "x"}, "event_id": "1"});
    client.post("/v1/track", &body).expect(200);
    shows(&admin, "beckon_decisions_total", 2.0);
    shows(&admin, "beckon_rule_errors_total", 2.0);
    assert!(retried(&Scrape::of(&admin)) > before);
}

#[test]
fn nobody_can_take_all_campaigns_out_with_data_that_is_nested_too_deep() {
    let variables = [FAILURES_MAX, ("BECKON_LIMIT_NESTING", "400")];
    let app = TestApp::start_with(&variables);
    let (admin, client) = (app.admin(), app.client());
    create(&admin, on_buy("sound", json!({})));
    let id = create(&admin, on_buy("odd", json!({"targeting": arithmetic()})));
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    let text =
        format!(r#"{{"user_id":"u","event":"buy","properties":{{"total":9,"deep":{deep}}}}}"#);
    for _ in 0..8 {
        // The answer is nested as deep as the event.
        let answer = client.post_text("/v1/track", &text);
        assert_eq!(answer.status, 200);
        let shows = |name: &str| answer.text().contains(&format!("\"name\":\"{name}\""));
        assert!(shows("sound") && !shows("odd"), "{}", answer.text());
    }
    shows(&admin, "beckon_rule_errors_total", 8.0);
    pause(TWO_TURNS);
    assert_eq!(quarantine_of(&admin, &id), Value::Null);
}

#[test]
fn zero_leaves_every_campaign_in_service() {
    let app = TestApp::start_with(&[("BECKON_CAMPAIGN_FAILURES_MAX", "0")]);
    let (admin, client) = (app.admin(), app.client());
    let id = odd_and_sound(&admin);
    fail(&client, 20);
    pause(TWO_TURNS);
    assert_eq!(quarantine_of(&admin, &id), Value::Null);
}

#[test]
fn what_is_expensive_can_be_seen() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    identify(&client, "u", json!({"list": [1]}));
    let over = |body: Value| json!({"some": [{"var": "user.traits.list"}, body]});
    let is_one = json!({"==": [{"var": ""}, 1]});
    for (name, targeting) in [
        ("plain", json!({"==": [{"var": "user.traits.plan"}, "pro"]})),
        ("twice", over(over(is_one.clone()))),
        ("once", over(is_one.clone())),
        (
            "guarded",
            json!({"and": [{"exists": "user.traits.plan"}, over(is_one)]}),
        ),
    ] {
        create(&admin, on_buy(name, json!({"targeting": targeting})));
    }
    create(&admin, on_buy("everybody", json!({})));
    let paused = over(over(over(json!(true)))["some"][1].clone());
    create(
        &admin,
        on_buy("off", json!({"targeting": paused, "status": "paused"})),
    );
    let list = admin
        .get("/v1/admin/campaigns?sort=cost&limit=3&offset=0")
        .expect(200);
    assert_eq!(list["total"], 5, "{list}");
    let seen: Vec<_> = list["campaigns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                &it["name"],
                &it["evaluation"]["cost"],
                &it["evaluation"]["indexed"],
            )
        })
        .map(|(name, cost, indexed)| json!([name, cost, indexed]))
        .collect();
    let expected = [
        json!(["twice", 3_002_002, false]),
        json!(["guarded", 3_005, true]),
        json!(["once", 3_002, false]),
    ];
    assert_eq!(seen, expected);
    let rest = admin
        .get("/v1/admin/campaigns?sort=cost&limit=3&offset=3")
        .expect(200);
    assert_eq!(rest["campaigns"].as_array().unwrap().len(), 2);
    shows(&admin, "beckon_snapshot_cost_max", 3_002_002.0);
    shows(&admin, "beckon_snapshot_unindexed_campaigns", 2.0);
    for query in ["sort=name", "sort=cost&status=active", "quarantined=1"] {
        let answer = admin.get(&format!("/v1/admin/campaigns?{query}"));
        answer.expect_problem(400, "invalid_field");
    }
    assert_eq!(shown(&client, "u", "none", json!({})), NONE);
}

/// At the library: reported at each multiple, and only for what was evaluated.
#[test]
fn what_the_index_rules_out_counts_neither_way() {
    let targeting = json!({"and": [
        {"===": [{"var": "user.traits.plan"}, "pro"]},
        {">": [{"-": [{"var": "event.properties.total"}, 1]}, 0]},
    ]});
    let row = CampaignRow {
        id: "odd".to_owned(),
        seq: 1,
        version: 1,
        body: json!({"status": "active", "trigger": "buy", "targeting": targeting})
            .as_object()
            .unwrap()
            .clone(),
        created_at: DateTime::UNIX_EPOCH,
        updated_at: None,
    };
    let limits = Limits {
        max_failures: 3,
        ..Limits::default()
    };
    let campaign = Arc::new(Campaign::compile(&row, &limits).unwrap());
    let snapshot = Snapshot::new(1, vec![campaign], Segments::default(), HashMap::new());
    let moments = Cell::new(0);
    let decide_again = |plan: &str, total: Value| {
        let now = DateTime::from_timestamp_micros(moments.get()).unwrap();
        let arena = FactsArena::new();
        let (traits, properties) = (json!({"plan": plan}), json!({"total": total}));
        let user = UserFacts {
            id: "u",
            traits: arena.from_value(&traits),
            created_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
        };
        let event = EventFacts {
            name: "buy",
            properties: arena.from_value(&properties),
            context: Object::EMPTY,
            timestamp: DateTime::UNIX_EPOCH,
        };
        // A look at the past counts neither way.
        let past = snapshot.on_past_event(user, event, now, &arena);
        let decision = snapshot.on_event(user, event, now, &arena);
        assert_eq!(past.len(), decision.matched.len());
        let failing = decision
            .failing
            .iter()
            .map(|it| it.count)
            .collect::<Vec<_>>();
        (decision.matched.len(), decision.errors, failing)
    };
    // The events of a call are decided on at the moment at which it came.
    let decide = |plan: &str, total: Value| {
        moments.set(moments.get() + 1);
        decide_again(plan, total)
    };
    let fails = || decide("pro", json!("much"));
    let fails_again = || decide_again("pro", json!("much"));
    assert_eq!(fails(), (0, 1, vec![]));
    assert_eq!(fails(), (0, 1, vec![]));
    assert_eq!(decide("free", json!(9)), (0, 0, vec![]));
    assert_eq!(fails(), (0, 1, vec![3]));
    for count in [vec![], vec![], vec![6]] {
        assert_eq!(fails(), (0, 1, count));
    }
    assert_eq!(decide("pro", json!(9)), (1, 0, vec![]));
    for count in [vec![], vec![], vec![3]] {
        assert_eq!(fails(), (0, 1, count));
        for _ in 0..5 {
            assert_eq!(fails_again(), (0, 1, vec![]));
        }
    }
    // Nor does a call count again that another one's events came between.
    moments.set(moments.get() - 1);
    for _ in 0..5 {
        assert_eq!(fails_again(), (0, 1, vec![]));
    }
}
