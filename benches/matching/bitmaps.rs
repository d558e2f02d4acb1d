//! Bitmaps over fixed attributes: for each trigger, attribute and class of values that no condition
//! tells apart, the campaigns that the values allow. A decision is one `and` for each attribute.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use crate::report::Outcome;
use crate::rule::{self, Closure, Test};
use crate::sides::Side;
use crate::world::ATTRIBUTES;
use crate::worlds::{Pair, Source};

/// All triggers' bitmaps.
pub struct Bitmaps {
    by_trigger: HashMap<String, Trigger>,
    found: RefCell<Vec<u32>>,
    left: RefCell<Vec<u64>>,
}

#[derive(Default)]
struct Trigger {
    campaigns: Vec<u32>,
    tests: Vec<Vec<Test>>,
    attributes: Vec<Attribute>,
    /// Tests of several attributes, by the campaign's place.
    relations: HashMap<usize, Vec<Closure>>,
}

struct Attribute {
    at: usize,
    /// The first value of each class.
    starts: Vec<u32>,
    /// The classes' bitmaps, one after another.
    rows: Vec<u64>,
}

impl Bitmaps {
    /// Builds the bitmaps.
    pub fn new(source: &Source, size: u64) -> Outcome<Self> {
        let mut by_trigger: HashMap<String, Trigger> = HashMap::new();
        for index in 0..size {
            let (trigger, condition) = source.aim(index);
            let trigger = by_trigger.entry(trigger).or_default();
            trigger.campaigns.push(u32::try_from(index)?);
            trigger.tests.push(rule::tests(&condition)?);
        }
        by_trigger.values_mut().for_each(Trigger::build);
        Ok(Self {
            by_trigger,
            found: RefCell::default(),
            left: RefCell::default(),
        })
    }
}

impl Trigger {
    fn build(&mut self) {
        let tests = std::mem::take(&mut self.tests);
        let words = tests.len().div_ceil(64);
        let mut by_attribute: Vec<Vec<(usize, Test)>> = vec![Vec::new(); ATTRIBUTES];
        for (place, tests) in tests.into_iter().enumerate() {
            for test in tests {
                match test.single() {
                    Some((at, _)) => by_attribute[at].push((place, test)),
                    None => {
                        let relations = self.relations.entry(place).or_default();
                        relations.push(test.closure());
                    }
                }
            }
        }
        for (at, tests) in by_attribute.into_iter().enumerate() {
            if tests.is_empty() {
                continue;
            }
            let changes = tests.iter().filter_map(|(_, test)| Some(test.single()?.1));
            let starts: BTreeSet<u32> = changes.flatten().chain([0]).collect();
            let mut rows = vec![u64::MAX; starts.len() * words];
            for (place, test) in tests {
                let test = test.closure();
                for (row, start) in rows.chunks_exact_mut(words).zip(&starts) {
                    let mut record = [0; ATTRIBUTES];
                    record[at] = *start;
                    if !test(&record) {
                        row[place / 64] &= !(1 << (place % 64));
                    }
                }
            }
            self.attributes.push(Attribute {
                at,
                starts: starts.into_iter().collect(),
                rows,
            });
        }
    }
}

impl Side for Bitmaps {
    fn name(&self) -> &'static str {
        "bitmaps"
    }

    fn count(&self, _number: usize, pair: &Pair) -> usize {
        let (mut found, mut left) = (self.found.borrow_mut(), self.left.borrow_mut());
        found.clear();
        let Some(trigger) = self.by_trigger.get(&pair.event) else {
            return 0;
        };
        let words = trigger.campaigns.len().div_ceil(64);
        left.clear();
        left.resize(words, u64::MAX);
        for attribute in &trigger.attributes {
            let value = pair.record[attribute.at];
            let class = attribute.starts.partition_point(|start| *start <= value) - 1;
            let row = &attribute.rows[class * words..][..words];
            left.iter_mut()
                .zip(row)
                .for_each(|(left, row)| *left &= row);
        }
        for (position, word) in left.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let place = position * 64 + word.trailing_zeros() as usize;
                word &= word - 1;
                // The last word is longer than the list.
                let Some(campaign) = trigger.campaigns.get(place) else {
                    break;
                };
                let mut relations = trigger.relations.get(&place).into_iter().flatten();
                if relations.all(|test| test(&pair.record)) {
                    found.push(*campaign);
                }
            }
        }
        found.len()
    }

    fn find(&self, number: usize, pair: &Pair) -> Vec<u32> {
        self.count(number, pair);
        self.found.borrow().clone()
    }
}
