//! Which campaigns the value of one attribute rules out.

use std::collections::HashMap;

use datalogic_rs::DataValue;
use foldhash::fast::RandomState;

use super::numbers::{Line, Lines, Spot};
use super::sets::{Members, Place, Set, Sets, flip, insert, offset, remove};
use super::texts::{Change, Table, Tables};
use crate::rules::native::{Class, Domain, Lookup, is_numeric_text};

/// What the indexes of a block's attributes refer to.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) sets: Sets,
    lines: Lines,
    tables: Tables<Change>,
}

/// The conditions on one attribute, of all campaigns of a block.
#[derive(Debug)]
pub(super) struct AttributeIndex {
    /// The length of a set.
    words: u32,
    /// Ruled out where the value is of a class, by class.
    by_class: [Set; 5],
    numbers: Line,
    texts: Table,
    /// Ruled out by texts that no campaign lists.
    by_other_text: Set,
    /// May hold on a text that can be read as a number, whatever the texts say.
    on_numeric_text: Set,
    /// To be tried one by one where the value is a number, a text, a collection.
    open_numbers: Set,
    open_texts: Set,
    open_collections: Set,
}

/// Where to look the value of an attribute up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sought<'v> {
    /// It is of this class, and that is all that counts.
    Class(Class),
    /// In this segment of the line.
    Number {
        /// The value.
        number: f64,
        /// See [`Lines::seek`].
        segment: u32,
    },
    /// By this hash.
    Text {
        /// The value.
        text: &'v str,
        /// See [`Tables::seek`].
        hash: u64,
    },
}

/// Where the value of an attribute stands in its index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    /// It is of this class, and that is all that counts.
    Class(Class),
    Number(Spot),
    Text {
        /// What it changes if it is listed.
        listed: Option<Change>,
        is_numeric: bool,
    },
}

impl Default for Sought<'_> {
    fn default() -> Self {
        Sought::Class(Class::Missing)
    }
}

impl Default for Standing {
    fn default() -> Self {
        Standing::Class(Class::Missing)
    }
}

/// Conditions on flags begin and end to hold around 0 and around 1, which flags are equal to.
const FLAG_PLACES: usize = 4;

impl Memory {
    /// Gives back what was taken for growing.
    pub(super) fn shrink(&mut self) {
        self.sets.shrink();
        self.lines.shrink();
        self.tables.shrink();
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.sets.heap_bytes() + self.lines.heap_bytes() + self.tables.heap_bytes()
    }
}

