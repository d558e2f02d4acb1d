//! What became of a commit whose answer was lost.
//!
//! A connection that dies during a commit leaves it open whether the batch was stored. It is not
//! guessed: the lost session is ended, so that it cannot commit any more, and then the database is
//! asked for the event ids of the batch, which every attempt uses again.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Int4, Timestamptz, Uuid as SqlUuid};
use diesel::{PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query};
use uuid::Uuid;

use super::batch::{Unit, Verdict};
use super::claim::{self, MessageKey};
use super::decode::Item;
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

    /// A number that few other sessions have at the same time.
    pub(super) fn slot(self) -> i16 {
        i16::try_from(self.pid & i32::from(i16::MAX)).unwrap_or(0)
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
        Ok(ended.is_none_or(|it| it.ended))
    }
}

#[derive(QueryableByName)]
struct Ended {
    #[diesel(sql_type = Bool)]
    ended: bool,
}

#[derive(QueryableByName)]
struct Stored {
    #[diesel(sql_type = Bool)]
    stored: bool,
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
        let keys: Vec<MessageKey> = units.iter().filter_map(Unit::key).collect();
        let claimed = claim::find(&mut connection, keys.iter())?;
        let is_own = |unit: &Unit| Some(&unit.id) == unit.key().and_then(|key| claimed.get(&key));
        let committed = units.iter().any(is_own) || is_any_stored(&mut connection, units)?;
        self.connection = Some(connection);
        if !committed {
            return Ok(None);
        }
        claim::correct(units, &mut verdicts, &claimed, |_| true);
        Ok(Some(verdicts))
    }
}

/// Whether an event without a message id is stored. A batch is a transaction, so one says all.
fn is_any_stored(connection: &mut PgConnection, units: &[Unit]) -> QueryResult<bool> {
    let ids: Vec<Uuid> = units
        .iter()
        .filter(|unit| unit.digest.is_none() && matches!(unit.item, Item::Event(_)))
        .map(|unit| unit.id.0)
        .collect();
    if ids.is_empty() {
        return Ok(false);
    }
    let found: Stored = sql_query(
        "SELECT EXISTS (SELECT FROM events WHERE received_on >= current_date - 1 \
         AND id = ANY($1)) AS stored",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .get_result(connection)?;
    Ok(found.stored)
}
