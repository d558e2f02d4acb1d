//! What one decision costs with 1 to 1,000,000 live campaigns, beside other ways of finding them.
//!
//! `beckon` is `Snapshot::on_event`, on facts that are parsed already. `one by one` evaluates every
//! campaign with datalogic-rs, its trigger being the first part of the rule; `trigger hash` only
//! those of the event's trigger; both convert the facts once a decision. `a-tree` has a tree for
//! each trigger and takes events that were built before. `closures` is the physical floor of trying
//! one by one: conditions as machine code over fixed attributes taken out before, by trigger;
//! `bitmaps` that of bitmaps, with one for each value of each attribute.
//!
//! All must find the same campaigns, and a decision without a match must not allocate: otherwise
//! the bench fails.
//!
//! `cargo bench --bench matching -- [--rounds 3] [--millis 150] [--full] [--largest 100000]
//! [--world typical] [--must]`; with `--full` all worlds have a million campaigns, and `a-tree` has
//! 100,000 of one trigger; with `--must` a goal that is missed ends it with a failure.

mod allocator;
mod beckon;
mod bitmaps;
#[path = "../goals.rs"]
mod goals;
mod measure;
#[expect(dead_code, reason = "some of it is for the other benches")]
#[path = "../plot.rs"]
mod plot;
#[path = "../report.rs"]
mod report;
mod rule;
mod sides;
mod tables;
#[expect(dead_code, reason = "some of it is for the other benches")]
#[path = "../world.rs"]
mod world;
mod worlds;

use std::time::{Duration, Instant};

use ::beckon::rules::FactsArena;
use beckon::{Allocations, Beckon, Built, Change};
use bitmaps::Bitmaps;
use goals::Goal;
use measure::{Figures, compare};
use report::{Outcome, line};
use serde_json::{Value, json};
use sides::{Closures, Library, Side, Trees};
use worlds::{Kinds, Pair, Source};

/// The library needs more time and memory than there is for more campaigns than this.
const LIBRARY_MAX: u64 = 100_000;
/// A tree's insertions look at all that came before, so that a tenfold takes a hundred times as
/// long.
const TREES_MAX: u64 = 100_000;
const TREES_MAX_OF_ONE_TRIGGER: u64 = 10_000;
/// The matches of all sides are compared on so many pairs, of many campaigns on fewer.
const COMPARED: usize = 64;
const COMPARED_OF_MANY: usize = 16;
/// So many campaigns are many.
const MANY: u64 = 100_000;
/// The time for measuring decisions on many is so many times as long.
const LONGER: u32 = 3;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Span {
    rounds: u64,
    budget: Duration,
    is_full: bool,
    largest: u64,
}

/// What one side did, and what it took to build it.
struct SideResult {
    name: &'static str,
    figures: Figures,
    build_seconds: f64,
    bytes_each: f64,
    left_out: usize,
}

/// Everything about one size of one world.
struct SizeResult {
    size: u64,
    sides: Vec<SideResult>,
    built: Built,
    change: Change,
    allocations: Allocations,
    beckon: Value,
    unindexed: usize,
}

impl SizeResult {
    fn side(&self, name: &str) -> Option<&SideResult> {
        self.sides.iter().find(|side| side.name == name)
    }

    fn json(&self) -> Value {
        let ours = self.side("beckon");
        let side = |side: &SideResult| {
            json!({
                "side": side.name,
                "times": side.figures.json(),
                "times_slower_than_beckon_by_round":
                    ours.map(|ours| side.figures.times_slower_than(&ours.figures)),
                "build_seconds": side.build_seconds,
                "bytes_per_campaign": side.bytes_each,
                "left_out": side.left_out,
            })
        };
        json!({
            "campaigns": self.size,
            "matches": ours.map(|ours| ours.figures.matches()),
            "sides": self.sides.iter().map(side).collect::<Vec<_>>(),
            "beckon": self.beckon,
        })
    }
}

