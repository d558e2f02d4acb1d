//! Partitions that vanish, are made and are dropped while events come in, and clocks that jump.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use beckon::clock::Clock;
use beckon::retention::{Mode, Report, RetentionOptions, run};
use beckon::store::partitions;
use chrono::{Days, NaiveDate, TimeDelta};
use diesel::PgConnection;
use serde_json::{Value, json};

use crate::crash::Dice;
use crate::support::app::{Launch, Server, run_to_end};
use crate::support::journal::{Journal, Load, Plan};
use crate::support::postgres::postgres_server_with_clock;
use crate::support::sql::KeyRow;
use crate::support::{CLIENT_KEY, TestApp, eventually, is_soak, now, patience, pause, sql};

/// How long a step of the load may take on a slow machine.
const LONG: Duration = Duration::from_secs(120);

/// Keeps servers from running retention when a test wants to: somebody has run it already. What is
/// noted for more than an hour from now is taken for a wrong clock's.
fn switch_schedule_off(sql: &mut PgConnection) {
    sql::run(
        sql,
        "INSERT INTO job_runs (job, due_at, started_at)
         VALUES ('retention', now() + interval '50 minutes', now())",
    );
}

#[test]
fn a_partition_that_is_missing_is_made_and_nothing_is_lost() {
    let app = TestApp::start_with(&[patience()]);
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
    assert!(journal.refused.is_empty(), "{:?}", journal.refused);
    // Back to where they belong, to be reconciled.
    for round in 0..rounds {
        let back = format!("INSERT INTO events SELECT * FROM taken_{round}");
        sql::run(&mut connection, &back);
    }
    journal.check_with_metrics(&mut connection, "part", app.base());
}

/// Stores events of a day past ingest, so that the ledger does not know them.
fn store(connection: &mut PgConnection, name: &str, project: i64, day: NaiveDate, count: u32) {
    partitions::ensure_day(connection, day).unwrap();
    sql::run(
        connection,
        &format!(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name,
                 \"timestamp\", received_at)
             SELECT '{day}', gen_random_uuid(), {project}, 1, 0, '{name}', now(), '{day}'
             FROM generate_series(1, {count})"
        ),
    );
}

/// Runs `act` while calls come in on and on, and checks that it kept none of them waiting for a
/// second. Returns what is left to check once the tables hold nothing but what came in.
fn without_holding_writers_up(
    app: &TestApp,
    brief_key: &str,
    act: impl FnOnce(),
) -> [(Journal, &'static str); 4] {
    let steady = |prefix: &str, key: &str| {
        let plan = Plan {
            key: key.to_owned(),
            pace: Duration::from_millis(5),
            ..Plan::new(1, prefix)
        };
        Load::of(app.base(), plan)
    };
    let crowd = Load::start(app.base(), 32, "crowd");
    let brief = steady("brief", brief_key);
    crowd.wait_for(200, LONG);
    let calm = steady("calm", CLIENT_KEY);
    pause(Duration::from_secs(2));
    let calm = calm.end();
    let during = steady("during", CLIENT_KEY);
    during.wait_for(10, LONG);
    act();
    during.wait_for(10, LONG);
    let (during, brief, crowd) = (during.end(), brief.end(), crowd.end());
    let (without, with) = (calm.longest_gap(), during.longest_gap());
    println!("longest gap without retention {without:?}, with {with:?}");
    let held_up = with.saturating_sub(without);
    assert!(held_up < Duration::from_secs(1), "{held_up:?}");
    [
        (calm, "calm"),
        (during, "during"),
        (brief, "brief"),
        (crowd, "crowd"),
    ]
}

/// Checks that nobody was refused and nothing was lost.
fn check_unharmed(journals: &[(Journal, &str)], connection: &mut PgConnection) {
    // What was put there past ingest is not in the ledger.
    sql::run(connection, "DELETE FROM events WHERE name = 'old'");
    for (journal, prefix) in journals {
        journal.check_refusals();
        assert!(journal.refused.is_empty(), "{:?}", journal.refused);
        journal.check(connection, prefix);
    }
}

const OPTIONS: RetentionOptions = RetentionOptions {
    partitions_ahead_days: 9,
    dedupe_window_days: 7,
    rejected_retention_days: 30,
};

/// The key of the project that keeps events for ten days.
const BRIEF_KEY: &str = "client_key_of_a_brief_project_0123456789";

/// A server beside whose schedule the tests run retention, with that project.
fn app_with_brief_project() -> (TestApp, i64) {
    let mut brief = 0;
    let app = TestApp::prepared(&[patience()], |connection| {
        switch_schedule_off(connection);
        brief = sql::project(connection, "brief");
        KeyRow::good(brief, "client", BRIEF_KEY).insert(connection);
        let keeps = format!("UPDATE projects SET retention_days = 10 WHERE id = {brief}");
        sql::run(connection, &keeps);
    });
    (app, brief)
}

fn today(connection: &mut PgConnection) -> NaiveDate {
    partitions::database_now(connection).unwrap().date_naive()
}

#[test]
fn dropping_days_does_not_hold_writers_up() {
    let (app, _) = app_with_brief_project();
    let mut connection = beckon::store::connect(app.url()).unwrap();
    let today = today(&mut connection);
    let old_days = if is_soak() { 30 } else { 6 };
    for ago in 0..old_days {
        store(
            &mut connection,
            "old",
            1,
            today - Days::new(100 + ago),
            2_000,
        );
    }
    let mut report = Report::default();
    let journals = without_holding_writers_up(&app, BRIEF_KEY, || {
        report = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run).unwrap();
    });
    assert_eq!(report.dropped.len(), usize::try_from(old_days).unwrap());
    let last = partitions::list(&mut connection).unwrap().pop();
    assert_eq!(last.map(|last| last.day), Some(today + Days::new(9)));
    check_unharmed(&journals, &mut connection);
}

