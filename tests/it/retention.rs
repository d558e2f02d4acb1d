//! Retention: what is past goes, nothing newer ever does.

use std::time::Duration;

use beckon::clock::Clock;
use beckon::retention::{
    Mode, Report, RetentionError, RetentionOptions, Scheduler, SchedulerOptions, run,
};
use beckon::store::partitions::{self, MESSAGE_BUCKET_LOCK};
use chrono::{Days, NaiveDate};
use diesel::PgConnection;

use super::support::postgres::{TestDatabase, database};
use super::support::sql;

const OPTIONS: RetentionOptions = RetentionOptions {
    partitions_ahead_days: 3,
    dedupe_window_days: 7,
    rejected_retention_days: 30,
};

fn fresh() -> (TestDatabase, PgConnection, NaiveDate) {
    let database = database();
    let mut connection = beckon::store::connect(&database.url).unwrap();
    let today = partitions::database_now(&mut connection)
        .unwrap()
        .date_naive();
    (database, connection, today)
}

fn run_now(connection: &mut PgConnection) -> Report {
    run(connection, &Clock::system(), &OPTIONS, Mode::Run).unwrap()
}

/// Events of a project on a day, received at its last moment.
fn store(connection: &mut PgConnection, project: i64, day: NaiveDate, count: u32) {
    partitions::ensure_day(connection, day).unwrap();
    sql::run(
        connection,
        &format!(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name, timestamp, \
             received_at) SELECT '{day}', gen_random_uuid(), {project}, 1, 0, 'open', now(), \
             '{day} 23:59:59.999' FROM generate_series(1, {count})"
        ),
    );
}

fn events(connection: &mut PgConnection, project: i64) -> i64 {
    let query = format!("SELECT count(*) FROM events WHERE project_id = {project}");
    sql::number(connection, &query)
}

#[test]
fn whole_days_past_the_retention_go_and_the_first_kept_day_stays() {
    let (_database, mut connection, today) = fresh();
    store(&mut connection, 1, today - Days::new(91), 3);
    store(&mut connection, 1, today - Days::new(90), 2);
    let dry = run(&mut connection, &Clock::system(), &OPTIONS, Mode::DryRun).unwrap();
    assert_eq!((dry.events_dropped, dry.created.len()), (3, 0));
    assert_eq!(events(&mut connection, 1), 5, "a dry run changes nothing");
    let report = run_now(&mut connection);
    assert_eq!(report.cutoff, Some(today - Days::new(90)));
    assert_eq!(report.dropped.len(), 1);
    assert_eq!(report.dropped[0].day, today - Days::new(91));
    assert_eq!(report.events_dropped, 3);
    assert!(report.kept.is_empty());
    assert_eq!(events(&mut connection, 1), 2);
    // Partitions ahead were created on the way.
    let days = partitions::list(&mut connection).unwrap();
    assert_eq!(days.last().unwrap().day, today + Days::new(3));
    assert!(
        run_now(&mut connection).dropped.is_empty(),
        "a second run finds nothing"
    );
}

