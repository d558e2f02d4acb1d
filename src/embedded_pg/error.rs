//! What can go wrong with the private Postgres, in words an operator can act on.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A failure to find, make, start or stop the private Postgres.
///
/// Every message says what was being done and, where there is something to do about it, what.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// No usable server binaries on this machine.
    #[error(
        "no PostgreSQL server binaries (initdb and postgres, version {oldest_major} or newer) \
         found; looked in {}. Install them (Debian, Ubuntu: `apt install postgresql`; Fedora, \
         RHEL: `dnf install postgresql-server`; macOS: `brew install postgresql@17`) or set \
         DATABASE_URL to a server of your own",
        list(searched)
    )]
    BinariesMissing {
        /// The folders that were looked in.
        searched: Vec<PathBuf>,
        /// The oldest major version that would have done.
        oldest_major: u32,
    },
    /// Binaries exist, but not of the version that made the data.
    #[error(
        "{} was made by PostgreSQL {wanted_major}, but this machine has only {}. Install \
         version {wanted_major} (Debian, Ubuntu: `apt install postgresql-{wanted_major}`) or \
         upgrade the folder with pg_upgrade",
        cluster.display(),
        majors(found_majors)
    )]
    BinariesOfOtherVersion {
        /// The folder that holds the data.
        cluster: PathBuf,
        /// The major version in its `PG_VERSION`.
        wanted_major: u32,
        /// The major versions that are installed.
        found_majors: Vec<u32>,
    },
    /// Another Beckon holds the data folder.
    #[error(
        "the data folder {} is in use by another beckon{}; stop that one or choose another \
         folder",
        data_dir.display(),
        holder_pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The contested folder.
        data_dir: PathBuf,
        /// The holder's process id, when it could be read from the lock file.
        holder_pid: Option<u32>,
    },
    /// The operating-system account the server should run as does not exist.
    #[error("there is no operating-system user named {name:?} to run PostgreSQL as")]
    UnknownAccount {
        /// The name that was looked up.
        name: String,
    },
    /// An account was asked for that only root could switch to.
    #[error(
        "PostgreSQL was to run as {wanted:?}, but only root can switch users and this is \
         {current:?}; leave the user out or run as root"
    )]
    CannotSwitchAccount {
        /// The account asked for.
        wanted: String,
        /// The account Beckon runs as.
        current: String,
    },
    /// PostgreSQL refuses to run as root, and so do we on its behalf.
    #[error("PostgreSQL refuses to run as root; choose an unprivileged user to run it as")]
    RootAccount,
    /// The data exists and belongs to somebody else.
    #[error(
        "{} belongs to the user with id {owner_uid}, but PostgreSQL would run with id {uid}; run \
         as its owner or change the owner of the folder",
        cluster.display()
    )]
    WrongOwner {
        /// The folder that holds the data.
        cluster: PathBuf,
        /// Who owns it.
        owner_uid: u32,
        /// Who the server would run as.
        uid: u32,
    },
    /// The server's account cannot enter a folder above its data.
    #[error(
        "the user {account:?}, which PostgreSQL runs as, may not enter {}; choose a data folder \
         elsewhere (such as /var/lib/beckon) or allow it with `chmod o+x {}`",
        blocked.display(),
        blocked.display()
    )]
    Unreachable {
        /// The account.
        account: String,
        /// The first folder it may not enter.
        blocked: PathBuf,
    },
    /// A folder for the socket exists but is not safe to use.
    #[error(
        "the socket folder {} exists but is not a private folder of the server's user; remove it",
        path.display()
    )]
    UnsafeSocketFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A setting that cannot be written to the server's configuration.
    #[error("{name:?} = {value:?} cannot be a PostgreSQL setting")]
    BadSetting {
        /// The setting's name.
        name: String,
        /// The setting's value.
        value: String,
    },
    /// `initdb` failed.
    #[error("initdb failed ({status}): {output}")]
    Initdb {
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL ended while it started ({status}). Its log, {}, ends with:\n{tail}", log.display())]
    StartFailed {
        /// How it ended.
        status: String,
        /// The log file.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// The server was not ready in time.
    #[error(
        "PostgreSQL was not ready after {seconds} s. Its log, {}, ends with:\n{tail}",
        log.display()
    )]
    StartTimeout {
        /// How long was waited.
        seconds: u64,
        /// The log file.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// [`EmbeddedOptions::stop`](super::EmbeddedOptions::stop) was set meanwhile.
    #[error("PostgreSQL was told to stop while it started")]
    Stopped,
    /// Even SIGKILL did not end the server in time (a disk that hangs, say).
    #[error("PostgreSQL (process {pid}) did not end, even when killed")]
    StopTimeout {
        /// The postmaster's process id.
        pid: u32,
    },
    /// The server runs but a statement or connection of ours failed.
    #[error("could not {action} on the private PostgreSQL")]
    Database {
        /// What was being done.
        action: String,
        /// What libpq or the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or process operation failed.
    #[error("could not {action}")]
    Io {
        /// What was being done, to which path.
        action: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Names what was being done to which path, for an I/O error.
pub(super) trait IoContext<T> {
    /// Turns the error into [`EmbeddedError::Io`] with `verb` and `path` as its message.
    fn while_doing(self, verb: &str, path: &Path) -> Result<T, EmbeddedError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn while_doing(self, verb: &str, path: &Path) -> Result<T, EmbeddedError> {
        self.map_err(|source| EmbeddedError::Io {
            action: format!("{verb} {}", path.display()),
            source,
        })
    }
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if shown.is_empty() {
        "no folder".to_owned()
    } else {
        shown.join(", ")
    }
}

fn majors(found: &[u32]) -> String {
    let shown: Vec<String> = found.iter().map(u32::to_string).collect();
    if shown.is_empty() {
        "none".to_owned()
    } else {
        format!("version {}", shown.join(", "))
    }
}
