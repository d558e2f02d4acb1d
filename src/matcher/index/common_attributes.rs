//! Attributes that many campaigns ask about, each of which is looked up in every decision.
//!
//! That is most of what a decision takes, so [`rule_out`] is compiled twice: for every processor, and for
//! those that have wide registers and the instructions for bits, as nearly all have. What takes long in it
//! is inlined into it (`#[inline(always)]`), since what is not would be compiled for every processor.

use std::cmp::{Ordering, Reverse};

use datalogic_rs::DataValue;
use multiversion::multiversion;
use multiversion::target::match_target;

use super::OBJECTS;
use super::attribute::{AttributeIndex, Memory, Sought, Standing};
use super::combined::{Asking, Combined};
use super::names::NameKey;
use super::sets::{Members, Place, insert, offset, remove};
use super::spread::{self, Deposit, Spread};
use crate::rules::native::{Attribute, Domain, descend};
use crate::rules::{FactsArena, Prepared};

/// The common attributes of a block.
#[derive(Debug)]
pub(super) struct CommonAttributes {
    /// Those that are applied one by one. Those first that rule out most.
    attributes: Box<[CommonAttribute]>,
    combined: Combined,
    /// Who asks about the attributes whose indexes are over these campaigns only.
    askers: Box<[u64]>,
    /// Which the attributes are, those that are combined last.
    which: Box<[Attribute]>,
    /// Those that begin with a member, by its name, for each of the three objects.
    names: [Box<[Name]>; OBJECTS.len()],
    /// The places of the others.
    others: Box<[usize]>,
}

/// The conditions on one attribute.
#[derive(Debug)]
struct CommonAttribute {
    /// Over the campaigns that ask about it where `spread` says so, over all of the block otherwise.
    index: AttributeIndex,
    /// How these are numbered, and where in [`CommonAttributes::askers`] they stand.
    spread: Option<(Spread, u32)>,
}

/// An attribute that begins with a member of an object.
#[derive(Debug)]
struct Name {
    /// The member's name.
    key: NameKey,
    /// The attribute's place.
    index: u32,
    /// Whether the path leads on from there.
    is_deeper: bool,
}

/// How many attributes are looked up before the first is applied.
const TOGETHER: usize = 16;

/// Takes out of `left` whom the values of the common attributes rule out, and adds to `open` who may not
/// be.
#[multiversion(targets("x86_64+avx2+bmi1+bmi2+fma+lzcnt+popcnt"))]
pub(super) fn rule_out(
    common: &CommonAttributes,
    facts: &Prepared<'_>,
    arena: &FactsArena,
    memory: &Memory,
    left: &mut [u64],
    open: &mut [u64],
) {
    let deposit = match_target! {
        "x86_64+avx2+bmi1+bmi2+fma+lzcnt+popcnt" => |bits, mask| spread::pdep(bits, mask),
        _ => spread::deposit,
    };
    common.rule_out_by(deposit, facts, arena, memory, left, open);
}

