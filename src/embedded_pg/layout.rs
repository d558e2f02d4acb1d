//! Where things are in the data folder, and the folder of the server's socket.
//!
//! ```text
//! <data_dir>/beckon.lock       the flock, with the holder's process id
//! <data_dir>/postgres/         the cluster; appears by one rename, whole or not at all
//! <data_dir>/postgres.new-*/   a cluster being made; whatever a kill left of it is thrown away
//! <data_dir>/postgres.log      the server's log, and postgres.log.1, the part before it
//! <data_dir>/run/              the socket, when the path is short enough for one
//! ```

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::account::Account;
use super::error::{EmbeddedError, IoContext};
use super::foreign;

/// The port is only a part of the socket's file name, as there is no TCP listener.
pub(super) const PORT: u16 = 5432;

/// The longest socket path macOS takes, without its final NUL; Linux takes four bytes more.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// What has been decided about paths; all of them absolute.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) data_dir: PathBuf,
    pub(super) cluster: PathBuf,
    pub(super) log: PathBuf,
    pub(super) socket_dir: PathBuf,
}

impl Layout {
    /// Makes the data folder if it is absent and settles every path below it.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let is_root = rustix::process::geteuid().is_root();
        // As root the server's account must be able to pass through, without listing anything.
        let mode = if is_root { 0o711 } else { 0o700 };
        fs::create_dir_all(data_dir).while_doing("create the data folder", data_dir)?;
        let metadata = data_dir.metadata().while_doing("read", data_dir)?;
        let permissions = metadata.permissions().mode() & 0o7777;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if is_ours && permissions | mode != permissions {
            fs::set_permissions(data_dir, Permissions::from_mode(permissions | mode))
                .while_doing("set the permissions of", data_dir)?;
        }
        let data_dir = data_dir.canonicalize().while_doing("resolve", data_dir)?;
        Ok(Self {
            cluster: data_dir.join("postgres"),
            log: data_dir.join("postgres.log"),
            socket_dir: socket_dir(&data_dir, is_root),
            data_dir,
        })
    }

    /// The cluster's major version, or nothing when there is no cluster yet.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, EmbeddedError> {
        let path = self.cluster.join("PG_VERSION");
        match foreign::read(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| io::Error::new(ErrorKind::InvalidData, "not a version number"))
                .while_doing("read", &path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).while_doing("read", &path),
        }
    }

    /// The user and group that own the cluster, or nothing when there is none.
    pub(super) fn cluster_owner(&self) -> Result<Option<(u32, u32)>, EmbeddedError> {
        match self.cluster.metadata() {
            Ok(metadata) => Ok(Some((metadata.uid(), metadata.gid()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).while_doing("read", &self.cluster),
        }
    }

    /// Makes the socket's folder, which only the server's account (and root) may enter.
    ///
    /// # Errors
    /// A folder of that name which somebody else made, as one might in `/tmp`, is refused.
    pub(super) fn make_socket_dir(&self, account: &Account) -> Result<(), EmbeddedError> {
        let path = &self.socket_dir;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => return foreign::give_folder(path, account),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).while_doing("create the socket folder", path),
        }
        let metadata = path.symlink_metadata().while_doing("read", path)?;
        let is_private = metadata.is_dir() && metadata.mode() & 0o077 == 0;
        let is_ours =
            metadata.uid() == account.uid || metadata.uid() == rustix::process::geteuid().as_raw();
        if is_private && is_ours {
            foreign::give_folder(path, account)
        } else {
            Err(EmbeddedError::UnsafeSocketFolder { path: path.clone() })
        }
    }
}

/// The socket's folder: inside the data folder, unless that makes the socket's path too long for
/// the kernel; then a short name made from the data folder's, so that it is found again.
fn socket_dir(data_dir: &Path, is_root: bool) -> PathBuf {
    let inside = data_dir.join("run");
    let socket = inside.join(format!(".s.PGSQL.{PORT}.lock"));
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return inside;
    }
    let digest = Sha256::digest(data_dir.as_os_str().as_bytes());
    let key: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let run = Path::new("/run");
    // Nobody but root can put a trap into /run, which cannot be said of /tmp.
    let parent = if is_root && run.is_dir() {
        run
    } else {
        Path::new("/tmp")
    };
    parent.join(format!("beckon-{key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_data_folder_holds_its_own_socket() {
        assert_eq!(
            socket_dir(Path::new("/srv/beckon"), false),
            Path::new("/srv/beckon/run")
        );
    }

    #[test]
    fn a_long_data_folder_gets_a_short_and_stable_socket_folder() {
        let long = PathBuf::from(format!("/srv/{}", "d".repeat(100)));
        let other = PathBuf::from(format!("/srv/{}", "e".repeat(100)));
        let chosen = socket_dir(&long, false);
        assert!(chosen.starts_with("/tmp"), "{}", chosen.display());
        assert!(chosen.as_os_str().len() < 40, "{}", chosen.display());
        assert_eq!(chosen, socket_dir(&long, false));
        assert_ne!(chosen, socket_dir(&other, false));
    }
}