#[test]
fn projects_that_keep_less_lose_their_rows_and_only_theirs() {
    let (_database, mut connection, today) = fresh();
    let brief = sql::project(&mut connection, "brief");
    sql::run(
        &mut connection,
        &format!("UPDATE projects SET retention_days = 10 WHERE id = {brief}"),
    );
    for ago in [9, 10, 11, 95] {
        let day = today - Days::new(ago);
        store(&mut connection, 1, day, 1);
        store(&mut connection, brief, day, 6_000);
    }
    let rejected = |project: i64, ago: u32| {
        format!(
            "INSERT INTO rejected_events (project_id, received_on, received_at, code, message, \
             payload) VALUES ({project}, current_date - {ago}, now() - interval '{ago} days', 'x', \
             '', '')"
        )
    };
    let kept = [(1, 12), (1, 30), (brief, 8), (brief, 10)];
    let past = [(1, 31), (1, 80), (brief, 11), (brief, 12)];
    for (project, ago) in kept.into_iter().chain(past) {
        sql::run(&mut connection, &rejected(project, ago));
    }
    // One clock alone does not make it old.
    let early = "UPDATE rejected_events SET received_at = now() - interval '99 days' \
                 WHERE received_on = current_date - 8";
    sql::run(&mut connection, early);
    let report = run_now(&mut connection);
    // The oldest day was past everybody's retention and went whole.
    assert_eq!(report.events_dropped, 6_001);
    assert_eq!(events(&mut connection, 1), 3);
    assert_eq!(events(&mut connection, brief), 12_000, "days 9 and 10 stay");
    let of_brief = report
        .projects
        .iter()
        .find(|p| p.project_id == brief)
        .unwrap();
    assert_eq!((of_brief.events, of_brief.rejected_events), (6_000, 2));
    assert_eq!(of_brief.rejected_retention_days, 10);
    let of_first = report.projects.iter().find(|p| p.project_id == 1).unwrap();
    assert_eq!((of_first.events, of_first.rejected_events), (0, 2));
    assert_eq!(of_first.rejected_retention_days, 30);
    let left = "SELECT current_date - received_on AS ago FROM rejected_events ORDER BY id";
    let left = sql::rows(&mut connection, left);
    let left: Vec<i64> = left
        .iter()
        .map(|row| row["ago"].as_i64().unwrap())
        .collect();
    assert_eq!(left, [12, 30, 8, 10]);
}

/// Over all partitions, finding a batch again by its ids would mean reading everybody's events.
#[test]
fn events_of_a_day_are_deleted_without_touching_other_days() {
    let (database, mut connection, today) = fresh();
    let brief = sql::project(&mut connection, "brief");
    sql::run(
        &mut connection,
        &format!("UPDATE projects SET retention_days = 10 WHERE id = {brief}"),
    );
    for ago in [5, 20, 21] {
        store(&mut connection, brief, today - Days::new(ago), 100);
    }
    let mut holder = beckon::store::connect(&database.url).unwrap();
    let kept = partitions::table_name(today - Days::new(5));
    sql::run(
        &mut holder,
        &format!("BEGIN; LOCK TABLE {kept} IN ACCESS EXCLUSIVE MODE"),
    );
    let dry = run(&mut connection, &Clock::system(), &OPTIONS, Mode::DryRun).unwrap();
    let done = run_now(&mut connection);
    sql::run(&mut holder, "ROLLBACK");
    for report in [dry, done] {
        let of_brief = report.projects.iter().find(|p| p.project_id == brief);
        assert_eq!(of_brief.unwrap().events, 200);
    }
    assert_eq!(events(&mut connection, brief), 100);
}

#[test]
fn an_old_day_that_holds_a_newer_event_is_kept() {
    let (_database, mut connection, today) = fresh();
    let day = today - Days::new(100);
    store(&mut connection, 1, day, 1);
    sql::run(&mut connection, "UPDATE events SET received_at = now()");
    let report = run_now(&mut connection);
    assert_eq!(report.kept, [day]);
    assert_eq!(events(&mut connection, 1), 1);
}

/// One event that a wrong clock has stamped must not keep everybody's.
#[test]
fn what_is_past_goes_from_an_old_day_that_is_kept() {
    let (_database, mut connection, today) = fresh();
    let brief = sql::project(&mut connection, "brief");
    sql::run(
        &mut connection,
        &format!("UPDATE projects SET retention_days = 10 WHERE id = {brief}"),
    );
    let (day, gone) = (today - Days::new(100), today - Days::new(99));
    store(&mut connection, 1, day, 1);
    sql::run(
        &mut connection,
        "UPDATE events SET received_at = now() + interval '1 year'",
    );
    store(&mut connection, 1, day, 20);
    store(&mut connection, brief, day, 5);
    store(&mut connection, brief, gone, 7);
    let dry = run(&mut connection, &Clock::system(), &OPTIONS, Mode::DryRun).unwrap();
    let done = run_now(&mut connection);
    for report in [dry, done] {
        assert_eq!(report.kept, [day]);
        assert_eq!(report.events_dropped, 7);
        let deleted: Vec<i64> = report.projects.iter().map(|it| it.events).collect();
        assert_eq!(deleted, [20, 5]);
    }
    assert_eq!(events(&mut connection, 1), 1, "the newer one stays");
    assert_eq!(events(&mut connection, brief), 0);
}

