//! What is decided before an event is queued is what would be decided when it is written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use beckon::matcher::{Allowance, Campaign, CampaignRow, Flag, Snapshot};
use beckon::rules::{Condition, EventFacts, FactsArena, Limits, Object, UserFacts};
use beckon::segments::{Segment, Segments};
use beckon::targeting::INLINE_WORK_MAX;
use chrono::DateTime;
use serde_json::{Value, json};

use crate::campaign_flow::{create, identify, on_buy};
use crate::support::metrics::Scrape;
use crate::support::{Client, TestApp, eventually, pause, sql};

const SOON: Duration = Duration::from_secs(20);

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|campaign| campaign["name"].as_str().unwrap())
        .collect()
}

fn plan(plan: &str) -> Value {
    json!({"targeting": {"==": [{"var": "user.traits.plan"}, plan]}})
}

/// How many decisions made ahead held.
fn ahead(app: &TestApp) -> f64 {
    // A scrape may be a moment old.
    pause(Duration::from_millis(250));
    Scrape::of(&app.admin()).value("beckon_ingest_decided_ahead_total")
}

fn buy(client: &Client) -> Value {
    let body = json!({"user_id": "ada", "event": "buy"});
    client.post("/v1/track", &body).expect(200)
}

fn wait_for_held(client: &Client, events: u64) {
    eventually("events are held", SOON, || {
        let ready = client.get("/readyz").expect(200);
        (ready["queued_events"] == events).then_some(())
    });
}

/// A call that waits behind a change sees what the change made, of the person and of the campaigns.
#[test]
fn what_changes_before_an_event_is_written_counts() {
    for (plan_then, is_new, expected) in [
        ("pro", false, &["pro"][..]),
        ("free", true, &["free", "new"]),
        ("pro", true, &["new", "pro"]),
        ("free", false, &["free"]),
    ] {
        let app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1")]);
        let (admin, client) = (app.admin(), app.client());
        identify(&client, "ada", json!({"plan": "free"}));
        create(&admin, on_buy("free", plan("free")));
        create(&admin, on_buy("pro", plan("pro")));
        assert_eq!(names(&buy(&client)["matched"]), ["free"]);
        assert!((ahead(&app) - 1.0).abs() < 0.5);

        let mut lock = app.sql();
        sql::run(
            &mut lock,
            "BEGIN; LOCK TABLE message_ids_0, message_ids_1 IN ACCESS EXCLUSIVE MODE",
        );
        // Its id makes it wait for the lock, and what comes after it for both.
        let change = json!({
            "user_id": "ada", "traits": {"plan": plan_then}, "event_id": "change",
        });
        std::thread::scope(|scope| {
            let changed = scope.spawn(|| app.client().post("/v1/identify", &change).expect(200));
            wait_for_held(&client, 1);
            let answer = scope.spawn(|| buy(&app.client()));
            wait_for_held(&client, 2);
            if is_new {
                create(&admin, on_buy("new", json!({})));
            }
            sql::run(&mut lock, "COMMIT");
            changed.join().unwrap();
            let answer = answer.join().unwrap();
            let mut shown = names(&answer["matched"]);
            shown.sort_unstable();
            assert_eq!(shown, expected);
        });
        // What was decided ahead holds where all is as it was.
        let held = f64::from(1 + u8::from(plan_then == "free" && !is_new));
        assert!((ahead(&app) - held).abs() < 0.5);
    }
}

