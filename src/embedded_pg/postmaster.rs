//! The server's main process as its own pid file and the kernel describe it.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::account::Account;
use super::error::{EmbeddedError, IoContext};
use super::foreign;
use super::wait::wait_until;

/// How long an immediate shutdown may take before the process is killed.
const IMMEDIATE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What `postmaster.pid` says. PostgreSQL documents its lines in `miscadmin.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) port: Option<u16>,
    pub(super) socket_dir: Option<PathBuf>,
    /// Whether the server says that it takes connections.
    pub(super) is_ready: bool,
    /// Whether the server says that it is on its way up, crash recovery included.
    pub(super) is_starting: bool,
}

impl PidFile {
    fn path(cluster: &Path) -> PathBuf {
        cluster.join("postmaster.pid")
    }

    /// Reads the file; nothing when it is absent or not yet written.
    pub(super) fn read(cluster: &Path) -> Result<Option<Self>, EmbeddedError> {
        let path = Self::path(cluster);
        match foreign::read(&path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).while_doing("read", &path),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // A standalone backend writes a negative number.
        let pid: i64 = lines.first()?.parse().ok()?;
        Some(Self {
            pid: u32::try_from(pid.unsigned_abs()).ok()?,
            port: lines.get(3).and_then(|line| line.parse().ok()),
            socket_dir: lines
                .get(4)
                .filter(|line| !line.is_empty())
                .map(PathBuf::from),
            is_ready: lines.get(7).is_some_and(|line| *line == "ready"),
            is_starting: lines.get(7).is_some_and(|line| *line == "starting"),
        })
    }

    /// Makes the server treat its pid file as left over, when the pid in it has passed to some
    /// other program of the same user. Its own test is only whether the pid exists.
    ///
    /// The pid is replaced by Beckon's, which the server, as our child, ignores; the rest of the
    /// file stays, as from it the server checks that no orphan still uses the old shared memory.
    pub(super) fn disown(cluster: &Path, account: &Account) -> Result<(), EmbeddedError> {
        let path = Self::path(cluster);
        let text = foreign::read(&path).while_doing("read", &path)?;
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        let temporary = cluster.join("postmaster.pid.beckon");
        let text = format!("{}\n{rest}", std::process::id());
        foreign::replace(&path, &temporary, &text, account)
    }
}

/// What a process id stands for just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// No such process, or one that has ended and only awaits its parent.
    Gone,
    /// A PostgreSQL server, or something that cannot be told from one.
    Postgres,
    /// Certainly another program.
    Other,
}

/// Looks at a process that the pid file of a cluster of the user `owner` names. One of another user
/// is not that cluster's server, and as root must not be signalled because the folder says so.
pub(super) fn look_at(pid: u32, owner: u32, cluster: &Path) -> Process {
    let Some(process) = to_pid(pid) else {
        return Process::Gone;
    };
    if test_kill_process(process) == Err(rustix::io::Errno::SRCH) {
        return Process::Gone;
    }
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
        // `pid (command) state …`; the command may itself hold spaces and parentheses.
        if let Some((before, after)) = stat.rsplit_once(')') {
            let is_zombie = after.trim_start().starts_with(['Z', 'X']);
            let command = before.split_once('(').map_or("", |(_, command)| command);
            return match command {
                _ if is_zombie => Process::Gone,
                "postgres" | "postmaster" if is_of(pid, owner) && !is_elsewhere(pid, cluster) => {
                    Process::Postgres
                }
                _ => Process::Other,
            };
        }
    }
    Process::Postgres
}

fn is_of(pid: u32, owner: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == owner)
}

/// Whether a server certainly serves another cluster: each works in the folder of its own, before it
/// writes its pid file there. Folders are compared themselves, as one may have several names.
fn is_elsewhere(pid: u32, cluster: &Path) -> bool {
    let works_in = fs::metadata(format!("/proc/{pid}/cwd"));
    match (works_in, fs::metadata(cluster)) {
        (Ok(works_in), Ok(cluster)) => {
            (works_in.dev(), works_in.ino()) != (cluster.dev(), cluster.ino())
        }
        _ => false,
    }
}

/// A server to be stopped: one we started, or one we found.
#[derive(Debug)]
pub(super) enum Server {
    /// Our own child.
    Started(Child),
    /// Left over by a killed Beckon; somebody else's child by now.
    Adopted {
        /// The postmaster's process id.
        pid: u32,
        /// The cluster it serves.
        cluster: PathBuf,
        /// Whose processes the two are.
        owner: u32,
    },
}

impl Server {
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Started(child) => child.id(),
            Self::Adopted { pid, .. } => *pid,
        }
    }

    /// Whether the server has ended. A child is reaped by this, so its pid may be reused after.
    pub(super) fn has_ended(&mut self) -> bool {
        match self {
            Self::Started(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Adopted {
                pid,
                cluster,
                owner,
            } => {
                // A server removes its pid file as its last act, so a pid that has passed to
                // another process is not mistaken for it.
                let still_named = matches!(
                    PidFile::read(cluster), Ok(Some(file)) if file.pid == *pid
                );
                !still_named || look_at(*pid, *owner, cluster) != Process::Postgres
            }
        }
    }

    /// Stops the server: fast (sessions end, a checkpoint is written), then without the
    /// checkpoint (the next start recovers), then by force.
    pub(super) fn stop(&mut self, timeout: Duration) -> Result<(), EmbeddedError> {
        let steps = [
            (Signal::INT, timeout),
            (Signal::QUIT, IMMEDIATE_TIMEOUT),
            (Signal::KILL, KILL_TIMEOUT),
        ];
        for (signal, patience) in steps {
            if self.has_ended() {
                return Ok(());
            }
            if signal != Signal::INT {
                tracing::warn!(
                    pid = self.pid(),
                    ?signal,
                    "PostgreSQL does not stop; insisting"
                );
            }
            self.signal(signal)?;
            if wait_until(patience, || self.has_ended()) {
                return Ok(());
            }
        }
        Err(EmbeddedError::StopTimeout { pid: self.pid() })
    }

    fn signal(&self, signal: Signal) -> Result<(), EmbeddedError> {
        let Some(pid) = to_pid(self.pid()) else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(EmbeddedError::Io {
                action: format!("signal PostgreSQL (process {})", self.pid()),
                source: io::Error::from(error),
            }),
        }
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use super::*;

    fn look(pid: u32) -> Process {
        let own_uid = rustix::process::geteuid().as_raw();
        look_at(pid, own_uid, Path::new("/"))
    }

    #[test]
    fn a_running_servers_pid_file_is_read() {
        let text = "4711\n/d/postgres\n1700000000\n5432\n/d/run\n\n  1234  5678\nready   \n";
        let expected = PidFile {
            pid: 4711,
            port: Some(5432),
            socket_dir: Some(PathBuf::from("/d/run")),
            is_ready: true,
            is_starting: false,
        };
        assert_eq!(PidFile::parse(text), Some(expected));
        let file = PidFile::parse(&text.replace("ready   ", "starting")).expect("a pid");
        assert!(file.is_starting && !file.is_ready);
    }

    #[test]
    fn a_pid_file_that_is_still_being_written_is_not_ready() {
        let file = PidFile::parse("4711\n/d/postgres\n1700000000\n5432\n").expect("a pid");
        assert!(!file.is_ready);
        assert_eq!(file.socket_dir, None);
        assert_eq!(PidFile::parse(""), None);
    }

    #[test]
    fn a_pid_that_passed_to_another_program_is_not_taken_for_a_server() {
        assert_eq!(look(std::process::id()), Process::Other);
    }

    #[test]
    fn an_ended_process_is_gone_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("true runs");
        let pid = child.id();
        assert!(wait_until(Duration::from_secs(5), || look(pid) == Process::Gone));
        child.wait().expect("it has ended");
        assert_eq!(look(pid), Process::Gone);
    }
}
