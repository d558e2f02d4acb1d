//! What one decision costs with 1 to 100,000 live campaigns, beside the evaluator alone.
//!
//! `beckon` is `Snapshot::on_event`, on facts that are parsed already.
//! `one by one` evaluates every campaign with datalogic-rs, its trigger being the first part of the
//! rule; the facts are converted once a decision, as in Beckon. Parsing the event is in neither.
//! Both decide on the same people and events, and must find the same number of matches.
//!
//! `cargo bench --bench matching -- [--rounds 3] [--millis 300]`

#[expect(dead_code, reason = "the other benches have arguments")]
mod report;
mod world;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use beckon::matcher::{Campaign, CampaignRow, Snapshot};
use beckon::rules::Limits;
use beckon::rules::{EventFacts, FactsArena, Object, UserFacts};
use beckon::segments::Segments;
use chrono::{DateTime, TimeDelta, Utc};
use datalogic_rs::bumpalo::Bump;
use datalogic_rs::{DataValue, Engine, EvalInput, Logic};
use report::{Outcome, line, median, quantile, table};
use serde_json::{Value, json};
use world::{SEED, World};

const SIZES: [u64; 5] = [1, 100, 1_000, 10_000, 100_000];
/// How many pairs of a person and an event are decided on, over and over.
const PAIRS: u64 = 512;
/// The matches of both are compared on so many pairs.
const COMPARED: usize = 64;

struct Pair<'a> {
    traits: Object<'a>,
    event: String,
    properties: Object<'a>,
    /// The same as the evaluator alone takes it.
    data: Value,
}

struct Bench<'a> {
    pairs: Vec<Pair<'a>>,
    /// What a decision builds, beyond the facts.
    arena: RefCell<FactsArena>,
    now: DateTime<Utc>,
    engine: Engine,
}

/// What one of the two did in one round.
struct Measured {
    mean_ns: f64,
    p50_ns: f64,
    p99_ns: f64,
    matches: f64,
}

fn main() -> Outcome<()> {
    let rounds = report::argument("--rounds", 3)?;
    let budget = Duration::from_millis(report::argument("--millis", 300)?);
    let world = World::new(SEED);
    let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let facts = FactsArena::new();
    let texts: Vec<_> = (0..PAIRS).map(|index| texts(&world, index)).collect();
    let bench = Bench {
        pairs: texts.iter().map(|texts| pair(texts, &facts)).collect(),
        arena: RefCell::default(),
        now,
        engine: Engine::builder().build(),
    };
    line(format_args!(
        "One decision, ns; {} triggers by Zipf's law, 3 to 4 conditions of 40 attributes; seed \
         {SEED:#x}, median of {rounds} rounds.",
        world::TRIGGERS,
    ));
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    for size in SIZES {
        let snapshot = snapshot(&world, size, now)?;
        let rules = rules(&world, size, &bench.engine)?;
        bench.compare(&snapshot, &rules)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(bench.run(budget, |pair| bench.on_event(&snapshot, pair)));
            theirs.push(bench.run(budget, |pair| bench.one_by_one(&rules, pair)));
        }
        let of = |all: &[Measured], figure: fn(&Measured) -> f64| {
            median(&all.iter().map(figure).collect::<Vec<_>>())
        };
        let ratios: Vec<f64> = ours
            .iter()
            .zip(&theirs)
            .map(|(ours, theirs)| theirs.mean_ns / ours.mean_ns)
            .collect();
        let figures = |all: &[Measured]| {
            json!({
                "mean_ns": of(all, |m| m.mean_ns),
                "p50_ns": of(all, |m| m.p50_ns),
                "p99_ns": of(all, |m| m.p99_ns),
            })
        };
        let matches = of(&ours, |m| m.matches);
        rows.push(vec![
            size.to_string(),
            format!("{matches:.2}"),
            format!("{:.0}", of(&ours, |m| m.mean_ns)),
            format!("{:.0}", of(&ours, |m| m.p50_ns)),
            format!("{:.0}", of(&ours, |m| m.p99_ns)),
            format!("{:.0}", of(&theirs, |m| m.mean_ns)),
            format!("{:.0}", of(&theirs, |m| m.p99_ns)),
            format!("{:.1}", median(&ratios)),
        ]);
        sizes.push(json!({
            "campaigns": size,
            "matches": matches,
            "beckon": figures(&ours),
            "one_by_one": figures(&theirs),
            "times_faster": median(&ratios),
        }));
    }
    let headings = [
        "campaigns",
        "matches",
        "beckon mean",
        "p50",
        "p99",
        "one by one mean",
        "p99",
        "times faster",
    ];
    table(&headings, &rows);
    let results = json!({
        "bench": "matching",
        "machine": report::machine(),
        "seed": SEED,
        "rounds": rounds,
        "sizes": sizes,
    });
    report::write_json("matching", &results)
}

