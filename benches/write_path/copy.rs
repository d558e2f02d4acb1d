//! Rows in the binary form of COPY.

use std::io::{self, Write};

use beckon::store::schema::events;
use chrono::{DateTime, Utc};
use diesel::pg::CopyFormat;
use diesel::{ExecuteCopyFromDsl, PgConnection, QueryResult, copy_from};

use crate::rows::Rows;

diesel::table! {
    bench_staging (id) {
        received_on -> Date,
        id -> Uuid,
        project_id -> Int8,
        person_id -> Int8,
        kind -> Int2,
        name -> Text,
        user_id -> Nullable<Text>,
        message_id -> Nullable<Text>,
        properties -> Nullable<Json>,
        timestamp -> Timestamptz,
        received_at -> Timestamptz,
        digest -> Binary,
    }
}

/// Copies rows into the table of events.
pub fn into_events(connection: &mut PgConnection, rows: &Rows) -> QueryResult<usize> {
    let target = (
        events::received_on,
        events::id,
        events::project_id,
        events::person_id,
        events::kind,
        events::name,
        events::user_id,
        events::message_id,
        events::properties,
        events::timestamp,
        events::received_at,
    );
    copy_from(events::table)
        .from_raw_data(target, |out| write(rows, false, out).map_err(failed))
        .with_format(CopyFormat::Binary)
        .execute(connection)
}

/// Copies rows into the staging table of this session.
pub fn into_staging(connection: &mut PgConnection, rows: &Rows) -> QueryResult<usize> {
    copy_from(bench_staging::table)
        .from_raw_data(bench_staging::all_columns, |out| {
            write(rows, true, out).map_err(failed)
        })
        .with_format(CopyFormat::Binary)
        .execute(connection)
}

fn failed(error: io::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(Box::new(error))
}

/// Writes everything with one call, since each call becomes a message of its own.
fn write(rows: &Rows, with_digest: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(rows.ids.len() * 500 + 32);
    bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
    bytes.extend_from_slice(&[0; 8]);
    let day = rows
        .day
        .signed_duration_since(epoch().date_naive())
        .num_days() as i32;
    for row in 0..rows.ids.len() {
        let at = rows.at[row]
            .signed_duration_since(epoch())
            .num_microseconds()
            .unwrap_or(0);
        let digest = with_digest.then(|| rows.digests[row].as_slice());
        let columns = if with_digest { 12_i16 } else { 11 };
        bytes.extend_from_slice(&columns.to_be_bytes());
        let (day, person) = (day.to_be_bytes(), rows.people[row].to_be_bytes());
        let at = at.to_be_bytes();
        let fields: [&[u8]; 11] = [
            &day,
            rows.ids[row].as_bytes(),
            &PROJECT,
            &person,
            &TRACK,
            rows.names[row].as_bytes(),
            rows.user_ids[row].as_bytes(),
            rows.message_ids[row].as_bytes(),
            rows.properties[row].as_bytes(),
            &at,
            &at,
        ];
        for field in fields.into_iter().chain(digest) {
            bytes.extend_from_slice(&(field.len() as i32).to_be_bytes());
            bytes.extend_from_slice(field);
        }
    }
    bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    out.write_all(&bytes)
}

const PROJECT: [u8; 8] = 1_i64.to_be_bytes();
const TRACK: [u8; 2] = [0, 0];

/// Where Postgres's clock begins.
fn epoch() -> DateTime<Utc> {
    DateTime::from_timestamp(946_684_800, 0).unwrap_or_default()
}
