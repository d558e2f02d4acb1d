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

/// As many as may become one, and no more where there are more all the same.
#[test]
fn everybody_who_became_one_person_is_followed() {
    let (_database, mut connection) = fresh();
    for (from, to, followed) in [(1, 10_000, 10_000), (10_001, 10_100, 10_000)] {
        sql::run(
            &mut connection,
            &format!(
                "INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, \
                 merged_into, created_at, last_seen_at) \
                 SELECT n, 1, n, 1, n::text, nullif(1, n), now(), now() \
                 FROM generate_series({from}, {to}) n"
            ),
        );
        let family = people::family(&mut connection, PROJECT, PersonId(1)).unwrap();
        assert_eq!(family.len(), followed);
        let past = history::people(&mut connection, PROJECT, &[1]).unwrap();
        assert_eq!(past[0].family.len(), followed);
    }
}

/// Those that were not active then are not even read, if the database can see that.
#[test]
fn of_past_campaigns_only_those_that_may_have_been_live_are_read() {
    let (_database, mut connection) = fresh();
    let other = sql::project(&mut connection, "other");
    let body = |status: &str, note: &str| {
        sql::quoted(&format!(r#"{{"status":"{status}","note":"{note}"}}"#))
    };
    let mut entry = |project: i64, id: &str, hours: i32, action: &str, body: &str| {
        let row = format!(
            "INSERT INTO campaign_history (project_id, campaign_id, version, action, body, actor, at) \
             VALUES ({project}, '{id}', 1, '{action}', {body}, 'a', now() + interval '{hours} hours')"
        );
        sql::run(&mut connection, &row);
    };
    let (active, paused) = (body("active", ""), body("paused", ""));
    let project = PROJECT.0;
    entry(project, "active", -1, "create", &active);
    entry(project, "paused", -1, "create", &paused);
    entry(project, "draft", -1, "create", &body("draft", ""));
    entry(project, "without a status", -1, "create", "'{}'");
    // What Postgres cannot open.
    entry(project, "opaque", -1, "create", &body("paused", r"\u0000"));
    // Of several the last one before the moment counts.
    entry(project, "stopped", -2, "create", &active);
    entry(project, "stopped", -1, "update", &paused);
    entry(project, "begun", -2, "create", &paused);
    entry(project, "begun", -1, "update", &active);
    entry(project, "begun", 1, "update", &paused);
    entry(project, "quarantined", -2, "create", &active);
    entry(project, "quarantined", -1, "quarantine", &active);
    entry(project, "later", 1, "create", &active);
    entry(project, "deleted", -2, "create", &active);
    entry(project, "deleted", -1, "delete", &active);
    entry(project, "rolled back", -1, "rollback", &active);
    entry(other, "theirs", -1, "create", &active);
    for (id, status, hours) in [
        ("old", "active", -1),
        ("old paused", "paused", -1),
        ("new", "active", 1),
    ] {
        let row = format!(
            "INSERT INTO campaigns (project_id, id, name, status, body, created_at) \
             VALUES ({project}, '{id}', 'n', '{status}', {}, now() + interval '{hours} hours')",
            body(status, "")
        );
        sql::run(&mut connection, &row);
    }
    let mut versions = |only: Option<&str>| {
        let versions = history::campaign_versions(&mut connection, PROJECT, now(), only).unwrap();
        let mut ids: Vec<String> = versions.into_iter().map(|it| it.campaign_id).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(
        versions(None),
        ["active", "begun", "old", "opaque", "quarantined"]
    );
    // One that is asked for is read whatever its status was.
    for (only, is_read) in [
        ("paused", true),
        ("old paused", true),
        ("later", false),
        ("deleted", false),
        ("theirs", false),
    ] {
        assert_eq!(
            versions(Some(only)),
            &[only][..usize::from(is_read)],
            "{only}"
        );
    }
}

#[test]
fn events_of_a_rare_kind_are_found_without_reading_the_others() {
    let (_database, mut connection) = fresh();
    let is_page = "n IN (7, 9000, 20000)";
    store(
        &mut connection,
        30_000,
        &format!("CASE WHEN {is_page} THEN 2 ELSE 0 END"),
        // A track may have any name.
        &format!("CASE WHEN {is_page} OR n = 15000 THEN 'page' ELSE 'e' || n % 100 END"),
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
