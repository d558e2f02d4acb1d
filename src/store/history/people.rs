//! Many people of the past at once: who they became, what they said, and when they were last seen.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{
    Array, BigInt, Bool, Date, Integer, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use uuid::Uuid;

use super::{Place, came_with_import};
use crate::model::{EventKind, ProjectId};
use crate::store::people::FAMILY_MAX;

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
    /// Whether they came with an import.
    #[diesel(sql_type = Bool)]
    pub is_imported: bool,
}

/// These people.
pub fn people(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
) -> QueryResult<Vec<PastPerson>> {
    sql_query(format!(
        "SELECT p.id, p.traits::text AS traits, p.created_at, u.value AS user_id, \
                u.created_at AS user_id_since, \
                (WITH RECURSIVE family(id) AS ( \
                     SELECT p.id UNION \
                     SELECT m.id FROM persons m JOIN family f ON m.merged_into = f.id \
                     WHERE m.project_id = $1) \
                 SELECT array_agg(id) FROM (SELECT id FROM family LIMIT {FAMILY_MAX}) first) AS family, \
                {imported} AS is_imported \
         FROM persons p LEFT JOIN LATERAL ( \
             SELECT value, created_at FROM identities \
             WHERE project_id = $1 AND person_id = p.id AND kind = 0 \
             ORDER BY created_at, value LIMIT 1) u ON true \
         WHERE p.project_id = $1 AND p.id = ANY($2)",
        imported = came_with_import("p.id")
    ))
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
    /// Its traits, as JSON text; empty if it has none, and `None` where they were left out.
    #[diesel(sql_type = Nullable<Text>)]
    pub traits: Option<String>,
    /// Whether it is left out, or there may be more of the person's before it.
    #[diesel(sql_type = Bool)]
    pub is_cut: bool,
}

/// Which of people's identify calls are read, those near to the present first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSpan {
    /// Those since a day; at most so many of each person.
    Since(NaiveDate, u32),
    /// Those before a day that are among so many events of each person.
    Before(NaiveDate, u32),
}

/// The most text that the identify calls of one person may have, in bytes. One is always read.
const CALLS_BYTES_MAX: u32 = 512 * 1024;

/// The newest identify calls of each of these people.
pub fn newest_identify_calls(
    connection: &mut PgConnection,
    project: ProjectId,
    persons: &[i64],
    which: CallSpan,
) -> QueryResult<Vec<PersonsCall>> {
    let (which, day, limit) = match which {
        CallSpan::Since(day, calls) => ("received_on >= $4 AND kind = $3", day, calls),
        CallSpan::Before(day, events) => ("received_on < $4", day, events),
    };
    sql_query(format!(
        "SELECT person_id, received_at, id, CASE WHEN is_read THEN traits END AS traits, \
                place = {limit} OR NOT is_read AS is_cut \
         FROM unnest($2) AS p (person) CROSS JOIN LATERAL ( \
             SELECT *, place = 1 OR bytes <= {CALLS_BYTES_MAX} AS is_read FROM ( \
                 SELECT *, row_number() OVER newest AS place, \
                        sum(octet_length(traits)) OVER newest AS bytes \
                 FROM (SELECT person_id, received_at, id, kind, \
                              coalesce(CASE kind WHEN $3 THEN properties::text END, '') AS traits \
                       FROM events WHERE project_id = $1 AND person_id = p.person AND {which} \
                       ORDER BY received_at DESC, id DESC LIMIT {limit}) events \
                 WINDOW newest AS (ORDER BY received_at DESC, id DESC)) measured) e \
         WHERE kind = $3 OR place = {limit}"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Array<BigInt>, _>(persons)
    .bind::<SmallInt, _>(EventKind::Identify.as_i16())
    .bind::<Date, _>(day)
    .load(connection)
}

/// Somebody's place in a list of events.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// The number of the event in the list.
    pub number: i32,
    /// The person, or one who was merged into them.
    pub person: i64,
    /// The event's place.
    pub place: Place,
}

/// When the last event before each of these was received, by the event's number.
pub fn last_seen_before_each(
    connection: &mut PgConnection,
    project: ProjectId,
    sightings: &[Sighting],
) -> QueryResult<Vec<(i32, DateTime<Utc>)>> {
    #[derive(QueryableByName)]
    struct Seen {
        #[diesel(sql_type = Integer)]
        number: i32,
        #[diesel(sql_type = Timestamptz)]
        at: DateTime<Utc>,
    }
    // Most people were there a day or two before, which spares looking through all partitions.
    let before = |days: &str| {
        format!(
            "(SELECT received_at FROM events WHERE project_id = $1 AND person_id = s.person \
              AND received_on {days} AND (received_at, id) < (s.at, s.event) \
              ORDER BY received_at DESC LIMIT 1)"
        )
    };
    let lately = before("BETWEEN s.day - 1 AND s.day + 1");
    let ever = before("< s.day - 1");
    let numbers: Vec<i32> = sightings.iter().map(|it| it.number).collect();
    let persons: Vec<i64> = sightings.iter().map(|it| it.person).collect();
    let times: Vec<DateTime<Utc>> = sightings.iter().map(|it| it.place.0).collect();
    let ids: Vec<Uuid> = sightings.iter().map(|it| it.place.1).collect();
    let seen: Vec<Seen> = sql_query(format!(
        "SELECT number, max(at) AS at FROM ( \
             SELECT number, coalesce({lately}, {ever}) AS at \
             FROM (SELECT *, (at AT TIME ZONE 'UTC')::date AS day \
                   FROM unnest($2, $3, $4, $5) AS given (number, person, at, event)) s) seen \
         WHERE at IS NOT NULL GROUP BY number"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<Array<Integer>, _>(numbers)
    .bind::<Array<BigInt>, _>(persons)
    .bind::<Array<Timestamptz>, _>(times)
    .bind::<Array<SqlUuid>, _>(ids)
    .load(connection)?;
    Ok(seen
        .into_iter()
        .map(|seen| (seen.number, seen.at))
        .collect())
}
