//! The statements that insert events.
//!
//! A column that is the same in every row of a batch (often the project, the kind, a context that
//! nobody sent) goes as one value, the others as arrays; unpacking an array costs the database about
//! half a microsecond a row. So the text of a statement depends on its rows. It is prepared once a
//! connection for each form that occurs; a connection that has too many of them is replaced.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{
    Array, BigInt, Bool, HasSqlType, Int4, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use uuid::Uuid;

use super::ledger::LedgerRows;
use super::statements::{ADD_TO_LEDGER, INSERT_LEDGER, PersonRows, buckets};
use crate::model::{Event, EventId, Identity, MessageId, PersonId, ProjectId, RawJson};

/// Events in columns.
#[derive(Debug)]
pub(super) struct EventRows<'a> {
    pub(super) ids: Vec<Uuid>,
    /// The digests of the events' message ids.
    pub(super) digests: Vec<Option<Uuid>>,
    projects: Vec<i64>,
    people: Vec<i64>,
    kinds: Vec<i16>,
    names: Vec<&'a str>,
    user_ids: Vec<Option<&'a str>>,
    anonymous_ids: Vec<Option<&'a str>>,
    message_ids: Vec<Option<&'a str>>,
    properties: Vec<Option<&'a str>>,
    contexts: Vec<Option<&'a str>>,
    timestamps: Vec<DateTime<Utc>>,
    received_at: Vec<DateTime<Utc>>,
}

impl<'a> EventRows<'a> {
    /// Room for so many.
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            ids: Vec::with_capacity(rows),
            digests: Vec::with_capacity(rows),
            projects: Vec::with_capacity(rows),
            people: Vec::with_capacity(rows),
            kinds: Vec::with_capacity(rows),
            names: Vec::with_capacity(rows),
            user_ids: Vec::with_capacity(rows),
            anonymous_ids: Vec::with_capacity(rows),
            message_ids: Vec::with_capacity(rows),
            properties: Vec::with_capacity(rows),
            contexts: Vec::with_capacity(rows),
            timestamps: Vec::with_capacity(rows),
            received_at: Vec::with_capacity(rows),
        }
    }

    /// Adds an event. `details` stand in for the properties of a call that has none.
    pub(super) fn push(
        &mut self,
        project: ProjectId,
        id: EventId,
        digest: Option<Uuid>,
        person: PersonId,
        event: &'a Event,
        details: Option<&'a str>,
    ) {
        let properties = event.call.properties().map(RawJson::as_str);
        self.ids.push(id.0);
        self.digests.push(digest);
        self.projects.push(project.0);
        self.people.push(person.0);
        self.kinds.push(event.call.kind().as_i16());
        self.names.push(event.call.name());
        self.user_ids.push(event.user.as_ref().map(Identity::value));
        self.anonymous_ids
            .push(event.anonymous.as_ref().map(Identity::value));
        self.message_ids
            .push(event.message_id.as_ref().map(MessageId::as_str));
        self.properties.push(properties.or(details));
        self.contexts
            .push(event.context.as_ref().map(RawJson::as_str));
        self.timestamps.push(event.timestamp);
        self.received_at.push(event.received_at);
    }

    /// Writes a SELECT of the rows.
    fn walk<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT ");
        column::<SqlUuid, _>(out, &self.ids, " AS id, ")?;
        column::<Nullable<SqlUuid>, _>(out, &self.digests, " AS digest, ")?;
        column::<BigInt, _>(out, &self.projects, " AS project_id, ")?;
        column::<BigInt, _>(out, &self.people, " AS person_id, ")?;
        column::<SmallInt, _>(out, &self.kinds, " AS kind, ")?;
        column::<Text, _>(out, &self.names, " AS name, ")?;
        column::<Nullable<Text>, _>(out, &self.user_ids, " AS user_id, ")?;
        column::<Nullable<Text>, _>(out, &self.anonymous_ids, " AS anonymous_id, ")?;
        column::<Nullable<Text>, _>(out, &self.message_ids, " AS message_id, ")?;
        column::<Nullable<Text>, _>(out, &self.properties, "::json AS properties, ")?;
        column::<Nullable<Text>, _>(out, &self.contexts, "::json AS context, ")?;
        if !self.happened_when_received() {
            column::<Timestamptz, _>(out, &self.timestamps, " AS \"timestamp\", ")?;
        }
        column::<Timestamptz, _>(out, &self.received_at, " AS received_at")
    }

    /// Whether no event has a time of its own.
    fn happened_when_received(&self) -> bool {
        self.timestamps == self.received_at
    }

    /// Writes an INSERT of rows that [`EventRows::walk`] selected, up to where they come from.
    /// Events go into today's partition, by the database's date.
    fn walk_insert(&self, out: &mut AstPass<'_, '_, Pg>) {
        out.push_sql(
            "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
             anonymous_id, message_id, properties, context, \"timestamp\", received_at) \
             SELECT current_date, id, project_id, person_id, kind, name, user_id, \
             anonymous_id, message_id, properties, context, ",
        );
        out.push_sql(if self.happened_when_received() {
            "received_at"
        } else {
            "\"timestamp\""
        });
        out.push_sql(", received_at FROM ");
    }
}

