//! Which campaigns the value of one attribute rules out.

use std::collections::HashMap;

use datalogic_rs::DataValue;
use foldhash::fast::RandomState;

use super::numbers::{Line, Lines, State};
use super::sets::{Members, Place, Set, Sets, contains, insert, remove, touch};
use super::texts::{Change, Table, Tables};
use crate::rules::native::{Class, Domain, is_numeric_text};

/// What the indexes of a block's attributes refer to.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) sets: Sets,
    lines: Lines,
    tables: Tables,
}

/// The conditions on one attribute, of all campaigns of a block.
#[derive(Debug)]
pub(super) struct AttributeIndex {
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

/// What the value of an attribute changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effect<'i> {
    out: Out<'i>,
    /// To be tried one by one.
    open: Members<'i>,
    /// To be tried one by one, whatever is ruled out.
    in_any_case: Members<'i>,
}

/// Who is ruled out.
#[derive(Debug, Clone, Copy)]
enum Out<'i> {
    Members(Members<'i>),
    Number(State<'i>),
    /// By other texts, but for exceptions.
    Text {
        by_others: Members<'i>,
        not: &'i [Place],
        also: &'i [Place],
    },
}

impl Default for Out<'_> {
    fn default() -> Self {
        Out::Members(Members::None)
    }
}

/// Conditions on flags have cuts around 0 and around 1, which flags are equal to.
const FLAG_SEGMENTS: u32 = 5;

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
            by_class,
            numbers: memory.lines.add(&ranges, &mut memory.sets, words),
            texts: add_texts(campaigns, memory, words),
            by_other_text,
            on_numeric_text,
            open_numbers,
            open_texts,
            open_collections,
        }
    }

    /// Finds what the value changes, and asks for the memory that this takes. `words` is the
    /// length of a set.
    pub(super) fn look_up<'i>(
        &self,
        value: Option<&DataValue<'_>>,
        memory: &'i Memory,
        words: usize,
    ) -> Effect<'i> {
        let members = |set| memory.sets.members(set, words);
        let class = match value {
            None => Class::Missing,
            Some(DataValue::Null) => Class::Null,
            Some(DataValue::Bool(false)) => Class::False,
            Some(DataValue::Bool(true)) => Class::True,
            Some(DataValue::Array(_) | DataValue::Object(_)) => Class::Collection,
            Some(DataValue::Number(number)) => {
                let number = number.as_f64();
                let state = memory
                    .lines
                    .look_up(self.numbers, number, &memory.sets, words);
                touch(state.out);
                return Effect {
                    out: Out::Number(state),
                    open: members(self.open_numbers),
                    in_any_case: Members::None,
                };
            }
            Some(DataValue::String(text)) => return self.look_up_text(text, memory, words),
        };
        let out = self.by_class.get(class as usize).copied();
        let out = members(out.unwrap_or_default());
        out.touch();
        Effect {
            out: Out::Members(out),
            open: match class {
                Class::Collection => members(self.open_collections),
                _ => Members::None,
            },
            in_any_case: Members::None,
        }
    }

    fn look_up_text<'i>(&self, text: &str, memory: &'i Memory, words: usize) -> Effect<'i> {
        let members = |set| memory.sets.members(set, words);
        let by_others = members(self.by_other_text);
        let out = match memory.tables.look_up(self.texts, text) {
            None => Out::Members(by_others),
            Some(Change::Out(out)) => Out::Members(members(out)),
            Some(Change::Exceptions { start, not, also }) => Out::Text {
                by_others,
                not: memory.sets.list(start, not.into()),
                also: memory.sets.list(start + u32::from(not), also.into()),
            },
        };
        match &out {
            Out::Members(out) => out.touch(),
            _ => by_others.touch(),
        }
        let on_numeric_text = members(self.on_numeric_text);
        Effect {
            out,
            open: members(self.open_texts),
            in_any_case: match !on_numeric_text.is_empty() && is_numeric_text(text) {
                true => on_numeric_text,
                false => Members::None,
            },
        }
    }

    /// How many campaigns a value rules out on average, as far as one can tell: values are taken to
    /// be of the kind that campaigns say most about.
    pub(super) fn mean_out(&self, memory: &Memory, words: usize) -> usize {
        let count = |set| memory.sets.members(set, words).count();
        if self.numbers.segments() > FLAG_SEGMENTS {
            return memory.lines.mean_out(self.numbers, &memory.sets, words);
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

impl Effect<'_> {
    /// Takes the campaigns that are ruled out of `left`, and adds to `open` those that may not be.
    /// `spare` has twice the length of a set.
    pub(super) fn apply(&self, left: &mut [u64], open: &mut [u64], spare: &mut [u64]) {
        let (before, spare) = spare.split_at_mut(left.len());
        if !self.in_any_case.is_empty() {
            before.copy_from_slice(left);
        }
        self.open.insert_into(open);
        match &self.out {
            Out::Members(out) => out.remove_from(left),
            Out::Number(state) => state.remove_from(left, spare),
            Out::Text {
                by_others,
                not,
                also,
            } => {
                for (flag, &place) in spare.iter_mut().zip(*not) {
                    *flag = u64::from(contains(left, place));
                }
                by_others.remove_from(left);
                also.iter().for_each(|&place| remove(left, place));
                for (flag, &place) in spare.iter().zip(*not) {
                    if *flag == 1 {
                        insert(left, place);
                    }
                }
            }
        }
        if !self.in_any_case.is_empty() {
            self.in_any_case.insert_into(open);
            self.in_any_case.copy_in(before, left);
        }
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
