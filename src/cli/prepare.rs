//! What has to be true of the database before the server calls itself ready.
//!
//! A database that is absent is waited for, for ever and with growing patience: the server answers
//! 503 meanwhile and becomes ready by itself. What waiting cannot mend ends the server.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use diesel::{PgConnection, RunQueryDsl, sql_query};

use crate::config::Config;
use crate::http::AppState;
use crate::hub::Hub;
use crate::retention::{RetentionOptions, Scheduler, SchedulerOptions};
use crate::store::migrate::MigrateError;
use crate::store::{self, partitions};

use super::Failure;
use super::keys::{self, Scope};

/// How long to wait after the first attempt that failed, and at most.
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MOST: Duration = Duration::from_secs(5);

/// How often it is looked whether the campaigns are loaded.
const LOADING_LOOK: Duration = Duration::from_millis(10);

/// The threads that run for as long as the server does.
#[derive(Debug)]
pub(super) struct Running {
    hub: Hub,
    scheduler: Scheduler,
}

impl Running {
    /// Stops the threads, within the time.
    pub(super) fn stop(self, patience: Duration) {
        self.hub.stop();
        self.scheduler.stop(patience);
    }
}

/// Why an attempt did not succeed.
enum Trouble {
    /// The database is not there; it may come.
    Absent(String),
    /// Nothing but a person can mend this.
    Fatal(Failure),
}

impl From<diesel::result::Error> for Trouble {
    fn from(error: diesel::result::Error) -> Self {
        Self::Absent(error.to_string())
    }
}

/// Prepares the database until it succeeds, is stopped, or cannot go on. Says through `tried` when
/// the first attempt is over, so that the server can listen even without a database.
pub(super) fn prepare(
    config: &Config,
    state: &AppState,
    stop: &Receiver<()>,
    tried: &Sender<()>,
) -> Result<Option<Running>, Failure> {
    let mut wait = WAIT_FIRST;
    loop {
        match attempt(config, state) {
            Ok(()) => break,
            Err(Trouble::Fatal(failure)) => return Err(failure),
            Err(Trouble::Absent(reason)) => {
                tracing::warn!(reason, "the database is not there yet");
                state.readiness.block("the database is not there yet");
            }
        }
        let _nobody_waits_any_more = tried.send(());
        if is_stopped(stop, wait) {
            return Ok(None);
        }
        wait = (wait * 2).min(WAIT_MOST);
    }
    let hub = state.targeting.start()?;
    let scheduler = Scheduler::start(
        SchedulerOptions {
            url: state.store.url().to_owned(),
            schedule: config
                .retention_schedule
                .parse()
                .map_err(|error| Failure::usage(format!("retention_schedule: {error}")))?,
            retention: RetentionOptions {
                partitions_ahead_days: config.partitions_ahead_days,
                dedupe_window_days: config.dedupe_window_days,
            },
        },
        state.clock.clone(),
    )?;
    let running = Running { hub, scheduler };
    while !state.targeting.is_ready() {
        if is_stopped(stop, LOADING_LOOK) {
            running.stop(Duration::ZERO);
            return Ok(None);
        }
    }
    state.readiness.unblock();
    let _nobody_waits_any_more = tried.send(());
    Ok(Some(running))
}

fn is_stopped(stop: &Receiver<()>, wait: Duration) -> bool {
    !matches!(stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

fn attempt(config: &Config, state: &AppState) -> Result<(), Trouble> {
    let mut connection =
        store::connect(state.store.url()).map_err(|error| Trouble::Absent(error.to_string()))?;
    refuse_unsafe(config, &mut connection)?;
    let ran = store::migrate::migrate(&mut connection).map_err(|error| match error {
        MigrateError::Database(error) => Trouble::from(error),
        other => Trouble::Fatal(other.into()),
    })?;
    for version in ran {
        tracing::info!(version, "migrated");
    }
    let today = partitions::database_now(&mut connection)?.date_naive();
    partitions::ensure_ahead(&mut connection, today, config.partitions_ahead_days)?;
    let project = keys::find_project(&mut connection, "default").map_err(Trouble::Fatal)?;
    for (scope, key) in [
        (Scope::Admin, &config.admin_key),
        (Scope::Client, &config.client_key),
    ] {
        if let Some(key) = key {
            keys::ensure(&mut connection, project, scope, key)?;
        }
    }
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Setting {
    #[diesel(sql_type = diesel::sql_types::Text)]
    name: String,
}

/// A server that may lose what it acknowledged does not call itself ready, unless it was told to.
fn refuse_unsafe(config: &Config, connection: &mut PgConnection) -> Result<(), Trouble> {
    let off: Vec<Setting> = sql_query(
        "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') \
         AND setting <> 'on' ORDER BY name",
    )
    .load(connection)?;
    if off.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = off.iter().map(|setting| setting.name.as_str()).collect();
    let names = names.join(" and ");
    if config.allow_unsafe_database {
        tracing::warn!("Postgres runs with {names} off: a power cut can lose acknowledged events");
        return Ok(());
    }
    Err(Trouble::Fatal(Failure::new(format!(
        "Postgres runs with {names} off, so a power cut can lose events that were acknowledged; \
         switch it on, or set BECKON_ALLOW_UNSAFE_DATABASE=true to run all the same"
    ))))
}
