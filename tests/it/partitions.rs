//! The daily partitions: made without locking writers out, dropped whatever was interrupted.

use std::time::{Duration, Instant};

use beckon::store::partitions;
use chrono::{Days, NaiveDate};
use diesel::PgConnection;

use super::support::postgres::database;
use super::support::{pause, sql};

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn days(connection: &mut PgConnection) -> Vec<NaiveDate> {
    let list = partitions::list(connection).unwrap();
    list.into_iter().map(|partition| partition.day).collect()
}

fn insert_event(connection: &mut PgConnection, day: &str) {
    sql::run(
        connection,
        &format!(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name, timestamp, \
             received_at) VALUES ('{day}', gen_random_uuid(), 1, 1, 0, 'open', now(), '{day}')"
        ),
    );
}

#[test]
fn days_are_created_once_from_yesterday_on_and_hold_their_events() {
    let database = database();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let today = day("2031-03-01");
    let created = partitions::ensure_ahead(&mut connection, today, 2).unwrap();
    let expected: Vec<NaiveDate> = day("2031-02-28").iter_days().take(4).collect();
    assert_eq!(created, expected);
    assert!(
        partitions::ensure_ahead(&mut connection, today, 2)
            .unwrap()
            .is_empty()
    );
    insert_event(&mut connection, "2031-03-01");
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM events_p20310301"),
        1
    );
    // The partition has the parent's primary key and indexes, attached to it.
    let indexes = "SELECT count(*) FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid \
                   WHERE indrelid = 'events_p20310301'::regclass";
    assert_eq!(sql::number(&mut connection, indexes), 4);
}

#[test]
fn nodes_that_create_the_same_days_at_once_do_not_disturb_each_other() {
    let database = database();
    let url = database.url.clone();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            std::thread::spawn(move || {
                let mut connection = beckon::store::connect(&url).unwrap();
                partitions::ensure_ahead(&mut connection, day("2031-03-01"), 6)
                    .unwrap()
                    .len()
            })
        })
        .collect();
    let created: usize = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert_eq!(created, 8, "each day by exactly one node");
}

#[test]
fn a_day_is_created_while_a_transaction_reads_and_writes_events() {
    let database = database();
    let mut writer = beckon::store::connect(&database.url).unwrap();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let today = partitions::database_now(&mut writer).unwrap().date_naive();
    sql::run(&mut writer, "BEGIN");
    insert_event(&mut writer, &today.to_string());
    let started = Instant::now();
    assert!(partitions::ensure_day(&mut connection, day("2031-03-01")).unwrap());
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "it waited for the writer"
    );
    sql::run(&mut writer, "COMMIT");
}

#[test]
fn a_drop_waits_for_readers_without_making_writers_queue() {
    let database = database();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    partitions::ensure_day(&mut connection, day("2031-03-01")).unwrap();
    insert_event(&mut connection, "2031-03-01");
    let mut reader = beckon::store::connect(&database.url).unwrap();
    sql::run(&mut reader, "BEGIN; SELECT count(*) FROM events");
    let url = database.url.clone();
    let drop = std::thread::spawn(move || {
        let mut connection = beckon::store::connect(&url).unwrap();
        partitions::drop_day(&mut connection, day("2031-03-01")).unwrap()
    });
    pause(Duration::from_millis(300));
    let today = partitions::database_now(&mut connection)
        .unwrap()
        .date_naive();
    let started = Instant::now();
    insert_event(&mut connection, &today.to_string());
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "a writer queued behind the drop"
    );
    sql::run(&mut reader, "COMMIT");
    assert!(drop.join().unwrap());
    assert!(!days(&mut connection).contains(&day("2031-03-01")));
}

#[test]
fn interrupted_drops_are_taken_on_from_where_they_stopped() {
    let database = database();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let first = day("2031-03-01");
    for offset in 0..3 {
        partitions::ensure_day(&mut connection, first + Days::new(offset)).unwrap();
    }
    // Killed between the detach and the drop.
    sql::run(
        &mut connection,
        "ALTER TABLE events DETACH PARTITION events_p20310301",
    );
    // Killed in the middle of a detach: a reader keeps it waiting until it gives up.
    let mut reader = beckon::store::connect(&database.url).unwrap();
    sql::run(&mut reader, "BEGIN; SELECT count(*) FROM events");
    let mut victim = beckon::store::connect(&database.url).unwrap();
    sql::run(&mut victim, "SET lock_timeout = '200ms'");
    let interrupted = diesel::connection::SimpleConnection::batch_execute(
        &mut victim,
        "ALTER TABLE events DETACH PARTITION events_p20310302 CONCURRENTLY",
    );
    assert!(interrupted.is_err());
    sql::run(&mut reader, "COMMIT");
    let leftovers = partitions::leftovers(&mut connection).unwrap();
    let left: Vec<NaiveDate> = leftovers
        .into_iter()
        .map(|partition| partition.day)
        .collect();
    assert_eq!(left, [first, first + Days::new(1)]);
    // Another day's drop finishes the pending detach first, as only one may be pending.
    assert!(partitions::drop_day(&mut connection, first + Days::new(2)).unwrap());
    assert!(partitions::drop_day(&mut connection, first).unwrap());
    // A day that was half dropped can also come back.
    assert!(partitions::ensure_day(&mut connection, first + Days::new(1)).unwrap());
    insert_event(&mut connection, "2031-03-02");
    assert!(partitions::leftovers(&mut connection).unwrap().is_empty());
    assert!(
        !partitions::drop_day(&mut connection, first).unwrap(),
        "nothing is left to drop"
    );
}
