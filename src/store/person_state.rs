//! Finding people and their state.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment};
use diesel::sql_types::{Array, BigInt, Nullable, SmallInt, Text, Timestamptz};
use diesel::{QueryResult, Queryable};

use super::prepared::prepared;

/// Which person an identity leads to.
#[derive(Debug, Clone, Queryable)]
pub struct AddressRow {
    /// The project.
    pub project_id: i64,
    /// The identity's kind.
    pub kind: i16,
    /// The identity's value.
    pub value: String,
    /// The person.
    pub person_id: i64,
    /// The person's home hash.
    pub home: i64,
}

/// Looks identities up, whatever their project; each row of the input names its own.
#[derive(Debug)]
pub struct FindAddresses<'a> {
    /// Projects, one an identity.
    pub projects: &'a [i64],
    /// Kinds, one an identity.
    pub kinds: &'a [i16],
    /// Values, one an identity.
    pub values: &'a [&'a str],
}

impl QueryFragment<Pg> for FindAddresses<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT i.project_id, i.kind, i.value, i.person_id, p.home FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.projects)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SmallInt>, _>(&self.kinds)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.values)?;
        out.push_sql(
            ") AS t (project_id, kind, value) \
             JOIN identities i USING (project_id, kind, value) \
             JOIN persons p ON p.id = i.person_id",
        );
        Ok(())
    }
}

prepared!(FindAddresses<'_> => (BigInt, SmallInt, Text, BigInt, BigInt));

/// A person's state as stored.
#[derive(Debug, Clone, Queryable)]
pub struct PersonRow {
    /// The internal number.
    pub id: i64,
    /// The project.
    pub project_id: i64,
    /// The home hash.
    pub home: i64,
    /// Merged traits, the text of a JSON object.
    pub traits: String,
    /// Who survived, if this person was merged away.
    pub merged_into: Option<i64>,
    /// First seen.
    pub created_at: DateTime<Utc>,
    /// Last seen, coalesced.
    pub last_seen_at: DateTime<Utc>,
    /// The oldest identity of kind user, if any.
    pub user_id: Option<String>,
}

/// Loads people by number; the numbers come from identities, which are scoped by project.
#[derive(Debug)]
pub struct LoadPeople<'a> {
    /// The people's numbers.
    pub ids: &'a [i64],
}

/// Holds the rows of these people until the transaction ends, in the order of numbers so that two
/// writers cannot wait for each other. Their state is read by a later statement, whose snapshot
/// then holds whatever the lock waited for.
#[derive(Debug)]
pub struct LockPeople<'a> {
    /// The people's numbers.
    pub ids: &'a [i64],
}

/// A time that is more than an hour ahead was set by a wrong clock, and counts if there is no other.
const PERSON_COLUMNS: &str = "SELECT p.id, p.project_id, p.home, p.traits::text, p.merged_into, \
    p.created_at, coalesce(greatest(CASE WHEN p.last_seen_at <= now() + interval '1 hour' \
    THEN p.last_seen_at END, (SELECT s.last_seen_at FROM people_seen s \
    WHERE s.person_id = p.id)), p.last_seen_at), (SELECT i.value FROM identities i \
    WHERE i.person_id = p.id AND i.kind = 0 ORDER BY i.created_at, i.value LIMIT 1) FROM persons p WHERE p.id = ANY(";

type PersonSql = (
    BigInt,
    BigInt,
    BigInt,
    Text,
    Nullable<BigInt>,
    Timestamptz,
    Timestamptz,
    Nullable<Text>,
);

impl QueryFragment<Pg> for LoadPeople<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(PERSON_COLUMNS);
        out.push_bind_param::<Array<BigInt>, _>(&self.ids)?;
        out.push_sql(")");
        Ok(())
    }
}

prepared!(LoadPeople<'_> => PersonSql);

impl QueryFragment<Pg> for LockPeople<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT id FROM persons WHERE id = ANY(");
        out.push_bind_param::<Array<BigInt>, _>(&self.ids)?;
        out.push_sql(") ORDER BY id FOR UPDATE");
        Ok(())
    }
}

prepared!(LockPeople<'_> => BigInt);
