//! Makes the cluster and writes its configuration.
//!
//! A cluster is made under another name and renamed when it is complete and on disk, so a folder
//! named `postgres` is always a whole cluster. The configuration is written anew at every start,
//! so a newer Beckon's settings reach an older folder. The settings that durability and privacy
//! rest on come last in the file and cannot be overridden by the caller's.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use super::EmbeddedOptions;
use super::account::Account;
use super::binaries::PgBinaries;
use super::error::{EmbeddedError, IoContext};
use super::foreign;
use super::layout::{Layout, PORT};
use super::wait::wait_until;
use crate::memory;

/// The database role Beckon connects as; the cluster's superuser.
pub(super) const ROLE: &str = "beckon";

/// How the folder of a cluster that is being made is named; a random part follows.
const UNFINISHED: &str = "postgres.new-";

/// Who may connect.
const RULES_FILE: &str = "pg_hba.conf";

/// Which operating-system account is which role.
const MAP_FILE: &str = "pg_ident.conf";

/// How many bytes of initdb's output an error carries.
const OUTPUT_BYTES_MAX: usize = 2_000;

/// Removing an unfinished cluster is tried this often: an orphaned initdb may still write to it.
const REMOVE_TRIES_MAX: u32 = 20;

/// Makes the cluster. What interrupted attempts left is to be removed first.
pub(super) fn make(
    layout: &Layout,
    account: &Account,
    binaries: &PgBinaries,
    options: &EmbeddedOptions,
) -> Result<(), EmbeddedError> {
    // The name is a new one each time: an initdb that outlived a killed Beckon may still be at
    // work under its own.
    let unfinished = &layout
        .data_dir
        .join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4()));
    DirBuilder::new()
        .mode(0o700)
        .create(unfinished)
        .while_doing("create", unfinished)?;
    foreign::give_folder(unfinished, account)?;
    run_initdb(unfinished, account, binaries, options)?;
    fs::rename(unfinished, &layout.cluster).while_doing("rename", unfinished)?;
    // Without this the rename itself may not survive a power cut.
    let folder = &layout.data_dir;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .while_doing("sync", folder)
}

/// Removes what interrupted attempts to [`make`] left behind.
pub(super) fn remove_unfinished(layout: &Layout) -> Result<(), EmbeddedError> {
    let folder = &layout.data_dir;
    for entry in fs::read_dir(folder).while_doing("read", folder)? {
        let entry = entry.while_doing("read", folder)?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), EmbeddedError> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => {
                tracing::info!("removed a PostgreSQL cluster that was never completed");
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                tries += 1;
                if tries == REMOVE_TRIES_MAX {
                    return Err(error).while_doing("remove", path);
                }
            }
            Err(error) => return Err(error).while_doing("remove", path),
        }
    }
}

