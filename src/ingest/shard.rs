//! One shard: a thread that owns a connection and commits what waits, batch after batch.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query};
use uuid::Uuid;

use super::IngestOptions;
use super::batch::{Unit, Verdict};
use super::batch_work::BatchWork;
use super::failure::Failure;
use super::held::{Held, Room};
use super::metrics::ShardMetrics;
use super::queue::{Outlet, Taken};
use super::read_back::Session;
use super::seen::Seen;
use crate::model::PersonId;
use crate::rules::FactsArena;
use crate::store::{self, nodes};
use crate::targeting::Targeting;
use crate::targeting::people::Change;

/// How long after an attempt to connect that failed a shard tries again.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);
/// A shard's statements find rows by their keys and nothing else, and are planned once. Without this
/// a plan made while a table was empty would go on reading the whole of it when it has grown.
const PLANS: &str = "SET plan_cache_mode = force_generic_plan; SET jit = off; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
/// How long a new connection waits for the hub, which tells other nodes of this one.
const INTRODUCTION_WAIT: Duration = Duration::from_secs(1);
/// How many batches pass between looks at how many statements a connection has prepared.
const BATCHES_BETWEEN_COUNTS: u32 = 256;
/// How many these may be, in a session of the database some tens of kilobytes each.
const PREPARED_MAX: i64 = 128;
/// How often a batch that lost a race is tried again.
const ATTEMPTS_MAX: usize = 5;

pub(super) struct Shard {
    pub(super) targeting: Targeting,
    pub(super) options: IngestOptions,
    pub(super) jobs: Outlet,
    pub(super) metrics: ShardMetrics,
    pub(super) connection: Option<PgConnection>,
    /// When to try again after an attempt to connect that failed.
    retry_connect_at: Option<Instant>,
    /// Whether the last attempt failed.
    is_cut_off: Arc<AtomicBool>,
    /// The bucket of message ids that is current, as far as this shard knows.
    pub(super) bucket: i16,
    /// Numbers for new people, taken from the sequence in blocks.
    pub(super) person_ids: std::ops::Range<i64>,
    /// Changes whose outcome is unknown: their people stay out of the caches until they were locked.
    pub(super) unsettled: Vec<Change>,
    /// People whose last-seen time has moved in memory.
    pub(super) seen: Seen,
    /// Which rows of the ledger are its own.
    pub(super) slot: i32,
    /// Until when the next batch is likely to hold a duplicate, since one did lately.
    pub(super) expects_duplicates_until: Option<Instant>,
    /// The memory of one decision after the other.
    pub(super) arena: FactsArena,
    /// The work of decisions that is left for the batch.
    pub(super) work: BatchWork,
    /// Where what is decided apart has its room until then.
    pub(super) room: Room,
    /// What the batch has put there, by person.
    pub(super) held: HashMap<PersonId, Weak<Held>>,
    /// The last of the transaction's callers for whom there was no room, and so nothing is decided any
    /// more.
    pub(super) given_up: Option<usize>,
    /// The session of the connection, or of the last one: it may not know that it was lost, and has
    /// to be ended before anything else is done.
    session: Option<Session>,
    /// How many batches were committed, by this connection and those before.
    batches: u32,
}

