//! Who is measured, under which load, and how one measurement goes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::feed::{self, Source};
use crate::load::{self, Run, Span};
use crate::pace;
use crate::raw::{self, By};
use crate::report::{self, Outcome, median, quantile};
use crate::stage::{Server, Stage};
use crate::world::World;

/// Who stores, or does as if.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Beckon, everything on.
    Beckon,
    /// Beckon, asked to answer a list with each event's campaigns; otherwise it decides nothing for
    /// events of a list, since nobody would read it.
    Read,
    /// The group-commit baseline.
    Group,
    /// Postgres alone, by INSERT.
    Raw,
    /// Postgres alone, by COPY; for batches only.
    Copy,
    /// HTTP alone.
    Bare,
    /// The first plan that comes to mind; for single calls.
    Naive,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Beckon,
        Self::Read,
        Self::Group,
        Self::Raw,
        Self::Copy,
        Self::Bare,
        Self::Naive,
    ];

    /// What it is called in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Beckon => "beckon",
            Self::Read => "beckon, matched=true",
            Self::Group => "group commit",
            Self::Raw => "raw commits",
            Self::Copy => "raw COPY",
            Self::Bare => "bare handler",
            Self::Naive => "naive",
        }
    }

    /// Over how many connections the shape comes to it; of several the best counts.
    fn connections(self, shape: Shape) -> Vec<usize> {
        match (self, shape.batch) {
            (Self::Raw, RAW_BEST_BATCH) => RAW_BEST_CONNECTIONS.to_vec(),
            (Self::Raw | Self::Copy, 1..) => vec![RAW_BATCH_CONNECTIONS],
            _ => vec![shape.connections],
        }
    }

    fn takes(self, shape: Shape) -> bool {
        match self {
            Self::Copy | Self::Read => shape.batch > 0,
            Self::Naive => shape.batch == 0 && shape.connections == naive_connections(),
            _ => true,
        }
    }
}

/// Where the naive peer is to be compared.
fn naive_connections() -> usize {
    if report::flag("--slow-sync") { 256 } else { 64 }
}

/// How the load comes: over so many connections, in lists of so many events; 0 is single calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Events of a request.
    pub batch: usize,
    /// Connections.
    pub connections: usize,
}

impl Shape {
    /// The shape in words.
    pub fn describe(self) -> String {
        let connections = self.connections;
        match self.batch {
            0 => format!("single, {connections} connections"),
            batch => format!("batches of {batch}, {connections} connections"),
        }
    }
}

/// The figures of one side, shape and round.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Acknowledged while it was measured.
    pub events_per_second: f64,
    /// The median latency of a request.
    pub p50_us: f64,
    /// Its 99th percentile.
    pub p99_us: f64,
    /// Its 99.9th percentile.
    pub p999_us: f64,
    /// CPU time of the server, an event.
    pub server_cpu_us: f64,
    /// CPU time of Postgres, an event.
    pub postgres_cpu_us: f64,
    /// Rows of a transaction.
    pub rows_per_transaction: f64,
}

/// The figures of each round.
pub type Results = BTreeMap<(Shape, Side), Vec<Figures>>;

/// Raw transactions of many rows are committed by as many connections as there are cores here.
const RAW_BATCH_CONNECTIONS: usize = 2;
/// Lists of so many, which a budget is about, are compared with the best that Postgres does over
/// any of these.
const RAW_BEST_BATCH: usize = 100;
const RAW_BEST_CONNECTIONS: [usize; 2] = [RAW_BATCH_CONNECTIONS, 4];
/// The most requests of one measurement.
const REQUESTS_MAX: u64 = 2_000_000;
/// Each known person's event before the measurements, in lists of so many.
const VISIT_BATCH: usize = 250;
/// The naive peer answers too few requests for a shorter time.
const NAIVE_MIN: Duration = Duration::from_secs(3);

