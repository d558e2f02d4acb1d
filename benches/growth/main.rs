//! Whether the cost of an event grows: with the rows of the table, with its partitions, with the
//! people.
//!
//! Single calls over 64 connections to Beckon with everything on. The cost is the CPU time of the
//! server and of Postgres, an event. A checkpoint is made and then a while of load before it is
//! measured, so that it holds what whole pages in the write-ahead log cost on the way to the next
//! checkpoint, not just after one. Rows that fill the tables have all of the columns and smaller
//! properties than those of the load; they lie in today's partition, where the load writes too, and
//! each has its message id.
//!
//! `cargo bench --bench growth -- [--quick] [--rounds 3] [--millis 3000] [--part people] [--must]`; the
//! parts are people, partitions and rows. With `--must` a goal that is missed ends it with a failure.
//! The settings of the environment hold for the server.

#[path = "../ingest/feed.rs"]
#[expect(dead_code, reason = "some of it is for the other benches")]
mod feed;
#[path = "../goals.rs"]
mod goals;
#[path = "../ingest/load.rs"]
#[expect(dead_code, reason = "some of it is for the other benches")]
mod load;
#[expect(dead_code, reason = "some of it is for the other benches")]
#[path = "../plot.rs"]
mod plot;
#[path = "../report.rs"]
mod report;
#[path = "../ingest/stage.rs"]
#[expect(dead_code, reason = "some of it is for the other benches")]
mod stage;
#[path = "../world.rs"]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use beckon::store;
use beckon::store::partitions;
use feed::Source;
use goals::Goal;
use load::Span;
use plot::Scale;
use report::{Outcome, line, median, quantile, table};
use serde_json::{Value, json};
use stage::{Server, Stage};
use world::{SEED, World};

const CONNECTIONS: usize = 64;
/// Each known person's event before the measurements, for so many people at most.
const VISITS_MAX: u64 = 1_000_000;
const VISIT_BATCH: usize = 250;
/// The load between a checkpoint and what is measured.
const BEFORE: Duration = Duration::from_secs(15);
/// Rows are filled in by so many sessions at once.
const FILLERS: u64 = 2;
/// At the largest size an event may cost so many times what it costs at the smallest.
const FLAT: f64 = 1.25;

/// The cost at one size: the median of the rounds.
#[derive(Debug, Clone, Copy)]
struct Point {
    size: u64,
    server_us: f64,
    postgres_us: f64,
    wal_bytes: f64,
    events_per_second: f64,
    p99_ms: f64,
}

impl Point {
    fn json(&self) -> Value {
        json!({
            "size": self.size,
            "server_cpu_us_per_event": self.server_us,
            "postgres_cpu_us_per_event": self.postgres_us,
            "wal_bytes_per_event": self.wal_bytes,
            "events_per_second": self.events_per_second,
            "p99_ms": self.p99_ms,
        })
    }
}

