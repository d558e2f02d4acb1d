//! What the load meets: a private Postgres with the schema, people and campaigns, and servers as
//! processes of their own, whose CPU time can be read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use beckon::clock::Clock;
use beckon::embedded_pg::{EmbeddedOptions, EmbeddedPostgres, is_reachable};
use beckon::model::Identity;
use beckon::store::{self, migrate, partitions};
use chrono::TimeDelta;
use diesel::connection::SimpleConnection;
use diesel::sql_types::{Array, BigInt, Text, Timestamptz};
use diesel::{PgConnection, QueryableByName, RunQueryDsl, sql_query};
use serde_json::Value;

use crate::feed::{CLIENT_KEY, PEOPLE, PROJECT, Person};
use crate::report::{self, Outcome};
use crate::world::{Rng, SEED, World};

/// Whether message ids are kept as uuids, the first half of their digests.
static KEYS_ARE_UUIDS: OnceLock<bool> = OnceLock::new();

/// Learns from the schema how message ids are kept.
pub fn learn_schema(sql: &mut PgConnection) -> Outcome<()> {
    let count = sql_query(
        "SELECT 1 FROM pg_attribute WHERE attrelid = 'message_ids_0'::regclass \
         AND attname = 'digest' AND atttypid = 'uuid'::regtype",
    )
    .execute(sql)?;
    let _known_already = KEYS_ARE_UUIDS.set(count > 0);
    Ok(())
}

/// Whether message ids are kept as uuids; [`learn_schema`] comes first.
pub fn keys_are_uuids() -> bool {
    KEYS_ARE_UUIDS.get().copied().unwrap_or_default()
}

#[path = "slow_sync.rs"]
mod slow_sync;

const DATABASE: &str = "bench";
/// How many campaigns are live.
pub const CAMPAIGNS: u64 = 1_000;
/// Rows of one statement that fills a table.
const CHUNK: u64 = 10_000;
/// How long a server may take until it is ready.
const START_BOUND: Duration = Duration::from_secs(60);
/// Seeded people were last seen at some moment of so many seconds, so that the time when they are
/// next noted as seen is spread as well.
const SEEN_WITHIN_SECONDS: u64 = 600;

/// The database of a run.
pub struct Stage {
    postgres: Option<EmbeddedPostgres>,
    options: EmbeddedOptions,
    folder: PathBuf,
    /// Where it is.
    pub url: String,
    sql: PgConnection,
    /// What one `fdatasync` costs in its folder, in microseconds.
    pub sync_us: f64,
}

/// What a measurement left in the tables.
#[derive(Debug, QueryableByName)]
pub struct Stored {
    /// Rows of events.
    #[diesel(sql_type = BigInt)]
    pub events: i64,
    /// The transactions that wrote them.
    #[diesel(sql_type = BigInt)]
    pub transactions: i64,
}

impl Stage {
    /// Starts Postgres as [`Stage::start`] does and fills it with people and campaigns.
    pub fn set_up(world: &World) -> Outcome<Self> {
        let mut stage = Self::start()?;
        stage.fill_people(world, 0..PEOPLE)?;
        stage.fill_campaigns(world)?;
        stage.sql.batch_execute("ANALYZE")?;
        Ok(stage)
    }

    /// Starts Postgres as Beckon does, but for the number of connections, with an empty
    /// database of today's schema.
    pub fn start() -> Outcome<Self> {
        let mut folder = match report::word("--folder")? {
            Some(folder) => PathBuf::from(folder),
            None => report::folder()?.join("postgres"),
        };
        if !is_reachable(&folder, None)? {
            folder = std::env::temp_dir().join("beckon-bench-postgres");
        }
        let mut options = EmbeddedOptions::new(&folder);
        if report::flag("--slow-sync") {
            options.bin_dir = Some(slow_sync::binaries()?);
        }
        let connections = ("max_connections".to_owned(), "300".to_owned());
        options.settings.push(connections);
        let postgres = EmbeddedPostgres::start(&options)?;
        store::connect(&postgres.url("postgres"))?
            .batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        postgres.create_database(DATABASE)?;
        let url = postgres.url(DATABASE);
        let mut sql = store::connect(&url)?;
        migrate::migrate(&mut sql)?;
        learn_schema(&mut sql)?;
        let today = partitions::database_now(&mut sql)?.date_naive();
        partitions::ensure_ahead(&mut sql, today, 2)?;
        if report::flag("--slow-sync") {
            expect_slow_commits(&mut sql)?;
        }
        let sync_us = sync_us(&folder.join("sync-probe"))?;
        Ok(Self {
            postgres: Some(postgres),
            options,
            folder,
            url,
            sql,
            sync_us,
        })
    }