fn main() -> Outcome<()> {
    report::refuse_unknown(
        &["--full"],
        &["--world", "--largest", "--rounds", "--millis"],
    )?;
    let begin = Instant::now();
    let span = Span {
        rounds: report::argument("--rounds", 3)?,
        budget: Duration::from_millis(report::argument("--millis", 150)?),
        is_full: report::flag("--full"),
        largest: report::argument("--largest", u64::MAX)?,
    };
    let only = report::word("--world")?;
    let machine = report::machine();
    line(format_args!(
        "One decision on parsed facts, in µs; seed {:#x}, medians of {} rounds of {:?}.",
        world::SEED,
        span.rounds,
        span.budget,
    ));
    let mut worlds = Vec::new();
    for kinds in Kinds::ALL {
        let is_wanted = match only.as_deref() {
            Some(only) => only == kinds.name(),
            None => true,
        };
        if is_wanted {
            worlds.push((kinds, measure_world(kinds, span)?));
        }
    }
    let goals: Vec<Goal> = worlds
        .iter()
        .filter(|(kinds, _)| *kinds == Kinds::Typical)
        .flat_map(|(_, sizes)| tables::goals(sizes))
        .collect();
    goals::print_goals(&goals);
    let document = json!({
        "bench": "matching",
        "machine": machine,
        "seed": world::SEED,
        "rounds": span.rounds,
        "worlds": worlds.iter().map(|(kinds, sizes)| json!({
            "world": kinds.name(),
            "sizes": sizes.iter().map(SizeResult::json).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "goals": goals.iter().map(Goal::json).collect::<Vec<_>>(),
    });
    let path = report::folder()?.join("matching.svg");
    let panels: Vec<plot::Panel> = worlds.iter().map(tables::panel).collect();
    std::fs::write(&path, plot::svg(&panels, plot::Scale::Logarithmic))?;
    line(format_args!(
        "\nthe plot is {}; {:.0} s",
        path.display(),
        begin.elapsed().as_secs_f64()
    ));
    report::write_json("matching", &document)?;
    gate(&worlds)?;
    goals::expect_reached(&goals)
}

fn measure_world(kinds: Kinds, span: Span) -> Outcome<Vec<SizeResult>> {
    let source = Source::new(kinds);
    let (pairs, strangers) = (source.pairs()?, source.strangers());
    let mut sizes = Vec::new();
    for &size in kinds.sizes(span.is_full) {
        if size <= span.largest {
            sizes.push(measure_size(&source, size, &pairs, &strangers, span)?);
        }
    }
    tables::print(kinds, &sizes);
    Ok(sizes)
}

fn measure_size(
    source: &Source,
    size: u64,
    pairs: &[Pair],
    strangers: &[Pair],
    span: Span,
) -> Outcome<SizeResult> {
    let arena = FactsArena::new();
    let facts = beckon::parse(pairs, &arena);
    let strangers = beckon::parse(strangers, &arena);
    let ours = Beckon::new(source, size, &facts)?;
    let mut others: Vec<(Box<dyn Side>, f64, f64)> = Vec::new();
    if size <= LIBRARY_MAX {
        for is_by_trigger in [false, true] {
            let build = || Library::new(source, size, is_by_trigger);
            others.push(boxed(build, size)?);
        }
    }
    let has_one_trigger = source.kinds() == Kinds::Adversarial && !span.is_full;
    let trees_max = if has_one_trigger {
        TREES_MAX_OF_ONE_TRIGGER
    } else {
        TREES_MAX
    };
    if size <= trees_max {
        let build = || {
            let mut trees = Trees::new(source, size)?;
            trees.prepare(pairs)?;
            Ok(trees)
        };
        others.push(boxed(build, size)?);
    }
    others.push(boxed(|| Closures::new(source, size), size)?);
    if size <= bitmaps_max(source.kinds()) {
        others.push(boxed(|| Bitmaps::new(source, size), size)?);
    }
    let (compared, budget) = match size {
        MANY.. => (COMPARED_OF_MANY, span.budget * LONGER),
        _ => (COMPARED, span.budget),
    };
    for (other, ..) in &others {
        compare(&ours, &**other, pairs, compared)?;
    }
    let mut figures: Vec<Figures> = Vec::new();
    figures.resize_with(others.len() + 1, Figures::default);
    let all = || std::iter::once(&ours as &dyn Side).chain(others.iter().map(|(side, ..)| &**side));
    for _ in 0..span.rounds {
        for (side, figures) in all().zip(&mut figures) {
            figures.measure(side, pairs, budget);
        }
    }
    let (allocations, change) = (ours.allocations(&strangers), ours.change(source, size)?);
    let built = *ours.built();
    let costs = std::iter::once((built.seconds, built.bytes_each()))
        .chain(others.iter().map(|(_, seconds, bytes)| (*seconds, *bytes)));
    let sides = all()
        .zip(figures)
        .zip(costs)
        .map(
            |((side, figures), (build_seconds, bytes_each))| SideResult {
                name: side.name(),
                figures,
                build_seconds,
                bytes_each,
                left_out: side.left_out(),
            },
        )
        .collect();
    Ok(SizeResult {
        size,
        sides,
        built,
        change,
        allocations,
        beckon: ours.json(&allocations, &change),
        unindexed: ours.unindexed(),
    })
}

/// Their memory grows with the square of the campaigns of a trigger.
fn bitmaps_max(kinds: Kinds) -> u64 {
    match kinds {
        Kinds::Adversarial => 10_000,
        _ => 100_000,
    }
}

/// Builds a side; also the seconds it took, with drawing the campaigns, and its bytes a campaign.
fn boxed<S: Side + 'static>(
    build: impl FnOnce() -> Outcome<S>,
    size: u64,
) -> Outcome<(Box<dyn Side>, f64, f64)> {
    let (before, start) = (allocator::live_bytes(), Instant::now());
    let side: Box<dyn Side> = Box::new(build()?);
    let seconds = start.elapsed().as_secs_f64();
    let bytes = allocator::live_bytes() - before;
    Ok((side, seconds, bytes as f64 / size as f64))
}

/// A decision without a match asks the allocator for nothing.
fn gate(worlds: &[(Kinds, Vec<SizeResult>)]) -> Outcome<()> {
    let mut failures = Vec::new();
    for (kinds, sizes) in worlds {
        for result in sizes {
            let Allocations {
                of_misses, misses, ..
            } = result.allocations;
            if of_misses > 0 {
                failures.push(format!(
                    "{} with {} campaigns: {of_misses} allocations in {misses} decisions",
                    kinds.name(),
                    result.size
                ));
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    let failures = failures.join("; ");
    Err(format!("decisions without a match must not allocate: {failures}").into())
}