/// What grows, and the cost at each size.
type Series = (&'static str, Vec<Point>);

struct Bench {
    stage: Stage,
    world: World,
    rounds: u64,
    span: Span,
    people: u64,
    /// Measurements begun.
    steps: u64,
}

fn main() -> Outcome<()> {
    report::refuse_unknown(
        &["--quick"],
        &["--part", "--rounds", "--millis", "--folder"],
    )?;
    let is_quick = report::flag("--quick");
    let rounds = report::argument("--rounds", 3)?;
    let millis = report::argument("--millis", if is_quick { 1_000 } else { 3_000 })?;
    let many_people: &[u64] = if is_quick { &[] } else { &[1_000_000] };
    let rows: &[u64] = if is_quick {
        &[100_000, 1_000_000]
    } else {
        &[1_000_000, 10_000_000, 30_000_000]
    };
    let machine = report::machine();
    let begin = Instant::now();
    let mut bench = Bench {
        stage: Stage::start()?,
        world: World::new(SEED),
        rounds,
        span: Span {
            warm_up: Duration::from_millis(500),
            measured: Duration::from_millis(millis),
            requests_max: u64::MAX,
            may_refuse: false,
        },
        people: 0,
        steps: 0,
    };
    bench.stage.fill_campaigns(&bench.world)?;
    line(format_args!(
        "Cost of an event as the database grows; single calls, {CONNECTIONS} connections, fdatasync \
         {:.0} µs, medians of {rounds} rounds of {millis} ms.",
        bench.stage.sync_us
    ));
    let part = report::word("--part")?;
    let is_part = |name: &str| part.as_deref().is_none_or(|part| part == name);
    let mut series: Vec<Series> = Vec::new();
    // Partitions and rows are looked at with people who fit into the cache, so that they tell of what
    // they are about.
    let mut people = if is_part("people") {
        bench.with_people(&[1_000, 10_000, 100_000])?
    } else {
        bench.people(100_000)?;
        Vec::new()
    };
    if is_part("partitions") {
        series.push(("partitions", bench.with_partitions(&[1, 10, 90])?));
    }
    if is_part("rows") {
        series.push(("rows today", bench.with_rows(rows)?));
    }
    if is_part("people") {
        people.extend(bench.with_people(many_people)?);
        series.insert(0, ("people", people));
    }
    let sync_us = bench.stage.sync_us;
    series.iter().for_each(print_series);
    let goals: Vec<Goal> = series.iter().map(goal).collect();
    goals::print_goals(&goals);
    bench
        .stage
        .execute("TRUNCATE events, message_ids_0, message_ids_1, persons, identities")?;
    bench.stage.stop()?;
    let path = report::folder()?.join("growth.svg");
    std::fs::write(
        &path,
        plot::svg(&series.iter().map(panel).collect::<Vec<_>>(), Scale::Linear),
    )?;
    line(format_args!(
        "\nthe plot is {}; {:.0} s",
        path.display(),
        begin.elapsed().as_secs_f64()
    ));
    let series: Vec<Value> = series
        .iter()
        .map(|(name, points)| json!({ "of": name, "points": points.iter().map(Point::json).collect::<Vec<_>>() }))
        .collect();
    let document = json!({
        "bench": "growth",
        "machine": machine,
        "quick": is_quick,
        "fdatasync_us": sync_us,
        "series": series,
        "goals": goals.iter().map(Goal::json).collect::<Vec<_>>(),
    });
    report::write_json("growth", &document)?;
    goals::expect_reached(&goals)
}

impl Bench {
    fn with_people(&mut self, sizes: &[u64]) -> Outcome<Vec<Point>> {
        let mut points = Vec::new();
        for size in sizes {
            self.people(*size)?;
            self.stage.clear()?;
            points.push(self.measure(*size)?);
        }
        Ok(points)
    }

    /// Fills in people until there are so many.
    fn people(&mut self, size: u64) -> Outcome<()> {
        self.stage.fill_people(&self.world, self.people..size)?;
        self.people = size;
        self.stage.execute("ANALYZE persons, identities")
    }

    fn with_partitions(&mut self, sizes: &[u64]) -> Outcome<Vec<Point>> {
        let mut points = Vec::new();
        let mut sql = store::connect(&self.stage.url)?;
        let today = partitions::database_now(&mut sql)?.date_naive();
        for partition in partitions::list(&mut sql)? {
            if partition.day != today {
                self.stage
                    .execute(&format!("DROP TABLE {}", partition.name))?;
            }
        }
        for size in sizes {
            for day in today.iter_days().take(usize::try_from(*size)?) {
                partitions::ensure_day(&mut sql, day)?;
            }
            self.stage.clear()?;
            points.push(self.measure(*size)?);
        }
        Ok(points)
    }

    fn with_rows(&mut self, sizes: &[u64]) -> Outcome<Vec<Point>> {
        self.stage.clear()?;
        let mut points = Vec::new();
        let mut filled = 0;
        for size in sizes {
            let begun = Instant::now();
            self.fill_rows(filled, *size)?;
            filled = *size;
            line(format_args!(
                "filled to {size} rows in {:.0} s",
                begun.elapsed().as_secs_f64()
            ));
            points.push(self.measure(*size)?);
        }
        Ok(points)
    }

    /// Adds rows with the numbers from `from` to `to`. Indexes are made anew after it, which is
    /// faster than keeping them.
    fn fill_rows(&mut self, from: u64, to: u64) -> Outcome<()> {
        let definitions = self.stage.texts(
            "SELECT replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') AS text \
             FROM pg_index WHERE indrelid = 'events'::regclass AND NOT indisprimary",
        )?;
        let names = self.stage.texts(
            "SELECT indexrelid::regclass::text AS text FROM pg_index \
             WHERE indrelid = 'events'::regclass AND NOT indisprimary",
        )?;
        self.stage.execute(&format!(
            "DROP INDEX {}; ALTER TABLE events DROP CONSTRAINT events_pkey; \
             ALTER TABLE message_ids_0 DROP CONSTRAINT message_ids_0_pkey",
            names.join(", ")
        ))?;
        let url = self.stage.url.clone();
        let part = (to - from).div_ceil(FILLERS);
        std::thread::scope(|scope| {
            let fillers: Vec<_> = (0..FILLERS)
                .map(|filler| {
                    let start = from + filler * part;
                    let (url, end) = (&url, to.min(start + part));
                    let people = self.people;
                    scope.spawn(move || fill(url, people, start, end))
                })
                .collect();
            fillers
                .into_iter()
                .try_for_each(|filler| filler.join().map_err(|_| "a filler panicked")?)
        })?;
        self.stage.execute(&format!(
            "SET statement_timeout = 0; SET maintenance_work_mem = '1GB'; \
             ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (received_on, id); \
             ALTER TABLE message_ids_0 ADD CONSTRAINT message_ids_0_pkey \
             PRIMARY KEY (project_id, digest); {}; ANALYZE events, message_ids_0; CHECKPOINT",
            definitions.join("; ")
        ))?;
        self.stage.execute("VACUUM events; ")?;
        self.stage.execute("VACUUM message_ids_0")
    }

    /// A fresh Beckon, which meets its people first.
    fn measure(&mut self, size: u64) -> Outcome<Point> {
        self.steps += 1;
        let source = Source::about(&self.world, self.people, self.steps * 100_000_000);
        let beckon = Server::beckon(&self.stage.url)?;
        let visits = Span {
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(120),
            requests_max: self.people.min(VISITS_MAX).div_ceil(VISIT_BATCH as u64),
            ..self.span
        };
        let requests = feed::requests(&source, VISIT_BATCH);
        load::drive(beckon.address, source.feed().in_turn(), requests, 4, visits)?;
        self.stage.execute("CHECKPOINT")?;
        let before = Span {
            warm_up: Duration::ZERO,
            measured: BEFORE,
            ..self.span
        };
        let requests = feed::requests(&source, 0);
        load::drive(beckon.address, source.feed(), requests, CONNECTIONS, before)?;
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push(self.round(&beckon, &source, size)?);
        }
        let of = |figure: fn(&Point) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
        Ok(Point {
            size,
            server_us: of(|p| p.server_us),
            postgres_us: of(|p| p.postgres_us),
            wal_bytes: of(|p| p.wal_bytes),
            events_per_second: of(|p| p.events_per_second),
            p99_ms: of(|p| p.p99_ms),
        })
    }

    fn round(&mut self, beckon: &Server, source: &Arc<Source>, size: u64) -> Outcome<Point> {
        let before = self.stage.received()?;
        let wal = self.stage.wal_bytes()?;
        let (server, postgres) = (beckon.cpu_seconds(), self.stage.cpu_seconds());
        let requests = feed::requests(source, 0);
        let feed = source.feed();
        let mut run = load::drive(beckon.address, feed, requests, CONNECTIONS, self.span)?;
        let (server, postgres) = (
            beckon.cpu_seconds() - server,
            self.stage.cpu_seconds() - postgres,
        );
        let wal = self.stage.wal_bytes()? - wal;
        let stored = self.stage.received()? - before;
        if stored != run.acknowledged {
            let text = format!("acknowledged {} and stored {stored}", run.acknowledged);
            return Err(text.into());
        }
        run.latencies_us.sort_unstable();
        let events = run.acknowledged.max(1) as f64;
        Ok(Point {
            size,
            server_us: server / events * 1e6,
            postgres_us: postgres / events * 1e6,
            wal_bytes: wal / events,
            events_per_second: run.events as f64 / run.seconds,
            p99_ms: f64::from(quantile(&run.latencies_us, 0.99)) / 1e3,
        })
    }
}