/// Writes one column: a value where all rows have the same, else an array to be unpacked.
fn column<'b, ST, T>(
    out: &mut AstPass<'_, 'b, Pg>,
    values: &'b Vec<T>,
    name: &'static str,
) -> QueryResult<()>
where
    T: PartialEq + ToSql<ST, Pg>,
    Vec<T>: ToSql<Array<ST>, Pg>,
    Pg: HasSqlType<ST> + HasSqlType<Array<ST>>,
    ST: 'static,
{
    match values.split_first() {
        Some((first, others)) if others.iter().all(|other| other == first) => {
            out.push_bind_param::<ST, _>(first)?;
        }
        _ => {
            out.push_sql("unnest(");
            out.push_bind_param::<Array<ST>, _>(values)?;
            out.push_sql(")");
        }
    }
    out.push_sql(name);
    Ok(())
}

/// Inserts events.
#[derive(Debug)]
pub(super) struct InsertEvents<'a> {
    pub(super) rows: &'a EventRows<'a>,
}

impl QueryFragment<Pg> for InsertEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.rows.walk_insert(&mut out);
        out.push_sql("(");
        self.rows.walk(&mut out)?;
        out.push_sql(") AS input");
        Ok(())
    }
}

/// New people, each with the one name they came with; nothing else is known of them.
#[derive(Debug)]
pub(super) struct Newcomers<'a> {
    pub(super) people: PersonRows<'a>,
    /// The first event of each.
    pub(super) events: Vec<Uuid>,
}

/// Claims message ids, inserts the events whose ids were claimed or that have none, creates who is
/// new, and counts in the ledger: a whole batch as one statement, which is a transaction of its own.
/// Returns the events that were not stored, each with whether the bucket is still current: when it
/// is not, the statement does nothing at all and returns every event.
///
/// It fails as a lost race if somebody new is known by now, or has an event that is a duplicate.
#[derive(Debug)]
pub(super) struct RecordEvents<'a> {
    /// The bucket of message ids that is taken for current.
    pub(super) bucket: i16,
    /// The events, sorted by project and digest.
    pub(super) rows: &'a EventRows<'a>,
    pub(super) newcomers: Option<&'a Newcomers<'a>>,
    /// What was received, and which of it repeats an event of the batch.
    pub(super) ledger: &'a LedgerRows,
}

