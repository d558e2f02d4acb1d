//! The worlds of campaigns, and the pairs of a person and an event that are decided on.

use chrono::DateTime;
use serde_json::{Map, Value, json};

use beckon::matcher::CampaignRow;

use crate::report::Outcome;
use crate::rule::{self, Record};
use crate::world::{self, ATTRIBUTES, Kind, Rng, SEED, TRIGGERS, World};

/// How many pairs of a person and an event are decided on, over and over.
const PAIRS: u64 = 512;
/// How many of 1,000 campaigns an event matches on average; 50 of 100,000.
const SPARSE: f64 = 0.5;

const SIZES: [u64; 6] = [1, 100, 1_000, 10_000, 100_000, 1_000_000];

/// What campaigns there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// 50 triggers by Zipf's law, 3 or 4 conditions of 40 attributes.
    Typical,
    /// The same, with four times the matches: the world of the ingest bench.
    Dense,
    /// One trigger, and nothing but 3 or 4 ranges of 15 numbers.
    Adversarial,
    /// As typical, but every tenth rule relates attributes to each other and nothing else.
    ResidualHeavy,
}

impl Kinds {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Typical,
        Self::Dense,
        Self::Adversarial,
        Self::ResidualHeavy,
    ];

    /// Its name in the arguments and the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Typical => "typical",
            Self::Dense => "dense",
            Self::Adversarial => "adversarial",
            Self::ResidualHeavy => "residual-heavy",
        }
    }

    /// With how many campaigns it is looked at.
    pub fn sizes(self, is_full: bool) -> &'static [u64] {
        match self {
            Self::Dense => &[1_000, 100_000],
            Self::Typical => &SIZES,
            _ if is_full => &SIZES,
            _ => &SIZES[..5],
        }
    }
}

/// One world; the same seed gives the same one.
pub struct Source {
    kinds: Kinds,
    world: World,
}

/// A person and an event as they are sent.
pub struct Pair {
    pub traits: String,
    pub event: String,
    pub properties: String,
    /// The same as the evaluator alone takes it.
    pub data: Value,
    /// The same as fixed attributes.
    pub record: Record,
}

impl Source {
    /// The world of this kind.
    pub fn new(kinds: Kinds) -> Self {
        let world = match kinds {
            Kinds::Dense => World::new(SEED),
            _ => World::with_matches(SEED, SPARSE),
        };
        Self { kinds, world }
    }

    /// What campaigns there are.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// A campaign's trigger and condition.
    pub fn aim(&self, index: u64) -> (String, Value) {
        let stream = |number: u64| Rng::new(SEED, (number << 40) | index);
        match self.kinds {
            Kinds::Typical | Kinds::Dense => self.world.aim(index),
            Kinds::Adversarial => (world::trigger_name(0), ranges(&mut stream(4))),
            Kinds::ResidualHeavy if index % 10 == 9 => {
                let mut rng = stream(5);
                let trigger = self.world.trigger(&mut rng);
                (trigger, relations(self.world.match_chance, &mut rng))
            }
            Kinds::ResidualHeavy => self.world.aim(index),
        }
    }

    /// The campaign as it is stored.
    pub fn row(&self, index: u64, version: i64) -> Outcome<CampaignRow> {
        let (trigger, condition) = self.aim(index);
        Ok(CampaignRow {
            id: format!("c{index}"),
            seq: i64::try_from(index)?,
            version,
            body: world::campaign(index, &trigger, condition),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        })
    }

    /// People and events as the world has them.
    pub fn pairs(&self) -> Outcome<Vec<Pair>> {
        (0..PAIRS)
            .map(|index| {
                let (traits, event) = (self.world.traits(index), self.world.event(index));
                let name = match self.kinds {
                    Kinds::Adversarial => world::trigger_name(0),
                    _ => event.name,
                };
                pair(&traits, name, &event.properties)
            })
            .collect()
    }

    /// For each trigger somebody whom no condition wants, since every value is a text that is no
    /// number and that no condition names. There are none where conditions compute: they would not
    /// say no, but fail.
    pub fn strangers(&self) -> Vec<Pair> {
        let count = match self.kinds {
            Kinds::Adversarial => 1,
            Kinds::ResidualHeavy => 0,
            Kinds::Typical | Kinds::Dense => TRIGGERS,
        };
        let mut values = Map::new();
        for place in 0..ATTRIBUTES {
            values.insert(rule::name(place), json!("none"));
        }
        let all = Value::Object(values);
        (0..count)
            .map(|rank| Pair {
                traits: all.to_string(),
                event: world::trigger_name(rank),
                properties: all.to_string(),
                data: Value::Null,
                record: [0; ATTRIBUTES],
            })
            .collect()
    }
}

fn pair(traits: &Value, event: String, properties: &Value) -> Outcome<Pair> {
    Ok(Pair {
        record: rule::record(traits, properties)?,
        traits: traits.to_string(),
        properties: properties.to_string(),
        data: json!({
            "user": { "traits": traits },
            "event": { "name": event, "properties": properties },
        }),
        event,
    })
}

/// 3 or 4 ranges over different numbers.
fn ranges(rng: &mut Rng) -> Value {
    let numbers: Vec<usize> = (0..ATTRIBUTES)
        .filter(|place| world::attribute(*place).1.kind == Kind::Number)
        .collect();
    let count = 3 + rng.below(2) as usize;
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let place = numbers[rng.below(numbers.len() as u64) as usize];
        if !chosen.contains(&place) {
            chosen.push(place);
        }
    }
    world::conditions(chosen, SPARSE / 1_000.0, rng)
}

/// Two numbers with equally many values, one below the other, and what the sum of two others leaves
/// when it is divided.
fn relations(chance: f64, rng: &mut Rng) -> Value {
    let numbers: Vec<usize> = (0..ATTRIBUTES)
        .filter(|place| {
            let attribute = world::attribute(*place).1;
            attribute.kind == Kind::Number && attribute.values >= 1_000
        })
        .collect();
    let mut draw = || numbers[rng.below(numbers.len() as u64) as usize];
    let (left, right) = (draw(), draw());
    let (first, second) = loop {
        let (first, second) = (draw(), draw());
        let values = |place| world::attribute(place).1.values;
        if first != second && values(first) == values(second) {
            break (first, second);
        }
    };
    let divisor = (0.5 / chance).round() as u64;
    let rest = rng.below(divisor);
    let var = |place| json!({ "var": world::attribute(place).0 });
    json!({ "and": [
        { "==": [{ "%": [{ "+": [var(left), var(right)] }, divisor] }, rest] },
        { "<": [var(first), var(second)] },
    ] })
}
