//! Making a database fit to serve: its schema, partitions, keys and settings.
//!
//! A database of one's own is prepared in the background, however long its migrations take, and
//! waited for if it is down, while the server already answers that it is not ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use diesel::PgConnection;

use crate::clock::Clock;
use crate::config::{Config, redact_url};
use crate::http::Readiness;
use crate::http::auth::Scope;
use crate::retention::{Scheduler, SchedulerOptions};
use crate::store::migrate::{MigrateError, migrate};
use crate::store::{self, Store, is_unavailable, partitions};
use crate::targeting::Targeting;

use super::{Failure, doctor, keys};

/// The first pause between two attempts; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a retention run in progress is waited for at the end.
const RETENTION_TIMEOUT: Duration = Duration::from_millis(200);

/// The project of the keys that the settings name.
const PROJECT: &str = "default";

/// Why a database is not fit to serve.
pub(super) enum Unprepared {
    /// It may come: down, starting, out of something.
    NotYet(String),
    /// It will not do, however long one waits.
    Never(Failure),
}

impl From<diesel::result::Error> for Unprepared {
    fn from(error: diesel::result::Error) -> Self {
        if is_unavailable(&error) {
            Self::NotYet(error.to_string())
        } else {
            Self::Never(error.into())
        }
    }
}

/// Opens the database and makes it fit. What is done already is not done again.
pub(super) fn prepare(config: &Config, url: &str) -> Result<PgConnection, Unprepared> {
    // A password that is wrong today may be right once the other side is set up, so this waits.
    let mut connection =
        store::connect(url).map_err(|error| Unprepared::NotYet(error.to_string()))?;
    let ran = migrate(&mut connection).map_err(|error| match error {
        MigrateError::Database(error) => error.into(),
        MigrateError::NotNow(reason) => Unprepared::NotYet(reason),
        MigrateError::NewerSchema(_) | MigrateError::Failed(_) => Unprepared::Never(error.into()),
    })?;
    for version in ran {
        tracing::info!(version, "migrated");
    }
    let today = partitions::database_now(&mut connection)?.date_naive();
    partitions::ensure_ahead(&mut connection, today, config.partitions_ahead_days)?;
    ensure_keys(&mut connection, config)?;
    Ok(connection)
}

fn ensure_keys(connection: &mut PgConnection, config: &Config) -> Result<(), Unprepared> {
    let wanted = [
        (Scope::Admin, &config.admin_key),
        (Scope::Client, &config.client_key),
    ];
    for (scope, key) in wanted {
        let Some(key) = key else { continue };
        let project = keys::look_up_project(connection, PROJECT)?
            .ok_or_else(|| Unprepared::Never(keys::no_project(PROJECT)))?;
        if keys::ensure(connection, project, scope, key)? {
            tracing::info!(scope = scope.as_str(), "created the key of the settings");
        }
    }
    Ok(())
}

/// Why the database's settings do not keep what was acknowledged, if so.
fn unsafe_settings(connection: &mut PgConnection) -> diesel::QueryResult<Option<String>> {
    for name in ["fsync", "full_page_writes"] {
        if doctor::setting(connection, name)? != "on" {
            return Ok(Some(format!(
                "the database has {name} off and may lose what was acknowledged; switch it on, or \
                 set BECKON_ALLOW_UNSAFE_DATABASE=true"
            )));
        }
    }
    Ok(None)
}

/// What prepares the database in the background, and then watches its settings until they are
/// safe.
pub(super) struct Preparation {
    pub(super) config: Config,
    pub(super) url: String,
    pub(super) store: Store,
    pub(super) targeting: Targeting,
    pub(super) readiness: Readiness,
    pub(super) schedule: SchedulerOptions,
    pub(super) clock: Clock,
}

/// The running preparation, and the threads that it started.
pub(super) struct Preparing {
    stop: Sender<()>,
    failure: Receiver<Failure>,
    is_waiting: Arc<AtomicBool>,
    /// Nothing is ever sent; it closes when the thread ends.
    ended: Receiver<()>,
}

