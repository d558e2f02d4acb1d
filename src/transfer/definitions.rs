//! Campaigns, segments and flags: few, and loaded in one transaction that ends with one
//! announcement to the running nodes.
//!
//! JSON is sent as text and cast, so that the bytes are kept; the driver's own type would write
//! them anew.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::file::Plan;
use super::record::{DefinitionRecord, FlagRecord};
use super::report::{Report, Section};
use super::runs::Run;
use super::{Mode, TransferError};
use crate::store::{is_refused_data, live};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
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

/// How each record stands, in the order of the plan.
struct Standings {
    campaigns: Vec<Standing>,
    segments: Vec<Standing>,
    flags: Vec<Standing>,
}

impl Standings {
    fn look(connection: &mut PgConnection, run: &Run, plan: &Plan<'_>) -> QueryResult<Self> {
        Ok(Self {
            campaigns: of_definitions(connection, run, Section::Campaigns, &plan.campaigns)?,
            segments: of_definitions(connection, run, Section::Segments, &plan.segments)?,
            flags: of_flags(connection, run, &plan.flags)?,
        })
    }

    fn has_absent(&self) -> bool {
        let all = [&self.campaigns, &self.segments, &self.flags];
        all.into_iter()
            .any(|standings| standings.contains(&Standing::Absent))
    }
}

/// How campaigns or segments stand. The verification compares the same fields.
pub(super) fn of_definitions(
    connection: &mut PgConnection,
    run: &Run,
    section: Section,
    records: &[DefinitionRecord],
) -> QueryResult<Vec<Standing>> {
    let (table, status, trigger) = match section {
        Section::Campaigns => ("campaigns", "status", "trigger"),
        _ => ("segments", "NULL::text", "NULL::text"),
    };
    // Of a record without a time of creation the database's is the time of some run.
    let query = format!(
        "SELECT name = $3 AND body::text = $4 AND ($5 IS NULL OR created_at = $5) \
           AND updated_at IS NOT DISTINCT FROM $6 AND {status} IS NOT DISTINCT FROM $7 \
           AND {trigger} IS NOT DISTINCT FROM $8 AS same \
         FROM {table} WHERE project_id = $1 AND id = $2"
    );
    let look = |record: &DefinitionRecord| {
        let found: Vec<Same> = sql_query(&query)
            .bind::<BigInt, _>(run.project.0)
            .bind::<Text, _>(&record.id)
            .bind::<Text, _>(&record.name)
            .bind::<Text, _>(&record.body)
            .bind::<Nullable<Timestamptz>, _>(record.created_at)
            .bind::<Nullable<Timestamptz>, _>(record.updated_at)
            .bind::<Nullable<Text>, _>(&record.status)
            .bind::<Nullable<Text>, _>(&record.trigger)
            .load(connection)?;
        Ok(standing(&found))
    };
    records.iter().map(look).collect()
}

/// How flags stand.
pub(super) fn of_flags(
    connection: &mut PgConnection,
    run: &Run,
    records: &[FlagRecord<'_>],
) -> QueryResult<Vec<Standing>> {
    let look = |record: &FlagRecord<'_>| {
        let found: Vec<Same> = sql_query(
            "SELECT enabled = $3 AND value::text IS NOT DISTINCT FROM $4 AND targeting IS NULL \
               AS same FROM feature_flags WHERE project_id = $1 AND key = $2",
        )
        .bind::<BigInt, _>(run.project.0)
        .bind::<Text, _>(&record.key)
        .bind::<Bool, _>(record.enabled)
        .bind::<Nullable<Text>, _>(record.value)
        .load(connection)?;
        Ok(standing(&found))
    };
    records.iter().map(look).collect()
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
        let mut standings = Standings::look(connection, run, plan)?;
        if mode == Mode::Import && standings.has_absent() {
            // In the order of every change, so that none waits for another in a circle. Whoever held
            // the lock may have created what was absent.
            live::bump_revision(connection, run.project.0)?;
            standings = Standings::look(connection, run, plan)?;
        }
        let mut created = Created::default();
        // The lists are newest first, and the order of creation breaks ties between equal times.
        for (record, standing) in plan.campaigns.iter().zip(&standings.campaigns).rev() {
            let found = Found::of(Section::Campaigns, record, *standing);
            if found.settle(connection, mode, &mut outcome, |connection| {
                insert_campaign(connection, run, record)
            })? {
                created.campaigns.push(record.id.clone());
            }
        }
        for (record, standing) in plan.segments.iter().zip(&standings.segments).rev() {
            let found = Found::of(Section::Segments, record, *standing);
            if found.settle(connection, mode, &mut outcome, |connection| {
                insert_segment(connection, run, record)
            })? {
                created.segments.push(record.id.clone());
            }
        }
        for (record, standing) in plan.flags.iter().zip(&standings.flags) {
            let found = Found {
                section: Section::FeatureFlags,
                pointer: record.key.clone(),
                id: &record.key,
                standing: *standing,
            };
            if found.settle(connection, mode, &mut outcome, |connection| {
                insert_flag(connection, run, record)
            })? {
                created.flags.push(record.key.clone());
            }
        }
        if mode == Mode::Import && !created.is_empty() {
            created.note(connection, run)?;
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

/// A record, and how it stands.
struct Found<'a> {
    section: Section,
    /// Its place or its name in the file.
    pointer: String,
    id: &'a str,
    standing: Standing,
}

impl<'a> Found<'a> {
    fn of(section: Section, record: &'a DefinitionRecord, standing: Standing) -> Self {
        Self {
            section,
            pointer: record.place.to_string(),
            id: &record.id,
            standing,
        }
    }

    /// Counts a record that is there, or inserts it and counts that; true when it was inserted, or
    /// would be.
    fn settle(
        self,
        connection: &mut PgConnection,
        mode: Mode,
        report: &mut Report,
        insert: impl FnOnce(&mut PgConnection) -> QueryResult<()>,
    ) -> QueryResult<bool> {
        match self.standing {
            Standing::Same => report.count_present(self.section, 1),
            Standing::Other => report.conflict(self.section, self.id),
            Standing::Absent if mode == Mode::DryRun => report.count_created(self.section, 1),
            // What the database cannot hold costs only itself.
            Standing::Absent => match connection.transaction(insert) {
                Ok(()) => {
                    report.count_created(self.section, 1);
                    return Ok(true);
                }
                Err(error) if is_refused_data(&error) => {
                    report.refuse(self.section, &self.pointer, self.id, &error);
                }
                Err(error) => return Err(error),
            },
        }
        Ok(false)
    }
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

fn insert_segment(
    connection: &mut PgConnection,
    run: &Run,
    record: &DefinitionRecord,
) -> QueryResult<()> {
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
}

fn insert_flag(
    connection: &mut PgConnection,
    run: &Run,
    record: &FlagRecord<'_>,
) -> QueryResult<()> {
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
}
