//! Keeps the past within bounds: partitions ahead, events past their retention dropped, rejected
//! events and the ledger's days past theirs deleted, message ids forgotten after their window.
//!
//! Retention counts from when an event was received, in whole UTC days, so a day goes when all of
//! it is past. Partitions are shared by the projects: one is dropped whole when it is past the
//! longest retention of all; before that, and where it holds something newer, the rows that are past
//! their project's retention are deleted in bounded batches.
//!
//! A step that fails keeps no other one from its work: a day that cannot be dropped, as while somebody
//! reads it for hours, is left to the next run.
//!
//! Invariants: nothing received after a project's cutoff is removed. The cutoff is counted from
//! the older of two clocks, this node's and the database's; when they are an hour apart, one is
//! wrong, and nothing is done. One run at a time: a session lock on the run's own connection.

mod delete;
mod metrics;
mod schedule;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Bool, Date, Int4, SmallInt, Timestamptz};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde::Serialize;

use crate::clock::Clock;
use crate::store::partitions::{self, MESSAGE_BUCKET_LOCK, Partition, is_lock_timeout};
use delete::{WholeDays, delete_ledger, delete_past};

pub use metrics::RetentionMetrics;
pub use schedule::{Scheduler, SchedulerOptions};

/// The session lock of the one run.
const RETENTION_LOCK: i64 = 0x6265_636b_6f6e_0004;

/// How far the two clocks may be apart.
const CLOCK_DIFFERENCE_MAX: TimeDelta = TimeDelta::hours(1);

/// How a run goes about it.
#[derive(Debug, Clone)]
pub struct RetentionOptions {
    /// Days whose partitions are created ahead.
    pub partitions_ahead_days: u32,
    /// How long a message id is remembered at least, in days.
    pub dedupe_window_days: u32,
    /// How long rejected events are kept, in days, unless their project keeps less.
    pub rejected_retention_days: u32,
}

/// Whether to do it or to tell what would be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Do it.
    Run,
    /// Change nothing.
    DryRun,
}

/// Why a run stopped. What it had done by then stays done; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// Another run holds the lock.
    #[error("another retention run is going on")]
    Busy,
    /// The clocks are too far apart to decide what is old.
    #[error(
        "this machine's clock ({node}) and the database's ({database}) are more than an hour \
         apart; nothing was removed. Set the wrong one right"
    )]
    ClocksApart {
        /// This node's time.
        node: DateTime<Utc>,
        /// The database's time.
        database: DateTime<Utc>,
    },
    /// A query failed.
    #[error("the database refused: {0}")]
    Database(#[from] diesel::result::Error),
}

/// What a run did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// Days whose partitions were created.
    pub created: Vec<NaiveDate>,
    /// Events received before this day were dropped for every project; absent without projects.
    pub cutoff: Option<NaiveDate>,
    /// Partitions that were dropped, with their events.
    pub dropped: Vec<Dropped>,
    /// Partitions that stay although they are old, because they hold events received later.
    pub kept: Vec<NaiveDate>,
    /// Events in dropped partitions, together.
    pub events_dropped: i64,
    /// Events deleted one by one, and rejected events.
    pub projects: Vec<ProjectReport>,
    /// Days of the ledger that were deleted, counted in its rows.
    pub ledger_rows: i64,
    /// Whether the older bucket of message ids was emptied.
    pub message_ids_rotated: bool,
}

/// A partition that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its day.
    pub day: NaiveDate,
    /// How many events it held.
    pub events: i64,
}

/// What was deleted of one project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectReport {
    /// The project's number.
    pub project_id: i64,
    /// How long it keeps events, in days.
    pub retention_days: i32,
    /// Events deleted one by one.
    pub events: i64,
    /// How long it keeps rejected events, in days.
    pub rejected_retention_days: i32,
    /// Rejected events deleted.
    pub rejected_events: i64,
}

/// Runs the job once, on a connection of its own and outside any transaction. A dry run changes
/// nothing and so needs no lock.
///
/// # Errors
/// See [`RetentionError`].
pub fn run(
    connection: &mut PgConnection,
    clock: &Clock,
    options: &RetentionOptions,
    mode: Mode,
) -> Result<Report, RetentionError> {
    match mode {
        Mode::Run => under_lock(connection, |connection| {
            work(connection, clock, options, mode)
        }),
        Mode::DryRun => work(connection, clock, options, mode),
    }
}

/// Does something while no other run goes on, which ends with the session if not before.
fn under_lock<T>(
    connection: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, RetentionError>,
) -> Result<T, RetentionError> {
    if !try_lock(connection)? {
        return Err(RetentionError::Busy);
    }
    let outcome = work(connection);
    // The lock belongs to the session, so a failure to release it ends with the connection.
    let released =
        connection.batch_execute(&format!("SELECT pg_advisory_unlock({RETENTION_LOCK})"));
    let value = outcome?;
    released?;
    Ok(value)
}

