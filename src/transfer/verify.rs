//! The comparison at the end: how many rows, and a checksum a table, once from the file and once
//! from the database.
//!
//! A row's line holds its fields, joined by a separator; the checksum is the sum, over all rows, of
//! the first seven bytes of each line's SHA-256, so the order of rows does not matter. The file's
//! side is computed here, the database's in SQL. Only traits pass through the database on both
//! sides, because it alone knows how it writes them.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Date, Nullable, Text, Uuid as SqlUuid};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::batches;
use super::definitions::{self, CAMPAIGN_DIGEST, FLAG_DIGEST, SEGMENT_DIGEST, Standing};
use super::events::{RowIds, stored_on};
use super::file::Plan;
use super::people::{PERSON_DIGEST, columns};
use super::record::{DefinitionRecord, EventRecord, PersonRecord};
use super::report::{Report, Section, Verification};
use super::runs::Run;

/// The rows of one side, counted and summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    rows: i64,
    checksum: u128,
}

impl Sum {
    fn add_line(&mut self, fields: &[&str]) {
        let line = fields.join("\u{1f}");
        let digest = Sha256::digest(line.as_bytes());
        let first = digest.iter().take(7);
        self.rows += 1;
        self.checksum += first.fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.checksum += other.checksum;
    }
}

#[derive(diesel::QueryableByName)]
struct SumRow {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = Text)]
    checksum: String,
}

impl From<SumRow> for Sum {
    fn from(row: SumRow) -> Self {
        Self {
            rows: row.rows,
            // The sum is a whole number that SQL wrote; anything else must not compare as equal.
            checksum: row.checksum.parse().unwrap_or(u128::MAX),
        }
    }
}

/// Selects the count and the checksum of lines with these fields.
fn sum_of(fields: &str, from: &str) -> String {
    format!(
        "SELECT count(*) AS rows, coalesce(sum(('x' || encode(substring(sha256(convert_to(\
           concat_ws(chr(31), {fields}), 'UTF8')) FROM 1 FOR 7), 'hex'))::bit(56)::bigint), 0)::text \
           AS checksum FROM {from}"
    )
}

/// How often a part is compared again because others kept changing its rows.
const ROUNDS_MAX: u32 = 5;

/// Compares what was imported, and notes the outcome in the report.
pub(super) fn verify(
    connection: &mut PgConnection,
    run: &Run,
    plan: &Plan<'_>,
    report: &mut Report,
) -> QueryResult<()> {
    let mut left_out = LeftOut(std::mem::take(&mut report.left_out));
    let mut all = Vec::new();
    let mut notes = Vec::new();
    for (section, records) in [
        (Section::Campaigns, &plan.campaigns),
        (Section::Segments, &plan.segments),
    ] {
        let (sums, changed) = left_out.apart(
            section,
            connection,
            |connection, left_out| definitions(connection, run, records, section, left_out),
            |connection| changed_definitions(connection, run, section, records),
        )?;
        all.push(compared(section, sums));
        notes.extend(meanwhile(section, changed));
    }
    let (sums, changed) = left_out.apart(
        Section::FeatureFlags,
        connection,
        |connection, left_out| flags(connection, run, plan, left_out),
        |connection| changed_flags(connection, run, plan),
    )?;
    all.push(compared(Section::FeatureFlags, sums));
    notes.extend(meanwhile(Section::FeatureFlags, changed));
    let mut people_sums = (Sum::default(), Sum::default());
    let mut changed_people = 0;
    for batch in batches(&plan.people, PersonRecord::bytes) {
        let ((file, database), changed) = left_out.apart(
            Section::Users,
            connection,
            |connection, left_out| people(connection, run, batch, left_out),
            |connection| changed_people_of(connection, run, batch),
        )?;
        people_sums.0.add(file);
        people_sums.1.add(database);
        changed_people += changed;
    }
    all.push(compared(Section::Users, people_sums));
    notes.extend(meanwhile(Section::Users, changed_people));
    let mut event_sums = (Sum::default(), Sum::default());
    for batch in batches(&plan.events, EventRecord::bytes) {
        let (file, database) = events(connection, run, batch, &left_out)?;
        event_sums.0.add(file);
        event_sums.1.add(database);
    }
    all.push(compared(Section::Events, event_sums));
    report.verification = all;
    report.notes.extend(notes);
    Ok(())
}

