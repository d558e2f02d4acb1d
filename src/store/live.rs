//! What a snapshot of a project is built from.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text};
use serde_json::{Map, Value};

use super::schema::{campaigns, feature_flags, project_revisions, segments};
use super::stored_json::OfFlag;
use crate::matcher::CampaignRow;
use chrono::{DateTime, Utc};

/// How many campaigns are read in one query.
const CHUNK: usize = 5_000;

/// The most bytes of theirs in one query, as the table keeps them, which is compressed where they are
/// large; one is always read.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

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
        .bind::<Text, _>(project.to_string())
        .execute(connection)
        .map(|_| ())
}

/// Names the moment that this transaction sees, for [`changed_since`].
pub fn moment(connection: &mut PgConnection) -> QueryResult<String> {
    diesel::select(sql::<Text>("pg_current_snapshot()::text")).get_result(connection)
}

/// Which campaigns were changed by transactions that a moment did not see yet, at most so many. Numbers
/// that nobody has had yet came with a dump of another cluster.
pub fn changed_since(
    connection: &mut PgConnection,
    project: i64,
    moment: &str,
    limit: i64,
) -> QueryResult<Vec<String>> {
    let changed: Vec<ChangedCampaign> = sql_query(
        "SELECT campaign_id FROM campaign_changes WHERE project_id = $1 \
         AND xid >= pg_snapshot_xmin($2::pg_snapshot) \
         AND NOT pg_visible_in_snapshot(xid, $2::pg_snapshot) \
         AND pg_visible_in_snapshot(xid, pg_current_snapshot()) LIMIT $3",
    )
    .bind::<BigInt, _>(project)
    .bind::<Text, _>(moment)
    .bind::<BigInt, _>(limit)
    .load(connection)?;
    Ok(changed.into_iter().map(|row| row.campaign_id).collect())
}

#[derive(QueryableByName)]
struct ChangedCampaign {
    #[diesel(sql_type = Text)]
    campaign_id: String,
}

/// Which campaigns are active and not in quarantine, as (seq, version, bytes in the table). The bytes
/// are those of the body as it is kept, which tells without reading it.
pub fn active_campaigns(
    connection: &mut PgConnection,
    project: i64,
) -> QueryResult<Vec<(i64, i64, i32)>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::status.eq("active"))
        .filter(campaigns::quarantined_at.is_null())
        .select((
            campaigns::seq,
            campaigns::version,
            sql::<Integer>("pg_column_size(body)"),
        ))
        .load(connection)
}

/// Cuts a list of campaigns, as (number, bytes in the table), into parts that are each small enough to
/// be read in one query.
pub fn chunks(campaigns: impl IntoIterator<Item = (i64, i32)>) -> Vec<Vec<i64>> {
    let mut chunks: Vec<Vec<i64>> = Vec::new();
    let mut held = 0_usize;
    for (number, bytes) in campaigns {
        let bytes = usize::try_from(bytes).unwrap_or(0);
        held = held.saturating_add(bytes);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK && held <= CHUNK_BYTES => chunk.push(number),
            _ => {
                held = bytes;
                chunks.push(vec![number]);
            }
        }
    }
    chunks
}

/// How many campaigns are in quarantine.
pub fn quarantined(connection: &mut PgConnection, project: i64) -> QueryResult<i64> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::quarantined_at.is_not_null())
        .count()
        .get_result(connection)
}

/// The campaigns in quarantine.
pub fn quarantined_campaigns(
    connection: &mut PgConnection,
    project: i64,
) -> QueryResult<Vec<LiveRow>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::quarantined_at.is_not_null())
        .select(LiveRow::as_select())
        .load(connection)
}

/// A campaign's row as a snapshot needs it.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = campaigns)]
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

/// The members of a stored definition, which is an object.
pub(crate) fn object(definition: Value) -> Map<String, Value> {
    match definition {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

impl From<LiveRow> for CampaignRow {
    fn from(row: LiveRow) -> Self {
        Self {
            id: row.id,
            seq: row.seq,
            version: row.version,
            body: object(row.body),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Those of the campaigns with these ids that are active.
pub fn active_among(
    connection: &mut PgConnection,
    project: i64,
    ids: &[String],
) -> QueryResult<Vec<LiveRow>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::id.eq_any(ids))
        .filter(campaigns::status.eq("active"))
        .filter(campaigns::quarantined_at.is_null())
        .select(LiveRow::as_select())
        .load(connection)
}

/// The campaigns with these `seq` numbers.
pub fn campaign_rows(
    connection: &mut PgConnection,
    project: i64,
    seqs: &[i64],
) -> QueryResult<Vec<LiveRow>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project))
        .filter(campaigns::seq.eq_any(seqs))
        .select(LiveRow::as_select())
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
    let rows: Vec<(String, bool, OfFlag, OfFlag)> = feature_flags::table
        .filter(feature_flags::project_id.eq(project))
        .select((
            feature_flags::key,
            feature_flags::enabled,
            feature_flags::value,
            feature_flags::targeting,
        ))
        .load(connection)?;
    let whole = |(key, enabled, value, targeting): (String, bool, OfFlag, OfFlag)| {
        (key, enabled, value.into(), targeting.into())
    };
    Ok(rows.into_iter().map(whole).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn large_campaigns_are_read_a_few_at_a_time() {
        let most = i32::try_from(CHUNK_BYTES).unwrap();
        let large = most / 2;
        let list = (1..).zip([10, large, large, large, 3 * most, 1, 1]);
        let expected: [&[i64]; 4] = [&[1, 2], &[3, 4], &[5], &[6, 7]];
        assert_eq!(chunks(list), expected);
        let lengths = |count, bytes| {
            let chunks = chunks((0..count).map(|number| (number, bytes)));
            chunks.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(0, 1), [0; 0]);
        assert_eq!(lengths(12_000, 1), [CHUNK, CHUNK, 2_000]);
        assert_eq!(lengths(5, large), [2, 2, 1]);
        assert_eq!(lengths(2, 3 * most), [1, 1]);
    }
}
