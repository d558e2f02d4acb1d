//! Deletes rows that are past where their partition stays or there is none: in bounded batches, each
//! a transaction.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::sql_types::{BigInt, Date, Int4};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::{Mode, Project, ProjectReport, RetentionOptions, cutoff_day};
use crate::store::ledger::LEDGER_DAYS;
use crate::store::partitions;

/// How many rows one transaction deletes.
const BATCH_ROWS: i32 = 5_000;

/// Which days go as partitions, so that nothing is to be deleted of them.
pub(super) struct WholeDays<'a> {
    /// All before this one,
    pub(super) before: NaiveDate,
    /// but for these, which hold something newer.
    pub(super) kept: &'a [NaiveDate],
}

impl WholeDays<'_> {
    fn contains(&self, day: NaiveDate) -> bool {
        day < self.before && !self.kept.contains(&day)
    }
}

/// Deletes a project's events before its own cutoff, and its rejected events.
pub(super) fn delete_past(
    connection: &mut PgConnection,
    project: &Project,
    whole: &WholeDays<'_>,
    now: DateTime<Utc>,
    options: &RetentionOptions,
    mode: Mode,
) -> QueryResult<ProjectReport> {
    let cutoff = cutoff_day(now, project.retention_days);
    let rejected_days = i32::try_from(options.rejected_retention_days).unwrap_or(i32::MAX);
    let rejected_days = rejected_days.min(project.retention_days);
    let mut report = ProjectReport {
        project_id: project.id,
        retention_days: project.retention_days,
        events: 0,
        rejected_retention_days: rejected_days,
        rejected_events: 0,
    };
    report.events = delete_events(connection, project.id, cutoff, whole, mode)?;
    let cutoff = cutoff_day(now, rejected_days);
    report.rejected_events = delete_batches(connection, &REJECTED, project.id, cutoff, mode)?;
    Ok(report)
}

/// Deletes the days of the ledger that are past, those of every project.
pub(super) fn delete_ledger(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    mode: Mode,
) -> QueryResult<i64> {
    let days = i32::try_from(LEDGER_DAYS).unwrap_or(i32::MAX);
    let cutoff = cutoff_day(now, days);
    if mode == Mode::DryRun {
        return sql_query("SELECT count(*) AS rows FROM ingest_ledger WHERE day < $1")
            .bind::<Date, _>(cutoff)
            .get_result::<Rows>(connection)
            .map(|counted| counted.rows);
    }
    in_batches(|| {
        sql_query(
            "WITH old AS (SELECT project_id, day, slot FROM ingest_ledger WHERE day < $1 LIMIT $2), \
                  gone AS (DELETE FROM ingest_ledger l USING old WHERE l.project_id = old.project_id \
                           AND l.day = old.day AND l.slot = old.slot RETURNING 1) \
             SELECT count(*) AS rows FROM gone",
        )
        .bind::<Date, _>(cutoff)
        .bind::<Int4, _>(BATCH_ROWS)
        .get_result::<Rows>(connection)
    })
}

/// Deletes batch after batch until one is not full; how many rows that were.
fn in_batches(mut delete: impl FnMut() -> QueryResult<Rows>) -> QueryResult<i64> {
    let mut total = 0;
    loop {
        let deleted = delete()?.rows;
        total += deleted;
        if deleted < i64::from(BATCH_ROWS) {
            return Ok(total);
        }
    }
}

/// How to count and to delete a project's rows of one table before a day. Of an event and of a
/// rejected one `received_on` is the database's date and `received_at` the node's time; both must be
/// past.
struct Deletion<'a> {
    count: &'a str,
    delete: &'a str,
}

/// Deletes a project's events day by day. A statement names its day as a constant, so that it is
/// planned for that day's partition alone: over all of them, finding a batch again by its ids means
/// reading everybody's events.
fn delete_events(
    connection: &mut PgConnection,
    project: i64,
    cutoff: NaiveDate,
    whole: &WholeDays<'_>,
    mode: Mode,
) -> QueryResult<i64> {
    let mut total = 0;
    for partition in partitions::list(connection)? {
        let day = partition.day;
        if day >= cutoff || whole.contains(day) {
            continue;
        }
        let old = format!(
            "FROM events WHERE received_on = '{day}' AND project_id = $1 AND received_at < $2"
        );
        let deletion = Deletion {
            count: &format!("SELECT count(*) AS rows {old}"),
            delete: &format!(
                "WITH gone AS (DELETE FROM events WHERE received_on = '{day}' \
                   AND id = ANY(ARRAY(SELECT id {old} ORDER BY received_at LIMIT $3)) RETURNING 1) \
                 SELECT count(*) AS rows FROM gone"
            ),
        };
        total += delete_batches(connection, &deletion, project, cutoff, mode)?;
    }
    Ok(total)
}

const REJECTED: Deletion<'static> = Deletion {
    count: "SELECT count(*) AS rows FROM rejected_events \
            WHERE project_id = $1 AND received_on < $2 AND received_at < $2",
    delete: "WITH old AS (SELECT id FROM rejected_events \
                          WHERE project_id = $1 AND received_on < $2 AND received_at < $2 \
                          ORDER BY received_at LIMIT $3), \
                  gone AS (DELETE FROM rejected_events r USING old WHERE r.id = old.id RETURNING 1) \
             SELECT count(*) AS rows FROM gone",
};

#[derive(diesel::QueryableByName)]
struct Rows {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

fn delete_batches(
    connection: &mut PgConnection,
    deletion: &Deletion<'_>,
    project: i64,
    cutoff: NaiveDate,
    mode: Mode,
) -> QueryResult<i64> {
    if mode == Mode::DryRun {
        return sql_query(deletion.count)
            .bind::<BigInt, _>(project)
            .bind::<Date, _>(cutoff)
            .get_result::<Rows>(connection)
            .map(|counted| counted.rows);
    }
    in_batches(|| {
        sql_query(deletion.delete)
            .bind::<BigInt, _>(project)
            .bind::<Date, _>(cutoff)
            .bind::<Int4, _>(BATCH_ROWS)
            .get_result::<Rows>(connection)
    })
}
