//! Postgres: connections, schema, migrations and the queries that more than one caller needs.
//!
//! Query functions take `&mut PgConnection` and return `QueryResult`; [`Store::run`] is the one
//! bridge from async code. It never blocks an async thread, holds one of a bounded number of
//! permits until the library call really ends, and gives the caller up at its deadline: a stopped
//! Postgres blocks inside the library, where no database timeout reaches.
//!
//! Every query is scoped by project; one that is not says why.

pub mod analytics;
pub mod audit;
pub mod campaigns;
pub mod events;
pub mod flags;
pub mod history;
pub mod keys;
pub mod ledger;
pub mod live;
mod metrics;
pub mod migrate;
pub mod nodes;
pub mod partitions;
pub mod people;
pub mod person_state;
pub(crate) mod prepared;
pub mod rejected;
pub mod schema;
pub mod seen;
pub mod segments;
mod shares;
mod stored_json;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel::result::{ConnectionError, DatabaseErrorKind, Error as DieselError};
use diesel::{Connection, PgConnection, QueryResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::Error;
use crate::model::ProjectId;

pub use metrics::StoreMetrics;
use shares::Browsing;
pub use shares::Shares;

/// How the pool behaves. Every figure is a setting.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// A libpq URL or connection string; TLS is asked for there (`sslmode`).
    pub url: String,
    /// Connections that reads and admin writes share.
    pub pool_size: u32,
    /// How long a caller waits for an answer before it gives up.
    pub deadline: Duration,
}

/// The shared pool. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool<ConnectionManager<PgConnection>>,
    permits: Arc<Semaphore>,
    browsing: Arc<Browsing>,
    options: Arc<StoreOptions>,
    metrics: StoreMetrics,
    is_held: Arc<AtomicBool>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("pool", &self.pool.state())
            .finish_non_exhaustive()
    }
}

/// What every session is set to. UTC makes `current_date` the same on every server. Errors are told
/// apart by their English texts, which a session may ask for only if its role is allowed to. The
/// server asks a silent peer whether it is there as often as this side does, since the locks of a
/// node that lost its power or network say for so long that it works; a local socket needs no such
/// thing and ignores it.
const SESSION_SETUP: &str = "SET timezone = 'UTC'; SET synchronous_commit = on; \
     SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
     SET idle_in_transaction_session_timeout = '60s'; \
     SET default_transaction_isolation = 'read committed'; \
     SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; \
     SET tcp_keepalives_count = 3; SET tcp_user_timeout = 20000; \
     DO $$ BEGIN PERFORM set_config('lc_messages', 'C', false); \
     EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";

#[derive(Debug)]
struct SessionSetup {
    /// Nobody waits for an answer after that.
    deadline: Duration,
}

impl CustomizeConnection<PgConnection, diesel::r2d2::Error> for SessionSetup {
    fn on_acquire(&self, connection: &mut PgConnection) -> Result<(), diesel::r2d2::Error> {
        let deadline = self.deadline.as_millis();
        connection
            .batch_execute(&format!(
                "{SESSION_SETUP}; SET statement_timeout = '{deadline}ms'"
            ))
            .map_err(diesel::r2d2::Error::QueryError)
    }
}

