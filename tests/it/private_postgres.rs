//! The private Postgres of a running server and of a command: whatever happens to either, it neither
//! is lost nor outlives them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use beckon::embedded_pg::{EmbeddedOptions, EmbeddedPostgres, find_binaries};
use diesel::{Connection, PgConnection};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::app::{ADMIN_KEY, CLIENT_KEY, Launch, Server};
use crate::support::postgres::{database, guarded_folder};
use crate::support::{Client, eventually, pause, sql};

/// How long a process may take to end, with its Postgres.
const END_BOUND: Duration = Duration::from_secs(20);

/// PostgreSQL, but the server stays on its way up for as long as [`hold_back`] says so.
const SLOW_POSTGRES: &str = r#"#!/bin/sh
if [ "$1" = -D ] && [ -e "$2/../slow" ]; then
    cd "$2" || exit 1
    printf '%s\n%s\n1\n5432\n\n\n\nstarting\n' $$ "$2" >postmaster.pid
    while [ -e ../slow ]; do sleep 0.1; done
fi
exec BIN_DIR/postgres "$@"
"#;

/// Makes binaries of which the server can be held back, and what names them to whoever looks.
fn slow_binaries(folder: &Path) -> PathBuf {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
    let bin_dir = folder.join("bin");
    fs::create_dir(&bin_dir).unwrap();
    let real = find_binaries().unwrap().bin_dir;
    symlink(real.join("initdb"), bin_dir.join("initdb")).unwrap();
    let server = SLOW_POSTGRES.replace("BIN_DIR", real.to_str().unwrap());
    let names = format!("#!/bin/sh\necho {}\n", bin_dir.display());
    for (name, script) in [("postgres", server), ("pg_config", names)] {
        fs::write(bin_dir.join(name), script).unwrap();
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bin_dir.join(name), all).unwrap();
    }
    bin_dir
}

/// Holds a server back that is started from now on, until the file is removed.
fn hold_back(folder: &Path) {
    fs::write(folder.join("slow"), "").unwrap();
}

/// Whether a server says that it is on its way up.
fn is_starting(folder: &Path) -> bool {
    let said = fs::read_to_string(folder.join("postgres/postmaster.pid"));
    said.is_ok_and(|text| text.lines().nth(7).map(str::trim) == Some("starting"))
}

/// How to start a process on a private Postgres in this folder.
fn launch_in(folder: &Path) -> Launch {
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        folder.join("bin").display()
    );
    Launch::new("")
        .unset("DATABASE_URL")
        .set("PATH", &path)
        .set("BECKON_DATA_DIR", folder.to_str().unwrap())
}

/// A process that is killed when its test fails.
struct Process(Child);

/// The same command, begun by these words, as from a terminal: the tests may run under `nohup`, and
/// what is ignored is handed on.
fn hearing_hangups(command: &Command, by: &[&str]) -> Command {
    let mut heard = Command::new("/usr/bin/env");
    heard.arg("--default-signal=HUP").args(by);
    heard.arg(command.get_program()).args(command.get_args());
    heard.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => heard.env(name, value),
            None => heard.env_remove(name),
        };
    }
    heard
}

