//! What is read of people and projects with a great many events: all that is asked for, or so much of
//! it as can be read in time, and then the answer says so.

use beckon::model::{EventKind, PersonId, ProjectId};
use beckon::store::events::{self, EventFilter};
use beckon::store::history::{self, Side};
use beckon::store::people;
use diesel::PgConnection;
use uuid::Uuid;

use crate::support::postgres::{TestDatabase, database};
use crate::support::{now, sql};

const PROJECT: ProjectId = ProjectId(1);

fn fresh() -> (TestDatabase, PgConnection) {
    let database = database();
    let connection = beckon::store::connect(&database.url).unwrap();
    (database, connection)
}

/// Events of one person, the later ones received later; `kind` and `name` are expressions of `n`.
fn store(connection: &mut PgConnection, count: u32, kind: &str, name: &str) {
    sql::run(
        connection,
        &format!(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name, properties, \
             timestamp, received_at) \
             SELECT current_date, gen_random_uuid(), 1, 1, {kind}, {name}, '{{\"n\":1}}', now(), \
             now() - interval '1 hour' + n * interval '10 milliseconds' \
             FROM generate_series(1, {count}) n"
        ),
    );
}

#[test]
fn everybody_who_became_one_person_is_followed() {
    let (_database, mut connection) = fresh();
    sql::run(
        &mut connection,
        "INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, merged_into, \
         created_at, last_seen_at) \
         SELECT n, 1, n, 1, n::text, nullif(1, n), now(), now() FROM generate_series(1, 3000) n",
    );
    let family = people::family(&mut connection, PROJECT, PersonId(1)).unwrap();
    assert_eq!(family.len(), 3_000);
    let past = history::people(&mut connection, PROJECT, &[1]).unwrap();
    assert_eq!(past[0].family.len(), 3_000);
}

#[test]
fn events_of_a_rare_kind_are_found_without_reading_the_others() {
    let (_database, mut connection) = fresh();
    let is_page = "n IN (7, 9000, 20000)";
    store(
        &mut connection,
        30_000,
        &format!("CASE WHEN {is_page} THEN 2 ELSE 0 END"),
        &format!("CASE WHEN {is_page} THEN 'page' ELSE 'e' || n % 100 END"),
    );
    sql::run(&mut connection, "ANALYZE events");
    let read = |connection: &mut PgConnection| {
        sql::run(connection, "SELECT pg_stat_force_next_flush()");
        sql::number(
            connection,
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint \
             FROM pg_stat_user_tables WHERE relname ~ '^events_p'",
        )
    };
    let before = read(&mut connection);
    let filter = EventFilter {
        kind: Some(EventKind::Page),
        ..EventFilter::default()
    };
    let page = events::list(&mut connection, PROJECT, &filter, 21, 0).unwrap();
    let count = events::count(&mut connection, PROJECT, &filter, 100_001).unwrap();
    assert_eq!((page.len(), count), (3, 3));
    let rows = read(&mut connection) - before;
    assert!(rows < 1_000, "{rows} rows were read");
}

#[test]
fn identify_calls_are_looked_for_among_so_many_events_and_no_more() {
    let (_database, mut connection) = fresh();
    store(
        &mut connection,
        60_000,
        "CASE WHEN n IN (5, 59990, 59995) THEN 1 ELSE 0 END",
        "'e'",
    );
    let mut calls = |side, limit| {
        let place = match side {
            Side::UpTo => (now(), Uuid::max()),
            Side::After => (now() - chrono::TimeDelta::hours(2), Uuid::nil()),
        };
        let (calls, is_cut) =
            history::identify_calls(&mut connection, PROJECT, &[1], place, side, limit).unwrap();
        (calls.len(), is_cut)
    };
    assert_eq!(calls(Side::UpTo, 1_000), (2, true));
    assert_eq!(calls(Side::UpTo, 1), (1, true));
    assert_eq!(calls(Side::After, 1_000), (1, true));
    sql::run(
        &mut connection,
        "DELETE FROM events WHERE kind = 0 AND received_at < now() - interval '30 minutes'; \
         DELETE FROM events WHERE kind = 0 AND random() < 0.5",
    );
    let mut calls = |side, limit| {
        let place = (now(), Uuid::max());
        let (calls, is_cut) =
            history::identify_calls(&mut connection, PROJECT, &[1], place, side, limit).unwrap();
        (calls.len(), is_cut)
    };
    assert_eq!(calls(Side::UpTo, 1_000), (3, false));
    assert_eq!(calls(Side::UpTo, 3), (3, false));
    assert_eq!(calls(Side::UpTo, 2), (2, true));
}
