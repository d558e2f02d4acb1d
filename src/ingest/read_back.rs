//! What became of a commit whose answer was lost.
//!
//! A connection that dies during a commit leaves it open whether the batch was stored. It is not
//! guessed: the lost session is ended, so that it cannot commit any more, and then the ledger is asked
//! which batch it counted last for this shard. Every batch is counted in its own transaction, also
//! one of repetitions or refused events only.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Int4, Timestamptz, Uuid as SqlUuid};
use diesel::{PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query};

use super::batch::{Unit, Verdict, batch_id};
use super::claim::{self, MessageKey};
use super::failure::Failure;
use super::shard::Shard;

/// How long the database may take to end a session, in milliseconds.
const END_WAIT_MS: i64 = 1_000;

/// A session of the database, told apart from later ones that get the same process number.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub(super) struct Session {
    #[diesel(sql_type = Int4)]
    pid: i32,
    #[diesel(sql_type = Timestamptz)]
    backend_start: DateTime<Utc>,
}

impl Session {
    /// The session of a connection.
    pub(super) fn of(connection: &mut PgConnection) -> QueryResult<Self> {
        sql_query("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            .get_result(connection)
    }

    /// Ends the session, if it still lives; true once it is gone.
    pub(super) fn end(self, connection: &mut PgConnection) -> QueryResult<bool> {
        let ended: Option<Ended> = sql_query(
            "SELECT pg_terminate_backend(pid, $3) AS ended FROM pg_stat_activity \
             WHERE pid = $1 AND backend_start = $2",
        )
        .bind::<Int4, _>(self.pid)
        .bind::<Timestamptz, _>(self.backend_start)
        .bind::<BigInt, _>(END_WAIT_MS)
        .load(connection)?
        .pop();
        if ended.is_none_or(|it| it.ended) {
            return Ok(true);
        }
        // It may have ended by itself between being found and being ended.
        let lives: Lives = sql_query(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2) \
             AS lives",
        )
        .bind::<Int4, _>(self.pid)
        .bind::<Timestamptz, _>(self.backend_start)
        .get_result(connection)?;
        Ok(!lives.lives)
    }
}

#[derive(QueryableByName)]
struct Ended {
    #[diesel(sql_type = Bool)]
    ended: bool,
}

#[derive(QueryableByName)]
struct Lives {
    #[diesel(sql_type = Bool)]
    lives: bool,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = Bool)]
    counted: bool,
}

impl Shard {
    /// Asks what became of a batch whose commit was not answered, on a new connection: its verdicts
    /// if it was committed, `None` if it was not and can be tried again.
    pub(super) fn read_back(
        &mut self,
        units: &[Unit],
        mut verdicts: Vec<Verdict>,
    ) -> Result<Option<Vec<Verdict>>, Failure> {
        let mut connection = self.connection()?;
        let committed = is_counted(&mut connection, units, self.slot)?;
        if committed {
            let keys: Vec<MessageKey> = units.iter().filter_map(Unit::key).collect();
            let claimed = claim::find(&mut connection, keys.iter())?;
            claim::correct(units, &mut verdicts, &claimed, |_| true);
        }
        self.connection = Some(connection);
        Ok(committed.then_some(verdicts))
    }
}

/// Whether the ledger counted this batch last, in the slot of the shard that wrote it.
fn is_counted(connection: &mut PgConnection, units: &[Unit], slot: i32) -> QueryResult<bool> {
    let projects: HashSet<i64> = units.iter().map(|unit| unit.project.0).collect();
    let found: Counted = sql_query(
        "SELECT EXISTS (SELECT FROM ingest_ledger WHERE project_id = ANY($1) AND slot = $2 \
         AND last_batch = $3) AS counted",
    )
    .bind::<Array<BigInt>, _>(projects.into_iter().collect::<Vec<_>>())
    .bind::<Int4, _>(slot)
    .bind::<SqlUuid, _>(batch_id(units))
    .get_result(connection)?;
    Ok(found.counted)
}
