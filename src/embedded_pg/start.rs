//! One start: adopting the server that is there, or starting one and waiting for it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use diesel::{Connection, PgConnection, RunQueryDsl, sql_query};

use super::account::Account;
use super::binaries::PgBinaries;
use super::error::{EmbeddedError, IoContext};
use super::layout::{Layout, PORT};
use super::postmaster::{PidFile, Process, Server, look_at};
use super::wait::wait_until;
use super::{Answer, EmbeddedOptions, cluster, log};

/// How often a start is begun anew because a server appeared or vanished while it was looked at.
const START_ROUNDS_MAX: u32 = 3;

/// How often it is told that a server is still on its way up.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    socket_dir: PathBuf,
    port: u16,
}

impl Address {
    pub(super) fn new(socket_dir: PathBuf, port: u16) -> Self {
        Self { socket_dir, port }
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn url(&self, database: &str) -> String {
        format!(
            "postgresql:///{}?host={}&port={}&user={}",
            percent_encoded(database.as_bytes()),
            percent_encoded(self.socket_dir.as_os_str().as_bytes()),
            self.port,
            cluster::ROLE
        )
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// One attempt to have a server, by adoption or by starting one.
pub(super) struct Start<'a> {
    pub(super) options: &'a EmbeddedOptions,
    pub(super) layout: &'a Layout,
    pub(super) account: &'a Account,
    pub(super) binaries: &'a PgBinaries,
}

/// How waiting for a server came out.
enum Waited {
    Ready(Address),
    /// The server ended. A child's exit status is known.
    Ended(Option<ExitStatus>),
    TimedOut,
    /// Nobody wants it any more.
    Stopped,
}

/// What a server says of itself.
enum Said {
    Nothing,
    /// It is on its way up, and gets on however long that takes.
    Starting,
    /// It listens here, and has answered a query.
    Ready(Address),
}

impl Start<'_> {
    /// Returns a server that takes connections, and where.
    pub(super) fn run(&self) -> Result<(Server, Address), EmbeddedError> {
        let mut round = 0;
        loop {
            round += 1;
            let may_retry = round < START_ROUNDS_MAX;
            if let Some(pid) = self.server_left_over()? {
                let mut server = Server::Adopted {
                    pid,
                    cluster: self.layout.cluster.clone(),
                    owner: self.account.uid,
                };
                match self.wait_for(&mut server)? {
                    Waited::Ready(address) => return Ok((server, address)),
                    // It was on its way down; now the folder is free for a server of our own.
                    Waited::Ended(_) if may_retry => continue,
                    Waited::Ended(_) => return Err(self.start_failed("gone".to_owned(), 0)),
                    Waited::TimedOut => return Err(self.start_timed_out(0)),
                    Waited::Stopped => return Err(self.stopped(&mut server)),
                }
            }
            let (mut server, log_start) = self.spawn()?;
            match self.wait_for(&mut server) {
                Ok(Waited::Ready(address)) => return Ok((server, address)),
                // The Beckon before us may have been killed just after it started a server
                // that had not yet written its pid file.
                Ok(Waited::Ended(_)) if may_retry && self.server_left_over()?.is_some() => {}
                Ok(Waited::Ended(status)) => {
                    let status = status.map_or("gone".to_owned(), |status| status.to_string());
                    return Err(self.start_failed(status, log_start));
                }
                Ok(Waited::TimedOut) => {
                    self.give_up(&mut server, Duration::ZERO);
                    return Err(self.start_timed_out(log_start));
                }
                Ok(Waited::Stopped) => return Err(self.stopped(&mut server)),
                Err(error) => {
                    self.give_up(&mut server, Duration::ZERO);
                    return Err(error);
                }
            }
        }
    }

    /// The process id of a server that already serves this cluster.
    fn server_left_over(&self) -> Result<Option<u32>, EmbeddedError> {
        let Some(file) = PidFile::read(&self.layout.cluster)? else {
            return Ok(None);
        };
        match look_at(file.pid, self.account.uid, &self.layout.cluster) {
            Process::Postgres => Ok(Some(file.pid)),
            Process::Gone => Ok(None),
            Process::Other => {
                PidFile::disown(&self.layout.cluster, self.account)?;
                Ok(None)
            }
        }
    }

    fn spawn(&self) -> Result<(Server, u64), EmbeddedError> {
        cluster::configure(self.layout, self.account, &self.options.settings)?;
        self.layout.make_socket_dir(self.account)?;
        let (log, log_start) = log::open(&self.layout.log)?;
        let log_too = log.try_clone().while_doing("open", &self.layout.log)?;
        let program = self.binaries.path("postgres");
        let child = self
            .account
            .command(&program)
            .arg("-D")
            .arg(&self.layout.cluster)
            .stdout(log)
            .stderr(log_too)
            .process_group(0)
            .spawn()
            .while_doing("run", &program)?;
        Ok((Server::Started(child), log_start))
    }

    /// Waits until the server answers a query about itself.
    fn wait_for(&self, server: &mut Server) -> Result<Waited, EmbeddedError> {
        let mut outcome = None;
        let mut failure = None;
        let begun = Instant::now();
        let mut silent_since = begun;
        let mut told_at = begun;
        wait_until(Duration::MAX, || {
            if server.has_ended() {
                outcome = Some(Waited::Ended(exit_status(server)));
                return true;
            }
            if self.options.is_stopped() {
                outcome = Some(Waited::Stopped);
                return true;
            }
            match self.asked(server.pid()) {
                Ok(Said::Ready(address)) => outcome = Some(Waited::Ready(address)),
                Ok(Said::Starting) => {
                    silent_since = Instant::now();
                    if told_at.elapsed() >= TELL_EVERY {
                        told_at = silent_since;
                        let seconds = begun.elapsed().as_secs();
                        tracing::info!(seconds, "PostgreSQL is still starting; see its log");
                    }
                }
                Ok(Said::Nothing) => {}
                Err(error) => failure = Some(error),
            }
            outcome.is_some() || silent_since.elapsed() >= self.options.start_timeout
        });
        match (outcome, failure) {
            (Some(outcome), _) => Ok(outcome),
            // It says that it is ready and still does not let us in: the reason is the news.
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Waited::TimedOut),
        }
    }