fn meanwhile(section: Section, changed: usize) -> Option<String> {
    (changed > 0).then(|| {
        format!(
            "{changed} of the {} were changed by others during the import and are not verified",
            section.as_str()
        )
    })
}

/// Records that the report lists as conflicts, as refused or as received already, and those that
/// others changed since they were imported: the database rightly does not hold what the file says of
/// them.
struct LeftOut(HashSet<(Section, String)>);

impl LeftOut {
    fn has(&self, section: Section, id: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&(section, id.to_owned()))
    }

    /// Compares, and again without what others changed meanwhile; how many that are comes with the
    /// sums.
    fn apart(
        &mut self,
        section: Section,
        connection: &mut PgConnection,
        mut compare: impl FnMut(&mut PgConnection, &Self) -> QueryResult<(Sum, Sum)>,
        mut changed: impl FnMut(&mut PgConnection) -> QueryResult<Vec<String>>,
    ) -> QueryResult<((Sum, Sum), usize)> {
        let before = self.0.len();
        let mut rounds = 1;
        loop {
            let sums = compare(connection, self)?;
            let known = self.0.len();
            if sums.0 != sums.1 && rounds < ROUNDS_MAX {
                let ids = changed(connection)?;
                self.0.extend(ids.into_iter().map(|id| (section, id)));
            }
            if self.0.len() == known {
                return Ok((sums, known - before));
            }
            rounds += 1;
        }
    }
}

fn compared(section: Section, (file, database): (Sum, Sum)) -> Verification {
    let hex = |sum: Sum| format!("{:032x}", sum.checksum);
    Verification {
        section,
        rows_expected: file.rows,
        rows_found: database.rows,
        checksum_expected: hex(file),
        checksum_found: hex(database),
    }
}

/// A time as SQL's `extract(epoch …)` in microseconds.
fn micros(time: DateTime<Utc>) -> String {
    time.timestamp_micros().to_string()
}

const MICROS: &str = "CASE WHEN t.is_dated \
       THEN (extract(epoch FROM created_at) * 1000000)::bigint::text ELSE '-' END, \
     coalesce((extract(epoch FROM updated_at) * 1000000)::bigint::text, '-')";

fn definitions(
    connection: &mut PgConnection,
    run: &Run,
    records: &[DefinitionRecord],
    section: Section,
    left_out: &LeftOut,
) -> QueryResult<(Sum, Sum)> {
    let mut file = Sum::default();
    let mut ids = Vec::new();
    let mut dated = Vec::new();
    for record in records {
        if left_out.has(section, &record.id) {
            continue;
        }
        let created = record.created_at.map_or("-".to_owned(), micros);
        let updated = record.updated_at.map_or("-".to_owned(), micros);
        let mut fields = vec![record.id.as_str(), &record.name];
        if section == Section::Campaigns {
            fields.push(record.status.as_deref().unwrap_or("-"));
            fields.push(record.trigger.as_deref().unwrap_or("-"));
        }
        fields.extend([record.body.as_str(), &created, &updated]);
        file.add_line(&fields);
        ids.push(record.id.as_str());
        dated.push(record.created_at.is_some());
    }
    let (table, fields) = match section {
        Section::Campaigns => (
            "campaigns",
            "id, name, coalesce(status, '-'), coalesce(trigger, '-'), body::text",
        ),
        _ => ("segments", "id, name, body::text"),
    };
    let query = sum_of(
        &format!("{fields}, {MICROS}"),
        &format!(
            "{table} JOIN unnest($2, $3) AS t (key, is_dated) ON t.key = id WHERE project_id = $1"
        ),
    );
    let database = sql_query(query)
        .bind::<BigInt, _>(run.project.0)
        .bind::<Array<Text>, _>(ids)
        .bind::<Array<Bool>, _>(dated)
        .get_result::<SumRow>(connection)?;
    Ok((file, database.into()))
}

