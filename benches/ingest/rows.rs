//! The rows that the baselines write: the same columns of the same tables as Beckon's, in one
//! statement, which is one transaction and one round trip.

use beckon::model::Identity;
use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Bytea, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::copy::{self, Event};
use crate::feed::{Feed, PROJECT, Person, message_id};
use crate::report::Outcome;
use crate::stage::keys_are_uuids;

/// Track calls in columns.
#[derive(Debug, Default)]
pub struct Rows {
    ids: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
    keys: Vec<Uuid>,
    people: Vec<i64>,
    names: Vec<String>,
    user_ids: Vec<String>,
    message_ids: Vec<String>,
    properties: Vec<String>,
    at: Vec<DateTime<Utc>>,
    newcomers: Vec<i64>,
    homes: Vec<i64>,
    newcomer_ids: Vec<String>,
    newcomers_at: Vec<DateTime<Utc>>,
}

/// One track call.
#[derive(Debug)]
pub struct Row {
    /// Whom it is about.
    pub person: Person,
    /// The event's name.
    pub name: String,
    /// The caller's id of the call.
    pub message_id: String,
    /// A JSON object as text.
    pub properties: String,
    /// When it came.
    pub at: DateTime<Utc>,
}

impl Row {
    /// The next event of a feed.
    pub fn next(feed: &mut Feed, at: DateTime<Utc>) -> Self {
        let (person, message) = (feed.person(), feed.message());
        let draft = feed.draft();
        Self {
            person,
            name: draft.name.clone(),
            message_id: message_id(message),
            properties: draft.properties.clone(),
            at,
        }
    }
}

impl Rows {
    /// Rows in the order of the message ids' digests, which is the order of the claims' index.
    pub fn of(rows: impl IntoIterator<Item = Row>) -> Outcome<Self> {
        let mut sorted: Vec<([u8; 32], Row)> = rows
            .into_iter()
            .map(|row| (Sha256::digest(row.message_id.as_bytes()).into(), row))
            .collect();
        sorted.sort_unstable_by_key(|(digest, _)| *digest);
        let mut columns = Self::default();
        for (digest, row) in sorted {
            let user_id = row.person.user_id();
            if row.person.is_new {
                let home = Identity::user(&user_id).map_err(|error| error.to_string())?;
                columns.newcomers.push(row.person.row_id());
                columns.homes.push(home.home(PROJECT));
                columns.newcomer_ids.push(user_id.clone());
                columns.newcomers_at.push(row.at);
            }
            columns.ids.push(Uuid::now_v7());
            let half = digest.first_chunk().copied().unwrap_or_default();
            columns.keys.push(Uuid::from_bytes(half));
            columns.digests.push(digest.to_vec());
            columns.people.push(row.person.row_id());
            columns.names.push(row.name);
            columns.user_ids.push(user_id);
            columns.message_ids.push(row.message_id);
            columns.properties.push(row.properties);
            columns.at.push(row.at);
        }
        Ok(columns)
    }

    /// Commits the rows. One row alone is sent as values, which costs less than arrays.
    pub fn commit(&self, connection: &mut PgConnection) -> QueryResult<usize> {
        match (self.ids.len(), self.newcomers.is_empty()) {
            (1, true) => Insert::<true, false, true>(self).execute(connection),
            (1, false) => Insert::<true, true, true>(self).execute(connection),
            (_, true) => Insert::<false, false, true>(self).execute(connection),
            (_, false) => Insert::<false, true, true>(self).execute(connection),
        }
    }

    /// Commits the rows with the events by COPY.
    pub fn commit_by_copy(&self, connection: &mut PgConnection) -> QueryResult<usize> {
        let events: Vec<Event<'_>> = (0..self.ids.len()).map(|row| self.event(row)).collect();
        connection.batch_execute("BEGIN")?;
        if self.newcomers.is_empty() {
            Insert::<false, false, false>(self).execute(connection)?;
        } else {
            Insert::<false, true, false>(self).execute(connection)?;
        }
        let copied = copy::into_events(connection, &events)?;
        connection.batch_execute("COMMIT")?;
        Ok(copied)
    }

