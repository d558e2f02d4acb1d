//! The PostgreSQL the tests run on.
//!
//! One server a test process, made on first use in a temporary folder, with fsync on like in
//! production. Every test has a database of its own, copied from a template that is migrated once.
//! Tests that hurt the server itself start a [`DedicatedServer`].
//!
//! Rust does not drop statics, and a test process may be killed, so nothing here relies on
//! destructors: a [`Watchdog`] process ends the server and removes its folder when the test
//! process is gone, however it went.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use beckon::embedded_pg::{EmbeddedOptions, EmbeddedPostgres};
use diesel::{Connection, PgConnection, RunQueryDsl, sql_query};
use rustix::process::{Pid, Signal, kill_process};

use super::clock::TestClock;

/// The database every test's own is copied from.
const TEMPLATE: &str = "beckon_template";

static SHARED: LazyLock<SharedServer> = LazyLock::new(SharedServer::start);

/// Counts the databases of this process, which names them.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Brings a database to the current schema. The only place where the tests meet the migrations.
fn migrate(url: &str) {
    let mut connection = beckon::store::connect(url).unwrap();
    beckon::store::migrate::migrate(&mut connection).unwrap();
    let today = beckon::store::partitions::database_now(&mut connection)
        .unwrap()
        .date_naive();
    beckon::store::partitions::ensure_ahead(&mut connection, today, 2).unwrap();
}

/// A database of a test's own, dropped with this value.
pub struct TestDatabase {
    /// A libpq URL.
    pub url: String,
    /// The database's name.
    pub name: String,
}

impl TestDatabase {
    /// A new connection to this database.
    pub fn connect(&self) -> PgConnection {
        PgConnection::establish(&self.url).unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // What is left over goes with the server's folder, so a failure here costs only room.
        let dropped = PgConnection::establish(&SHARED.server.url("postgres")).map(|mut admin| {
            sql_query(format!(
                "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                self.name
            ))
            .execute(&mut admin)
        });
        if !matches!(dropped, Ok(Ok(_))) {
            eprintln!("could not drop the test database {}", self.name);
        }
    }
}

/// A fresh, migrated database on the shared server.
pub fn database() -> TestDatabase {
    copy_of(TEMPLATE)
}

/// A fresh database without any schema on the shared server.
pub fn empty_database() -> TestDatabase {
    copy_of("template1")
}

fn copy_of(template: &str) -> TestDatabase {
    let shared = &*SHARED;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut admin = PgConnection::establish(&shared.server.url("postgres")).unwrap();
    sql_query(format!("CREATE DATABASE {name} TEMPLATE {template}"))
        .execute(&mut admin)
        .unwrap();
    TestDatabase {
        url: shared.server.url(&name),
        name,
    }
}

/// The server that all tests of this process share.
struct SharedServer {
    server: EmbeddedPostgres,
    _watchdog: Watchdog,
}

impl SharedServer {
    fn start() -> Self {
        let (folder, watchdog) = guarded_folder();
        let server = start(&options(&folder));
        server.create_database(TEMPLATE).unwrap();
        migrate(&server.url(TEMPLATE));
        Self {
            server,
            _watchdog: watchdog,
        }
    }
}

/// A server that belongs to one test, which may stop, kill and freeze it.
pub struct DedicatedServer {
    server: Option<EmbeddedPostgres>,
    options: EmbeddedOptions,
    // Dropped last: it removes the folder.
    _watchdog: Watchdog,
}

/// Starts a server of the test's own, with one migrated database, `beckon`.
pub fn postgres_server() -> DedicatedServer {
    let (folder, watchdog) = guarded_folder();
    dedicated(options(&folder), watchdog)
}

/// As [`postgres_server`], with a clock that the test may set.
pub fn postgres_server_with_clock() -> (DedicatedServer, TestClock) {
    let (folder, watchdog) = guarded_folder();
    let clock = TestClock::new(&folder);
    let options = EmbeddedOptions {
        bin_dir: Some(clock.postgres_binaries()),
        ..options(&folder)
    };
    (dedicated(options, watchdog), clock)
}

/// As [`postgres_server`], in a folder and with settings of the test's own.
pub fn postgres_server_in(
    folder: &Path,
    watchdog: Watchdog,
    settings: &[(&str, &str)],
) -> DedicatedServer {
    let mut options = options(folder);
    let settings = settings.iter();
    let owned = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    options.settings.extend(owned);
    dedicated(options, watchdog)
}