    /// Empties what measurements write and flushes what waits, so that each of them finds the same.
    pub fn clear(&mut self) -> Outcome<()> {
        self.sql
            .batch_execute("TRUNCATE events, message_ids_0, message_ids_1; CHECKPOINT")?;
        Ok(())
    }

    /// How many events were received in the last four hours, which an index tells.
    pub fn received(&mut self) -> Outcome<u64> {
        let text = self.texts(
            "SELECT count(*)::text AS text FROM events \
             WHERE project_id = 1 AND received_at > now() - interval '4 hours'",
        )?;
        Ok(text.first().ok_or("no count")?.parse()?)
    }

    /// Counts what a measurement stored.
    pub fn stored(&mut self) -> Outcome<Stored> {
        let counted = sql_query(
            "SELECT count(*) AS events, count(DISTINCT xmin::text) AS transactions FROM events",
        );
        Ok(counted.get_result(&mut self.sql)?)
    }

    /// Compares that with what a side acknowledged, and returns the number of transactions.
    pub fn expect_stored(&mut self, side: &str, acknowledged: u64) -> Outcome<i64> {
        let stored = self.stored()?;
        if u64::try_from(stored.events) == Ok(acknowledged) {
            return Ok(stored.transactions);
        }
        let text = format!(
            "{side} acknowledged {acknowledged} and stored {}",
            stored.events
        );
        Err(text.into())
    }

    /// Adds known people with these numbers.
    pub fn fill_people(&mut self, world: &World, people: Range<u64>) -> Outcome<()> {
        fill_people(&mut self.sql, world, people)
    }

    /// Adds the campaigns.
    pub fn fill_campaigns(&mut self, world: &World) -> Outcome<()> {
        let campaign = |index| (world.aim(index).0, Value::Object(world.campaign(index)));
        self.add_campaigns((0..CAMPAIGNS).map(campaign).collect())
    }

    /// Adds live campaigns, each with its trigger. Servers that run are not told.
    pub fn add_campaigns(&mut self, campaigns: Vec<(String, Value)>) -> Outcome<()> {
        add_campaigns(&mut self.sql, campaigns)
    }

    /// Runs statements on the database, if there are any.
    pub fn execute(&mut self, sql: &str) -> Outcome<()> {
        if sql.is_empty() {
            return Ok(());
        }
        Ok(self.sql.batch_execute(sql)?)
    }

    /// What a query returns in its column `text`.
    pub fn texts(&mut self, query: &str) -> Outcome<Vec<String>> {
        #[derive(QueryableByName)]
        struct Line {
            #[diesel(sql_type = Text)]
            text: String,
        }
        let lines: Vec<Line> = sql_query(query).load(&mut self.sql)?;
        Ok(lines.into_iter().map(|line| line.text).collect())
    }

    /// How many bytes of write-ahead log there have been.
    pub fn wal_bytes(&mut self) -> Outcome<f64> {
        let text = self.texts("SELECT (pg_current_wal_insert_lsn() - '0/0')::text AS text")?;
        Ok(text.first().ok_or("no position in the log")?.parse()?)
    }

