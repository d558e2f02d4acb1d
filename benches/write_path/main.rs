//! Which way of writing events costs least: claims and events apart or in one statement, arrays,
//! values or COPY, over a socket of the file system or TCP; and what each index and the form of a
//! message id's key cost.
//!
//! Two connections write the rows that Beckon writes for track calls of known people, batch after
//! batch, into the schema of the real migrations, on a Postgres as Beckon starts it, with fsync on.
//! The tables are emptied and a checkpoint is made before each measurement. Ways take turns within
//! a round; a way that has not stored exactly what it committed ends the bench.
//!
//! `cargo bench --bench write_path -- [--rounds 3] [--millis 700] [--batch 100] [--part ways]`; the
//! parts are `ways`, `transport`, `keys`, `indexes` and `full`.

#[path = "../copy.rs"]
mod copy;
#[path = "../ingest/feed.rs"]
#[expect(
    dead_code,
    reason = "the requests of the load client are not needed here"
)]
mod feed;
#[path = "../report.rs"]
mod report;
mod rows;
#[path = "../ingest/stage.rs"]
#[expect(dead_code, reason = "servers are not needed here")]
mod stage;
mod ways;
#[path = "../world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::PgConnection;
use diesel::connection::SimpleConnection;
use feed::{Feed, Source};
use report::{Outcome, line, median, quantile, table};
use rows::Rows;
use serde_json::{Value, json};
use stage::Stage;
use ways::{FOR_INDEXES, INDEXES, KEYS, VALUES, WAYS, Way};
use world::{SEED, World};

const CONNECTIONS: usize = 2;
/// How many message ids are there before the measurements of full tables.
const FULL_ROWS: u64 = 2_000_000;
const BATCHES: [usize; 5] = [1, 16, 32, 100, 1_000];

/// What one measurement tells.
#[derive(Debug, Clone, Copy)]
struct Figures {
    rows_per_second: f64,
    postgres_us: f64,
    wal_bytes: f64,
    p50_us: f64,
    p99_us: f64,
}

type Results = BTreeMap<(String, usize), Vec<Figures>>;

struct Bench {
    stage: Stage,
    source: Arc<Source>,
    writers: Vec<Writer>,
    measured: Duration,
    rounds: u64,
    batches: Vec<usize>,
}

struct Writer {
    connection: PgConnection,
    feed: Feed,
}

fn main() -> Outcome<()> {
    report::refuse_unknown(
        &[],
        &["--part", "--batch", "--rounds", "--millis", "--folder"],
    )?;
    let measured = Duration::from_millis(report::argument("--millis", 700)?);
    let rounds = report::argument("--rounds", 3)?;
    let batch = report::argument("--batch", 0)?;
    let part = report::word("--part")?;
    let machine = report::machine();
    let source = Source::new(&World::new(SEED));
    let mut stage = Stage::start()?;
    stage.execute(
        "CREATE TYPE bench_event AS (id uuid, person_id bigint, name text, user_id text, \
         message_id text, properties text, at timestamptz)",
    )?;
    let mut bench = Bench {
        writers: writers(&stage.url, &source)?,
        stage,
        source,
        measured,
        rounds,
        batches: BATCHES
            .into_iter()
            .filter(|rows| batch == 0 || *rows as u64 == batch)
            .collect(),
    };
    line(format_args!(
        "Ways to write, {CONNECTIONS} connections, fdatasync {:.0} µs; median of {rounds} rounds \
         of {measured:?}.",
        bench.stage.sync_us
    ));
    let mut document = json!({
        "bench": "write_path",
        "machine": machine,
        "fdatasync_us": bench.stage.sync_us,
        "rounds": rounds,
    });
    type Part = fn(&mut Bench) -> Outcome<Results>;
    let parts: [(&str, Part); 5] = [
        ("ways", Bench::ways),
        ("keys", Bench::keys),
        ("full", Bench::full),
        ("indexes", Bench::indexes),
        ("transport", Bench::transport),
    ];
    for (name, measure) in parts {
        if part.as_deref().is_none_or(|chosen| chosen == name) {
            let results = measure(&mut bench)?;
            line(format_args!("\n{name}\n"));
            print(&results);
            document[name] = results.iter().map(to_json).collect();
        }
    }
    drop(bench.writers);
    bench.stage.stop()?;
    report::write_json("write_path", &document)
}