impl Shard {
    pub(super) fn new(
        targeting: Targeting,
        options: IngestOptions,
        jobs: Outlet,
        metrics: ShardMetrics,
        room: Room,
        is_cut_off: Arc<AtomicBool>,
    ) -> Self {
        Self {
            targeting,
            options,
            jobs,
            metrics,
            connection: None,
            retry_connect_at: None,
            is_cut_off,
            bucket: 0,
            person_ids: 0..0,
            unsettled: Vec::new(),
            seen: Seen::default(),
            slot: random_slot(),
            expects_duplicates_until: None,
            arena: FactsArena::new(),
            work: BatchWork::default(),
            room,
            held: HashMap::new(),
            given_up: None,
            session: None,
            batches: 0,
        }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            match std::panic::catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    // The jobs were dropped with the panic, which answers their callers with 503;
                    // the connection may be in the middle of anything.
                    tracing::error!("a shard panicked and goes on with a new connection");
                    self.connection = None;
                    self.seen.put_off();
                    self.metrics.panicked();
                    self.metrics.idle();
                }
            }
        }
        while !self.seen.is_empty() && self.flush_seen() {}
    }

    /// Works off one batch, and what is due beside it; false when there will be no other.
    fn turn(&mut self) -> bool {
        let is_connected = self.reconnects();
        let until = match is_connected {
            true => self.seen.due_at(),
            // Whoever waits now hears that there is no database.
            false => Some(Instant::now()),
        };
        let (jobs, in_hand) = match self
            .jobs
            .take(self.options.batch_max(), until, is_connected)
        {
            Taken::Jobs(jobs, in_hand) => (jobs, Some(in_hand)),
            Taken::Nothing => (Vec::new(), None),
            Taken::Closed => return false,
        };
        if let Some(first) = jobs.iter().map(|job| job.queued_at).min() {
            self.metrics.batch_taken(first);
        }
        self.work(jobs);
        drop(in_hand);
        self.metrics.idle();
        if self.seen.is_due() {
            self.flush_seen();
        }
        true
    }

    /// Writes some of those who were seen; false when the database cannot be reached.
    fn flush_seen(&mut self) -> bool {
        let Ok(mut connection) = self.connection() else {
            self.seen.put_off();
            return false;
        };
        let flushed = self.seen.flush(&mut connection);
        match flushed {
            Ok(()) => self.connection = Some(connection),
            Err(ref error) => {
                tracing::warn!(%error, "people's last-seen times are written later");
            }
        }
        flushed.is_ok()
    }

    /// One transaction, tried again when it lost a race with another writer. The verdicts are of the
    /// first units, and of all if that does not take too long.
    pub(super) fn commit(&mut self, units: &mut [Unit]) -> Result<Vec<Verdict>, Failure> {
        let started = Instant::now();
        let mut failure = Failure::Race;
        for attempt in 0..ATTEMPTS_MAX {
            let mut connection = self.connection()?;
            match self.commit_once(&mut connection, units, attempt) {
                Ok(verdicts) => {
                    self.keep(connection);
                    self.metrics
                        .batch_committed(verdicts.len(), started.elapsed());
                    return Ok(verdicts);
                }
                // Nothing was committed, so the batch can go another way if there is one.
                Err(Failure::Unavailable(reason)) if attempt == 0 => {
                    drop(connection);
                    tracing::warn!(reason, "a connection was lost before a commit");
                    failure = Failure::Race;
                }
                Err(Failure::Unavailable(reason)) => return Err(Failure::Unavailable(reason)),
                Err(Failure::Unknown { reason, verdicts }) => {
                    drop(connection);
                    tracing::warn!(reason, "a connection was lost; what it did is read back");
                    if let Some(verdicts) = self.read_back(units, verdicts)? {
                        self.metrics
                            .batch_committed(verdicts.len(), started.elapsed());
                        return Ok(verdicts);
                    }
                    failure = Failure::Race;
                }
                Err(other) => {
                    self.connection = Some(connection);
                    failure = other;
                }
            }
            if !matches!(failure, Failure::Race) {
                break;
            }
            self.metrics.raced();
        }
        Err(failure)
    }

    fn commit_once(
        &mut self,
        connection: &mut PgConnection,
        units: &mut [Unit],
        attempt: usize,
    ) -> Result<Vec<Verdict>, Failure> {
        self.seen.begin();
        // What another attempt gave up is not in its verdicts.
        self.given_up = None;
        self.settle_unknown(connection)?;
        self.look_up(connection, units)?;
        if attempt == 0
            && let Some(plain) = self.plain(connection, units)?
        {
            return self.attempt_plain(connection, units, &plain);
        }
        self.attempt(connection, units, attempt > 0)
    }

    /// Keeps the connection for the next batch, unless it has prepared so many statements that
    /// their memory matters; callers choose how many forms their batches have.
    fn keep(&mut self, mut connection: PgConnection) {
        self.batches = self.batches.wrapping_add(1);
        if self.batches.is_multiple_of(BATCHES_BETWEEN_COUNTS) {
            match prepared_statements(&mut connection) {
                Ok(count) if count <= PREPARED_MAX => {}
                Ok(count) => {
                    tracing::info!(
                        count,
                        "a connection is replaced for its prepared statements"
                    );
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "prepared statements could not be counted");
                    return;
                }
            }
        }
        self.connection = Some(connection);
    }

    /// Tries again to connect where that failed; false if it does so once more. What comes meanwhile
    /// stays in the queue, since it need not be refused if the database has just come back, and need
    /// not be written if its caller gives up before.
    #[expect(
        clippy::disallowed_methods,
        reason = "runs on the shard's own thread, which may block"
    )]
    fn reconnects(&mut self) -> bool {
        let Some(at) = self.retry_connect_at else {
            return true;
        };
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let connection = self.connection();
        self.connection = connection.ok();
        self.connection.is_some()
    }

    /// The connection, or a new one. Whoever works on it has to put it back.
    pub(super) fn connection(&mut self) -> Result<PgConnection, Failure> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        if self.retry_connect_at.is_some_and(|at| at > Instant::now()) {
            return Err(Failure::Unavailable("waiting to reconnect".to_owned()));
        }
        let connected = self.connect();
        self.is_cut_off.store(connected.is_err(), Ordering::Relaxed);
        match connected {
            Ok(connection) => {
                self.retry_connect_at = None;
                self.metrics.connected();
                Ok(connection)
            }
            Err(error) => {
                self.retry_connect_at = Some(Instant::now() + RECONNECT_DELAY);
                Err(Failure::Unavailable(error))
            }
        }
    }

    fn connect(&mut self) -> Result<PgConnection, String> {
        let mut connection =
            store::connect(&self.options.url).map_err(|error| error.to_string())?;
        let text = |error: diesel::result::Error| error.to_string();
        connection.batch_execute(PLANS).map_err(text)?;
        nodes::join(&mut connection, self.targeting.node()).map_err(text)?;
        if !self.is_introduced(Instant::now()) {
            return Err("waiting until other nodes know of this one".to_owned());
        }
        if let Some(lost) = self.session
            && !lost.end(&mut connection).map_err(text)?
        {
            return Err("the session of the lost connection does not end".to_owned());
        }
        let session = Session::of(&mut connection).map_err(text)?;
        self.session = Some(session);
        // What a standby that took over knows of the sequence may be older.
        self.person_ids = 0..0;
        Ok(connection)
    }

    /// Waits a little until the hub has counted other nodes over its own connection, since this one
    /// joined: it has had it all the time then, or has introduced this node anew. Otherwise another
    /// node may have counted while none of this node's sessions was there, and remember what is about
    /// to change.
    #[expect(
        clippy::disallowed_methods,
        reason = "runs on the shard's own thread, which may block"
    )]
    fn is_introduced(&self, joined_at: Instant) -> bool {
        let others = self.targeting.people().others();
        let is_known = || others.are_counted_since(joined_at) && !others.is_cut_off();
        let until = Instant::now() + INTRODUCTION_WAIT;
        while !is_known() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        is_known()
    }
}

/// A number that no other shard has drawn, as surely as anybody needs: it would have to be one of the
/// same project on the same day.
fn random_slot() -> i32 {
    let [first, second, third, fourth, ..] = Uuid::new_v4().into_bytes();
    i32::from_be_bytes([first, second, third, fourth]) & i32::MAX
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    statements: i64,
}

fn prepared_statements(connection: &mut PgConnection) -> QueryResult<i64> {
    let count: Count = sql_query("SELECT count(*) AS statements FROM pg_prepared_statements")
        .get_result(connection)?;
    Ok(count.statements)
}