fn flags(
    connection: &mut PgConnection,
    run: &Run,
    plan: &Plan<'_>,
    left_out: &LeftOut,
) -> QueryResult<(Sum, Sum)> {
    let mut file = Sum::default();
    let mut keys = Vec::new();
    for flag in &plan.flags {
        if left_out.has(Section::FeatureFlags, &flag.key) {
            continue;
        }
        let enabled = if flag.enabled { "true" } else { "false" };
        file.add_line(&[&flag.key, enabled, flag.value.unwrap_or("-")]);
        keys.push(flag.key.as_str());
    }
    let query = sum_of(
        "key, enabled::text, coalesce(value::text, '-')",
        "feature_flags WHERE project_id = $1 AND key = ANY($2)",
    );
    let database = sql_query(query)
        .bind::<BigInt, _>(run.project.0)
        .bind::<Array<Text>, _>(keys)
        .get_result::<SumRow>(connection)?;
    Ok((file, database.into()))
}

#[derive(diesel::QueryableByName)]
struct Key {
    #[diesel(sql_type = Text)]
    key: String,
}

/// The campaigns or segments that are other than the file says, but for those that are as this run
/// left them: these the database did not keep.
fn changed_definitions(
    connection: &mut PgConnection,
    run: &Run,
    section: Section,
    records: &[DefinitionRecord],
) -> QueryResult<Vec<String>> {
    let standings = definitions::of_definitions(connection, run, section, records)?;
    let ids = records.iter().map(|record| record.id.as_str());
    let table = match section {
        Section::Campaigns => ("campaign", "campaigns", "id", CAMPAIGN_DIGEST),
        _ => ("segment", "segments", "id", SEGMENT_DIGEST),
    };
    changed_since(connection, run, table, ids.zip(standings))
}

/// The same of flags.
fn changed_flags(
    connection: &mut PgConnection,
    run: &Run,
    plan: &Plan<'_>,
) -> QueryResult<Vec<String>> {
    let standings = definitions::of_flags(connection, run, &plan.flags)?;
    let keys = plan.flags.iter().map(|flag| flag.key.as_str());
    let table = ("flag", "feature_flags", "key", FLAG_DIGEST);
    changed_since(connection, run, table, keys.zip(standings))
}

fn changed_since<'a>(
    connection: &mut PgConnection,
    run: &Run,
    (kind, table, key, digest): (&str, &str, &str, &str),
    standings: impl Iterator<Item = (&'a str, Standing)>,
) -> QueryResult<Vec<String>> {
    let as_left: Vec<Key> = sql_query(format!(
        "SELECT r.key FROM import_rows r JOIN (SELECT {key} AS found, {digest} AS content \
           FROM {table} WHERE project_id = $2) AS t ON t.found = r.key AND t.content = r.digest \
         WHERE r.run_id = $1 AND r.kind = '{kind}'"
    ))
    .bind::<BigInt, _>(run.id)
    .bind::<BigInt, _>(run.project.0)
    .load(connection)?;
    let as_left: HashSet<&str> = as_left.iter().map(|row| row.key.as_str()).collect();
    Ok(standings
        .filter(|(id, standing)| *standing == Standing::Other && !as_left.contains(id))
        .map(|(id, _)| id.to_owned())
        .collect())
}

