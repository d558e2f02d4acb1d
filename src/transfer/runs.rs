//! Runs: which file, when it began, and the lock that lets one import go on at a time.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Binary, Bool, Date, Integer, Nullable, Text, Timestamptz};
use diesel::{Connection, OptionalExtension, PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::TransferError;
use super::file::DataFile;
use crate::model::ProjectId;
use crate::store::partitions;

/// The session lock of the one import or rollback.
const IMPORT_LOCK: i64 = 0x6265_636b_6f6e_0005;

/// An import of one file.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Zero in a dry run of a file that was never imported.
    pub(super) id: i64,
    pub(super) project: ProjectId,
    pub(super) started_at: DateTime<Utc>,
}

#[derive(diesel::QueryableByName)]
struct RunRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Timestamptz)]
    started_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    rolled_back_at: Option<DateTime<Utc>>,
}

impl Run {
    pub(super) fn number(&self) -> Option<i64> {
        (self.id != 0).then_some(self.id)
    }

    /// When the event at this place of the file counts as received.
    pub(super) fn received_at(&self, place: usize) -> DateTime<Utc> {
        self.started_at + TimeDelta::microseconds(i64::try_from(place).unwrap_or(i64::MAX))
    }

    /// The days on which so many events count as received.
    pub(super) fn days(&self, events: usize) -> Vec<NaiveDate> {
        let first = self.started_at.date_naive();
        let last = self.received_at(events).date_naive();
        first.iter_days().take_while(|day| *day <= last).collect()
    }
}

/// Runs work under the lock; it belongs to the session, so it ends with the connection at worst.
pub(super) fn locked<T>(
    connection: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    #[derive(diesel::QueryableByName)]
    struct Locked {
        #[diesel(sql_type = Bool)]
        locked: bool,
    }
    let lock = sql_query("SELECT pg_try_advisory_lock($1) AS locked")
        .bind::<BigInt, _>(IMPORT_LOCK)
        .get_result::<Locked>(connection)?;
    if !lock.locked {
        return Err(TransferError::Busy);
    }
    // What looks a batch's events up on many days seems dear to the planner, and is not.
    connection.batch_execute("SET jit = off")?;
    let outcome = work(connection);
    let released = connection.batch_execute(&format!("SELECT pg_advisory_unlock({IMPORT_LOCK})"));
    let value = outcome?;
    released?;
    Ok(value)
}

/// Finds the file's run or begins one. After a rollback it begins anew.
pub(super) fn begin(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
) -> Result<Run, TransferError> {
    let now = partitions::database_now(connection)?;
    let row = connection.transaction(|connection| match find(connection, project, file)? {
        Some(found) if found.rolled_back_at.is_none() => Ok(found),
        Some(found) => sql_query(
            "UPDATE import_runs SET started_at = $2, rolled_back_at = NULL, verified_at = NULL \
             WHERE id = $1 RETURNING id, started_at, rolled_back_at",
        )
        .bind::<BigInt, _>(found.id)
        .bind::<Timestamptz, _>(now)
        .get_result::<RunRow>(connection),
        None => sql_query(
            "INSERT INTO import_runs (project_id, file_sha256, file_name, started_at) \
             VALUES ($1, $2, $3, $4) RETURNING id, started_at, rolled_back_at",
        )
        .bind::<BigInt, _>(project.0)
        .bind::<Binary, _>(file.sha256().to_vec())
        .bind::<Text, _>(file.name().replace('\0', ""))
        .bind::<Timestamptz, _>(now)
        .get_result::<RunRow>(connection),
    })?;
    Ok(Run {
        id: row.id,
        project,
        started_at: row.started_at,
    })
}

/// The run that an import would find or begin.
pub(super) fn peek(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
) -> Result<Run, TransferError> {
    let found = find(connection, project, file)?;
    Ok(match found.filter(|run| run.rolled_back_at.is_none()) {
        Some(row) => Run {
            id: row.id,
            project,
            started_at: row.started_at,
        },
        None => Run {
            id: 0,
            project,
            started_at: partitions::database_now(connection)?,
        },
    })
}