fn writers(url: &str, source: &Arc<Source>) -> Outcome<Vec<Writer>> {
    (0..CONNECTIONS)
        .map(|_| {
            Ok(Writer {
                connection: beckon::store::connect(url)?,
                feed: source.feed(),
            })
        })
        .collect()
}

impl Bench {
    fn ways(&mut self) -> Outcome<Results> {
        let mut results = Results::new();
        for round in 0..self.rounds {
            for rows in self.batches.clone() {
                let mut ways: Vec<&Way> = WAYS.iter().collect();
                if rows <= 100 {
                    ways.push(&VALUES);
                }
                if round % 2 == 1 {
                    ways.reverse();
                }
                for way in ways {
                    let figures = self.measure(way, rows)?;
                    let key = (way.name.to_owned(), rows);
                    results.entry(key).or_default().push(figures);
                }
            }
        }
        Ok(results)
    }

    /// The forms of a message id's key, in tables that are empty at first.
    fn keys(&mut self) -> Outcome<Results> {
        let mut results = Results::new();
        for _ in 0..self.rounds {
            for rows in self.batches.clone() {
                for key in &KEYS {
                    self.stage.execute(&key.table())?;
                    let figures = self.measure(&key.way, rows)?;
                    let name = key.name.to_owned();
                    results.entry((name, rows)).or_default().push(figures);
                }
            }
        }
        Ok(results)
    }

    /// The same in tables that hold two million, just after a checkpoint: each page of the index
    /// that is touched for the first time is written to the log whole.
    fn full(&mut self) -> Outcome<Results> {
        let mut results = Results::new();
        for key in &KEYS {
            self.stage.execute(&key.table())?;
            self.stage.execute(&key.fill(FULL_ROWS))?;
            for _ in 0..self.rounds {
                for rows in self.batches.clone() {
                    let figures = self.measure(&key.way, rows)?;
                    let name = key.name.to_owned();
                    results.entry((name, rows)).or_default().push(figures);
                }
            }
        }
        Ok(results)
    }

    fn indexes(&mut self) -> Outcome<Results> {
        let mut results = Results::new();
        let definitions = self.stage.texts(
            "SELECT replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') AS text FROM pg_index i \
             WHERE indrelid = 'events'::regclass AND NOT indisprimary",
        )?;
        for _ in 0..self.rounds {
            for rows in self.batches.clone() {
                for (name, change) in INDEXES {
                    self.stage.execute(change)?;
                    let figures = self.measure(&FOR_INDEXES, rows)?;
                    results
                        .entry((name.to_owned(), rows))
                        .or_default()
                        .push(figures);
                    self.stage.execute(
                        "TRUNCATE events; ALTER TABLE events DROP CONSTRAINT IF EXISTS events_pkey; \
                         DO $$ DECLARE name text; BEGIN FOR name IN SELECT indexrelid::regclass \
                         FROM pg_index WHERE indrelid = 'events'::regclass LOOP \
                         EXECUTE 'DROP INDEX ' || name; END LOOP; END $$; \
                         ALTER TABLE events ADD PRIMARY KEY (received_on, id)",
                    )?;
                    self.stage.execute(&definitions.join("; "))?;
                }
            }
        }
        Ok(results)
    }

    fn transport(&mut self) -> Outcome<Results> {
        let mut results = Results::new();
        self.writers.clear();
        let tcp = self.stage.listen_on_tcp()?;
        let socket = self.stage.url.clone();
        for _ in 0..self.rounds {
            for (transport, url) in [("socket", &socket), ("TCP", &tcp)] {
                self.writers = writers(url, &self.source)?;
                for rows in self.batches.clone() {
                    for way in &WAYS {
                        if !["claim, events", "bare claim, COPY", "one statement"]
                            .contains(&way.name)
                        {
                            continue;
                        }
                        let figures = self.measure(way, rows)?;
                        let name = format!("{transport}: {}", way.name);
                        results.entry((name, rows)).or_default().push(figures);
                    }
                }
            }
        }
        Ok(results)
    }

