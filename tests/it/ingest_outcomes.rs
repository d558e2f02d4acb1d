//! Commits whose answer is lost, and claims that meet a rotation: never a guess.

use std::time::Duration;

use beckon::ingest::decode::Item;
use beckon::ingest::{Outcome, Stored};
use beckon::model::Event;
use beckon::store::person_state::{LoadPeople, PersonRow};
use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;

use crate::support::eventually;
use crate::support::one_shard::{Sums, identify, request, rig, severable, sums, track};
use crate::support::postgres::{TestDatabase, database};
use crate::support::severed::Cut;
use crate::support::sql::{quoted, texts};

const LONG: Duration = Duration::from_secs(20);

/// Which of the events were told to be duplicates, after a look whether each was told with the id of
/// the one that is in the table.
fn told(connection: &mut PgConnection, stored: &[Stored]) -> Vec<bool> {
    for event in stored {
        let id = event.id.0.to_string();
        let (column, value) = match &event.event.message_id {
            Some(message) => ("message_id", message.as_str()),
            None => ("id::text", id.as_str()),
        };
        let value = quoted(value);
        let query = format!("SELECT id::text AS value FROM events WHERE {column} = {value}");
        assert_eq!(texts(connection, &query), [id], "{column} = {value}");
    }
    stored.iter().map(|stored| stored.duplicate).collect()
}