#[test]
fn rotating_message_ids_and_deleting_rows_do_not_hold_writers_up() {
    let (app, brief) = app_with_brief_project();
    let mut connection = beckon::store::connect(app.url()).unwrap();
    let today = today(&mut connection);
    let rounds = if is_soak() { 20 } else { 3 };
    let bucket = "SELECT current_bucket FROM message_buckets";
    let known = json!({"user_id": "u", "event": "load", "event_id": "known before"});
    app.client().post("/v1/track", &known).expect(200);
    let journals = without_holding_writers_up(&app, BRIEF_KEY, || {
        for round in 0..rounds {
            // More than one batch of rows, on days on which the other project keeps its own.
            for ago in [11, 12] {
                store(&mut connection, "old", brief, today - Days::new(ago), 6_000);
                store(&mut connection, "old", 1, today - Days::new(ago), 10);
            }
            store(&mut connection, "old", brief, today - Days::new(10), 10);
            let current = sql::number(&mut connection, bucket);
            sql::run(
                &mut connection,
                &format!(
                    "UPDATE message_buckets SET rotated_at = now() - interval '7 days';
                     INSERT INTO message_ids_{}
                     SELECT 1, gen_random_uuid(), gen_random_uuid() FROM generate_series(1, 20000)",
                    1 - current
                ),
            );
            let report = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run).unwrap();
            assert!(report.message_ids_rotated, "round {round}");
            assert_eq!(sql::number(&mut connection, bucket), 1 - current);
            let deleted = report.projects.iter().find(|it| it.project_id == brief);
            assert_eq!(deleted.map(|it| it.events), Some(12_000), "round {round}");
            if round == 0 {
                // Rotated once, the ids of the last window are still known.
                let again = app.client().post("/v1/track", &known).expect(200);
                assert_eq!(again["duplicate"], true, "{again}");
            }
        }
    });
    let old = |connection: &mut PgConnection, project: i64| {
        let query = "SELECT count(*) FROM events WHERE name = 'old' AND project_id = ";
        sql::number(connection, &format!("{query}{project}"))
    };
    assert_eq!(
        old(&mut connection, brief),
        rounds * 10,
        "the tenth day stays"
    );
    assert_eq!(old(&mut connection, 1), rounds * 20, "they keep 90 days");
    check_unharmed(&journals, &mut connection);
}

/// What a run of retention has to remove, on days that no other round uses.
fn store_past(connection: &mut PgConnection, brief: i64, today: NaiveDate, round: u64) {
    for ago in 0..4 {
        let day = today - Days::new(91 + 4 * round + ago);
        store(connection, "old", 1, day, 200);
    }
    for ago in [11, 12] {
        store(connection, "old", brief, today - Days::new(ago), 3_000);
    }
    for (project, ago) in [(1, 31), (brief, 11)] {
        reject(connection, "old", project, ago);
    }
    sql::run(
        connection,
        &format!(
            "INSERT INTO ingest_ledger VALUES (1, current_date - 401, {round}, 1, 1, 0, 0);
             UPDATE message_buckets SET rotated_at = now() - interval '7 days'"
        ),
    );
}

