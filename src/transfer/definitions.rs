//! Campaigns, segments and flags: few, and loaded in one transaction that ends with one
//! announcement to the running nodes.
//!
//! JSON is sent as text and cast, so that the bytes are kept; the driver's own type would write
//! them anew.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::file::{DefinitionRecord, FlagRecord, Plan};
use super::report::{Report, Section};
use super::runs::Run;
use super::{Mode, TransferError};
use crate::store::live;

/// The content of each kind of row as it is compared with what was imported. `changed since` means
/// that it no longer gives the noted digest.
pub(super) const CAMPAIGN_DIGEST: &str = "sha256(convert_to(concat_ws(chr(31), version::text, name, status, trigger, body::text), 'UTF8'))";
pub(super) const SEGMENT_DIGEST: &str =
    "sha256(convert_to(concat_ws(chr(31), name, body::text), 'UTF8'))";
pub(super) const FLAG_DIGEST: &str = "sha256(convert_to(concat_ws(chr(31), enabled::text, \
     coalesce(value::text, ''), coalesce(targeting::text, '')), 'UTF8'))";

#[derive(diesel::QueryableByName)]
struct Same {
    #[diesel(sql_type = Bool)]
    same: bool,
}

/// How a record stands against the database.
enum Standing {
    Absent,
    Same,
    Other,
}

fn standing(rows: &[Same]) -> Standing {
    match rows.first() {
        None => Standing::Absent,
        Some(row) if row.same => Standing::Same,
        Some(_) => Standing::Other,
    }
}

pub(super) fn load(
    connection: &mut PgConnection,
    run: &Run,
    plan: &Plan<'_>,
    mode: Mode,
    report: &mut Report,
) -> Result<(), TransferError> {
    // The report is changed only by what is committed.
    let mut outcome = report.clone();
    connection.transaction(|connection| {
        let mut created = Created::default();
        // The lists are newest first, and the order of creation breaks ties between equal times.
        for record in plan.campaigns.iter().rev() {
            if load_campaign(connection, run, record, mode, &mut outcome)? {
                created.campaigns.push(record.id.clone());
            }
        }
        for record in plan.segments.iter().rev() {
            if load_segment(connection, run, record, mode, &mut outcome)? {
                created.segments.push(record.id.clone());
            }
        }
        for record in &plan.flags {
            if load_flag(connection, run, record, mode, &mut outcome)? {
                created.flags.push(record.key.clone());
            }
        }
        if mode == Mode::Import && !created.is_empty() {
            created.note(connection, run)?;
            live::bump_revision(connection, run.project.0)?;
            live::notify_change(connection, run.project.0)?;
        }
        Ok::<(), diesel::result::Error>(())
    })?;
    *report = outcome;
    Ok(())
}

/// What this transaction creates.
#[derive(Debug, Default)]
struct Created {
    campaigns: Vec<String>,
    segments: Vec<String>,
    flags: Vec<String>,
}

impl Created {
    fn is_empty(&self) -> bool {
        self.campaigns.is_empty() && self.segments.is_empty() && self.flags.is_empty()
    }

    /// Notes the rows for the rollback, with the content they have now.
    fn note(&self, connection: &mut PgConnection, run: &Run) -> QueryResult<()> {
        for (kind, table, key, digest, keys) in [
            (
                "campaign",
                "campaigns",
                "id",
                CAMPAIGN_DIGEST,
                &self.campaigns,
            ),
            ("segment", "segments", "id", SEGMENT_DIGEST, &self.segments),
            ("flag", "feature_flags", "key", FLAG_DIGEST, &self.flags),
        ] {
            sql_query(format!(
                "INSERT INTO import_rows (run_id, kind, key, digest) \
                 SELECT $1, '{kind}', {key}, {digest} FROM {table} \
                 WHERE project_id = $2 AND {key} = ANY($3) \
                 ON CONFLICT (run_id, kind, key) DO UPDATE SET digest = excluded.digest"
            ))
            .bind::<BigInt, _>(run.id)
            .bind::<BigInt, _>(run.project.0)
            .bind::<Array<Text>, _>(keys)
            .execute(connection)?;
        }
        Ok(())
    }
}

/// Counts a record that is there, or inserts it and counts that; true when it was not there.
fn settle(
    standing: Standing,
    mode: Mode,
    report: &mut Report,
    section: Section,
    id: &str,
    insert: impl FnOnce() -> QueryResult<()>,
) -> QueryResult<bool> {
    match standing {
        Standing::Same => report.count_present(section, 1),
        Standing::Other => report.conflict(section, id),
        Standing::Absent => {
            if mode == Mode::Import {
                insert()?;
            }
            report.count_created(section, 1);
            return Ok(true);
        }
    }
    Ok(false)
}

