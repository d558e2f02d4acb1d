//! The ways of finding the campaigns that match.

use std::cell::RefCell;
use std::collections::HashMap;

use a_tree::{ATree, AttributeDefinition, Event};
use datalogic_rs::bumpalo::Bump;
use datalogic_rs::{DataValue, Engine, EvalInput, Logic};
use serde_json::json;

use crate::report::Outcome;
use crate::rule::{self, Closure};
use crate::world::{self, ATTRIBUTES, Kind};
use crate::worlds::{Pair, Source};

/// One way of finding the campaigns that match.
pub trait Side {
    /// Its name in the results.
    fn name(&self) -> &'static str;

    /// How many campaigns match the pair of this number.
    fn count(&self, number: usize, pair: &Pair) -> usize;

    /// Which campaigns match, in order of their numbers.
    fn find(&self, number: usize, pair: &Pair) -> Vec<u32>;

    /// Whether the side has this campaign at all.
    fn has(&self, _campaign: u32) -> bool {
        true
    }

    /// How many campaigns it cannot express, and so leaves out.
    fn left_out(&self) -> usize {
        0
    }
}

/// The rules of each trigger, with their campaigns' numbers.
type ByTrigger<T> = HashMap<String, Vec<(u32, T)>>;

/// datalogic-rs alone.
pub struct Library {
    engine: Engine,
    /// The rules of each trigger; all of them under no name where the trigger is part of the rule.
    rules: ByTrigger<Logic>,
    is_by_trigger: bool,
    found: RefCell<Vec<u32>>,
}

impl Library {
    /// Compiles the rules, for each trigger apart or all together.
    pub fn new(source: &Source, size: u64, is_by_trigger: bool) -> Outcome<Self> {
        let engine = Engine::builder().build();
        let mut rules: ByTrigger<Logic> = HashMap::new();
        for index in 0..size {
            let (trigger, condition) = source.aim(index);
            let (key, rule) = if is_by_trigger {
                (trigger, condition)
            } else {
                let is_trigger = json!({ "==": [{ "var": "event.name" }, trigger] });
                (String::new(), json!({ "and": [is_trigger, condition] }))
            };
            let rule = engine.compile(&rule).map_err(|error| error.to_string())?;
            let under = rules.entry(key).or_default();
            under.push((u32::try_from(index)?, rule));
        }
        Ok(Self {
            engine,
            rules,
            is_by_trigger,
            found: RefCell::default(),
        })
    }

    fn decide(&self, pair: &Pair, found: &mut Vec<u32>) {
        found.clear();
        let facts = Bump::new();
        let Ok(data) = (&pair.data).into_arena_value(&facts) else {
            return;
        };
        let data: &DataValue<'_> = data;
        let mut scratch = Bump::new();
        let key = if self.is_by_trigger { &*pair.event } else { "" };
        for (index, rule) in self.rules.get(key).into_iter().flatten() {
            scratch.reset();
            let holds = self.engine.evaluate(rule, data, &scratch);
            if holds.is_ok_and(|value| self.engine.truthy(value)) {
                found.push(*index);
            }
        }
    }
}

impl Side for Library {
    fn name(&self) -> &'static str {
        if self.is_by_trigger {
            "trigger hash"
        } else {
            "one by one"
        }
    }

    fn count(&self, _number: usize, pair: &Pair) -> usize {
        let mut found = self.found.borrow_mut();
        self.decide(pair, &mut found);
        found.len()
    }

    fn find(&self, number: usize, pair: &Pair) -> Vec<u32> {
        self.count(number, pair);
        self.found.borrow().clone()
    }
}

/// Each condition a closure over fixed attributes that were taken out before, by trigger.
pub struct Closures {
    rules: ByTrigger<Box<[Closure]>>,
    found: RefCell<Vec<u32>>,
}

impl Closures {
    /// Builds the closures.
    pub fn new(source: &Source, size: u64) -> Outcome<Self> {
        let mut rules: ByTrigger<Box<[Closure]>> = HashMap::new();
        for index in 0..size {
            let (trigger, condition) = source.aim(index);
            let tests = rule::tests(&condition)?;
            let closures = tests.iter().map(rule::Test::closure).collect();
            let under = rules.entry(trigger).or_default();
            under.push((u32::try_from(index)?, closures));
        }
        Ok(Self {
            rules,
            found: RefCell::default(),
        })
    }
}

