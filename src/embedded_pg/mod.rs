//! A private PostgreSQL server for the demo, for development and for tests.
//!
//! It runs the binaries the machine's packages installed, in a data folder of Beckon's own, and
//! knows nothing of Beckon's schema: what it hands out is a URL.
//!
//! # What holds
//! - **One Beckon a folder.** An exclusive flock is held from before the first look at the folder
//!   until after the server has ended. A second start is refused, with the holder's process id.
//! - **A cluster is whole or absent.** It is made under another name and renamed when it is
//!   complete and on disk.
//! - **A server that outlived its Beckon is adopted.** After a `kill -9` of Beckon the flock is
//!   free and the server still runs: the next start connects to it, keeps using it and stops it
//!   at the end. One that is on its way up or down is waited for. Settings given to this start
//!   reach an adopted server only when it is next started.
//! - **Durability is not an option.** `fsync`, `full_page_writes` and `synchronous_commit` are on
//!   whatever extra settings a caller gives.
//! - **A terminal's Ctrl-C does not reach the server.** It has a process group of its own, so
//!   Beckon can write what is in flight before it stops the server.
//!
//! # Who can connect
//! There is no TCP listener. The socket is in a folder that only the server's account may enter,
//! and the server asks the kernel who is calling (`peer`): it lets in the one account that Beckon
//! runs as, as the role `beckon`, and nobody else. So there is no password to keep in a file, to
//! leak into a log or to pass in an environment; and even another process of an account such as
//! `nobody` that several daemons share, though it can enter the folder, is refused. A password in
//! a file would be readable by exactly the processes that `peer` lets in, and by accident by more;
//! `trust` would rest on the folder's permissions alone.
//!
//! Everything here blocks. Call it before the async runtime starts or from a blocking thread.

mod account;
mod binaries;
mod cluster;
mod error;
mod foreign;
mod layout;
mod lock;
mod log;
mod postmaster;
mod start;
mod wait;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::deserialize::QueryableByName;
use diesel::sql_types::{Bool, Text};
use diesel::{Connection, PgConnection, RunQueryDsl, sql_query};

pub use self::binaries::{PgBinaries, find_binaries};
pub use self::error::EmbeddedError;

use self::account::Account;
use self::error::IoContext;
use self::layout::Layout;
use self::lock::FolderLock;
use self::log::LogKeeper;
use self::postmaster::{PidFile, Process, Server, look_at};
use self::start::{Address, Start};

/// How to run the private server.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The folder that holds the cluster, the log and the lock. Made if it is absent.
    ///
    /// When Beckon is root, the server's account must be able to enter the folders above it.
    pub data_dir: PathBuf,
    /// The unprivileged operating-system account to run the server as when Beckon is root.
    ///
    /// By default the owner of the existing cluster; for a new one `postgres`, if that account
    /// exists, else `nobody`. An account of its own is better than `nobody`, whose processes can
    /// all read the cluster's files.
    pub user: Option<String>,
    /// The folder of the server's binaries; searched for when not given.
    pub bin_dir: Option<PathBuf>,
    /// How long the server may take to be ready, and `initdb` to make a cluster. The time that the
    /// server says it needs to start does not count: after a crash it may have much to recover,
    /// and would begin anew if it was stopped.
    pub start_timeout: Duration,
    /// How long a clean stop may take before the server is stopped less cleanly. Even then no
    /// committed data is lost; the next start recovers.
    pub stop_timeout: Duration,
    /// Further settings for `postgresql.conf`, by name and value.
    pub settings: Vec<(String, String)>,
    /// Ends a start that is under way once it is set, by whoever wants no server any more.
    pub stop: Arc<AtomicBool>,
}

impl EmbeddedOptions {
    /// Options for a server in `data_dir`: 60 s to start, 30 s to stop, nothing extra.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            user: None,
            bin_dir: None,
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(30),
            settings: Vec::new(),
            stop: Arc::default(),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A running private server, stopped when this is stopped or dropped.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    // The order matters when these are dropped: the lock is freed last.
    log_keeper: Option<LogKeeper>,
    server: Option<Server>,
    address: Address,
    log: PathBuf,
    pid: u32,
    was_adopted: bool,
    stop_timeout: Duration,
    _lock: FolderLock,
}

