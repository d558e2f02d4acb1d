//! Files in the cluster's folder, which belongs to the server's account while Beckon may be root.
//!
//! Whoever runs code as that account can put a link, a pipe or a device where a file is expected.
//! So nothing there is opened through a link, only regular files are read and no more than a bound
//! of them, and what is changed is the open file rather than whatever its name stands for by then.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fchown, open};
use rustix::process::{Gid, Uid};

use super::account::Account;
use super::error::{EmbeddedError, IoContext};

/// The files that are read there have a few lines.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Reads a small regular file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    // Without NONBLOCK, a pipe would be waited for until somebody writes into it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "it is no regular file",
        ));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Replaces a file in one step, so that a kill leaves the old one or the new one. Until then the
/// new one has the name `temporary`, in the same folder.
pub(super) fn replace(
    path: &Path,
    temporary: &Path,
    text: &str,
    account: &Account,
) -> Result<(), EmbeddedError> {
    // Removing and renaming work on a link itself, never on what it leads to.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).while_doing("remove", temporary);
        }
        _ => {}
    }
    // EXCL makes the kernel create the file itself or fail: it follows no link.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = open(temporary, flags, Mode::RUSR | Mode::WUSR)
        .map_err(io::Error::from)
        .and_then(|descriptor| {
            let mut file = File::from(descriptor);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            give(&file, account)
        });
    written.while_doing("write", temporary)?;
    fs::rename(temporary, path).while_doing("write", path)
}

/// Gives a folder to the server's account, unless its name stands for something else by now.
pub(super) fn give_folder(path: &Path, account: &Account) -> Result<(), EmbeddedError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|descriptor| give(&File::from(descriptor), account))
        .while_doing("change the owner of", path)
}

fn give(file: &File, account: &Account) -> io::Result<()> {
    if account.switches {
        let (user, group) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        fchown(file, Some(user), Some(group))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_planted_link_is_neither_read_nor_written_through_nor_given_away() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [secret, path, temporary] =
            ["secret", "conf", "conf.new"].map(|name| folder.path().join(name));
        fs::write(&secret, "secret").expect("a file of somebody else");
        let owner = fs::metadata(&secret).expect("it is there").uid();
        let account = Account::resolve(None, None).expect("an account");
        symlink(&secret, &temporary).expect("a link");
        symlink(&secret, &path).expect("a link");
        assert!(read(&path).is_err(), "a link is not followed");

        replace(&path, &temporary, "ours", &account).expect("what was planted is replaced");
        assert_eq!(read(&path).expect("our file"), "ours");
        assert_eq!(fs::read_to_string(&secret).expect("it is there"), "secret");
        assert_eq!(fs::metadata(&secret).expect("it is there").uid(), owner);
        let ours = fs::symlink_metadata(&path).expect("it is there");
        assert_eq!((ours.is_file(), ours.uid()), (true, account.uid));

        let link = folder.path().join("run");
        symlink(folder.path(), &link).expect("a link");
        assert!(give_folder(&link, &account).is_err(), "nor is a folder's");
    }

    #[test]
    fn a_pipe_is_not_waited_for_and_a_large_file_is_read_in_part() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo runs").success());
        assert!(read(&pipe).is_err());
        let large = folder.path().join("large");
        fs::write(&large, "x".repeat(100_000)).expect("a file");
        assert_eq!(read(&large).expect("a part").len(), 16 * 1024);
    }
}
