//! Durable ingest over HTTP, with everything on, beside what limits it.
//!
//! The load: 100,000 known people and one newcomer in a hundred events, 1,000 live campaigns on 50
//! triggers, on average 2 of about 1 KB in an answer. Each side runs as a process of its own on
//! loopback, on one Postgres with fsync on and default settings; the tables are emptied before each
//! measurement. The sides of one shape of load follow each other in every round, and ratios are
//! taken within a round.
//!
//! After each measurement the rows are counted: a side that acknowledged more or less than it
//! stored ends the bench.
//!
//! `cargo bench --bench ingest -- [--rounds 3] [--millis 1500] [--connections 64] [--batch 100]`;
//! the last two choose one shape.

mod feed;
mod load;
mod peers;
#[path = "../report.rs"]
mod report;
mod rows;
#[expect(dead_code, reason = "some of it is for the other benches")]
mod stage;
#[path = "../world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use feed::Source;
use load::{Run, Span};
use report::{Outcome, line, median, quantile, table};
use serde_json::{Value, json};
use stage::{Server, Stage};
use world::{SEED, World};

/// Who stores, or does as if.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Beckon,
    Group,
    Raw,
    Bare,
}

const SIDES: [Side; 4] = [Side::Beckon, Side::Group, Side::Raw, Side::Bare];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Beckon => "beckon",
            Self::Group => "group commit",
            Self::Raw => "raw commits",
            Self::Bare => "bare handler",
        }
    }
}

/// How the load comes: over so many connections, in lists of so many events; 0 is single calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    batch: usize,
    connections: usize,
}

const fn shape(batch: usize, connections: usize) -> Shape {
    Shape { batch, connections }
}

const SHAPES: [Shape; 7] = [
    shape(0, 1),
    shape(0, 16),
    shape(0, 64),
    shape(0, 256),
    shape(10, 16),
    shape(100, 16),
    shape(1_000, 16),
];

/// Raw transactions of many rows are committed by as many connections as there are cores here.
const RAW_BATCH_CONNECTIONS: usize = 2;
/// The most requests of one measurement.
const REQUESTS_MAX: u64 = 2_000_000;
/// Each known person's event before the measurements, in lists of so many.
const VISIT_BATCH: usize = 1_000;

/// What must be reached: at least this ratio to this side.
const BUDGETS: [(Shape, Side, f64); 3] = [
    (shape(0, 64), Side::Raw, 1.0),
    (shape(0, 64), Side::Group, 0.85),
    (shape(100, 16), Side::Raw, 0.8),
];

/// The figures of one side, shape and round.
#[derive(Debug, Clone, Copy)]
struct Figures {
    events_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    server_cpu_us: f64,
    postgres_cpu_us: f64,
    rows_per_transaction: f64,
}

type Results = BTreeMap<(Shape, Side), Vec<Figures>>;

struct Bench {
    stage: Stage,
    source: Arc<Source>,
    beckon: Server,
    group: Server,
    bare: Server,
    span: Span,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--peer") {
        return peers::serve(arguments.get(at + 1).map(String::as_str));
    }
    let rounds = report::argument("--rounds", 3)?;
    let measured = Duration::from_millis(report::argument("--millis", 1_500)?);
    let shapes = chosen_shapes()?;
    let machine = report::machine();
    let world = World::new(SEED);
    let mut stage = Stage::set_up(&world)?;
    stage.clear()?;
    let url = stage.url.clone();
    let mut bench = Bench {
        source: Source::new(&world),
        beckon: Server::beckon(&url)?,
        group: Server::peer(Some(&url))?,
        bare: Server::peer(None)?,
        span: Span {
            warm_up: Duration::from_millis(400),
            measured,
            requests_max: REQUESTS_MAX,
        },
        stage,
    };
    bench.visit_everybody()?;
    let matches = bench.matches()?;
    line(format_args!(
        "Durable ingest; {} people, {} campaigns, {matches:.2} matches an event, fdatasync {:.0} \
         µs; seed {SEED:#x}, median of {rounds} rounds of {measured:?}.\n",
        feed::PEOPLE,
        stage::CAMPAIGNS,
        bench.stage.sync_us,
    ));
    let mut results = Results::new();
    for round in 0..rounds {
        for shape in &shapes {
            let mut sides = SIDES;
            if round % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                let figures = bench.measure(*shape, side)?;
                results.entry((*shape, side)).or_default().push(figures);
            }
        }
    }
    print_figures(&results);
    let ratios = ratios(&results);
    print_ratios(&ratios);
    let resident = bench.beckon.resident_mib();
    line(format_args!("\nbeckon holds {resident:.0} MiB at the end"));
    let sync_us = bench.stage.sync_us;
    drop((bench.beckon, bench.group, bench.bare));
    bench.stage.stop()?;
    let document = json!({
        "bench": "ingest",
        "machine": machine,
        "fdatasync_us": sync_us,
        "seed": SEED,
        "rounds": rounds,
        "matches_per_event": matches,
        "beckon_resident_mib": resident,
        "figures": results.iter().map(figures_json).collect::<Vec<_>>(),
        "ratios": ratios.iter().map(Ratio::json).collect::<Vec<_>>(),
    });
    report::write_json("ingest", &document)
}