/// Refuses a run whose events are past their retention: those that retention dropped would come
/// back.
pub(super) fn refuse_past(connection: &mut PgConnection, run: &Run) -> Result<(), TransferError> {
    #[derive(diesel::QueryableByName)]
    struct Retention {
        #[diesel(sql_type = Integer)]
        retention_days: i32,
        #[diesel(sql_type = Bool)]
        is_past: bool,
    }
    let day = run.started_at.date_naive();
    let found = sql_query(
        "SELECT retention_days, $2 < (now() AT TIME ZONE 'UTC')::date - retention_days AS is_past \
         FROM projects WHERE id = $1",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Date, _>(day)
    .get_result::<Retention>(connection)?;
    if found.is_past {
        return Err(TransferError::PastRetention {
            run: run.id,
            day,
            retention_days: found.retention_days,
        });
    }
    Ok(())
}

/// The run of this number, unless it is another project's.
pub(super) fn by_id(
    connection: &mut PgConnection,
    project: ProjectId,
    id: i64,
) -> Result<Run, TransferError> {
    sql_query(
        "SELECT id, started_at, rolled_back_at FROM import_runs \
         WHERE project_id = $1 AND id = $2",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<BigInt, _>(id)
    .get_result::<RunRow>(connection)
    .optional()?
    .map(|row| Run {
        id: row.id,
        project,
        started_at: row.started_at,
    })
    .ok_or(TransferError::NoSuchRun(id))
}

fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
) -> QueryResult<Option<RunRow>> {
    sql_query(
        "SELECT id, started_at, rolled_back_at FROM import_runs \
         WHERE project_id = $1 AND file_sha256 = $2",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Binary, _>(file.sha256().to_vec())
    .get_result(connection)
    .optional()
}

/// Whether the file's run came to its end, rolled back since or not.
pub(super) fn was_finished(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
) -> QueryResult<bool> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        yes: bool,
    }
    sql_query(
        "SELECT EXISTS (SELECT FROM import_runs WHERE project_id = $1 AND file_sha256 = $2 \
         AND (verified_at IS NOT NULL OR rolled_back_at IS NOT NULL)) AS yes",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Binary, _>(file.sha256().to_vec())
    .get_result::<Row>(connection)
    .map(|row| row.yes)
}

/// Notes that the run was verified.
pub(super) fn finish(connection: &mut PgConnection, run: &Run, verified: bool) -> QueryResult<()> {
    sql_query("UPDATE import_runs SET verified_at = CASE WHEN $2 THEN now() END WHERE id = $1")
        .bind::<BigInt, _>(run.id)
        .bind::<Bool, _>(verified)
        .execute(connection)
        .map(drop)
}

/// Lets running nodes forget the people they hold in memory and read everything anew.
pub(super) fn announce_people(
    connection: &mut PgConnection,
    project: ProjectId,
) -> QueryResult<()> {
    sql_query("SELECT pg_notify('beckon_changes', $1)")
        .bind::<Text, _>(format!("{} people", project.0))
        .execute(connection)
        .map(drop)
}

/// Notes rows that the run created.
pub(super) fn note_rows(
    connection: &mut PgConnection,
    run: &Run,
    kind: &str,
    keys: &[String],
) -> QueryResult<()> {
    sql_query(
        "INSERT INTO import_rows (run_id, kind, key) SELECT $1, $2, key FROM unnest($3) AS t (key) \
         ON CONFLICT (run_id, kind, key) DO NOTHING",
    )
    .bind::<BigInt, _>(run.id)
    .bind::<Text, _>(kind)
    .bind::<diesel::sql_types::Array<Text>, _>(keys)
    .execute(connection)
    .map(drop)
}