impl Process {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = hearing_hangups(&launch_in(folder).command(arguments), &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", END_BOUND, || self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// Waits until no process works in this folder any more.
fn expect_nobody_in(folder: &Path) {
    let is_over = || {
        let mut processes = fs::read_dir("/proc").unwrap().flatten();
        let is_left = processes.any(|process| {
            let works_in = fs::read_link(process.path().join("cwd"));
            works_in.is_ok_and(|works_in| works_in.starts_with(folder))
        });
        (!is_left).then_some(())
    };
    // One whose parent is gone ends by itself within a moment.
    eventually("nobody is left behind", Duration::from_secs(3), is_over);
}

/// Whoever is told to end while Postgres is on its way up takes it along.
#[test]
fn a_signal_during_the_start_leaves_no_postgres_behind() {
    let (folder, _watchdog) = guarded_folder();
    slow_binaries(&folder);
    for (command, signal, code) in [
        // The cluster is being made.
        (&["serve"][..], Signal::TERM, 0),
        (&["serve"], Signal::TERM, 0),
        (&["demo"], Signal::HUP, 0),
        (&["keys", "list"], Signal::INT, 130),
    ] {
        let has_cluster = folder.join("postgres").exists();
        hold_back(&folder);
        let mut process = Process::start(&folder, command);
        eventually("Postgres starts", Duration::from_secs(30), || {
            let entries = fs::read_dir(&folder).unwrap().flatten();
            let is_made = entries
                .map(|entry| entry.path())
                .any(|path| path.join("PG_VERSION").exists());
            (is_starting(&folder) || !has_cluster && is_made).then_some(())
        });
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(code), "{command:?}");
        expect_nobody_in(&folder);
        if !has_cluster {
            fs::remove_file(folder.join("slow")).unwrap();
            let made = launch_in(&folder).command(&["migrate"]).output().unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        // What the server that was held back cannot do itself.
        let _absent = fs::remove_file(folder.join("postgres/postmaster.pid"));
    }
}

#[test]
fn a_signal_to_a_command_at_work_stops_its_postgres() {
    let (folder, _watchdog) = guarded_folder();
    slow_binaries(&folder);
    let postgres = EmbeddedPostgres::start(&EmbeddedOptions::new(&folder)).unwrap();
    postgres.create_database("beckon").unwrap();
    let url = postgres.url("beckon");
    let migrated = Launch::new(&url).command(&["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    sql::run(
        &mut PgConnection::establish(&url).unwrap(),
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; \
         CREATE TRIGGER stall BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION stall()",
    );
    postgres.stop().unwrap();
    let create = ["keys", "create", "--scope", "admin"];
    let mut process = Process::start(&folder, &create);
    eventually("it waits", Duration::from_secs(30), || {
        let url = EmbeddedPostgres::url_of_running(&folder, "beckon")?;
        let mut watcher = PgConnection::establish(&url).ok()?;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        (sql::number(&mut watcher, waiting) == 1).then_some(())
    });
    process.signal(Signal::INT);
    assert_eq!(process.wait().code(), Some(130));
    expect_nobody_in(&folder);
}

/// The terminal of `make demo` may be closed; under `nohup` nothing of it is to be noticed.
#[test]
fn a_hangup_stops_a_server_unless_it_was_told_to_ignore_it() {
    let database = database();
    for (prelude, is_stopped) in [("", true), ("trap '' HUP;", false)] {
        let serve = Launch::new(&database.url).command(&["serve"]);
        let script = format!("{prelude} exec \"$@\"");
        let mut shell = hearing_hangups(&serve, &["/bin/sh", "-c", &script, "sh"]);
        shell.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process(shell.spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("listening on ")));
        process.signal(Signal::HUP);
        if !is_stopped {
            pause(Duration::from_millis(500));
            assert!(process.0.try_wait().unwrap().is_none(), "it runs on");
            process.signal(Signal::TERM);
        }
        assert_eq!(process.wait().code(), Some(0), "{prelude}");
    }
}

/// Its Postgres has died and is on its way up again when a server is told to stop.
#[test]
fn a_server_that_starts_its_postgres_again_can_be_stopped() {
    let (folder, _watchdog) = guarded_folder();
    slow_binaries(&folder);
    let mut server = Server::start(&launch_in(&folder));
    server.wait_until_ready();
    hold_back(&folder);
    let pid_file = fs::read_to_string(folder.join("postgres/postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    eventually("it starts again", Duration::from_secs(30), || {
        is_starting(&folder).then_some(())
    });
    server.terminate();
    let status = server.wait(END_BOUND);
    assert!(status.is_some_and(|s| s.success()), "{}", server.log());
    expect_nobody_in(&folder);
}

/// Recovery after a crash may take long, and begins anew when it is cut.
#[test]
fn a_server_on_its_way_up_is_waited_for_beyond_the_timeout() {
    let (folder, _watchdog) = guarded_folder();
    let mut options = EmbeddedOptions::new(&folder);
    EmbeddedPostgres::start(&options).unwrap().stop().unwrap();
    options.bin_dir = Some(slow_binaries(&folder));
    options.start_timeout = Duration::from_secs(1);
    hold_back(&folder);
    let slow = folder.join("slow");
    let released = std::thread::spawn(move || {
        pause(Duration::from_secs(3));
        fs::remove_file(slow).unwrap();
    });
    let started = EmbeddedPostgres::start(&options);
    released.join().unwrap();
    assert!(started.unwrap().is_running());
}

/// After a crash of the machine the pid may have gone to another server of the same account.
#[test]
fn another_server_of_the_same_account_is_not_taken_for_ours() {
    let (folder, _watchdog) = guarded_folder();
    let (elsewhere, _other_watchdog) = guarded_folder();
    let options = EmbeddedOptions::new(&folder);
    EmbeddedPostgres::start(&options).unwrap().stop().unwrap();
    let other = EmbeddedPostgres::start(&EmbeddedOptions::new(&elsewhere));
    let mut other = other.unwrap();
    let theirs = elsewhere.join("postgres/postmaster.pid");
    let ours = folder.join("postgres/postmaster.pid");
    fs::copy(&theirs, &ours).unwrap();
    let owner = fs::metadata(&theirs).unwrap();
    std::os::unix::fs::chown(&ours, Some(owner.uid()), Some(owner.gid())).unwrap();
    assert_eq!(EmbeddedPostgres::url_of_running(&folder, "postgres"), None);
    let started = EmbeddedPostgres::start(&options).unwrap();
    assert!(!started.was_adopted());
    started.stop().unwrap();
    assert!(other.is_running());
}

/// A private Postgres that dies under the server is started again, with all it had acknowledged.
#[test]
fn a_private_postgres_that_dies_is_started_again() {
    let (folder, _watchdog) = guarded_folder();
    let launch = Launch::new("")
        .unset("DATABASE_URL")
        .set("BECKON_DATA_DIR", folder.to_str().unwrap());
    let mut server = Server::start(&launch);
    server.wait_until_ready();
    let client = Client::new(server.base()).key(CLIENT_KEY);
    let track = |event: &str| client.post("/v1/track", &json!({"user_id": "u", "event": event}));
    track("before").expect(200);

    let pid_file = fs::read_to_string(folder.join("postgres/postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();

    eventually("events are stored again", Duration::from_secs(30), || {
        (track("after").status == 200).then_some(())
    });
    let admin = Client::new(server.base()).key(ADMIN_KEY);
    // Other connections of the server may still be those to the one that died.
    let before = eventually("events are read again", Duration::from_secs(30), || {
        let answer = admin.get("/v1/admin/events?event=before");
        (answer.status == 200).then(|| answer.expect(200))
    });
    assert_eq!(before["total"], 1, "{before}");
    server.terminate();
    let status = server.wait(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{}", server.log());
}