impl Preparing {
    /// Why the server cannot go on, if so.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.try_recv().ok()
    }

    /// Whether the database was not there when it was first asked.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }

    /// Ends the thread, and with it the hub and the schedule. A thread that is stuck in a call to
    /// a stopped database is left behind; its session ends with the process.
    pub(super) fn stop(self, patience: Duration) {
        drop(self.stop);
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the database does not answer; its threads are left behind");
        }
    }
}

impl Preparation {
    /// Goes on from what is prepared, on a thread of its own. The server is not ready before.
    pub(super) fn start(self, prepared: Option<PgConnection>) -> Result<Preparing, Failure> {
        let (stop, stopped) = channel();
        let (send, failure) = channel();
        let (alive, ended) = channel();
        let is_waiting = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&is_waiting);
        self.readiness.block("the server is starting");
        if prepared.is_none() {
            // Until then nobody is served on the schema of another version.
            self.store.hold();
        }
        std::thread::Builder::new()
            .name("preparation".to_owned())
            .spawn(move || {
                let _closes_at_the_end: Sender<()> = alive;
                if let Err(failure) = self.run(prepared, &waits, &stopped) {
                    // Nobody asks any more when the server has ended meanwhile.
                    let _ended = send.send(failure);
                }
            })?;
        Ok(Preparing {
            stop,
            failure,
            is_waiting,
            ended,
        })
    }

    fn run(
        self,
        prepared: Option<PgConnection>,
        waits: &AtomicBool,
        stopped: &Receiver<()>,
    ) -> Result<(), Failure> {
        let mut connection = match prepared {
            Some(connection) => connection,
            None => match self.wait_for_database(waits, stopped) {
                Some(outcome) => outcome?,
                None => return Ok(()),
            },
        };
        self.store.release();
        let hub = self.targeting.start()?;
        // Its tables are there only now.
        let scheduler = Scheduler::start(self.schedule.clone(), self.clock.clone())?;
        if self.config.allow_unsafe_database {
            self.readiness.unblock();
        } else {
            self.watch_settings(&mut connection, stopped);
        }
        // A private Postgres would wait for a connection that is no longer needed.
        drop(connection);
        // Nothing is ever sent; the wait ends when the server does.
        let _server_ended = stopped.recv();
        hub.stop();
        scheduler.stop(RETENTION_TIMEOUT);
        Ok(())
    }

    fn wait_for_database(
        &self,
        waits: &AtomicBool,
        stopped: &Receiver<()>,
    ) -> Option<Result<PgConnection, Failure>> {
        let mut pause = PAUSE_FIRST;
        loop {
            match prepare(&self.config, &self.url) {
                Ok(connection) => return Some(Ok(connection)),
                Err(Unprepared::Never(failure)) => return Some(Err(failure)),
                Err(Unprepared::NotYet(reason)) => {
                    let url = redact_url(&self.url);
                    tracing::warn!(url, reason, "the database is not there; trying again");
                    waits.store(true, Ordering::Release);
                }
            }
            if is_stopped(stopped, pause) {
                return None;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Blocks readiness while the settings are unsafe. Once they were safe they are trusted:
    /// switching them off takes an administrator who knows what that means.
    fn watch_settings(&self, connection: &mut PgConnection, stopped: &Receiver<()>) {
        loop {
            match unsafe_settings(connection) {
                Ok(None) => return self.readiness.unblock(),
                Ok(Some(reason)) => {
                    tracing::error!(reason, "the server is not ready");
                    self.readiness.block(reason);
                }
                Err(error) => {
                    tracing::warn!(%error, "the database's settings could not be checked");
                    if let Ok(fresh) = store::connect(&self.url) {
                        *connection = fresh;
                    }
                }
            }
            if is_stopped(stopped, PAUSE_MAX) {
                return;
            }
        }
    }
}

fn is_stopped(stopped: &Receiver<()>, pause: Duration) -> bool {
    stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
}
