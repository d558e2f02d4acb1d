//! Whoever decides while campaigns change sees one whole state of them and never a mixture of two.
//!
//! Every change rewrites campaigns of several lists, a segment they name, and a flag, all with the
//! same number. A reader that finds two numbers in one snapshot, or older ones after newer ones, has
//! found a mixture.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use beckon::clock::Clock;
use beckon::matcher::{Campaign, CampaignRow, Flag, Snapshot};
use beckon::model::ProjectId;
use beckon::rules::{EventFacts, FactsArena, Limits, Object, UserFacts};
use beckon::segments::{Segment, Segments};
use beckon::store::campaigns::{self, CampaignFields};
use beckon::store::{Store, StoreOptions, segments};
use beckon::targeting::{Targeting, TargetingOptions};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::PgConnection;
use serde_json::{Map, Value, json};

use crate::campaign_flow::{create, identify, on_buy, shown};
use crate::support::postgres::database;
use crate::support::{TestApp, eventually, is_soak};

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// The campaigns of one state: two on `x`, one on `y`, one for fetches, and two of which a user is
/// always shown the one or the other, by a segment that contains everybody in every second state.
fn bodies(number: i64) -> Vec<(&'static str, Value)> {
    let campaign = |trigger: Value, more: Value| {
        let mut body =
            json!({"name": "c", "status": "active", "trigger": trigger, "number": number});
        body.as_object_mut().unwrap().extend(object(more));
        body
    };
    // Not for the index alone, and different in every state.
    let residual = json!({"==": [{"%": [number, 7]}, number % 7]});
    let plain = json!({"!==": [{"var": "user.traits.plan"}, number]});
    vec![
        (
            "first",
            campaign(
                json!("x"),
                json!({"targeting": residual, "priority": number % 3}),
            ),
        ),
        (
            "second",
            campaign(
                json!("x"),
                json!({"targeting": plain, "priority": number % 5}),
            ),
        ),
        ("on y", campaign(json!("y"), json!({}))),
        (
            "fetched",
            campaign(Value::Null, json!({"targeting": plain})),
        ),
        (
            "in",
            campaign(json!("x"), json!({"segments": {"include": ["s"]}})),
        ),
        (
            "out",
            campaign(json!("x"), json!({"segments": {"exclude": ["s"]}})),
        ),
    ]
}

fn segment_body(number: i64) -> Value {
    json!({"name": "s", "targeting": number % 2 == 0, "number": number})
}

/// The number in a campaign as clients receive it.
fn number(campaign: &Campaign) -> i64 {
    let json: Value = serde_json::from_str(&campaign.json).unwrap();
    json["number"].as_i64().unwrap()
}

/// What one snapshot holds, by every way into it; panics when the numbers differ.
fn one_number(snapshot: &Snapshot, others: usize) -> i64 {
    let arena = FactsArena::new();
    let user = UserFacts {
        id: "u",
        traits: Object::EMPTY,
        created_at: now(),
        last_seen_at: now(),
    };
    let on = |name| {
        let event = EventFacts {
            name,
            properties: Object::EMPTY,
            context: Object::EMPTY,
            timestamp: now(),
        };
        let matched = snapshot.on_event(user, event, now(), &arena).matched;
        matched.iter().cloned().collect::<Vec<_>>()
    };
    let mut seen = on("x");
    assert_eq!(seen.len(), 3, "{seen:?}");
    seen.extend(on("y"));
    let fetched = snapshot.on_fetch(user, now(), &arena).matched;
    assert_eq!(fetched.len(), 5, "{fetched:?}");
    seen.extend(fetched.iter().cloned());
    let numbers: Vec<i64> = seen.iter().map(|campaign| number(campaign)).collect();
    let first = numbers[0];
    assert!(numbers.iter().all(|number| *number == first), "{numbers:?}");
    let by_segment = if first % 2 == 0 { "in" } else { "out" };
    assert!(
        seen.iter().any(|campaign| campaign.id == by_segment),
        "{first}: {seen:?}"
    );
    assert_eq!(snapshot.campaigns().len(), 6 + others);
    for campaign in snapshot.campaigns().iter() {
        assert!(campaign.id.starts_with("other") || number(campaign) == first);
    }
    if let Some(flag) = snapshot.flag("f") {
        assert_eq!(flag.value, Some(json!(first)));
    }
    first
}

/// Reads until told to stop; how many different states were seen.
fn read(stop: &AtomicBool, others: usize, snapshot: impl Fn() -> Arc<Snapshot>) -> usize {
    let (mut last, mut states) = (i64::MIN, 0);
    while !stop.load(Ordering::Relaxed) {
        let snapshot = snapshot();
        one_number(&snapshot, others);
        let revision = snapshot.revision();
        assert!(revision >= last, "{revision} after {last}");
        states += usize::from(revision > last);
        last = revision;
    }
    states
}

/// Campaigns that stay, so that most of what a change finds is taken over.
fn others() -> Vec<Arc<Campaign>> {
    let bodies = (1..31_i64).map(|index| {
        let targeting = json!({"==": [{"var": format!("user.traits.t{}", index % 20)}, index]});
        let trigger = if index % 2 == 0 { "x" } else { "y" };
        (
            index,
            json!({"status": "active", "trigger": trigger, "targeting": targeting}),
        )
    });
    bodies
        .map(|(index, body)| compile(&format!("other {index}"), index, 1, body))
        .collect()
}

fn compile(id: &str, seq: i64, version: i64, body: Value) -> Arc<Campaign> {
    let row = CampaignRow {
        id: id.to_owned(),
        seq,
        version,
        body: object(body),
        created_at: now() + TimeDelta::seconds(seq),
        updated_at: None,
    };
    Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
}