/// All that a run needs.
pub struct Bench {
    /// The database.
    pub stage: Stage,
    /// Where events come from.
    pub source: Arc<Source>,
    /// The server that is measured.
    pub beckon: Server,
    group: Server,
    bare: Server,
    naive: Server,
    /// How long a measurement takes.
    pub span: Span,
}

impl Bench {
    /// Starts everybody and lets Beckon meet everybody.
    pub fn set_up(world: &World, measured: Duration) -> Outcome<Self> {
        let mut stage = Stage::set_up(world)?;
        stage.clear()?;
        let url = stage.url.clone();
        let mut bench = Self {
            source: Source::new(world),
            beckon: Server::beckon(&url)?,
            group: Server::peer("group", &url)?,
            bare: Server::peer("bare", &url)?,
            naive: Server::peer("naive", &url)?,
            span: Span {
                warm_up: Duration::from_millis(400),
                measured,
                requests_max: REQUESTS_MAX,
                may_refuse: false,
            },
            stage,
        };
        bench.visit_everybody()?;
        Ok(bench)
    }

    /// Stops everybody.
    pub fn stop(self) -> Outcome<()> {
        drop((self.beckon, self.group, self.bare, self.naive));
        self.stage.stop()
    }

    /// One event of each known person, so that Beckon knows them as a server does that has run for
    /// a while.
    pub fn visit_everybody(&mut self) -> Outcome<()> {
        let span = Span {
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(120),
            requests_max: feed::PEOPLE.div_ceil(VISIT_BATCH as u64),
            ..self.span
        };
        let requests = feed::requests(&self.source, VISIT_BATCH);
        let feed = self.source.feed().in_turn();
        load::drive(self.beckon.address, feed, requests, 4, span).map(drop)
    }

    /// How many campaigns an answer to a single call holds on average, Beckon's and the naive one's.
    pub fn matches(&mut self) -> Outcome<(f64, f64)> {
        Ok((
            self.matches_of(self.beckon.address, 5_000)?,
            self.matches_of(self.naive.address, 300)?,
        ))
    }

    /// How many campaigns the answers of this server hold on average, over so many single calls.
    pub fn matches_of(&self, address: SocketAddr, calls: u64) -> Outcome<f64> {
        let span = Span {
            warm_up: Duration::from_secs(60),
            measured: Duration::ZERO,
            requests_max: calls,
            ..self.span
        };
        let requests = feed::requests(&self.source, 0);
        let run = load::drive(address, self.source.feed(), requests, 8, span)?;
        let (campaigns, events) = run.campaigns;
        Ok(campaigns as f64 / events as f64)
    }

    /// Measures the sides under the shapes in turns.
    pub fn measure_all(&mut self, shapes: &[Shape], rounds: u64) -> Outcome<Results> {
        let mut results = Results::new();
        for round in 0..rounds {
            for shape in shapes {
                let mut sides: Vec<Side> = Side::ALL
                    .into_iter()
                    .filter(|side| side.takes(*shape))
                    .collect();
                if round % 2 == 1 {
                    sides.reverse();
                }
                for side in sides {
                    let figures = self.measure(*shape, side)?;
                    results.entry((*shape, side)).or_default().push(figures);
                }
            }
        }
        Ok(results)
    }

    /// Measures one side once, or once over each number of connections that it may choose from.
    pub fn measure(&mut self, shape: Shape, side: Side) -> Outcome<Figures> {
        let mut span = self.span;
        if side == Side::Naive {
            span.measured = span.measured.max(NAIVE_MIN);
        }
        let mut best: Option<Figures> = None;
        for connections in side.connections(shape) {
            let figures = self.measured(side, |bench| {
                bench
                    .load(shape, side, connections, span)
                    .map_err(|error| format!("{} at {shape:?}: {error}", side.name()).into())
            })?;
            if best.is_none_or(|best| best.events_per_second < figures.events_per_second) {
                best = Some(figures);
            }
        }
        best.ok_or_else(|| "nothing was measured".into())
    }