    /// How far the server is, by its pid file and by its answer to a query.
    fn asked(&self, pid: u32) -> Result<Said, EmbeddedError> {
        let file = match PidFile::read(&self.layout.cluster)? {
            Some(file) if file.pid == pid => file,
            _ => return Ok(Said::Nothing),
        };
        if !file.is_ready {
            return Ok(match file.is_starting {
                true => Said::Starting,
                false => Said::Nothing,
            });
        }
        // An adopted server may have been started when the folder had another name.
        let address = Address {
            socket_dir: file
                .socket_dir
                .unwrap_or_else(|| self.layout.socket_dir.clone()),
            port: file.port.unwrap_or(PORT),
        };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| EmbeddedError::Database {
            action: "connect to the server".to_owned(),
            source,
        };
        // The timeout is libpq's, in seconds, so that a stopped server cannot hold us for ever.
        let url = format!("{}&connect_timeout=5", address.url("postgres"));
        let mut connection = PgConnection::establish(&url).map_err(|e| failed(Box::new(e)))?;
        let answer = sql_query("SELECT NOT pg_is_in_recovery() AS yes")
            .get_result::<Answer>(&mut connection)
            .map_err(|e| failed(Box::new(e)))?;
        Ok(match answer.yes {
            true => Said::Ready(address),
            false => Said::Nothing,
        })
    }

    fn give_up(&self, server: &mut Server, patience: Duration) {
        if let Err(error) = server.stop(patience) {
            tracing::error!(%error, "could not end a server that did not become ready");
        }
    }

    fn stopped(&self, server: &mut Server) -> EmbeddedError {
        self.give_up(server, self.options.stop_timeout);
        EmbeddedError::Stopped
    }

    fn start_failed(&self, status: String, log_start: u64) -> EmbeddedError {
        let log = self.layout.log.clone();
        EmbeddedError::StartFailed {
            status,
            tail: log::tail_since(&log, log_start),
            log,
        }
    }

    fn start_timed_out(&self, log_start: u64) -> EmbeddedError {
        let log = self.layout.log.clone();
        EmbeddedError::StartTimeout {
            seconds: self.options.start_timeout.as_secs(),
            tail: log::tail_since(&log, log_start),
            log,
        }
    }
}

fn exit_status(server: &mut Server) -> Option<ExitStatus> {
    match server {
        Server::Started(child) => child.try_wait().ok().flatten(),
        Server::Adopted { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_survives_odd_characters_in_the_folder_and_the_database() {
        let address = Address {
            socket_dir: PathBuf::from("/d/a b&c"),
            port: 5432,
        };
        assert_eq!(
            address.url("x?y"),
            "postgresql:///x%3Fy?host=%2Fd%2Fa%20b%26c&port=5432&user=beckon"
        );
    }
}