/// A person's traits and an event as they are sent.
struct Texts {
    traits: String,
    event: String,
    properties: String,
    data: Value,
}

fn texts(world: &World, index: u64) -> Texts {
    let (traits, event) = (world.traits(index), world.event(index));
    Texts {
        traits: traits.to_string(),
        properties: event.properties.to_string(),
        data: json!({
            "user": { "traits": traits },
            "event": { "name": event.name, "properties": event.properties },
        }),
        event: event.name,
    }
}

fn pair<'a>(texts: &'a Texts, facts: &'a FactsArena) -> Pair<'a> {
    Pair {
        traits: facts.parse(&texts.traits),
        event: texts.event.clone(),
        properties: facts.parse(&texts.properties),
        data: texts.data.clone(),
    }
}

fn snapshot(world: &World, size: u64, now: DateTime<Utc>) -> Outcome<Snapshot> {
    let mut campaigns = Vec::new();
    for index in 0..size {
        let row = CampaignRow {
            id: format!("c{index}"),
            seq: i64::try_from(index)?,
            version: 1,
            body: world.campaign(index),
            created_at: now,
            updated_at: None,
        };
        campaigns.push(Arc::new(Campaign::compile(&row, &Limits::default())?));
    }
    let segments = Segments::new(Vec::new());
    Ok(Snapshot::new(1, campaigns, segments, HashMap::new()))
}

fn rules(world: &World, size: u64, engine: &Engine) -> Outcome<Vec<Logic>> {
    let compile = |index| {
        let (trigger, condition) = world.aim(index);
        let is_trigger = json!({ "==": [{ "var": "event.name" }, trigger] });
        let rule = json!({ "and": [is_trigger, condition] });
        engine
            .compile(&rule)
            .map_err(|error| error.to_string().into())
    };
    (0..size).map(compile).collect()
}

impl Bench<'_> {
    fn on_event(&self, snapshot: &Snapshot, pair: &Pair<'_>) -> usize {
        let mut arena = self.arena.borrow_mut();
        arena.reset();
        let subject = UserFacts {
            id: "somebody",
            traits: pair.traits,
            created_at: self.now,
            last_seen_at: self.now,
        };
        let event = EventFacts {
            name: &pair.event,
            properties: pair.properties,
            context: Object::NULL,
            timestamp: self.now,
        };
        snapshot
            .on_event(subject, event, self.now, &arena)
            .matched
            .len()
    }

    fn one_by_one(&self, rules: &[Logic], pair: &Pair<'_>) -> usize {
        let facts = Bump::new();
        let Ok(data) = (&pair.data).into_arena_value(&facts) else {
            return 0;
        };
        let data: &DataValue<'_> = data;
        let mut scratch = Bump::new();
        let mut matches = 0;
        for rule in rules {
            scratch.reset();
            let holds = self.engine.evaluate(rule, data, &scratch);
            matches += usize::from(holds.is_ok_and(|value| self.engine.truthy(value)));
        }
        matches
    }

    /// A comparison of two things that do not find the same says nothing.
    fn compare(&self, snapshot: &Snapshot, rules: &[Logic]) -> Outcome<()> {
        for pair in self.pairs.iter().take(COMPARED) {
            let (ours, theirs) = (self.on_event(snapshot, pair), self.one_by_one(rules, pair));
            if ours != theirs {
                let text = format!("beckon finds {ours} matches, one by one {theirs}");
                return Err(text.into());
            }
        }
        Ok(())
    }

    fn run(&self, budget: Duration, decide: impl Fn(&Pair<'_>) -> usize) -> Measured {
        for pair in self.pairs.iter().take(COMPARED) {
            std::hint::black_box(decide(pair));
        }
        let (mut times, mut matches) = (Vec::new(), 0);
        let start = Instant::now();
        'full: loop {
            for pair in &self.pairs {
                let begun = Instant::now();
                matches += std::hint::black_box(decide(pair));
                times.push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX));
                if start.elapsed() >= budget {
                    break 'full;
                }
            }
        }
        let count = times.len() as f64;
        let mean_ns = times.iter().map(|time| f64::from(*time)).sum::<f64>() / count;
        times.sort_unstable();
        Measured {
            mean_ns,
            p50_ns: f64::from(quantile(&times, 0.5)),
            p99_ns: f64::from(quantile(&times, 0.99)),
            matches: matches as f64 / count,
        }
    }
}