/// Fills in rows with these numbers, all columns like real ones. They were received in the last
/// hours, one after the other.
fn fill(url: &str, people: u64, start: u64, end: u64) -> Outcome<()> {
    use diesel::connection::SimpleConnection;
    const CHUNK: u64 = 500_000;
    let mut sql = store::connect(url)?;
    sql.batch_execute("SET statement_timeout = 0; SET synchronous_commit = off")?;
    let key = if stage::keys_are_uuids() {
        "encode(substr(digest, 1, 16), 'hex')::uuid"
    } else {
        "digest"
    };
    for chunk in (start..end).step_by(CHUNK as usize) {
        let last = end.min(chunk + CHUNK) - 1;
        sql.batch_execute(&format!(
            "WITH input AS MATERIALIZED (SELECT number, \
             lpad(to_hex(1700000000000 + number / 100), 12, '0') \
                 || '7' || substr(md5(number::text), 1, 19) AS id, \
             sha256(int8send(number)) AS digest, 1 + (number * 7919) % {people} AS person, \
             now() - interval '6 hours' + number * interval '100 microseconds' AS at \
             FROM generate_series({chunk}::bigint, {last}) AS number), \
             keys AS (INSERT INTO message_ids_0 (project_id, digest, event_id) \
             SELECT 1, {key}, id::uuid FROM input) \
             INSERT INTO events (received_on, id, project_id, person_id, kind, name, user_id, \
             message_id, properties, \"timestamp\", received_at) \
             SELECT current_date, id::uuid, 1, person, 0, \
             'trigger_' || lpad((number % 50)::text, 2, '0'), \
             'user-' || lpad((person - 1)::text, 11, '0'), lpad(number::text, 36, '0'), \
             json_build_object('p00', number % 2 = 0, 'p01', 'v' || number % 3, \
             'p06', number % 10, 'p09', number % 50000), at, at FROM input"
        ))?;
    }
    Ok(())
}

