//! The private PostgreSQL, from outside: started, stopped, contested, killed and adopted.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use beckon::embedded_pg::{
    EmbeddedError, EmbeddedOptions, EmbeddedPostgres, find_binaries, is_reachable,
};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Integer, Text};

use crate::support::postgres::{database, empty_database, guarded_folder, postgres_server};

/// Tells the child process of a test which folder to hold; absent in an ordinary test run.
const HOLD_FOLDER: &str = "BECKON_TEST_HOLD_FOLDER";

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Integer)]
    number: i32,
}

fn start(folder: &Path) -> EmbeddedPostgres {
    try_start(folder).unwrap_or_else(|error| panic!("{error}"))
}

fn try_start(folder: &Path) -> Result<EmbeddedPostgres, EmbeddedError> {
    EmbeddedPostgres::start(&EmbeddedOptions::new(folder))
}

fn connect(server: &EmbeddedPostgres, database: &str) -> PgConnection {
    PgConnection::establish(&server.url(database)).unwrap()
}

fn show(connection: &mut PgConnection, setting: &str) -> String {
    sql_query("SELECT current_setting($1) AS value")
        .bind::<Text, _>(setting)
        .get_result::<Value>(connection)
        .unwrap()
        .value
}

fn keep(connection: &mut PgConnection, number: i32) {
    sql_query("CREATE TABLE IF NOT EXISTS kept (number int)")
        .execute(connection)
        .unwrap();
    sql_query("INSERT INTO kept VALUES ($1)")
        .bind::<Integer, _>(number)
        .execute(connection)
        .unwrap();
}

fn kept(connection: &mut PgConnection) -> Vec<i32> {
    let rows: Vec<Number> = sql_query("SELECT number FROM kept ORDER BY number")
        .load(connection)
        .unwrap();
    rows.into_iter().map(|row| row.number).collect()
}

fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited in vain until {what}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn data_survives_a_stop_and_a_start() {
    let (folder, _watchdog) = guarded_folder();
    let first = start(&folder);
    assert!(!first.was_adopted());
    assert!(
        first.create_database("it's \"odd\"?").unwrap(),
        "the database is new"
    );
    assert!(
        !first.create_database("it's \"odd\"?").unwrap(),
        "the database exists"
    );
    keep(&mut connect(&first, "it's \"odd\"?"), 7);
    let pid = first.pid();
    first.stop().unwrap();
    assert!(
        !process_exists(pid),
        "the server has ended when stop returns"
    );
    assert!(
        !folder.join("postgres/postmaster.pid").exists(),
        "it ended cleanly"
    );

    let second = start(&folder);
    assert!(!second.was_adopted());
    assert_eq!(kept(&mut connect(&second, "it's \"odd\"?")), [7]);
    let pid = second.pid();
    drop(second);
    assert!(!process_exists(pid), "dropping stops the server too");
}

#[test]
fn durability_cannot_be_configured_away_and_nothing_listens_on_tcp() {
    let (folder, _watchdog) = guarded_folder();
    let mut options = EmbeddedOptions::new(&folder);
    let pairs = [
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
        ("listen_addresses", "*"),
        ("max_connections", "17"),
    ];
    options.settings = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let server = EmbeddedPostgres::start(&options).unwrap();
    let connection = &mut connect(&server, "postgres");
    for setting in [
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "data_checksums",
    ] {
        assert_eq!(show(connection, setting), "on", "{setting}");
    }
    assert_eq!(show(connection, "listen_addresses"), "");
    assert_eq!(
        show(connection, "max_connections"),
        "17",
        "other settings are the caller's"
    );
    assert_eq!(show(connection, "server_encoding"), "UTF8");
    let lower = sql_query("SELECT lower('ÄÉΩ') AS value")
        .get_result::<Value>(connection)
        .unwrap();
    assert_eq!(lower.value, "äéω", "letters beyond ASCII have a case");
}

#[test]
fn only_the_servers_account_can_enter_its_folders() {
    let (folder, _watchdog) = guarded_folder();
    let server = start(&folder);
    let socket_dir = show(&mut connect(&server, "postgres"), "unix_socket_directories");
    let owner = fs::metadata(folder.join("postgres")).unwrap().uid();
    for private in [
        Path::new(socket_dir.trim_matches('"')),
        &folder.join("postgres"),
    ] {
        let metadata = fs::metadata(private).unwrap();
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            0o700,
            "{}",
            private.display()
        );
        assert_eq!(metadata.uid(), owner, "{}", private.display());
    }
    assert_ne!(owner, 0, "the server does not run as root");
    let proc_owner = fs::metadata(format!("/proc/{}", server.pid()))
        .unwrap()
        .uid();
    assert_eq!(proc_owner, owner);
}

