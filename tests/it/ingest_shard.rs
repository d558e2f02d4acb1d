//! A shard that meets what it cannot store, panics, or does not know what other nodes do.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use beckon::ingest::Outcome;
use beckon::ingest::decode::Item;
use beckon::model::{Call, Event, RawJson};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use serde_json::value::RawValue;
use tracing::field::{Field, Visit};
use tracing::span;

use crate::support::one_shard::{Rig, identify, request, rig, severable, sums, track};
use crate::support::postgres::database;
use crate::support::severed::Cut;
use crate::support::{eventually, pause};

const LONG: Duration = Duration::from_secs(20);

/// What the database cannot hold though it is valid JSON: nested deeper than its stack reaches.
fn too_deep(user: &str, message: &str) -> Event {
    let depth = 100_000;
    let text = format!(r#"{{"deep":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let raw = RawJson::from_checked(RawValue::from_string(text).unwrap());
    let mut event = track(user, "deep", Some(message));
    if let Call::Track { properties, .. } = &mut event.call {
        *properties = Some(raw);
    }
    event
}

fn value(rig: &Rig, series: &str) -> String {
    let text = rig.metrics.text();
    let line = text.lines().find(|line| line.starts_with(series));
    line.map_or_else(String::new, |line| line[series.len()..].trim().to_owned())
}

fn number(connection: &mut PgConnection, query: &str) -> i64 {
    diesel::select(diesel::dsl::sql::<BigInt>(&format!("({query})")))
        .get_result(connection)
        .unwrap()
}

/// A thousand events as one request, the poison among them, and somebody whose traits change if that
/// is asked for; returns how each was answered.
fn submit_with(rig: &Rig, round: &str, changes: bool) -> Vec<&'static str> {
    let mut events: Vec<Event> = (0..1_000)
        .map(|number| {
            // The last hundred repeat those before them.
            let message = format!(
                "{round} {}",
                if number < 900 { number } else { number - 100 }
            );
            track(&format!("u{}", number % 10), "e", Some(&message))
        })
        .collect();
    if changes {
        let traits = format!(r#"{{"round": "{round}"}}"#);
        events[5] = identify("u5", Some(&format!("{round} 5")), &traits);
    }
    events[617] = too_deep("u7", &format!("{round} 617"));
    let items = events.into_iter().map(|event| Item::Event(Box::new(event)));
    let outcomes = rig.ingest.submit(request(items.collect()));
    let outcomes = rig.runtime.block_on(outcomes).unwrap();
    let word = |outcome: Outcome| match outcome {
        Outcome::Stored(stored) if stored.duplicate => "duplicate",
        Outcome::Stored(_) => "stored",
        Outcome::Rejected(_) => "rejected",
    };
    outcomes.into_iter().map(word).collect()
}

#[test]
fn what_the_database_refuses_among_a_thousand_costs_only_itself() {
    let database = database();
    let mut connection = database.connect();
    let rig = rig(&database, &database.url);
    // The first goes as one statement, the second as a transaction.
    for (round, name, changes) in [(1, "plain", false), (2, "changing", true)] {
        let words = submit_with(&rig, name, changes);
        let mut expected = vec!["stored"; 900];
        expected.extend(["duplicate"; 100]);
        expected[617] = "rejected";
        let differs = words
            .iter()
            .zip(&expected)
            .position(|(is, wanted)| is != wanted);
        assert_eq!(differs, None, "{name}: {:?}", differs.map(|at| words[at]));
        let found = sums(&mut connection);
        assert_eq!(
            (found.events, found.received, found.stored, found.duplicate),
            (round * 899, round * 1_000, round * 899, round * 100),
            "{name}"
        );
        let rejected = "SELECT count(*) FROM rejected_events WHERE code = 'invalid_field'";
        assert_eq!(number(&mut connection, rejected), round, "{name}");
        let out_of_order = "SELECT count(*) FROM (SELECT split_part(message_id, ' ', 2)::int AS n, \
             lag(split_part(message_id, ' ', 2)::int) OVER (PARTITION BY user_id, \
             split_part(message_id, ' ', 1) ORDER BY id) AS before \
             FROM events) AS e WHERE n < before";
        assert_eq!(number(&mut connection, out_of_order), 0, "{name}");
    }
    let bisections: u64 = value(&rig, "beckon_ingest_batch_bisections_total")
        .parse()
        .unwrap();
    assert!(bisections >= 2, "{bisections}");
}

/// The hub waits for a lock, so nobody counts other nodes; meanwhile one changes somebody whom this
/// node remembers. A trait that is set to what is remembered has to be written all the same.
#[test]
fn while_the_hub_is_stuck_nobody_is_taken_for_known() {
    let database = database();
    let mut connection = database.connect();
    let rig = rig(&database, &database.url);
    let set = |plan: &str, message: &str| {
        let traits = format!(r#"{{"plan": "{plan}"}}"#);
        rig.submit(vec![identify("u", Some(message), &traits)]);
    };
    set("free", "m0");
    let mut locked = database.connect();
    locked
        .batch_execute("BEGIN; LOCK TABLE project_revisions IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    eventually("the hub is stuck", LONG, || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted \
             AND relation = 'project_revisions'::regclass";
        (number(&mut connection, waits) > 0).then_some(())
    });
    // As long as another node would wait before it changes anybody.
    pause(Duration::from_millis(1_500));
    let change = r#"UPDATE persons SET traits = '{"plan": "pro"}'"#;
    connection.batch_execute(change).unwrap();
    set("free", "m1");
    let plan: String = diesel::select(diesel::dsl::sql::<Text>(
        "(SELECT traits->>'plan' FROM persons)",
    ))
    .get_result(&mut connection)
    .unwrap();
    assert_eq!(plan, "free");
    locked.batch_execute("COMMIT").unwrap();
}

/// Panics at log lines of a shard, once each.
struct Panicking {
    at: std::sync::Mutex<Vec<&'static str>>,
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Panicking {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let is_asked = {
            let mut at = self.at.lock().unwrap();
            let count = at.len();
            at.retain(|text| !message.0.contains(text));
            at.len() < count
        };
        assert!(!is_asked, "as the test wants");
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Logging is for the whole process, so this one is another test's child.
#[test]
#[ignore = "another test runs it in a process of its own"]
fn panics_of_a_shard() {
    let (database, mut connection, way, first) = severable();
    first.submit(vec![track("u", "e", Some("m0"))]);
    let lost = "what it did is read back";
    let unwritten = "last-seen times are written later";
    let at = std::sync::Mutex::new(vec![lost, unwritten]);
    tracing::subscriber::set_global_default(Panicking { at }).unwrap();

    way.cut("panics", Cut::Request);
    let item = Item::Event(Box::new(track("u", "panics", Some("m1"))));
    let answer = first
        .runtime
        .block_on(first.ingest.submit(request(vec![item])));
    assert!(answer.is_err(), "{answer:?}");
    // The caller hears of it while the shard is still on its way.
    eventually("the first panic is counted", LONG, || {
        (value(&first, "beckon_ingest_shard_panics_total") == "1").then_some(())
    });
    first.submit(vec![track("u", "e", Some("m1")), track("u", "e", None)]);

    // Somebody seen an hour ago is written beside the batches.
    first.submit(vec![track("late", "e", Some("m2"))]);
    drop(first);
    connection
        .batch_execute("UPDATE persons SET last_seen_at = now() - interval '1 hour'")
        .unwrap();
    let rig = rig(&database, &way.url);
    way.cut("people_seen AS s", Cut::Request);
    rig.submit(vec![track("late", "e", Some("m3"))]);
    eventually("the second panic", LONG, || {
        (value(&rig, "beckon_ingest_shard_panics_total") == "1").then_some(())
    });
    let begun = Instant::now();
    rig.submit(vec![track("u", "e", Some("m4"))]);
    assert!(begun.elapsed() < LONG);
    let found = sums(&mut connection);
    assert_eq!((found.events, found.received, found.stored), (6, 6, 6));
    let seen = "SELECT count(*) FROM people_seen WHERE last_seen_at > now() - interval '1 minute'";
    eventually("what was to be written is written later", LONG, || {
        (number(&mut connection, seen) > 0).then_some(())
    });
}

#[test]
fn a_shard_that_panics_answers_503_and_goes_on() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "ingest_shard::panics_of_a_shard",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
