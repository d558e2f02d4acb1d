//! Partitions that vanish, are made and are dropped while events come in, and clocks that jump.

use std::time::Duration;

use beckon::clock::Clock;
use beckon::retention::{Mode, RetentionOptions, run};
use beckon::store::partitions;
use chrono::{Days, TimeDelta};
use diesel::PgConnection;
use serde_json::Value;

use crate::support::app::{Launch, Server, run_to_end};
use crate::support::journal::{Load, Plan};
use crate::support::postgres::postgres_server_with_clock;
use crate::support::{TestApp, is_soak, now, pause, sql};

/// How long a step of the load may take on a slow machine.
const LONG: Duration = Duration::from_secs(120);

/// Keeps servers from running retention when a test wants to: somebody has run it already.
fn switch_schedule_off(sql: &mut PgConnection) {
    sql::run(
        sql,
        "INSERT INTO job_runs (job, due_at, started_at)
         VALUES ('retention', now() + interval '30 days', now())",
    );
}

#[test]
fn a_partition_that_is_missing_is_made_and_nothing_is_lost() {
    let app = TestApp::start();
    let load = Load::mixed(app.base(), 32, "part");
    let mut connection = beckon::store::connect(app.url()).unwrap();
    let rounds = if is_soak() { 20 } else { 4 };
    for round in 0..rounds {
        load.wait_for(200, LONG);
        let today = partitions::database_now(&mut connection)
            .unwrap()
            .date_naive();
        let name = partitions::table_name(today);
        // Somebody takes it away by hand; what is in it is kept to be counted.
        sql::run(
            &mut connection,
            &format!(
                "BEGIN; ALTER TABLE events DETACH PARTITION {name};
                 ALTER TABLE {name} RENAME TO taken_{round}; COMMIT"
            ),
        );
    }
    load.wait_for(200, LONG);
    let journal = load.end();
    journal.check_refusals();
    // Back to where they belong, to be reconciled.
    for round in 0..rounds {
        let back = format!("INSERT INTO events SELECT * FROM taken_{round}");
        sql::run(&mut connection, &back);
    }
    journal.check_with_metrics(&mut connection, "part", app.base());
}

#[test]
fn retention_does_not_hold_writers_up() {
    let app = TestApp::prepared(&[], switch_schedule_off);
    let mut connection = beckon::store::connect(app.url()).unwrap();
    let today = partitions::database_now(&mut connection)
        .unwrap()
        .date_naive();
    let options = RetentionOptions {
        partitions_ahead_days: 9,
        dedupe_window_days: 7,
        rejected_retention_days: 30,
    };
    let old_days = if is_soak() { 30 } else { 6 };
    for ago in 0..old_days {
        let day = today - Days::new(100 + ago);
        partitions::ensure_day(&mut connection, day).unwrap();
        sql::run(
            &mut connection,
            &format!(
                "INSERT INTO events (received_on, id, project_id, person_id, kind, name,
                     \"timestamp\", received_at)
                 SELECT '{day}', gen_random_uuid(), 1, 1, 0, 'old', now(), '{day}'
                 FROM generate_series(1, 2000)"
            ),
        );
    }
    let crowd = Load::start(app.base(), 32, "crowd");
    let steady = |name: &str| {
        let plan = Plan {
            pace: Duration::from_millis(5),
            ..Plan::new(1, name)
        };
        Load::of(app.base(), plan)
    };
    crowd.wait_for(200, LONG);
    let calm = steady("calm");
    pause(Duration::from_secs(2));
    let calm = calm.end();
    let during = steady("during");
    during.wait_for(10, LONG);
    let report = run(&mut connection, &Clock::system(), &options, Mode::Run).unwrap();
    during.wait_for(10, LONG);
    let (during, crowd) = (during.end(), crowd.end());
    let (without, with) = (calm.longest_gap(), during.longest_gap());
    println!("longest gap without retention {without:?}, with {with:?}");
    assert_eq!(report.dropped.len(), usize::try_from(old_days).unwrap());
    let last = partitions::list(&mut connection).unwrap().pop();
    assert_eq!(last.map(|last| last.day), Some(today + Days::new(9)));
    let held_up = with.saturating_sub(without);
    assert!(held_up < Duration::from_secs(1), "{held_up:?}");
    for (journal, prefix) in [(calm, "calm"), (during, "during"), (crowd, "crowd")] {
        journal.check_refusals();
        assert!(journal.refused.is_empty(), "{:?}", journal.refused);
        journal.check_with_metrics(&mut connection, prefix, app.base());
    }
}

#[test]
fn clocks_that_jump_a_day_lose_nothing_and_drop_nothing_new() {
    let (postgres, clock) = postgres_server_with_clock();
    let launch = Launch::new(&postgres.url());
    let mut sql = postgres.connect();
    switch_schedule_off(&mut sql);
    let server = Server::start(&launch);
    server.wait_until_ready();
    // The newest day that goes, and the oldest that stays, by the right clock.
    let today = now().date_naive();
    for ago in [91, 90] {
        let day = today - Days::new(ago);
        partitions::ensure_day(&mut sql, day).unwrap();
        sql::run(
            &mut sql,
            &format!(
                "INSERT INTO events (received_on, id, project_id, person_id, kind, name,
                     \"timestamp\", received_at)
                 VALUES ('{day}', gen_random_uuid(), 1, 1, 0, 'old-{ago}', now(), '{day}')"
            ),
        );
    }
    let retention = || {
        let command = launch.command(&["retention", "run", "--json"]);
        run_to_end(command, Duration::from_secs(60))
    };
    let load = Load::mixed(server.base(), 16, "jump");
    load.wait_for(100, LONG);
    for days in [1, -1] {
        // Only the database's clock jumps: with a node's as wrong, nobody could tell.
        clock.shift(TimeDelta::days(days));
        load.wait_for(100, LONG);
        let (status, said) = retention();
        assert!(!status.success(), "clocks a day apart: {said}");
        clock.shift(TimeDelta::zero());
        load.wait_for(100, LONG);
    }
    assert_eq!(
        sql::number(&mut sql, "SELECT count(*) FROM events WHERE name ~ '^old'"),
        2
    );
    let (status, said) = retention();
    assert!(status.success(), "{said}");
    let report: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(report["events_dropped"], 1, "{report}");
    let kept = sql::texts(
        &mut sql,
        "SELECT name AS value FROM events WHERE name ~ '^old'",
    );
    assert_eq!(kept, ["old-90"]);
    // It did not come in through ingest, so the ledger does not know it.
    sql::run(&mut sql, "DELETE FROM events WHERE name ~ '^old'");
    let journal = load.end();
    journal.check_refusals();
    journal.check_with_metrics(&mut sql, "jump", server.base());
    let days = "SELECT count(DISTINCT received_on) FROM events WHERE name = 'load'";
    assert!(sql::number(&mut sql, days) >= 3, "the clock did not jump");
}
