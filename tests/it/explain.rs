//! Explanations over HTTP and from the command line, against what the server did.

mod past;
mod turns;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::sql::{self, KeyRow};
use crate::support::{TestApp, now};

const OTHER_ADMIN: &str = "admin_key_of_another_project_0123456789";

fn explain(app: &TestApp, question: &Value) -> Value {
    app.admin().post("/v1/admin/explain", question).expect(200)
}

fn create(app: &TestApp, campaign: &Value) -> String {
    let made = app
        .admin()
        .post("/v1/admin/campaigns", campaign)
        .expect(201);
    made["id"].as_str().unwrap().to_owned()
}

fn identify(app: &TestApp, user: &str, traits: &Value) {
    let call = json!({"user_id": user, "traits": traits});
    app.client().post("/v1/identify", &call).expect(200);
}

/// Tracks and returns the event's id and the ids of the campaigns it was answered with.
fn track(app: &TestApp, user: &str, name: &str, properties: &Value) -> (Value, Vec<Value>) {
    let call = json!({"user_id": user, "event": name, "properties": properties});
    let answer = app.client().post("/v1/track", &call).expect(200);
    let matched = answer["matched"].as_array().unwrap().iter();
    let matched = matched.map(|campaign| campaign["id"].clone()).collect();
    (answer["event"]["id"].clone(), matched)
}

fn gate<'a>(campaign: &'a Value, name: &str) -> &'a Value {
    let gates = campaign["gates"].as_array().unwrap();
    gates.iter().find(|gate| gate["gate"] == name).unwrap()
}

fn upsell(status: &str) -> Value {
    json!({
        "name": "Upsell", "status": status, "trigger": "Ordered", "priority": 5,
        "rules": [{"type": "event", "field": "total", "operator": ">", "value": 50}],
        "targeting": {"and": [
            {"==": [{"var": "user.traits.plan"}, "free"]},
            {"!": [{"in": ["muted", {"var": "user.traits.labels"}]}]},
        ]},
    })
}

