//! Explanations as of then, and what they cannot tell.

use beckon::model::ProjectId;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{create, explain, gate, identify, track, upsell};
use crate::import::import_text;
use crate::support::{TestApp, now, sql};

#[test]
fn a_stored_event_is_explained_as_of_then() {
    let app = TestApp::start();
    let id = create(&app, &upsell("active"));
    identify(&app, "ada", &json!({"plan": "free", "seats": 3}));
    let (event, matched) = track(&app, "ada", "Ordered", &json!({"total": 80}));
    assert_eq!(matched, [json!(id)]);
    // Since then everything has changed: her plan, the campaign, and another campaign is there.
    identify(&app, "ada", &json!({"plan": "pro", "city": "Rome"}));
    let path = format!("/v1/admin/campaigns/{id}");
    let change = json!({"targeting": {"==": [1, 2]}, "name": "Later"});
    app.admin().put(&path, &change).expect(200);
    create(
        &app,
        &json!({"name": "New", "status": "active", "trigger": "Ordered"}),
    );
    let answer = explain(&app, &json!({"event_id": event}));
    assert_eq!(answer["matched"], json!([id]), "{answer}");
    assert_eq!(answer["summary"]["campaigns"], 1);
    assert_eq!(answer["user"], json!({"id": "ada", "known": true}));
    let campaign = &answer["campaigns"][0];
    assert_eq!(campaign["name"], "Upsell");
    let plan = &gate(campaign, "targeting")["conditions"][0]["parts"][0]["seen"];
    assert_eq!(
        *plan,
        json!([{"path": "user.traits.plan", "value": "free"}])
    );
    let as_of = &answer["as_of"];
    let traits = json!({"source": "history", "certain": true, "identify_calls": 1,
                        "set_later": ["city"]});
    assert_eq!(as_of["traits"], traits, "{as_of}");
    assert_eq!(as_of["campaigns"], json!({"source": "history"}));
    assert_eq!(as_of["segments"], "current");
    // Now it is another answer.
    let today = json!({"name": "Ordered", "properties": {"total": 80}});
    let today = explain(&app, &json!({"user_id": "ada", "event": today}));
    assert_eq!(today["summary"]["matched"], 1, "{today}");
    assert_ne!(today["matched"], json!([id]));
    // What is deleted is still explained as of then, and a past moment does as well as an event.
    app.admin().delete(&path).expect(200);
    assert_eq!(
        explain(&app, &json!({"event_id": event}))["matched"],
        json!([id])
    );
    let at = as_of["at"]
        .as_str()
        .unwrap()
        .parse::<DateTime<Utc>>()
        .unwrap();
    let ordered = json!({"name": "Ordered", "properties": {"total": 80}});
    let then = json!({"user_id": "ada", "event": ordered, "at": at});
    assert_eq!(explain(&app, &then)["matched"], json!([id]));
    let before = json!({"user_id": "ada", "event": ordered, "at": at - TimeDelta::days(1)});
    let before = explain(&app, &before);
    assert_eq!(before["user"]["known"], false, "{before}");
    assert_eq!(before["summary"]["campaigns"], 0);
}

#[test]
fn what_history_cannot_tell_is_said() {
    let app = TestApp::start();
    let plan = json!({"==": [{"var": "user.traits.plan"}, "free"]});
    let campaign = json!({"name": "c", "status": "active", "trigger": "e", "targeting": plan});
    let id = create(&app, &campaign);
    identify(&app, "ada", &json!({"city": "Rome"}));
    let (event, _) = track(&app, "ada", "e", &json!({}));
    identify(&app, "ada", &json!({"city": "Oslo"}));
    // As if the trait had come with an import.
    sql::run(
        &mut app.sql(),
        "UPDATE persons SET traits = traits || '{\"plan\": \"free\"}'",
    );
    let answer = explain(&app, &json!({"event_id": event}));
    let traits = json!({"source": "history", "certain": false, "identify_calls": 1,
                        "unexplained": ["plan"]});
    assert_eq!(answer["as_of"]["traits"], traits);
    assert_eq!(
        answer["matched"],
        json!([id]),
        "it counts as having been there: {answer}"
    );
    sql::run(&mut app.sql(), "DELETE FROM campaign_history");
    let answer = explain(&app, &json!({"event_id": event}));
    assert_eq!(
        answer["as_of"]["campaigns"],
        json!({"source": "history", "without_history": 1})
    );
}

