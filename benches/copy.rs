//! Events in the binary form of COPY.

use std::io::{self, Write};

use beckon::store::schema::events;
use chrono::{DateTime, Utc};
use diesel::pg::CopyFormat;
use diesel::{ExecuteCopyFromDsl, PgConnection, QueryResult, copy_from};
use uuid::Uuid;

/// One event, about a known person.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its id.
    pub id: Uuid,
    /// Whom it is about.
    pub person: i64,
    /// Its name.
    pub name: &'a str,
    /// The application's id of the person.
    pub user_id: &'a str,
    /// The caller's id of the call.
    pub message_id: &'a str,
    /// A JSON object as text.
    pub properties: &'a str,
    /// When it came; its day is the partition's.
    pub at: DateTime<Utc>,
}

/// Copies events into their table.
pub fn into_events(connection: &mut PgConnection, rows: &[Event<'_>]) -> QueryResult<usize> {
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
        .from_raw_data(target, |out| {
            let none = std::iter::empty();
            write(rows, none, out).map_err(failed)
        })
        .with_format(CopyFormat::Binary)
        .execute(connection)
}

/// What a COPY reports when its data cannot be sent.
pub fn failed(error: io::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(Box::new(error))
}

/// Writes everything with one call, since each call becomes a message of its own. Each row may have
/// one more column, in the order of the rows.
pub fn write<'a>(
    rows: &[Event<'_>],
    mut further: impl Iterator<Item = &'a [u8]>,
    out: &mut dyn Write,
) -> io::Result<()> {
    const PROJECT: [u8; 8] = 1_i64.to_be_bytes();
    const TRACK: [u8; 2] = 0_i16.to_be_bytes();
    let mut bytes = Vec::with_capacity(rows.len() * 500 + 32);
    bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
    bytes.extend_from_slice(&[0; 8]);
    for row in rows {
        let since = row.at.signed_duration_since(epoch());
        // In UTC a day is a day, so whole days since the epoch are the date.
        let day = i32::try_from(since.num_days())
            .unwrap_or(i32::MAX)
            .to_be_bytes();
        let at = since.num_microseconds().unwrap_or(0).to_be_bytes();
        let person = row.person.to_be_bytes();
        let fields: [&[u8]; 11] = [
            &day,
            row.id.as_bytes(),
            &PROJECT,
            &person,
            &TRACK,
            row.name.as_bytes(),
            row.user_id.as_bytes(),
            row.message_id.as_bytes(),
            row.properties.as_bytes(),
            &at,
            &at,
        ];
        let last = further.next();
        let columns = if last.is_some() { 12_i16 } else { 11 };
        bytes.extend_from_slice(&columns.to_be_bytes());
        for field in fields.into_iter().chain(last) {
            let length = i32::try_from(field.len()).unwrap_or(i32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(field);
        }
    }
    bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    out.write_all(&bytes)
}

/// Where Postgres's clock begins.
fn epoch() -> DateTime<Utc> {
    DateTime::from_timestamp(946_684_800, 0).unwrap_or_default()
}
