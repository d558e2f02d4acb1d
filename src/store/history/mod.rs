//! What is stored of the past: events with their people, identify calls, and campaigns as they were.

mod people;

use std::ops::Range;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{
    Array, BigInt, Bool, Date, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use serde_json::Value;
use uuid::Uuid;

use super::partitions;
use super::schema::campaign_history;
use crate::model::{EventKind, ProjectId};

pub use people::{
    CallSpan, Heir, PastPerson, PersonsCall, Sighting, heirs, last_seen_before_each,
    newest_identify_calls, people,
};

/// A place in the order in which events were received.
pub type Place = (DateTime<Utc>, Uuid);

/// An event as a decision saw it.
#[derive(Debug, Clone, QueryableByName)]
pub struct PastEvent {
    /// Its id.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// The person it was filed under.
    #[diesel(sql_type = BigInt)]
    pub person_id: i64,
    /// Its name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The user's id.
    #[diesel(sql_type = Nullable<Text>)]
    pub user_id: Option<String>,
    /// The anonymous id.
    #[diesel(sql_type = Nullable<Text>)]
    pub anonymous_id: Option<String>,
    /// Its details, as JSON text. Those of an alias were made for the table; no decision saw them.
    #[diesel(sql_type = Nullable<Text>)]
    pub properties: Option<String>,
    /// Its context, as JSON text.
    #[diesel(sql_type = Nullable<Text>)]
    pub context: Option<String>,
    /// When it happened.
    #[diesel(sql_type = Timestamptz)]
    pub timestamp: DateTime<Utc>,
    /// When it was received.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
}

/// The columns of a [`PastEvent`].
fn as_decided() -> String {
    let alias = EventKind::Alias.as_i16();
    format!(
        "id, person_id, name, user_id, anonymous_id, \
         CASE WHEN kind <> {alias} THEN properties::text END AS properties, \
         context::text AS context, \"timestamp\", received_at"
    )
}

/// One event by its id.
pub fn event(
    connection: &mut PgConnection,
    project: ProjectId,
    id: Uuid,
) -> QueryResult<Option<PastEvent>> {
    // The key begins with the day, which the id of an imported event does not tell.
    let days: Vec<_> = partitions::list(connection)?
        .into_iter()
        .map(|partition| partition.day)
        .collect();
    sql_query(format!(
        "SELECT {} FROM events WHERE project_id = $1 AND id = $2 AND received_on = ANY($3)",
        as_decided()
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<SqlUuid, _>(id)
    .bind::<Array<Date>, _>(days)
    .get_result(connection)
    .optional()
}

/// The traits of one identify call, as JSON text.
#[derive(Debug, Clone, QueryableByName)]
pub struct IdentifyCall {
    /// When it was received.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
    /// Its traits.
    #[diesel(sql_type = Nullable<Text>)]
    pub traits: Option<String>,
    /// It is where reading ended: the last event that was looked at, call or not, or a call that was
    /// left out.
    #[diesel(sql_type = Bool)]
    is_end: bool,
}

/// On which side of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The place itself and what was received before it; the newest first.
    UpTo,
    /// What was received after it; the oldest first.
    After,
}

/// The most events among which somebody's identify calls are looked for: no index tells them apart.
const LOOKED_THROUGH_MAX: i64 = 50_000;

/// The most text that these calls may have on one side, in bytes. One is always read.
const SIDE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// The identify calls of these people on one side of a place, those near to it first, and whether
/// there may be more of them: at most `limit` are read, and so much text, among so many events.
pub fn identify_calls(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
    place: Place,
    side: Side,
    limit: usize,
) -> QueryResult<(Vec<IdentifyCall>, bool)> {
    let (compare, order) = match side {
        Side::UpTo => ("<=", "DESC"),
        Side::After => (">", "ASC"),
    };
    let mut calls: Vec<IdentifyCall> = sql_query(format!(
        "SELECT received_at, CASE WHEN is_read THEN traits END AS traits, \
                NOT is_read OR place = {LOOKED_THROUGH_MAX} AS is_end FROM ( \
             SELECT *, bytes <= {SIDE_BYTES_MAX} OR bytes = octet_length(traits) AS is_read FROM ( \
                 SELECT *, row_number() OVER near AS place, \
                        sum(octet_length(traits)) OVER near AS bytes \
                 FROM (SELECT received_at, id, kind, \
                              coalesce(CASE kind WHEN $3 THEN properties::text END, '') AS traits \
                       FROM events \
                       WHERE project_id = $1 AND person_id = ANY($2) \
                         AND (received_at, id) {compare} ($4, $5) \
                       ORDER BY received_at {order}, id {order} \
                       LIMIT {LOOKED_THROUGH_MAX}) events \
                 WINDOW near AS (ORDER BY received_at {order}, id {order})) measured) placed \
         WHERE kind = $3 OR place = {LOOKED_THROUGH_MAX} ORDER BY place LIMIT $6"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .bind::<SmallInt, _>(EventKind::Identify.as_i16())
    .bind::<Timestamptz, _>(place.0)
    .bind::<SqlUuid, _>(place.1)
    .bind::<BigInt, _>(i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX))
    .load(connection)?;
    let is_cut = calls.len() > limit || calls.iter().any(|call| call.is_end);
    calls.retain(|call| !call.is_end);
    calls.truncate(limit);
    Ok((calls, is_cut))
}

/// Whether the person of this number came with an import, in SQL. What traits they came with is not
/// kept apart from those that were set later.
fn came_with_import(person: &str) -> String {
    format!(
        "EXISTS (SELECT FROM import_runs run JOIN import_rows noted ON noted.run_id = run.id \
                 WHERE run.project_id = $1 AND noted.kind = 'person' \
                   AND noted.key = {person}::text)"
    )
}

/// Whether any of these people came with an import.
pub fn has_imported(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Bool)]
        any: bool,
    }
    sql_query(format!(
        "SELECT EXISTS (SELECT FROM unnest($2) AS p (person) WHERE {}) AS any",
        came_with_import("p.person")
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .get_result::<Found>(connection)
    .map(|found| found.any)
}

/// When the last event of these people before a place was received.
pub fn last_seen_before(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
    place: Place,
) -> QueryResult<Option<DateTime<Utc>>> {
    #[derive(QueryableByName)]
    struct Seen {
        #[diesel(sql_type = Nullable<Timestamptz>)]
        at: Option<DateTime<Utc>>,
    }
    sql_query(
        "SELECT max(received_at) AS at FROM events \
         WHERE project_id = $1 AND person_id = ANY($2) AND (received_at, id) < ($3, $4)",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .bind::<Timestamptz, _>(place.0)
    .bind::<SqlUuid, _>(place.1)
    .get_result::<Seen>(connection)
    .map(|seen| seen.at)
}

/// Which state of a campaign was in force at some moment.
#[derive(Debug, Clone, QueryableByName)]
pub struct PastVersion {
    /// The campaign's id.
    #[diesel(sql_type = Text)]
    pub campaign_id: String,
    /// Its version then.
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    /// The entry of the history that holds it; `None` for a campaign that has no history.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub entry: Option<i64>,
    /// Whether it has not changed since.
    #[diesel(sql_type = Bool)]
    pub is_current: bool,
    /// Whether it was in quarantine at that moment.
    #[diesel(sql_type = Bool)]
    pub is_quarantined: bool,
    /// The order of creation, if the campaign still exists.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub seq: Option<i64>,
    /// When the campaign was created.
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    /// How large its body is as the table keeps it, which tells without reading it.
    #[diesel(sql_type = Integer)]
    pub bytes: i32,
}

/// The campaigns that were active at a moment, or one of them whatever its status was. Of a body that
/// holds `\u0000`, which Postgres cannot open, the status is left to the reader.
pub fn campaign_versions(
    connection: &mut PgConnection,
    project: ProjectId,
    at: DateTime<Utc>,
    only: Option<&str>,
) -> QueryResult<Vec<PastVersion>> {
    let is_active = |body: &str| {
        format!(
            "CASE WHEN $3 IS NOT NULL OR position('\\u0000' IN {body}::text) > 0 THEN true \
             ELSE {body} ->> 'status' = 'active' END"
        )
    };
    sql_query(format!(
        "WITH past AS ( \
             SELECT DISTINCT ON (campaign_id) campaign_id, version, action, id \
             FROM campaign_history \
             WHERE project_id = $1 AND at <= $2 AND ($3 IS NULL OR campaign_id = $3) \
             ORDER BY campaign_id, id DESC) \
         SELECT past.campaign_id, past.version, past.id AS entry, \
                c.id IS NOT NULL AND NOT EXISTS ( \
                    SELECT FROM campaign_history later WHERE later.project_id = $1 \
                    AND later.campaign_id = past.campaign_id AND later.id > past.id) \
                  AS is_current, \
                past.action = 'quarantine' AS is_quarantined, \
                c.seq, coalesce(c.created_at, (SELECT min(first.at) FROM campaign_history first \
                    WHERE first.project_id = $1 AND first.campaign_id = past.campaign_id)) \
                  AS created_at, \
                pg_column_size(held.body) AS bytes \
         FROM past JOIN campaign_history held ON held.id = past.id \
         LEFT JOIN campaigns c ON c.project_id = $1 AND c.id = past.campaign_id \
         WHERE past.action NOT IN ('delete', 'rollback') AND {past_is_active} \
         UNION ALL \
         SELECT c.id, c.version, NULL, true, coalesce(c.quarantined_at <= $2, false), c.seq, \
                c.created_at, pg_column_size(c.body) AS bytes FROM campaigns c \
         WHERE c.project_id = $1 AND c.created_at <= $2 AND ($3 IS NULL OR c.id = $3) \
           AND {present_is_active} \
           AND NOT EXISTS (SELECT FROM campaign_history h \
                           WHERE h.project_id = $1 AND h.campaign_id = c.id)",
        past_is_active = is_active("held.body"),
        present_is_active = is_active("c.body"),
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Timestamptz, _>(at)
    .bind::<Nullable<Text>, _>(only)
    .load(connection)
}

/// What these entries of the history hold.
pub fn campaign_bodies(
    connection: &mut PgConnection,
    project: ProjectId,
    entries: &[i64],
) -> QueryResult<Vec<(i64, Value)>> {
    campaign_history::table
        .filter(campaign_history::project_id.eq(project.0))
        .filter(
            diesel::dsl::sql::<Bool>("id = ANY(")
                .bind::<Array<BigInt>, _>(entries)
                .sql(")"),
        )
        .select((campaign_history::id, campaign_history::body))
        .load(connection)
}

/// The largest part of one page of events, in bytes of details and context.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;

/// The events of one name and day that were received within a span, after a place in their order,
/// oldest first. Large ones make a page shorter; it is empty only at the end.
pub fn events_of_day(
    connection: &mut PgConnection,
    project: ProjectId,
    name: &str,
    day: NaiveDate,
    span: &Range<DateTime<Utc>>,
    after: Option<Place>,
    limit: i64,
) -> QueryResult<Vec<PastEvent>> {
    let (at, id) = after.unwrap_or((span.start, Uuid::nil()));
    let columns = as_decided();
    sql_query(format!(
        "SELECT * FROM ( \
             SELECT *, sum(coalesce(octet_length(properties), 0) \
                         + coalesce(octet_length(context), 0)) \
                     OVER (ORDER BY received_at, id) AS bytes, \
                 row_number() OVER (ORDER BY received_at, id) AS place \
             FROM (SELECT {columns} FROM events \
                   WHERE project_id = $1 AND name = $2 AND received_on = $3 \
                     AND received_at >= $4 AND received_at < $5 AND (received_at, id) > ($6, $7) \
                   ORDER BY received_at, id LIMIT {limit}) page) measured \
         WHERE bytes <= {PAGE_BYTES_MAX} OR place = 1 ORDER BY place"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Text, _>(name)
    .bind::<Date, _>(day)
    .bind::<Timestamptz, _>(span.start)
    .bind::<Timestamptz, _>(span.end)
    .bind::<Timestamptz, _>(at)
    .bind::<SqlUuid, _>(id)
    .load(connection)
}

/// The first day of which all that the project received is still there: what came before is past its
/// retention, or may be.
pub fn horizon(connection: &mut PgConnection, project: ProjectId) -> QueryResult<NaiveDate> {
    #[derive(QueryableByName)]
    struct Horizon {
        #[diesel(sql_type = Date)]
        day: NaiveDate,
    }
    let kept: Horizon =
        sql_query("SELECT current_date - retention_days AS day FROM projects WHERE id = $1")
            .bind::<BigInt, _>(project.0)
            .get_result(connection)?;
    let oldest = partitions::list(connection)?.into_iter().next();
    Ok(oldest.map_or(NaiveDate::MAX, |oldest| oldest.day.max(kept.day)))
}
