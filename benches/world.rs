//! The seeded world that every bench works on: people with traits, events with properties, and
//! campaigns that aim at them.
//!
//! There are 40 attributes, 30 traits of a person and 10 properties of an event: texts, numbers
//! and flags with 2 to 100,000 values, all drawn evenly. There are 50 triggers, drawn by Zipf's
//! law both for events and for campaigns, so a common event meets many campaigns. A campaign has 3
//! or 4 conditions over different attributes. How strict they are follows from one figure, how
//! many of 1,000 campaigns an event matches on average; a world of more campaigns matches more.
//!
//! The same seed gives the same world, whatever part of it is asked for first.

use serde_json::{Map, Value, json};

/// Every bench starts from this.
pub const SEED: u64 = 0x0bec_c04e_5eed;
/// How many event names there are.
pub const TRIGGERS: usize = 50;
/// How many of 1,000 campaigns an event matches on average.
pub const MATCHES_PER_THOUSAND: f64 = 2.0;
/// About how many bytes a campaign has as JSON.
const CAMPAIGN_BYTES: usize = 1_000;

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each pair of numbers.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed.0 = mixed.next();
        mixed
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below the bound, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.next() >> 11) as f64 / STEPS
    }
}

/// What an attribute's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `false` or `true`.
    Flag,
    /// `"v0"`, `"v1"` and so on.
    Text,
    /// Whole numbers from 0.
    Number,
}

/// A trait or a property.
#[derive(Debug, Clone, Copy)]
pub struct Attribute {
    /// What its values are.
    pub kind: Kind,
    /// How many there are.
    pub values: u64,
}

const fn text(values: u64) -> Attribute {
    Attribute {
        kind: Kind::Text,
        values,
    }
}

const fn number(values: u64) -> Attribute {
    Attribute {
        kind: Kind::Number,
        values,
    }
}

const FLAG: Attribute = Attribute {
    kind: Kind::Flag,
    values: 2,
};

const TRAITS: [Attribute; 30] = [
    FLAG,
    FLAG,
    FLAG,
    FLAG,
    text(2),
    text(3),
    text(4),
    text(5),
    text(6),
    text(8),
    text(10),
    text(12),
    text(20),
    text(30),
    text(50),
    text(100),
    text(1_000),
    text(10_000),
    text(100_000),
    number(5),
    number(10),
    number(50),
    number(100),
    number(100),
    number(365),
    number(1_000),
    number(1_000),
    number(10_000),
    number(10_000),
    number(100_000),
];

const PROPERTIES: [Attribute; 10] = [
    FLAG,
    text(3),
    text(8),
    text(20),
    text(200),
    text(5_000),
    number(10),
    number(100),
    number(1_000),
    number(50_000),
];

/// How many attributes there are.
pub const ATTRIBUTES: usize = TRAITS.len() + PROPERTIES.len();

/// Texts with more values than this are only ever excluded by a condition, since almost nobody has
/// any one of them.
const LISTED_VALUES_MAX: u64 = 50;

/// What happened, without who did it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The event's name, which is a trigger.
    pub name: String,
    /// A JSON object.
    pub properties: Value,
}

/// The source of people, events and campaigns.
#[derive(Debug)]
pub struct World {
    seed: u64,
    /// The chance of a trigger or one before it.
    up_to_trigger: Vec<f64>,
    /// The chance that a campaign whose trigger an event is matches it.
    pub match_chance: f64,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        Self::with_matches(seed, MATCHES_PER_THOUSAND)
    }

    /// The world of a seed in which an event matches so many of 1,000 campaigns on average.
    pub fn with_matches(seed: u64, per_thousand: f64) -> Self {
        let weights: Vec<f64> = (1..=TRIGGERS).map(|rank| 1.0 / rank as f64).collect();
        let sum: f64 = weights.iter().sum();
        let meeting: f64 = weights.iter().map(|weight| (weight / sum).powi(2)).sum();
        let up_to_trigger = weights
            .iter()
            .scan(0.0, |reached, weight| {
                *reached += weight / sum;
                Some(*reached)
            })
            .collect();
        Self {
            seed,
            up_to_trigger,
            match_chance: per_thousand / (1_000.0 * meeting),
        }
    }

    /// A person's traits.
    pub fn traits(&self, person: u64) -> Value {
        let mut rng = Rng::new(self.seed, (1 << 40) | person);
        Value::Object(draw("a", &TRAITS, &mut rng))
    }

    /// An event; the same number gives the same one.
    pub fn event(&self, index: u64) -> Event {
        let mut rng = Rng::new(self.seed, (2 << 40) | index);
        Event {
            name: self.trigger(&mut rng),
            properties: Value::Object(draw("p", &PROPERTIES, &mut rng)),
        }
    }

    /// A campaign's trigger and condition.
    pub fn aim(&self, index: u64) -> (String, Value) {
        let mut rng = Rng::new(self.seed, (3 << 40) | index);
        let trigger = self.trigger(&mut rng);
        (trigger, self.condition(&mut rng))
    }

    /// A whole campaign, as an admin would write it.
    pub fn campaign(&self, index: u64) -> Map<String, Value> {
        let (trigger, targeting) = self.aim(index);
        campaign(index, &trigger, targeting)
    }

    /// An event's name.
    pub fn trigger(&self, rng: &mut Rng) -> String {
        let point = rng.unit();
        let rank = self
            .up_to_trigger
            .partition_point(|reached| *reached < point);
        trigger_name(rank.min(TRIGGERS - 1))
    }

    fn condition(&self, rng: &mut Rng) -> Value {
        let count = 3 + rng.below(2);
        let mut chosen: Vec<usize> = Vec::new();
        while (chosen.len() as u64) < count {
            let place = rng.below(ATTRIBUTES as u64) as usize;
            // The first one can be made as strict as is wanted.
            let fits = !chosen.is_empty() || attribute(place).1.kind == Kind::Number;
            if fits && !chosen.contains(&place) {
                chosen.push(place);
            }
        }
        conditions(chosen, self.match_chance, rng)
    }
}

