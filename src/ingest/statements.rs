//! What a batch says to the database, each statement prepared once a connection and sent once a
//! batch with its rows as arrays.

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment};
use diesel::sql_types::{Array, BigInt, Int4, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::ledger::LedgerRows;
use crate::model::{Identity, ProjectId};
use crate::store::prepared::prepared;
use crate::targeting::PersonState;

/// Message ids in columns, sorted by (project, digest), each pair once.
#[derive(Debug, Default)]
pub(super) struct MessageIds {
    pub(super) projects: Vec<i64>,
    pub(super) digests: Vec<Uuid>,
    pub(super) event_ids: Vec<Uuid>,
}

/// Claims message ids in bucket `BUCKET`, unless the other bucket has them or another bucket has
/// become current, and returns those that were *not* claimed.
///
/// Whoever rotates the buckets locks both tables. A statement locks the tables it names before it
/// takes the snapshot it runs on, so one that waited for a rotation sees it and claims nothing.
#[derive(Debug)]
pub(super) struct ClaimMessageIds<'a, const BUCKET: i16> {
    pub(super) ids: &'a MessageIds,
}

/// The current and the previous bucket of message ids.
pub(super) fn buckets(current: i16) -> (&'static str, &'static str) {
    if current == 0 { ("0", "1") } else { ("1", "0") }
}

impl<const BUCKET: i16> QueryFragment<Pg> for ClaimMessageIds<'_, BUCKET> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (current, previous) = buckets(BUCKET);
        out.push_sql("WITH input AS MATERIALIZED (SELECT * FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.ids.projects)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.ids.digests)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.ids.event_ids)?;
        out.push_sql(
            ") AS t (project_id, digest, event_id)), claimed AS (INSERT INTO message_ids_",
        );
        out.push_sql(current);
        out.push_sql(
            " SELECT project_id, digest, event_id FROM input i \
             WHERE (SELECT current_bucket FROM message_buckets WHERE singleton) = ",
        );
        out.push_sql(current);
        out.push_sql(" AND NOT EXISTS (SELECT 1 FROM message_ids_");
        out.push_sql(previous);
        out.push_sql(
            " m WHERE m.project_id = i.project_id AND m.digest = i.digest) \
             ON CONFLICT DO NOTHING RETURNING project_id, digest) \
             SELECT i.project_id, i.digest FROM input i WHERE NOT EXISTS \
             (SELECT 1 FROM claimed c WHERE c.project_id = i.project_id AND c.digest = i.digest)",
        );
        Ok(())
    }
}

prepared!(ClaimMessageIds<'_, const BUCKET: i16>);

impl<const BUCKET: i16> Query for ClaimMessageIds<'_, BUCKET> {
    type SqlType = (BigInt, SqlUuid);
}

/// Finds the events that message ids were claimed for, in either bucket.
#[derive(Debug)]
pub(super) struct FindMessageIds<'a> {
    pub(super) projects: &'a [i64],
    pub(super) digests: &'a [Uuid],
}

impl QueryFragment<Pg> for FindMessageIds<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH input AS MATERIALIZED (SELECT * FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.projects)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.digests)?;
        out.push_sql(
            ") AS t (project_id, digest)) \
             SELECT project_id, digest, event_id FROM input JOIN message_ids_0 USING (project_id, digest) \
             UNION ALL \
             SELECT project_id, digest, event_id FROM input JOIN message_ids_1 USING (project_id, digest)",
        );
        Ok(())
    }
}

prepared!(FindMessageIds<'_> => (BigInt, SqlUuid, SqlUuid));

/// Gives up claims of events that turned out to be invalid.
#[derive(Debug)]
pub(super) struct ReleaseMessageIds<'a> {
    pub(super) projects: &'a [i64],
    pub(super) digests: &'a [Uuid],
}

impl QueryFragment<Pg> for ReleaseMessageIds<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH input AS MATERIALIZED (SELECT * FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.projects)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.digests)?;
        out.push_sql(
            ") AS t (project_id, digest)), zero AS (DELETE FROM message_ids_0 m USING input i \
             WHERE m.project_id = i.project_id AND m.digest = i.digest) \
             DELETE FROM message_ids_1 m USING input i \
             WHERE m.project_id = i.project_id AND m.digest = i.digest",
        );
        Ok(())
    }
}

prepared!(ReleaseMessageIds<'_>);

/// New identities in columns, sorted by key.
#[derive(Debug, Default)]
pub(super) struct IdentityRows<'a> {
    pub(super) projects: Vec<i64>,
    pub(super) kinds: Vec<i16>,
    pub(super) values: Vec<&'a str>,
    pub(super) people: Vec<i64>,
    pub(super) created_at: Vec<DateTime<Utc>>,
}

/// Inserts identities that nobody has; the caller compares the count.
#[derive(Debug)]
pub(super) struct InsertIdentities<'a> {
    pub(super) rows: &'a IdentityRows<'a>,
}

impl QueryFragment<Pg> for InsertIdentities<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO identities (project_id, kind, value, person_id, created_at) \
             SELECT * FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.rows.projects)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SmallInt>, _>(&self.rows.kinds)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.rows.values)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.rows.people)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.rows.created_at)?;
        out.push_sql(") ON CONFLICT DO NOTHING");
        Ok(())
    }
}

prepared!(InsertIdentities<'_>);

/// Counts people's identities, each person's as far as `most`.
#[derive(Debug)]
pub(super) struct CountIdentities<'a> {
    pub(super) people: &'a [i64],
    pub(super) most: i64,
}

