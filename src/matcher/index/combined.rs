//! Attributes with few outcomes, several of them taken as one.
//!
//! Whatever the value of a flag is, or of a text out of a handful, it rules out one of a few sets of
//! campaigns. For some such attributes together a block keeps who is ruled out for each combination of
//! their outcomes, so that one set is taken out of those left instead of one for each attribute.

use std::collections::HashMap;

use datalogic_rs::DataValue;
use foldhash::fast::RandomState;

use super::sets::{Members, Place, Sets, flip, insert, offset, touch};
use super::texts::{Table, Tables};
use crate::rules::FactsArena;
use crate::rules::native::{Attribute, Class, Cut, Domain, Lookup};

/// An attribute and who asks about it, in rising order.
pub(super) type Asking<'c> = (&'c Attribute, Vec<(Place, Domain<'c>)>);

/// Groups of attributes that are taken as one.
#[derive(Debug, Default)]
pub(super) struct Combined {
    groups: Vec<Group>,
    /// Those of the first group, then those of the next, and so on.
    members: Vec<Member>,
    texts: Tables<u32>,
    /// Where on the number line the outcome changes, for one member after the other.
    cuts: Vec<Cut>,
    /// Of each member the step of the numbers before its first cut, and of those after each.
    between: Vec<u32>,
}

#[derive(Debug)]
struct Group {
    members: u32,
    /// Where the set of the first combination begins; the others follow.
    rows: u32,
}

/// An attribute of a group. Its outcomes are kept as steps: those of all members together are the number of
/// the combination.
#[derive(Debug)]
struct Member {
    by_class: [u32; 5],
    by_other_text: u32,
    texts: Table,
    /// How many cuts there are, and where they and what is between them begin.
    count: u32,
    cuts: u32,
    between: u32,
}

/// An attribute that more texts are listed of, or whose conditions begin and cease to hold at more numbers,
/// is not looked at.
const LISTED_MAX: usize = 32;

/// An attribute with more outcomes is not combined.
const OUTCOMES_MAX: usize = 16;

/// How many combinations a group has at most.
const COMBINATIONS_MAX: usize = 256;

/// How long the sets of a group are at most, all together, in words for each condition on its attributes.
const WORDS_A_CONDITION: usize = 8;

impl Combined {
    /// Combines attributes where that is worth it, in a block of so many words. Also returns the attributes
    /// that are combined, in the order in which their values are asked for, and the others.
    pub(super) fn new<'c>(
        asking: Vec<Asking<'c>>,
        words: usize,
        sets: &mut Sets,
    ) -> (Combined, Vec<&'c Attribute>, Vec<Asking<'c>>) {
        let mut others = Vec::new();
        let mut few = Vec::new();
        for asking in asking {
            match Outcomes::of(&asking.1, words) {
                Some(outcomes) => few.push((outcomes, asking)),
                None => others.push(asking),
            }
        }
        // Those with the fewest first, so that most are combined.
        few.sort_by_key(|(outcomes, _)| outcomes.rows.len());
        let mut combined = Combined::default();
        let mut which = Vec::new();
        let mut few = few.into_iter().peekable();
        while few.peek().is_some() {
            let (mut combinations, mut conditions) = (1, 0);
            let mut group = Vec::new();
            while let Some(next) = few.next_if(|(outcomes, (_, asking))| {
                combinations *= outcomes.rows.len();
                conditions += asking.len();
                let is_small = combinations <= COMBINATIONS_MAX
                    && combinations * words <= WORDS_A_CONDITION * conditions;
                group.is_empty() || is_small
            }) {
                group.push(next);
            }
            if let [_, _, ..] = group.as_slice() {
                combined.add(group.iter().map(|(outcomes, _)| outcomes), words, sets);
                which.extend(group.iter().map(|(_, (attribute, _))| *attribute));
            } else {
                others.extend(group.into_iter().map(|(_, asking)| asking));
            }
        }
        (combined, which, others)
    }

    fn add<'o, 'c: 'o>(
        &mut self,
        group: impl Iterator<Item = &'o Outcomes<'c>>,
        words: usize,
        sets: &mut Sets,
    ) {
        let before = self.members.len();
        let mut rows = vec![0; words];
        let mut combinations = 1;
        for outcomes in group {
            let step = |outcome: usize| offset(outcome * combinations);
            let texts = outcomes.texts.iter();
            let texts: Vec<_> = texts.map(|(text, out)| (*text, step(*out))).collect();
            self.members.push(Member {
                by_class: outcomes.by_class.map(step),
                by_other_text: step(outcomes.by_other_text),
                texts: self.texts.add(&texts),
                count: offset(outcomes.cuts.len()),
                cuts: offset(self.cuts.len()),
                between: offset(self.between.len()),
            });
            self.cuts.extend(&outcomes.cuts);
            self.between
                .extend(outcomes.between.iter().map(|out| step(*out)));
            let with = |out: &Vec<u64>| {
                let out = out.iter().cycle();
                rows.iter().zip(out).map(|(row, out)| row | out).collect()
            };
            let more: Vec<Vec<u64>> = outcomes.rows.iter().map(with).collect();
            rows = more.concat();
            combinations *= outcomes.rows.len();
        }
        self.groups.push(Group {
            members: offset(self.members.len() - before),
            rows: sets.add_row(&rows),
        });
    }

    /// For each group, where the set of the combination that these values have begins; its memory is asked
    /// for. `values` are those of the attributes in their order.
    #[inline(always)]
    pub(super) fn seek<'a, 'v>(
        &self,
        values: &[Option<&'v DataValue<'v>>],
        arena: &'a FactsArena,
        sets: &Sets,
        words: usize,
    ) -> &'a [u32] {
        let rows = arena.slice(self.groups.len(), |_| 0);
        let mut members = self.members.iter().zip(values);
        for (row, group) in rows.iter_mut().zip(&self.groups) {
            let members = members.by_ref().take(group.members as usize);
            let combination: u32 = members
                .map(|(member, value)| self.step(member, *value))
                .sum();
            *row = group.rows + combination * offset(words);
            touch(sets.row(*row as usize, words));
        }
        rows
    }

    #[inline(always)]
    fn step<'v>(&self, member: &Member, value: Option<&'v DataValue<'v>>) -> u32 {
        match Lookup::of(value) {
            Lookup::Class(class) => {
                let step = member.by_class.get(class as usize);
                step.copied().unwrap_or_default()
            }
            Lookup::Number(number) => {
                let place = Cut::before(number);
                let first = member.cuts as usize;
                let cuts = self.cuts.get(first..first + member.count as usize);
                let cuts = cuts.unwrap_or_default().iter();
                let passed = cuts.filter(|cut| **cut <= place).count();
                let step = self.between.get(member.between as usize + passed);
                step.copied().unwrap_or_default()
            }
            Lookup::Text(text) => {
                let hash = self.texts.seek(member.texts, text);
                let listed = self.texts.look_up(member.texts, text, hash);
                listed.unwrap_or(member.by_other_text)
            }
        }
    }

    /// Takes out of `left` whom the combinations rule out whose sets begin there.
    #[inline(always)]
    pub(super) fn remove(&self, rows: &[u32], sets: &Sets, left: &mut [u64]) {
        for row in rows {
            Members::Many(sets.row(*row as usize, left.len())).remove_from(left);
        }
    }

    /// Gives back what was taken for growing.
    pub(super) fn shrink(&mut self) {
        self.groups.shrink_to_fit();
        self.members.shrink_to_fit();
        self.texts.shrink();
        self.cuts.shrink_to_fit();
        self.between.shrink_to_fit();
    }

    /// The memory it takes beyond itself, without the sets, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[Group]>(&self.groups)
            + size_of_val::<[Member]>(&self.members)
            + self.texts.heap_bytes()
            + size_of_val::<[Cut]>(&self.cuts)
            + size_of_val::<[u32]>(&self.between)
    }
}

