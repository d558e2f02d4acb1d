//! The real `beckon serve`, as a process of its own on a database of its own.
//!
//! A server never outlives its test: it is killed when the [`TestApp`] is dropped, and a watcher
//! that waits on a pipe kills it when the test process itself is gone.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use diesel::{Connection, PgConnection};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::postgres::{TestDatabase, database};
use super::{eventually, pause};

/// The admin key that every server of the tests is started with.
pub const ADMIN_KEY: &str = "adm_0123456789abcdef0123456789abcdef";
/// The client key that every server of the tests is started with.
pub const CLIENT_KEY: &str = "wk_0123456789abcdef0123456789abcdef";

/// The variable that lists the origins whose pages may call.
pub const CORS_ORIGINS: &str = "BECKON_CORS_ORIGINS";

/// How long a server may take until it listens, on a machine that also compiles and tests.
const START_BOUND: Duration = Duration::from_secs(30);
/// How much of the server's own log is kept for a failure's message.
const LOG_BYTES_MAX: usize = 1024 * 1024;
/// How much of it is shown with a failure.
const SHOWN_LOG_BYTES_MAX: usize = 2 * 1024;

/// Settings that make the tests about something else than rate limits: they all come from one
/// address, and some send as fast as they can.
const WITHOUT_RATE_LIMITS: [(&str, &str); 3] = [
    ("BECKON_KEY_REQUESTS_PER_SECOND", "0"),
    ("BECKON_ADDRESS_REQUESTS_PER_SECOND", "0"),
    ("BECKON_KEY_MISSES_PER_MINUTE", "0"),
];

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Launch {
    variables: Vec<(String, String)>,
}

impl Launch {
    /// The settings that every test uses.
    pub fn new(database_url: &str) -> Self {
        let mut launch = Self {
            variables: Vec::new(),
        }
        .set("DATABASE_URL", database_url)
        .set("BECKON_LISTEN", "127.0.0.1:0")
        .set("BECKON_ADMIN_KEY", ADMIN_KEY)
        .set("BECKON_CLIENT_KEY", CLIENT_KEY)
        .set("BECKON_LOG", "warn");
        for (name, value) in WITHOUT_RATE_LIMITS {
            launch = launch.set(name, value);
        }
        launch
    }

    /// Sets a variable of the server's environment, instead of what it was.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a variable out that every test would have.
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// The command, with nothing of this process's environment but what programs need to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beckon"));
        command.args(arguments);
        for (name, _) in std::env::vars_os() {
            let ours = name.to_string_lossy();
            if ours.starts_with("BECKON_") || ours.starts_with("PG") || ours == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null());
        command
    }
}

/// Runs a command to its end and gives its status and all it wrote; kills it at the bound.
pub fn run_to_end(mut command: Command, bound: Duration) -> (ExitStatus, String) {
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = Arc::new(Mutex::new(Vec::new()));
    let readers = [
        keep_log(process.stdout.take().unwrap(), Arc::clone(&written)),
        keep_log(process.stderr.take().unwrap(), Arc::clone(&written)),
    ];
    let end = Instant::now() + bound;
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= end {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("{command:?} did not end within {bound:?}");
        }
        pause(Duration::from_millis(10));
    };
    for reader in readers {
        reader.join().unwrap();
    }
    let text = String::from_utf8_lossy(&written.lock().unwrap()).into_owned();
    (status, text)
}

/// One running server process.
#[derive(Debug)]
pub struct Server {
    process: Child,
    watcher: Child,
    base: String,
    log: Arc<Mutex<Vec<u8>>>,
    status: Option<ExitStatus>,
}

/// Waits for a word or for the end of this process. Only the end of the process kills the server,
/// and only if the number still belongs to it.
const WATCHER_SCRIPT: &str = r#"
read -r word
[ "$word" = done ] && exit 0
[ "$(cat "/proc/$1/comm" 2>/dev/null)" = beckon ] && kill -KILL "$1"
"#;