impl QueryFragment<Pg> for CountIdentities<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT t.id, (SELECT count(*) FROM (SELECT FROM identities i \
             WHERE i.person_id = t.id LIMIT ",
        );
        out.push_bind_param::<BigInt, _>(&self.most)?;
        out.push_sql(") AS counted) FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.people)?;
        out.push_sql(") AS t (id)");
        Ok(())
    }
}

prepared!(CountIdentities<'_> => (BigInt, BigInt));

/// New people in columns.
#[derive(Debug, Default)]
pub(super) struct PersonRows<'a> {
    pub(super) ids: Vec<i64>,
    pub(super) projects: Vec<i64>,
    pub(super) homes: Vec<i64>,
    pub(super) bucketing_kinds: Vec<i16>,
    pub(super) bucketing_values: Vec<&'a str>,
    pub(super) traits: Vec<&'a str>,
    pub(super) seen_at: Vec<DateTime<Utc>>,
}

impl<'a> PersonRows<'a> {
    /// Adds a person, first seen with this identity.
    pub(super) fn push(
        &mut self,
        project: ProjectId,
        identity: &'a Identity,
        state: &'a PersonState,
    ) {
        self.ids.push(state.id.0);
        self.projects.push(project.0);
        self.homes.push(state.home);
        self.bucketing_kinds.push(identity.kind().as_i16());
        self.bucketing_values.push(identity.value());
        self.traits.push(&state.traits);
        self.seen_at.push(state.created_at);
    }
}

/// Inserts new people, first and last seen at the same moment.
#[derive(Debug)]
pub(super) struct InsertPeople<'a> {
    pub(super) rows: &'a PersonRows<'a>,
}

impl QueryFragment<Pg> for InsertPeople<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, traits, \
             created_at, last_seen_at) \
             SELECT id, project_id, home, kind, value, traits::jsonb, at, at \
             FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.rows.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.rows.projects)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.rows.homes)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SmallInt>, _>(&self.rows.bucketing_kinds)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.rows.bucketing_values)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.rows.traits)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.rows.seen_at)?;
        out.push_sql(") AS t (id, project_id, home, kind, value, traits, at)");
        Ok(())
    }
}

prepared!(InsertPeople<'_>);

/// Writes the traits of people whose rows are locked. A time that is more than an hour ahead of the
/// database's clock was set by a wrong one: it is neither written nor kept.
#[derive(Debug)]
pub(super) struct UpdateTraits<'a> {
    pub(super) ids: &'a [i64],
    pub(super) traits: &'a [&'a str],
    pub(super) seen_at: &'a [DateTime<Utc>],
}

impl QueryFragment<Pg> for UpdateTraits<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "UPDATE persons p SET traits = t.traits::jsonb, \
             last_seen_at = greatest(CASE WHEN p.last_seen_at <= now() + interval '1 hour' \
             THEN p.last_seen_at END, CASE WHEN t.at <= now() + interval '1 hour' THEN t.at \
             ELSE now() END) FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.traits)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.seen_at)?;
        out.push_sql(") AS t (id, traits, at) WHERE p.id = t.id");
        Ok(())
    }
}

prepared!(UpdateTraits<'_>);

/// Moves the last-seen time of people forward, or back where a wrong clock has set it. The people are
/// in the order of their numbers, so that two writers cannot wait for each other.
#[derive(Debug)]
pub(super) struct TouchPeople<'a> {
    pub(super) ids: &'a [i64],
    pub(super) seen_at: &'a [DateTime<Utc>],
}

impl QueryFragment<Pg> for TouchPeople<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO people_seen AS s (person_id, last_seen_at) \
             SELECT t.id, CASE WHEN t.at <= now() + interval '1 hour' THEN t.at ELSE now() END \
             FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.seen_at)?;
        out.push_sql(
            ") AS t (id, at) ON CONFLICT (person_id) DO UPDATE \
             SET last_seen_at = excluded.last_seen_at \
             WHERE s.last_seen_at < excluded.last_seen_at \
                OR s.last_seen_at > now() + interval '1 hour'",
        );
        Ok(())
    }
}

prepared!(TouchPeople<'_>);

/// Adds counts to the ledger.
#[derive(Debug)]
pub(super) struct AddToLedger<'a> {
    pub(super) rows: &'a LedgerRows,
}

pub(super) const INSERT_LEDGER: &str = "INSERT INTO ingest_ledger AS l \
    (project_id, day, slot, last_batch, received, stored, duplicate, rejected) ";

pub(super) const ADD_TO_LEDGER: &str = " ON CONFLICT (project_id, day, slot) DO UPDATE SET \
    last_batch = excluded.last_batch, \
    received = l.received + excluded.received, stored = l.stored + excluded.stored, \
    duplicate = l.duplicate + excluded.duplicate, rejected = l.rejected + excluded.rejected";

impl QueryFragment<Pg> for AddToLedger<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(INSERT_LEDGER);
        out.push_sql("SELECT project_id, current_date, ");
        out.push_bind_param::<Int4, _>(&self.rows.slot)?;
        out.push_sql(", ");
        out.push_bind_param::<SqlUuid, _>(&self.rows.batch)?;
        out.push_sql(", received, stored, duplicate, rejected FROM unnest(");
        for (index, column) in [
            &self.rows.projects,
            &self.rows.received,
            &self.rows.stored,
            &self.rows.duplicate,
            &self.rows.rejected,
        ]
        .into_iter()
        .enumerate()
        {
            if index > 0 {
                out.push_sql(", ");
            }
            out.push_bind_param::<Array<BigInt>, _>(column)?;
        }
        out.push_sql(") AS t (project_id, received, stored, duplicate, rejected)");
        out.push_sql(ADD_TO_LEDGER);
        Ok(())
    }
}

prepared!(AddToLedger<'_>);