/// What is of the last day that stays, and of days on which others' goes.
fn store_kept(connection: &mut PgConnection, brief: i64, today: NaiveDate) {
    for (project, ago) in [(1, 90), (1, 12), (brief, 10)] {
        store(connection, "kept", project, today - Days::new(ago), 1_000);
    }
    for (project, ago) in [(1, 30), (brief, 10)] {
        reject(connection, "kept", project, ago);
    }
    sql::run(
        connection,
        "INSERT INTO ingest_ledger VALUES (1, current_date - 400, 0, 0, 0, 0, 0)",
    );
}

fn reject(connection: &mut PgConnection, code: &str, project: i64, ago: u32) {
    sql::run(
        connection,
        &format!(
            "INSERT INTO rejected_events (project_id, received_on, received_at, code, message, payload)
             SELECT {project}, current_date - {ago}, (current_date - {ago})::timestamp AT TIME ZONE
                    'UTC', '{code}', '', '' FROM generate_series(1, 100)"
        ),
    );
}

/// How many events, rejected events and days of the ledger are left of the past, and how many of
/// what must stay.
fn left(connection: &mut PgConnection) -> ([i64; 3], [i64; 3]) {
    let mut count = |word: &str, days: &str| {
        [
            format!("SELECT count(*) FROM events WHERE name = '{word}'"),
            format!("SELECT count(*) FROM rejected_events WHERE code = '{word}'"),
            format!("SELECT count(*) FROM ingest_ledger WHERE day {days}"),
        ]
        .map(|query| sql::number(connection, &query))
    };
    (
        count("old", "< current_date - 400"),
        count("kept", "= current_date - 400"),
    )
}

/// The session of a run that was killed ends its statement first, and holds the lock as long.
fn wait_for_the_lock(connection: &mut PgConnection) {
    eventually("nobody runs retention", LONG, || {
        let holders = "SELECT count(*) FROM pg_locks
             WHERE locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint
                 = 7090182501446844420
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (sql::number(connection, holders) == 0).then_some(())
    });
}

#[test]
fn retention_that_was_killed_is_finished_by_the_next_run() {
    let rounds = if is_soak() { 40 } else { 3 };
    let mut dice = Dice::new();
    let (app, brief) = app_with_brief_project();
    let mut connection = beckon::store::connect(app.url()).unwrap();
    let today = today(&mut connection);
    store_kept(&mut connection, brief, today);
    let (_, kept) = left(&mut connection);
    let load = Load::start(app.base(), 8, "killed");
    load.wait_for(100, LONG);
    let retention = || app.launch().command(&["retention", "run", "--json"]);
    // How long a whole run takes, on the load and the machine that there are.
    store_past(&mut connection, brief, today, 0);
    let started = Instant::now();
    let (status, said) = run_to_end(retention(), LONG);
    assert!(status.success(), "{said}");
    let whole = u64::try_from(started.elapsed().as_millis()).unwrap();
    let mut killed = 0;
    for round in 1..=rounds {
        store_past(&mut connection, brief, today, round);
        let mut run = retention()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let after = dice.below(whole);
        pause(Duration::from_millis(after));
        run.kill().unwrap();
        killed += u64::from(run.wait().unwrap().signal() == Some(9));
        let (past, staying) = left(&mut connection);
        println!("round {round}: killed after {after} of {whole} ms; left of the past: {past:?}");
        assert_eq!(staying, kept);
        wait_for_the_lock(&mut connection);
    }
    assert!(killed > rounds / 2, "{killed} of {rounds} runs were killed");
    let (status, said) = run_to_end(retention(), LONG);
    assert!(status.success(), "{said}");
    load.wait_for(100, LONG);
    let journal = load.end();
    assert_eq!(left(&mut connection), ([0; 3], kept));
    // Nor is there a table that was detached or was about to be.
    let tables = format!(
        "SELECT count(*) FROM pg_class WHERE relkind = 'r'
           AND relname ~ '^events_p[0-9]{{8}}$' AND relname < '{}'",
        partitions::table_name(today - Days::new(90))
    );
    assert_eq!(sql::number(&mut connection, &tables), 0);
    let rotated =
        "SELECT count(*) FROM message_buckets WHERE rotated_at > now() - interval '1 day'";
    assert_eq!(sql::number(&mut connection, rotated), 1);
    sql::run(
        &mut connection,
        "DELETE FROM events WHERE name = 'kept'; DELETE FROM rejected_events WHERE code = 'kept'",
    );
    journal.check_refusals();
    journal.check(&mut connection, "killed");
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
        store(&mut sql, &format!("old-{ago}"), 1, day, 1);
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