impl CommonAttributes {
    /// From who asks about each attribute, in rising order, in a block of so many words.
    pub(super) fn new<'c>(
        asking: Vec<Asking<'c>>,
        words: usize,
        memory: &mut Memory,
    ) -> CommonAttributes {
        let (mut combined, last, asking) = Combined::new(asking, words, &mut memory.sets);
        combined.shrink();
        let attributes = asking.into_iter();
        let attributes = attributes.map(|(it, asking)| Indexed::new(it, asking, words, memory));
        let mut attributes: Vec<_> = attributes.collect();
        attributes.sort_by_key(|attribute| Reverse(attribute.mean_out));
        let which = attributes.iter().map(|it| it.attribute).chain(last);
        let which: Box<[Attribute]> = which.cloned().collect();
        let mut in_order: Vec<usize> = (0..which.len()).collect();
        in_order.sort_by_key(|index| which.get(*index));
        let names = OBJECTS.map(|object| {
            let name = |&index: &usize| {
                let attribute = which.get(index).filter(|it| it.source == object)?;
                Some(Name {
                    key: NameKey::of(attribute.name()?),
                    index: offset(index),
                    is_deeper: !attribute.rest().is_empty(),
                })
            };
            in_order.iter().filter_map(name).collect()
        });
        let has_no_name = |index: &usize| which.get(*index).is_some_and(|it| it.name().is_none());
        let others = in_order.into_iter().filter(has_no_name).collect();
        let mut askers = Vec::new();
        let attributes = attributes.into_iter().map(|it| CommonAttribute {
            index: it.index,
            spread: it.spread.map(|(spread, asking)| {
                let start = offset(askers.len());
                askers.extend(asking);
                (spread, start)
            }),
        });
        CommonAttributes {
            attributes: attributes.collect(),
            combined,
            askers: askers.into(),
            which,
            names,
            others,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.which.len()
    }

    #[inline(always)]
    fn rule_out_by(
        &self,
        deposit: impl Deposit,
        facts: &Prepared<'_>,
        arena: &FactsArena,
        memory: &Memory,
        left: &mut [u64],
        open: &mut [u64],
    ) {
        let values = self.values(facts, arena);
        let words = left.len();
        let (values, of_combined) = values.split_at(self.attributes.len());
        let rows = self.combined.seek(of_combined, arena, &memory.sets, words);
        let spare = arena.words(left.len());
        // Each step asks for the memory of the next and has no choice to make that depends on it, so
        // that several look-ups wait together.
        let mut sought = [Sought::default(); TOGETHER];
        let mut standings = [Standing::default(); TOGETHER];
        let values = values.chunks(TOGETHER);
        for (together, values) in self.attributes.chunks(TOGETHER).zip(values) {
            if left.iter().all(|word| *word == 0) {
                return;
            }
            for ((attribute, value), sought) in together.iter().zip(values).zip(&mut sought) {
                *sought = attribute.index.seek(*value, memory);
            }
            let looked_up = together.iter().zip(&sought);
            for ((attribute, sought), standing) in looked_up.zip(&mut standings) {
                *standing = attribute.index.look_up(*sought, memory);
            }
            for (attribute, standing) in together.iter().zip(&standings) {
                let askers = attribute.askers(&self.askers, left.len());
                attribute.apply(deposit, *standing, askers, memory, left, open, spare);
            }
        }
        self.combined.remove(rows, &memory.sets, left);
    }

    /// The values of the attributes.
    #[inline(always)]
    fn values<'a>(
        &self,
        facts: &'a Prepared<'_>,
        arena: &'a FactsArena,
    ) -> &'a [Option<&'a DataValue<'a>>] {
        let view = facts.view();
        let values = arena.slice(self.which.len(), |_| None);
        for (object, names) in OBJECTS.into_iter().zip(&self.names) {
            if names.is_empty() {
                continue;
            }
            let object = view.object(object);
            let mut members = object.map_or(&[][..], |object| object.members());
            for name in names {
                let index = name.index as usize;
                let attribute = || self.which.get(index);
                let whole_name = || attribute().and_then(Attribute::name).unwrap_or_default();
                // Both are in order, so no member is looked at twice.
                let value = loop {
                    let Some(((member, value), after)) = members.split_first() else {
                        break None;
                    };
                    match name.key.order_of(member, whole_name) {
                        Ordering::Less => members = after,
                        Ordering::Equal if name.is_deeper => {
                            break descend(value, attribute().map_or(&[], Attribute::rest));
                        }
                        Ordering::Equal => break Some(value),
                        Ordering::Greater => break None,
                    }
                };
                if let Some(place) = values.get_mut(index) {
                    *place = value;
                }
            }
        }
        for &index in &self.others {
            if let (Some(place), Some(attribute)) = (values.get_mut(index), self.which.get(index)) {
                *place = view.value(attribute);
            }
        }
        values
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[CommonAttribute]>(&self.attributes)
            + self.combined.heap_bytes()
            + size_of_val::<[u64]>(&self.askers)
            + size_of_val::<[Attribute]>(&self.which)
            + self
                .names
                .iter()
                .map(|names| size_of_val::<[Name]>(names))
                .sum::<usize>()
            + size_of_val::<[usize]>(&self.others)
    }
}