/// The first of two events that wait says that she is back, so the second finds her there.
#[test]
fn when_somebody_was_last_seen_counts_as_it_is_when_an_event_is_written() {
    let one_by_one = [
        ("BECKON_INGEST_SHARDS", "1"),
        ("BECKON_INGEST_BATCH_EVENTS", "1"),
    ];
    let mut app = TestApp::start_with(&one_by_one);
    let away = json!({"!": [{"within_last": [{"var": "user.last_seen_at"}, "1d"]}]});
    create(&app.admin(), on_buy("away", json!({"targeting": away})));
    identify(&app.client(), "ada", json!({}));
    assert!(app.terminate(SOON).is_some());
    sql::run(
        &mut app.sql(),
        "DELETE FROM people_seen; UPDATE persons SET last_seen_at = now() - interval '2 days'",
    );
    app.restart();
    let client = app.client();
    // From now on she is remembered, so that what she does is decided ahead.
    client.get("/v1/campaigns?user_id=ada").expect(200);
    let mut lock = app.sql();
    sql::run(
        &mut lock,
        "BEGIN; LOCK TABLE message_ids_0, message_ids_1 IN ACCESS EXCLUSIVE MODE",
    );
    let bought = |id: &str| {
        let body = json!({"user_id": "ada", "event": "buy", "event_id": id});
        app.client().post("/v1/track", &body).expect(200)
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| bought("first"));
        wait_for_held(&client, 1);
        let second = scope.spawn(|| bought("second"));
        wait_for_held(&client, 2);
        sql::run(&mut lock, "COMMIT");
        assert_eq!(names(&first.join().unwrap()["matched"]), ["away"]);
        assert_eq!(names(&second.join().unwrap()["matched"]), [""; 0]);
    });
    // What was decided ahead did not hold.
    assert!((ahead(&app) - 1.0).abs() < 0.5);
}

