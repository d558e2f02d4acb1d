//! Track calls in columns, and the statements that take them.

use beckon::clock::Clock;
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::serialize::{self, Output, ToSql, WriteTuple};
use diesel::sql_types::{
    Array, BigInt, Bytea, Nullable, SmallInt, SqlType, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::copy::Event;
use crate::feed::{Feed, message_id};
use crate::stage::keys_are_uuids;

/// The rows of one transaction, in the columns that Beckon writes.
#[derive(Debug, Default)]
pub struct Rows {
    ids: Vec<Uuid>,
    projects: Vec<i64>,
    digests: Vec<Vec<u8>>,
    halves: Vec<Vec<u8>>,
    uuids: Vec<Uuid>,
    people: Vec<i64>,
    kinds: Vec<i16>,
    names: Vec<String>,
    user_ids: Vec<String>,
    nothing: Vec<Option<String>>,
    message_ids: Vec<String>,
    properties: Vec<String>,
    at: Vec<DateTime<Utc>>,
    records: Vec<Record>,
}

impl Rows {
    /// So many events of a feed, sorted by digest.
    pub fn next(feed: &mut Feed, count: usize) -> Self {
        let at = Clock::system().now();
        let mut sorted: Vec<_> = (0..count)
            .map(|_| {
                let (person, message) = (feed.person(), message_id(feed.message()));
                let digest: [u8; 32] = Sha256::digest(message.as_bytes()).into();
                let draft = feed.draft();
                (
                    digest,
                    person,
                    message,
                    draft.name.clone(),
                    draft.properties.clone(),
                )
            })
            .collect();
        sorted.sort_unstable_by_key(|row| row.0);
        let mut rows = Self::default();
        for (digest, person, message, name, properties) in sorted {
            let half = digest.first_chunk::<16>().copied().unwrap_or_default();
            rows.ids.push(Uuid::now_v7());
            rows.projects.push(1);
            rows.digests.push(digest.to_vec());
            rows.halves.push(half.to_vec());
            rows.uuids.push(Uuid::from_bytes(half));
            rows.people.push(person.row_id());
            rows.kinds.push(0);
            rows.names.push(name);
            rows.user_ids.push(person.user_id());
            rows.nothing.push(None);
            rows.message_ids.push(message);
            rows.properties.push(properties);
            rows.at.push(at);
        }
        rows
    }

    /// The rows for COPY.
    pub fn events(&self) -> Vec<Event<'_>> {
        (0..self.ids.len())
            .map(|row| Event {
                id: self.ids[row],
                person: self.people[row],
                name: &self.names[row],
                user_id: &self.user_ids[row],
                message_id: &self.message_ids[row],
                properties: &self.properties[row],
                at: self.at[row],
            })
            .collect()
    }

    /// The keys of the message ids, as bytes.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let length = if keys_are_uuids() { 16 } else { 32 };
        self.digests
            .iter()
            .filter_map(move |digest| digest.get(..length))
    }

    /// Makes the rows of the form that one array of records takes.
    pub fn with_records(mut self) -> Self {
        self.records = (0..self.ids.len())
            .map(|row| Record::of(&self, row))
            .collect();
        self
    }
}

/// The type of a whole row, made in the database as `bench_event`.
#[derive(Debug, SqlType)]
#[diesel(postgres_type(name = "bench_event"))]
pub struct BenchEvent;

/// A whole row.
#[derive(Debug)]
struct Record {
    id: Uuid,
    person: i64,
    name: String,
    user_id: String,
    message_id: String,
    properties: String,
    at: DateTime<Utc>,
}

impl Record {
    fn of(rows: &Rows, row: usize) -> Self {
        Self {
            id: rows.ids[row],
            person: rows.people[row],
            name: rows.names[row].clone(),
            user_id: rows.user_ids[row].clone(),
            message_id: rows.message_ids[row].clone(),
            properties: rows.properties[row].clone(),
            at: rows.at[row],
        }
    }
}

