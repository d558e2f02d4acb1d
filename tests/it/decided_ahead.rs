//! What is decided before an event is queued is what would be decided when it is written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use beckon::matcher::{Campaign, CampaignRow, Snapshot};
use beckon::rules::Limits;
use beckon::segments::{Segment, Segments};
use chrono::DateTime;
use serde_json::{Value, json};

use crate::campaign_flow::{create, identify, on_buy};
use crate::support::{Client, TestApp, eventually, sql};

const SOON: Duration = Duration::from_secs(20);

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|campaign| campaign["name"].as_str().unwrap())
        .collect()
}

fn plan(plan: &str) -> Value {
    json!({"targeting": {"==": [{"var": "user.traits.plan"}, plan]}})
}

fn buy(client: &Client) -> Value {
    let body = json!({"user_id": "ada", "event": "buy"});
    client.post("/v1/track", &body).expect(200)
}

/// A call that waits behind a change sees what the change made, of the person and of the campaigns.
#[test]
fn what_changes_before_an_event_is_written_counts() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    identify(&client, "ada", json!({"plan": "free"}));
    create(&admin, on_buy("free", plan("free")));
    create(&admin, on_buy("pro", plan("pro")));
    assert_eq!(names(&buy(&client)["matched"]), ["free"]);

    let held = |events: u64| {
        eventually("events are held", SOON, || {
            let ready = client.get("/readyz").expect(200);
            (ready["queued_events"] == events).then_some(())
        });
    };
    let mut lock = app.sql();
    sql::run(
        &mut lock,
        "BEGIN; LOCK TABLE message_ids_0, message_ids_1 IN ACCESS EXCLUSIVE MODE",
    );
    let change = json!({"user_id": "ada", "traits": {"plan": "pro"}, "event_id": "change"});
    std::thread::scope(|scope| {
        let changed = scope.spawn(|| app.client().post("/v1/identify", &change).expect(200));
        held(1);
        let answer = scope.spawn(|| buy(&app.client()));
        held(2);
        create(&admin, on_buy("new", json!({})));
        sql::run(&mut lock, "COMMIT");
        changed.join().unwrap();
        let answer = answer.join().unwrap();
        let mut shown = names(&answer["matched"]);
        shown.sort_unstable();
        assert_eq!(shown, ["new", "pro"]);
    });
}

/// Events of a list are decided on by the shard that writes them.
#[test]
fn a_single_call_and_a_list_are_answered_alike() {
    let app = TestApp::start();
    let (admin, client) = (app.admin(), app.client());
    let segment = json!({"name": "rich", "targeting": {">": [{"var": "user.traits.age"}, 40]}});
    admin.post("/v1/admin/segments", &segment).expect(201);
    let over = |total: u32| json!({">": [{"var": "event.properties.total"}, total]});
    let items = json!({"var": "event.properties.items"});
    let any = json!({"some": [items, {">": [{"var": ""}, 7]}]});
    let sum = json!({"+": [{"var": "user.traits.age"}, {"var": "event.properties.total"}]});
    for (name, targeting) in [
        ("all", json!(true)),
        ("total", over(5)),
        ("segment", json!({"in_segment": "rich"})),
        ("sum", json!({"<": [sum, 50]})),
        ("any", any),
    ] {
        create(&admin, on_buy(name, json!({"targeting": targeting})));
    }
    let mut seen = HashSet::new();
    for age in [json!(20), json!(45), json!("45"), json!(null)] {
        identify(&client, "ada", json!({"age": age}));
        for total in [json!(3), json!(9), json!("x")] {
            for items in [json!([1, 9]), json!([]), json!("9")] {
                let properties = json!({"total": total, "items": items});
                let event = json!({"user_id": "ada", "event": "buy", "properties": properties});
                let one = client.post("/v1/track", &event).expect(200);
                let event = json!({
                    "type": "track", "userId": "ada", "event": "buy", "properties": properties,
                });
                let list = json!({"batch": [event]});
                let list = client.post("/v1/batch?matched=true", &list).expect(200);
                let (one, list) = (
                    names(&one["matched"]),
                    names(&list["results"][0]["matched"]),
                );
                assert_eq!(one, list, "{age} {properties}");
                seen.insert(one.join(" "));
            }
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
}

/// What is much work is left to the shards: rules that the index cannot answer, and segments.
#[test]
fn the_work_of_a_decision_is_known_before() {
    let limits = Limits::default();
    let row = |targeting: &Value| CampaignRow {
        id: targeting.to_string(),
        seq: 1,
        version: 1,
        body: on_buy("one", json!({"targeting": targeting}))
            .as_object()
            .unwrap()
            .clone(),
        created_at: DateTime::UNIX_EPOCH,
        updated_at: None,
    };
    let work = |rules: &[Value], segments: Vec<Arc<Segment>>| {
        let compiled = |rule| Arc::new(Campaign::compile(&row(rule), &limits).unwrap());
        let campaigns = rules.iter().map(compiled).collect();
        let segments = Segments::new(segments);
        let snapshot = Snapshot::new(1, campaigns, segments, HashMap::new());
        assert_eq!(snapshot.work_on("other").0, 0);
        snapshot.work_on("buy")
    };
    let indexed = json!({"==": [{"var": "user.traits.plan"}, "pro"]});
    let some = json!({"some": [{"var": "event.properties.items"}, {">": [{"var": ""}, 7]}]});
    assert_eq!(work(std::slice::from_ref(&indexed), Vec::new()), (1, 0));
    let (campaigns, steps) = work(&[indexed, some.clone()], Vec::new());
    assert!(campaigns == 2 && steps > 1_000, "{campaigns} {steps}");
    let body = json!({"name": "s", "targeting": some});
    let segment = Segment::compile("s", body.as_object().unwrap(), &limits).unwrap();
    let (_, of_segments) = work(&[json!({"in_segment": "s"})], vec![Arc::new(segment)]);
    assert!(of_segments >= steps, "{of_segments}");
}