impl Side for Closures {
    fn name(&self) -> &'static str {
        "closures"
    }

    fn count(&self, _number: usize, pair: &Pair) -> usize {
        let mut found = self.found.borrow_mut();
        found.clear();
        for (index, rule) in self.rules.get(&pair.event).into_iter().flatten() {
            if rule.iter().all(|test| test(&pair.record)) {
                found.push(*index);
            }
        }
        found.len()
    }

    fn find(&self, number: usize, pair: &Pair) -> Vec<u32> {
        self.count(number, pair);
        self.found.borrow().clone()
    }
}

/// An `a-tree` for each trigger. The events are built before, as its users would have to.
pub struct Trees {
    by_trigger: HashMap<String, ATree<u32>>,
    events: Vec<Option<Event>>,
    left_out: Vec<u32>,
}

impl Trees {
    /// Inserts the rules that the trees can express.
    pub fn new(source: &Source, size: u64) -> Outcome<Self> {
        let definitions: Vec<AttributeDefinition> = (0..ATTRIBUTES)
            .map(|place| {
                let name = rule::name(place);
                match world::attribute(place).1.kind {
                    Kind::Flag => AttributeDefinition::boolean(&name),
                    Kind::Text => AttributeDefinition::string(&name),
                    Kind::Number => AttributeDefinition::integer(&name),
                }
            })
            .collect();
        let mut trees = Self {
            by_trigger: HashMap::new(),
            events: Vec::new(),
            left_out: Vec::new(),
        };
        for index in 0..size {
            let (trigger, condition) = source.aim(index);
            let index = u32::try_from(index)?;
            let Some(expression) = rule::expression(&rule::tests(&condition)?) else {
                trees.left_out.push(index);
                continue;
            };
            let tree = match trees.by_trigger.entry(trigger) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    let tree = ATree::new(&definitions).map_err(|error| error.to_string())?;
                    entry.insert(tree)
                }
            };
            tree.insert(&index, &expression)
                .map_err(|error| error.to_string())?;
        }
        Ok(trees)
    }

    /// Builds the events, each for the tree of its trigger.
    pub fn prepare(&mut self, pairs: &[Pair]) -> Outcome<()> {
        self.events.clear();
        for pair in pairs {
            let event = match self.by_trigger.get(&pair.event) {
                None => None,
                Some(tree) => {
                    let mut event = tree.make_event();
                    for (place, value) in pair.record.iter().enumerate() {
                        let name = rule::name(place);
                        match world::attribute(place).1.kind {
                            Kind::Flag => event.with_boolean(&name, *value == 1)?,
                            Kind::Text => event.with_string(&name, &format!("v{value}"))?,
                            Kind::Number => event.with_integer(&name, i64::from(*value))?,
                        }
                    }
                    Some(event.build()?)
                }
            };
            self.events.push(event);
        }
        Ok(())
    }

    fn search<T>(&self, number: usize, pair: &Pair, read: impl Fn(&[&u32]) -> T) -> Option<T> {
        let tree = self.by_trigger.get(&pair.event)?;
        let report = tree.search(self.events.get(number)?.as_ref()?).ok()?;
        Some(read(report.matches()))
    }
}

impl Side for Trees {
    fn name(&self) -> &'static str {
        "a-tree"
    }

    fn count(&self, number: usize, pair: &Pair) -> usize {
        self.search(number, pair, |found| found.len())
            .unwrap_or_default()
    }

    fn find(&self, number: usize, pair: &Pair) -> Vec<u32> {
        let mut found = self.search(number, pair, |found| found.iter().map(|it| **it).collect());
        let found: &mut Vec<u32> = found.get_or_insert_default();
        found.sort_unstable();
        std::mem::take(found)
    }

    fn has(&self, campaign: u32) -> bool {
        self.left_out.binary_search(&campaign).is_err()
    }

    fn left_out(&self) -> usize {
        self.left_out.len()
    }
}