impl EmbeddedPostgres {
    /// Starts the server, making its cluster first if there is none, or adopts the one that a
    /// killed Beckon left running. Returns when the server takes connections.
    ///
    /// # Errors
    /// See [`EmbeddedError`]. A server that was started but did not become ready is ended; so is
    /// one that was found on its way up when the start is stopped.
    pub fn start(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let layout = Layout::prepare(&options.data_dir)?;
        let lock = FolderLock::take(&layout.data_dir)?;
        let cluster_owner = layout.cluster_owner()?;
        let account = Account::resolve(options.user.as_deref(), cluster_owner)?;
        if let Some((owner_uid, _)) = cluster_owner
            && owner_uid != account.uid
        {
            return Err(EmbeddedError::WrongOwner {
                cluster: layout.cluster,
                owner_uid,
                uid: account.uid,
            });
        }
        account.check_reach(&layout.data_dir)?;
        cluster::remove_unfinished(&layout)?;
        let bin_dir = options.bin_dir.as_deref();
        let binaries = match layout.cluster_major()? {
            Some(major) => binaries::of_major(major, &layout.cluster, bin_dir)?,
            None => {
                let binaries = binaries::newest_in(bin_dir)?;
                tracing::info!(folder = %layout.cluster.display(), "making a PostgreSQL cluster");
                cluster::make(&layout, &account, &binaries, options)?;
                binaries
            }
        };
        let start = Start {
            options,
            layout: &layout,
            account: &account,
            binaries: &binaries,
        };
        let (server, address) = start.run()?;
        let log_keeper = LogKeeper::start(layout.log.clone());
        let mut running = Self {
            log_keeper: None,
            pid: server.pid(),
            was_adopted: matches!(server, Server::Adopted { .. }),
            server: Some(server),
            address,
            log: layout.log,
            stop_timeout: options.stop_timeout,
            _lock: lock,
        };
        running.log_keeper = Some(log_keeper?);
        tracing::info!(
            pid = running.pid,
            adopted = running.was_adopted,
            "PostgreSQL is ready"
        );
        Ok(running)
    }

    /// A libpq URL for a database of this server. It holds no secret.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.address.url(database)
    }

    /// The URL of a database of the server that another Beckon runs in `data_dir`; nothing when no
    /// server is ready there. A command next to a running server shares its Postgres this way.
    #[must_use]
    pub fn url_of_running(data_dir: &Path, database: &str) -> Option<String> {
        let cluster = data_dir.canonicalize().ok()?.join("postgres");
        let file = PidFile::read(&cluster).ok().flatten()?;
        let owner = cluster.metadata().ok()?.uid();
        if !file.is_ready || look_at(file.pid, owner, &cluster) != Process::Postgres {
            return None;
        }
        Address::new(file.socket_dir?, file.port?)
            .url(database)
            .into()
    }

    /// The process id of the server's main process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the server was found running rather than started.
    #[must_use]
    pub fn was_adopted(&self) -> bool {
        self.was_adopted
    }

    /// The server's log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the server's main process still runs.
    pub fn is_running(&mut self) -> bool {
        self.server
            .as_mut()
            .is_some_and(|server| !server.has_ended())
    }

    /// Creates a database unless it exists. Returns whether it was created.
    ///
    /// # Errors
    /// [`EmbeddedError::Database`] when the server cannot be reached or refuses.
    pub fn create_database(&self, name: &str) -> Result<bool, EmbeddedError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| EmbeddedError::Database {
            action: format!("create the database {name:?}"),
            source,
        };
        let mut connection =
            PgConnection::establish(&self.url("postgres")).map_err(|e| failed(Box::new(e)))?;
        let found = sql_query("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS yes")
            .bind::<Text, _>(name)
            .get_result::<Answer>(&mut connection)
            .map_err(|e| failed(Box::new(e)))?;
        if found.yes {
            return Ok(false);
        }
        sql_query(format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")))
            .execute(&mut connection)
            .map_err(|e| failed(Box::new(e)))?;
        Ok(true)
    }

    /// Stops the server: fast at first, then with more and more insistence.
    ///
    /// # Errors
    /// [`EmbeddedError::StopTimeout`] when even SIGKILL did not end it.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.stop_server()
    }

    fn stop_server(&mut self) -> Result<(), EmbeddedError> {
        self.log_keeper = None;
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        server.stop(self.stop_timeout)?;
        // The server has removed its socket. An empty folder is only untidy, so a failure to
        // remove it is not worth a word.
        let _ = std::fs::remove_dir(self.address.socket_dir());
        tracing::info!(pid = self.pid, "PostgreSQL has stopped");
        Ok(())
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop_server() {
            tracing::error!(%error, "could not stop PostgreSQL");
        }
    }
}

/// Whether a server's data could live in `data_dir`, as far as entering the folders above it goes.
///
/// For choosing a default folder: as root, a folder below `/root` is out of the reach of the
/// unprivileged account that the server runs as. `user` is as in [`EmbeddedOptions::user`].
///
/// # Errors
/// See [`EmbeddedError`]; among them that there is no such account.
pub fn is_reachable(data_dir: &Path, user: Option<&str>) -> Result<bool, EmbeddedError> {
    let account = Account::resolve(user, None)?;
    let absolute = std::path::absolute(data_dir).while_doing("resolve", data_dir)?;
    // The data folder itself is made enterable when the server starts.
    let above = absolute
        .ancestors()
        .skip(1)
        .find(|ancestor| ancestor.exists());
    match account.check_reach(above.unwrap_or(Path::new("/"))) {
        Ok(()) => Ok(true),
        Err(EmbeddedError::Unreachable { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(QueryableByName)]
struct Answer {
    #[diesel(sql_type = Bool)]
    yes: bool,
}
