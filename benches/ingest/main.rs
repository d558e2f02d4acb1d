//! Durable ingest over HTTP, with everything on, beside what limits it.
//!
//! The load: 100,000 known people and one newcomer in a hundred events, 1,000 live campaigns on 50
//! triggers, on average 2 of about 1 KB in an answer. Each side runs as a process of its own on
//! loopback, on one Postgres as Beckon starts it, with fsync on; the tables are emptied before each
//! measurement. The sides of one shape of load follow each other in every round, and ratios are
//! taken within a round.
//!
//! After each measurement the rows are counted: a side that acknowledged more or less than it
//! stored ends the bench.
//!
//! `cargo bench --bench ingest -- [--rounds 3] [--millis 1500] [--connections 64] [--batch 100]
//! [--part sides] [--slow-sync] [--memory-seconds 60] [--must]`; `--connections` and `--batch` choose
//! one shape, the parts are `sides`, `half`, `fetch`, `overload`, `memory` and `campaigns`, which
//! `changes` of one among 100,000 are part of. With `--slow-sync` each `fdatasync` of Postgres takes a
//! millisecond longer, the parts are `sides` and `half`, and the shapes are single calls over 256
//! connections and batches of 100 over 16. With `--must` a goal that is missed ends it with a failure.

mod campaigns;
mod changes;
#[path = "../copy.rs"]
mod copy;
mod feed;
mod fetch;
#[path = "../goals.rs"]
mod goals;
mod load;
mod memory;
mod naive;
mod open;
mod overload;
mod pace;
mod peers;
mod ratios;
mod raw;
#[path = "../report.rs"]
mod report;
mod rows;
mod sides;
#[expect(dead_code, reason = "some of it is for the other benches")]
mod stage;
#[path = "../world.rs"]
mod world;

use std::time::Duration;

use goals::Goal;
use mimalloc::MiMalloc;
use report::{Outcome, line, median, table};
use serde_json::{Value, json};
use sides::{Bench, Figures, Shape, Side};
use world::{SEED, World};

/// The peers are this program, and have what Beckon has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
const SLOW_SHAPES: [Shape; 2] = [shape(0, 256), shape(100, 16)];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--peer") {
        let argument = |place| arguments.get(place).map_or("", String::as_str);
        return peers::serve(argument(at + 1), argument(at + 2));
    }
    report::refuse_unknown(
        &["--slow-sync"],
        &[
            "--part",
            "--connections",
            "--batch",
            "--rounds",
            "--millis",
            "--memory-seconds",
            "--folder",
        ],
    )?;
    let is_slow = report::flag("--slow-sync");
    let rounds = report::argument("--rounds", 3)?;
    let measured = Duration::from_millis(report::argument("--millis", 1_500)?);
    let memory_seconds = report::argument("--memory-seconds", 60)?;
    let shapes = chosen_shapes(if is_slow { &SLOW_SHAPES } else { &SHAPES })?;
    let part = report::word("--part")?;
    // One shape, or a slow disk, is asked for the sake of the sides.
    let is_narrow = is_slow || shapes.len() < SHAPES.len();
    let wants = |name| match part.as_deref() {
        Some(part) => part == name,
        None => name == "sides" || !is_narrow || (is_slow && name == "half"),
    };
    let machine = report::machine();
    let world = World::new(SEED);
    let mut bench = Bench::set_up(&world, measured)?;
    let (matches, naive_matches) = bench.matches()?;
    line(format_args!(
        "Durable ingest; {} people, {} campaigns, {matches:.2} matches an event ({naive_matches:.2} \
         by the naive peer), fdatasync {:.0} µs{}; seed {SEED:#x}, median of {rounds} rounds of \
         {measured:?}.\n",
        feed::PEOPLE,
        stage::CAMPAIGNS,
        bench.stage.sync_us,
        if is_slow { " and a millisecond" } else { "" },
    ));
    let mut document = json!({
        "bench": "ingest",
        "machine": machine,
        "fdatasync_us": bench.stage.sync_us,
        "slow_sync": is_slow,
        "seed": SEED,
        "rounds": rounds,
        "milliseconds": measured.as_millis() as u64,
        "people": feed::PEOPLE,
        "campaigns": stage::CAMPAIGNS,
        "matches_per_event": matches,
        "matches_per_event_naive": naive_matches,
    });
    let mut goals = Vec::new();
    if wants("sides") {
        let results = bench.measure_all(&shapes, rounds)?;
        ratios::print_figures(&results);
        let ratios = ratios::ratios(&results);
        ratios::print_ratios(&ratios);
        goals.extend(ratios.iter().filter_map(ratios::Ratio::goal));
        document["figures"] = ratios::figures_json(&results);
        document["ratios"] = ratios.iter().map(ratios::Ratio::json).collect();
    }
    if wants("half") {
        let (value, goal) = half_load(&mut bench, rounds, if is_slow { 256 } else { 64 })?;
        document["half_load"] = value;
        goals.push(goal);
    }
    if wants("fetch") {
        let (value, goal) = fetch::run(&bench, rounds)?;
        document["fetch"] = value;
        goals.push(goal);
    }
    if wants("overload") {
        let (value, more) = overload::run(&mut bench)?;
        document["overload"] = value;
        goals.extend(more);
    }
    if wants("memory") {
        let (value, more) = memory::run(&mut bench, Duration::from_secs(memory_seconds))?;
        document["memory"] = value;
        goals.extend(more);
    }
    if wants("campaigns") {
        let (value, more) = campaigns::run(&mut bench, &world, rounds)?;
        document["campaigns"] = value;
        goals.extend(more);
        let (value, more) = changes::run(&mut bench)?;
        document["changes"] = value;
        goals.extend(more);
    }
    goals::print_goals(&goals);
    let resident = bench.beckon.resident_mib();
    line(format_args!("\nbeckon holds {resident:.0} MiB at the end"));
    document["beckon_resident_mib"] = json!(resident);
    document["goals"] = goals.iter().map(Goal::json).collect();
    bench.stop()?;
    let name = if is_slow {
        "ingest-slow-sync"
    } else {
        "ingest"
    };
    report::write_json(name, &document)?;
    goals::expect_reached(&goals)
}

