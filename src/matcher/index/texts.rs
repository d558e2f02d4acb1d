//! What the listed texts of a block's attributes change.
//!
//! A table for each attribute, all in one array. A slot has the beginning of its text and what the
//! text changes, so that most look-ups see one slot and nothing else.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::names;
use super::sets::{Set, offset, touch};

/// Tables of one kind of a block. `T` is what a listed text changes.
#[derive(Debug, Default)]
pub(super) struct Tables<T> {
    slots: Vec<Slot<T>>,
    /// The texts that a slot has no room for, one after another.
    long: String,
    hasher: RandomState,
}

/// One table among [`Tables`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Table {
    first: u32,
    /// A power of two, or 0.
    slots: u32,
}

/// What one listed text changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Who is ruled out by it, instead of by other texts.
    Out(Set),
    /// A list of who is not ruled out though by other texts, and after it of who is though not by
    /// others: together fewer than a set has words.
    Exceptions { start: u32, not: u16, also: u16 },
}

/// Nothing.
impl Default for Change {
    fn default() -> Self {
        Change::Exceptions {
            start: 0,
            not: 0,
            also: 0,
        }
    }
}

/// Half a cache line, so that none is in two of them.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Slot<T> {
    begins: u64,
    /// In bytes; [`VACANT`] where there is no text.
    length: u32,
    /// Where a long text begins.
    long: u32,
    change: T,
}

/// Texts up to this length stand in the slot.
const BEGINS: usize = 8;

const VACANT: u32 = u32::MAX;

impl<T: Copy + Default> Tables<T> {
    /// Adds a table of these texts, each once.
    pub(super) fn add(&mut self, texts: &[(&str, T)]) -> Table {
        if texts.is_empty() {
            return Table::default();
        }
        // Between a third and two thirds are taken.
        let count = (texts.len() * 3 / 2 + 1).next_power_of_two();
        let first = self.slots.len();
        let vacant = Slot {
            begins: 0,
            length: VACANT,
            long: 0,
            change: T::default(),
        };
        self.slots.resize(first + count, vacant);
        let table = Table {
            first: offset(first),
            slots: offset(count),
        };
        for (text, change) in texts {
            let slot = Slot {
                begins: begins(text),
                length: offset(text.len()),
                long: offset(self.long.len()),
                change: *change,
            };
            if text.len() > BEGINS {
                self.long.push_str(text);
            }
            let place = places(table, self.hasher.hash_one(text))
                .find(|place| self.slots.get(*place).is_some_and(|it| it.length == VACANT));
            if let Some(vacant) = place.and_then(|place| self.slots.get_mut(place)) {
                *vacant = slot;
            }
        }
        table
    }

    /// Asks for the memory of the slot where a text is if it is listed, most probably; its hash.
    #[inline(always)]
    pub(super) fn seek(&self, table: Table, text: &str) -> u64 {
        if table.slots == 0 {
            return 0;
        }
        let hash = self.hasher.hash_one(text);
        let slot = places(table, hash).next();
        touch(
            slot.and_then(|slot| self.slots.get(slot..=slot))
                .unwrap_or_default(),
        );
        hash
    }

    /// What the text of this hash changes; `None` for one that is not listed.
    #[inline(always)]
    pub(super) fn look_up(&self, table: Table, text: &str, hash: u64) -> Option<T> {
        let (begins, length) = (begins(text), text.len());
        for place in places(table, hash) {
            let slot = self.slots.get(place).filter(|it| it.length != VACANT)?;
            if slot.begins == begins && slot.length as usize == length {
                let long = slot.long as usize;
                if length <= BEGINS || self.long.get(long..long + length) == Some(text) {
                    return Some(slot.change);
                }
            }
        }
        None
    }

    /// All changes of a table.
    pub(super) fn changes(&self, table: Table) -> impl Iterator<Item = T> {
        let (first, count) = (table.first as usize, table.slots as usize);
        let slots = self.slots.get(first..first + count).unwrap_or_default();
        let taken = slots.iter().filter(|slot| slot.length != VACANT);
        taken.map(|slot| slot.change)
    }

    /// Gives back what was taken for growing.
    pub(super) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.long.shrink_to_fit();
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[Slot<T>]>(&self.slots) + self.long.len()
    }
}

/// The slots where a text of this hash may be, in turn. One of them is vacant if there are any.
#[inline(always)]
fn places(table: Table, hash: u64) -> impl Iterator<Item = usize> {
    let (first, count) = (table.first as usize, table.slots as usize);
    let start = hash as usize;
    (0..count).map(move |step| first + (start.wrapping_add(step) & (count - 1)))
}

/// Up to [`BEGINS`] bytes.
#[inline(always)]
fn begins(text: &str) -> u64 {
    names::begins(text.as_bytes()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_texts_are_found_and_others_are_not() {
        let long = |number: usize| format!("the same beginning {number}");
        let texts: Vec<String> = (0..500)
            .flat_map(|number| [number.to_string(), long(number), "\0".repeat(number)])
            .collect();
        let change = |start| Change::Exceptions {
            start,
            not: 0,
            also: 0,
        };
        let mut tables = Tables::default();
        for count in [0, 1, 2, 3, 1_500] {
            let listed: Vec<(&str, Change)> = texts
                .iter()
                .take(count)
                .zip(0..)
                .map(|(text, number)| (text.as_str(), change(number)))
                .collect();
            let table = tables.add(&listed);
            assert_eq!(tables.changes(table).count(), count);
            let look_up = |text: &str| tables.look_up(table, text, tables.seek(table, text));
            for (text, number) in texts.iter().zip(0..) {
                let found = match look_up(text) {
                    Some(Change::Exceptions { start, .. }) => Some(start),
                    Some(Change::Out(_)) | None => None,
                };
                let listed = (number as usize) < count;
                assert_eq!(found, listed.then_some(number), "{text:?} of {count}");
            }
            for other in ["500", "the same beginning", "the same beginning 500", "é"] {
                assert!(look_up(other).is_none(), "{other:?}");
            }
        }
    }
}
