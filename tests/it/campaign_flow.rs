//! From an admin's save to what a user is shown: at once on the node that saved, within a second
//! on another.

use std::time::Duration;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use crate::support::{Client, TestApp, eventually, now};

/// Saves a campaign and gives its id.
pub fn create(admin: &Client, campaign: Value) -> String {
    let answer = admin.post("/v1/admin/campaigns", &campaign).expect(201);
    answer["id"].as_str().unwrap().to_owned()
}

/// An active campaign on the event `buy`, with more members.
pub fn on_buy(name: &str, more: Value) -> Value {
    let mut campaign = json!({"name": name, "status": "active", "trigger": "buy"});
    for (key, value) in more.as_object().unwrap() {
        campaign[key] = value.clone();
    }
    campaign
}

/// The names of what a track of `event` shows this user.
pub fn shown(client: &Client, user: &str, event: &str, properties: Value) -> Vec<String> {
    let body = json!({"user_id": user, "event": event, "properties": properties});
    let answer = client.post("/v1/track", &body).expect(200);
    names(&answer["matched"])
}

/// The names of what a fetch shows this user.
pub fn fetched(client: &Client, user: &str) -> Vec<String> {
    let answer = client
        .get(&format!("/v1/campaigns?user_id={user}"))
        .expect(200);
    names(&answer["campaigns"])
}

fn names(list: &Value) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|campaign| campaign["name"].as_str().unwrap().to_owned())
        .collect()
}

pub fn identify(client: &Client, user: &str, traits: Value) {
    let body = json!({"user_id": user, "traits": traits});
    client.post("/v1/identify", &body).expect(200);
}

/// Nothing is shown.
pub const NONE: [&str; 0] = [];

#[test]
fn a_campaign_is_returned_by_the_very_next_track() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    identify(&client, "ada", json!({"plan": "pro"}));
    identify(&client, "bob", json!({"plan": "free"}));
    assert_eq!(shown(&client, "ada", "buy", json!({})), NONE);
    for round in 0..20 {
        let name = format!("round {round}");
        let id = create(
            &admin,
            on_buy(
                &name,
                json!({
                    "rules": [{"type": "attribute", "field": "plan", "operator": "==", "value": "pro"}],
                    "config": {"text": name},
                }),
            ),
        );
        let body = json!({"user_id": "ada", "event": "buy"});
        let answer = client.post("/v1/track", &body).expect(200);
        assert_eq!(names(&answer["matched"]), [name.as_str()]);
        let campaign = &answer["matched"][0];
        assert_eq!(campaign["id"], id.as_str());
        assert_eq!(campaign["type"], "modal");
        assert_eq!(campaign["config"], json!({"text": name}));
        assert!(campaign["rules"].is_array(), "{campaign}");
        assert_eq!(shown(&client, "bob", "buy", json!({})), NONE);
        assert_eq!(shown(&client, "ada", "other", json!({})), NONE);

        let path = format!("/v1/admin/campaigns/{id}");
        admin.put(&path, &json!({"status": "paused"})).expect(200);
        assert_eq!(shown(&client, "ada", "buy", json!({})), NONE);
        assert_eq!(fetched(&client, "ada"), NONE);
        admin.put(&path, &json!({"status": "active"})).expect(200);
        assert_eq!(shown(&client, "ada", "buy", json!({})), [name.as_str()]);
        assert_eq!(fetched(&client, "ada"), [name.as_str()]);
        admin.delete(&path).expect(200);
        assert_eq!(shown(&client, "ada", "buy", json!({})), NONE);
    }
}

#[test]
fn only_active_campaigns_are_live() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    for status in ["draft", "paused"] {
        create(&admin, on_buy(status, json!({"status": status})));
    }
    create(&admin, json!({"name": "no status", "trigger": "buy"}));
    assert_eq!(shown(&client, "u", "buy", json!({})), NONE);
    assert_eq!(fetched(&client, "u"), NONE);
    create(&admin, on_buy("active", json!({})));
    assert_eq!(shown(&client, "u", "buy", json!({})), ["active"]);
}

