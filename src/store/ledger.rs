//! The ledger of ingest: what became of the events that were received, by project and day.

use chrono::NaiveDate;
use diesel::sql_types::{BigInt, Date};
use diesel::{PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query};

use crate::model::ProjectId;

/// How many days the ledger is kept.
pub const LEDGER_DAYS: u32 = 400;

/// One day of one project.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
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