/// As while somebody makes a dump, which takes hours.
#[test]
fn a_day_that_cannot_be_dropped_keeps_nothing_else_from_going() {
    let (database, mut connection, today) = fresh();
    let held = [93, 92].map(|ago| today - Days::new(ago));
    for day in held {
        store(&mut connection, 1, day, 3);
    }
    sql::run(
        &mut connection,
        "INSERT INTO ingest_ledger SELECT 1, current_date - 500, 0, 1, 1, 0, 0; \
         UPDATE message_buckets SET rotated_at = now() - interval '8 days'",
    );
    let mut dump = beckon::store::connect(&database.url).unwrap();
    sql::run(
        &mut dump,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events",
    );
    let reads = |connection: &mut PgConnection| {
        sql::run(connection, "SELECT pg_stat_force_next_flush()");
        sql::number(
            connection,
            "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname ~ '^events_p'",
        )
    };
    let refused = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run);
    assert!(
        matches!(refused, Err(RetentionError::Database(_))),
        "{refused:?}"
    );
    let ledger = "SELECT count(*) FROM ingest_ledger";
    assert_eq!(sql::number(&mut connection, ledger), 0);
    let current = "SELECT current_bucket FROM message_buckets";
    assert_eq!(sql::number(&mut connection, current), 1);
    // The next attempt does not read it all again.
    let before = reads(&mut connection);
    let refused = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(reads(&mut connection), before);
    sql::run(&mut dump, "ROLLBACK");
    let report = run_now(&mut connection);
    let dropped: Vec<NaiveDate> = report.dropped.iter().map(|it| it.day).collect();
    assert_eq!(dropped, held);
}

#[test]
fn a_day_that_is_locked_is_left_and_the_next_one_goes() {
    let (database, mut connection, today) = fresh();
    let days = [93, 92].map(|ago| today - Days::new(ago));
    for day in days {
        store(&mut connection, 1, day, 3);
    }
    let mut holder = beckon::store::connect(&database.url).unwrap();
    let locked = partitions::table_name(days[0]);
    sql::run(
        &mut holder,
        &format!("BEGIN; LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE"),
    );
    let refused = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run);
    assert!(refused.is_err(), "{refused:?}");
    sql::run(&mut holder, "ROLLBACK");
    let left = partitions::list(&mut connection).unwrap();
    assert!(left.iter().any(|it| it.day == days[0]));
    assert!(!left.iter().any(|it| it.day == days[1]));
}

#[test]
fn the_older_clock_decides_and_clocks_an_hour_apart_stop_the_run() {
    let (_database, mut connection, today) = fresh();
    store(&mut connection, 1, today - Days::new(91), 1);
    let clock = Clock::system();
    for hours in [-2, 2, -24, 24] {
        clock.set_offset_ms(hours * 3_600_000);
        let refused = run(&mut connection, &clock, &OPTIONS, Mode::Run);
        assert!(
            matches!(refused, Err(RetentionError::ClocksApart { .. })),
            "{hours} h"
        );
    }
    assert_eq!(events(&mut connection, 1), 1);
    let now = partitions::database_now(&mut connection).unwrap();
    let since_midnight = now - today.and_hms_opt(0, 0, 0).unwrap().and_utc();
    if since_midnight < chrono::TimeDelta::minutes(50) {
        // A node that still has yesterday makes the cutoff a day older.
        clock.set_offset_ms(-55 * 60_000);
        let report = run(&mut connection, &clock, &OPTIONS, Mode::Run).unwrap();
        assert_eq!(report.cutoff, Some(today - Days::new(91)));
    }
    clock.set_offset_ms(0);
    assert_eq!(
        run(&mut connection, &clock, &OPTIONS, Mode::Run)
            .unwrap()
            .events_dropped,
        1
    );
}

