//! The daily partitions of `events`: created ahead of need, listed, and dropped whole.
//!
//! A partition is made as a table of its own (LIKE, CHECK, ATTACH), because a plain `PARTITION OF`
//! locks out every reader and writer of `events`. It goes the other way round: DETACH CONCURRENTLY,
//! then DROP. There is no DEFAULT partition, which would forbid the concurrent detach. Each step
//! can be interrupted: a day is found in one of four states and taken on from there.
//!
//! Locks are waited for briefly and asked for again, so that a step that cannot be taken now never
//! makes writers queue behind it.
//!
//! Invariants: a partition is named `events_pYYYYMMDD` after its one day, which is a UTC date by
//! the database's clock (`received_on`). Partitions are shared by all projects, so nothing here is
//! scoped by project.

use std::time::Duration;

use chrono::{Days, NaiveDate};
use diesel::connection::SimpleConnection;
use diesel::result::Error as DieselError;
use diesel::sql_types::{Bool, Date, Nullable, Text};
use diesel::{Connection, OptionalExtension, PgConnection, QueryResult, RunQueryDsl, sql_query};

/// The advisory lock between those who write message ids in several statements (import and its way
/// back), who hold it shared for their transaction, and the rotation of the two buckets, which holds
/// it exclusively for its own. Ingest claims in one statement and needs only the tables' own locks.
pub const MESSAGE_BUCKET_LOCK: i64 = 0x6265_636b_6f6e_0002;

/// The advisory lock of the one transaction that creates a partition.
const PARTITION_LOCK: i64 = 0x6265_636b_6f6e_0003;

/// How long one attempt waits for a lock. Writers may queue behind it for as long.
pub(crate) const LOCK_WAIT_MS: u32 = 500;

/// How often a step is tried again when a lock was not to be had.
const LOCK_TRIES_MAX: u32 = 20;

/// The pause between two attempts, in which those who queued get their turn.
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// One day's partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The day whose events it holds.
    pub day: NaiveDate,
    /// Its table's name.
    pub name: String,
}

/// Where a day's table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no such table.
    Absent,
    /// A table that is no partition: a drop was interrupted after the detach.
    Detached,
    /// A detach was interrupted; the partition takes no rows any more.
    Pending,
    /// A partition in use.
    Attached,
}

/// Creates the partitions of yesterday, today and so many days ahead, and returns those that were
/// missing. Yesterday is among them because a node's clock may be behind the database's.
///
/// Safe to call from several nodes at once and while events are written. Must not be called inside
/// a transaction.
pub fn ensure_ahead(
    connection: &mut PgConnection,
    today: NaiveDate,
    days: u32,
) -> QueryResult<Vec<NaiveDate>> {
    let first = today - Days::new(1);
    let wanted = u64::from(days) + 2;
    let mut created = Vec::new();
    for day in first
        .iter_days()
        .take(usize::try_from(wanted).unwrap_or(usize::MAX))
    {
        if ensure_day(connection, day)? {
            created.push(day);
        }
    }
    Ok(created)
}

/// Makes sure that one day has its partition; true when it had none. Must not be called inside a
/// transaction.
pub fn ensure_day(connection: &mut PgConnection, day: NaiveDate) -> QueryResult<bool> {
    match state_of(connection, day)? {
        State::Attached => return Ok(false),
        State::Pending => finalize(connection, day)?,
        State::Absent | State::Detached => {}
    }
    with_lock_retries(|| connection.transaction(|connection| attach(connection, day)))
}

/// Every partition in use, oldest day first.
pub fn list(connection: &mut PgConnection) -> QueryResult<Vec<Partition>> {
    let rows = sql_query(
        "SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, c.relname::text AS name \
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = 'events'::regclass AND NOT i.inhdetachpending \
           AND c.relname ~ '^events_p[0-9]{8}$' ORDER BY 1",
    )
    .load::<PartitionRow>(connection)?;
    Ok(rows.into_iter().map(Partition::from).collect())
}

/// What interrupted drops left behind, oldest day first: detaches that are pending and tables that
/// are detached already.
pub fn leftovers(connection: &mut PgConnection) -> QueryResult<Vec<Partition>> {
    let rows = sql_query(
        "SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, c.relname::text AS name \
         FROM pg_class c LEFT JOIN pg_inherits i \
           ON i.inhrelid = c.oid AND i.inhparent = 'events'::regclass \
         WHERE c.relkind = 'r' AND c.relname ~ '^events_p[0-9]{8}$' \
           AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass) \
           AND coalesce(i.inhdetachpending, true) ORDER BY 1",
    )
    .load::<PartitionRow>(connection)?;
    Ok(rows.into_iter().map(Partition::from).collect())
}

/// Drops a day with all its events, whatever an interrupted attempt has done of it already. True
/// when there was something to drop. Must not be called inside a transaction.
pub fn drop_day(connection: &mut PgConnection, day: NaiveDate) -> QueryResult<bool> {
    let name = table_name(day);
    let mut dropped = false;
    // Each round moves the day one state on, so a healthy drop takes four.
    for _ in 0..8 {
        match state_of(connection, day)? {
            State::Absent => return Ok(dropped),
            State::Detached => {
                step(connection, &format!("DROP TABLE {name}"))?;
                dropped = true;
            }
            State::Pending => finalize(connection, day)?,
            State::Attached => {
                finish_detaches(connection)?;
                detach(connection, day)?;
            }
        }
    }
    Err(DieselError::QueryBuilderError(
        format!("the partition {name} does not stay dropped").into(),
    ))
}