impl RecordEvents<'_> {
    fn walk_is_current(&self, out: &mut AstPass<'_, '_, Pg>) {
        out.push_sql("(SELECT current_bucket FROM message_buckets WHERE singleton) = ");
        out.push_sql(buckets(self.bucket).0);
    }

    fn walk_claim(&self, out: &mut AstPass<'_, '_, Pg>) {
        let (current, previous) = buckets(self.bucket);
        out.push_sql("claimed AS (INSERT INTO message_ids_");
        out.push_sql(current);
        out.push_sql(" SELECT project_id, digest, id FROM input i WHERE i.digest IS NOT NULL AND ");
        self.walk_is_current(out);
        out.push_sql(" AND NOT EXISTS (SELECT 1 FROM message_ids_");
        out.push_sql(previous);
        out.push_sql(
            " m WHERE m.project_id = i.project_id AND m.digest = i.digest) \
             ON CONFLICT DO NOTHING RETURNING event_id)",
        );
    }

    fn walk_ledger<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("counted AS (");
        out.push_sql(INSERT_LEDGER);
        out.push_sql("SELECT t.project_id, current_date, ");
        out.push_bind_param::<Int4, _>(&self.ledger.slot)?;
        out.push_sql(", ");
        out.push_bind_param::<SqlUuid, _>(&self.ledger.batch)?;
        out.push_sql(
            ", t.received, coalesce(s.events, 0), t.duplicate + coalesce(d.events, 0), 0 \
             FROM (SELECT ",
        );
        column::<BigInt, _>(out, &self.ledger.projects, " AS project_id, ")?;
        column::<BigInt, _>(out, &self.ledger.received, " AS received, ")?;
        column::<BigInt, _>(out, &self.ledger.duplicate, " AS duplicate")?;
        out.push_sql(
            ") t LEFT JOIN \
             (SELECT project_id, count(*) AS events FROM stored GROUP BY project_id) s \
             USING (project_id) LEFT JOIN \
             (SELECT project_id, count(*) AS events FROM input WHERE digest IS NOT NULL \
              AND id NOT IN (SELECT event_id FROM claimed) GROUP BY project_id) d \
             USING (project_id) WHERE ",
        );
        self.walk_is_current(out);
        out.push_sql(ADD_TO_LEDGER);
        out.push_sql(")");
        Ok(())
    }
}

impl Newcomers<'_> {
    /// `on_conflict` says what becomes of an identity that somebody has.
    fn walk<'b>(
        &'b self,
        out: &mut AstPass<'_, 'b, Pg>,
        on_conflict: &'static str,
    ) -> QueryResult<()> {
        out.push_sql(", newcomers AS MATERIALIZED (SELECT ");
        column::<SqlUuid, _>(out, &self.events, " AS event_id, ")?;
        column::<BigInt, _>(out, &self.people.ids, " AS id, ")?;
        column::<BigInt, _>(out, &self.people.projects, " AS project_id, ")?;
        column::<BigInt, _>(out, &self.people.homes, " AS home, ")?;
        column::<SmallInt, _>(out, &self.people.bucketing_kinds, " AS kind, ")?;
        column::<Text, _>(out, &self.people.bucketing_values, " AS value, ")?;
        column::<Timestamptz, _>(out, &self.people.seen_at, " AS at")?;
        out.push_sql(
            "), named AS (INSERT INTO identities (project_id, kind, value, person_id, created_at) \
             SELECT project_id, kind, value, id, at FROM newcomers",
        );
        out.push_sql(on_conflict);
        out.push_sql(
            "), born AS (INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, \
             created_at, last_seen_at) \
             SELECT id, project_id, home, kind, value, at, at FROM newcomers)",
        );
        Ok(())
    }
}

impl QueryFragment<Pg> for RecordEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH input AS MATERIALIZED (");
        self.rows.walk(&mut out)?;
        out.push_sql("), ");
        self.walk_claim(&mut out);
        out.push_sql(", stored AS (");
        self.rows.walk_insert(&mut out);
        out.push_sql("input WHERE id IN (SELECT event_id FROM claimed) OR (digest IS NULL AND ");
        self.walk_is_current(&mut out);
        out.push_sql(") RETURNING id, project_id), ");
        self.walk_ledger(&mut out)?;
        if let Some(newcomers) = self.newcomers {
            newcomers.walk(&mut out, " ON CONFLICT DO NOTHING RETURNING person_id")?;
        }
        out.push_sql(" SELECT id, ");
        self.walk_is_current(&mut out);
        out.push_sql(" FROM input WHERE ");
        if self.newcomers.is_some() {
            // Asked before anything else of the first row, whatever that is.
            out.push_sql(
                "CASE WHEN (SELECT count(*) FROM named) < (SELECT count(*) FROM newcomers) \
                 OR (SELECT count(*) FROM newcomers \
                     WHERE event_id NOT IN (SELECT id FROM stored)) > 0 \
                 THEN beckon_lost_race() ELSE id NOT IN (SELECT id FROM stored) END",
            );
        } else {
            out.push_sql("id NOT IN (SELECT id FROM stored)");
        }
        Ok(())
    }
}

