//! The rows that the baselines write: the same columns of the same tables as Beckon's, in one
//! statement, which is one transaction and one round trip.

use std::sync::Arc;

use beckon::model::Identity;
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Bytea, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::feed::{Feed, PROJECT, Person, message_id};
use crate::report::Outcome;

/// Track calls in columns.
#[derive(Debug, Default)]
pub struct Rows {
    ids: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
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
            (1, true) => Insert::<true, false>(self).execute(connection),
            (1, false) => Insert::<true, true>(self).execute(connection),
            (_, true) => Insert::<false, false>(self).execute(connection),
            (_, false) => Insert::<false, true>(self).execute(connection),
        }
    }
}

/// The statement, prepared once a connection.
struct Insert<'a, const ONE: bool, const NEW: bool>(&'a Rows);

impl<const ONE: bool, const NEW: bool> QueryId for Insert<'_, ONE, NEW> {
    type QueryId = Insert<'static, ONE, NEW>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const ONE: bool, const NEW: bool> RunQueryDsl<PgConnection> for Insert<'_, ONE, NEW> {}

/// Writes a column's parameter: one value, or an array.
macro_rules! column {
    ($out:ident, $one:expr, $column:expr, $kind:ty) => {
        match $column.first() {
            Some(value) if $one => $out.push_bind_param::<$kind, _>(value)?,
            _ => $out.push_bind_param::<Array<$kind>, _>($column)?,
        }
    };
}

impl<const ONE: bool, const NEW: bool> QueryFragment<Pg> for Insert<'_, ONE, NEW> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let rows = self.0;
        let (from, end) = if ONE {
            ("(SELECT ", ")")
        } else {
            ("unnest(", ")")
        };
        out.push_sql("WITH claimed AS (INSERT INTO message_ids_0 SELECT 1, digest, id FROM ");
        out.push_sql(from);
        column!(out, ONE, &rows.digests, Bytea);
        out.push_sql(", ");
        column!(out, ONE, &rows.ids, SqlUuid);
        out.push_sql(end);
        out.push_sql(" AS t (digest, id) ON CONFLICT DO NOTHING)");
        if NEW {
            out.push_sql(", newcomers AS (SELECT * FROM ");
            out.push_sql(from);
            column!(out, ONE, &rows.newcomers, BigInt);
            out.push_sql(", ");
            column!(out, ONE, &rows.homes, BigInt);
            out.push_sql(", ");
            column!(out, ONE, &rows.newcomer_ids, Text);
            out.push_sql(", ");
            column!(out, ONE, &rows.newcomers_at, Timestamptz);
            out.push_sql(end);
            out.push_sql(
                " AS t (id, home, value, at)), born AS (INSERT INTO persons (id, project_id, home, \
                 bucketing_kind, bucketing_value, created_at, last_seen_at) \
                 SELECT id, 1, home, 0, value, at, at FROM newcomers), \
                 named AS (INSERT INTO identities (project_id, kind, value, person_id, created_at) \
                 SELECT 1, 0, value, id, at FROM newcomers ON CONFLICT DO NOTHING)",
            );
        }
        out.push_sql(
            " INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
             message_id, properties, \"timestamp\", received_at) SELECT current_date, id, 1, \
             person_id, 0, name, user_id, message_id, properties::json, at, at FROM ",
        );
        out.push_sql(from);
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
        out.push_sql(end);
        out.push_sql(" AS t (id, person_id, name, user_id, message_id, properties, at)");
        Ok(())
    }
}

/// Commits rows as fast as Postgres takes them, over connections of its own: no HTTP, nothing to
/// decode, nobody to answer.
pub mod raw {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use beckon::clock::Clock;

    use super::{Arc, Outcome, Row, Rows};
    use crate::feed::{Feed, Source};
    use crate::load::{Run, Span};

    /// Commits transactions of so many rows over so many connections, one thread each.
    pub fn drive(
        url: &str,
        source: &Arc<Source>,
        batch: usize,
        connections: usize,
        span: Span,
    ) -> Outcome<Run> {
        let (ready, sent) = (Barrier::new(connections), AtomicU64::new(0));
        let mut total = Run::default();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..connections)
                .map(|_| {
                    let feed = source.feed();
                    let (ready, sent) = (&ready, &sent);
                    scope.spawn(move || {
                        let connection = beckon::store::connect(url);
                        // Before a failure is returned, so that the others do not wait for ever.
                        ready.wait();
                        write(connection?, feed, batch, span, sent)
                    })
                })
                .collect();
            for writer in writers {
                let run = writer.join().map_err(|_| "a writer panicked")??;
                total.join(run);
            }
            Ok(total)
        })
    }

    fn write(
        mut connection: diesel::PgConnection,
        mut feed: Feed,
        batch: usize,
        span: Span,
        sent: &AtomicU64,
    ) -> Outcome<Run> {
        let clock = Clock::system();
        let begin = Instant::now();
        let counted_from = begin + span.warm_up;
        let end = counted_from + span.measured;
        let mut run = Run::default();
        loop {
            let now = clock.now();
            let rows = Rows::of((0..batch).map(|_| Row::next(&mut feed, now)))?;
            let started = Instant::now();
            if started >= end || sent.fetch_add(1, Ordering::Relaxed) >= span.requests_max {
                break;
            }
            rows.commit(&mut connection)?;
            let done = Instant::now();
            run.acknowledged += batch as u64;
            if done >= counted_from && done < end {
                run.events += batch as u64;
                if started >= counted_from {
                    let latency = done.duration_since(started).as_micros();
                    run.latencies_us
                        .push(u32::try_from(latency).unwrap_or(u32::MAX));
                }
            }
        }
        run.seconds = span.measured.as_secs_f64();
        Ok(run)
    }
}