/// Also where the database cannot look into what was saved.
#[test]
fn only_campaigns_that_were_active_then_are_explained_as_of_then() {
    let app = TestApp::start();
    let campaign = |status: &str, note: &str| json!({"name": status, "status": status, "trigger": "e", "note": note});
    let ids = [
        ("active", "\0"),
        ("active", ""),
        ("paused", "\0"),
        ("paused", ""),
    ]
    .map(|(status, note)| create(&app, &campaign(status, note)));
    let (event, matched) = track(&app, "ada", "e", &json!({}));
    assert_eq!(matched.len(), 2);
    // Since then all of them have become the contrary.
    for (id, status) in ids.iter().zip(["paused", "paused", "active", "active"]) {
        let path = format!("/v1/admin/campaigns/{id}");
        app.admin().put(&path, &campaign(status, "")).expect(200);
    }
    let answer = explain(&app, &json!({"event_id": event}));
    assert_eq!(answer["matched"], json!(matched), "{answer}");
    assert_eq!(answer["summary"]["campaigns"], 2);
    let paused = explain(&app, &json!({"event_id": event, "campaign_id": ids[3]}));
    assert_eq!(paused["summary"]["first_closed"]["status"], 1, "{paused}");
}

/// However much somebody said, a part of it is read that there is room for, nearest to then.
#[test]
fn of_very_large_calls_those_near_to_the_moment_are_read() {
    let app = TestApp::start();
    identify(&app, "ada", &json!({"plan": "pro"}));
    for n in 0..25 {
        identify(&app, "ada", &json!({"bio": "x".repeat(200_000), "n": n}));
    }
    let (event, _) = track(&app, "ada", "e", &json!({}));
    identify(&app, "ada", &json!({"bio": ""}));
    let answer = explain(&app, &json!({"event_id": event}));
    let traits = json!({"source": "history", "certain": false, "identify_calls": 20,
                        "truncated": true, "unexplained": ["plan"]});
    assert_eq!(answer["as_of"]["traits"], traits, "{answer}");
}

/// However often they said something.
#[test]
fn of_very_many_calls_those_near_to_the_moment_are_read() {
    let app = TestApp::start();
    identify(&app, "ada", &json!({"plan": "pro"}));
    sql::run(
        &mut app.sql(),
        "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
         properties, timestamp, received_at) \
         SELECT received_on, gen_random_uuid(), project_id, person_id, kind, name, user_id, \
         '{\"n\": 1}', timestamp, received_at + n * interval '1 microsecond' \
         FROM events, generate_series(1, 1000) n",
    );
    let (event, _) = track(&app, "ada", "e", &json!({}));
    let answer = explain(&app, &json!({"event_id": event}));
    assert_eq!(answer["as_of"]["traits"]["source"], "current", "{answer}");
    identify(&app, "ada", &json!({"city": "Rome"}));
    let answer = explain(&app, &json!({"event_id": event}));
    let traits = json!({"source": "history", "certain": false, "identify_calls": 1000,
                        "truncated": true, "unexplained": ["plan"], "set_later": ["city"]});
    assert_eq!(answer["as_of"]["traits"], traits, "{answer}");
}

/// What an import gave somebody is not kept once a call has changed it.
#[test]
fn traits_that_an_import_may_have_given_are_not_certain() {
    let app = TestApp::prepared(&[], |connection| {
        let project = ProjectId(sql::default_project(connection));
        let people = json!({"users": {"ada": {"plan": "pro"}}});
        import_text(connection, project, &people.to_string());
    });
    let (event, _) = track(&app, "ada", "e", &json!({}));
    identify(&app, "ada", &json!({"plan": "free"}));
    let answer = explain(&app, &json!({"event_id": event}));
    let traits = json!({"source": "history", "certain": false, "identify_calls": 0,
                        "set_later": ["plan"], "imported": true});
    assert_eq!(answer["as_of"]["traits"], traits, "{answer}");
    let asked = ["explain", "--event-id", event.as_str().unwrap()];
    let output = app.launch().command(&asked).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = "not certain; set later only: plan (imported: ";
    assert!(text.contains(said), "{text}");
}

/// What was received before the oldest day that a project keeps may have changed anything.
#[test]
fn what_is_past_its_retention_is_not_certain() {
    let app = TestApp::start();
    identify(&app, "ada", &json!({"plan": "pro"}));
    sql::age_events(&mut app.sql(), "ada", "identify", 60);
    let ask = |days: i64| {
        let at = now() - TimeDelta::days(days);
        let answer = explain(&app, &json!({"user_id": "ada", "event": "e", "at": at}));
        answer["as_of"]["traits"].clone()
    };
    let current = json!({"source": "current", "certain": true, "identify_calls": 0});
    // All that came since is there, and nothing has changed.
    assert_eq!(ask(10), current);
    sql::run(
        &mut app.sql(),
        "UPDATE projects SET retention_days = 30; DELETE FROM events",
    );
    assert_eq!(ask(10), current);
    // A call between then and the oldest day that is kept would be gone.
    let unknown = json!({"source": "history", "certain": false, "identify_calls": 0,
                         "older_than_history": true, "unexplained": ["plan"]});
    assert_eq!(ask(40), unknown);
    // What the plan was before this one, nobody knows.
    identify(&app, "ada", &json!({"plan": "free"}));
    let set_later = json!({"source": "history", "certain": false, "identify_calls": 0,
                           "older_than_history": true, "set_later": ["plan"]});
    assert_eq!(ask(10), set_later);
}
