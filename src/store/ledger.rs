//! The ledger of ingest: what became of the events that were received, by project and day.

use chrono::NaiveDate;
use diesel::sql_types::{BigInt, Date, Text};
use diesel::{
    OptionalExtension, PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query,
};
use serde::Serialize;

use crate::model::ProjectId;

/// How many days the ledger is kept.
pub const LEDGER_DAYS: u32 = 400;

/// One day of one project.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName, Serialize)]
pub struct DaySums {
    /// The day, in UTC.
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    /// Events that were decoded.
    #[diesel(sql_type = BigInt)]
    pub received: i64,
    /// Those that were stored.
    #[diesel(sql_type = BigInt)]
    pub stored: i64,
    /// Those that had been stored before.
    #[diesel(sql_type = BigInt)]
    pub duplicate: i64,
    /// Those that can never become valid.
    #[diesel(sql_type = BigInt)]
    pub rejected: i64,
}

impl DaySums {
    /// How many received events are not accounted for; negative when too many are. Always 0 in a
    /// sound ledger.
    pub fn difference(&self) -> i64 {
        self.received - self.stored - self.duplicate - self.rejected
    }
}

/// A project's days from the first to the last, newest first; days without events are left out.
pub fn days(
    connection: &mut PgConnection,
    project: ProjectId,
    first: NaiveDate,
    last: NaiveDate,
) -> QueryResult<Vec<DaySums>> {
    sql_query(
        "SELECT day, sum(received)::bigint AS received, sum(stored)::bigint AS stored, \
                sum(duplicate)::bigint AS duplicate, sum(rejected)::bigint AS rejected \
         FROM ingest_ledger WHERE project_id = $1 AND day BETWEEN $2 AND $3 \
         GROUP BY day ORDER BY day DESC",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Date, _>(first)
    .bind::<Date, _>(last)
    .load(connection)
}

/// A day of a project on which the ledger and a table, or the ledger's own figures, differ.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Difference {
    /// The project, by name; by number when it is gone.
    #[diesel(sql_type = Text)]
    pub project: String,
    /// The day.
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    /// What the ledger says.
    #[diesel(sql_type = BigInt)]
    pub ledger: i64,
    /// What is found.
    #[diesel(sql_type = BigInt)]
    pub found: i64,
}

/// The day since which the ledger is written; `None` before its migration.
pub fn began(connection: &mut PgConnection) -> QueryResult<Option<NaiveDate>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Date)]
        day: NaiveDate,
    }
    sql_query("SELECT run_on::date AS day FROM __diesel_schema_migrations WHERE version = $1")
        .bind::<Text, _>(MIGRATION)
        .get_result::<Row>(connection)
        .optional()
        .map(|row| row.map(|row| row.day))
}

/// The migration that made the ledger, and seeded its first day with what that held before.
const MIGRATION: &str = "20261121000004";

/// The days from `first` on, of every project, on which `received` (as `ledger`) is not the sum of
/// the other three (as `found`), newest first.
pub fn sum_differences(
    connection: &mut PgConnection,
    first: NaiveDate,
) -> QueryResult<Vec<Difference>> {
    sql_query(
        "SELECT coalesce(p.name, l.project_id::text) AS project, l.day, l.ledger, l.found \
         FROM (SELECT project_id, day, sum(received)::bigint AS ledger, \
                      sum(stored + duplicate + rejected)::bigint AS found \
               FROM ingest_ledger WHERE day >= $1 GROUP BY project_id, day) AS l \
         LEFT JOIN projects p ON p.id = l.project_id \
         WHERE l.ledger <> l.found ORDER BY l.day DESC, project",
    )
    .bind::<Date, _>(first)
    .load(connection)
}

/// The projects whose events of one day are not those that the ledger counts as stored. Reads the
/// day's partition; without one there are no events. Events that an import brought are not counted,
/// nor are projects for which the day is past their retention.
pub fn stored_differences(
    connection: &mut PgConnection,
    day: NaiveDate,
) -> QueryResult<Vec<Difference>> {
    sql_query(
        "WITH ledger AS (SELECT project_id, sum(stored)::bigint AS n FROM ingest_ledger \
                         WHERE day = $1 GROUP BY project_id), \
              event AS (SELECT project_id, count(*) AS n FROM events \
                        WHERE received_on = $1 GROUP BY project_id), \
              imported AS (SELECT u.project_id, count(*) AS n FROM import_runs u \
                           JOIN import_rows r ON r.run_id = u.id AND r.kind = 'event' \
                           JOIN events e ON e.received_on = $1 AND e.id = r.key::uuid \
                           WHERE u.started_at >= $1::date - 1 AND u.started_at < $1::date + 1 \
                           GROUP BY u.project_id), \
              compared AS (SELECT p.name AS project, coalesce(l.n, 0) AS ledger, \
                                  coalesce(e.n, 0) - coalesce(i.n, 0) AS found \
                           FROM projects p LEFT JOIN ledger l ON l.project_id = p.id \
                           LEFT JOIN event e ON e.project_id = p.id \
                           LEFT JOIN imported i ON i.project_id = p.id \
                           WHERE $1 >= current_date - p.retention_days) \
         SELECT project, $1 AS day, ledger, found FROM compared WHERE ledger <> found \
         ORDER BY project",
    )
    .bind::<Date, _>(day)
    .load(connection)
}

/// The days from `first` on, of every project, on which the rejected events that are kept are not
/// those that the ledger counts, newest first. Days past their retention are left out.
pub fn rejected_differences(
    connection: &mut PgConnection,
    first: NaiveDate,
    retention_days: u32,
) -> QueryResult<Vec<Difference>> {
    sql_query(
        "WITH ledger AS (SELECT project_id, day, sum(rejected)::bigint AS n FROM ingest_ledger \
                         WHERE day >= $1 GROUP BY project_id, day), \
              event AS (SELECT project_id, received_on AS day, count(*) AS n \
                        FROM rejected_events WHERE received_on >= $1 \
                        GROUP BY project_id, received_on), \
              compared AS (SELECT project_id, day, coalesce(l.n, 0) AS ledger, \
                                  coalesce(e.n, 0) AS found \
                           FROM ledger l FULL JOIN event e USING (project_id, day)) \
         SELECT p.name AS project, c.day, c.ledger, c.found FROM compared c \
         JOIN projects p ON p.id = c.project_id \
         WHERE c.ledger <> c.found \
           AND c.day >= current_date - least(p.retention_days::bigint, $2)::int \
         ORDER BY c.day DESC, project",
    )
    .bind::<Date, _>(first)
    .bind::<BigInt, _>(i64::from(retention_days))
    .load(connection)
}
