//! People: those in `users`, with their traits, and those whom only events mention.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::record::PersonRecord;
use super::report::{Report, Section};
use super::runs::Run;
use super::{Mode, TransferError};

/// How many ids one `nextval` hands out.
const IDS_A_BLOCK: i64 = 100;

/// How often a batch is looked at again because others created the same people meanwhile.
const ROUNDS_MAX: u32 = 5;

/// The content of a person as it is compared with what was imported.
pub(super) const PERSON_DIGEST: &str = "sha256(convert_to(traits::text, 'UTF8'))";

#[derive(diesel::QueryableByName)]
struct Standing {
    #[diesel(sql_type = Bool)]
    found: bool,
    #[diesel(sql_type = Bool)]
    same: bool,
}

pub(super) fn load(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[PersonRecord<'_>],
    mode: Mode,
    report: &mut Report,
) -> Result<(), TransferError> {
    let mut created: Vec<String> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let standings = standings(connection, run, batch)?;
        let absent: Vec<&PersonRecord<'_>> = batch
            .iter()
            .zip(&standings)
            .filter_map(|(record, standing)| (!standing.found).then_some(record))
            .collect();
        if mode == Mode::DryRun || absent.is_empty() {
            report.count_created(Section::Users, absent.len() + created.len());
            created.sort_unstable();
            for (record, standing) in batch.iter().zip(&standings) {
                let id = record.identity.value();
                let is_ours = created
                    .binary_search_by(|ours| ours.as_str().cmp(id))
                    .is_ok();
                match standing {
                    _ if is_ours => {}
                    Standing { found: false, .. } => {}
                    Standing { same: true, .. } => report.count_present(Section::Users, 1),
                    Standing { same: false, .. } => report.conflict(Section::Users, id),
                }
            }
            return Ok(());
        }
        // Who is created by others between the look and the insert is found in the next round.
        created.extend(connection.transaction(|connection| create(connection, run, absent))?);
    }
    Err(TransferError::Contended)
}

/// Their user ids, and what the file says of each.
pub(super) fn columns<'r>(batch: &'r [PersonRecord<'_>]) -> (Vec<&'r str>, Vec<Option<&'r str>>) {
    let column = |record: &'r PersonRecord<'_>| (record.identity.value(), record.traits.as_deref());
    batch.iter().map(column).unzip()
}

fn standings(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[PersonRecord<'_>],
) -> QueryResult<Vec<Standing>> {
    let (ids, traits) = columns(batch);
    // As text, which is how the verification compares: equal numbers may be written otherwise.
    sql_query(
        "SELECT i.person_id IS NOT NULL AS found, \
                coalesce(t.traits IS NULL OR p.traits::text = t.traits::jsonb::text, false) AS same \
         FROM unnest($2, $3) WITH ORDINALITY AS t (value, traits, n) \
         LEFT JOIN identities i ON i.project_id = $1 AND i.kind = 0 AND i.value = t.value \
         LEFT JOIN persons p ON p.id = i.person_id ORDER BY t.n",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<Text>, _>(ids)
    .bind::<Array<Nullable<Text>>, _>(traits)
    .load(connection)
}

/// Creates people and notes them; returns whom nobody else created first.
fn create(
    connection: &mut PgConnection,
    run: &Run,
    mut absent: Vec<&PersonRecord<'_>>,
) -> QueryResult<Vec<String>> {
    #[derive(diesel::QueryableByName)]
    struct Created {
        #[diesel(sql_type = Text)]
        value: String,
    }
    // Everybody who inserts identities does so in this order, so nobody waits in a circle.
    absent.sort_by(|a, b| a.identity.cmp(&b.identity));
    let ids = allocate(connection, absent.len())?;
    let span = |record: &PersonRecord<'_>| record.seen.unwrap_or((run.started_at, run.started_at));
    let values: Vec<&str> = absent
        .iter()
        .map(|record| record.identity.value())
        .collect();
    let homes: Vec<i64> = absent
        .iter()
        .map(|record| record.identity.home(run.project))
        .collect();
    let traits: Vec<&str> = absent
        .iter()
        .map(|record| record.traits.as_deref().unwrap_or("{}"))
        .collect();
    let first_seen: Vec<DateTime<Utc>> = absent.iter().map(|record| span(record).0).collect();
    let last_seen: Vec<DateTime<Utc>> = absent.iter().map(|record| span(record).1).collect();
    let created = sql_query(format!(
        "WITH input AS MATERIALIZED (SELECT * FROM unnest($3, $4, $5, $6, $7, $8) \
             AS t (id, value, home, traits, first_seen, last_seen)), \
         named AS (INSERT INTO identities (project_id, kind, value, person_id, created_at) \
             SELECT $1, 0, value, id, first_seen FROM input \
             ON CONFLICT DO NOTHING RETURNING value, person_id), \
         born AS (INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, \
                                       traits, created_at, last_seen_at) \
             SELECT i.id, $1, i.home, 0, i.value, i.traits::jsonb, i.first_seen, i.last_seen \
             FROM input i JOIN named n ON n.person_id = i.id \
             RETURNING id, bucketing_value, traits), \
         noted AS (INSERT INTO import_rows (run_id, kind, key, digest) \
             SELECT $2, 'person', id::text, {PERSON_DIGEST} FROM born) \
         SELECT bucketing_value AS value FROM born"
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<BigInt, _>(run.id)
    .bind::<Array<BigInt>, _>(ids)
    .bind::<Array<Text>, _>(values)
    .bind::<Array<BigInt>, _>(homes)
    .bind::<Array<Text>, _>(traits)
    .bind::<Array<Timestamptz>, _>(first_seen)
    .bind::<Array<Timestamptz>, _>(last_seen)
    .load::<Created>(connection)?;
    Ok(created.into_iter().map(|row| row.value).collect())
}

/// As many fresh person ids, from blocks of the sequence.
fn allocate(connection: &mut PgConnection, count: usize) -> QueryResult<Vec<i64>> {
    #[derive(diesel::QueryableByName)]
    struct Block {
        #[diesel(sql_type = BigInt)]
        base: i64,
    }
    let wanted = i64::try_from(count).unwrap_or(i64::MAX);
    let blocks = sql_query(
        "SELECT nextval('persons_id_seq') AS base FROM generate_series(1, $1) ORDER BY 1",
    )
    .bind::<BigInt, _>((wanted + IDS_A_BLOCK - 1) / IDS_A_BLOCK)
    .load::<Block>(connection)?;
    Ok(blocks
        .iter()
        .flat_map(|block| block.base..block.base + IDS_A_BLOCK)
        .take(count)
        .collect())
}