fn dedicated(options: EmbeddedOptions, watchdog: Watchdog) -> DedicatedServer {
    let server = start(&options);
    server.create_database("beckon").unwrap();
    migrate(&server.url("beckon"));
    DedicatedServer {
        server: Some(server),
        options,
        _watchdog: watchdog,
    }
}

impl DedicatedServer {
    fn server(&self) -> &EmbeddedPostgres {
        self.server.as_ref().unwrap()
    }

    /// The URL of its database. It stays the same when the server is started again.
    pub fn url(&self) -> String {
        self.server().url("beckon")
    }

    /// A connection of the test's own to it.
    pub fn connect(&self) -> PgConnection {
        PgConnection::establish(&self.url()).unwrap()
    }

    /// Whether it still runs by itself.
    pub fn is_running(&mut self) -> bool {
        self.server
            .as_mut()
            .is_some_and(EmbeddedPostgres::is_running)
    }

    /// The main process's id.
    pub fn pid(&self) -> u32 {
        self.server().pid()
    }

    /// Kills every process of the server at once, as a power cut would (but for the page cache).
    pub fn kill(&self) {
        self.signal_all(Signal::KILL);
    }

    /// Freezes every process of the server: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Starts the server again after [`Self::kill`], on the same data and the same URL.
    pub fn start_again(&mut self) {
        self.server.take().unwrap().stop().unwrap();
        self.server = Some(start(&self.options));
    }

    fn signal_all(&self, signal: Signal) {
        // The main process first: then it cannot start another one that would be missed.
        let main = self.pid();
        let children = || children_of(main);
        let known = children();
        send(main, signal);
        for child in known.into_iter().chain(children()) {
            send(child, signal);
        }
    }
}

impl Drop for DedicatedServer {
    fn drop(&mut self) {
        // A frozen process would not notice that it is to stop.
        if self.is_running() {
            self.thaw();
        }
    }
}

fn options(folder: &Path) -> EmbeddedOptions {
    let mut options = EmbeddedOptions::new(folder);
    options.stop_timeout = Duration::from_secs(5);
    options.settings = vec![("max_connections".to_owned(), "300".to_owned())];
    options
}

fn start(options: &EmbeddedOptions) -> EmbeddedPostgres {
    EmbeddedPostgres::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("could not signal {pid:?}: {error}"),
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let wanted = pid.to_string();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let child: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // `pid (command) state parent …`
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            (parent == wanted).then_some(child)
        })
        .collect()
}

/// A temporary folder that does not outlive this process, and what sees to that.
pub fn guarded_folder() -> (PathBuf, Watchdog) {
    let folder = tempfile::Builder::new()
        .prefix("beckon-it-")
        .tempdir()
        .unwrap()
        .keep();
    let watchdog = Watchdog::over(&folder);
    (folder, watchdog)
}

/// A small process that waits for this one to end or to drop it, then ends whatever PostgreSQL
/// runs in a folder and removes the folder.
///
/// It waits on a pipe whose other end only this process holds, so even SIGKILL wakes it.
pub struct Watchdog {
    process: Child,
}

/// `$1` is the folder; a test may have mounted a volume in it for the server. The server is given a
/// moment to stop by itself (its data goes with the folder, so the immediate shutdown does), then
/// all its processes are killed.
const WATCHDOG_SCRIPT: &str = r#"
cat >/dev/null
file="$1/postgres/postmaster.pid"
[ -e "$file" ] || file="$1/volume/postgres/postmaster.pid"
pid=$(head -n 1 "$file" 2>/dev/null)
if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ]; then
    kill -QUIT "$pid"
    tries=0
    while [ "$tries" -lt 30 ] && kill -0 "$pid" 2>/dev/null; do
        sleep 0.1
        tries=$((tries + 1))
    done
    if kill -0 "$pid" 2>/dev/null; then
        kill -KILL "$pid" $(cat "/proc/$pid/task/$pid/children" 2>/dev/null)
    fi
fi
[ ! -d "$1/volume" ] || umount --lazy "$1/volume"
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

impl Watchdog {
    fn over(folder: &Path) -> Self {
        let process = Command::new("/bin/sh")
            .args(["-c", WATCHDOG_SCRIPT, "watchdog"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in the terminal must not end it before it has done its work.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { process }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It ends by itself; waiting only keeps the folder from outliving the test.
        if self.process.wait().is_err() {
            eprintln!("the watchdog could not be waited for");
        }
    }
}