/// Opens a connection of one's own, set up like the pool's.
pub fn connect(url: &str) -> Result<PgConnection, ConnectionError> {
    let mut connection = PgConnection::establish(&with_timeouts(url))?;
    connection
        .batch_execute(SESSION_SETUP)
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// Adds what makes a dead peer noticed, unless the URL says otherwise: a bound on connecting, on
/// unacknowledged data, and on silence while an answer is waited for.
fn with_timeouts(url: &str) -> String {
    let mut text = url.to_owned();
    let is_uri = url.starts_with("postgres://") || url.starts_with("postgresql://");
    for (name, value) in [
        ("connect_timeout", "2"),
        ("tcp_user_timeout", "10000"),
        ("keepalives_idle", "10"),
        ("keepalives_interval", "5"),
        ("keepalives_count", "3"),
        ("application_name", "beckon"),
    ] {
        if url.contains(&format!("{name}=")) {
            continue;
        }
        if is_uri {
            text.push(if text.contains('?') { '&' } else { '?' });
        } else {
            text.push(' ');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    text
}

impl Store {
    /// Makes the pool without connecting, so that a database that is absent now may come later.
    pub fn new(options: StoreOptions) -> Self {
        let manager = ConnectionManager::<PgConnection>::new(with_timeouts(&options.url));
        let pool = Pool::builder()
            .max_size(options.pool_size)
            .min_idle(Some(0))
            .connection_timeout(options.deadline)
            .idle_timeout(Some(Duration::from_secs(300)))
            .connection_customizer(Box::new(SessionSetup {
                deadline: options.deadline,
            }))
            .error_handler(Box::new(diesel::r2d2::NopErrorHandler))
            .build_unchecked(manager);
        let permits = Arc::new(Semaphore::new(options.pool_size as usize * 4));
        let browsing = Arc::new(Browsing::of(options.pool_size as usize));
        Self {
            pool,
            permits,
            browsing,
            options: Arc::new(options),
            metrics: StoreMetrics::default(),
            is_held: Arc::default(),
        }
    }

    /// Answers every query with [`Error::DatabaseUnavailable`] until [`Store::release`]: the schema
    /// is not the one that the queries are made for, or the keys of the settings are not made yet.
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Release);
    }

    /// Lets queries through again.
    pub fn release(&self) {
        self.is_held.store(false, Ordering::Release);
    }

    /// The same pool, counting with these handles.
    pub fn with_metrics(self, metrics: StoreMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Sets the gauges of the pool, from what is in memory.
    pub fn sample_metrics(&self) {
        let state = self.pool.state();
        let max = self.pool.max_size();
        self.metrics
            .sample(state.connections, state.idle_connections, max);
    }

    /// The database this pool talks to.
    pub fn url(&self) -> &str {
        &self.options.url
    }

    /// How long a call waits for the database.
    pub fn deadline(&self) -> Duration {
        self.options.deadline
    }

    /// Runs a query on a blocking thread and answers by the deadline, with
    /// [`Error::DatabaseUnavailable`] when there is no answer. The query itself may still finish.
    pub async fn run<T, F>(&self, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> QueryResult<T> + Send + 'static,
    {
        let deadline = Instant::now() + self.options.deadline;
        self.run_by(deadline, |connection| {
            query(connection).map_err(Error::from)
        })
        .await
    }

    /// As [`Store::run`], for what admins read: lists, counts, analytics. Such a query may take as
    /// long as the deadline lets it, so half of the connections are kept from them, and a quarter
    /// from each project's; what applications wait for goes on.
    pub async fn browse<T, F>(&self, project: ProjectId, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> QueryResult<T> + Send + 'static,
    {
        let deadline = Instant::now() + self.options.deadline;
        let share = tokio::time::timeout_at(deadline, self.browsing.begin(project));
        let share = share
            .await
            .map_err(|_| self.out_of_time("too many lists are being read"))?
            .map_err(|_| Error::ShuttingDown)?;
        self.run_by(deadline, move |connection| {
            let _until_it_is_read = share;
            query(connection).map_err(Error::from)
        })
        .await
    }

    /// Runs work in one transaction that is rolled back by any error, the domain's own included.
    pub async fn transact<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let deadline = Instant::now() + self.options.deadline;
        self.run_by(deadline, |connection| connection.transaction(work))
            .await
    }

    /// As [`Self::transact`], once there is a place; waiting for it is part of the time there is. The
    /// place is taken until the work has ended, and returned with what came of it.
    pub async fn transact_in_turn<T, F>(
        &self,
        places: Arc<Semaphore>,
        work: F,
    ) -> Result<(T, OwnedSemaphorePermit), Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let deadline = Instant::now() + self.options.deadline;
        let place = tokio::time::timeout_at(deadline, places.acquire_owned())
            .await
            .map_err(|_| self.out_of_time("others of the project are in the way"))?
            .map_err(|_| Error::ShuttingDown)?;
        self.run_by(deadline, |connection| {
            Ok((connection.transaction(work)?, place))
        })
        .await
    }

    async fn run_by<T, F>(&self, deadline: Instant, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        if self.is_held.load(Ordering::Acquire) {
            return Err(Error::DatabaseUnavailable);
        }
        let asked = Instant::now();
        let waiting = self.metrics.wait();
        let acquire = Arc::clone(&self.permits).acquire_owned();
        let permit = tokio::time::timeout_at(deadline, acquire)
            .await
            .map_err(|_| self.out_of_time("no place in the queue for a database connection"))?
            .map_err(|_| Error::ShuttingDown)?;
        let pool = self.pool.clone();
        let metrics = self.metrics.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _held_until_the_call_ends = permit;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Nobody waits any more, and a write that nobody hears of must not be made.
                return Err(Error::DatabaseUnavailable);
            }
            let mut connection = pool.get_timeout(left).map_err(|error| {
                tracing::warn!(error = %error, "no database connection");
                Error::DatabaseUnavailable
            })?;
            drop(waiting);
            metrics.waited(asked.elapsed());
            query(&mut connection)
        });
        match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panicked)) => Err(Error::Internal(panicked.to_string())),
            Err(_) => Err(self.out_of_time("the database did not answer in time")),
        }
    }

    fn out_of_time(&self, reason: &'static str) -> Error {
        self.metrics.timed_out();
        tracing::warn!(reason, "a query was given up");
        Error::DatabaseUnavailable
    }
}