fn run_initdb(
    folder: &Path,
    account: &Account,
    binaries: &PgBinaries,
    options: &EmbeddedOptions,
) -> Result<(), EmbeddedError> {
    // Names and texts come in every script, so characters must be known as UTF-8; sorting by
    // byte keeps indexes valid when the machine's C library changes its collations.
    let ctype = if cfg!(target_os = "macos") {
        "en_US.UTF-8"
    } else {
        "C.UTF-8"
    };
    let program = binaries.path("initdb");
    let mut initdb = account
        .command(&program)
        .arg("--pgdata")
        .arg(folder)
        .args([
            "--username",
            ROLE,
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--lc-ctype",
            ctype,
        ])
        .args([
            "--data-checksums",
            "--auth-local",
            "peer",
            "--auth-host",
            "reject",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .while_doing("run", &program)?;
    let mut ended = false;
    wait_until(options.start_timeout, || {
        ended = !matches!(initdb.try_wait(), Ok(None));
        ended || options.is_stopped()
    });
    if !ended {
        initdb.kill().while_doing("end", &program)?;
    }
    let output = initdb.wait_with_output().while_doing("run", &program)?;
    if options.is_stopped() {
        return Err(EmbeddedError::Stopped);
    }
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    if text.trim().is_empty() {
        text = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let status = if ended {
        output.status.to_string()
    } else {
        "timeout".to_owned()
    };
    Err(EmbeddedError::Initdb {
        status,
        output: tail(&text, OUTPUT_BYTES_MAX).to_owned(),
    })
}

/// Writes the server's configuration: who may connect, and the settings.
pub(super) fn configure(
    layout: &Layout,
    account: &Account,
    extra: &[(String, String)],
) -> Result<(), EmbeddedError> {
    let settings = settings_file(layout, extra)?;
    replace(&layout.cluster.join("postgresql.conf"), &settings, account)?;
    let rules = "# Written by beckon at every start.\nlocal all all peer map=beckon\n";
    replace(&layout.cluster.join(RULES_FILE), rules, account)?;
    let map = format!(
        "# Written by beckon at every start.\nbeckon \"{}\" {ROLE}\n",
        account.client_name.replace('"', "\"\"")
    );
    replace(&layout.cluster.join(MAP_FILE), &map, account)
}

fn settings_file(layout: &Layout, extra: &[(String, String)]) -> Result<String, EmbeddedError> {
    let log = format!("{}MB", log_mebibytes(volume_bytes(&layout.cluster)));
    let buffers = format!("{}kB", memory::usual_shared_buffers_bytes() / 1024);
    let defaults = [
        ("cluster_name", "beckon"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] "),
        ("lc_messages", "C"),
        // Message ids come in no order, so what ingest writes goes all over their index: what is not
        // in here is read from the system and written back for each of them.
        ("shared_buffers", buffers.as_str()),
        // Each checkpoint makes the next change of every page a copy of it in the log. Where message
        // ids come in no order that is most of what ingest writes, so they are not to come often.
        ("max_wal_size", log.as_str()),
        // Whoever needs a new file of the log fills it with zeros first, and every commit waits: 60 ms
        // every second or two of full load. Unfilled, a file's first commits cost a little more; kept
        // over quiet times, files are used again and cost neither.
        ("wal_init_zero", "off"),
        ("min_wal_size", "1GB"),
    ];
    let socket_dir = layout.socket_dir.to_string_lossy();
    let rules = layout.cluster.join(RULES_FILE);
    let map = layout.cluster.join(MAP_FILE);
    let port = PORT.to_string();
    let fixed = [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("listen_addresses", ""),
        ("port", port.as_str()),
        ("unix_socket_directories", &quoted_list_item(&socket_dir)),
        ("unix_socket_permissions", "0700"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("hba_file", &rules.to_string_lossy()),
        ("ident_file", &map.to_string_lossy()),
    ];
    let mut text = String::from("# Written by beckon at every start; changes here are lost.\n");
    for (name, value) in defaults {
        append(&mut text, name, value)?;
    }
    for (name, value) in extra {
        append(&mut text, name, value)?;
    }
    text.push_str("# Durability and privacy rest on these, so nothing above can change them.\n");
    for (name, value) in fixed {
        append(&mut text, name, value)?;
    }
    Ok(text)
}

/// How large the log may grow between checkpoints: a sixteenth of the volume, from 4 GiB to 8 GiB, as
/// what a crash leaves is read again before the server can be used.
fn log_mebibytes(volume_bytes: u64) -> u64 {
    ((volume_bytes / 16) >> 20).clamp(4_096, 8_192)
}

/// The size of the volume that a folder is on; 0 if it cannot be told.
fn volume_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |volume| volume.f_blocks.saturating_mul(volume.f_frsize))
}

/// The socket folder setting is a comma-separated list, whose items are quoted once more.
fn quoted_list_item(path: &str) -> String {
    format!("\"{}\"", path.replace('"', "\"\""))
}

fn append(text: &mut String, name: &str, value: &str) -> Result<(), EmbeddedError> {
    let bad = || EmbeddedError::BadSetting {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let name_is_plain = name
        .chars()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if !name_is_plain || value.contains(['\n', '\r', '\0']) {
        return Err(bad());
    }
    // The file's parser reads backslash escapes inside quotes.
    let quoted = value.replace('\\', "\\\\").replace('\'', "''");
    writeln!(text, "{name} = '{quoted}'").map_err(|_| bad())
}

fn replace(path: &Path, text: &str, account: &Account) -> Result<(), EmbeddedError> {
    foreign::replace(path, &path.with_extension("conf.new"), text, account)
}

/// The last part of `text`, at most `bytes_max` long, cut at a character and, if it was cut, at a
/// line.
pub(super) fn tail(text: &str, bytes_max: usize) -> &str {
    let text = text.trim_end();
    if text.len() <= bytes_max {
        return text;
    }
    let mut start = text.len() - bytes_max;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let end = text.get(start..).unwrap_or(text);
    end.split_once('\n')
        .map_or(end, |(_, whole_lines)| whole_lines)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use super::*;
    use std::path::PathBuf;

    fn layout() -> Layout {
        Layout {
            data_dir: PathBuf::from("/d"),
            cluster: PathBuf::from("/d/postgres"),
            log: PathBuf::from("/d/postgres.log"),
            socket_dir: PathBuf::from("/d/it's, \"here\""),
        }
    }

    #[test]
    fn nothing_a_caller_asks_for_comes_after_what_durability_rests_on() {
        let extra = [("fsync".to_owned(), "off".to_owned())];
        let text = settings_file(&layout(), &extra).expect("a plain setting");
        let off = text
            .find("fsync = 'off'")
            .expect("the caller's setting is written");
        let on = text.rfind("fsync = 'on'").expect("ours is written");
        assert!(off < on, "{text}");
    }

    #[test]
    fn values_are_quoted_for_the_parser_of_the_settings_file() {
        let text = settings_file(&layout(), &[]).expect("no extra settings");
        let line = r#"unix_socket_directories = '"/d/it''s, ""here"""'"#;
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_log_may_take_a_sixteenth_of_the_volume_within_bounds() {
        let sizes = [0, 96 << 30, u64::MAX].map(log_mebibytes);
        assert_eq!(sizes, [4_096, 6_144, 8_192]);
        assert!(volume_bytes(Path::new("/")) > 1 << 30);
        assert_eq!(volume_bytes(Path::new("/there is no such folder")), 0);
    }

    #[test]
    fn a_setting_cannot_smuggle_in_another_line() {
        for (name, value) in [
            ("a", "1\nfsync = off"),
            ("a b", "1"),
            ("", "1"),
            ("1a", "1"),
        ] {
            let extra = [(name.to_owned(), value.to_owned())];
            let refused = settings_file(&layout(), &extra);
            assert!(
                matches!(refused, Err(EmbeddedError::BadSetting { .. })),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn a_tail_is_cut_at_a_line_and_never_inside_a_character() {
        assert_eq!(tail("one\ntwo\n", 100), "one\ntwo");
        assert_eq!(tail("one\ntwo\nthree\n", 9), "three");
        assert_eq!(tail("ééé", 3), "é");
    }
}
