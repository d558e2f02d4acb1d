//! The comparison at the end: how many rows, and a checksum a table, once from the file and once
//! from the database.
//!
//! A row's line holds its fields, joined by a separator; the checksum is the sum, over all rows, of
//! the first seven bytes of each line's SHA-256, so the order of rows does not matter. The file's
//! side is computed here, the database's in SQL. Only traits pass through the database on both
//! sides, because it alone knows how it writes them.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Date, Nullable, Text, Uuid as SqlUuid};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::BATCH_RECORDS;
use super::events::{RowIds, stored_on};
use super::file::Plan;
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

pub(super) fn verify(
    connection: &mut PgConnection,
    run: &Run,
    plan: &Plan<'_>,
    report: &Report,
) -> QueryResult<Vec<Verification>> {
    let left_out = LeftOut::of(report);
    let mut all = vec![
        definitions(
            connection,
            run,
            &plan.campaigns,
            Section::Campaigns,
            &left_out,
        )?,
        definitions(
            connection,
            run,
            &plan.segments,
            Section::Segments,
            &left_out,
        )?,
        flags(connection, run, plan, &left_out)?,
    ];
    let mut people_sums = (Sum::default(), Sum::default());
    for batch in plan.people.chunks(BATCH_RECORDS) {
        let (file, database) = people(connection, run, batch, &left_out)?;
        people_sums.0.add(file);
        people_sums.1.add(database);
    }
    all.push(compared(Section::Users, people_sums));
    let mut event_sums = (Sum::default(), Sum::default());
    for batch in plan.events.chunks(BATCH_RECORDS) {
        let (file, database) = events(connection, run, batch, &left_out)?;
        event_sums.0.add(file);
        event_sums.1.add(database);
    }
    all.push(compared(Section::Events, event_sums));
    Ok(all)
}

/// Records that the report lists as conflicts or as received already: the database rightly does not
/// hold what the file says of them.
struct LeftOut<'a>(HashSet<(Section, &'a str)>);

impl<'a> LeftOut<'a> {
    fn of(report: &'a Report) -> Self {
        let conflicts = report.conflicts.iter().map(|c| (c.section, c.id.as_str()));
        let received = report
            .skipped
            .iter()
            .filter(|skipped| skipped.code == "already_received")
            .filter_map(|skipped| Some((skipped.section, skipped.id.as_deref()?)));
        Self(conflicts.chain(received).collect())
    }

    fn has(&self, section: Section, id: &str) -> bool {
        self.0.contains(&(section, id))
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

const MICROS: &str = "(extract(epoch FROM created_at) * 1000000)::bigint::text, \
     coalesce((extract(epoch FROM updated_at) * 1000000)::bigint::text, '-')";

fn definitions(
    connection: &mut PgConnection,
    run: &Run,
    records: &[DefinitionRecord],
    section: Section,
    left_out: &LeftOut<'_>,
) -> QueryResult<Verification> {
    let mut file = Sum::default();
    let mut ids = Vec::new();
    for record in records {
        if left_out.has(section, &record.id) {
            continue;
        }
        let created = micros(record.created_at.unwrap_or(run.started_at));
        let updated = record.updated_at.map_or("-".to_owned(), micros);
        let mut fields = vec![record.id.as_str(), &record.name];
        if section == Section::Campaigns {
            fields.push(record.status.as_deref().unwrap_or("-"));
            fields.push(record.trigger.as_deref().unwrap_or("-"));
        }
        fields.extend([record.body.as_str(), &created, &updated]);
        file.add_line(&fields);
        ids.push(record.id.as_str());
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
        &format!("{table} WHERE project_id = $1 AND id = ANY($2)"),
    );
    let database = sql_query(query)
        .bind::<BigInt, _>(run.project.0)
        .bind::<Array<Text>, _>(ids)
        .get_result::<SumRow>(connection)?;
    Ok(compared(section, (file, database.into())))
}

fn flags(
    connection: &mut PgConnection,
    run: &Run,
    plan: &Plan<'_>,
    left_out: &LeftOut<'_>,
) -> QueryResult<Verification> {
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
    Ok(compared(Section::FeatureFlags, (file, database.into())))
}

fn people(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[PersonRecord<'_>],
    left_out: &LeftOut<'_>,
) -> QueryResult<(Sum, Sum)> {
    let records: Vec<&PersonRecord<'_>> = batch
        .iter()
        .filter(|record| !left_out.has(Section::Users, record.identity.value()))
        .collect();
    let ids: Vec<&str> = records
        .iter()
        .map(|record| record.identity.value())
        .collect();
    let traits: Vec<Option<&str>> = records.iter().map(|record| record.traits).collect();
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
    left_out: &LeftOut<'_>,
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
