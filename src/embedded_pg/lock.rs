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
    file: File,
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
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    /// Closing the file is not enough: a child that another thread has forked, and that has not
    /// yet become its program, holds a copy of the descriptor and with it the lock.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "could not unlock the data folder");
        }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_lock_is_free_again_although_a_forked_child_has_a_copy_of_the_descriptor() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lock = FolderLock::take(folder.path()).expect("nobody has it");
        let copy = lock.file.try_clone().expect("a copy of the descriptor");
        assert!(FolderLock::take(folder.path()).is_err(), "it is held");
        drop(lock);
        FolderLock::take(folder.path()).expect("it was given up");
        drop(copy);
    }
}
