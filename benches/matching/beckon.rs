//! Beckon's side: the snapshot, what it takes up, and what a change of it costs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use beckon::matcher::{Campaign, Decision, Snapshot};
use beckon::rules::{EventFacts, FactsArena, Limits, Object, UserFacts};
use beckon::segments::Segments;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::allocator;
use crate::report::{Outcome, median};
use crate::sides::Side;
use crate::worlds::{Pair, Source};

/// So many rows are drawn and then compiled at once.
const CHUNK: u64 = 5_000;
/// One campaign is changed so many times.
const CHANGES: u64 = 5;

/// A pair as `on_event` takes it.
pub struct Facts<'a> {
    event: &'a str,
    traits: Object<'a>,
    properties: Object<'a>,
}

/// The pairs' facts, parsed.
pub fn parse<'a>(pairs: &'a [Pair], arena: &'a FactsArena) -> Vec<Facts<'a>> {
    pairs
        .iter()
        .map(|pair| Facts {
            event: &pair.event,
            traits: arena.parse(&pair.traits),
            properties: arena.parse(&pair.properties),
        })
        .collect()
}

/// Beckon on one size of one world.
pub struct Beckon<'a> {
    snapshot: Snapshot,
    facts: &'a [Facts<'a>],
    arena: RefCell<FactsArena>,
    now: DateTime<Utc>,
    built: Built,
}

/// What there was to build.
#[derive(Debug, Clone, Copy, Default)]
pub struct Built {
    campaigns: f64,
    /// From rows to a snapshot, in seconds.
    pub seconds: f64,
    /// The campaigns without their JSON, in bytes.
    compiled: f64,
    /// Everything else the snapshot holds.
    index: f64,
    /// The campaigns' JSON and ids.
    bodies: f64,
}

impl Built {
    /// Bytes a campaign of index and compiled rules.
    pub fn bytes_each(&self) -> f64 {
        self.index_each() + self.compiled_each()
    }

    /// Bytes a campaign of the snapshot, without the campaigns.
    pub fn index_each(&self) -> f64 {
        self.index / self.campaigns
    }

    /// Bytes a campaign of compiled rules.
    pub fn compiled_each(&self) -> f64 {
        self.compiled / self.campaigns
    }

    /// Bytes a campaign of JSON.
    pub fn body_each(&self) -> f64 {
        self.bodies / self.campaigns
    }
}

/// What changes cost, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    pub median_ms: f64,
    pub highest_ms: f64,
}

/// What decisions ask of the allocator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocations {
    /// Of pairs with matches, calls a decision.
    pub per_hit: f64,
    /// Of pairs without, all calls together.
    pub of_misses: u64,
    /// How many pairs had no match.
    pub misses: usize,
}