fn chosen_shapes() -> Outcome<Vec<Shape>> {
    let connections = report::argument("--connections", 0)?;
    let batch = report::argument("--batch", u64::MAX)?;
    let chosen: Vec<Shape> = SHAPES
        .into_iter()
        .filter(|shape| connections == 0 || shape.connections as u64 == connections)
        .filter(|shape| batch == u64::MAX || shape.batch as u64 == batch)
        .collect();
    if chosen.is_empty() {
        return Err(format!("the shapes are {SHAPES:?}").into());
    }
    Ok(chosen)
}

impl Bench {
    /// One event of each known person, so that Beckon knows them as a server does that has run for
    /// a while.
    fn visit_everybody(&mut self) -> Outcome<()> {
        let span = Span {
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(120),
            requests_max: feed::PEOPLE.div_ceil(VISIT_BATCH as u64),
        };
        let requests = feed::requests(&self.source, VISIT_BATCH);
        let feed = self.source.feed().in_turn();
        load::drive(self.beckon.address, feed, requests, 4, span).map(drop)
    }

    /// How many campaigns an answer to a single call holds on average.
    fn matches(&mut self) -> Outcome<f64> {
        let span = Span {
            warm_up: Duration::from_secs(60),
            measured: Duration::ZERO,
            requests_max: 5_000,
        };
        let requests = feed::requests(&self.source, 0);
        let feed = self.source.feed();
        let run = load::drive(self.beckon.address, feed, requests, 8, span)?;
        let (campaigns, events) = run.campaigns;
        Ok(campaigns as f64 / events as f64)
    }

    fn measure(&mut self, shape: Shape, side: Side) -> Outcome<Figures> {
        self.stage.clear()?;
        let postgres_before = self.stage.cpu_seconds();
        let server_before = self.server_cpu(side);
        let mut run = self
            .load(shape, side)
            .map_err(|error| format!("{} at {shape:?}: {error}", side.name()))?;
        let events = run.acknowledged.max(1) as f64;
        let server_cpu_us = (self.server_cpu(side) - server_before) / events * 1e6;
        let postgres_cpu_us = (self.stage.cpu_seconds() - postgres_before) / events * 1e6;
        let stored = self.stage.stored()?;
        let expected = if side == Side::Bare {
            0
        } else {
            run.acknowledged
        };
        if u64::try_from(stored.events) != Ok(expected) {
            let name = side.name();
            let text = format!(
                "{name} acknowledged {expected} and stored {}",
                stored.events
            );
            return Err(text.into());
        }
        run.latencies_us.sort_unstable();
        let quantile = |share| f64::from(quantile(&run.latencies_us, share));
        Ok(Figures {
            events_per_second: run.events as f64 / run.seconds,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            server_cpu_us,
            postgres_cpu_us,
            rows_per_transaction: stored.events as f64 / stored.transactions.max(1) as f64,
        })
    }

    fn load(&self, shape: Shape, side: Side) -> Outcome<Run> {
        let server = match side {
            Side::Beckon => &self.beckon,
            Side::Group => &self.group,
            Side::Bare => &self.bare,
            Side::Raw => {
                let connections = if shape.batch == 0 {
                    shape.connections
                } else {
                    RAW_BATCH_CONNECTIONS
                };
                let (url, rows) = (&self.stage.url, shape.batch.max(1));
                return rows::raw::drive(url, &self.source, rows, connections, self.span);
            }
        };
        let requests = feed::requests(&self.source, shape.batch);
        let feed = self.source.feed();
        load::drive(server.address, feed, requests, shape.connections, self.span)
    }