/// Which sets of campaigns the values of an attribute rule out.
#[derive(Debug, Default)]
struct Outcomes<'c> {
    /// The sets, each once, with a bit for each campaign of the block.
    rows: Vec<Vec<u64>>,
    by_class: [usize; 5],
    by_other_text: usize,
    texts: Vec<(&'c str, usize)>,
    cuts: Vec<Cut>,
    /// Of the numbers before the first cut, and of those after each.
    between: Vec<usize>,
}

impl<'c> Outcomes<'c> {
    /// `None` if there are too many, or if some values call for trying campaigns one by one.
    fn of(asking: &[(Place, Domain<'c>)], words: usize) -> Option<Outcomes<'c>> {
        if asking.iter().any(|(_, domain)| domain.open.is_any()) {
            return None;
        }
        let row = |is_out: &dyn Fn(&Domain<'_>) -> bool| {
            let mut row = vec![0; words];
            for (place, domain) in asking {
                if is_out(domain) {
                    insert(&mut row, *place);
                }
            }
            row
        };
        let other_text = row(&|domain| !domain.yes.texts.others);
        let mut texts: HashMap<&str, Vec<u64>, RandomState> = HashMap::default();
        let mut cuts = Vec::new();
        for (place, domain) in asking {
            let (listed, begins_or_ends) = (&domain.yes.texts.listed, domain.yes.numbers.cuts());
            if listed.len().max(begins_or_ends.len()) > LISTED_MAX {
                return None;
            }
            for text in listed {
                flip(
                    texts.entry(text).or_insert_with(|| other_text.clone()),
                    *place,
                );
            }
            cuts.extend(begins_or_ends.iter().map(|cut| (*cut, *place)));
            if texts.len() > LISTED_MAX {
                return None;
            }
        }
        let mut outcomes = Outcomes::default();
        for (class, of_class) in Class::ALL.into_iter().zip(0..) {
            let outcome = outcomes.number(row(&|domain| !domain.yes.has(class)))?;
            *outcomes.by_class.get_mut::<usize>(of_class)? = outcome;
        }
        outcomes.by_other_text = outcomes.number(other_text)?;
        for (text, row) in texts {
            let outcome = outcomes.number(row)?;
            outcomes.texts.push((text, outcome));
        }
        cuts.sort_by(|(left, _), (right, _)| left.order(right));
        let mut row = row(&|_| true);
        let before_all = outcomes.number(row.clone())?;
        outcomes.between.push(before_all);
        for group in cuts.chunk_by(|left, right| left.0 == right.0) {
            group.iter().for_each(|(_, place)| flip(&mut row, *place));
            let outcome = outcomes.number(row.clone())?;
            outcomes.between.push(outcome);
            outcomes.cuts.extend(group.first().map(|(cut, _)| *cut));
            if outcomes.cuts.len() > LISTED_MAX {
                return None;
            }
        }
        Some(outcomes)
    }

    /// The number of this outcome. `None` if it is one too many.
    fn number(&mut self, row: Vec<u64>) -> Option<usize> {
        if let Some(known) = self.rows.iter().position(|known| *known == row) {
            return Some(known);
        }
        self.rows.push(row);
        (self.rows.len() <= OUTCOMES_MAX).then(|| self.rows.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::{Value, json};

    use super::super::sets::contains;
    use super::super::twins::{may_hold, random};
    use super::*;
    use crate::rules::{Condition, Limits};

    /// A condition on one of five attributes of different kinds, all of which have few outcomes.
    fn condition(attribute: u64, random: &mut impl FnMut(u64) -> u64) -> Value {
        let var = json!({ "var": format!("user.traits.{attribute}") });
        let text = |number: u64| format!("v{number}");
        match attribute {
            0 | 1 => json!({ "==": [var, random(2) == 1] }),
            2 => match random(2) {
                0 => json!({ "==": [var, text(random(3))] }),
                _ => json!({ "!=": [var, text(random(3))] }),
            },
            3 => json!({ "in": [var, [text(random(4)), text(random(4))]] }),
            _ => match random(3) {
                0 => json!({ "===": [var, random(3)] }),
                1 => json!({ "in": [var, [random(3), 2.5, text(random(2))]] }),
                _ => json!({ "!==": [var, random(3)] }),
            },
        }
    }

    /// A combination rules out whom one of its values does.
    #[test]
    fn a_combination_is_the_same_as_its_attributes_one_by_one() {
        let values = [
            "null", "false", "true", "[]", "{}", "0", "1", "2", "2.5", "-3", "9", "1e300",
            "\"v0\"", "\"v1\"", "\"v2\"", "\"v3\"", "\"\"", "\"1\"", "\"true\"",
        ];
        for (seed, campaigns) in [(1_u64, 3), (2, 40), (3, 70), (4, 500)] {
            let mut random = random(seed);
            let asked: Vec<(u64, Condition)> = (0..campaigns)
                .map(|_| {
                    let attribute = random(5);
                    let rule = condition(attribute, &mut random);
                    let condition = Condition::parse(&rule, &Limits::default());
                    (attribute, condition.unwrap())
                })
                .collect();
            let mut asking: Vec<Asking<'_>> = Vec::new();
            for attribute in 0..5 {
                let of_it = asked
                    .iter()
                    .zip(0..)
                    .filter(|((it, _), _)| *it == attribute);
                let domains: Vec<_> = of_it
                    .map(|((_, condition), place)| (place, Domain::of(condition.node()).unwrap()))
                    .collect();
                if let Some((_, (attribute, _))) = domains.first() {
                    let domains = domains.iter().map(|(place, it)| (*place, it.1.clone()));
                    asking.push((attribute, domains.collect()));
                }
            }
            let domains = asking.clone();
            let words = asked.len().div_ceil(64);
            let mut sets = Sets::default();
            // Something before it, so that nothing begins at 0.
            sets.add_row(&[u64::MAX; 3]);
            let (combined, which, others) = Combined::new(asking, words, &mut sets);
            assert_eq!(which.len() + others.len(), domains.len(), "seed {seed}");
            assert!(which.len() >= 2, "seed {seed}: {which:?}");
            for _ in 0..2_000 {
                let arena = FactsArena::new();
                let members = (0..5).filter_map(|name| {
                    // Now and then it is missing.
                    let value = values.get(random(values.len() as u64 + 2) as usize)?;
                    Some(format!("\"{name}\":{value}"))
                });
                let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
                let traits = arena.parse(&text);
                let value = |attribute: &Attribute| {
                    let mut members = traits.members().iter();
                    let name = attribute.name().unwrap();
                    members.find(|it| it.0 == name).map(|it| &it.1)
                };
                let in_order: Vec<_> = which.iter().map(|it| value(it)).collect();
                let mut left = vec![u64::MAX; words];
                combined.remove(
                    combined.seek(&in_order, &arena, &sets, words),
                    &sets,
                    &mut left,
                );
                for (attribute, asking) in domains.iter().filter(|(it, _)| which.contains(it)) {
                    for (place, domain) in asking {
                        assert_eq!(
                            contains(&left, *place),
                            may_hold(domain, value(attribute)),
                            "seed {seed}, {domain:?} with {text}"
                        );
                    }
                }
                let asked: usize = domains
                    .iter()
                    .filter(|(it, _)| which.contains(it))
                    .map(|(_, asking)| asking.len())
                    .sum();
                let out: usize = left.iter().map(|word| word.count_zeros() as usize).sum();
                assert!(out <= asked, "seed {seed}, {text}");
            }
        }
    }

    #[test]
    fn an_attribute_with_many_outcomes_or_open_ones_is_left_alone() {
        let one = |rule: Value| Condition::parse(&rule, &Limits::default()).unwrap();
        let var = json!({ "var": "user.traits.a" });
        let alike = |rules: Vec<Value>| {
            let conditions: Vec<_> = rules.into_iter().map(one).collect();
            let domains = conditions.iter().zip(0..);
            let domains = domains.map(|(it, place)| (place, Domain::of(it.node()).unwrap().1));
            Outcomes::of(&domains.collect::<Vec<_>>(), 1).map(|it| it.rows.len())
        };
        let is = |number: usize| json!({ "==": [var, format!("v{number}")] });
        // None of them, the others one each.
        assert_eq!(alike((0..15).map(is).collect()), Some(16));
        assert_eq!(alike((0..16).map(is).collect()), None);
        let listed: Vec<String> = (0..40).map(|number| format!("v{number}")).collect();
        assert_eq!(alike(vec![json!({ "in": [var, listed] })]), None);
        assert_eq!(alike(vec![json!({ ">": [var, 3] })]), None);
        assert_eq!(alike(vec![json!({ "in": ["v", var] })]), None);
        assert_eq!(alike(vec![json!({ "===": [var, 3] })]), Some(2));
    }
}