    fn event(&self, row: usize) -> Event<'_> {
        Event {
            id: self.ids[row],
            person: self.people[row],
            name: &self.names[row],
            user_id: &self.user_ids[row],
            message_id: &self.message_ids[row],
            properties: &self.properties[row],
            at: self.at[row],
        }
    }
}

const FROM: &str = "(SELECT ";

/// The statement, prepared once a connection: of one row or many, with newcomers or without, and
/// with the events or without them.
struct Insert<'a, const ONE: bool, const NEW: bool, const EVENTS: bool>(&'a Rows);

impl<const ONE: bool, const NEW: bool, const EVENTS: bool> QueryId
    for Insert<'_, ONE, NEW, EVENTS>
{
    type QueryId = Insert<'static, ONE, NEW, EVENTS>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const ONE: bool, const NEW: bool, const EVENTS: bool> RunQueryDsl<PgConnection>
    for Insert<'_, ONE, NEW, EVENTS>
{
}

/// Writes a column's parameter: one value, or an array whose rows are taken in lockstep with the
/// others'. In the select list that costs less than in FROM, where each array becomes a table.
macro_rules! column {
    ($out:ident, $one:expr, $column:expr, $kind:ty) => {
        match $column.first() {
            Some(value) if $one => $out.push_bind_param::<$kind, _>(value)?,
            _ => {
                $out.push_sql("unnest(");
                $out.push_bind_param::<Array<$kind>, _>($column)?;
                $out.push_sql(")");
            }
        }
    };
}

impl<const ONE: bool, const NEW: bool, const EVENTS: bool> QueryFragment<Pg>
    for Insert<'_, ONE, NEW, EVENTS>
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let rows = self.0;
        out.push_sql("WITH claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, id FROM ");
        out.push_sql(FROM);
        if keys_are_uuids() {
            column!(out, ONE, &rows.keys, SqlUuid);
        } else {
            column!(out, ONE, &rows.digests, Bytea);
        }
        out.push_sql(", ");
        column!(out, ONE, &rows.ids, SqlUuid);
        out.push_sql(")");
        out.push_sql(" AS t (digest, id) ON CONFLICT DO NOTHING)");
        if NEW {
            out.push_sql(", newcomers AS (SELECT * FROM ");
            out.push_sql(FROM);
            column!(out, ONE, &rows.newcomers, BigInt);
            out.push_sql(", ");
            column!(out, ONE, &rows.homes, BigInt);
            out.push_sql(", ");
            column!(out, ONE, &rows.newcomer_ids, Text);
            out.push_sql(", ");
            column!(out, ONE, &rows.newcomers_at, Timestamptz);
            out.push_sql(")");
            out.push_sql(
                " AS t (id, home, value, at)), born AS (INSERT INTO persons (id, project_id, home, \
                 bucketing_kind, bucketing_value, created_at, last_seen_at) \
                 SELECT id, 1, home, 0, value, at, at FROM newcomers), \
                 named AS (INSERT INTO identities (project_id, kind, value, person_id, created_at) \
                 SELECT 1, 0, value, id, at FROM newcomers ON CONFLICT DO NOTHING)",
            );
        }
        if !EVENTS {
            out.push_sql(" SELECT 1");
            return Ok(());
        }
        out.push_sql(
            " INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
             message_id, properties, \"timestamp\", received_at) SELECT current_date, id, 1, \
             person_id, 0, name, user_id, message_id, properties::json, at, at FROM ",
        );
        out.push_sql(FROM);
        column!(out, ONE, &rows.ids, SqlUuid);
        out.push_sql(", ");
        column!(out, ONE, &rows.people, BigInt);
        for texts in [
            &rows.names,
            &rows.user_ids,
            &rows.message_ids,
            &rows.properties,
        ] {
            out.push_sql(", ");
            column!(out, ONE, texts, Text);
        }
        out.push_sql(", ");
        column!(out, ONE, &rows.at, Timestamptz);
        out.push_sql(")");
        out.push_sql(" AS t (id, person_id, name, user_id, message_id, properties, at)");
        Ok(())
    }
}
