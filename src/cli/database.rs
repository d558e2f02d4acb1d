//! Which Postgres a command works on: the one that `database_url` names, or the private one.
//!
//! A server starts the private one and stops it at its end. Any other command shares it with a
//! server that runs, and else starts it for as long as it needs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel::PgConnection;

use crate::config::{Config, redact_url};
use crate::embedded_pg::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres, is_reachable};
use crate::store;

use super::Failure;

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
    private: Option<EmbeddedPostgres>,
}

impl Database {
    /// The server's: a private one is its own.
    pub(super) fn for_server(config: &Config) -> Result<Self, Failure> {
        match &config.database_url {
            Some(url) => Ok(Self::elsewhere(url)),
            None => Ok(Self::start_private(&data_folder(config))?),
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
        match Self::start_private(folder) {
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
    pub(super) fn start_private(folder: &Path) -> Result<Self, EmbeddedError> {
        let mut options = EmbeddedOptions::new(folder);
        options.stop_timeout = STOP_TIMEOUT;
        let postgres = EmbeddedPostgres::start(&options)?;
        postgres.create_database(DATABASE)?;
        Ok(Self {
            url: postgres.url(DATABASE),
            private: Some(postgres),
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

    /// Stops a private Postgres.
    pub(super) fn stop(self) -> Result<(), Failure> {
        match self.private {
            Some(postgres) => Ok(postgres.stop()?),
            None => Ok(()),
        }
    }
}