impl CommonAttribute {
    /// Who asks, if its sets are over these only, in a block of so many words.
    #[inline(always)]
    fn askers<'a>(&self, all: &'a [u64], words: usize) -> Option<(Spread, &'a [u64])> {
        let (spread, start) = self.spread?;
        let start = start as usize;
        Some((spread, all.get(start..start + words).unwrap_or_default()))
    }

    /// Takes out of `left` who is ruled out, and adds to `open` who may not be. `spare` has the length
    /// of a set.
    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it is inlined where these are at hand"
    )]
    fn apply(
        &self,
        deposit: impl Deposit,
        standing: Standing,
        askers: Option<(Spread, &[u64])>,
        memory: &Memory,
        left: &mut [u64],
        open: &mut [u64],
        spare: &mut [u64],
    ) {
        let Some(spare) = spare.get_mut(..self.index.words()) else {
            return;
        };
        match (self.index.out(standing, memory, spare), askers) {
            (Members::None, _) => {}
            (Members::Many(out), Some((spread, askers))) => {
                spread.remove(left, askers, out, deposit);
            }
            // Laying so few over the block one by one is less than laying all of it.
            (Members::Few(out), Some((spread, askers))) => {
                for &number in out {
                    remove(left, spread.place(askers, number, deposit));
                }
            }
            (out, None) => out.remove_from(left),
        }
        for opened in self.index.open(standing, memory) {
            match askers {
                _ if opened.is_empty() => {}
                None => opened.insert_into(open),
                Some((spread, askers)) => {
                    spare.fill(0);
                    opened.insert_into(spare);
                    spread.insert(open, askers, spare, deposit);
                }
            }
        }
    }
}

/// A common attribute while its block is built.
struct Indexed<'c> {
    attribute: &'c Attribute,
    index: AttributeIndex,
    /// How many campaigns it rules out.
    mean_out: usize,
    /// Who asks about it, if its sets are over these only.
    spread: Option<(Spread, Vec<u64>)>,
}

