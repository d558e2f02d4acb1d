//! Which campaigns the value of one attribute rules out.

use std::collections::HashMap;

use datalogic_rs::DataValue;
use foldhash::fast::RandomState;

use super::members::{Members, contains, insert, remove};
use super::numbers::{Numbers, State};
use crate::rules::native::{Attribute, Class, Domain, is_numeric_text};

/// The conditions on one attribute, of all campaigns of a block.
#[derive(Debug)]
pub(super) struct AttributeIndex {
    pub(super) attribute: Attribute,
    /// Ruled out where the value is of a class, by class.
    by_class: [Members; 5],
    numbers: Numbers,
    /// Ruled out by texts that no campaign lists.
    by_other_text: Members,
    texts: HashMap<Box<str>, Text, RandomState>,
    /// May hold on a text that can be read as a number, whatever the texts say.
    on_numeric_text: Members,
    /// To be tried one by one where the value is a number, a text, a collection.
    open_numbers: Members,
    open_texts: Members,
    open_collections: Members,
}

/// What the value of an attribute changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect<'i> {
    Class(Class),
    Number(State<'i>),
    Text {
        /// `None` for a text that no campaign lists.
        text: Option<&'i Text>,
        is_numeric: bool,
    },
}

/// What one listed text changes.
#[derive(Debug)]
pub(super) enum Text {
    /// Who is ruled out by it, instead of by other texts.
    Out(Members),
    /// Who is not ruled out though by other texts, and who is though not by others: fewer than a
    /// set has words.
    Change { not: Box<[u32]>, also: Box<[u32]> },
}

impl AttributeIndex {
    /// From the domains of campaigns, given in rising order.
    pub(super) fn new(
        attribute: &Attribute,
        campaigns: &[(u32, Domain<'_>)],
        words: usize,
    ) -> AttributeIndex {
        let set = |is_in: &dyn Fn(&Domain<'_>) -> bool| {
            let members = campaigns.iter().filter(|(_, domain)| is_in(domain));
            Members::new(members.map(|(place, _)| *place).collect(), words)
        };
        let ranges: Vec<_> = campaigns
            .iter()
            .filter(|(_, domain)| !domain.yes.numbers.is_all())
            .map(|(place, domain)| (*place, &domain.yes.numbers))
            .collect();
        AttributeIndex {
            attribute: attribute.clone(),
            by_class: Class::ALL.map(|class| set(&|domain| !domain.yes.has(class))),
            numbers: Numbers::new(&ranges, words),
            by_other_text: set(&|domain| !domain.yes.texts.others),
            texts: texts(campaigns, words),
            on_numeric_text: set(&|domain| domain.open.numeric_texts),
            open_numbers: set(&|domain| domain.open.numbers),
            open_texts: set(&|domain| domain.open.texts),
            open_collections: set(&|domain| domain.open.collections),
        }
    }

    /// Finds what the value changes. `words` is the length of a set.
    pub(super) fn look_up(&self, value: Option<&DataValue<'_>>, words: usize) -> Effect<'_> {
        let class = match value {
            None => Class::Missing,
            Some(DataValue::Null) => Class::Null,
            Some(DataValue::Bool(false)) => Class::False,
            Some(DataValue::Bool(true)) => Class::True,
            Some(DataValue::Array(_) | DataValue::Object(_)) => Class::Collection,
            Some(DataValue::Number(number)) => {
                return Effect::Number(self.numbers.look_up(number.as_f64(), words));
            }
            Some(DataValue::String(text)) => {
                return Effect::Text {
                    text: self.texts.get(*text),
                    is_numeric: !self.on_numeric_text.is_empty() && is_numeric_text(text),
                };
            }
        };
        Effect::Class(class)
    }

    /// Takes the campaigns that a value rules out of `left`, and adds to `open` those that it may
    /// not rule out. `spare` has twice the length of a set.
    pub(super) fn apply(
        &self,
        found: &Effect<'_>,
        left: &mut [u64],
        open: &mut [u64],
        spare: &mut [u64],
    ) {
        match found {
            Effect::Number(state) => {
                self.open_numbers.insert_into(open);
                state.remove_from(left, spare);
            }
            Effect::Text { text, is_numeric } => {
                self.open_texts.insert_into(open);
                self.apply_text(*text, *is_numeric, left, open, spare);
            }
            Effect::Class(class) => {
                if *class == Class::Collection {
                    self.open_collections.insert_into(open);
                }
                if let Some(out) = self.by_class.get(*class as usize) {
                    out.remove_from(left);
                }
            }
        }
    }

    fn apply_text(
        &self,
        text: Option<&Text>,
        is_numeric: bool,
        left: &mut [u64],
        open: &mut [u64],
        spare: &mut [u64],
    ) {
        let (before, flags) = spare.split_at_mut(left.len());
        if is_numeric {
            before.copy_from_slice(left);
        }
        match text {
            None => self.by_other_text.remove_from(left),
            Some(Text::Out(out)) => out.remove_from(left),
            Some(Text::Change { not, also }) => {
                for (flag, &place) in flags.iter_mut().zip(not) {
                    *flag = u64::from(contains(left, place));
                }
                self.by_other_text.remove_from(left);
                also.iter().for_each(|&place| remove(left, place));
                for (flag, &place) in flags.iter().zip(not) {
                    if *flag == 1 {
                        insert(left, place);
                    }
                }
            }
        }
        if is_numeric {
            // These are tried one by one, whatever the text alone would rule out.
            self.on_numeric_text.insert_into(open);
            self.on_numeric_text.copy_in(before, left);
        }
    }

    /// The memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let texts: usize = self
            .texts
            .iter()
            .map(|(text, change)| {
                text.len()
                    + match change {
                        Text::Out(out) => out.heap_bytes(),
                        Text::Change { not, also } => (not.len() + also.len()) * 4,
                    }
            })
            .sum();
        let sets: usize = self
            .by_class
            .iter()
            .chain([
                &self.by_other_text,
                &self.on_numeric_text,
                &self.open_numbers,
                &self.open_texts,
                &self.open_collections,
            ])
            .map(Members::heap_bytes)
            .sum();
        size_of::<Self>()
            + self.texts.capacity() * (size_of::<(Box<str>, Text)>() + 1)
            + texts
            + sets
            + self.numbers.heap_bytes()
    }
}

fn texts(campaigns: &[(u32, Domain<'_>)], words: usize) -> HashMap<Box<str>, Text, RandomState> {
    /// Campaigns for which a text is an exception.
    #[derive(Default)]
    struct Exceptions {
        not: Vec<u32>,
        also: Vec<u32>,
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
    let mut built = HashMap::with_capacity_and_hasher(listed.len(), RandomState::default());
    for (text, Exceptions { not, also }) in listed {
        let change = if not.len() + also.len() < words {
            Text::Change {
                not: not.into(),
                also: also.into(),
            }
        } else {
            let mut out: Vec<u32> = others_out
                .iter()
                .filter(|place| not.binary_search(place).is_err())
                .copied()
                .chain(also)
                .collect();
            out.sort_unstable();
            Text::Out(Members::new(out, words))
        };
        built.insert(Box::from(text), change);
    }
    built
}
