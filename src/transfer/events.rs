//! Events, with their ids claimed as message ids.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection;
use diesel::sql_types::{
    Array, BigInt, Bool, Date, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};
use uuid::Uuid;

use super::record::EventRecord;
use super::report::{Report, Section};
use super::runs::{Run, note_rows};
use super::{Mode, TransferError};
use crate::model::{ProjectId, message_digest};
use crate::store::partitions::{self, MESSAGE_BUCKET_LOCK};

/// The name space of row ids that are made from other ids.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x6b1d_8f0e_5c0a_4d35_9a53_0f6e_2b7c_4e91);

/// How often a batch is begun anew because a server claimed one of its ids meanwhile.
const ROUNDS_MAX: u32 = 5;

/// The ids under which an event may be stored: its own, where it is a UUID, and one made from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowIds {
    pub(super) own: Option<Uuid>,
    pub(super) made: Uuid,
}

impl RowIds {
    pub(super) fn of(project: ProjectId, id: &str) -> Self {
        // Only the canonical form: two texts must not lead to one row.
        let own = Uuid::parse_str(id)
            .ok()
            .filter(|uuid| uuid.to_string() == id);
        let mut name = project.0.to_be_bytes().to_vec();
        name.extend_from_slice(id.as_bytes());
        Self {
            own,
            made: Uuid::new_v5(&ID_NAMESPACE, &name),
        }
    }

    pub(super) fn all(self) -> impl Iterator<Item = Uuid> {
        self.own.into_iter().chain([self.made])
    }
}

/// How a record stands against the database.
enum Standing {
    /// To be stored under this id.
    Absent(Uuid),
    /// Stored, with the same content.
    Present,
    /// Stored, with other content.
    Other,
    /// A client has sent it; the server stored it under this id.
    ReceivedAs(Uuid),
}

/// The days on which events with these ids may be stored. Where there are many days, looking on all
/// of them is most of what an import costs.
///
/// An id that a server makes is a UUIDv7, so an event of any other id was imported, and counts as
/// received on the day on which its run began or, past midnight, on the next one. A UUIDv7 may be of
/// any day: its time is that of a node's clock.
fn days(connection: &mut PgConnection, ids: &[Uuid]) -> QueryResult<Vec<NaiveDate>> {
    #[derive(diesel::QueryableByName)]
    struct Day {
        #[diesel(sql_type = Date)]
        day: NaiveDate,
    }
    if ids.iter().any(|id| id.get_version_num() == 7) {
        let days = partitions::list(connection)?;
        return Ok(days.into_iter().map(|partition| partition.day).collect());
    }
    // Runs of all projects: they share row ids.
    let days: Vec<Day> = sql_query(
        "SELECT DISTINCT started_at::date + n AS day FROM import_runs, generate_series(0, 1) AS n",
    )
    .load(connection)?;
    Ok(days.into_iter().map(|row| row.day).collect())
}

/// Rows of `events` by their keys.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) ids: Vec<Uuid>,
    /// The day of each.
    pub(super) days: Vec<NaiveDate>,
}