fn load_campaign(
    connection: &mut PgConnection,
    run: &Run,
    record: &DefinitionRecord,
    mode: Mode,
    report: &mut Report,
) -> QueryResult<bool> {
    let found: Vec<Same> = sql_query(
        "SELECT body::text = $3 AND created_at = $4 AS same FROM campaigns \
         WHERE project_id = $1 AND id = $2",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Text, _>(&record.id)
    .bind::<Text, _>(&record.body)
    .bind::<Timestamptz, _>(created_at(record, run))
    .load(connection)?;
    settle(
        standing(&found),
        mode,
        report,
        Section::Campaigns,
        &record.id,
        || insert_campaign(connection, run, record),
    )
}

fn created_at(record: &DefinitionRecord, run: &Run) -> DateTime<Utc> {
    record.created_at.unwrap_or(run.started_at)
}

fn insert_campaign(
    connection: &mut PgConnection,
    run: &Run,
    record: &DefinitionRecord,
) -> QueryResult<()> {
    sql_query(
        "WITH new AS (INSERT INTO campaigns \
           (project_id, id, name, status, trigger, body, created_at, updated_at) \
           VALUES ($1, $2, $3, $4, $5, $6::json, $7, $8) RETURNING *), \
         noted AS (INSERT INTO campaign_history \
           (project_id, campaign_id, version, action, body, actor, at) \
           SELECT project_id, id, version, 'import', body, $9, now() FROM new) \
         INSERT INTO audit_log (project_id, at, actor, action, object_kind, object_id) \
           SELECT project_id, now(), $9, 'import', 'campaign', id FROM new",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Text, _>(&record.id)
    .bind::<Text, _>(&record.name)
    .bind::<Nullable<Text>, _>(&record.status)
    .bind::<Nullable<Text>, _>(&record.trigger)
    .bind::<Text, _>(&record.body)
    .bind::<Timestamptz, _>(created_at(record, run))
    .bind::<Nullable<Timestamptz>, _>(record.updated_at)
    .bind::<Text, _>(actor(run))
    .execute(connection)
    .map(drop)
}

/// How history and the audit log name an import.
pub(super) fn actor(run: &Run) -> String {
    format!("import:{}", run.id)
}

fn load_segment(
    connection: &mut PgConnection,
    run: &Run,
    record: &DefinitionRecord,
    mode: Mode,
    report: &mut Report,
) -> QueryResult<bool> {
    let found: Vec<Same> = sql_query(
        "SELECT body::text = $3 AND created_at = $4 AS same FROM segments \
         WHERE project_id = $1 AND id = $2",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Text, _>(&record.id)
    .bind::<Text, _>(&record.body)
    .bind::<Timestamptz, _>(created_at(record, run))
    .load(connection)?;
    let id = &record.id;
    settle(
        standing(&found),
        mode,
        report,
        Section::Segments,
        id,
        || {
            sql_query(
                "WITH new AS (INSERT INTO segments \
               (project_id, id, name, body, created_at, updated_at) \
               VALUES ($1, $2, $3, $4::json, $5, $6) RETURNING *) \
             INSERT INTO audit_log (project_id, at, actor, action, object_kind, object_id) \
               SELECT project_id, now(), $7, 'import', 'segment', id FROM new",
            )
            .bind::<BigInt, _>(run.project.0)
            .bind::<Text, _>(&record.id)
            .bind::<Text, _>(&record.name)
            .bind::<Text, _>(&record.body)
            .bind::<Timestamptz, _>(created_at(record, run))
            .bind::<Nullable<Timestamptz>, _>(record.updated_at)
            .bind::<Text, _>(actor(run))
            .execute(connection)
            .map(drop)
        },
    )
}

fn load_flag(
    connection: &mut PgConnection,
    run: &Run,
    record: &FlagRecord<'_>,
    mode: Mode,
    report: &mut Report,
) -> QueryResult<bool> {
    let found: Vec<Same> = sql_query(
        "SELECT enabled = $3 AND value::text IS NOT DISTINCT FROM $4 AND targeting IS NULL \
           AS same FROM feature_flags WHERE project_id = $1 AND key = $2",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Text, _>(&record.key)
    .bind::<Bool, _>(record.enabled)
    .bind::<Nullable<Text>, _>(record.value)
    .load(connection)?;
    let key = &record.key;
    settle(
        standing(&found),
        mode,
        report,
        Section::FeatureFlags,
        key,
        || {
            sql_query(
            "WITH new AS (INSERT INTO feature_flags (project_id, key, enabled, value, created_at) \
               VALUES ($1, $2, $3, $4::json, $5) RETURNING *) \
             INSERT INTO audit_log (project_id, at, actor, action, object_kind, object_id) \
               SELECT project_id, now(), $6, 'import', 'flag', key FROM new",
        )
        .bind::<BigInt, _>(run.project.0)
        .bind::<Text, _>(&record.key)
        .bind::<Bool, _>(record.enabled)
        .bind::<Nullable<Text>, _>(record.value)
        .bind::<Timestamptz, _>(run.started_at)
        .bind::<Text, _>(actor(run))
        .execute(connection)
        .map(drop)
        },
    )
}