impl Query for RecordEvents<'_> {
    type SqlType = (SqlUuid, Bool);
}

/// Does what [`RecordEvents`] does if everything is as it nearly always is: no message id was seen
/// before, the bucket is current, and nobody has the newcomers' identities. Otherwise it fails, with
/// a unique violation or as a lost race, and has done nothing.
///
/// What the database does for a statement before it reads the first row grows with the statement;
/// here nothing is joined, counted or returned.
#[derive(Debug)]
pub(super) struct RecordFresh<'a> {
    /// The bucket of message ids that is taken for current.
    pub(super) bucket: i16,
    /// The events, sorted by project and digest.
    pub(super) rows: &'a EventRows<'a>,
    pub(super) newcomers: Option<&'a Newcomers<'a>>,
    /// What was received, and that all of it is stored but for what repeats an event of the batch.
    pub(super) ledger: &'a LedgerRows,
}

impl RecordFresh<'_> {
    fn walk_claim<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (current, previous) = buckets(self.bucket);
        out.push_sql("claimed AS (INSERT INTO message_ids_");
        out.push_sql(current);
        out.push_sql(" SELECT project_id, digest, id FROM (SELECT ");
        column::<BigInt, _>(out, &self.rows.projects, " AS project_id, ")?;
        column::<Nullable<SqlUuid>, _>(out, &self.rows.digests, " AS digest, ")?;
        column::<SqlUuid, _>(out, &self.rows.ids, " AS id")?;
        out.push_sql(") AS i WHERE ");
        if self.rows.digests.iter().any(Option::is_none) {
            out.push_sql("digest IS NOT NULL AND ");
        }
        out.push_sql("CASE WHEN (SELECT current_bucket FROM message_buckets WHERE singleton) <> ");
        out.push_sql(current);
        out.push_sql(" OR EXISTS (SELECT 1 FROM message_ids_");
        out.push_sql(previous);
        out.push_sql(
            " m WHERE m.project_id = i.project_id AND m.digest = i.digest) \
             THEN beckon_lost_race() ELSE true END), ",
        );
        Ok(())
    }

    fn walk_ledger<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("counted AS (");
        out.push_sql(INSERT_LEDGER);
        out.push_sql("SELECT ");
        column::<BigInt, _>(out, &self.ledger.projects, ", current_date, ")?;
        out.push_bind_param::<Int4, _>(&self.ledger.slot)?;
        out.push_sql(", ");
        out.push_bind_param::<SqlUuid, _>(&self.ledger.batch)?;
        out.push_sql(", ");
        column::<BigInt, _>(out, &self.ledger.received, ", ")?;
        column::<BigInt, _>(out, &self.ledger.stored, ", ")?;
        column::<BigInt, _>(out, &self.ledger.duplicate, ", 0")?;
        out.push_sql(ADD_TO_LEDGER);
        out.push_sql(")");
        Ok(())
    }
}

impl QueryFragment<Pg> for RecordFresh<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH ");
        if self.rows.digests.iter().any(Option::is_some) {
            self.walk_claim(&mut out)?;
        }
        self.walk_ledger(&mut out)?;
        if let Some(newcomers) = self.newcomers {
            newcomers.walk(&mut out, "")?;
        }
        out.push_sql(" ");
        self.rows.walk_insert(&mut out);
        out.push_sql("(");
        self.rows.walk(&mut out)?;
        out.push_sql(") AS input");
        Ok(())
    }
}

/// The text depends on the rows, so it is the text that names a prepared statement.
macro_rules! named_by_text {
    ($name:ident) => {
        impl QueryId for $name<'_> {
            type QueryId = ();
            const HAS_STATIC_QUERY_ID: bool = false;
        }

        impl RunQueryDsl<PgConnection> for $name<'_> {}
    };
}

named_by_text!(RecordFresh);
named_by_text!(InsertEvents);
named_by_text!(RecordEvents);