/// One run, under the lock unless it is a dry one.
fn work(
    connection: &mut PgConnection,
    clock: &Clock,
    options: &RetentionOptions,
    mode: Mode,
) -> Result<Report, RetentionError> {
    let report = go_through(connection, clock, options, mode)?;
    tracing::info!(
        dry_run = report.dry_run,
        created = report.created.len(),
        dropped = report.dropped.len(),
        events_dropped = report.events_dropped,
        events_deleted = report.projects.iter().map(|p| p.events).sum::<i64>(),
        rejected_deleted = report
            .projects
            .iter()
            .map(|p| p.rejected_events)
            .sum::<i64>(),
        ledger_rows = report.ledger_rows,
        message_ids_rotated = report.message_ids_rotated,
        "retention has run"
    );
    Ok(report)
}

fn go_through(
    connection: &mut PgConnection,
    clock: &Clock,
    options: &RetentionOptions,
    mode: Mode,
) -> Result<Report, RetentionError> {
    let (now, today) = agreed_now(connection, clock)?;
    let mut report = Report {
        dry_run: mode == Mode::DryRun,
        ..Report::default()
    };
    let mut steps = Steps::default();
    if mode == Mode::Run {
        let days = options.partitions_ahead_days;
        let created = partitions::ensure_ahead(connection, today, days);
        report.created = steps.done(created).unwrap_or_default();
    }
    let projects = steps.done(projects(connection)).unwrap_or_default();
    if let Some(longest) = projects.iter().map(|project| project.retention_days).max() {
        let cutoff = cutoff_day(now, longest);
        report.cutoff = Some(cutoff);
        steps.done(drop_past(connection, cutoff, mode, &mut report));
        for project in &projects {
            let whole = WholeDays {
                before: cutoff,
                kept: &report.kept,
            };
            let deleted = delete_past(connection, project, &whole, now, options, mode);
            report.projects.extend(steps.done(deleted));
        }
    }
    let ledger_rows = delete_ledger(connection, now, mode);
    report.ledger_rows = steps.done(ledger_rows).unwrap_or_default();
    let rotated = rotate_message_ids(connection, now, options.dedupe_window_days, mode);
    report.message_ids_rotated = steps.done(rotated).unwrap_or_default();
    match steps.first_error {
        Some(error) => Err(error.into()),
        None => Ok(report),
    }
}

/// Steps of which each is taken whatever became of those before it.
#[derive(Default)]
struct Steps {
    first_error: Option<diesel::result::Error>,
}

impl Steps {
    /// What the step gave, if it succeeded.
    fn done<T>(&mut self, outcome: QueryResult<T>) -> Option<T> {
        outcome
            .map_err(|error| {
                if self.first_error.is_some() {
                    tracing::warn!(%error, "another step of retention failed too");
                }
                self.first_error.get_or_insert(error);
            })
            .ok()
    }
}

/// The older of the two clocks, and the database's date.
fn agreed_now(
    connection: &mut PgConnection,
    clock: &Clock,
) -> Result<(DateTime<Utc>, NaiveDate), RetentionError> {
    let database = partitions::database_now(connection)?;
    let node = clock.now();
    if (database - node).abs() >= CLOCK_DIFFERENCE_MAX {
        tracing::error!(%node, %database, "the clocks are too far apart; retention stops");
        return Err(RetentionError::ClocksApart { node, database });
    }
    Ok((node.min(database), database.date_naive()))
}

/// The first day that is kept: every moment of the day before is at least so many days old.
fn cutoff_day(now: DateTime<Utc>, retention_days: i32) -> NaiveDate {
    let days = Days::new(u64::from(retention_days.unsigned_abs()));
    let today = now.date_naive();
    today.checked_sub_days(days).unwrap_or(NaiveDate::MIN)
}

#[derive(diesel::QueryableByName)]
struct Project {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Int4)]
    retention_days: i32,
}

/// Every project: retention is the one job that works on all of them.
fn projects(connection: &mut PgConnection) -> QueryResult<Vec<Project>> {
    sql_query("SELECT id, retention_days FROM projects ORDER BY id").load(connection)
}