#[test]
fn a_schedule_opens_and_closes_by_itself() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let at = |milliseconds: i64| {
        (now() + TimeDelta::milliseconds(milliseconds)).to_rfc3339_opts(SecondsFormat::Millis, true)
    };
    let schedule = |start: Option<String>, end: Option<String>| json!({"schedule": {"start": start, "end": end}});
    create(
        &admin,
        on_buy("over", schedule(Some(at(-20_000)), Some(at(-10_000)))),
    );
    create(
        &admin,
        on_buy("not yet", schedule(Some(at(3_600_000)), None)),
    );
    assert_eq!(shown(&client, "u", "buy", json!({})), NONE);
    assert_eq!(fetched(&client, "u"), NONE);
    create(&admin, on_buy("always", schedule(None, None)));
    assert_eq!(shown(&client, "u", "buy", json!({})), ["always"]);

    create(
        &admin,
        on_buy("soon", schedule(Some(at(2_000)), Some(at(6_000)))),
    );
    let is_shown = || shown(&client, "u", "buy", json!({})).contains(&"soon".to_owned());
    assert!(!is_shown(), "before its start");
    eventually("the start", Duration::from_secs(5), || {
        is_shown().then_some(())
    });
    assert!(fetched(&client, "u").contains(&"soon".to_owned()));
    eventually("the end", Duration::from_secs(10), || {
        (!is_shown()).then_some(())
    });

    let backwards = on_buy("backwards", schedule(Some(at(1_000)), Some(at(-1_000))));
    let answer = admin.post("/v1/admin/campaigns", &backwards);
    assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
    let nonsense = on_buy("nonsense", json!({"schedule": {"start": "tomorrow"}}));
    let answer = admin.post("/v1/admin/campaigns", &nonsense);
    assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
}

#[test]
fn segments_include_and_exclude() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let segment = |name: &str, body: Value| {
        let mut segment = json!({"name": name});
        for (key, value) in body.as_object().unwrap() {
            segment[key] = value.clone();
        }
        let answer = admin.post("/v1/admin/segments", &segment).expect(201);
        answer["id"].as_str().unwrap().to_owned()
    };
    let pro = segment(
        "pro",
        json!({"rules": [{"type": "attribute", "field": "plan", "operator": "==", "value": "pro"}]}),
    );
    let staff = segment(
        "staff",
        json!({"targeting": {"==": [{"var": "user.traits.staff"}, true]}}),
    );
    create(
        &admin,
        on_buy(
            "for pros",
            json!({"segments": {"include": [pro], "exclude": [staff]}}),
        ),
    );
    identify(&client, "pro", json!({"plan": "pro"}));
    identify(&client, "free", json!({"plan": "free"}));
    identify(&client, "own", json!({"plan": "pro", "staff": true}));
    assert_eq!(shown(&client, "pro", "buy", json!({})), ["for pros"]);
    assert_eq!(shown(&client, "free", "buy", json!({})), NONE);
    assert_eq!(shown(&client, "own", "buy", json!({})), NONE);
    assert_eq!(fetched(&client, "pro"), ["for pros"]);
    assert_eq!(fetched(&client, "own"), NONE);

    // A change of the segment is live at once, like one of the campaign.
    let path = format!("/v1/admin/segments/{pro}");
    let free = json!({"rules": [{"type": "attribute", "field": "plan", "operator": "==", "value": "free"}]});
    admin.put(&path, &free).expect(200);
    assert_eq!(shown(&client, "pro", "buy", json!({})), NONE);
    assert_eq!(shown(&client, "free", "buy", json!({})), ["for pros"]);
    let person = admin.get("/v1/admin/users/own").expect(200);
    assert!(person["segments"].to_string().contains(&staff), "{person}");
    // So is a change of the person.
    identify(&client, "own", json!({"plan": "free", "staff": false}));
    assert_eq!(shown(&client, "own", "buy", json!({})), ["for pros"]);

    let unknown = on_buy(
        "unknown",
        json!({"segments": {"include": ["no-such-segment"]}}),
    );
    // Saved, since the segment may come later, with a warning; nobody is in it.
    let answer = admin.post("/v1/admin/campaigns", &unknown).expect(201);
    assert_eq!(answer["warnings"][0]["code"], "unknown_segment", "{answer}");
    assert_eq!(shown(&client, "pro", "buy", json!({})), NONE);
}

#[test]
fn targeting_sees_the_user_the_event_and_now() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    for (name, targeting) in [
        (
            "trait",
            json!({"==": [{"var": "user.traits.city"}, "Oslo"]}),
        ),
        ("user id", json!({"==": [{"var": "user.id"}, "ada"]})),
        (
            "property",
            json!({">": [{"var": "event.properties.total"}, 100]}),
        ),
        ("name", json!({"==": [{"var": "event.name"}, "buy"]})),
        (
            "now",
            json!({">": [{"var": "now"}, "2020-01-01T00:00:00Z"]}),
        ),
        (
            "never",
            json!({"<": [{"var": "now"}, "2020-01-01T00:00:00Z"]}),
        ),
        (
            "nested",
            json!({"and": [
                {"in": [{"var": "user.traits.city"}, ["Oslo", "Bergen"]]},
                {"!": {"var": "user.traits.banned"}},
            ]}),
        ),
    ] {
        create(&admin, on_buy(name, json!({"targeting": targeting})));
    }
    identify(&client, "ada", json!({"city": "Oslo"}));
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(
        sorted(shown(&client, "ada", "buy", json!({"total": 101}))),
        ["name", "nested", "now", "property", "trait", "user id"]
    );
    assert_eq!(
        sorted(shown(&client, "bob", "buy", json!({"total": 99}))),
        ["name", "now"]
    );
    // Without an event, whatever mentions one is out, even where it would hold.
    assert_eq!(
        sorted(fetched(&client, "ada")),
        ["nested", "now", "trait", "user id"]
    );
}

