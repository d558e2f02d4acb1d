//! People, as admins read them. What ingest reads and writes of them is its own.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text};

use super::schema::identities;
use crate::model::{Identity, PersonId, ProjectId};

/// The most people that can be one: each brought an identity, and a person has no more of these.
pub const FAMILY_MAX: usize = 10_000;

/// A person in a list.
#[derive(Debug, Clone, QueryableByName)]
pub struct ListedPerson {
    /// Traits, merged over all identifies: the text of a JSON object.
    #[diesel(sql_type = Text)]
    pub traits: String,
    /// The identity that names the person best: the oldest user id, else the oldest anonymous one.
    #[diesel(sql_type = Nullable<Text>)]
    pub name: Option<String>,
}

/// One name of a person.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = identities)]
pub struct StoredIdentity {
    /// 0 is a user's, 1 an anonymous one.
    pub kind: i16,
    /// The name.
    pub value: String,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
}

/// A page of people, oldest first; those that were merged into another are not people any more.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
    offset: i64,
) -> QueryResult<Vec<ListedPerson>> {
    sql_query(
        "SELECT page.traits::text AS traits, best.value AS name \
         FROM (SELECT id, traits, created_at FROM persons \
               WHERE project_id = $1 AND merged_into IS NULL \
               ORDER BY created_at, id LIMIT $2 OFFSET $3) page \
         LEFT JOIN LATERAL (SELECT value FROM identities \
                            WHERE person_id = page.id AND project_id = $1 \
                            ORDER BY kind, created_at, value LIMIT 1) best ON true \
         ORDER BY page.created_at, page.id",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<BigInt, _>(limit)
    .bind::<BigInt, _>(offset)
    .load(connection)
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    total: i64,
}

/// How many people the project has, counted up to `cap`.
pub fn count(connection: &mut PgConnection, project: ProjectId, cap: i64) -> QueryResult<i64> {
    sql_query(
        "SELECT count(*) AS total FROM (SELECT 1 FROM persons \
         WHERE project_id = $1 AND merged_into IS NULL LIMIT $2) counted",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<BigInt, _>(cap)
    .get_result::<Counted>(connection)
    .map(|counted| counted.total)
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// The person an identity names, after merges.
pub fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    identity: &Identity,
) -> QueryResult<Option<PersonId>> {
    sql_query(
        "WITH RECURSIVE heir(id, merged_into, step) AS ( \
             SELECT p.id, p.merged_into, 0 FROM identities i JOIN persons p ON p.id = i.person_id \
             WHERE i.project_id = $1 AND i.kind = $2 AND i.value = $3 AND p.project_id = $1 \
             UNION ALL \
             SELECT p.id, p.merged_into, step + 1 FROM heir JOIN persons p \
                 ON p.id = heir.merged_into AND p.project_id = $1 AND step < 100 \
         ) SELECT id FROM heir ORDER BY step DESC LIMIT 1",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<SmallInt, _>(identity.kind().as_i16())
    .bind::<Text, _>(identity.value())
    .get_result::<Found>(connection)
    .optional()
    .map(|found| found.map(|found| PersonId(found.id)))
}

/// The person and everybody who was merged into them, whose events are theirs now.
pub fn family(
    connection: &mut PgConnection,
    project: ProjectId,
    person: PersonId,
) -> QueryResult<Vec<i64>> {
    sql_query(format!(
        "WITH RECURSIVE family(id) AS ( \
             SELECT $2::bigint \
             UNION \
             SELECT p.id FROM persons p JOIN family f ON p.merged_into = f.id \
             WHERE p.project_id = $1 \
         ) SELECT id FROM family LIMIT {FAMILY_MAX}"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<BigInt, _>(person.0)
    .load::<Found>(connection)
    .map(|rows| rows.into_iter().map(|row| row.id).collect())
}

/// The names of a person, users' before anonymous ones, oldest first; at most `limit`.
pub fn identities_of(
    connection: &mut PgConnection,
    project: ProjectId,
    person: PersonId,
    limit: i64,
) -> QueryResult<Vec<StoredIdentity>> {
    identities::table
        .filter(identities::project_id.eq(project.0))
        .filter(identities::person_id.eq(person.0))
        .order((identities::kind, identities::created_at, identities::value))
        .limit(limit)
        .select(StoredIdentity::as_select())
        .load(connection)
}