impl ToSql<BenchEvent, Pg> for Record {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        WriteTuple::<(SqlUuid, BigInt, Text, Text, Text, Text, Timestamptz)>::write_tuple(
            &(
                self.id,
                self.person,
                &self.name,
                &self.user_id,
                &self.message_id,
                &self.properties,
                self.at,
            ),
            &mut out.reborrow(),
        )
    }
}

/// A statement whose text names the columns it takes as `@name`; `@values` is the rows as a list of
/// values. Diesel prepares it once a connection, by its text.
pub struct Statement<'a> {
    /// The text.
    pub text: &'a str,
    /// The rows.
    pub rows: &'a Rows,
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl RunQueryDsl<PgConnection> for Statement<'_> {}

impl QueryFragment<Pg> for Statement<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut rest = self.text;
        while let Some((before, after)) = rest.split_once('@') {
            out.push_sql(before);
            let end = after
                .find(|letter: char| !letter.is_ascii_lowercase() && letter != '_')
                .unwrap_or(after.len());
            let (name, tail) = after.split_at(end);
            self.bind(name, out.reborrow())?;
            rest = tail;
        }
        out.push_sql(rest);
        Ok(())
    }
}

impl<'a> Statement<'a> {
    fn bind<'b>(&'b self, name: &str, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let rows = self.rows;
        match name {
            "ids" => out.push_bind_param::<Array<SqlUuid>, _>(&rows.ids),
            "projects" => out.push_bind_param::<Array<BigInt>, _>(&rows.projects),
            "keys" if keys_are_uuids() => out.push_bind_param::<Array<SqlUuid>, _>(&rows.uuids),
            "digests" | "keys" => out.push_bind_param::<Array<Bytea>, _>(&rows.digests),
            "halves" => out.push_bind_param::<Array<Bytea>, _>(&rows.halves),
            "uuids" => out.push_bind_param::<Array<SqlUuid>, _>(&rows.uuids),
            "people" => out.push_bind_param::<Array<BigInt>, _>(&rows.people),
            "kinds" => out.push_bind_param::<Array<SmallInt>, _>(&rows.kinds),
            "names" => out.push_bind_param::<Array<Text>, _>(&rows.names),
            "user_ids" => out.push_bind_param::<Array<Text>, _>(&rows.user_ids),
            "nothing" => out.push_bind_param::<Array<Nullable<Text>>, _>(&rows.nothing),
            "message_ids" => out.push_bind_param::<Array<Text>, _>(&rows.message_ids),
            "properties" => out.push_bind_param::<Array<Text>, _>(&rows.properties),
            "at" => out.push_bind_param::<Array<Timestamptz>, _>(&rows.at),
            "records" => out.push_bind_param::<Array<BenchEvent>, _>(&rows.records),
            _ => self.values(out),
        }
    }

    fn values<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let rows = self.rows;
        for row in 0..rows.ids.len() {
            out.push_sql(if row == 0 {
                "(current_date, "
            } else {
                ", (current_date, "
            });
            out.push_bind_param::<SqlUuid, _>(&rows.ids[row])?;
            out.push_sql(", 1, ");
            out.push_bind_param::<BigInt, _>(&rows.people[row])?;
            out.push_sql(", 0, ");
            out.push_bind_param::<Text, _>(&rows.names[row])?;
            out.push_sql(", ");
            out.push_bind_param::<Text, _>(&rows.user_ids[row])?;
            out.push_sql(", ");
            out.push_bind_param::<Text, _>(&rows.message_ids[row])?;
            out.push_sql(", (");
            out.push_bind_param::<Text, _>(&rows.properties[row])?;
            out.push_sql(")::json, ");
            out.push_bind_param::<Timestamptz, _>(&rows.at[row])?;
            out.push_sql(", ");
            out.push_bind_param::<Timestamptz, _>(&rows.at[row])?;
            out.push_sql(")");
        }
        Ok(())
    }
}
