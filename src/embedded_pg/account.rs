//! Which operating-system account the server runs as.
//!
//! PostgreSQL refuses root. When Beckon is root the server gets an unprivileged account: the one
//! that owns the data already, else the one asked for, else `postgres`, else `nobody`. When Beckon
//! is not root the server shares its account.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{EmbeddedError, IoContext};

/// Who the server runs as, and who Beckon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// The server's account, for messages.
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The name of the account Beckon itself runs as: the only one the server lets in.
    pub(super) client_name: String,
    /// Whether Beckon is root and has to change to this account.
    pub(super) switches: bool,
}

impl Account {
    /// Decides the account. `cluster_owner` is the owner (user, group) of existing data, if any.
    pub(super) fn resolve(
        asked: Option<&str>,
        cluster_owner: Option<(u32, u32)>,
    ) -> Result<Self, EmbeddedError> {
        let own_uid = rustix::process::geteuid().as_raw();
        let own_gid = rustix::process::getegid().as_raw();
        let client_name = id(&["-un"]).ok_or_else(|| EmbeddedError::UnknownAccount {
            name: format!("with id {own_uid}"),
        })?;
        if own_uid != 0 {
            return match asked {
                Some(wanted) if wanted != client_name => Err(EmbeddedError::CannotSwitchAccount {
                    wanted: wanted.to_owned(),
                    current: client_name,
                }),
                _ => Ok(Self {
                    name: client_name.clone(),
                    uid: own_uid,
                    gid: own_gid,
                    client_name,
                    switches: false,
                }),
            };
        }
        let (name, uid, gid) = match (asked, cluster_owner) {
            (Some(name), _) => look_up(name)?,
            (None, Some((uid, gid))) => (format!("uid {uid}"), uid, gid),
            (None, None) => look_up("postgres").or_else(|_| look_up("nobody"))?,
        };
        if uid == 0 {
            return Err(EmbeddedError::RootAccount);
        }
        Ok(Self {
            name,
            uid,
            gid,
            client_name,
            switches: true,
        })
    }

    /// A command that runs as this account, with nothing of Beckon's environment but what a
    /// server needs: a stray `PGDATA` or `PGOPTIONS` must not steer it, and secrets in Beckon's
    /// environment are not its business.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null());
        if self.switches {
            // As root, the standard library also clears the supplementary groups.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Checks that this account can enter `folder`, and names the first folder that stops it.
    ///
    /// It asks the kernel by trying, as permission bits alone miss access lists and the like.
    pub(super) fn check_reach(&self, folder: &Path) -> Result<(), EmbeddedError> {
        if !self.switches || self.can_enter(folder)? {
            return Ok(());
        }
        let mut above: Vec<&Path> = folder.ancestors().collect();
        above.reverse();
        for ancestor in above {
            if !self.can_enter(ancestor)? {
                return Err(EmbeddedError::Unreachable {
                    account: self.name.clone(),
                    blocked: ancestor.to_path_buf(),
                });
            }
        }
        Ok(())
    }

    fn can_enter(&self, folder: &Path) -> Result<bool, EmbeddedError> {
        let status = self
            .command("/bin/sh")
            .args(["-c", "cd -- \"$1\"", "sh"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .while_doing("check who may enter", folder)?;
        Ok(status.success())
    }
}

/// The user and group id of a named account.
fn look_up(name: &str) -> Result<(String, u32, u32), EmbeddedError> {
    let number = |flag: &str| id(&[flag, "--", name]).and_then(|text| text.parse().ok());
    match (number("-u"), number("-g")) {
        (Some(uid), Some(gid)) => Ok((name.to_owned(), uid, gid)),
        _ => Err(EmbeddedError::UnknownAccount {
            name: name.to_owned(),
        }),
    }
}

/// Asks `id`, which knows every source of accounts the machine has, not only `/etc/passwd`.
fn id(arguments: &[&str]) -> Option<String> {
    let output = Command::new("id")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