#[test]
fn a_server_refuses_a_role_other_than_ours() {
    let (folder, _watchdog) = guarded_folder();
    let server = start(&folder);
    sql_query("CREATE ROLE other LOGIN")
        .execute(&mut connect(&server, "postgres"))
        .unwrap();
    let url = server.url("postgres").replace("user=beckon", "user=other");
    let refused = PgConnection::establish(&url).err().unwrap().to_string();
    assert!(refused.contains("Peer authentication failed"), "{refused}");
}

#[test]
fn a_folder_with_a_long_name_works() {
    let (folder, _watchdog) = guarded_folder();
    let long = folder.join("d".repeat(120));
    let server = start(&long);
    let connection = &mut connect(&server, "postgres");
    let socket_dir = show(connection, "unix_socket_directories");
    assert!(!socket_dir.contains("ddd"), "{socket_dir}");
    drop(server);
    assert!(
        !Path::new(socket_dir.trim_matches('"')).exists(),
        "nothing is left outside"
    );
}

#[test]
fn a_second_start_is_refused_and_names_the_holder() {
    let (folder, _watchdog) = guarded_folder();
    let first = start(&folder);
    let error = try_start(&folder).unwrap_err();
    let holder_pid = match &error {
        EmbeddedError::InUse { holder_pid, .. } => *holder_pid,
        other => panic!("{other}"),
    };
    assert_eq!(holder_pid, Some(std::process::id()));
    let message = error.to_string();
    assert!(message.contains("in use by another beckon"), "{message}");
    assert!(
        message.contains(&std::process::id().to_string()),
        "{message}"
    );
    assert_eq!(
        show(&mut connect(&first, "postgres"), "fsync"),
        "on",
        "the first is unharmed"
    );
}

/// Not a test of its own: the process that other tests run and kill.
#[test]
#[ignore = "other tests run it in a process of its own"]
fn hold_a_server_until_killed() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the parent has no other way to name the folder"
    )]
    let Some(folder) = std::env::var_os(HOLD_FOLDER) else {
        return;
    };
    let server = start(Path::new(&folder));
    eprintln!("server {}", server.pid());
    std::thread::park_timeout(Duration::from_secs(120));
}

/// Runs [`hold_a_server_until_killed`] in another process.
fn holder(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "embedded_pg::hold_a_server_until_killed",
        ])
        .env(HOLD_FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the other process has its server, and returns that one's pid.
fn held_server(holder: &mut Child) -> u32 {
    let lines = BufReader::new(holder.stderr.take().unwrap()).lines();
    lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("server ")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("the other process ended without a server"))
}

fn kill(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_server_left_over_by_a_kill_is_adopted_and_stopped() {
    let (folder, _watchdog) = guarded_folder();
    let mut first = holder(&folder);
    let pid = held_server(&mut first);
    let refused = try_start(&folder).unwrap_err();
    assert!(matches!(refused, EmbeddedError::InUse { .. }), "{refused}");
    assert!(
        refused.to_string().contains(&first.id().to_string()),
        "{refused}"
    );
    kill(first);
    assert!(process_exists(pid), "the server outlived its beckon");

    let second = start(&folder);
    assert!(second.was_adopted());
    assert_eq!(second.pid(), pid);
    keep(&mut connect(&second, "postgres"), 1);
    second.stop().unwrap();
    assert!(
        !folder.join("postgres/postmaster.pid").exists(),
        "it was stopped cleanly"
    );

    let third = start(&folder);
    assert!(!third.was_adopted());
    assert_eq!(kept(&mut connect(&third, "postgres")), [1]);
}

#[test]
fn a_cluster_whose_making_was_killed_is_made_again() {
    let (folder, _watchdog) = guarded_folder();
    let first = holder(&folder);
    // This file comes early in initdb, long before the cluster could be used.
    let unfinished = || {
        let mut entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        entries.find(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("postgres.new")
        })
    };
    wait_until("initdb has begun", || {
        unfinished().is_some_and(|entry| entry.path().join("PG_VERSION").exists())
    });
    kill(first);
    assert!(
        !folder.join("postgres").exists(),
        "a half-made cluster must not have the name"
    );

    let server = start(&folder);
    assert!(unfinished().is_none(), "what the kill left is removed");
    keep(&mut connect(&server, "postgres"), 1);
}

#[test]
fn a_pid_file_whose_pid_is_another_programs_by_now_does_not_stop_a_start() {
    let (folder, _watchdog) = guarded_folder();
    start(&folder).stop().unwrap();
    // A program of the server's own account: only such a one misleads PostgreSQL itself.
    let owner = fs::metadata(folder.join("postgres")).unwrap();
    let mut command = Command::new("sleep");
    command.arg("60").current_dir("/");
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt;
        command.uid(owner.uid()).gid(owner.gid());
    }
    let other = command.spawn().unwrap();
    let pid_file = folder.join("postgres/postmaster.pid");
    let text = format!(
        "{}\n{}\n1\n5432\n\n\n0 0\nready\n",
        other.id(),
        folder.display()
    );
    fs::write(&pid_file, text).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&pid_file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    let started = try_start(&folder);
    let still_there = process_exists(other.id());
    kill(other);
    assert!(still_there, "the other program is left alone");
    assert!(!started.unwrap().was_adopted());
}