    fn server_cpu(&self, side: Side) -> f64 {
        match side {
            Side::Beckon => self.beckon.cpu_seconds(),
            Side::Group => self.group.cpu_seconds(),
            Side::Bare => self.bare.cpu_seconds(),
            Side::Raw => 0.0,
        }
    }
}

fn of(figures: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    median(&figures.iter().map(figure).collect::<Vec<_>>())
}

fn describe(shape: Shape) -> String {
    match shape.batch {
        0 => format!("single, {} connections", shape.connections),
        batch => format!("batches of {batch}, {} connections", shape.connections),
    }
}

fn print_figures(results: &Results) {
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|((shape, side), figures)| {
            let whole = |figure| format!("{:.0}", of(figures, figure));
            let millis = |figure: fn(&Figures) -> f64| format!("{:.2}", of(figures, figure) / 1e3);
            let tenths = |figure| format!("{:.1}", of(figures, figure));
            vec![
                format!("{}: {}", describe(*shape), side.name()),
                whole(|f| f.events_per_second),
                millis(|f| f.p50_us),
                millis(|f| f.p99_us),
                millis(|f| f.p999_us),
                tenths(|f| f.server_cpu_us),
                tenths(|f| f.postgres_cpu_us),
                tenths(|f| f.rows_per_transaction),
            ]
        })
        .collect();
    let headings = [
        "",
        "events/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "server µs/event",
        "postgres µs/event",
        "rows/commit",
    ];
    table(&headings, &rows);
}

fn figures_json(((shape, side), figures): (&(Shape, Side), &Vec<Figures>)) -> Value {
    let of = |figure| of(figures, figure);
    json!({
        "side": side.name(),
        "batch": shape.batch,
        "connections": shape.connections,
        "events_per_second": of(|f| f.events_per_second),
        "events_per_second_by_round":
            figures.iter().map(|f| f.events_per_second).collect::<Vec<_>>(),
        "p50_us": of(|f| f.p50_us),
        "p99_us": of(|f| f.p99_us),
        "p999_us": of(|f| f.p999_us),
        "server_cpu_us_per_event": of(|f| f.server_cpu_us),
        "postgres_cpu_us_per_event": of(|f| f.postgres_cpu_us),
        "rows_per_transaction": of(|f| f.rows_per_transaction),
    })
}

/// Beckon's events a second over another side's.
struct Ratio {
    shape: Shape,
    side: Side,
    by_round: Vec<f64>,
    budget: Option<f64>,
}

impl Ratio {
    fn json(&self) -> Value {
        json!({
            "batch": self.shape.batch,
            "connections": self.shape.connections,
            "to": self.side.name(),
            "median": median(&self.by_round),
            "by_round": self.by_round,
            "budget": self.budget,
        })
    }
}

fn ratios(results: &Results) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for ((shape, side), figures) in results {
        let Some(ours) = results.get(&(*shape, Side::Beckon)) else {
            continue;
        };
        if *side == Side::Beckon {
            continue;
        }
        let by_round = ours
            .iter()
            .zip(figures)
            .map(|(ours, theirs)| ours.events_per_second / theirs.events_per_second)
            .collect();
        let budget = BUDGETS
            .iter()
            .find(|budget| (budget.0, budget.1) == (*shape, *side))
            .map(|budget| budget.2);
        ratios.push(Ratio {
            shape: *shape,
            side: *side,
            by_round,
            budget,
        });
    }
    ratios
}

fn print_ratios(ratios: &[Ratio]) {
    line("");
    let rows: Vec<Vec<String>> = ratios
        .iter()
        .map(|ratio| {
            let lowest = ratio.by_round.iter().copied().fold(f64::MAX, f64::min);
            let highest = ratio.by_round.iter().copied().fold(f64::MIN, f64::max);
            vec![
                format!("{}: beckon / {}", describe(ratio.shape), ratio.side.name()),
                format!("{:.2}", median(&ratio.by_round)),
                format!("{lowest:.2} to {highest:.2}"),
                ratio
                    .budget
                    .map(|budget| format!("{budget:.2}"))
                    .unwrap_or_default(),
            ]
        })
        .collect();
    table(&["", "ratio", "rounds", "at least"], &rows);
}