/// The database's date and time, in UTC. The date is what `received_on` is decided by.
pub fn database_now(connection: &mut PgConnection) -> QueryResult<chrono::DateTime<chrono::Utc>> {
    #[derive(diesel::QueryableByName)]
    struct Now {
        #[diesel(sql_type = diesel::sql_types::Timestamptz)]
        now: chrono::DateTime<chrono::Utc>,
    }
    sql_query("SELECT clock_timestamp() AS now")
        .get_result::<Now>(connection)
        .map(|row| row.now)
}

/// The table of a day.
pub fn table_name(day: NaiveDate) -> String {
    day.format("events_p%Y%m%d").to_string()
}

#[derive(diesel::QueryableByName)]
struct PartitionRow {
    #[diesel(sql_type = Date)]
    day: NaiveDate,
    #[diesel(sql_type = Text)]
    name: String,
}

impl From<PartitionRow> for Partition {
    fn from(row: PartitionRow) -> Self {
        Self {
            day: row.day,
            name: row.name,
        }
    }
}

fn state_of(connection: &mut PgConnection, day: NaiveDate) -> QueryResult<State> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Bool>)]
        pending: Option<bool>,
    }
    let row = sql_query(
        "SELECT i.inhdetachpending AS pending FROM pg_class c LEFT JOIN pg_inherits i \
           ON i.inhrelid = c.oid AND i.inhparent = 'events'::regclass \
         WHERE c.oid = to_regclass($1)",
    )
    .bind::<Text, _>(table_name(day))
    .get_result::<Row>(connection)
    .optional()?;
    Ok(match row {
        None => State::Absent,
        Some(Row { pending: None }) => State::Detached,
        Some(Row {
            pending: Some(true),
        }) => State::Pending,
        Some(Row {
            pending: Some(false),
        }) => State::Attached,
    })
}

/// One attempt to attach a day's table, making it first if there is none. Runs in a transaction.
fn attach(connection: &mut PgConnection, day: NaiveDate) -> QueryResult<bool> {
    connection.batch_execute(&format!(
        "SET LOCAL lock_timeout = {LOCK_WAIT_MS}; SELECT pg_advisory_xact_lock({PARTITION_LOCK})"
    ))?;
    // Another node may have been faster while this one waited for the lock.
    let state = state_of(connection, day)?;
    if state == State::Attached {
        return Ok(false);
    }
    let name = table_name(day);
    let next = day + Days::new(1);
    if state == State::Absent {
        connection.batch_execute(&format!("CREATE TABLE {name} (LIKE events INCLUDING ALL)"))?;
    }
    // The check lets ATTACH skip its scan under a lock; afterwards the bound says the same.
    connection.batch_execute(&format!(
        "ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {name}_day; \
         ALTER TABLE {name} ADD CONSTRAINT {name}_day \
           CHECK (received_on >= '{day}' AND received_on < '{next}'); \
         ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{next}'); \
         ALTER TABLE {name} DROP CONSTRAINT {name}_day"
    ))?;
    Ok(true)
}

fn detach(connection: &mut PgConnection, day: NaiveDate) -> QueryResult<()> {
    let name = table_name(day);
    let statement = format!("ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY");
    let mut outcome = with_short_locks(connection, &statement);
    let mut tries = 1;
    while let Err(error) = &outcome {
        // A detach that timed out may have got halfway; the caller looks at the state again.
        if !is_lock_timeout(error) || tries == LOCK_TRIES_MAX {
            return outcome;
        }
        if state_of(connection, day)? != State::Attached {
            return Ok(());
        }
        pause();
        tries += 1;
        outcome = with_short_locks(connection, &statement);
    }
    outcome
}

/// Finishes detaches that were interrupted: only one may be pending at a time. It fails as long as
/// somebody looks at the database as it was before. Must not be called inside a transaction.
pub fn finish_detaches(connection: &mut PgConnection) -> QueryResult<()> {
    for partition in leftovers(connection)? {
        if state_of(connection, partition.day)? == State::Pending {
            finalize(connection, partition.day)?;
        }
    }
    Ok(())
}

fn finalize(connection: &mut PgConnection, day: NaiveDate) -> QueryResult<()> {
    let name = table_name(day);
    step(
        connection,
        &format!("ALTER TABLE events DETACH PARTITION {name} FINALIZE"),
    )
}

/// Runs one statement outside a transaction, waiting for its locks briefly and repeatedly.
fn step(connection: &mut PgConnection, statement: &str) -> QueryResult<()> {
    with_lock_retries(|| with_short_locks(connection, statement))
}

fn with_short_locks(connection: &mut PgConnection, statement: &str) -> QueryResult<()> {
    connection.batch_execute(&format!("SET lock_timeout = {LOCK_WAIT_MS}"))?;
    let outcome = connection.batch_execute(statement);
    // The session's own value is unknown here, so it goes back to the one every session starts on.
    connection.batch_execute("SET lock_timeout = '10s'")?;
    outcome
}

/// Tries again what did not get a lock in time, with pauses in which those who queued get their
/// turn.
pub(crate) fn with_lock_retries<T>(attempt: impl FnMut() -> QueryResult<T>) -> QueryResult<T> {
    retried(attempt, is_lock_timeout)
}

/// The same for what fails with errors of its own.
pub(crate) fn retried<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_lock_timeout: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut tries = 1;
    loop {
        match attempt() {
            Err(error) if is_lock_timeout(&error) && tries < LOCK_TRIES_MAX => {
                tries += 1;
                pause();
            }
            outcome => return outcome,
        }
    }
}

/// Whether a lock was not to be had in time.
pub fn is_lock_timeout(error: &DieselError) -> bool {
    matches!(error, DieselError::DatabaseError(_, info) if info.message().contains("lock timeout"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "queries block their thread anyway; none of this runs on an async one"
)]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}