/// The server's account owns the cluster's folder, and Beckon, which may be root, writes there.
#[test]
fn links_planted_in_the_clusters_folder_are_not_followed() {
    let (folder, _watchdog) = guarded_folder();
    start(&folder).stop().unwrap();
    let secret = folder.join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let owner = fs::metadata(&secret).unwrap().uid();
    let cluster = folder.join("postgres");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let planted = cluster.join(format!("{name}.new"));
        std::os::unix::fs::symlink(&secret, planted).unwrap();
    }
    let mut server = start(&folder);
    assert!(server.is_running());
    server.stop().unwrap();

    // A file that a pid file leads to is not read, so none of it can come to light.
    fs::write(&secret, "4194300\nsecret\n").unwrap();
    std::os::unix::fs::symlink(&secret, cluster.join("postmaster.pid")).unwrap();
    assert!(try_start(&folder).is_err(), "somebody has to look at it");
    fs::remove_file(cluster.join("postmaster.pid")).unwrap();
    assert!(!try_start(&folder).unwrap().was_adopted());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "4194300\nsecret\n");
    assert_eq!(fs::metadata(&secret).unwrap().uid(), owner);
}

#[test]
fn a_failed_start_shows_what_the_server_logged() {
    let (folder, _watchdog) = guarded_folder();
    let mut options = EmbeddedOptions::new(&folder);
    options.settings = vec![("shared_buffers".to_owned(), "plenty".to_owned())];
    let error = EmbeddedPostgres::start(&options).unwrap_err();
    assert!(
        matches!(error, EmbeddedError::StartFailed { .. }),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("shared_buffers") && message.contains("plenty"),
        "{message}"
    );
    assert!(
        !try_start(&folder).unwrap().was_adopted(),
        "the folder is usable afterwards"
    );
}

#[test]
fn a_missing_server_is_an_error_that_names_the_packages() {
    let (folder, _watchdog) = guarded_folder();
    let mut options = EmbeddedOptions::new(&folder);
    options.bin_dir = Some(folder.join("no-binaries-here"));
    let message = EmbeddedPostgres::start(&options).unwrap_err().to_string();
    for part in [
        "no-binaries-here",
        "apt install postgresql",
        "dnf install",
        "brew install",
    ] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert!(find_binaries().unwrap().major >= 14);
}

#[test]
fn data_of_a_version_that_is_not_installed_is_left_alone() {
    let (folder, _watchdog) = guarded_folder();
    fs::create_dir_all(folder.join("postgres")).unwrap();
    fs::write(folder.join("postgres/PG_VERSION"), "9\n").unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(folder.join("postgres"), Some(65534), Some(65534)).unwrap();
    }
    let error = try_start(&folder).unwrap_err();
    assert!(
        matches!(error, EmbeddedError::BinariesOfOtherVersion { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("postgresql-9"), "{error}");
}

#[test]
fn a_folder_the_server_cannot_reach_is_named() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root runs the server as somebody else.
    }
    let (folder, _watchdog) = guarded_folder();
    let closed = folder.join("closed");
    fs::create_dir_all(&closed).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(is_reachable(&folder.join("data"), None).unwrap());
    assert!(!is_reachable(&closed.join("new/data"), None).unwrap());
    let error = try_start(&closed.join("data")).unwrap_err();
    match &error {
        EmbeddedError::Unreachable { blocked, .. } => {
            assert_eq!(blocked, &closed.canonicalize().unwrap());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_test_database_is_its_own() {
    let (one, other, bare) = (database(), database(), empty_database());
    keep(&mut one.connect(), 1);
    keep(&mut other.connect(), 2);
    keep(&mut bare.connect(), 3);
    assert_eq!(kept(&mut one.connect()), [1]);
    assert_eq!(kept(&mut other.connect()), [2]);
    assert_eq!(kept(&mut bare.connect()), [3]);
    assert_eq!(
        show(&mut one.connect(), "fsync"),
        "on",
        "tests run as durably as production"
    );
}

#[test]
fn a_killed_server_starts_again_with_what_was_committed() {
    let mut server = postgres_server();
    let url = server.url();
    keep(&mut PgConnection::establish(&url).unwrap(), 1);
    server.kill();
    server.start_again();
    assert_eq!(url, server.url());
    assert_eq!(kept(&mut PgConnection::establish(&url).unwrap()), [1]);
}

#[test]
fn a_frozen_server_answers_nobody_until_it_is_thawed() {
    let server = postgres_server();
    server.freeze();
    let impatient = format!("{}&connect_timeout=2", server.url());
    let refused = PgConnection::establish(&impatient)
        .err()
        .map(|error| error.to_string());
    server.thaw();
    assert!(
        refused.unwrap().contains("timeout"),
        "a frozen server lets the connection hang"
    );
    keep(&mut PgConnection::establish(&impatient).unwrap(), 1);
}