#[test]
fn message_ids_are_forgotten_after_a_window_and_writers_hold_the_rotation_up() {
    let (database, mut connection, _) = fresh();
    let claim = |bucket: u8, id: u8| {
        format!("INSERT INTO message_ids_{bucket} VALUES (1, md5('{id}')::uuid, gen_random_uuid())")
    };
    sql::run(&mut connection, &claim(0, 1));
    assert!(
        !run_now(&mut connection).message_ids_rotated,
        "the window is not over"
    );
    let age = "UPDATE message_buckets SET rotated_at = now() - interval '7 days'";
    sql::run(&mut connection, age);
    let mut writer = beckon::store::connect(&database.url).unwrap();
    sql::run(
        &mut writer,
        &format!("BEGIN; SELECT pg_advisory_xact_lock_shared({MESSAGE_BUCKET_LOCK})"),
    );
    let held_up = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run);
    assert!(
        matches!(held_up, Err(RetentionError::Database(_))),
        "a writer is in the middle"
    );
    sql::run(&mut writer, "COMMIT");
    assert!(run_now(&mut connection).message_ids_rotated);
    let current = "SELECT current_bucket FROM message_buckets";
    assert_eq!(sql::number(&mut connection, current), 1);
    let kept = "SELECT count(*) FROM message_ids_0";
    assert_eq!(
        sql::number(&mut connection, kept),
        1,
        "one more window in the other bucket"
    );
    sql::run(&mut connection, &claim(1, 2));
    assert!(!run_now(&mut connection).message_ids_rotated);
    sql::run(
        &mut connection,
        "UPDATE message_buckets SET rotated_at = now() - interval '8 days'",
    );
    // A run that began long before, or by a clock that is slow, makes no id younger than it is.
    let began = partitions::database_now(&mut connection).unwrap();
    let slow = Clock::system();
    slow.set_offset_ms(-30 * 60_000);
    let report = run(&mut connection, &slow, &OPTIONS, Mode::Run).unwrap();
    assert!(report.message_ids_rotated);
    let since = format!("SELECT count(*) FROM message_buckets WHERE rotated_at >= '{began}'");
    assert_eq!(sql::number(&mut connection, &since), 1);
    assert_eq!(sql::number(&mut connection, kept), 0);
    assert_eq!(
        sql::number(&mut connection, "SELECT count(*) FROM message_ids_1"),
        1
    );
}

#[test]
fn one_run_at_a_time_and_its_end_frees_the_lock() {
    let (database, mut connection, _) = fresh();
    let mut other = beckon::store::connect(&database.url).unwrap();
    sql::run(&mut other, "SELECT pg_advisory_lock(7090182501446844420)");
    let busy = run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run);
    assert!(matches!(busy, Err(RetentionError::Busy)), "{busy:?}");
    let dry = run(&mut connection, &Clock::system(), &OPTIONS, Mode::DryRun);
    assert!(
        dry.unwrap().dry_run,
        "it changes nothing, so it need not wait"
    );
    drop(other);
    super::support::eventually("the lock to be free", Duration::from_secs(5), || {
        run(&mut connection, &Clock::system(), &OPTIONS, Mode::Run).ok()
    });
}

/// It was due at midnight of New Year's Day, when no node was up.
fn schedule(database: &TestDatabase) -> SchedulerOptions {
    SchedulerOptions {
        url: database.url.clone(),
        schedule: "0 0 0 1 1 *".parse().unwrap(),
        retention: OPTIONS,
        metrics: Default::default(),
    }
}

fn wait_for_the_run(connection: &mut PgConnection) {
    let noted = "SELECT count(*) FROM job_runs";
    super::support::eventually("the missed run", Duration::from_secs(60), || {
        (events(connection, 1) == 0 && sql::number(connection, noted) == 1).then_some(())
    });
}

#[test]
fn a_run_that_was_cut_off_is_made_up_for() {
    let (database, mut connection, today) = fresh();
    let day = today - Days::new(91);
    store(&mut connection, 1, day, 1);
    let mut holder = beckon::store::connect(&database.url).unwrap();
    let table = partitions::table_name(day);
    sql::run(
        &mut holder,
        &format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
    );
    let clock = Clock::system();
    let node = Scheduler::start(schedule(&database), clock.clone()).unwrap();
    let cut_off = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock' \
           AND query LIKE '%FROM {table}%'"
    );
    super::support::eventually("the run to be cut off", Duration::from_secs(60), || {
        (sql::number(&mut connection, &cut_off) == 1).then_some(())
    });
    sql::run(&mut holder, "ROLLBACK");
    let noted = "SELECT count(*) FROM job_runs";
    assert_eq!(sql::number(&mut connection, noted), 0, "it is nobody's");
    assert_eq!(events(&mut connection, 1), 1);
    // The retry comes after a minute.
    clock.set_offset_ms(61_000);
    wait_for_the_run(&mut connection);
    node.stop(Duration::from_secs(5));
}