/// The stacked cost of an event: Postgres's, and the server's on top of it.
fn panel((name, points): &Series) -> plot::Panel {
    type Cost = fn(&Point) -> f64;
    let lines: [(&str, &str, Cost); 2] = [
        ("Postgres", "#336791", |p| p.postgres_us),
        ("and server", "#c2410c", |p| p.server_us + p.postgres_us),
    ];
    plot::Panel {
        title: format!("µs of CPU an event, by {name}"),
        lines: lines
            .into_iter()
            .map(|(name, colour, of)| plot::Line {
                name: name.to_owned(),
                colour,
                points: points.iter().map(|p| (p.size, of(p))).collect(),
            })
            .collect(),
    }
}

/// The cost at the largest size over that at the smallest.
fn goal((name, points): &Series) -> Goal {
    let cost = |point: Option<&Point>| point.map_or(f64::NAN, |p| p.server_us + p.postgres_us);
    let ratio = cost(points.last()) / cost(points.first());
    let what = format!("cost of an event at the largest over the smallest, by {name}");
    Goal::at_most(&what, ratio, FLAT)
}

fn print_series((name, points): &Series) {
    line(format_args!("\n{name}\n"));
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|point| {
            vec![
                point.size.to_string(),
                format!("{:.0}", point.events_per_second),
                format!("{:.1}", point.p99_ms),
                format!("{:.1}", point.server_us),
                format!("{:.1}", point.postgres_us),
                format!("{:.0}", point.wal_bytes),
            ]
        })
        .collect();
    table(
        &[
            "",
            "events/s",
            "p99 ms",
            "server µs/event",
            "postgres µs/event",
            "WAL bytes/event",
        ],
        &rows,
    );
}
