//! Taking a run out again: the rows it created, and no others.
//!
//! A row that was changed since is kept and listed, unless the caller insists. Somebody with later
//! events, or who was linked with somebody else, is always kept: without the person those events
//! would belong to nobody. What is kept stays noted, so a second rollback looks at it again and
//! otherwise finds nothing to do.
//!
//! A server that runs may hold a person in memory and file an event under them at the very moment
//! they are taken out; see `strays`.

use chrono::NaiveDate;
use diesel::connection::SimpleConnection;
use diesel::sql_types::{Array, BigInt, Bool, Date, Nullable, Text};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde::Serialize;

use super::definitions::{CAMPAIGN_DIGEST, FLAG_DIGEST, SEGMENT_DIGEST, actor};
use super::people::PERSON_DIGEST;
use super::runs::{self, Run};
use super::strays::{self, sleep};
use super::{BATCH_RECORDS, TransferError};
use crate::model::ProjectId;
use crate::store::live;
use crate::store::nodes::{self, INTRODUCTION, NodeId};
use crate::store::partitions::MESSAGE_BUCKET_LOCK;

/// What a rollback took out and what it left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RollbackReport {
    /// The run.
    pub run: i64,
    /// Campaigns taken out.
    pub campaigns: i64,
    /// Segments taken out.
    pub segments: i64,
    /// Flags taken out.
    pub flags: i64,
    /// People taken out.
    pub people: i64,
    /// Events taken out.
    pub events: i64,
    /// Rows of the run that were left, each with the reason.
    pub kept: Vec<Kept>,
}

/// A row that was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// `campaign`, `segment`, `flag` or `person`.
    pub kind: String,
    /// Its id; a person's application id.
    pub id: String,
    /// Why it was left.
    pub reason: &'static str,
}

impl RollbackReport {
    /// Rows taken out, all kinds together.
    pub fn removed(&self) -> i64 {
        self.campaigns + self.segments + self.flags + self.people + self.events
    }
}

/// Takes a run out, on a connection of its own and outside any transaction. `force` takes out rows
/// that were changed since, too.
///
/// # Errors
/// See [`TransferError`]. What is committed stays; running it again goes on.
pub fn rollback(
    connection: &mut PgConnection,
    project: ProjectId,
    run: i64,
    force: bool,
) -> Result<RollbackReport, TransferError> {
    runs::locked(connection, |connection| {
        let node = NodeId::draw();
        nodes::join(connection, node)?;
        let outcome = as_a_node(connection, node, project, run, force);
        let left = nodes::leave(connection, node);
        let report = outcome?;
        left?;
        Ok(report)
    })
}

/// Takes a run out as one of the nodes: while there is another, none remembers people, and what it
/// remembered before it forgets when that one is gone, however that comes.
fn as_a_node(
    connection: &mut PgConnection,
    node: NodeId,
    project: ProjectId,
    run: i64,
    force: bool,
) -> Result<RollbackReport, TransferError> {
    let run = runs::by_id(connection, project, run)?;
    if nodes::others(connection, node)? > 0 {
        sleep(INTRODUCTION);
    }
    let mut report = RollbackReport {
        run: run.id,
        ..RollbackReport::default()
    };
    report.events = take_out_events(connection, &run)?;
    take_out_people(connection, &run, force, &mut report)?;
    strays::settle(connection, &run, node)?;
    connection
        .transaction(|connection| take_out_definitions(connection, &run, force, &mut report))?;
    sql_query(
        "UPDATE import_runs SET rolled_back_at = coalesce(rolled_back_at, now()), \
             verified_at = NULL WHERE id = $1",
    )
    .bind::<BigInt, _>(run.id)
    .execute(connection)?;
    tracing::info!(
        run = run.id,
        removed = report.removed(),
        kept = report.kept.len(),
        "import rolled back"
    );
    Ok(report)
}

#[derive(diesel::QueryableByName)]
struct Counts {
    #[diesel(sql_type = BigInt)]
    noted: i64,
    #[diesel(sql_type = BigInt)]
    removed: i64,
}

fn batch_rows() -> i64 {
    i64::try_from(BATCH_RECORDS).unwrap_or(i64::MAX)
}

