//! What is stored of the past: events with their people, identify calls, and campaigns as they were.

use std::ops::Range;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{
    Array, BigInt, Bool, Date, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use serde_json::Value;
use uuid::Uuid;

use super::partitions;
use super::schema::campaign_history;
use crate::model::{EventKind, ProjectId};

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
    /// Its details, as JSON text.
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
    sql_query(
        "SELECT id, person_id, name, user_id, anonymous_id, properties::text AS properties, \
         context::text AS context, \"timestamp\", received_at \
         FROM events WHERE project_id = $1 AND id = $2 AND received_on = ANY($3)",
    )
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
}

/// On which side of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The place itself and what was received before it; the newest first.
    UpTo,
    /// What was received after it; the oldest first.
    After,
}

/// The identify calls of these people on one side of a place, those near to it first.
pub fn identify_calls(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
    place: Place,
    side: Side,
    limit: i64,
) -> QueryResult<Vec<IdentifyCall>> {
    let (compare, order) = match side {
        Side::UpTo => ("<=", "DESC"),
        Side::After => (">", "ASC"),
    };
    sql_query(format!(
        "SELECT received_at, properties::text AS traits FROM events \
         WHERE project_id = $1 AND person_id = ANY($2) AND kind = $3 \
           AND (received_at, id) {compare} ($4, $5) \
         ORDER BY received_at {order}, id {order} LIMIT {limit}"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .bind::<SmallInt, _>(EventKind::Identify.as_i16())
    .bind::<Timestamptz, _>(place.0)
    .bind::<SqlUuid, _>(place.1)
    .load(connection)
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
}

/// The campaigns that existed at a moment, whatever their status; perhaps one of them only.
pub fn campaign_versions(
    connection: &mut PgConnection,
    project: ProjectId,
    at: DateTime<Utc>,
    only: Option<&str>,
) -> QueryResult<Vec<PastVersion>> {
    sql_query(
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
                  AS created_at \
         FROM past LEFT JOIN campaigns c ON c.project_id = $1 AND c.id = past.campaign_id \
         WHERE past.action NOT IN ('delete', 'rollback') \
         UNION ALL \
         SELECT c.id, c.version, NULL, true, coalesce(c.quarantined_at <= $2, false), c.seq, \
                c.created_at FROM campaigns c \
         WHERE c.project_id = $1 AND c.created_at <= $2 AND ($3 IS NULL OR c.id = $3) \
           AND NOT EXISTS (SELECT FROM campaign_history h \
                           WHERE h.project_id = $1 AND h.campaign_id = c.id)",
    )
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
    sql_query(format!(
        "SELECT * FROM ( \
             SELECT *, sum(coalesce(octet_length(properties), 0) \
                         + coalesce(octet_length(context), 0)) \
                     OVER (ORDER BY received_at, id) AS bytes, \
                 row_number() OVER (ORDER BY received_at, id) AS place \
             FROM (SELECT id, person_id, name, user_id, anonymous_id, \
                          properties::text AS properties, context::text AS context, \
                          \"timestamp\", received_at FROM events \
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

/// Who somebody became by merges.
#[derive(Debug, Clone, QueryableByName)]
pub struct Heir {
    /// The person that an event was filed under.
    #[diesel(sql_type = BigInt)]
    pub person_id: i64,
    /// Who they are now.
    #[diesel(sql_type = BigInt)]
    pub heir_id: i64,
}

/// Who these people are now.
pub fn heirs(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
) -> QueryResult<Vec<Heir>> {
    sql_query(
        "WITH RECURSIVE heir(person_id, heir_id, merged_into, step) AS ( \
             SELECT id, id, merged_into, 0 FROM persons WHERE project_id = $1 AND id = ANY($2) \
             UNION ALL \
             SELECT heir.person_id, p.id, p.merged_into, step + 1 FROM heir \
             JOIN persons p ON p.id = heir.merged_into AND p.project_id = $1 AND step < 100 \
         ) SELECT person_id, heir_id FROM heir WHERE merged_into IS NULL",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .load(connection)
}

/// A person, with everybody who was merged into them.
#[derive(Debug, Clone, QueryableByName)]
pub struct PastPerson {
    /// The person.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// The traits now, as JSON text.
    #[diesel(sql_type = Text)]
    pub traits: String,
    /// When they were first seen.
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    /// The oldest user id.
    #[diesel(sql_type = Nullable<Text>)]
    pub user_id: Option<String>,
    /// Since when they have it.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub user_id_since: Option<DateTime<Utc>>,
    /// The person and those who were merged into them.
    #[diesel(sql_type = Array<BigInt>)]
    pub family: Vec<i64>,
}

/// These people.
pub fn people(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
) -> QueryResult<Vec<PastPerson>> {
    sql_query(
        "SELECT p.id, p.traits::text AS traits, p.created_at, u.value AS user_id, \
                u.created_at AS user_id_since, \
                (WITH RECURSIVE family(id) AS ( \
                     SELECT p.id UNION \
                     SELECT m.id FROM persons m JOIN family f ON m.merged_into = f.id \
                     WHERE m.project_id = $1) \
                 SELECT array_agg(id) FROM (SELECT id FROM family LIMIT 100) first) AS family \
         FROM persons p LEFT JOIN LATERAL ( \
             SELECT value, created_at FROM identities \
             WHERE project_id = $1 AND person_id = p.id AND kind = 0 \
             ORDER BY created_at, value LIMIT 1) u ON true \
         WHERE p.project_id = $1 AND p.id = ANY($2)",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .load(connection)
}

/// An identify call and who made it.
#[derive(Debug, Clone, QueryableByName)]
pub struct PersonsCall {
    /// The person it was filed under.
    #[diesel(sql_type = BigInt)]
    pub person_id: i64,
    /// When it was received.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
    /// Its id.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// Its traits, as JSON text.
    #[diesel(sql_type = Nullable<Text>)]
    pub traits: Option<String>,
}

/// The newest identify calls of each of these people since a day, at most so many each.
pub fn newest_identify_calls(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
    since: NaiveDate,
    each: i64,
) -> QueryResult<Vec<PersonsCall>> {
    sql_query(format!(
        "SELECT e.* FROM unnest($2) AS p (id) CROSS JOIN LATERAL ( \
             SELECT person_id, received_at, id, properties::text AS traits FROM events \
             WHERE project_id = $1 AND person_id = p.id AND kind = $3 AND received_on >= $4 \
             ORDER BY received_at DESC, id DESC LIMIT {each}) e"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .bind::<SmallInt, _>(EventKind::Identify.as_i16())
    .bind::<Date, _>(since)
    .load(connection)
}
