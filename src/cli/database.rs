//! Which Postgres a command works on: the one that `database_url` names, or the private one.
//!
//! A server starts the private one and stops it at its end. Any other command shares it with a
//! server that runs, and else starts it for as long as it needs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use diesel::PgConnection;

use crate::config::{Config, redact_url};
use crate::embedded_pg::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres, is_reachable};
use crate::store;

use super::Failure;
use super::signals::{Held, Signals, Stops, Told};

/// The database of the private Postgres.
const DATABASE: &str = "beckon";

/// How long the private Postgres may take to stop; the rest of a shutdown has its share before.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The private Postgres's folder when none is set.
const FOLDER_HERE: &str = ".beckon";

/// The same where Postgres's account cannot enter the current folder.
const FOLDER_OF_THE_SYSTEM: &str = "/var/lib/beckon";

/// The folder of the private Postgres.
pub(super) fn data_folder(config: &Config) -> PathBuf {
    if let Some(folder) = &config.data_dir {
        return folder.clone();
    }
    // Starting Postgres will say what is wrong where this cannot be told.
    match is_reachable(Path::new(FOLDER_HERE), None) {
        Ok(false) => PathBuf::from(FOLDER_OF_THE_SYSTEM),
        Ok(true) | Err(_) => PathBuf::from(FOLDER_HERE),
    }
}

/// A database to work on.
#[derive(Debug)]
pub(super) struct Database {
    /// Its libpq URL.
    pub(super) url: String,
    /// The private Postgres and its folder.
    private: Option<(Held, PathBuf)>,
}

fn private_options(folder: &Path, stop: &Arc<AtomicBool>) -> EmbeddedOptions {
    let mut options = EmbeddedOptions::new(folder);
    options.stop_timeout = STOP_TIMEOUT;
    options.stop = Arc::clone(stop);
    options
}

impl Database {
    /// The server's: a private one is its own.
    pub(super) fn for_server(config: &Config, signals: &Signals) -> Result<Self, Failure> {
        match &config.database_url {
            Some(url) => Ok(Self::elsewhere(url)),
            None => Ok(Self::start_private(&data_folder(config), signals)?),
        }
    }

    /// A command's: a private one may be shared with a server that runs.
    pub(super) fn for_command(config: &Config) -> Result<Self, Failure> {
        if let Some(url) = &config.database_url {
            return Ok(Self::elsewhere(url));
        }
        let folder = &data_folder(config);
        if !folder.exists() {
            return Err(Failure::new(format!(
                "there is no database: database_url is not set, and the data folder {} does not \
                 exist (`beckon serve` or `beckon demo` make it)",
                folder.display()
            )));
        }
        // Without a Postgres of its own a command just ends.
        let signals = Signals::listen(Told::Command)?;
        match Self::start_private(folder, &signals) {
            Err(in_use @ EmbeddedError::InUse { .. }) => {
                let url = EmbeddedPostgres::url_of_running(folder, DATABASE).ok_or(in_use)?;
                Ok(Self { url, private: None })
            }
            outcome => Ok(outcome?),
        }
    }