    /// Starts Postgres anew so that it listens on loopback too; returns the URL there.
    ///
    /// Its private server has no such thing, so the settings come from `ALTER SYSTEM`, which has
    /// precedence, and the rule of access is added once it runs.
    pub fn listen_on_tcp(&mut self) -> Outcome<String> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let password = uuid::Uuid::new_v4();
        self.execute("ALTER SYSTEM SET listen_addresses = '127.0.0.1'")?;
        self.execute(&format!("ALTER SYSTEM SET port = {port}"))?;
        self.execute(&format!("ALTER ROLE beckon PASSWORD '{password}'"))?;
        self.restart()?;
        self.execute("ALTER SYSTEM RESET ALL")?;
        let rules = self.folder.join("postgres").join("pg_hba.conf");
        let mut rules = std::fs::OpenOptions::new().append(true).open(rules)?;
        rules.write_all(b"host all all 127.0.0.1/32 scram-sha-256\n")?;
        self.execute("SELECT pg_reload_conf()")?;
        Ok(format!(
            "postgresql://beckon:{password}@127.0.0.1:{port}/{DATABASE}"
        ))
    }

    /// Stops Postgres and starts it again.
    pub fn restart(&mut self) -> Outcome<()> {
        if let Some(running) = self.postgres.take() {
            running.stop()?;
        }
        let running = EmbeddedPostgres::start(&self.options)?;
        self.url = running.url(DATABASE);
        self.postgres = Some(running);
        self.sql = store::connect(&self.url)?;
        Ok(())
    }

    /// The CPU seconds that Postgres has used, all its processes together.
    pub fn cpu_seconds(&self) -> f64 {
        let Some(main) = self.postgres.as_ref().map(EmbeddedPostgres::pid) else {
            return 0.0;
        };
        let children = format!("/proc/{main}/task/{main}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let living: f64 = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(|pid| cpu_seconds(pid, false))
            .sum();
        living + cpu_seconds(main, true)
    }

    /// Stops Postgres.
    pub fn stop(self) -> Outcome<()> {
        drop(self.sql);
        Ok(self.postgres.map_or(Ok(()), EmbeddedPostgres::stop)?)
    }
}

/// A server on loopback, killed when this is dropped.
pub struct Server {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Beckon itself, as it is released. Limits of requests are at work, only too high to be met.
    pub fn beckon(url: &str) -> Outcome<Self> {
        Self::beckon_with(url, &[])
    }

