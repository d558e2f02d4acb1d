//! Finds the PostgreSQL server binaries that a distribution's packages put on the machine.
//!
//! Debian keeps every major version in a folder of its own outside `PATH`, so `PATH` alone is not
//! enough. `pg_config` alone is not either: it comes with libpq's headers and names a folder whether
//! or not a server is in it. A candidate counts only when both `initdb` and `postgres` are there
//! and `postgres --version` answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::EmbeddedError;

/// The oldest major version Beckon's schema works on (detaching partitions concurrently).
const OLDEST_MAJOR: u32 = 14;

/// Folders with one sub-folder a version: the parent, what a version's name starts with, and
/// where its binaries are.
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/usr/libexec", "postgresql", ""),
];

/// Folders that hold at most one version.
const PLAIN: [&str; 4] = [
    "/usr/bin",
    "/usr/local/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/bin",
];

/// Where one PostgreSQL server version's binaries are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBinaries {
    /// The folder that holds `initdb` and `postgres`.
    pub bin_dir: PathBuf,
    /// The major version, such as 15.
    pub major: u32,
}

impl PgBinaries {
    /// The path of one of the binaries.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Finds the newest PostgreSQL server on this machine.
///
/// # Errors
/// [`EmbeddedError::BinariesMissing`], whose message names the package to install.
pub fn find_binaries() -> Result<PgBinaries, EmbeddedError> {
    newest(&candidate_folders())
}

/// Like [`find_binaries`], but looks in `bin_dir` alone when it is given.
pub(super) fn newest_in(bin_dir: Option<&Path>) -> Result<PgBinaries, EmbeddedError> {
    match bin_dir {
        Some(folder) => newest(&[folder.to_path_buf()]),
        None => find_binaries(),
    }
}

/// Finds the server that can open a folder made by version `major`.
pub(super) fn of_major(
    major: u32,
    cluster: &Path,
    bin_dir: Option<&Path>,
) -> Result<PgBinaries, EmbeddedError> {
    let folders = bin_dir.map_or_else(candidate_folders, |folder| vec![folder.to_path_buf()]);
    let found = installed(&folders);
    if found.is_empty() {
        return Err(missing(&folders));
    }
    let found_majors = found.iter().map(|binaries| binaries.major).collect();
    found
        .into_iter()
        .find(|binaries| binaries.major == major)
        .ok_or_else(|| EmbeddedError::BinariesOfOtherVersion {
            cluster: cluster.to_path_buf(),
            wanted_major: major,
            found_majors,
        })
}

fn newest(folders: &[PathBuf]) -> Result<PgBinaries, EmbeddedError> {
    installed(folders)
        .into_iter()
        .next()
        .ok_or_else(|| missing(folders))
}

fn missing(folders: &[PathBuf]) -> EmbeddedError {
    EmbeddedError::BinariesMissing {
        searched: folders.to_vec(),
        oldest_major: OLDEST_MAJOR,
    }
}

/// Every usable server in `folders`, the newest first.
fn installed(folders: &[PathBuf]) -> Vec<PgBinaries> {
    let mut found: Vec<PgBinaries> = folders
        .iter()
        .filter(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .filter_map(|folder| {
            let major = server_major(folder)?;
            (major >= OLDEST_MAJOR).then(|| PgBinaries {
                bin_dir: folder.clone(),
                major,
            })
        })
        .collect();
    // The sort is stable: among equals, the folder that was listed first stays first.
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    found
}

fn candidate_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(pg_config_folder());
    for (parent, prefix, below) in VERSIONED {
        let mut versions: Vec<PathBuf> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join(below))
            .collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    folders.extend(PLAIN.iter().map(PathBuf::from));
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| folder.is_dir() && seen.insert(folder.clone()));
    folders
}

/// The folder the `pg_config` on `PATH` names, if there is one.
fn pg_config_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    let folder = folder.trim();
    (output.status.success() && !folder.is_empty()).then(|| PathBuf::from(folder))
}

fn server_major(folder: &Path) -> Option<u32> {
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// Reads 15 from `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also from `16beta1`.
fn parse_major(version_line: &str) -> Option<u32> {
    let (_, rest) = version_line.split_once("(PostgreSQL)")?;
    let digits: String = rest
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_distributions_print() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_major(debian), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta2\n"), Some(18));
        assert_eq!(parse_major("postgres (EnterpriseDB) 15.1\n"), None);
        assert_eq!(parse_major("postgres (PostgreSQL) devel\n"), None);
    }

    #[test]
    fn an_empty_folder_is_no_server_and_the_message_names_the_packages() {
        let message = newest(&[PathBuf::from("/nonexistent/bin")])
            .map_err(|error| error.to_string())
            .expect_err("nothing is installed there");
        for part in [
            "/nonexistent/bin",
            "apt install",
            "dnf install",
            "brew install",
        ] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
}