/// Removes the run's events and gives up their message ids, a batch a transaction.
fn take_out_events(connection: &mut PgConnection, run: &Run) -> QueryResult<i64> {
    // The days on which events of the run count as received.
    let first = run.started_at.date_naive();
    let days: Vec<NaiveDate> = first.iter_days().take(2).collect();
    let mut total = 0;
    loop {
        let counts = connection.transaction(|connection| {
            connection.batch_execute(&format!(
                "SELECT pg_advisory_xact_lock_shared({MESSAGE_BUCKET_LOCK})"
            ))?;
            sql_query(
                "WITH noted AS (DELETE FROM import_rows WHERE run_id = $1 AND kind = 'event' \
                     AND key IN (SELECT key FROM import_rows WHERE run_id = $1 \
                                 AND kind = 'event' ORDER BY key LIMIT $4) RETURNING key), \
                 gone AS (DELETE FROM events e WHERE e.project_id = $2 \
                     AND e.received_on = ANY($3) AND e.id = ANY(ARRAY(SELECT key::uuid FROM noted)) \
                     RETURNING e.id, encode(substr(sha256(convert_to( \
                         coalesce(e.message_id, e.id::text), 'UTF8')), 1, 16), 'hex')::uuid \
                         AS digest), \
                 zero AS (DELETE FROM message_ids_0 m USING gone g WHERE m.project_id = $2 \
                     AND m.digest = g.digest AND m.event_id = g.id), \
                 one AS (DELETE FROM message_ids_1 m USING gone g WHERE m.project_id = $2 \
                     AND m.digest = g.digest AND m.event_id = g.id) \
                 SELECT (SELECT count(*) FROM noted) AS noted, \
                        (SELECT count(*) FROM gone) AS removed",
            )
            .bind::<BigInt, _>(run.id)
            .bind::<BigInt, _>(run.project.0)
            .bind::<Array<Date>, _>(&days)
            .bind::<BigInt, _>(batch_rows())
            .get_result::<Counts>(connection)
        })?;
        total += counts.removed;
        if counts.noted == 0 {
            return Ok(total);
        }
    }
}

#[derive(diesel::QueryableByName)]
struct NotedPerson {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    id: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    value: Option<String>,
    #[diesel(sql_type = Bool)]
    is_changed: bool,
    #[diesel(sql_type = Bool)]
    has_events: bool,
    #[diesel(sql_type = Bool)]
    is_linked: bool,
}

/// Removes the run's people. They stay noted until no event can be theirs any more.
fn take_out_people(
    connection: &mut PgConnection,
    run: &Run,
    force: bool,
    report: &mut RollbackReport,
) -> QueryResult<()> {
    let mut after = String::new();
    loop {
        let (removed, kept, next) = connection
            .transaction(|connection| take_out_people_batch(connection, run, force, &after))?;
        report.people += i64::try_from(removed).unwrap_or_default();
        report.kept.extend(kept);
        match next {
            Some(key) => after = key,
            None => return Ok(()),
        }
    }
}

/// How many were removed, who was kept, and where to go on.
type PeopleBatch = (usize, Vec<Kept>, Option<String>);

fn take_out_people_batch(
    connection: &mut PgConnection,
    run: &Run,
    force: bool,
    after: &str,
) -> QueryResult<PeopleBatch> {
    // Writers of events that create or change a person hold its row; what they wrote is seen by
    // the next statement.
    sql_query(
        "SELECT p.id FROM import_rows r JOIN persons p ON p.id = r.key::bigint \
         WHERE r.run_id = $1 AND r.kind = 'person' AND r.key > $2 AND r.key <= coalesce(\
           (SELECT max(key) FROM (SELECT key FROM import_rows WHERE run_id = $1 \
             AND kind = 'person' AND key > $2 ORDER BY key LIMIT $3) AS batch), '') \
         ORDER BY p.id FOR UPDATE OF p",
    )
    .bind::<BigInt, _>(run.id)
    .bind::<Text, _>(after)
    .bind::<BigInt, _>(batch_rows())
    .execute(connection)?;
    let noted: Vec<NotedPerson> = sql_query(format!(
        "SELECT r.key, p.id, p.bucketing_value AS value, \
                coalesce({PERSON_DIGEST} IS DISTINCT FROM r.digest, false) AS is_changed, \
                EXISTS (SELECT FROM events e WHERE e.project_id = $4 AND e.person_id = p.id) \
                  AS has_events, \
                p.merged_into IS NOT NULL \
                  OR EXISTS (SELECT FROM persons m WHERE m.merged_into = p.id) \
                  OR (SELECT count(*) > 1 FROM identities i WHERE i.person_id = p.id) AS is_linked \
         FROM import_rows r LEFT JOIN persons p ON p.id = r.key::bigint AND p.project_id = $4 \
         WHERE r.run_id = $1 AND r.kind = 'person' AND r.key > $2 ORDER BY r.key LIMIT $3"
    ))
    .bind::<BigInt, _>(run.id)
    .bind::<Text, _>(after)
    .bind::<BigInt, _>(batch_rows())
    .bind::<BigInt, _>(run.project.0)
    .load(connection)?;
    let next = noted.last().map(|person| person.key.clone());
    let mut removed = Vec::new();
    let mut kept = Vec::new();
    for person in noted {
        let (Some(id), Some(value)) = (person.id, person.value) else {
            continue;
        };
        let reason = match () {
            () if person.has_events => Some("later events belong to this person"),
            () if person.is_linked => Some("the person was linked with another since"),
            () if person.is_changed && !force => Some("the traits were changed since"),
            () => None,
        };
        match reason {
            Some(reason) => kept.push(Kept {
                kind: "person".to_owned(),
                id: value,
                reason,
            }),
            None => removed.push(id),
        }
    }
    delete_people(connection, run, &removed)?;
    Ok((removed.len(), kept, next))
}