    fn elsewhere(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            private: None,
        }
    }

    /// Starts the private Postgres in this folder, with Beckon's database.
    pub(super) fn start_private(folder: &Path, signals: &Signals) -> Result<Self, EmbeddedError> {
        let mut url = String::new();
        let held = signals.hold(|stop| {
            let postgres = EmbeddedPostgres::start(&private_options(folder, stop))?;
            postgres.create_database(DATABASE)?;
            url = postgres.url(DATABASE);
            Ok(postgres)
        })?;
        Ok(Self {
            url,
            private: Some((held, folder.to_owned())),
        })
    }

    /// Whether this is a private Postgres that ends with this value.
    pub(super) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Opens a connection.
    pub(super) fn connect(&self) -> Result<PgConnection, Failure> {
        store::connect(&self.url).map_err(|error| {
            Failure::new(format!(
                "the database {} cannot be reached: {error}",
                redact_url(&self.url)
            ))
        })
    }

    /// Opens a connection to a database that has this binary's schema.
    pub(super) fn connect_migrated(&self) -> Result<PgConnection, Failure> {
        let mut connection = self.connect()?;
        match store::migrate::pending(&mut connection)?.len() {
            0 => Ok(connection),
            count => Err(Failure::new(format!(
                "the database lacks {count} migration(s); run `beckon migrate up` first"
            ))),
        }
    }

    /// Hands a private Postgres to a thread that starts it again should it end by itself, for as
    /// long as a server runs. From now on the server's end is up to whoever asks for the signals.
    pub(super) fn supervise(self, signals: &Signals) -> Result<(Supervised, Stops), Failure> {
        let (postgres, stops) = signals.serve();
        let (Some(postgres), Some((_, folder))) = (postgres, self.private) else {
            return Ok((Supervised(None), stops));
        };
        let is_stopping = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&is_stopping);
        let (stop, stopped) = channel();
        let (done, outcome) = channel();
        std::thread::Builder::new()
            .name("private-postgres".to_owned())
            .spawn(move || {
                let last = keep_running(postgres, &folder, &stopped, &is_stopped);
                // Nobody waits when the server ended in the middle of a start.
                let _nobody_waits = done.send(last.map_or(Ok(()), EmbeddedPostgres::stop));
            })?;
        let supervision = Supervision {
            is_stopping,
            stop,
            outcome,
        };
        Ok((Supervised(Some(supervision)), stops))
    }

    /// Stops a private Postgres.
    pub(super) fn stop(self) -> Result<(), Failure> {
        match self.private {
            Some((held, _)) => Ok(held.stop()?),
            None => Ok(()),
        }
    }
}

/// A private Postgres that is kept running.
#[derive(Debug)]
#[must_use = "the private Postgres stops when this is dropped"]
pub(super) struct Supervised(Option<Supervision>);

#[derive(Debug)]
struct Supervision {
    /// Ends a start that is under way.
    is_stopping: Arc<AtomicBool>,
    /// Nothing is ever sent: dropping it stops the private Postgres.
    stop: Sender<()>,
    outcome: Receiver<Result<(), EmbeddedError>>,
}

impl Supervised {
    /// Stops the private Postgres.
    pub(super) fn stop(self) -> Result<(), Failure> {
        let Some(supervision) = self.0 else {
            return Ok(());
        };
        let Supervision {
            is_stopping,
            stop,
            outcome,
        } = supervision;
        is_stopping.store(true, Ordering::Release);
        drop(stop);
        match outcome.recv_timeout(STOP_PATIENCE) {
            Ok(stopped) => Ok(stopped?),
            Err(_) => Err(Failure::new(
                "the private Postgres did not stop in time; the next start adopts it",
            )),
        }
    }
}

/// How long the whole stop may take, with its more and more insistent steps.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// How often it is looked whether the private Postgres runs.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long to wait after a start that failed.
const START_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Starts the private Postgres again whenever it has ended, until told to stop; returns it if it
/// runs then.
fn keep_running(
    postgres: EmbeddedPostgres,
    folder: &Path,
    stopped: &Receiver<()>,
    is_stopped: &Arc<AtomicBool>,
) -> Option<EmbeddedPostgres> {
    let mut running = Some(postgres);
    let mut pause = LOOK_EVERY;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        if running.as_mut().is_some_and(EmbeddedPostgres::is_running) {
            continue;
        }
        tracing::error!("the private Postgres has ended by itself; starting it again");
        // The folder is let go of first; whatever of the old server lingers delays the new one.
        drop(running.take());
        match EmbeddedPostgres::start(&private_options(folder, is_stopped)) {
            Ok(again) => {
                tracing::info!(pid = again.pid(), "the private Postgres runs again");
                running = Some(again);
                pause = LOOK_EVERY;
            }
            Err(EmbeddedError::Stopped) => return None,
            Err(error) => {
                tracing::error!(%error, "the private Postgres does not start");
                pause = START_AGAIN_AFTER;
            }
        }
    }
    running
}
