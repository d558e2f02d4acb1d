//! The server's log file, kept below a bound.
//!
//! The server appends to the file directly rather than through a pipe to Beckon, so its messages
//! are kept even when Beckon is killed. As the server holds the file open, a file that has grown
//! too large is copied (its last part) and then emptied in place; lines written between the two
//! are lost, which is the price of having no process in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cluster::tail;
use super::error::{EmbeddedError, IoContext};

/// The file is emptied when it is found larger than this; one older part of the same size is kept.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How often the size is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How much of the log an error carries.
const TAIL_BYTES_MAX: usize = 4_000;

/// Opens the log for a server that is about to start, shortening it if need be. Returns the file
/// and its length, which is where this start's messages begin.
pub(super) fn open(path: &Path) -> Result<(File, u64), EmbeddedError> {
    shorten(path, LOG_BYTES_MAX).while_doing("shorten", path)?;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .while_doing("open", path)?;
    let length = file.metadata().while_doing("read", path)?.len();
    Ok((file, length))
}

/// The end of what has been logged since `start`.
pub(super) fn tail_since(path: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let from = start
            .max(length.saturating_sub(TAIL_BYTES_MAX as u64))
            .min(length);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "(nothing)".to_owned(),
        Ok(text) => tail(&text, TAIL_BYTES_MAX).to_owned(),
        Err(error) => format!("(the log could not be read: {error})"),
    }
}

/// Copies the last `bytes_max` bytes to `<path>.1` and empties the file, if it is larger.
fn shorten(path: &Path, bytes_max: u64) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length <= bytes_max {
        return Ok(());
    }
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    let older = PathBuf::from(older);
    // A new file, so that the copy has the log's own permissions from its first byte.
    match fs::remove_file(&older) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&older)?;
    file.seek(SeekFrom::Start(length - bytes_max))?;
    io::copy(&mut (&mut file).take(bytes_max), &mut copy)?;
    file.set_len(0)
}

/// A thread that keeps the log below its bound while the server runs.
#[derive(Debug)]
pub(super) struct LogKeeper {
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LogKeeper {
    /// Starts the thread.
    pub(super) fn start(path: PathBuf) -> Result<Self, EmbeddedError> {
        let (stop, stopped) = mpsc::channel();
        let shown = path.clone();
        let keep = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = shorten(&path, LOG_BYTES_MAX) {
                    tracing::warn!(%error, log = %path.display(), "could not shorten the log");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("pg-log".to_owned())
            .spawn(keep)
            .while_doing("start a thread for", &shown)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for LogKeeper {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that shortens PostgreSQL's log panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use super::*;
    use std::io::Write;

    #[test]
    fn a_large_log_is_emptied_in_place_and_its_end_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("postgres.log");
        let (mut server_side, start) = open(&path).expect("a new log");
        assert_eq!(start, 0);
        server_side
            .write_all(b"first\nsecond\n")
            .expect("room for two lines");

        shorten(&path, 100).expect("nothing to do");
        assert_eq!(fs::read(&path).expect("the log"), b"first\nsecond\n");

        shorten(&path, 7).expect("the log is too large");
        assert_eq!(fs::read(&path).expect("the log"), b"");
        let older = folder.path().join("postgres.log.1");
        assert_eq!(fs::read(&older).expect("the older part"), b"second\n");

        server_side
            .write_all(b"third\n")
            .expect("the server still writes");
        shorten(&path, 3).expect("an older part exists already");
        assert_eq!(fs::read(&older).expect("the older part"), b"rd\n");
    }

    #[test]
    fn the_tail_of_a_log_begins_with_this_start() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("postgres.log");
        fs::write(&path, "old\nnew\n").expect("a log");
        assert_eq!(tail_since(&path, 4), "new");
        assert_eq!(tail_since(&path, 8), "(nothing)");
        assert_eq!(tail_since(&path, 800), "(nothing)");
    }
}