/// The cuts hit the one statement of a batch that changes nobody (known by a name in it) and the
/// commit of one that does.
#[test]
fn a_commit_whose_answer_is_lost_is_read_back() {
    let (_database, mut connection, way, rig) = severable();
    rig.submit(vec![track("u", "first", Some("m0"))]);
    let mut expected = 1;
    for (round, cut) in [Cut::Answer, Cut::Request].into_iter().enumerate() {
        let batches: [(&str, Vec<Event>); 4] = [
            (
                "known",
                vec![
                    track("u", "known", Some(&format!("a{round}"))),
                    track("u", "known", Some(&format!("a{round}"))),
                ],
            ),
            ("without-id", vec![track("u", "without-id", None)]),
            (
                "new",
                vec![track(
                    &format!("n{round}"),
                    "new",
                    Some(&format!("b{round}")),
                )],
            ),
            (
                "COMMIT",
                vec![identify(
                    "u",
                    Some(&format!("c{round}")),
                    &format!(r#"{{"round": {round}}}"#),
                )],
            ),
        ];
        for (text, events) in batches {
            let count = events.len();
            way.cut(text, cut);
            let stored = rig.submit(events);
            assert!(way.has_cut(), "{text} was not cut");
            let duplicates: Vec<bool> = (0..count).map(|place| place > 0).collect();
            assert_eq!(
                told(&mut connection, &stored),
                duplicates,
                "{text}, {cut:?}"
            );
            expected += 1;
            let sums = sums(&mut connection);
            assert_eq!(sums.events, expected, "{text}, {cut:?}");
            assert_eq!(sums.stored, expected, "{text}, {cut:?}");
            assert_eq!(
                sums.received,
                sums.stored + sums.duplicate,
                "{text}, {cut:?}"
            );
        }
    }
    let again = rig.submit(vec![track("u", "known", Some("a0"))]);
    assert_eq!(told(&mut connection, &again), [true]);
}

/// Such batches leave no event that could be asked for, but are counted in the ledger.
#[test]
fn a_lost_commit_without_a_new_event_is_counted_once() {
    let (_database, mut connection, way, rig) = severable();
    rig.submit(vec![track("u", "e", Some("m0"))]);
    let mut expected = Sums {
        events: 1,
        received: 1,
        stored: 1,
        duplicate: 0,
    };
    for cut in [Cut::Answer, Cut::Request] {
        // Where one duplicate was there are more, so the next one goes the way of duplicates at once.
        rig.submit(vec![track("u", "e", Some("m0"))]);
        way.cut("again", cut);
        let stored = rig.submit(vec![track("u", "again", Some("m0"))]);
        assert!(way.has_cut(), "the duplicate was not cut");
        assert_eq!(told(&mut connection, &stored), [true]);
        expected.received += 2;
        expected.duplicate += 2;
        assert_eq!(sums(&mut connection), expected, "{cut:?}");
    }
    for (cut, rejected) in [(Cut::Answer, 1), (Cut::Request, 2)] {
        way.cut("COMMIT", cut);
        let large = format!(r#"{{"large": "{}"}}"#, "x".repeat(300_000));
        let item = Item::Event(Box::new(identify("u", Some("too large"), &large)));
        let outcomes = rig.ingest.submit(request(vec![item]));
        let outcomes = rig.runtime.block_on(outcomes).unwrap();
        assert!(way.has_cut(), "the refusal was not cut");
        assert!(
            matches!(outcomes.as_slice(), [Outcome::Rejected(_)]),
            "{outcomes:?}"
        );
        expected.received += 1;
        assert_eq!(sums(&mut connection), expected, "{cut:?}");
        let rejections: i64 = diesel::select(diesel::dsl::sql::<BigInt>(
            "(SELECT count(*) FROM rejected_events)",
        ))
        .get_result(&mut connection)
        .unwrap();
        assert_eq!(rejections, rejected, "{cut:?}");
    }
}

/// A statement that waited for the rotation must not claim by what was current before it.
#[test]
fn a_claim_that_waits_for_a_rotation_sees_it() {
    let database = database();
    let mut connection = database.connect();
    let rig = rig(&database, &database.url);
    let first = rig.submit(vec![track("u", "e", Some("m0"))]);
    assert_eq!(told(&mut connection, &first), [false]);
    let mut rotation = database.connect();
    std::thread::scope(|scope| {
        for round in 0..4 {
            let (current, older) = if round % 2 == 0 { (1, 0) } else { (0, 1) };
            rotation
                .batch_execute(
                    "BEGIN; LOCK TABLE message_ids_0, message_ids_1 IN ACCESS EXCLUSIVE MODE",
                )
                .unwrap();
            let waiting = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let item = Item::Event(Box::new(track("u", "e", Some("m0"))));
                let outcome = rig.ingest.submit(request(vec![item]));
                runtime.block_on(outcome).unwrap().pop().unwrap()
            });
            eventually("the claim waits", LONG, || {
                let waits: Sums = sql_query(
                    "SELECT count(*) AS events, 0::bigint AS received, 0::bigint AS stored, \
                     0::bigint AS duplicate FROM pg_stat_activity \
                     WHERE wait_event_type = 'Lock' AND datname = current_database()",
                )
                .get_result(&mut connection)
                .unwrap();
                (waits.events > 0).then_some(())
            });
            rotation
                .batch_execute(&format!(
                    "TRUNCATE message_ids_{current}; \
                     UPDATE message_buckets SET current_bucket = {current}; COMMIT"
                ))
                .unwrap();
            let Outcome::Stored(stored) = waiting.join().unwrap() else {
                panic!("not stored");
            };
            assert!(stored.duplicate, "round {round}");
            assert_eq!(stored.id, first[0].id, "round {round}");
            // The next rotation empties the bucket that has the id.
            rotation
                .batch_execute(&format!(
                    "INSERT INTO message_ids_{current} SELECT * FROM message_ids_{older}"
                ))
                .unwrap();
        }
    });
    let sums = sums(&mut connection);
    assert_eq!((sums.events, sums.stored), (1, 1));
    assert_eq!(sums.received, 5);
    assert_eq!(sums.duplicate, 4);
}

/// A database with a person whose one event has the message id `m0`, and that person's number.
fn seen_once() -> (TestDatabase, PgConnection, i64) {
    let database = database();
    let rig = rig(&database, &database.url);
    rig.submit(vec![track("u", "e", Some("m0"))]);
    assert!(rig.ingest.close(LONG));
    drop(rig);
    let mut connection = database.connect();
    let person: i64 = diesel::select(diesel::dsl::sql::<BigInt>("(SELECT id FROM persons)"))
        .get_result(&mut connection)
        .unwrap();
    (database, connection, person)
}

/// When that person was last seen, as the database has it.
fn last_seen(connection: &mut PgConnection, person: i64) -> DateTime<Utc> {
    let rows: Vec<PersonRow> = LoadPeople { ids: &[person] }.load(connection).unwrap();
    rows[0].last_seen_at
}

