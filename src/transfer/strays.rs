//! Events that a server filed under people whom a rollback took out at that very moment: each gets a
//! person again.
//!
//! The people stay noted as the run's until this is done, so a rollback that dies in between is
//! finished by the next one.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Bool, Text};
use diesel::{Connection, PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::runs::Run;
use super::{BATCH_RECORDS, TransferError};
use crate::model::Identity;
use crate::store::nodes::{self, INTRODUCTION, NodeId};

/// How long the transactions that were open when the people went are waited for.
const OLDER_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked whether they are over.
const OLDER_PAUSE: Duration = Duration::from_millis(50);

/// Looks for events of people who are gone, and forgets that these people were the run's.
pub(super) fn settle(
    connection: &mut PgConnection,
    run: &Run,
    node: NodeId,
) -> Result<(), TransferError> {
    if gone(connection, run)?.is_empty() {
        return Ok(());
    }
    if nodes::others(connection, node)? > 0 {
        sleep(INTRODUCTION);
    }
    wait_for_older_transactions(connection)?;
    loop {
        let keys = gone(connection, run)?;
        if keys.is_empty() {
            return Ok(());
        }
        connection.transaction(|connection| settle_batch(connection, run, &keys))?;
    }
}

#[derive(diesel::QueryableByName)]
struct Key {
    #[diesel(sql_type = Text)]
    key: String,
}

/// Some of the run's people who are gone.
fn gone(connection: &mut PgConnection, run: &Run) -> QueryResult<Vec<String>> {
    let keys: Vec<Key> = sql_query(
        "SELECT r.key FROM import_rows r WHERE r.run_id = $1 AND r.kind = 'person' \
         AND NOT EXISTS (SELECT FROM persons p WHERE p.id = r.key::bigint AND p.project_id = $2) \
         ORDER BY r.key LIMIT $3",
    )
    .bind::<BigInt, _>(run.id)
    .bind::<BigInt, _>(run.project.0)
    .bind::<BigInt, _>(i64::try_from(BATCH_RECORDS).unwrap_or(i64::MAX))
    .load(connection)?;
    Ok(keys.into_iter().map(|row| row.key).collect())
}

/// Waits until no transaction is open that may have seen the people.
fn wait_for_older_transactions(connection: &mut PgConnection) -> Result<(), TransferError> {
    #[derive(diesel::QueryableByName)]
    struct Horizon {
        #[diesel(sql_type = Text)]
        horizon: String,
    }
    #[derive(diesel::QueryableByName)]
    struct Over {
        #[diesel(sql_type = Bool)]
        over: bool,
    }
    let horizon = sql_query("SELECT pg_current_xact_id()::text AS horizon")
        .get_result::<Horizon>(connection)?
        .horizon;
    let mut waited = Duration::ZERO;
    loop {
        let found = sql_query("SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::xid8 AS over")
            .bind::<Text, _>(&horizon)
            .get_result::<Over>(connection)?;
        if found.over {
            return Ok(());
        }
        if waited >= OLDER_WAIT {
            return Err(TransferError::OlderTransactions);
        }
        sleep(OLDER_PAUSE);
        waited += OLDER_PAUSE;
    }
}

fn settle_batch(connection: &mut PgConnection, run: &Run, keys: &[String]) -> QueryResult<()> {
    #[derive(diesel::QueryableByName)]
    struct Stray {
        #[diesel(sql_type = BigInt)]
        person_id: i64,
        #[diesel(sql_type = Text)]
        user_id: String,
    }
    // Whoever was taken out had one identity alone, a user id.
    let strays: Vec<Stray> = sql_query(
        "SELECT person_id, min(user_id) AS user_id FROM events WHERE project_id = $1 \
         AND person_id = ANY($2::bigint[]) AND user_id IS NOT NULL GROUP BY 1 ORDER BY 1",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<Array<Text>, _>(keys)
    .load(connection)?;
    for stray in strays {
        give_person(connection, run, stray.person_id, &stray.user_id)?;
        tracing::warn!(
            person = stray.person_id,
            "a server filed an event under a removed person"
        );
    }
    sql_query("DELETE FROM import_rows WHERE run_id = $1 AND kind = 'person' AND key = ANY($2)")
        .bind::<BigInt, _>(run.id)
        .bind::<Array<Text>, _>(keys)
        .execute(connection)
        .map(drop)
}

/// Files the events under whoever has the identity now, or brings the person back without traits.
fn give_person(connection: &mut PgConnection, run: &Run, id: i64, value: &str) -> QueryResult<()> {
    let Ok(identity) = Identity::user(value) else {
        return Ok(());
    };
    sql_query(
        "WITH named AS (INSERT INTO identities (project_id, kind, value, person_id, created_at) \
             VALUES ($1, 0, $3, $2, now()) ON CONFLICT DO NOTHING RETURNING person_id) \
         INSERT INTO persons (id, project_id, home, bucketing_kind, bucketing_value, created_at, \
                              last_seen_at) \
             SELECT person_id, $1, $4, 0, $3, now(), now() FROM named",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<BigInt, _>(id)
    .bind::<Text, _>(value)
    .bind::<BigInt, _>(identity.home(run.project))
    .execute(connection)?;
    sql_query(
        "UPDATE events e SET person_id = i.person_id FROM identities i \
         WHERE e.project_id = $1 AND e.person_id = $2 AND i.person_id <> $2 \
           AND i.project_id = $1 AND i.kind = 0 AND i.value = $3",
    )
    .bind::<BigInt, _>(run.project.0)
    .bind::<BigInt, _>(id)
    .bind::<Text, _>(value)
    .execute(connection)
    .map(drop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command blocks its thread; none of this runs on an async one"
)]
pub(super) fn sleep(time: Duration) {
    std::thread::sleep(time);
}