/// What waits in the queue holds whom it was decided on.
#[test]
fn people_with_much_are_not_decided_on_ahead() {
    let app = TestApp::start();
    create(&app.admin(), on_buy("all", json!({})));
    for (bytes, expected) in [(1_000, 1.0), (10_000, 1.0), (1_000, 2.0)] {
        identify(&app.client(), "ada", json!({"text": "x".repeat(bytes)}));
        assert_eq!(names(&buy(&app.client())["matched"]), ["all"]);
        let ahead = ahead(&app);
        assert!((ahead - expected).abs() < 0.5, "{bytes}: {ahead}");
    }
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
    let mut calls = 0.0;
    for age in [json!(20), json!(45), json!("45"), json!(null)] {
        identify(&client, "ada", json!({"age": age}));
        for total in [json!(3), json!(9), json!("x")] {
            for items in [json!([1, 9]), json!([]), json!("9")] {
                let properties = json!({"total": total, "items": items});
                let event = json!({"user_id": "ada", "event": "buy", "properties": properties});
                let one = client.post("/v1/track", &event).expect(200);
                calls += 1.0;
                let event = json!({
                    "type": "track", "userId": "ada", "event": "buy", "properties": properties,
                });
                // A list of one would be decided on as a single call is.
                let other = json!({"type": "track", "userId": "bob", "event": "see"});
                let list = json!({"batch": [event, other]});
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
    let ahead = ahead(&app);
    assert!((calls - ahead).abs() < 0.5, "{ahead} of {calls}");
}

fn user<'a>(traits: &'a Value, arena: &'a FactsArena) -> UserFacts<'a> {
    UserFacts {
        id: "ada",
        traits: arena.from_value(traits),
        created_at: DateTime::UNIX_EPOCH,
        last_seen_at: DateTime::UNIX_EPOCH,
    }
}

/// A project with a campaign for each of these rules.
fn snapshot(rules: &[Value], segments: Vec<Arc<Segment>>) -> Snapshot {
    let limits = Limits::default();
    let compiled = |rule: &Value| {
        let body = on_buy("one", json!({"targeting": rule}));
        let row = CampaignRow {
            id: rule.to_string(),
            seq: 1,
            version: 1,
            body: body.as_object().unwrap().clone(),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        };
        Arc::new(Campaign::compile(&row, &limits).unwrap())
    };
    let campaigns = rules.iter().map(compiled).collect();
    Snapshot::new(1, campaigns, Segments::new(segments), HashMap::new())
}

/// How many campaigns are shown to somebody who buys, if that may be decided.
fn shown(
    snapshot: &Snapshot,
    allowance: &mut Allowance<'_>,
    traits: &Value,
    properties: &Value,
) -> Option<usize> {
    let arena = FactsArena::new();
    let event = EventFacts {
        name: "buy",
        properties: arena.from_value(properties),
        context: Object::EMPTY,
        timestamp: DateTime::UNIX_EPOCH,
    };
    if !snapshot.may_find("buy", allowance) {
        return None;
    }
    let (user, now) = (user(traits, &arena), DateTime::UNIX_EPOCH);
    let decision = snapshot.on_event_within(allowance, user, event, now, &arena);
    decision.map(|decision| decision.matched.len())
}

/// What may be decided before an event of this person is queued.
fn little(traits: &Value, properties: &Value) -> Allowance<'static> {
    let bytes = traits.to_string().len() + properties.to_string().len();
    Allowance::of(INLINE_WORK_MAX, bytes)
}

/// What deciding on an event takes of what is allowed, if it is allowed.
fn work(rules: &[Value], segments: Vec<Arc<Segment>>, traits: &Value) -> Option<u64> {
    let nothing = json!({});
    let mut allowance = little(traits, &nothing);
    shown(&snapshot(rules, segments), &mut allowance, traits, &nothing)?;
    Some(INLINE_WORK_MAX - allowance.left())
}

fn segment(name: &str, targeting: &Value) -> Arc<Segment> {
    let body = json!({"name": name, "targeting": targeting});
    let limits = Limits::default();
    Arc::new(Segment::compile(name, body.as_object().unwrap(), &limits).unwrap())
}

/// A rule of a million steps, if it has to be evaluated on much text.
fn costly() -> Value {
    let each: Vec<u32> = (0..1_000).collect();
    let inner = json!({"some": [each, {"==": [{"var": ""}, -1]}]});
    json!({"some": [{"var": "user.traits.plan"}, inner]})
}

/// What is much work is not done ahead: rules that the index cannot answer, on whatever they are to be
/// tried, and segments.
#[test]
fn the_work_of_a_decision_is_known_before() {
    let (pro, long) = (json!({"plan": "pro"}), json!({"plan": "pro".repeat(5_000)}));
    let plan = json!({"var": "user.traits.plan"});
    // Campaigns that the index decides, or rules out, are next to nothing.
    let of_indexed = |campaigns: u32| {
        let rule = |number: u32| {
            let other = json!({"!=": [plan, number.to_string()]});
            json!({"and": [other, {"<": [0, {"var": "user.traits.age"}]}]})
        };
        let rules: Vec<Value> = (0..campaigns).map(rule).collect();
        work(&rules, Vec::new(), &pro).unwrap()
    };
    let (few, many) = (of_indexed(1), of_indexed(2_000));
    assert!(many < few + 100, "{few} {many}");
    // Texts that have to be looked into are tried one by one, which takes the longer the more text.
    let contains = |number: u32| json!({"in": [number.to_string(), plan]});
    let rules: Vec<Value> = (0..300).map(contains).collect();
    let short = work(&rules, Vec::new(), &pro).unwrap();
    assert!(short > 3_000, "{short}");
    assert_eq!(work(&rules, Vec::new(), &long), None);
    // As is a pattern of many places.
    let pattern = |text: &str| json!({"matches": [plan, text]});
    let short = work(&[pattern("pro$")], Vec::new(), &long);
    assert!(short.is_some_and(|work| work > few), "{short:?}");
    assert_eq!(work(&[pattern("x[a-z]{2000}")], Vec::new(), &long), None);
    // What an iteration may take counts, for as many elements as there may be.
    let some = |body: Value| json!({"some": [plan, body]});
    let once = some(json!({">": [{"var": ""}, 7]}));
    let few = work(std::slice::from_ref(&once), Vec::new(), &pro).unwrap();
    let many = work(std::slice::from_ref(&once), Vec::new(), &long).unwrap();
    assert!(many > few + 3_000, "{few} {many}");
    for (rule, is_little) in [(once, true), (costly(), false)] {
        assert_eq!(
            work(std::slice::from_ref(&rule), Vec::new(), &long).is_some(),
            is_little
        );
        let in_it = [json!({"in_segment": "s"})];
        let work = work(&in_it, vec![segment("s", &rule)], &long);
        assert_eq!(work.is_some(), is_little, "{work:?}");
    }
}

/// Segments that nobody has to look up cost nothing, however much work they are.
#[test]
fn only_segments_that_are_asked_for_count() {
    let plan = json!({"var": "user.traits.plan"});
    let costly = segment("costly", &costly());
    let chained = segment("chained", &json!({"in_segment": "costly"}));
    let small = segment("small", &json!(true));
    let segments = || {
        vec![
            Arc::clone(&costly),
            Arc::clone(&chained),
            Arc::clone(&small),
        ]
    };
    let in_it = |name: &str| json!({ "in_segment": name });
    let is_free = json!({"==": [plan, "free"]});
    let long = json!({"plan": "pro".repeat(5_000)});
    for (rule, is_little) in [
        (json!(true), true),
        (in_it("small"), true),
        (in_it("costly"), false),
        (in_it("chained"), false),
        (json!({"and": [is_free, in_it("chained")]}), true),
    ] {
        let work = work(std::slice::from_ref(&rule), segments(), &long);
        assert_eq!(work.is_some(), is_little, "{rule}: {work:?}");
        let snapshot = snapshot(&[], segments());
        let targeting = Condition::parse(&rule, &Limits::default()).unwrap();
        let targeting = Some(Arc::new(targeting));
        for (enabled, is_little) in [(true, is_little), (false, true)] {
            let flag = Flag {
                enabled,
                value: None,
                targeting: targeting.clone(),
            };
            let (mut allowance, arena) = (little(&long, &json!({})), FactsArena::new());
            let (user, now) = (user(&long, &arena), DateTime::UNIX_EPOCH);
            let answer = snapshot.decide_flag(&flag, &mut allowance, user, now, &arena);
            assert_eq!(answer.is_some(), is_little, "{rule}: {answer:?}");
        }
    }
}

/// What the index looks up counts, too.
#[test]
fn attributes_count_by_how_many_are_looked_up() {
    let of = |campaigns: usize, attributes: usize| {
        let rule = |campaign: usize| {
            let attribute = |number: usize| format!("user.traits.p.k{campaign}_{number}");
            let is_one = |number: usize| json!({"==": [{"var": attribute(number)}, 1]});
            json!({"and": (0..attributes).map(is_one).collect::<Vec<_>>()})
        };
        snapshot(&(0..campaigns).map(rule).collect::<Vec<_>>(), Vec::new())
    };
    let (without, with) = (json!({"plan": "pro"}), json!({"p": {"k0_0": 1}}));
    let shown = |snapshot: &Snapshot, traits: &Value| {
        let nothing = json!({});
        shown(snapshot, &mut little(traits, &nothing), traits, &nothing)
    };
    // Nobody looks for attributes that few ask about where the way to them is missing.
    let rare = of(100, 400);
    assert_eq!(shown(&rare, &without), Some(0));
    assert_eq!(shown(&rare, &with), None);
    assert_eq!(shown(&of(100, 10), &with), Some(0));
    assert_eq!(shown(&of(60, 600), &without), None);
}

/// Who has gone is not worked for.
#[test]
fn what_nobody_waits_for_is_given_up() {
    let has_gone = AtomicBool::new(false);
    let in_it = json!({"in_segment": "all"});
    let snapshot = snapshot(
        std::slice::from_ref(&in_it),
        vec![segment("all", &json!(true))],
    );
    let flag = Flag {
        enabled: true,
        value: None,
        targeting: Some(Arc::new(
            Condition::parse(&in_it, &Limits::default()).unwrap(),
        )),
    };
    let (nothing, now, arena) = (json!({}), DateTime::UNIX_EPOCH, FactsArena::new());
    let user = user(&nothing, &arena);
    for is_wanted in [true, false] {
        has_gone.store(!is_wanted, Ordering::Relaxed);
        let mut all = Allowance::boundless(Some(&has_gone));
        let shown = shown(&snapshot, &mut all, &nothing, &nothing);
        assert_eq!(shown, is_wanted.then_some(1));
        let is_on = snapshot.decide_flag(&flag, &mut all, user, now, &arena);
        assert_eq!(is_on.map(|it| it.is_on), is_wanted.then_some(true));
        let segments = snapshot.segments_of(&mut all, user, now, &arena);
        let segments = segments.map(|(list, _)| list.len());
        assert_eq!(segments, is_wanted.then_some(1));
    }
}