#[test]
fn every_gate_is_shown_with_what_it_saw() {
    let app = TestApp::start();
    let id = create(&app, &upsell("active"));
    identify(
        &app,
        "ada",
        &json!({"plan": "pro", "labels": ["x", "muted"]}),
    );
    let (_, matched) = track(&app, "ada", "Ordered", &json!({"total": 10}));
    assert!(matched.is_empty());
    let event = json!({"name": "Ordered", "properties": {"total": 10}});
    let answer = explain(&app, &json!({"user_id": "ada", "event": event}));
    assert_eq!(answer["summary"]["campaigns"], 1, "{answer}");
    assert_eq!(answer["summary"]["first_closed"]["rules"], 1);
    assert_eq!(answer["as_of"]["traits"]["source"], "current");
    let campaign = &answer["campaigns"][0];
    assert_eq!(campaign["campaign_id"], *id);
    assert_eq!(campaign["first_closed_gate"], "rules");
    assert_eq!(campaign["failing_conditions"], 3, "{campaign}");
    let gates: Vec<(&str, bool)> = campaign["gates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gate| {
            (
                gate["gate"].as_str().unwrap(),
                gate["passes"].as_bool().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("status", true),
        ("schedule", true),
        ("trigger", true),
        ("segments", true),
        ("rules", false),
        ("targeting", false),
    ];
    assert_eq!(gates, expected);
    let rule = &gate(campaign, "rules")["conditions"][0];
    assert_eq!(rule["pointer"], "/rules/0");
    assert_eq!(
        rule["seen"],
        json!([{"path": "event.properties.total", "value": 10}])
    );
    assert_eq!(campaign["first_failing"], *rule);
    let and = &gate(campaign, "targeting")["conditions"][0];
    assert_eq!(
        (&and["operator"], &and["outcome"]),
        (&json!("and"), &json!("does_not_hold"))
    );
    let plan = &and["parts"][0];
    assert_eq!(plan["pointer"], "/targeting/and/0/==");
    assert_eq!(
        plan["rule"],
        json!({"==": [{"var": "user.traits.plan"}, "free"]})
    );
    assert_eq!(
        plan["seen"],
        json!([{"path": "user.traits.plan", "value": "pro"}])
    );
    assert_eq!(plan["reached"], true);
    let not = &and["parts"][1];
    assert_eq!(
        (&not["operator"], &not["reached"]),
        (&json!("!"), &json!(false))
    );
    assert_eq!(not["parts"][0]["outcome"], "holds", "{not}");

    // The same event, for somebody who gets it.
    identify(&app, "bob", &json!({"plan": "free"}));
    let event = json!({"name": "Ordered", "properties": {"total": 51}});
    let answer = explain(&app, &json!({"user_id": "bob", "event": event}));
    assert_eq!(answer["matched"], json!([id]), "{answer}");
    assert_eq!(
        track(&app, "bob", "Ordered", &json!({"total": 51})).1,
        [json!(id)]
    );
    // Without an event a campaign that asks about one is out.
    let fetch = explain(&app, &json!({"user_id": "bob"}));
    assert_eq!(
        fetch["campaigns"][0]["first_closed_gate"], "trigger",
        "{fetch}"
    );
    // A newcomer, of whom nothing is known.
    let nobody = explain(&app, &json!({"event": "Ordered"}));
    assert_eq!(nobody["user"], json!({"id": "", "known": false}));
    let rule = &gate(&nobody["campaigns"][0], "rules")["conditions"][0];
    assert_eq!(rule["seen"][0]["missing"], true, "{rule}");
}

#[test]
fn time_bound_gates_tell_when_they_open() {
    let app = TestApp::start();
    let start = now() + TimeDelta::hours(2);
    let start = DateTime::from_timestamp_millis(start.timestamp_millis()).unwrap();
    let waits = json!({"!": [{"within_last": [{"var": "user.traits.ordered_at"}, "3d"]}]});
    let campaign = json!({"name": "c", "status": "active", "schedule": {"start": start},
                          "targeting": waits});
    let id = create(&app, &campaign);
    let ordered_at = start - TimeDelta::days(3) + TimeDelta::hours(1);
    identify(&app, "ada", &json!({ "ordered_at": ordered_at }));
    let question = json!({"user_id": "ada", "campaign_id": id});
    let answer = explain(&app, &question);
    let campaign = &answer["campaigns"][0];
    let opens_at =
        |value: &Value| -> DateTime<Utc> { value["opens_at"].as_str().unwrap().parse().unwrap() };
    let waited: DateTime<Utc> = start + TimeDelta::hours(1) + TimeDelta::milliseconds(1);
    assert_eq!(opens_at(gate(campaign, "schedule")), start, "{campaign}");
    assert_eq!(opens_at(gate(campaign, "targeting")), waited);
    assert_eq!(opens_at(campaign), waited);
    assert_eq!(campaign["failing_conditions"], 2);
    // At that moment it is so, and not a millisecond before.
    let shown = |at: DateTime<Utc>| {
        let question = json!({"user_id": "ada", "campaign_id": id, "at": at});
        explain(&app, &question)["summary"]["matched"] == 1
    };
    assert!(shown(waited));
    assert!(!shown(waited - TimeDelta::milliseconds(1)));
}

/// Whether a gate will open is not tried for longer than an explanation may take, segments included.
#[test]
fn when_a_gate_opens_is_left_out_where_that_takes_too_much() {
    let app = TestApp::start();
    let among: Vec<Value> = (0..150)
        .map(|n| json!({"==": [{"var": ""}, format!("v{n}")]}))
        .collect();
    let costly = json!({"!": {"some": [{"var": "user.traits.list"}, {"or": among}]}});
    for n in 0..20 {
        let segment = json!({"name": format!("s{n}"), "targeting": costly});
        app.admin().post("/v1/admin/segments", &segment).expect(201);
    }
    let waits: Vec<Value> = (0..12)
        .map(|n| json!({"within_last": [{"var": format!("user.traits.t{n}")}, "1h"]}))
        .collect();
    let opens_at = |segments: usize| {
        let names: Vec<String> = (0..segments).map(|n| format!("s{n}")).collect();
        let campaign = json!({"name": "c", "status": "active", "targeting": {"or": waits},
                              "segments": {"include": names}});
        let id = create(&app, &campaign);
        let question = json!({"user_id": "ada", "campaign_id": id});
        explain(&app, &question)["campaigns"][0]["opens_at"].clone()
    };
    let soon = |hours: i64| json!(now() + TimeDelta::hours(hours));
    let times = (0..12).map(|n| (format!("t{n}"), soon(n + 1)));
    identify(&app, "ada", &Value::Object(times.collect()));
    assert!(opens_at(1).is_string());
    assert!(opens_at(20).is_null());
}

#[test]
fn many_campaigns_are_counted_and_the_nearest_come_first() {
    let app = TestApp::start();
    let named = |name: String, conditions: usize| {
        let condition = |n: usize| json!({"==": [{"var": format!("user.traits.t{n}")}, 1]});
        let conditions: Vec<Value> = (0..conditions).map(condition).collect();
        json!({"name": name, "status": "active", "trigger": "e", "targeting": {"and": conditions}})
    };
    for n in 1..=12 {
        create(&app, &named(format!("needs {n}"), n));
    }
    let other = json!({"name": "other", "status": "active", "trigger": "f"});
    create(&app, &other);
    let paused = create(
        &app,
        &json!({"name": "paused", "status": "paused", "trigger": "e"}),
    );
    identify(&app, "ada", &json!({"t0": 1}));
    let answer = explain(&app, &json!({"user_id": "ada", "event": "e", "limit": 3}));
    let summary = &answer["summary"];
    assert_eq!(
        (&summary["campaigns"], &summary["matched"]),
        (&json!(13), &json!(1))
    );
    assert_eq!(summary["first_closed"]["targeting"], 11, "{summary}");
    assert_eq!(summary["first_closed"]["trigger"], 1);
    assert_eq!(summary["shown"], 3);
    let names = |list: &str| -> Vec<String> {
        let list = answer[list].as_array().unwrap();
        let name = |it: &Value| it["name"].as_str().unwrap().to_owned();
        list.iter().map(name).collect()
    };
    assert_eq!(names("campaigns"), ["needs 1", "needs 2", "needs 3"]);
    let nearest: Vec<String> = (2..12).map(|n| format!("needs {n}")).collect();
    assert_eq!(names("nearest_misses"), nearest);
    assert_eq!(answer["nearest_misses"][9]["failing_conditions"], 10);
    // One that is not live is explained when it is asked for.
    let one = explain(
        &app,
        &json!({"user_id": "ada", "event": "e", "campaign_id": paused}),
    );
    assert_eq!(one["campaigns"][0]["first_closed_gate"], "status", "{one}");
    let seen = &gate(&one["campaigns"][0], "status")["conditions"][0]["seen"];
    assert_eq!(*seen, json!([{"path": "status", "value": "paused"}]));
}

#[test]
fn long_values_and_rules_are_cut() {
    let app = TestApp::start();
    let conditions = vec![json!({"==": [{"var": "user.traits.bio"}, "x"]}); 400];
    let rules = json!([{"type": "attribute", "field": "bio", "operator": "==", "value": "x"}]);
    let campaign = json!({"name": "c", "status": "active", "trigger": "e", "rules": rules,
                          "targeting": {"or": conditions}});
    create(&app, &campaign);
    identify(&app, "ada", &json!({"bio": "b".repeat(100_000)}));
    let answer = explain(&app, &json!({"user_id": "ada", "event": "e"}));
    let campaign = &answer["campaigns"][0];
    let or = &gate(campaign, "targeting")["conditions"][0];
    assert_eq!(or["parts"].as_array().unwrap().len(), 199);
    assert_eq!(or["parts_left_out"], 201);
    assert_eq!(or["parts"][0]["seen"][0]["cut"], true);
    assert_eq!(campaign["failing_conditions"], 2);
    assert!(answer.to_string().len() < 300_000);
}

#[test]
fn others_are_as_missing_as_nobody_and_mistakes_are_refused() {
    let app = TestApp::prepared(&[], |connection| {
        let other = sql::project(connection, "other");
        KeyRow::good(other, "admin", OTHER_ADMIN).insert(connection);
    });
    let id = create(&app, &upsell("active"));
    identify(&app, "ada", &json!({}));
    let (event, _) = track(&app, "ada", "Ordered", &json!({}));
    let theirs = app.with_key(OTHER_ADMIN);
    for (question, kind) in [
        (json!({"user_id": "ada"}), "User"),
        (json!({"event_id": event}), "Event"),
        (json!({"campaign_id": id}), "Campaign"),
        (
            json!({"campaign_id": id, "at": now() - TimeDelta::hours(1)}),
            "Campaign",
        ),
    ] {
        let answer = theirs.post("/v1/admin/explain", &question).expect(404);
        assert_eq!(answer["message"], format!("{kind} not found"), "{question}");
    }
    assert_eq!(
        explain(&app, &json!({"event_id": event}))["summary"]["campaigns"],
        1
    );
    // Names and ids are cut as a track's are.
    let spaced = json!({"user_id": "\u{feff} ada\n", "event": "\u{feff}Ordered "});
    let answer = explain(&app, &spaced);
    assert_eq!(answer["user"]["known"], true, "{answer}");
    assert_eq!(answer["event"]["name"], "Ordered");
    let listed = app.admin().get("/v1/admin/events?user_id=%EF%BB%BFada");
    assert_eq!(listed.expect(200)["total"], 2);
    for odd in [
        json!({"userId": "ada"}),
        json!({"at": "soon"}),
        json!({"limit": 5_000}),
    ] {
        let refused = app.admin().post("/v1/admin/explain", &odd).expect(400);
        assert_eq!(refused["code"], "invalid_field", "{odd}");
    }
}

#[test]
fn what_a_campaign_costs_is_said_as_the_campaign_says_it() {
    let app = TestApp::start();
    let plain = create(&app, &upsell("active"));
    let of_labels = json!({"some": [{"var": "user.traits.labels"}, {"==": [{"var": ""}, "x"]}]});
    let costly = json!({
        "name": "Costly", "status": "active", "trigger": "Ordered", "targeting": of_labels,
    });
    let costly = create(&app, &costly);
    let answer = explain(&app, &json!({"event": "Ordered"}));
    let campaigns = answer["campaigns"].as_array().unwrap();
    for (id, is_indexed) in [(&plain, true), (&costly, false)] {
        let explained = campaigns.iter().find(|it| it["campaign_id"] == **id);
        let explained = &explained.unwrap()["evaluation"];
        assert_eq!(explained["indexed"], is_indexed, "{answer}");
        let campaign = app.admin().get(&format!("/v1/admin/campaigns/{id}"));
        let own = &campaign.expect(200)["evaluation"];
        assert_eq!(explained["cost"], own["cost"]);
        assert_eq!(explained["indexed"], own["indexed"]);
        // What runs for each element counts as often as a list may be long.
        let is_expensive = explained["cost"].as_u64().unwrap() > 1_000;
        assert_eq!(is_expensive, !is_indexed, "{explained}");

        let asked = ["explain", "--event", "Ordered"];
        let one = [&asked[..], &["--campaign-id", id]].concat();
        for (arguments, said) in [
            (&one[..], format!("at most {} steps", own["cost"])),
            (&asked[..], format!("  {}", own["cost"])),
        ] {
            let output = app.launch().command(arguments).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains(&said), "{said}: {text}");
            let warns = text.contains("at each event of its trigger");
            let has_costly = arguments == asked || !is_indexed;
            assert_eq!(warns, has_costly, "{text}");
        }
    }
}