#[test]
fn rules_and_targeting_must_both_hold() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    create(
        &admin,
        on_buy(
            "both",
            json!({
                "rules": [{"type": "event", "field": "sku", "operator": "contains", "value": "A"}],
                "targeting": {"==": [{"var": "user.traits.plan"}, "pro"]},
            }),
        ),
    );
    identify(&client, "pro", json!({"plan": "pro"}));
    assert_eq!(
        shown(&client, "pro", "buy", json!({"sku": "A-1"})),
        ["both"]
    );
    assert_eq!(shown(&client, "pro", "buy", json!({"sku": "B-1"})), NONE);
    assert_eq!(shown(&client, "free", "buy", json!({"sku": "A-1"})), NONE);
    assert_eq!(fetched(&client, "pro"), NONE);
}

#[test]
fn higher_priority_comes_first() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    for (name, priority) in [("low", -5), ("high", 10), ("middle", 1)] {
        create(&admin, on_buy(name, json!({"priority": priority})));
    }
    create(&admin, on_buy("without", json!({})));
    let order = ["high", "middle", "without", "low"];
    assert_eq!(shown(&client, "u", "buy", json!({})), order);
    assert_eq!(fetched(&client, "u"), order);
}

#[test]
fn campaigns_without_a_trigger_come_only_with_a_fetch() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    create(&admin, json!({"name": "always there", "status": "active"}));
    create(&admin, on_buy("on buy", json!({})));
    create(
        &admin,
        on_buy(
            "about the event",
            json!({"rules": [{"type": "event", "field": "sku", "operator": "==", "value": "A"}]}),
        ),
    );
    create(
        &admin,
        on_buy(
            "never about the event",
            json!({"targeting": {"or": [true, {"==": [{"var": "event.name"}, "x"]}]}}),
        ),
    );
    let mut on_fetch = fetched(&client, "u");
    on_fetch.sort();
    assert_eq!(on_fetch, ["always there", "on buy"]);
    let mut on_track = shown(&client, "u", "buy", json!({"sku": "A"}));
    on_track.sort();
    assert_eq!(
        on_track,
        ["about the event", "never about the event", "on buy"]
    );
    let anonymous = client
        .get("/v1/campaigns?anonymous_id=somebody")
        .expect(200);
    assert_eq!(names(&anonymous["campaigns"]).len(), 2, "{anonymous}");
}

#[test]
fn the_dashboards_placeholder_rule_is_ignored() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let placeholder = json!({"type": "event", "field": "unknown", "operator": "==", "value": ""});
    let rules = json!([
        placeholder,
        {"type": "attribute", "field": "plan", "operator": "==", "value": "pro"},
        placeholder,
    ]);
    let id = create(&admin, on_buy("placeholder", json!({"rules": rules})));
    identify(&client, "pro", json!({"plan": "pro"}));
    assert_eq!(shown(&client, "pro", "buy", json!({})), ["placeholder"]);
    // It is no mention of the event either, and it is given back as it was written.
    assert_eq!(fetched(&client, "pro"), ["placeholder"]);
    let kept = admin.get(&format!("/v1/admin/campaigns/{id}")).expect(200);
    assert_eq!(kept["rules"], rules);
    // With a value it is a rule.
    let rule = json!({"type": "event", "field": "unknown", "operator": "==", "value": "x"});
    create(&admin, on_buy("a rule", json!({"rules": [rule]})));
    assert_eq!(shown(&client, "pro", "buy", json!({})), ["placeholder"]);
    let mut with_it = shown(&client, "pro", "buy", json!({"unknown": "x"}));
    with_it.sort();
    assert_eq!(with_it, ["a rule", "placeholder"]);
}

