//! One Beckon a data folder: an exclusive flock on a file that also names its holder.
//!
//! The kernel frees a flock when its holder ends, however it ends, so there is no stale lock to
//! clean up. The file itself is never removed: removing it would let two processes each lock a
//! different file of the same name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::{EmbeddedError, IoContext};

/// The lock file's name inside the data folder.
const LOCK_FILE: &str = "beckon.lock";

/// No process id is longer than this; whatever else is in the file is not worth reading.
const PID_BYTES_MAX: u64 = 20;

/// The held lock; dropping it frees the folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock without waiting.
    pub(super) fn take(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let path = data_dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .while_doing("open the lock file", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EmbeddedError::InUse {
                    data_dir: data_dir.to_path_buf(),
                    holder_pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(source).while_doing("lock", &path);
            }
        }
        name_holder(&mut file).while_doing("write the lock file", &path)?;
        Ok(Self { _file: file })
    }
}

fn name_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