fn chosen_shapes(shapes: &[Shape]) -> Outcome<Vec<Shape>> {
    let connections = report::argument("--connections", 0)?;
    let batch = report::argument("--batch", u64::MAX)?;
    let chosen: Vec<Shape> = shapes
        .iter()
        .copied()
        .filter(|shape| connections == 0 || shape.connections as u64 == connections)
        .filter(|shape| batch == u64::MAX || shape.batch as u64 == batch)
        .collect();
    if chosen.is_empty() {
        return Err(format!("the shapes are {shapes:?}").into());
    }
    Ok(chosen)
}

/// The latency of single calls when so many come as are half of what each side can do over so many
/// connections, Beckon's beside that of Postgres alone.
fn half_load(bench: &mut Bench, rounds: u64, connections: usize) -> Outcome<(Value, Goal)> {
    let mut span = bench.span;
    (span.warm_up, span.measured) = (Duration::from_secs(1), Duration::from_secs(4));
    let sides = [Side::Beckon, Side::Raw];
    let mut all: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    let mut lines = Vec::new();
    for _ in 0..rounds {
        for (place, side) in sides.into_iter().enumerate() {
            let maximum = bench
                .measure(shape(0, connections), side)?
                .events_per_second;
            let figures = bench.measure_paced(side, connections, maximum / 2.0, span)?;
            all[place].push(figures);
            rates[place].push(maximum / 2.0);
            lines.push(vec![
                side.name().to_owned(),
                format!("{:.0}", maximum / 2.0),
                format!("{:.2}", figures.p50_us / 1e3),
                format!("{:.2}", figures.p99_us / 1e3),
                format!("{:.2}", figures.p999_us / 1e3),
            ]);
        }
    }
    line(format_args!(
        "\nat half load, {connections} connections, open loop\n"
    ));
    table(&["", "events/s", "p50 ms", "p99 ms", "p99.9 ms"], &lines);
    let [ours, theirs] = &all;
    let by_round: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours.p99_us / theirs.p99_us)
        .collect();
    let goal = Goal {
        rounds: ratios::range(&by_round),
        ..Goal::at_most(
            "half load: p99 of beckon / raw commits",
            median(&by_round),
            3.0,
        )
    };
    let side_json = |place: usize| {
        let by_round =
            |figure: fn(&Figures) -> f64| -> Vec<f64> { all[place].iter().map(figure).collect() };
        json!({
            "side": sides[place].name(),
            "events_per_second_by_round": rates[place],
            "p50_us_by_round": by_round(|f| f.p50_us),
            "p99_us_by_round": by_round(|f| f.p99_us),
            "p999_us_by_round": by_round(|f| f.p999_us),
        })
    };
    let value = json!({
        "connections": connections,
        "sides": [side_json(0), side_json(1)],
        "ratio_by_round": by_round,
    });
    Ok((value, goal))
}
