//! What a snapshot of a project is built from.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt};
use serde_json::Value;

use super::schema::{campaigns, feature_flags, project_revisions, segments};
use chrono::{DateTime, Utc};

/// The revision of one project; `None` when there is no such project.
pub fn revision(connection: &mut PgConnection, project: i64) -> QueryResult<Option<i64>> {
    project_revisions::table
        .find(project)
        .select(project_revisions::revision)
        .first(connection)
        .optional()
}

/// The revisions of all projects, for the poll that repairs lost notifications.
pub fn revisions(connection: &mut PgConnection) -> QueryResult<Vec<(i64, i64)>> {
    project_revisions::table
        .select((project_revisions::project_id, project_revisions::revision))
        .load(connection)
}

/// Counts the project's revision up; the row lock it takes orders the project's changes.
pub fn bump_revision(connection: &mut PgConnection, project: i64) -> QueryResult<Option<i64>> {
    diesel::update(project_revisions::table.find(project))
        .set(project_revisions::revision.eq(project_revisions::revision + 1))
        .returning(project_revisions::revision)
        .get_result(connection)
        .optional()
}

/// Wakes the other nodes once the transaction commits.
pub fn notify_change(connection: &mut PgConnection, project: i64) -> QueryResult<()> {
    sql_query("SELECT pg_notify('beckon_changes', $1)")
        .bind::<diesel::sql_types::Text, _>(project.to_string())
        .execute(connection)
        .map(|_| ())
}

/// Which campaigns are active and not in quarantine, as (seq, version).
pub fn active_campaigns(
    connection: &mut PgConnection,
    project: i64,
) -> QueryResult<Vec<(i64, i64)>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::status.eq("active"))
        .filter(campaigns::quarantined_at.is_null())
        .select((campaigns::seq, campaigns::version))
        .load(connection)
}

/// How many campaigns are in quarantine.
pub fn quarantined(connection: &mut PgConnection, project: i64) -> QueryResult<i64> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::quarantined_at.is_not_null())
        .count()
        .get_result(connection)
}

/// A campaign's row as a snapshot needs it.
#[derive(Debug, Queryable)]
pub struct LiveRow {
    /// The campaign's id.
    pub id: String,
    /// The order of creation.
    pub seq: i64,
    /// Counts its changes.
    pub version: i64,
    /// Every field the admin wrote.
    pub body: Value,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
}

/// The campaigns with these `seq` numbers.
pub fn campaign_rows(
    connection: &mut PgConnection,
    project: i64,
    seqs: &[i64],
) -> QueryResult<Vec<LiveRow>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(
            diesel::dsl::sql::<diesel::sql_types::Bool>("seq = ANY(")
                .bind::<Array<BigInt>, _>(seqs)
                .sql(")"),
        )
        .select((
            campaigns::id,
            campaigns::seq,
            campaigns::version,
            campaigns::body,
            campaigns::created_at,
            campaigns::updated_at,
        ))
        .load(connection)
}

/// The project's segments as (id, body), oldest first.
pub fn segment_rows(
    connection: &mut PgConnection,
    project: i64,
) -> QueryResult<Vec<(String, Value)>> {
    segments::table
        .filter(segments::project_id.eq(project))
        .order((segments::created_at, segments::seq))
        .select((segments::id, segments::body))
        .load(connection)
}

/// A flag as (key, enabled, value, targeting).
pub type FlagRow = (String, bool, Option<Value>, Option<Value>);

/// The project's flags.
pub fn flag_rows(connection: &mut PgConnection, project: i64) -> QueryResult<Vec<FlagRow>> {
    feature_flags::table
        .filter(feature_flags::project_id.eq(project))
        .select((
            feature_flags::key,
            feature_flags::enabled,
            feature_flags::value,
            feature_flags::targeting,
        ))
        .load(connection)
}