/// Turns a database failure into the domain's words: a lost or refusing server is not available, a
/// violated constraint is a conflict, anything else is a defect.
impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        into_error(error)
    }
}

fn into_error(error: DieselError) -> Error {
    if is_unavailable(&error) {
        tracing::warn!(error = %error, "the database is not available");
        return Error::DatabaseUnavailable;
    }
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info) => {
            Error::Conflict(match info.constraint_name() {
                Some("campaigns_pkey") => "A campaign with this id exists already.".to_owned(),
                Some("segments_pkey") => "A segment with this id exists already.".to_owned(),
                Some("api_keys_hash_key") => "This key exists already.".to_owned(),
                Some("projects_name_key") => "A project of this name exists already.".to_owned(),
                _ => "The object exists already.".to_owned(),
            })
        }
        other => Error::Internal(other.to_string()),
    }
}

/// True when trying again later can help: the connection broke, the server is starting, stopping,
/// out of connections, memory or disk, or gave up waiting for a lock.
pub fn is_unavailable(error: &DieselError) -> bool {
    match error {
        DieselError::BrokenTransactionManager => true,
        DieselError::DatabaseError(kind, info) => {
            matches!(
                kind,
                DatabaseErrorKind::ClosedConnection
                    | DatabaseErrorKind::UnableToSendCommand
                    | DatabaseErrorKind::SerializationFailure
                    | DatabaseErrorKind::ReadOnlyTransaction
            ) || is_transient(info.message())
        }
        _ => false,
    }
}

/// The same of an error that is known by its text only.
pub(crate) fn is_transient(message: &str) -> bool {
    TRANSIENT_MESSAGES.iter().any(|text| message.contains(text))
}

/// The library gives no SQLSTATE, so these stable English messages stand in for their classes
/// (53 insufficient resources, 55P03, 57014, 57P01 to 57P03, 40P01).
const TRANSIENT_MESSAGES: [&str; 14] = [
    "No space left on device",
    "could not extend file",
    "too many clients",
    "remaining connection slots",
    "out of memory",
    "lock timeout",
    "statement timeout",
    "deadlock detected",
    "terminating connection",
    "server closed the connection",
    "the database system is",
    "SSL connection has been closed",
    "could not receive data from server",
    "no connection to the server",
];

/// True when the database cannot hold a value that it was given: trying again does not help, and
/// the same without that value may be held.
pub(crate) fn is_refused_data(error: &DieselError) -> bool {
    let DieselError::DatabaseError(kind, info) = error else {
        return false;
    };
    let message = info.message();
    match kind {
        DatabaseErrorKind::CheckViolation => !is_missing_partition(error),
        DatabaseErrorKind::NotNullViolation => true,
        DatabaseErrorKind::Unknown => {
            !is_transient(message) && DATA_MESSAGES.iter().any(|text| message.contains(text))
        }
        _ => false,
    }
}

/// Whether there is no partition for a row. It is told as a violated check, of no name; what else is said
/// depends on the server's language, and taken for a row's fault it would refuse every event of a day.
pub(crate) fn is_missing_partition(error: &DieselError) -> bool {
    let DieselError::DatabaseError(DatabaseErrorKind::CheckViolation, info) = error else {
        return false;
    };
    info.constraint_name().is_none()
}

/// How Postgres says that it cannot hold a value (SQLSTATE classes 22 and 54). Anything else that is
/// unknown is the server's trouble, not the value's.
const DATA_MESSAGES: [&str; 11] = [
    "invalid input syntax",
    "unsupported Unicode escape",
    "invalid byte sequence",
    "out of range",
    "index row",
    "stack depth limit",
    "total size of jsonb",
    "string too long to represent",
    "too long for tsvector",
    "overflows numeric format",
    "has no equivalent in encoding",
];