impl<'c> Indexed<'c> {
    fn new(
        attribute: &'c Attribute,
        mut asking: Vec<(Place, Domain<'c>)>,
        words: usize,
        memory: &mut Memory,
    ) -> Indexed<'c> {
        let mut askers = vec![0; words];
        for (place, _) in &asking {
            insert(&mut askers, *place);
        }
        let spread = Spread::over(&askers).filter(|_| spread::is_fast());
        if let Some(spread) = spread {
            for (place, _) in &mut asking {
                *place = spread.number(&askers, *place);
            }
        }
        let words = spread.map_or(words, |spread| spread.words(words));
        let index = AttributeIndex::new(&asking, memory, words);
        Indexed {
            attribute,
            mean_out: index.mean_out(memory),
            index,
            spread: spread.map(|spread| (spread, askers)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use chrono::DateTime;
    use serde_json::{Value, json};

    use super::super::sets::contains;
    use super::super::twins::{is_open, may_hold, random};
    use super::*;
    use crate::rules::{Condition, Facts, Limits, UserFacts};

    const ATTRIBUTES: u64 = 12;

    /// A condition on one of these attributes: flags, texts out of many and out of few, numbers, and texts
    /// and numbers mixed.
    fn condition(attribute: u64, random: &mut impl FnMut(u64) -> u64) -> Value {
        let var = json!({ "var": format!("user.traits.{attribute}") });
        let text = |number: u64| format!("a text {number}");
        match attribute {
            0 | 1 => json!({ "==": [var, random(2) == 1] }),
            2..=4 => json!({ "!=": [var, text(random(60))] }),
            5 | 6 => match random(4) {
                0 => json!({ "==": [var, text(random(60))] }),
                1 => json!({ "in": [var, [text(random(60)), text(random(60))]] }),
                2 => json!({ "!": { "in": [var, [text(random(60)), text(random(60))]] } }),
                _ => json!({ "!=": [var, text(random(60))] }),
            },
            7 => json!({ "in": [var, [text(random(4)), text(random(4))]] }),
            8 | 9 => match random(3) {
                0 => json!({ ">": [var, random(300)] }),
                1 => json!({ "<=": [random(300), var, random(600)] }),
                _ => json!({ "!==": [var, random(300)] }),
            },
            _ => match random(5) {
                0 => json!({ "==": [var, random(20)] }),
                1 => json!({ "!==": [var, random(20)] }),
                2 => json!({ "===": [var, text(random(60))] }),
                3 => json!({ "in": [text(random(60)), var] }),
                _ => json!({ "!!": var }),
            },
        }
    }

    fn value(random: &mut impl FnMut(u64) -> u64) -> Option<String> {
        Some(match random(20) {
            0 => return None,
            1 => "null".to_owned(),
            2 => "[]".to_owned(),
            3 => "true".to_owned(),
            4 => "false".to_owned(),
            5 => "\"\"".to_owned(),
            6 => format!("\"{}\"", random(20)),
            7..=10 => random(300).to_string(),
            11 => format!("{}.5", random(20)),
            _ => format!("\"a text {}\"", random(63)),
        })
    }

    /// Whom the values rule out, and who is to be tried, is what each campaign's own domain says, in blocks
    /// small and large.
    #[test]
    fn values_rule_out_whom_their_domains_do() {
        for (seed, campaigns) in [(1_u64, 5), (2, 130), (3, 700), (4, 2_000)] {
            let mut random = random(seed);
            let asked: Vec<(u64, Condition)> = (0..campaigns)
                .map(|_| {
                    let attribute = random(ATTRIBUTES);
                    let rule = condition(attribute, &mut random);
                    (
                        attribute,
                        Condition::parse(&rule, &Limits::default()).unwrap(),
                    )
                })
                .collect();
            let domains: Vec<(&Attribute, Domain<'_>)> = asked
                .iter()
                .map(|(_, condition)| Domain::of(condition.node()).unwrap())
                .collect();
            let asking = (0..ATTRIBUTES).filter_map(|attribute| {
                let of_it = asked.iter().zip(&domains).zip(0..);
                let of_it = of_it.filter(|(((it, _), _), _)| *it == attribute);
                let of_it: Vec<_> = of_it.map(|((_, domain), place)| (place, domain)).collect();
                let (_, (attribute, _)) = of_it.first()?;
                let places = of_it
                    .iter()
                    .map(|(place, domain)| (*place, domain.1.clone()));
                Some((*attribute, places.collect()))
            });
            let words = asked.len().div_ceil(64);
            let mut memory = Memory::default();
            let mut asking: Vec<Asking<'_>> = asking.collect();
            asking.sort_by_key(|(attribute, _)| *attribute);
            let common = CommonAttributes::new(asking, words, &mut memory);
            for _ in 0..500 {
                let arena = FactsArena::new();
                let members = (0..ATTRIBUTES).filter_map(|name| {
                    value(&mut random).map(|value| format!("\"{name}\":{value}"))
                });
                let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
                let traits = arena.parse(&text);
                let user = UserFacts {
                    id: "ada",
                    traits,
                    created_at: DateTime::UNIX_EPOCH,
                    last_seen_at: DateTime::UNIX_EPOCH,
                };
                let facts = Facts {
                    user,
                    event: None,
                    now: DateTime::UNIX_EPOCH,
                    segments: &|_| false,
                };
                let facts = Prepared::new(facts, &arena);
                let (mut left, mut open) = (vec![u64::MAX; words], vec![0; words]);
                rule_out(&common, &facts, &arena, &memory, &mut left, &mut open);
                for ((attribute, domain), place) in domains.iter().zip(0..) {
                    let mut members = traits.members().iter();
                    let value = members.find(|it| Some(it.0) == attribute.name());
                    let value = value.map(|it| &it.1);
                    let found = (contains(&left, place), contains(&open, place));
                    let expected = (may_hold(domain, value), is_open(domain, value));
                    assert_eq!(found, expected, "seed {seed}, {domain:?} with {text}");
                }
            }
        }
    }
}