/// The event name of this rank, from 0.
pub fn trigger_name(rank: usize) -> String {
    format!("trigger_{rank:02}")
}

/// A whole campaign, as an admin would write it.
pub fn campaign(index: u64, trigger: &str, targeting: Value) -> Map<String, Value> {
    let mut campaign = Map::new();
    campaign.insert("name".to_owned(), json!(format!("campaign {index}")));
    campaign.insert("status".to_owned(), json!("active"));
    campaign.insert("type".to_owned(), json!("modal"));
    campaign.insert("trigger".to_owned(), json!(trigger));
    campaign.insert("priority".to_owned(), json!(index % 100));
    campaign.insert("targeting".to_owned(), targeting);
    let bare = Value::Object(campaign.clone()).to_string().len();
    // The id, the time of creation and the names of the members below take some 150 bytes.
    let filler = "Lorem ipsum. ".repeat(CAMPAIGN_BYTES / 13);
    let length = CAMPAIGN_BYTES.saturating_sub(bare + 150);
    let config = json!({"title": "A title", "body": filler.get(..length)});
    campaign.insert("config".to_owned(), config);
    campaign
}

/// One condition for each of the chosen attributes; all together hold with about this chance.
pub fn conditions(mut chosen: Vec<usize>, mut chance: f64, rng: &mut Rng) -> Value {
    // The coarse ones come first, and the finer ones make up for them.
    chosen.sort_by_key(|&place| {
        let attribute = attribute(place).1;
        (attribute.kind == Kind::Number, attribute.values)
    });
    let mut parts = Vec::new();
    for (done, place) in chosen.iter().enumerate() {
        let left = (chosen.len() - done) as f64;
        let (path, attribute) = attribute(*place);
        let (part, share) = one_condition(&path, attribute, chance.powf(1.0 / left), rng);
        chance = (chance / share).min(1.0);
        parts.push(part);
    }
    json!({ "and": parts })
}

/// Where an attribute is found, and what it is.
pub fn attribute(place: usize) -> (String, Attribute) {
    match TRAITS.get(place) {
        Some(attribute) => (format!("user.traits.a{place:02}"), *attribute),
        None => {
            let place = (place - TRAITS.len()) % PROPERTIES.len();
            (format!("event.properties.p{place:02}"), PROPERTIES[place])
        }
    }
}

fn draw(prefix: &str, attributes: &[Attribute], rng: &mut Rng) -> Map<String, Value> {
    attributes
        .iter()
        .enumerate()
        .map(|(place, attribute)| {
            let drawn = rng.below(attribute.values);
            let value = match attribute.kind {
                Kind::Flag => json!(drawn == 1),
                Kind::Text => json!(format!("v{drawn}")),
                Kind::Number => json!(drawn),
            };
            (format!("{prefix}{place:02}"), value)
        })
        .collect()
}

/// A condition that holds for about the wanted share of values, and for which share it does.
fn one_condition(path: &str, attribute: Attribute, wanted: f64, rng: &mut Rng) -> (Value, f64) {
    let var = json!({ "var": path });
    let values = attribute.values;
    let first = rng.below(values);
    match attribute.kind {
        Kind::Flag => (json!({ "==": [var, first == 1] }), 0.5),
        Kind::Text if values > LISTED_VALUES_MAX => (
            json!({ "!=": [var, format!("v{first}")] }),
            1.0 - 1.0 / values as f64,
        ),
        Kind::Text => {
            let count = ((wanted * values as f64).round() as u64).clamp(1, values - 1);
            let listed: Vec<String> = (0..count)
                .map(|step| format!("v{}", (first + step) % values))
                .collect();
            let part = match listed.as_slice() {
                [only] => json!({ "==": [var, only] }),
                _ => json!({ "in": [var, listed] }),
            };
            (part, count as f64 / values as f64)
        }
        Kind::Number => {
            let count = ((wanted * values as f64).round() as u64).clamp(1, values);
            let part = match rng.below(3) {
                0 => json!({ ">=": [var, values - count] }),
                1 => json!({ "<": [var, count] }),
                _ => {
                    let low = rng.below(values - count + 1);
                    json!({ "<=": [low, var, low + count - 1] })
                }
            };
            (part, count as f64 / values as f64)
        }
    }
}