impl<'a> Beckon<'a> {
    /// Compiles and indexes the campaigns. Drawing their rows is not counted.
    pub fn new(source: &Source, size: u64, facts: &'a [Facts<'a>]) -> Outcome<Self> {
        let mut took = Duration::ZERO;
        let before = allocator::live_bytes();
        let mut campaigns: Vec<Arc<Campaign>> = Vec::new();
        for first in (0..size).step_by(CHUNK as usize) {
            let rows: Outcome<Vec<_>> = (first..size.min(first + CHUNK))
                .map(|index| source.row(index, 1))
                .collect();
            let rows = rows?;
            let start = Instant::now();
            for row in &rows {
                campaigns.push(Arc::new(Campaign::compile(row, &Limits::default())?));
            }
            took += start.elapsed();
        }
        let list = size_of::<Arc<Campaign>>() * campaigns.capacity();
        let bodies: usize = campaigns
            .iter()
            .map(|campaign| campaign.json.len() + campaign.id.capacity())
            .sum();
        let compiled = allocator::live_bytes() - before - (bodies + list) as i64;
        let start = Instant::now();
        let snapshot = Snapshot::new(1, campaigns, Segments::default(), HashMap::new());
        took += start.elapsed();
        let held = allocator::live_bytes() - before;
        let built = Built {
            campaigns: size as f64,
            seconds: took.as_secs_f64(),
            compiled: compiled as f64,
            index: (held - compiled - bodies as i64) as f64,
            bodies: bodies as f64,
        };
        Ok(Self {
            snapshot,
            facts,
            arena: RefCell::default(),
            now: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            built,
        })
    }

    /// What there was to build.
    pub fn built(&self) -> &Built {
        &self.built
    }

    /// How many campaigns have conditions that the index cannot use.
    pub fn unindexed(&self) -> usize {
        self.snapshot.unindexed()
    }

    fn with<T>(&self, facts: &Facts<'_>, read: impl Fn(Decision) -> T) -> T {
        let mut arena = self.arena.borrow_mut();
        arena.reset();
        let user = UserFacts {
            id: "somebody",
            traits: facts.traits,
            created_at: self.now,
            last_seen_at: self.now,
        };
        let event = EventFacts {
            name: facts.event,
            properties: facts.properties,
            context: Object::NULL,
            timestamp: self.now,
        };
        read(self.snapshot.on_event(user, event, self.now, &arena))
    }

    /// How many campaigns match.
    pub fn decide(&self, facts: &Facts<'_>) -> usize {
        self.with(facts, |decision| decision.matched.len())
    }

    /// Counts what decisions ask of the allocator once the arena has its size.
    pub fn allocations(&self, strangers: &[Facts<'_>]) -> Allocations {
        let all = || self.facts.iter().chain(strangers);
        for facts in all().chain(all()) {
            self.decide(facts);
        }
        let mut counted = Allocations::default();
        let (mut hits, mut of_hits) = (0, 0);
        for facts in all() {
            let before = allocator::calls();
            let matches = self.decide(facts);
            let calls = allocator::calls() - before;
            if matches == 0 {
                counted.misses += 1;
                counted.of_misses += calls;
            } else {
                hits += 1;
                of_hits += calls;
            }
        }
        counted.per_hit = of_hits as f64 / f64::from(hits.max(1));
        counted
    }

    /// Changes one campaign, as saving it does but for the database: it is compiled, and a snapshot
    /// follows this one.
    pub fn change(&self, source: &Source, size: u64) -> Outcome<Change> {
        let mut all = Vec::new();
        for change in 0..CHANGES {
            let changed = (size - 1) * change / (CHANGES - 1);
            let mut row = source.row(changed, 2)?;
            let other = source.row(size + change, 2)?.body;
            row.body.extend(other);
            let start = Instant::now();
            let came = Arc::new(Campaign::compile(&row, &Limits::default())?);
            let ids = [row.id.clone()];
            let none = Segments::default();
            let next = self
                .snapshot
                .changed(2, &ids, vec![came], none, HashMap::new());
            all.push(start.elapsed().as_secs_f64() * 1e3);
            if next.campaigns().len() as u64 != size {
                return Err("a change lost a campaign".into());
            }
        }
        Ok(Change {
            median_ms: median(&all),
            highest_ms: all.iter().copied().fold(0.0, f64::max),
        })
    }

    /// The figures that only Beckon has.
    pub fn json(&self, allocations: &Allocations, change: &Change) -> Value {
        json!({
            "build_seconds": self.built.seconds,
            "bytes_per_campaign": self.built.bytes_each(),
            "index_bytes_per_campaign": self.built.index_each(),
            "index_bytes_by_its_own_count":
                self.snapshot.index_bytes() as f64 / self.built.campaigns,
            "compiled_bytes_per_campaign": self.built.compiled_each(),
            "body_bytes_per_campaign": self.built.body_each(),
            "unindexed": self.unindexed(),
            "change_median_ms": change.median_ms,
            "change_highest_ms": change.highest_ms,
            "allocations_per_hit": allocations.per_hit,
            "allocations_of_misses": allocations.of_misses,
            "misses": allocations.misses,
        })
    }
}

impl Side for Beckon<'_> {
    fn name(&self) -> &'static str {
        "beckon"
    }

    fn count(&self, number: usize, _pair: &Pair) -> usize {
        self.facts.get(number).map_or(0, |facts| self.decide(facts))
    }

    fn find(&self, number: usize, _pair: &Pair) -> Vec<u32> {
        let Some(facts) = self.facts.get(number) else {
            return Vec::new();
        };
        let number = |campaign: &Arc<Campaign>| campaign.id.get(1..)?.parse().ok();
        let mut found: Vec<u32> = self.with(facts, |decision| {
            decision.matched.iter().filter_map(number).collect()
        });
        found.sort_unstable();
        found
    }
}