impl Server {
    /// Starts `beckon serve` and waits until it says where it listens.
    pub fn start(launch: &Launch) -> Self {
        Self::try_start(launch).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Starts `beckon serve`; an error tells what it said when it ended instead of listening.
    pub fn try_start(launch: &Launch) -> Result<Self, String> {
        let mut process = launch
            .command(&["serve"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watcher = Command::new("/bin/sh")
            .args(["-c", WATCHER_SCRIPT, "watcher", &process.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        keep_log(process.stderr.take().unwrap(), Arc::clone(&log));
        let lines = read_lines(process.stdout.take().unwrap());
        let mut server = Self {
            process,
            watcher,
            base: String::new(),
            log,
            status: None,
        };
        server.base = server.wait_for_address(&lines)?;
        Ok(server)
    }

    fn wait_for_address(&mut self, lines: &Receiver<String>) -> Result<String, String> {
        let end = Instant::now() + START_BOUND;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left.min(Duration::from_millis(200))) {
                Ok(line) => {
                    if let Some(base) = line.trim().strip_prefix("listening on ") {
                        return Ok(base.trim_end_matches('/').to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) if left > Duration::ZERO => {}
                Err(_) => {
                    let ended = self.wait(Duration::from_secs(2));
                    return Err(format!(
                        "the server did not listen ({ended:?}); it said:\n{}",
                        self.log()
                    ));
                }
            }
        }
    }

    /// Waits until it says that it can do its work. From then on every call must succeed.
    pub fn wait_until_ready(&self) {
        let nobody = Client::new(&self.base);
        eventually("the server is ready", START_BOUND, || {
            (nobody.get("/readyz").status == 200).then_some(())
        });
    }

    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where it listens, for a socket of one's own.
    pub fn address(&self) -> SocketAddr {
        self.base.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How much memory it holds by one line of its status: `VmRSS` now, `VmHWM` at most so far.
    pub fn memory_bytes(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == line).unwrap();
        let kilobytes: u64 = value.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024
    }

    /// What it wrote to its standard error, up to a bound.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Kills it as a power cut would (but for the page cache), and waits for its end.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        assert!(
            self.wait(Duration::from_secs(10)).is_some(),
            "killed, yet it runs"
        );
    }

    /// Asks it to stop. Returns at once.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end; `None` when it still runs at the bound.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + bound;
        while self.status.is_none() {
            self.status = self.process.try_wait().unwrap();
            if self.status.is_none() {
                if Instant::now() >= end {
                    return None;
                }
                pause(Duration::from_millis(10));
            }
        }
        self.status
    }

    fn signal(&self, signal: Signal) {
        // Until it has been waited for, the number can belong to nobody else.
        if self.status.is_none() {
            let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The watcher is sent home before the server's number can be given to somebody else.
        if let Some(mut word) = self.watcher.stdin.take() {
            let _gone_already = word.write_all(b"done\n");
        }
        let _ended_already = self.watcher.wait();
        if self.status.is_none() {
            let _ended_already = self.process.kill();
            let _ended_already = self.process.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(SHOWN_LOG_BYTES_MAX);
            let shown = log.get(log.ceil_char_boundary(start)..).unwrap_or_default();
            eprintln!("--- the end of the server's log\n{shown}\n---");
        }
    }
}

fn keep_log(mut from: impl Read + Send + 'static, log: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = [0_u8; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let mut kept = log.lock().unwrap();
            kept.extend_from_slice(&piece[..length]);
            let over = kept.len().saturating_sub(LOG_BYTES_MAX);
            kept.drain(..over);
        }
    })
}

/// The lines of the server's standard output. The reader goes on when nobody listens any more, so
/// that the server never blocks on a full pipe.
fn read_lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _nobody_listens = sender.send(line);
        }
    });
    lines
}

/// A server on a fresh database.
pub struct TestApp {
    // Dropped first: it holds connections to the database.
    server: Server,
    launch: Launch,
    database: TestDatabase,
}

impl TestApp {
    /// A server with the settings that every test uses.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with further variables in its environment.
    pub fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::prepared(variables, |_| {})
    }

    /// A server that finds a database somebody has worked on: keys, projects, whatever no route
    /// makes. No cache of the server can be older than these.
    pub fn prepared(variables: &[(&str, &str)], prepare: impl FnOnce(&mut PgConnection)) -> Self {
        let database = database();
        let mut sql = database.connect();
        prepare(&mut sql);
        drop(sql);
        let mut launch = Launch::new(&database.url);
        for (name, value) in variables {
            launch = launch.set(name, value);
        }
        let server = Server::start(&launch);
        server.wait_until_ready();
        Self {
            server,
            launch,
            database,
        }
    }

    /// A second server on the same database, as another node.
    pub fn another_node(&self) -> Server {
        let server = Server::start(&self.launch);
        server.wait_until_ready();
        server
    }

    /// The process.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Where it listens, for a socket of one's own.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub fn base(&self) -> &str {
        self.server.base()
    }

    /// A client with the admin key.
    pub fn admin(&self) -> Client {
        Client::new(self.base()).key(ADMIN_KEY)
    }

    /// A client with the client key.
    pub fn client(&self) -> Client {
        Client::new(self.base()).key(CLIENT_KEY)
    }

    /// A client without a key.
    pub fn nobody(&self) -> Client {
        Client::new(self.base())
    }

    /// A client with a key of one's own.
    pub fn with_key(&self, key: &str) -> Client {
        Client::new(self.base()).key(key)
    }

    /// Kills the server as a power cut would.
    pub fn kill9(&mut self) {
        self.server.kill9();
    }

    /// Asks the server to stop, and waits.
    pub fn terminate(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.server.terminate();
        self.server.wait(bound)
    }

    /// Sets a variable of the environment of servers that are started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.launch = self.launch.clone().set(name, value);
    }

    /// Starts a server again on the same database, at another port.
    pub fn restart(&mut self) {
        assert!(
            self.server.wait(Duration::ZERO).is_some(),
            "the former server still runs"
        );
        self.server = Server::start(&self.launch);
        self.server.wait_until_ready();
    }

    /// How its servers are started, for commands on the same database.
    pub fn launch(&self) -> Launch {
        self.launch.clone()
    }

    /// The database, as a libpq URL.
    pub fn url(&self) -> &str {
        &self.database.url
    }

    /// A connection of the test's own to the database.
    pub fn sql(&self) -> PgConnection {
        PgConnection::establish(&self.database.url).unwrap()
    }
}