#[test]
fn a_rule_that_cannot_be_compiled_is_refused_with_the_place() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let id = create(&admin, on_buy("good", json!({})));
    for (targeting, pointer) in [
        (json!({"no_such_operator": [1, 2]}), "/targeting"),
        (
            json!({"and": [true, {"no_such_operator": [1]}]}),
            "/targeting/and/1",
        ),
        (json!({"matches": [{"var": "user.id"}, "("]}), "/targeting"),
    ] {
        let refused = [
            admin.post(
                "/v1/admin/campaigns",
                &on_buy("bad", json!({"targeting": targeting})),
            ),
            admin.put(
                &format!("/v1/admin/campaigns/{id}"),
                &json!({"targeting": targeting}),
            ),
            admin.post(
                "/v1/admin/segments",
                &json!({"name": "bad", "targeting": targeting}),
            ),
            admin.post(
                "/v1/admin/features",
                &json!({"key": "bad", "targeting": targeting}),
            ),
        ];
        for answer in refused {
            let body = answer.expect_problem(422, "invalid_rule");
            let path = body["details"][0]["path"].as_str().unwrap();
            assert!(path.starts_with(pointer), "{path}: {body}");
        }
    }
    // What was refused changed nothing.
    assert_eq!(shown(&client, "u", "buy", json!({})), ["good"]);
    let list = admin.get("/v1/admin/campaigns").expect(200);
    assert_eq!(list["total"], 1, "{list}");
}

#[test]
fn a_rule_that_fails_while_it_runs_does_not_match() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let failing = json!({"-": [{"var": "user.traits.city"}, 1]});
    create(
        &admin,
        on_buy("failing", json!({"targeting": {">": [failing, 0]}})),
    );
    create(
        &admin,
        on_buy("negated", json!({"targeting": {"!": {">": [failing, 0]}}})),
    );
    create(&admin, on_buy("sound", json!({})));
    identify(&client, "u", json!({"city": "Oslo"}));
    assert_eq!(shown(&client, "u", "buy", json!({})), ["sound"]);
    assert_eq!(fetched(&client, "u"), ["sound"]);
}

#[test]
fn an_identify_counts_for_a_track_behind_it_in_the_same_batch() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    create(
        &admin,
        on_buy(
            "pros",
            json!({"targeting": {"==": [{"var": "user.traits.plan"}, "pro"]}}),
        ),
    );
    for round in 0..10 {
        let user = format!("u-{round}");
        let batch = json!({"batch": [
            {"type": "track", "userId": user, "event": "buy", "messageId": format!("a{round}")},
            {"type": "identify", "userId": user, "traits": {"plan": "pro"}},
            {"type": "track", "userId": user, "event": "buy", "messageId": format!("b{round}")},
            {"type": "identify", "userId": user, "traits": {"plan": "free"}},
            {"type": "track", "userId": user, "event": "buy", "messageId": format!("c{round}")},
        ]});
        let answer = client.post("/v1/batch?matched=true", &batch).expect(200);
        assert_eq!(answer["accepted"], 5, "{answer}");
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 5, "{answer}");
        let of = |index: usize| names(&results[index]["matched"]);
        assert_eq!(of(0), NONE, "before the identify");
        assert_eq!(of(2), ["pros"], "after it");
        assert_eq!(of(4), NONE, "after the next one");
        assert_eq!(shown(&client, &user, "buy", json!({})), NONE);
        // And from one request to the next.
        identify(&client, &user, json!({"plan": "pro"}));
        assert_eq!(shown(&client, &user, "buy", json!({})), ["pros"]);
    }
    let unasked = json!({"batch": [{"type": "track", "userId": "u", "event": "buy"}]});
    let answer = client.post("/v1/batch", &unasked).expect(200);
    assert!(!answer.to_string().contains("matched\":["), "{answer}");
}

#[test]
fn flags_are_targeted_like_campaigns() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let read = |path: &str| client.get(path).expect(200);
    let targeting = json!({"==": [{"var": "user.traits.plan"}, "pro"]});
    admin
        .post(
            "/v1/admin/features",
            &json!({"key": "beta", "value": {"color": "blue"}, "targeting": targeting}),
        )
        .expect(200);
    identify(&client, "pro", json!({"plan": "pro"}));
    let on = read("/v1/features/beta?user_id=pro");
    assert_eq!(
        (&on["enabled"], &on["value"]),
        (&json!(true), &json!({"color": "blue"}))
    );
    assert_eq!(
        read("/v1/features/beta/payload?user_id=pro"),
        json!({"color": "blue"})
    );
    let off = read("/v1/features/beta?user_id=free");
    assert_eq!(off["enabled"], false, "{off}");
    identify(&client, "free", json!({"plan": "pro"}));
    assert_eq!(read("/v1/features/beta?user_id=free")["enabled"], true);
    admin
        .post(
            "/v1/admin/features",
            &json!({"key": "beta", "enabled": false}),
        )
        .expect(200);
    assert_eq!(read("/v1/features/beta?user_id=pro")["enabled"], false);
}