/// The database follows what is known in memory after a while, and at the latest when ingest ends.
#[test]
fn a_person_seen_after_a_while_is_written_apart_from_the_event() {
    let (database, mut connection, person) = seen_once();
    let mut stored_age =
        || (crate::support::now() - last_seen(&mut connection, person)).num_seconds();
    for waits in [true, false] {
        database
            .connect()
            .batch_execute(
                "UPDATE persons SET last_seen_at = now() - interval '2 hours'; \
                 UPDATE people_seen SET last_seen_at = now() - interval '1 hour'",
            )
            .unwrap();
        let rig = rig(&database, &database.url);
        let message = format!("waits {waits}");
        rig.submit(vec![track("u", "e", Some(&message))]);
        if waits {
            eventually("the database follows", LONG, || {
                (stored_age() < 60).then_some(())
            });
            continue;
        }
        let age = stored_age();
        assert!(
            (3_000..4_000).contains(&age),
            "written with the event? {age}"
        );
        assert!(rig.ingest.close(LONG));
        assert!(stored_age() < 60, "the end of ingest lost it");
    }
}

/// Whether it comes alone, which is one statement, or with something that needs a transaction.
#[test]
fn a_repetition_does_not_say_that_a_person_was_seen() {
    let (database, mut connection, person) = seen_once();
    connection
        .batch_execute("UPDATE persons SET last_seen_at = now() - interval '2 days'")
        .unwrap();
    let repetition = || track("u", "e", Some("m0"));
    let changing = identify("v", Some("m1"), r#"{"plan":"pro"}"#);
    for events in [vec![repetition()], vec![repetition(), changing]] {
        let rig = rig(&database, &database.url);
        let stored = rig.submit(events);
        assert!(stored[0].duplicate);
        assert!(rig.ingest.close(LONG));
        let age = crate::support::now() - last_seen(&mut connection, person);
        assert_eq!(age.num_days(), 2, "{} events", stored.len());
    }
}

/// A clock that was ahead for a while would otherwise hide for as long when somebody was last seen.
#[test]
fn a_time_in_the_future_is_mended_by_the_next_event() {
    let (database, mut connection, person) = seen_once();
    let events = [
        track("u", "e", Some("m1")),
        identify("u", Some("m2"), r#"{"plan":"pro"}"#),
    ];
    for event in events {
        connection
            .batch_execute(
                "UPDATE persons SET last_seen_at = now() + interval '1 year'; \
                 INSERT INTO people_seen SELECT id, now() + interval '1 year' FROM persons \
                 ON CONFLICT (person_id) DO UPDATE SET last_seen_at = excluded.last_seen_at",
            )
            .unwrap();
        let rig = rig(&database, &database.url);
        rig.submit(vec![event]);
        assert!(rig.ingest.close(LONG));
        let ahead = last_seen(&mut connection, person) - crate::support::now();
        assert!(ahead.num_seconds().abs() < 60, "{ahead}");
    }
    // A node whose clock is ahead writes the database's time.
    let rig = rig(&database, &database.url);
    let mut event = track("u", "e", Some("m3"));
    event.received_at += chrono::TimeDelta::days(300);
    rig.submit(vec![event]);
    assert!(rig.ingest.close(LONG));
    let ahead = last_seen(&mut connection, person) - crate::support::now();
    assert!(ahead.num_seconds().abs() < 60, "{ahead}");
}

/// The statement has committed when its duplicates are looked up; what is lost then is no reason to
/// do it again.
#[test]
fn a_connection_lost_after_the_commit_makes_no_duplicates() {
    let (_database, mut connection, way, rig) = severable();
    rig.submit(vec![track("u", "e", Some("m0"))]);
    way.cut("UNION ALL", Cut::Request);
    let stored = rig.submit(vec![
        track("u", "e", Some("m0")),
        track("u", "e", Some("m1")),
        track("u", "e", None),
    ]);
    assert!(way.has_cut(), "the look-up was not cut");
    assert_eq!(told(&mut connection, &stored), [true, false, false]);
    let expected = Sums {
        events: 3,
        received: 4,
        stored: 3,
        duplicate: 1,
    };
    assert_eq!(sums(&mut connection), expected);
}