impl Stored {
    /// The days as constants of a statement, which is then planned for their partitions alone.
    pub(super) fn list_of_days(&self) -> String {
        let days: BTreeSet<String> = self.days.iter().map(|day| format!("'{day}'")).collect();
        days.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// Which of these ids are stored, whatever their project.
pub(super) fn stored_on(connection: &mut PgConnection, ids: &[Uuid]) -> QueryResult<Stored> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let mut found = Stored::default();
    for day in days(connection, ids)? {
        // With the day as a constant only its own partition is planned for and looked at.
        let rows: Vec<Row> = sql_query(format!(
            "SELECT id FROM events WHERE received_on = '{day}' AND id = ANY($1)"
        ))
        .bind::<Array<SqlUuid>, _>(ids)
        .load(connection)?;
        for row in rows {
            found.ids.push(row.id);
            found.days.push(day);
        }
    }
    Ok(found)
}

pub(super) fn load(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[EventRecord<'_>],
    mode: Mode,
    report: &mut Report,
) -> Result<(), TransferError> {
    for _ in 0..ROUNDS_MAX {
        let written = connection.transaction(|connection| write(connection, run, batch, mode));
        let standings = match written {
            Ok(standings) => standings,
            // Somebody claimed an id between the look and the claim; the next look finds it.
            Err(diesel::result::Error::RollbackTransaction) => continue,
            Err(error) => return Err(error.into()),
        };
        for (record, standing) in batch.iter().zip(standings) {
            match standing {
                Standing::Absent(_) => report.count_created(Section::Events, 1),
                Standing::Present => report.count_present(Section::Events, 1),
                Standing::Other => report.conflict(Section::Events, &record.id),
                Standing::ReceivedAs(id) => {
                    let reason = format!("a client has sent it; it is stored as event {id}");
                    let why = ("already_received", reason);
                    report.skip(Section::Events, &record.place.to_string(), &record.id, why);
                }
            }
        }
        return Ok(());
    }
    Err(TransferError::Contended)
}

fn write(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[EventRecord<'_>],
    mode: Mode,
) -> QueryResult<Vec<Standing>> {
    // Held until the end of the transaction, it keeps the buckets from being swapped.
    connection.batch_execute(&format!(
        "SELECT pg_advisory_xact_lock_shared({MESSAGE_BUCKET_LOCK})"
    ))?;
    let standings = standings(connection, run, batch)?;
    let mut fresh: Vec<(&EventRecord<'_>, Uuid)> = batch
        .iter()
        .zip(&standings)
        .filter_map(|(record, standing)| match standing {
            Standing::Absent(id) => Some((record, *id)),
            _ => None,
        })
        .collect();
    if mode == Mode::Import && !fresh.is_empty() {
        claim(connection, run, &mut fresh)?;
        insert(connection, run, &fresh)?;
        let ids: Vec<String> = fresh.iter().map(|(_, id)| id.to_string()).collect();
        note_rows(connection, run, "event", &ids)?;
    }
    Ok(standings)
}

#[derive(diesel::QueryableByName)]
struct Found {
    #[diesel(sql_type = BigInt)]
    n: i64,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Bool)]
    ours: bool,
    #[diesel(sql_type = Bool)]
    same: bool,
}

#[derive(diesel::QueryableByName)]
struct Claimed {
    #[diesel(sql_type = BigInt)]
    n: i64,
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
}

fn standings(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[EventRecord<'_>],
) -> QueryResult<Vec<Standing>> {
    let stored = find_stored(connection, run, batch)?;
    let claims = find_claims(connection, run, batch)?;
    let standing = |(n, record): (i64, &EventRecord<'_>)| {
        let ids = RowIds::of(run.project, &record.id);
        let rows = stored.get(&n).map_or(&[][..], Vec::as_slice);
        if let Some(ours) = rows.iter().find(|row| row.ours) {
            return if ours.same {
                Standing::Present
            } else {
                Standing::Other
            };
        }
        let claimed_by_others = claims
            .get(&n)
            .filter(|claim| ids.all().all(|id| id != **claim));
        if let Some(event) = claimed_by_others {
            return Standing::ReceivedAs(*event);
        }
        // Another project's row of the same id leaves the made one.
        let own_is_free = |own: &Uuid| rows.iter().all(|row| row.id != *own);
        Standing::Absent(ids.own.filter(own_is_free).unwrap_or(ids.made))
    };
    Ok((0_i64..).zip(batch).map(standing).collect())
}

/// The rows under any of the records' ids, whatever their project: row ids are shared by all.
fn find_stored(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[EventRecord<'_>],
) -> QueryResult<HashMap<i64, Vec<Found>>> {
    let mut places: Vec<i64> = Vec::new();
    let mut ids: Vec<Uuid> = Vec::new();
    for (n, record) in (0_i64..).zip(batch) {
        for id in RowIds::of(run.project, &record.id).all() {
            places.push(n);
            ids.push(id);
        }
    }
    let stored = stored_on(connection, &ids)?;
    if stored.ids.is_empty() {
        return Ok(HashMap::new());
    }
    let names: Vec<&str> = batch.iter().map(|record| record.name.as_ref()).collect();
    let users: Vec<&str> = batch.iter().map(|record| record.user.as_ref()).collect();
    let properties: Vec<Option<&str>> = batch.iter().map(|record| record.properties).collect();
    let times: Vec<DateTime<Utc>> = batch.iter().map(|record| record.timestamp).collect();
    // OFFSET keeps each row's look-up by itself, so that it uses the key: a join would read all that
    // is stored on these days, once a batch.
    let rows = sql_query(format!(
        "SELECT t.n, e.id, e.project_id = $1 AS ours, \
                e.kind = 0 AND e.name = r.name AND e.user_id IS NOT DISTINCT FROM r.user_id \
                AND e.properties::text IS NOT DISTINCT FROM r.properties \
                AND e.timestamp = r.timestamp AS same \
         FROM unnest($2, $3) AS t (n, id) \
         JOIN unnest($5, $6, $7, $8) WITH ORDINALITY AS r (name, user_id, properties, timestamp, m) \
           ON r.m = t.n + 1 \
         JOIN unnest($4, $9) AS s (id, day) ON s.id = t.id \
         CROSS JOIN LATERAL (SELECT * FROM events e \
           WHERE e.received_on IN ({}) AND e.received_on = s.day AND e.id = s.id OFFSET 0) AS e",
        stored.list_of_days()
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<BigInt>, _>(places)
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<SqlUuid>, _>(stored.ids)
    .bind::<Array<Text>, _>(names)
    .bind::<Array<Text>, _>(users)
    .bind::<Array<Nullable<Text>>, _>(properties)
    .bind::<Array<Timestamptz>, _>(times)
    .bind::<Array<Date>, _>(stored.days)
    .load::<Found>(connection)?;
    let mut found: HashMap<i64, Vec<Found>> = HashMap::new();
    for row in rows {
        found.entry(row.n).or_default().push(row);
    }
    Ok(found)
}

fn find_claims(
    connection: &mut PgConnection,
    run: &Run,
    batch: &[EventRecord<'_>],
) -> QueryResult<HashMap<i64, Uuid>> {
    let digests: Vec<Uuid> = batch
        .iter()
        .map(|record| message_digest(&record.id))
        .collect();
    let rows = sql_query(
        "WITH input AS MATERIALIZED \
           (SELECT digest, n - 1 AS n FROM unnest($2) WITH ORDINALITY AS t (digest, n)) \
         SELECT n, event_id FROM input JOIN message_ids_0 m USING (digest) WHERE m.project_id = $1 \
         UNION ALL \
         SELECT n, event_id FROM input JOIN message_ids_1 m USING (digest) WHERE m.project_id = $1",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<SqlUuid>, _>(digests)
    .load::<Claimed>(connection)?;
    Ok(rows.into_iter().map(|row| (row.n, row.event_id)).collect())
}

/// Claims the ids in the current bucket; begins anew when somebody else was faster.
fn claim(
    connection: &mut PgConnection,
    run: &Run,
    fresh: &mut [(&EventRecord<'_>, Uuid)],
) -> QueryResult<()> {
    #[derive(diesel::QueryableByName)]
    struct Current {
        #[diesel(sql_type = SmallInt)]
        current_bucket: i16,
    }
    #[derive(diesel::QueryableByName)]
    struct Held {
        #[diesel(sql_type = BigInt)]
        held: i64,
    }
    let bucket = sql_query("SELECT current_bucket FROM message_buckets")
        .get_result::<Current>(connection)?
        .current_bucket;
    // Writers claim in the order of digests, so nobody waits in a circle.
    fresh.sort_by_cached_key(|(record, _)| message_digest(&record.id));
    let digests: Vec<Uuid> = fresh
        .iter()
        .map(|(record, _)| message_digest(&record.id))
        .collect();
    let ids: Vec<Uuid> = fresh.iter().map(|(_, id)| *id).collect();
    sql_query(format!(
        "INSERT INTO message_ids_{bucket} (project_id, digest, event_id) \
         SELECT $1, digest, id FROM unnest($2, $3) AS t (digest, id) ON CONFLICT DO NOTHING"
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<SqlUuid>, _>(&digests)
    .bind::<Array<SqlUuid>, _>(&ids)
    .execute(connection)?;
    let held = sql_query(format!(
        "SELECT count(*) AS held FROM unnest($2, $3) AS t (digest, id) \
         JOIN message_ids_{bucket} m ON m.project_id = $1 AND m.digest = t.digest \
           AND m.event_id = t.id"
    ))
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<SqlUuid>, _>(&digests)
    .bind::<Array<SqlUuid>, _>(&ids)
    .get_result::<Held>(connection)?
    .held;
    if usize::try_from(held) == Ok(fresh.len()) {
        Ok(())
    } else {
        Err(diesel::result::Error::RollbackTransaction)
    }
}

fn insert(
    connection: &mut PgConnection,
    run: &Run,
    fresh: &[(&EventRecord<'_>, Uuid)],
) -> QueryResult<()> {
    let ids: Vec<Uuid> = fresh.iter().map(|(_, id)| *id).collect();
    let names: Vec<&str> = fresh
        .iter()
        .map(|(record, _)| record.name.as_ref())
        .collect();
    let users: Vec<&str> = fresh
        .iter()
        .map(|(record, _)| record.user.as_ref())
        .collect();
    let message_ids: Vec<Option<&str>> = fresh
        .iter()
        .map(|(record, id)| (id.to_string() != record.id).then_some(record.id.as_ref()))
        .collect();
    let properties: Vec<Option<&str>> = fresh.iter().map(|(record, _)| record.properties).collect();
    let times: Vec<DateTime<Utc>> = fresh.iter().map(|(record, _)| record.timestamp).collect();
    let received: Vec<DateTime<Utc>> = fresh
        .iter()
        .map(|(record, _)| run.received_at(record.place))
        .collect();
    let inserted = sql_query(
        "INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
                             message_id, properties, timestamp, received_at) \
         SELECT (t.received_at AT TIME ZONE 'UTC')::date, t.id, $1, i.person_id, 0, t.name, \
                t.user_id, t.message_id, t.properties::json, t.timestamp, t.received_at \
         FROM unnest($2, $3, $4, $5, $6, $7, $8) \
           AS t (id, name, user_id, message_id, properties, timestamp, received_at) \
         JOIN identities i ON i.project_id = $1 AND i.kind = 0 AND i.value = t.user_id \
         ORDER BY t.received_at",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<Text>, _>(names)
    .bind::<Array<Text>, _>(users)
    .bind::<Array<Nullable<Text>>, _>(message_ids)
    .bind::<Array<Nullable<Text>>, _>(properties)
    .bind::<Array<Timestamptz>, _>(times)
    .bind::<Array<Timestamptz>, _>(received)
    .execute(connection)?;
    // Somebody's identity is gone since people were loaded: begin anew rather than lose an event.
    if inserted == fresh.len() {
        Ok(())
    } else {
        Err(diesel::result::Error::RollbackTransaction)
    }
}