fn delete_people(connection: &mut PgConnection, run: &Run, ids: &[i64]) -> QueryResult<()> {
    sql_query(
        "WITH named AS (DELETE FROM identities \
             WHERE project_id = $1 AND person_id = ANY($2)), \
         seen AS (DELETE FROM people_seen WHERE person_id = ANY($2)) \
         DELETE FROM persons WHERE project_id = $1 AND id = ANY($2)",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<BigInt>, _>(ids)
    .execute(connection)
    .map(drop)
}

#[derive(diesel::QueryableByName)]
struct Definition {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Bool)]
    is_there: bool,
    #[diesel(sql_type = Bool)]
    is_changed: bool,
}

fn take_out_definitions(
    connection: &mut PgConnection,
    run: &Run,
    force: bool,
    report: &mut RollbackReport,
) -> QueryResult<()> {
    // In the order of every change, so that none waits for another in a circle.
    live::bump_revision(connection, run.project.0)?;
    for (kind, table, key, digest) in [
        ("campaign", "campaigns", "id", CAMPAIGN_DIGEST),
        ("segment", "segments", "id", SEGMENT_DIGEST),
        ("flag", "feature_flags", "key", FLAG_DIGEST),
    ] {
        let noted: Vec<Definition> = sql_query(format!(
            "SELECT r.key, t.found IS NOT NULL AS is_there, \
                    t.content IS DISTINCT FROM r.digest AS is_changed \
             FROM import_rows r LEFT JOIN (SELECT {key} AS found, {digest} AS content \
               FROM {table} WHERE project_id = $2 FOR UPDATE) AS t ON t.found = r.key \
             WHERE r.run_id = $1 AND r.kind = '{kind}' ORDER BY r.key"
        ))
        .bind::<BigInt, _>(run.id)
        .bind::<BigInt, _>(run.project.0)
        .load(connection)?;
        let mut gone = Vec::new();
        let mut removed = Vec::new();
        for row in noted {
            if row.is_there && row.is_changed && !force {
                report.kept.push(Kept {
                    kind: kind.to_owned(),
                    id: row.key,
                    reason: "it was changed since",
                });
                continue;
            }
            if row.is_there {
                removed.push(row.key.clone());
            }
            gone.push(row.key);
        }
        delete_definitions(connection, run, (kind, table, key), &removed, &gone)?;
        let count = i64::try_from(removed.len()).unwrap_or_default();
        match kind {
            "campaign" => report.campaigns = count,
            "segment" => report.segments = count,
            _ => report.flags = count,
        }
    }
    if report.campaigns + report.segments + report.flags > 0 {
        live::notify_change(connection, run.project.0)?;
    }
    Ok(())
}

fn delete_definitions(
    connection: &mut PgConnection,
    run: &Run,
    (kind, table, key): (&str, &str, &str),
    removed: &[String],
    gone: &[String],
) -> QueryResult<()> {
    if kind == "campaign" {
        sql_query(
            "INSERT INTO campaign_history \
               (project_id, campaign_id, version, action, body, actor, at) \
             SELECT project_id, id, version, 'rollback', body, $3, now() FROM campaigns \
             WHERE project_id = $1 AND id = ANY($2)",
        )
        .bind::<BigInt, _>(run.project.0)
        .bind::<Array<Text>, _>(removed)
        .bind::<Text, _>(actor(run))
        .execute(connection)?;
    }
    sql_query(format!(
        "WITH gone AS (DELETE FROM {table} WHERE project_id = $1 AND {key} = ANY($2) \
                       RETURNING {key} AS key) \
         INSERT INTO audit_log (project_id, at, actor, action, object_kind, object_id) \
         SELECT $1, now(), $3, 'rollback', '{kind}', key FROM gone"
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<Text>, _>(removed)
    .bind::<Text, _>(actor(run))
    .execute(connection)?;
    sql_query(format!(
        "DELETE FROM import_rows WHERE run_id = $1 AND kind = '{kind}' AND key = ANY($2)"
    ))
    .bind::<BigInt, _>(run.id)
    .bind::<Array<Text>, _>(gone)
    .execute(connection)
    .map(drop)
}