#[test]
fn the_command_line_explains_the_same() {
    let app = TestApp::start();
    let id = create(&app, &upsell("active"));
    identify(&app, "ada", &json!({"plan": "pro"}));
    let (event, _) = track(&app, "ada", "Ordered", &json!({"total": 80}));
    let run = |arguments: &[&str]| app.launch().command(arguments).output().unwrap();
    let text = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let properties = r#"{"total": 80}"#;
    let asked = [
        "explain",
        "--user-id",
        "ada",
        "--event",
        "Ordered",
        "--properties",
        properties,
    ];
    let list = text(&asked);
    assert!(list.contains("0 of 1 campaigns match"), "{list}");
    assert!(list.contains(r#"user.traits.plan = "pro""#), "{list}");
    let tree = text(&[&asked[..], &["--campaign-id", &id]].concat());
    assert!(tree.contains("targeting  no"), "{tree}");
    assert!(tree.contains("/targeting/and/0/=="), "{tree}");
    let mut said: Value = serde_json::from_str(&text(&[&asked[..], &["--json"]].concat())).unwrap();
    let event_asked = json!({"name": "Ordered", "properties": {"total": 80}});
    let mut answer = explain(&app, &json!({"user_id": "ada", "event": event_asked}));
    for document in [&mut said, &mut answer] {
        document["as_of"]["at"] = Value::Null;
        document["event"]["timestamp"] = Value::Null;
    }
    assert_eq!(said, answer);
    let stored = text(&["explain", "--event-id", event.as_str().unwrap(), "--json"]);
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored, explain(&app, &json!({"event_id": event})));
    for (wrong, exit) in [
        (&["explain", "--event-id", "x", "--user-id", "ada"][..], 2),
        (&["explain", "--event", "e", "--properties", "[]"][..], 2),
        (&["explain", "--at", "soon"][..], 2),
        (&["explain", "--user-id", "nobody"][..], 1),
    ] {
        assert_eq!(run(wrong).status.code(), Some(exit), "{wrong:?}");
    }
}

#[test]
fn what_no_parser_reads_is_explained_as_it_is_tracked() {
    let app = TestApp::start();
    let wants = |field: &str, value: Value| {
        let rule = json!({"===": [{"var": field}, value]});
        let name = format!("{field} {value}");
        create(
            &app,
            &json!({"name": name, "status": "active", "trigger": "Sent", "targeting": rule}),
        )
    };
    let null = wants("event.properties.x", Value::Null);
    let zero = wants("event.properties.x", json!(0));
    let replaced = wants("event.properties.x", json!("\u{fffd}"));
    for (sent, matched) in [
        ("NaN", Some(&null)),
        ("-1e400", Some(&null)),
        ("1e-400", Some(&zero)),
        (r#""\ud800""#, Some(&replaced)),
        ("\"\u{1}\"", None),
    ] {
        let matched: Vec<&String> = matched.into_iter().collect();
        let properties = format!(r#"{{"x": {sent}}}"#);
        let call = format!(r#"{{"user_id": "u", "event": "Sent", "properties": {properties}}}"#);
        let tracked = app.client().post_text("/v1/track", &call).expect(200);
        let tracked = tracked["matched"].as_array().unwrap().iter();
        let tracked: Vec<_> = tracked.map(|campaign| &campaign["id"]).collect();
        assert_eq!(tracked, matched, "{sent}");
        let question = format!(r#"{{"event": {{"name": "Sent", "properties": {properties}}}}}"#);
        let explained = app.admin().post_text("/v1/admin/explain", &question);
        assert_eq!(explained.expect(200)["matched"], json!(matched), "{sent}");
        let asked = ["explain", "--event", "Sent", "--json", "--properties"];
        let mut command = app.launch().command(&asked);
        let output = command.arg(&properties).output().unwrap();
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(explained["matched"], json!(matched), "{sent}");
    }
    let broken = app.admin().post_text("/v1/admin/explain", r#"{"event": "#);
    broken.expect_problem(400, "malformed_json");
}