#[test]
fn a_run_that_finds_another_one_at_work_is_made_up_for() {
    let (database, mut connection, today) = fresh();
    store(&mut connection, 1, today - Days::new(91), 1);
    let mut other = beckon::store::connect(&database.url).unwrap();
    sql::run(&mut other, "SELECT pg_advisory_lock(7090182501446844420)");
    let clock = Clock::system();
    let node = Scheduler::start(schedule(&database), clock.clone()).unwrap();
    super::support::pause(Duration::from_millis(2_500));
    assert_eq!(events(&mut connection, 1), 1);
    drop(other);
    clock.set_offset_ms(61_000);
    wait_for_the_run(&mut connection);
    node.stop(Duration::from_secs(5));
}

#[test]
fn a_clock_that_was_ahead_and_is_right_again_holds_nothing_up() {
    let (database, mut connection, today) = fresh();
    store(&mut connection, 1, today - Days::new(91), 1);
    let clock = Clock::system();
    clock.set_offset_ms(1_000 * 86_400_000);
    let node = Scheduler::start(schedule(&database), clock.clone()).unwrap();
    super::support::pause(Duration::from_millis(2_500));
    assert_eq!(
        events(&mut connection, 1),
        1,
        "the clocks are too far apart"
    );
    clock.set_offset_ms(0);
    wait_for_the_run(&mut connection);
    node.stop(Duration::from_secs(5));
}

#[test]
fn a_run_noted_by_a_clock_that_was_ahead_is_no_run() {
    let (database, mut connection, today) = fresh();
    store(&mut connection, 1, today - Days::new(91), 1);
    sql::run(
        &mut connection,
        "INSERT INTO job_runs VALUES ('retention', now() + interval '10 years', now())",
    );
    let node = Scheduler::start(schedule(&database), Clock::system()).unwrap();
    wait_for_the_run(&mut connection);
    node.stop(Duration::from_secs(5));
}

#[test]
fn of_two_nodes_with_one_schedule_one_runs_the_job() {
    let (database, mut connection, today) = fresh();
    store(&mut connection, 1, today - Days::new(91), 1);
    let options = schedule(&database);
    let clock = Clock::system();
    let nodes: Vec<Scheduler> = (0..2)
        .map(|_| Scheduler::start(options.clone(), clock.clone()).unwrap())
        .collect();
    wait_for_the_run(&mut connection);
    let first = "SELECT extract(epoch FROM started_at) * 1000000 FROM job_runs";
    let started = sql::number(&mut connection, first);
    // The one that was refused asks again after a minute.
    clock.set_offset_ms(61_000);
    super::support::pause(Duration::from_millis(2_500));
    assert_eq!(
        sql::number(&mut connection, first),
        started,
        "nobody ran it again"
    );
    for node in nodes {
        node.stop(Duration::from_secs(5));
    }
}

#[test]
fn the_ledger_is_kept_for_four_hundred_days() {
    let (_database, mut connection, _) = fresh();
    sql::run(
        &mut connection,
        "INSERT INTO ingest_ledger SELECT project, current_date - ago, slot, 1, 1, 0, 0 \
         FROM generate_series(1, 40) AS project, generate_series(398, 600) AS ago, \
              generate_series(0, 1) AS slot",
    );
    let dry = run(&mut connection, &Clock::system(), &OPTIONS, Mode::DryRun).unwrap();
    assert_eq!(dry.ledger_rows, 40 * 200 * 2);
    assert_eq!(run_now(&mut connection).ledger_rows, dry.ledger_rows);
    let left = "SELECT max(current_date - day) FROM ingest_ledger";
    assert_eq!(sql::number(&mut connection, left), 400);
    assert_eq!(run_now(&mut connection).ledger_rows, 0);
}