/// How many states there are, an even number of them.
const STATES: i64 = 64;

#[test]
fn ten_thousand_changes_of_a_snapshot_are_each_seen_whole() {
    let changes = if is_soak() { 200_000 } else { 10_000 };
    let others = others();
    // Compiling is not what is tested here, so states come again and again.
    let states: Vec<_> = (0..STATES)
        .map(|state| {
            let changed = bodies(state).into_iter().zip(100_i64..);
            let mut campaigns: Vec<_> = changed
                .map(|((id, body), seq)| compile(id, seq, state, body))
                .collect();
            campaigns.extend(others.iter().map(Arc::clone));
            let segment = Segment::compile("s", &object(segment_body(state)), &Limits::default());
            (campaigns, Arc::new(segment.unwrap()))
        })
        .collect();
    let state = |held: &Snapshot, change: i64| {
        let number = change % STATES;
        let (campaigns, segment) = &states[usize::try_from(number).unwrap()];
        let flag = Flag {
            enabled: true,
            value: Some(json!(number)),
            targeting: None,
        };
        held.replaced(
            change,
            campaigns.clone(),
            Segments::new(vec![Arc::clone(segment)]),
            HashMap::from([("f".to_owned(), flag)]),
        )
    };
    let current = ArcSwap::from_pointee(state(&Snapshot::default(), 0));
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = || read(&stop, others.len(), || current.load_full());
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for change in 1..=changes {
            let next = state(&current.load(), change);
            assert_eq!(next.revision(), change);
            current.store(Arc::new(next));
        }
        stop.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    println!("states seen: {seen:?}");
    assert!(seen.into_iter().all(|states| states > 100), "{seen:?}");
    assert_eq!(one_number(&current.load(), others.len()), changes % STATES);
}

const PROJECT: ProjectId = ProjectId(1);

/// How long the short form goes on making changes.
const SHORT: Duration = Duration::from_secs(8);

/// Writes one state, as one change.
fn write(connection: &mut PgConnection, change: i64) {
    for (id, body) in bodies(change) {
        let fields = CampaignFields {
            name: "c",
            status: Some("active"),
            trigger: body["trigger"].as_str(),
            body: &body,
        };
        let written = if change == 0 {
            campaigns::insert(connection, PROJECT, id, &fields, now())
        } else {
            campaigns::update(connection, PROJECT, id, &fields, now())
        };
        written.unwrap();
    }
    let body = segment_body(change);
    let written = if change == 0 {
        segments::insert(connection, PROJECT, "s", "s", &body, now())
    } else {
        segments::update(connection, PROJECT, "s", "s", &body, now())
    };
    written.unwrap();
}

#[test]
fn changes_through_the_database_are_each_seen_whole() {
    // In the short form as many more as some seconds allow.
    let (least, most) = if is_soak() {
        (10_000, 10_000)
    } else {
        (200, 2_000)
    };
    let database = database();
    let store = Store::new(StoreOptions {
        url: database.url.clone(),
        pool_size: 2,
        deadline: Duration::from_secs(10),
    });
    let targeting = Targeting::new(store, Clock::system(), TargetingOptions::default());
    // The hub reloads too, at the same time as whoever made the change.
    let _hub = targeting.start().unwrap();
    eventually("targeting is ready", Duration::from_secs(20), || {
        targeting.is_ready().then_some(())
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let change = |number: i64| {
        let work = move |connection: &mut PgConnection| {
            write(connection, number);
            Ok(())
        };
        runtime.block_on(targeting.change(PROJECT, work)).unwrap();
    };
    change(0);
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = || read(&stop, 0, || targeting.snapshot(PROJECT));
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        let started = Instant::now();
        for number in 1..=most {
            change(number);
            // It is live before the call returns.
            assert_eq!(one_number(&targeting.snapshot(PROJECT), 0), number);
            if number >= least && started.elapsed() >= SHORT {
                println!("{number} changes");
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    println!("states seen: {seen:?}");
    assert!(seen.into_iter().all(|states| states > 20), "{seen:?}");
}

#[test]
fn a_user_is_in_a_segment_or_not_while_it_changes() {
    let app = TestApp::start();
    let admin = app.admin();
    let everybody = |targeting: bool| json!({"name": "s", "targeting": targeting});
    let segment = admin
        .post("/v1/admin/segments", &everybody(true))
        .expect(201);
    let id = segment["id"].as_str().unwrap();
    create(&admin, on_buy("in", json!({"segments": {"include": [id]}})));
    create(
        &admin,
        on_buy("out", json!({"segments": {"exclude": [id]}})),
    );
    identify(&app.client(), "u", json!({}));
    let stop = AtomicBool::new(false);
    let (ins, outs) = std::thread::scope(|scope| {
        let track = || {
            let (client, mut counts) = (app.client(), (0, 0));
            while !stop.load(Ordering::Relaxed) {
                match shown(&client, "u", "buy", json!({})).as_slice() {
                    [only] if only == "in" => counts.0 += 1,
                    [only] if only == "out" => counts.1 += 1,
                    both => panic!("{both:?}"),
                }
            }
            counts
        };
        let tracking = [scope.spawn(track), scope.spawn(track)];
        for round in 0..100 {
            let path = format!("/v1/admin/segments/{id}");
            admin.put(&path, &everybody(round % 2 == 1)).expect(200);
        }
        stop.store(true, Ordering::Relaxed);
        let counts = tracking.map(|thread| thread.join().unwrap());
        counts
            .iter()
            .fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    });
    assert!(ins >= 20 && outs >= 20, "{ins} {outs}");
}