/// The same of people.
fn changed_people_of(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[PersonRecord<'_>],
) -> QueryResult<Vec<String>> {
    let (ids, traits) = columns(batch);
    let changed: Vec<Key> = sql_query(format!(
        "SELECT i.value AS key FROM unnest($3, $4) AS t (value, said) \
         JOIN identities i ON i.project_id = $1 AND i.kind = 0 AND i.value = t.value \
         JOIN persons p ON p.id = i.person_id AND p.project_id = $1 \
         LEFT JOIN import_rows r ON r.run_id = $2 AND r.kind = 'person' AND r.key = p.id::text \
         WHERE p.traits::text <> t.said::jsonb::text AND r.digest IS DISTINCT FROM {PERSON_DIGEST}"
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<BigInt, _>(run.id)
    .bind::<Array<Text>, _>(ids)
    .bind::<Array<Nullable<Text>>, _>(traits)
    .load(connection)?;
    Ok(changed.into_iter().map(|row| row.key).collect())
}

fn people(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[PersonRecord<'_>],
    left_out: &LeftOut,
) -> QueryResult<(Sum, Sum)> {
    let records: Vec<&PersonRecord<'_>> = batch
        .iter()
        .filter(|record| !left_out.has(Section::Users, record.identity.value()))
        .collect();
    let ids: Vec<&str> = records
        .iter()
        .map(|record| record.identity.value())
        .collect();
    let traits: Vec<Option<&str>> = records
        .iter()
        .map(|record| record.traits.as_deref())
        .collect();
    // Of somebody whom only events mention the file says no traits, so none are compared.
    let file = sql_query(sum_of(
        "value, coalesce(traits::jsonb::text, '-')",
        "unnest($1, $2) AS t (value, traits)",
    ))
    .bind::<Array<Text>, _>(&ids)
    .bind::<Array<Nullable<Text>>, _>(&traits)
    .get_result::<SumRow>(connection)?;
    let database = sql_query(sum_of(
        "i.value, CASE WHEN t.traits IS NULL THEN '-' ELSE p.traits::text END",
        "unnest($2, $3) AS t (value, traits) \
         JOIN identities i ON i.project_id = $1 AND i.kind = 0 AND i.value = t.value \
         JOIN persons p ON p.id = i.person_id AND p.project_id = $1",
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<Text>, _>(&ids)
    .bind::<Array<Nullable<Text>>, _>(&traits)
    .get_result::<SumRow>(connection)?;
    Ok((file.into(), database.into()))
}

fn events(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[EventRecord<'_>],
    left_out: &LeftOut,
) -> QueryResult<(Sum, Sum)> {
    let mut file = Sum::default();
    let mut ids: Vec<Uuid> = Vec::new();
    for record in batch {
        if left_out.has(Section::Events, &record.id) {
            continue;
        }
        file.add_line(&[
            &record.id,
            &record.name,
            &record.user,
            record.properties.unwrap_or("-"),
            &micros(record.timestamp),
        ]);
        ids.extend(RowIds::of(run.project, &record.id).all());
    }
    // Every day that may have them is searched, so an event that is there twice counts twice.
    let stored = stored_on(connection, &ids)?;
    if stored.ids.is_empty() {
        return Ok((file, Sum::default()));
    }
    let database = sql_query(sum_of(
        "coalesce(e.message_id, e.id::text), e.name, e.user_id, \
         coalesce(e.properties::text, '-'), (extract(epoch FROM e.timestamp) * 1000000)::bigint",
        &format!(
            "unnest($2, $3) AS t (day, id) \
             CROSS JOIN LATERAL (SELECT * FROM events e \
               WHERE e.received_on IN ({}) AND e.received_on = t.day AND e.id = t.id OFFSET 0) AS e \
             JOIN persons p ON p.id = e.person_id AND p.project_id = e.project_id \
             WHERE e.project_id = $1 AND e.kind = 0",
            stored.list_of_days()
        ),
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<Date>, _>(stored.days)
    .bind::<Array<SqlUuid>, _>(stored.ids)
    .get_result::<SumRow>(connection)?;
    Ok((file, database.into()))
}