    /// The most events a second that Beckon stores over so many connections: the median of three.
    pub fn maximum(&mut self, connections: usize) -> Outcome<f64> {
        let shape = Shape {
            batch: 0,
            connections,
        };
        let mut rates = Vec::new();
        for _ in 0..3 {
            rates.push(self.measure(shape, Side::Beckon)?.events_per_second);
        }
        Ok(median(&rates))
    }

    /// An open loop of so many single events a second, with exact times.
    pub fn measure_paced(
        &mut self,
        side: Side,
        connections: usize,
        per_second: f64,
        span: Span,
    ) -> Outcome<Figures> {
        self.measured(side, |bench| {
            let each = 0..connections;
            if side == Side::Raw {
                let sender = |_| pace::over_sql(&bench.stage.url, &bench.source);
                pace::drive(each.map(sender).collect::<Outcome<_>>()?, per_second, span)
            } else {
                let address = bench.beckon.address;
                // Made before there are connections, which a server does not keep for long without a
                // request.
                let requests = feed::requests(&bench.source, 0).into();
                let sender = |_| pace::over_http(address, &bench.source, &requests);
                pace::drive(each.map(sender).collect::<Outcome<_>>()?, per_second, span)
            }
        })
    }

    /// Empties the tables, lets the load come, and counts.
    pub fn measured(
        &mut self,
        side: Side,
        load: impl FnOnce(&Self) -> Outcome<Run>,
    ) -> Outcome<Figures> {
        self.stage.clear()?;
        let postgres_before = self.stage.cpu_seconds();
        let server_before = self.server_cpu(side);
        let mut run = load(self)?;
        let events = run.acknowledged.max(1) as f64;
        let server_cpu_us = (self.server_cpu(side) - server_before) / events * 1e6;
        let postgres_cpu_us = (self.stage.cpu_seconds() - postgres_before) / events * 1e6;
        let expected = match side {
            Side::Bare => 0,
            _ => run.acknowledged,
        };
        let transactions = self.expect_stored(side, expected)?;
        run.latencies_us.sort_unstable();
        let quantile = |share| f64::from(quantile(&run.latencies_us, share));
        Ok(Figures {
            events_per_second: run.events as f64 / run.seconds,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            server_cpu_us,
            postgres_cpu_us,
            rows_per_transaction: expected as f64 / transactions.max(1) as f64,
        })
    }

    /// Compares what was acknowledged with what is stored; returns how many transactions wrote it.
    pub fn expect_stored(&mut self, side: Side, acknowledged: u64) -> Outcome<i64> {
        self.stage.expect_stored(side.name(), acknowledged)
    }

    fn load(&self, shape: Shape, side: Side, connections: usize, span: Span) -> Outcome<Run> {
        let raw = |by| {
            let (url, rows) = (&self.stage.url, shape.batch.max(1));
            raw::drive(url, &self.source, by, rows, connections, span)
        };
        let server = match side {
            Side::Beckon | Side::Read => &self.beckon,
            Side::Group => &self.group,
            Side::Bare => &self.bare,
            Side::Naive => &self.naive,
            Side::Raw => return raw(By::Insert),
            Side::Copy => return raw(By::Copy),
        };
        let requests = match side {
            Side::Read => feed::requests_to(&self.source, shape.batch, "/v1/batch?matched=true"),
            _ => feed::requests(&self.source, shape.batch),
        };
        let feed = self.source.feed();
        load::drive(server.address, feed, requests, connections, span)
    }

    fn server_cpu(&self, side: Side) -> f64 {
        match side {
            Side::Beckon | Side::Read => self.beckon.cpu_seconds(),
            Side::Group => self.group.cpu_seconds(),
            Side::Bare => self.bare.cpu_seconds(),
            Side::Naive => self.naive.cpu_seconds(),
            Side::Raw | Side::Copy => 0.0,
        }
    }
}