/// Drops the partitions before the cutoff, and what interrupted drops left behind. One whose locks
/// are not to be had keeps no other one from being dropped; the first error is returned at the end.
fn drop_past(
    connection: &mut PgConnection,
    cutoff: NaiveDate,
    mode: Mode,
    report: &mut Report,
) -> QueryResult<()> {
    let mut past = partitions::list(connection)?;
    past.extend(partitions::leftovers(connection)?);
    past.retain(|partition| partition.day < cutoff);
    past.sort_by_key(|partition| partition.day);
    let mut first_error = None;
    for partition in past {
        // While a detach cannot be finished, nothing else can be detached, and reading the tables
        // each time would be in vain.
        if mode == Mode::Run
            && let Err(error) = partitions::finish_detaches(connection)
        {
            tracing::warn!(partition = partition.name, %error, "a detach cannot be finished");
            first_error.get_or_insert(error);
            break;
        }
        match drop_if_past(connection, &partition, cutoff, mode, report) {
            Err(error) if is_lock_timeout(&error) => {
                tracing::warn!(partition = partition.name, %error, "left to the next run");
                first_error.get_or_insert(error);
            }
            outcome => outcome?,
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn drop_if_past(
    connection: &mut PgConnection,
    partition: &Partition,
    cutoff: NaiveDate,
    mode: Mode,
    report: &mut Report,
) -> QueryResult<()> {
    let held = holdings(connection, &partition.name, cutoff)?;
    if held.has_newer {
        // A node whose clock was wrong wrote it; the day goes once all of it is old enough.
        tracing::warn!(partition = partition.name, "kept: it holds newer events");
        report.kept.push(partition.day);
        return Ok(());
    }
    if mode == Mode::Run {
        partitions::drop_day(connection, partition.day)?;
        tracing::info!(partition = partition.name, events = held.events, "dropped");
    }
    report.events_dropped += held.events;
    report.dropped.push(Dropped {
        day: partition.day,
        events: held.events,
    });
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Holdings {
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = Bool)]
    has_newer: bool,
}

/// What a partition's table holds. It reads the table once, which is about to be dropped.
fn holdings(
    connection: &mut PgConnection,
    table: &str,
    cutoff: NaiveDate,
) -> QueryResult<Holdings> {
    // A large day takes longer than a session's queries usually may.
    connection.batch_execute("SET statement_timeout = '30min'")?;
    let held = sql_query(format!(
        "SELECT count(*) AS events, \
                coalesce(bool_or(received_at >= $1::date), false) AS has_newer FROM {table}"
    ))
    .bind::<Date, _>(cutoff)
    .get_result(connection);
    connection.batch_execute("SET statement_timeout = '30s'")?;
    held
}

#[derive(diesel::QueryableByName)]
struct Buckets {
    #[diesel(sql_type = SmallInt)]
    current_bucket: i16,
    #[diesel(sql_type = Timestamptz)]
    rotated_at: DateTime<Utc>,
}

/// Empties the older bucket and makes it the current one, once the current one is a whole window
/// old: then every id in the older one is older than a window.
fn rotate_message_ids(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    window_days: u32,
    mode: Mode,
) -> QueryResult<bool> {
    let window = TimeDelta::days(i64::from(window_days));
    let is_due = |buckets: &Buckets| now - buckets.rotated_at >= window;
    if !is_due(&buckets(connection)?) || mode == Mode::DryRun {
        return Ok(mode == Mode::DryRun && is_due(&buckets(connection)?));
    }
    let rotate = |connection: &mut PgConnection| {
        // A statement that waits for the tables' locks takes its snapshot after it got them, so
        // nobody claims by what was current before.
        connection.batch_execute(&format!(
            "SET LOCAL lock_timeout = '500ms'; SELECT pg_advisory_xact_lock({MESSAGE_BUCKET_LOCK}); \
             LOCK TABLE message_ids_0, message_ids_1 IN ACCESS EXCLUSIVE MODE"
        ))?;
        // It is read again under the lock, which another node may have held.
        let buckets = buckets(connection)?;
        if !is_due(&buckets) {
            return Ok(false);
        }
        let older = if buckets.current_bucket == 0 { 1 } else { 0 };
        connection.batch_execute(&format!("TRUNCATE message_ids_{older}"))?;
        // The run may have taken hours to get here, and until now ids went into the other bucket: all
        // of them are a whole window old when that is emptied.
        let rotate = "UPDATE message_buckets SET current_bucket = $1, \
                      rotated_at = greatest($2, clock_timestamp())";
        sql_query(rotate)
            .bind::<SmallInt, _>(older)
            .bind::<Timestamptz, _>(now)
            .execute(connection)?;
        tracing::info!(bucket = older, "message ids rotated");
        Ok(true)
    };
    partitions::with_lock_retries(|| connection.transaction(rotate))
}

fn buckets(connection: &mut PgConnection) -> QueryResult<Buckets> {
    sql_query("SELECT current_bucket, rotated_at FROM message_buckets").get_result(connection)
}

fn try_lock(connection: &mut PgConnection) -> QueryResult<bool> {
    #[derive(diesel::QueryableByName)]
    struct Locked {
        #[diesel(sql_type = Bool)]
        locked: bool,
    }
    sql_query("SELECT pg_try_advisory_lock($1) AS locked")
        .bind::<BigInt, _>(RETENTION_LOCK)
        .get_result::<Locked>(connection)
        .map(|row| row.locked)
}