    fn measure(&mut self, way: &Way, rows: usize) -> Outcome<Figures> {
        for writer in &mut self.writers {
            writer.connection.batch_execute("RESET plan_cache_mode")?;
            if !way.before.is_empty() {
                writer.connection.batch_execute(way.before)?;
            }
        }
        self.stage.clear()?;
        let wal = self.stage.wal_bytes()?;
        let cpu = self.stage.cpu_seconds();
        let end = Instant::now() + self.measured;
        let runs: Vec<Outcome<Vec<u32>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .writers
                .iter_mut()
                .map(|writer| scope.spawn(move || writer.write(way, rows, end)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| "a writer panicked")?)
                .collect()
        });
        let cpu = self.stage.cpu_seconds() - cpu;
        let wal = self.stage.wal_bytes()? - wal;
        let (mut times, mut busy_seconds) = (Vec::new(), 0.0);
        for run in runs {
            let run = run.map_err(|error| format!("{}, {rows} rows: {error}", way.name))?;
            busy_seconds += run.iter().map(|time| f64::from(*time)).sum::<f64>() / 1e6;
            times.extend(run);
        }
        let written = times.len() * rows;
        let stored = self.stage.stored()?.events;
        if usize::try_from(stored)? != written {
            let text = format!("{} wrote {written} rows and stored {stored}", way.name);
            return Err(text.into());
        }
        times.sort_unstable();
        Ok(Figures {
            rows_per_second: written as f64 / busy_seconds * CONNECTIONS as f64,
            postgres_us: cpu / written as f64 * 1e6,
            wal_bytes: wal / written as f64,
            p50_us: f64::from(quantile(&times, 0.5)),
            p99_us: f64::from(quantile(&times, 0.99)),
        })
    }
}

impl Writer {
    /// Writes batches until the end; returns how long each took, less the making of its rows.
    fn write(&mut self, way: &Way, rows: usize, end: Instant) -> Outcome<Vec<u32>> {
        let mut times = Vec::new();
        loop {
            let batch = Rows::next(&mut self.feed, rows).with_records();
            let begun = Instant::now();
            if begun >= end {
                return Ok(times);
            }
            way.write(&mut self.connection, &batch)?;
            let time = begun.elapsed().as_micros();
            times.push(u32::try_from(time).unwrap_or(u32::MAX));
        }
    }
}

fn of(figures: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    median(&figures.iter().map(figure).collect::<Vec<_>>())
}

fn print(results: &Results) {
    let mut keys: Vec<_> = results.keys().collect();
    keys.sort_by_key(|(name, rows)| (*rows, name.clone()));
    let rows: Vec<Vec<String>> = keys
        .into_iter()
        .filter_map(|key| Some((key, results.get(key)?)))
        .map(|((name, rows), figures)| {
            vec![
                format!("{rows}: {name}"),
                format!("{:.0}", of(figures, |f| f.rows_per_second)),
                format!("{:.1}", of(figures, |f| f.postgres_us)),
                format!("{:.0}", of(figures, |f| f.wal_bytes)),
                format!("{:.0}", of(figures, |f| f.p50_us)),
                format!("{:.0}", of(figures, |f| f.p99_us)),
            ]
        })
        .collect();
    table(
        &[
            "rows",
            "rows/s",
            "postgres µs/row",
            "WAL bytes/row",
            "p50 µs",
            "p99 µs",
        ],
        &rows,
    );
}

fn to_json(((name, rows), figures): (&(String, usize), &Vec<Figures>)) -> Value {
    json!({
        "name": name,
        "rows": rows,
        "rows_per_second": of(figures, |f| f.rows_per_second),
        "postgres_cpu_us_per_row": of(figures, |f| f.postgres_us),
        "wal_bytes_per_row": of(figures, |f| f.wal_bytes),
        "p50_us": of(figures, |f| f.p50_us),
        "p99_us": of(figures, |f| f.p99_us),
    })
}