impl AttributeIndex {
    /// From the domains of campaigns, given in rising order. `words` is the length of a set.
    pub(super) fn new(
        campaigns: &[(Place, Domain<'_>)],
        memory: &mut Memory,
        words: usize,
    ) -> AttributeIndex {
        let mut known: Vec<(Vec<Place>, Set)> = Vec::new();
        let sets = &mut memory.sets;
        let mut set = |is_in: &dyn Fn(&Domain<'_>) -> bool| {
            let members = campaigns.iter().filter(|(_, domain)| is_in(domain));
            let places: Vec<Place> = members.map(|(place, _)| *place).collect();
            // Most of these sets are the same, and once is enough.
            match known.iter().find(|(known, _)| *known == places) {
                Some((_, set)) => *set,
                None => {
                    let set = sets.add(&places, words);
                    known.push((places, set));
                    set
                }
            }
        };
        let by_class = Class::ALL.map(|class| set(&|domain| !domain.yes.has(class)));
        let by_other_text = set(&|domain| !domain.yes.texts.others);
        let on_numeric_text = set(&|domain| domain.open.numeric_texts);
        let open_numbers = set(&|domain| domain.open.numbers);
        let open_texts = set(&|domain| domain.open.texts);
        let open_collections = set(&|domain| domain.open.collections);
        let ranges: Vec<_> = campaigns
            .iter()
            .filter(|(_, domain)| !domain.yes.numbers.is_all())
            .map(|(place, domain)| (*place, &domain.yes.numbers))
            .collect();
        AttributeIndex {
            words: offset(words),
            by_class,
            numbers: memory.lines.add(&ranges, words),
            texts: add_texts(campaigns, memory, words),
            by_other_text,
            on_numeric_text,
            open_numbers,
            open_texts,
            open_collections,
        }
    }

    /// The length of its sets.
    #[inline(always)]
    pub(super) fn words(&self) -> usize {
        self.words as usize
    }

    /// Finds where to look a value up, and asks for the memory there.
    #[inline(always)]
    pub(super) fn seek<'v>(&self, value: Option<&'v DataValue<'v>>, memory: &Memory) -> Sought<'v> {
        match Lookup::of(value) {
            Lookup::Class(class) => Sought::Class(class),
            Lookup::Number(number) => Sought::Number {
                number,
                segment: memory.lines.seek(self.numbers, number, self.words()),
            },
            Lookup::Text(text) => Sought::Text {
                text,
                hash: memory.tables.seek(self.texts, text),
            },
        }
    }

    /// Looks a value up, and asks for the memory of whom it rules out.
    #[inline(always)]
    pub(super) fn look_up(&self, sought: Sought<'_>, memory: &Memory) -> Standing {
        let words = self.words();
        let touch = |set| memory.sets.members(set, words).touch();
        match sought {
            Sought::Class(class) => {
                touch(self.by_class(class));
                Standing::Class(class)
            }
            Sought::Number { number, segment } => {
                Standing::Number(memory.lines.look_up(self.numbers, segment, number, words))
            }
            Sought::Text { text, hash } => {
                let listed = memory.tables.look_up(self.texts, text, hash);
                touch(match listed {
                    Some(Change::Out(out)) => out,
                    _ => self.by_other_text,
                });
                let is_numeric = self.on_numeric_text != Set::default() && is_numeric_text(text);
                Standing::Text { listed, is_numeric }
            }
        }
    }

    #[inline(always)]
    fn by_class(&self, class: Class) -> Set {
        self.by_class
            .get(class as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Who is ruled out. `spare` has the length of a set.
    #[inline(always)]
    pub(super) fn out<'s>(
        &self,
        standing: Standing,
        memory: &'s Memory,
        spare: &'s mut [u64],
    ) -> Members<'s> {
        let words = self.words();
        let (set, start, not, also) = match standing {
            Standing::Class(class) => (self.by_class(class), 0, 0, 0),
            Standing::Number(spot) => {
                let (out, flips) = memory.lines.out(self.numbers, spot, words);
                if out.is_empty() {
                    return Members::None;
                }
                if flips.is_empty() {
                    return Members::Many(out);
                }
                for (spare, out) in spare.iter_mut().zip(out) {
                    *spare = *out;
                }
                flips.iter().for_each(|place| flip(spare, *place));
                return Members::Many(spare);
            }
            Standing::Text { listed, .. } => match listed {
                None => (self.by_other_text, 0, 0, 0),
                Some(Change::Out(out)) => (out, 0, 0, 0),
                Some(Change::Exceptions { start, not, also }) => {
                    (self.by_other_text, start, not, also)
                }
            },
        };
        let members = memory.sets.members(set, words);
        let on_numeric_text = match standing {
            Standing::Text { is_numeric, .. } if is_numeric => self.on_numeric_text,
            _ => Set::default(),
        };
        let not_out = memory.sets.list(start, not.into());
        let also_out = memory.sets.list(start + u32::from(not), also.into());
        if on_numeric_text == Set::default() {
            match members {
                Members::None => return Members::Few(also_out),
                members if (not, also) == (0, 0) => return members,
                _ => {}
            }
        }
        spare.fill(0);
        members.insert_into(spare);
        not_out.iter().for_each(|&place| remove(spare, place));
        also_out.iter().for_each(|&place| insert(spare, place));
        let may_hold = memory.sets.members(on_numeric_text, words);
        may_hold.remove_from(spare);
        Members::Many(spare)
    }

    /// Who is to be tried one by one if not ruled out.
    #[inline(always)]
    pub(super) fn open<'i>(&self, standing: Standing, memory: &'i Memory) -> [Members<'i>; 2] {
        let members = |set| memory.sets.members(set, self.words());
        match standing {
            Standing::Class(Class::Collection) => [members(self.open_collections), Members::None],
            Standing::Class(_) => [Members::None; 2],
            Standing::Number(_) => [members(self.open_numbers), Members::None],
            Standing::Text { is_numeric, .. } => [
                members(self.open_texts),
                match is_numeric {
                    true => members(self.on_numeric_text),
                    false => Members::None,
                },
            ],
        }
    }

    /// How many campaigns a value rules out on average, as far as one can tell: values are taken to
    /// be of the kind that campaigns say most about.
    pub(super) fn mean_out(&self, memory: &Memory) -> usize {
        let words = self.words();
        let count = |set| memory.sets.members(set, words).count();
        if memory.lines.places(self.numbers, words) > FLAG_PLACES {
            return memory.lines.mean_out(self.numbers, words);
        }
        let mut texts = memory.tables.changes(self.texts).peekable();
        if texts.peek().is_none() {
            let [_, _, no, yes, _] = self.by_class;
            return usize::midpoint(count(no), count(yes));
        }
        let others = count(self.by_other_text);
        let out = texts.map(|change| match change {
            Change::Out(out) => count(out),
            Change::Exceptions { not, also, .. } => others + usize::from(also) - usize::from(not),
        });
        let (sum, texts) = out.fold((0, 0), |(sum, texts), out| (sum + out, texts + 1));
        sum / texts.max(1)
    }
}

fn add_texts(campaigns: &[(Place, Domain<'_>)], memory: &mut Memory, words: usize) -> Table {
    /// Campaigns for which a text is an exception.
    #[derive(Default)]
    struct Exceptions {
        not: Vec<Place>,
        also: Vec<Place>,
    }
    let mut listed: HashMap<&str, Exceptions, RandomState> = HashMap::default();
    let mut others_out = Vec::new();
    for (place, domain) in campaigns {
        let texts = &domain.yes.texts;
        if !texts.others {
            others_out.push(*place);
        }
        for text in &texts.listed {
            let exceptions = listed.entry(text).or_default();
            if texts.others {
                exceptions.also.push(*place);
            } else {
                exceptions.not.push(*place);
            }
        }
    }
    let mut changes = Vec::with_capacity(listed.len());
    for (text, Exceptions { not, also }) in listed {
        let change = match (u16::try_from(not.len()), u16::try_from(also.len())) {
            (Ok(not_count), Ok(also_count)) if not.len() + also.len() < words => {
                let start = memory.sets.add_list(&not);
                memory.sets.add_list(&also);
                Change::Exceptions {
                    start,
                    not: not_count,
                    also: also_count,
                }
            }
            _ => {
                let mut out: Vec<Place> = others_out
                    .iter()
                    .filter(|place| not.binary_search(place).is_err())
                    .copied()
                    .chain(also)
                    .collect();
                out.sort_unstable();
                Change::Out(memory.sets.add(&out, words))
            }
        };
        changes.push((text, change));
    }
    memory.tables.add(&changes)
}