    /// The same with other settings.
    pub fn beckon_with(url: &str, settings: &[(&str, &str)]) -> Outcome<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beckon"));
        command
            .arg("serve")
            .env("DATABASE_URL", url)
            .env("BECKON_LISTEN", "127.0.0.1:0")
            .env("BECKON_CLIENT_KEY", CLIENT_KEY)
            .env("BECKON_LOG", "warn")
            .env("BECKON_METRICS", "public")
            .env("BECKON_KEY_REQUESTS_PER_SECOND", "1000000")
            .env("BECKON_ADDRESS_REQUESTS_PER_SECOND", "1000000")
            .envs(settings.iter().copied())
            .current_dir(std::env::temp_dir());
        let server = Self::start(command)?;
        server.wait_until_ready()?;
        Ok(server)
    }

    /// A peer: this very program, as a server.
    pub fn peer(kind: &str, url: &str) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--peer", kind, url]);
        Self::start(command)
    }

    fn start(mut command: Command) -> Outcome<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("the server has no output")?;
        let mut lines = BufReader::new(output).lines();
        let address = loop {
            let Some(line) = lines.next().transpose()? else {
                let _ended = process.wait();
                return Err("a server ended before it listened".into());
            };
            if let Some(address) = line.trim().strip_prefix("listening on http://") {
                break address.trim_end_matches('/').parse()?;
            }
        };
        // A server that says more must not wait for a reader.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(report::line));
        Ok(Self { process, address })
    }

    fn wait_until_ready(&self) -> Outcome<()> {
        let end = Instant::now() + START_BOUND;
        let mut wait = Duration::from_millis(20);
        while Instant::now() < end {
            if self.get("/readyz")?.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            pause(wait);
            // It logs each answer that it is not ready.
            wait = (wait * 2).min(Duration::from_millis(100));
        }
        Err("the server does not become ready".into())
    }

    /// Ends it.
    pub fn kill(&mut self) -> Outcome<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Its whole answer to a request without a key.
    pub fn get(&self, path: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The CPU seconds that it has used.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.process.id(), false)
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
    }

    /// The memory it holds, in MiB.
    pub fn resident_mib(&self) -> f64 {
        let status = format!("/proc/{}/status", self.process.id());
        std::fs::read_to_string(status)
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
            .map_or(0.0, |kib| kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended_already = self.process.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread that may block")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The time that a process was on a core, in seconds; with that of children that have ended, if
/// asked for.
fn cpu_seconds(pid: u32, with_ended_children: bool) -> f64 {
    let of_threads: f64 = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum();
    let ended = if with_ended_children {
        ended_children_seconds(pid)
    } else {
        0.0
    };
    of_threads / 1e9 + ended
}

/// User and system time of children that have ended, in which a second has 100 ticks.
fn ended_children_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name
        .split(' ')
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// A shim that is not at work must not look like a fast disk.
fn expect_slow_commits(sql: &mut PgConnection) -> Outcome<()> {
    sql.batch_execute("CREATE TABLE sync_probe (number bigint)")?;
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        sql.batch_execute("INSERT INTO sync_probe VALUES (1)")?;
        times.push(begun.elapsed().as_secs_f64());
    }
    sql.batch_execute("DROP TABLE sync_probe")?;
    if report::median(&times) < 0.001 {
        return Err("commits take less than a millisecond: the shim is not at work".into());
    }
    Ok(())
}

/// The median time to write a block of 8 KiB and wait for the disk.
fn sync_us(path: &PathBuf) -> Outcome<f64> {
    let mut file = std::fs::File::create(path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        file.write_all(&[0; 8192])?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    Ok(report::median(&times))
}

fn fill_people(sql: &mut PgConnection, world: &World, people: Range<u64>) -> Outcome<()> {
    let now = Clock::system().now();
    let mut rng = Rng::new(SEED, 4 << 40);
    for start in people.clone().step_by(CHUNK as usize) {
        let (mut ids, mut homes, mut names) = (Vec::new(), Vec::new(), Vec::new());
        let (mut traits, mut seen): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
        for number in start..people.end.min(start + CHUNK) {
            let person = Person {
                number,
                is_new: false,
            };
            let name = person.user_id();
            let identity = Identity::user(&name).map_err(|error| error.to_string())?;
            ids.push(person.row_id());
            homes.push(identity.home(PROJECT));
            names.push(name);
            traits.push(world.traits(number).to_string());
            let ago = i64::try_from(rng.below(SEEN_WITHIN_SECONDS))?;
            seen.push(now - TimeDelta::seconds(ago));
        }
        sql_query(
            "WITH input AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4, $5) \
             AS t (id, home, value, traits, at)), born AS (INSERT INTO persons (id, project_id, \
             home, bucketing_kind, bucketing_value, traits, created_at, last_seen_at) \
             SELECT id, 1, home, 0, value, traits::jsonb, at, at FROM input) \
             INSERT INTO identities (project_id, kind, value, person_id, created_at) \
             SELECT 1, 0, value, id, at FROM input",
        )
        .bind::<Array<BigInt>, _>(&ids)
        .bind::<Array<BigInt>, _>(&homes)
        .bind::<Array<Text>, _>(&names)
        .bind::<Array<Text>, _>(&traits)
        .bind::<Array<Timestamptz>, _>(&seen)
        .execute(sql)?;
    }
    // Far above every number that the baselines give.
    sql.batch_execute(
        "SELECT setval('persons_id_seq', greatest(last_value, 1000000000001)) FROM persons_id_seq",
    )?;
    Ok(())
}

fn add_campaigns(sql: &mut PgConnection, campaigns: Vec<(String, Value)>) -> Outcome<()> {
    let (triggers, bodies): (Vec<String>, Vec<String>) = campaigns
        .into_iter()
        .map(|(trigger, body)| (trigger, body.to_string()))
        .unzip();
    sql_query(
        "INSERT INTO campaigns (project_id, id, name, status, trigger, body, created_at) \
         SELECT 1, id, id, 'active', trigger, body::json, now() FROM (SELECT trigger, body, \
         replace(body::json ->> 'name', ' ', '-') AS id FROM unnest($1, $2) AS t (trigger, body)) t",
    )
    .bind::<Array<Text>, _>(&triggers)
    .bind::<Array<Text>, _>(&bodies)
    .execute(sql)?;
    Ok(())
}
