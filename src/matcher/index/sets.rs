//! Sets of campaigns, by their place in a block.
//!
//! All sets of a block stand in two arrays, so that a decision, which looks into many of them,
//! finds them side by side and not all over the memory.

use multiversion::multiversion;
#[cfg(target_arch = "x86_64")]
use safe_arch::prefetch_t0 as fetch;

/// A campaign's place in its block.
pub(in crate::matcher) type Place = u16;

/// The sets of a block.
#[derive(Debug, Default)]
pub(super) struct Sets {
    rows: Vec<u64>,
    places: Vec<Place>,
}

/// A set among [`Sets`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Set {
    start: u32,
    /// How many places there are, or [`ROW`].
    length: u32,
}

/// The length of a set that has a bit for each place.
const ROW: u32 = u32::MAX;

/// The members of a set: as a list while they are few, as bits from there on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Members<'i> {
    /// Nobody.
    #[default]
    None,
    /// Places in rising order.
    Few(&'i [Place]),
    /// A bit for each place.
    Many(&'i [u64]),
}

impl Sets {
    /// Adds the set of these places, which are in rising order, in a block of so many words.
    pub(super) fn add(&mut self, places: &[Place], words: usize) -> Set {
        if places.is_empty() {
            return Set::default();
        }
        if places.len() < words {
            return Set {
                start: self.add_list(places),
                length: offset(places.len()),
            };
        }
        let mut bits = vec![0; words];
        for &place in places {
            insert(&mut bits, place);
        }
        Set {
            start: self.add_row(&bits),
            length: ROW,
        }
    }

    /// Adds bits; where they begin.
    pub(super) fn add_row(&mut self, bits: &[u64]) -> u32 {
        let start = offset(self.rows.len());
        self.rows.extend_from_slice(bits);
        start
    }

    /// Adds places; where they begin.
    pub(super) fn add_list(&mut self, places: &[Place]) -> u32 {
        let start = offset(self.places.len());
        self.places.extend_from_slice(places);
        start
    }

    /// The members of a set in a block of so many words.
    #[inline(always)]
    pub(super) fn members(&self, set: Set, words: usize) -> Members<'_> {
        match set.length {
            0 => Members::None,
            ROW => Members::Many(self.row(set.start as usize, words)),
            length => Members::Few(self.list(set.start, length)),
        }
    }

    /// So many words from there.
    #[inline(always)]
    pub(super) fn row(&self, start: usize, words: usize) -> &[u64] {
        self.rows.get(start..start + words).unwrap_or_default()
    }

    /// So many places from there.
    #[inline(always)]
    pub(super) fn list(&self, start: u32, length: u32) -> &[Place] {
        let (start, length) = (start as usize, length as usize);
        self.places.get(start..start + length).unwrap_or_default()
    }

    /// Gives back what was taken for growing.
    pub(super) fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.places.shrink_to_fit();
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[u64]>(&self.rows) + size_of_val::<[Place]>(&self.places)
    }
}

/// A place in one of a block's arrays. A block has no four thousand million of anything.
pub(super) fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Members<'_> {
    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        matches!(self, Members::None)
    }

    /// Takes the members out of a set.
    #[inline(always)]
    pub(super) fn remove_from(self, set: &mut [u64]) {
        match self {
            Members::None => {}
            Members::Few(places) => places.iter().for_each(|&place| remove(set, place)),
            Members::Many(bits) => {
                for (word, bits) in set.iter_mut().zip(bits) {
                    *word &= !bits;
                }
            }
        }
    }

    /// Adds the members to a set.
    #[inline(always)]
    pub(super) fn insert_into(self, set: &mut [u64]) {
        match self {
            Members::None => {}
            Members::Few(places) => places.iter().for_each(|&place| insert(set, place)),
            Members::Many(bits) => {
                for (word, bits) in set.iter_mut().zip(bits) {
                    *word |= bits;
                }
            }
        }
    }

    /// Whether a set has any of the members.
    pub(super) fn meets(self, set: &[u64]) -> bool {
        match self {
            Members::None => false,
            Members::Few(places) => places.iter().any(|&place| contains(set, place)),
            Members::Many(bits) => meets(set, bits),
        }
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        match self {
            Members::None => 0,
            Members::Few(places) => places.len(),
            Members::Many(bits) => count(bits),
        }
    }

    /// Asks for the memory of the members before they are needed.
    #[inline(always)]
    pub(super) fn touch(self) {
        if let Members::Many(bits) = self {
            touch(bits);
        }
    }
}

/// Asks for the cache lines of a row without waiting for them. Rows begin anywhere in a line, so the last
/// word may be in one more.
#[inline(always)]
pub(super) fn touch<T: Copy>(row: &[T]) {
    let lines = row.iter().step_by(LINE / size_of::<T>()).chain(row.last());
    lines.for_each(fetch);
}

/// Reading asks for it as well.
#[cfg(not(target_arch = "x86_64"))]
fn fetch<T: Copy>(word: &T) {
    std::hint::black_box(*word);
}

/// The length of a cache line, in bytes.
const LINE: usize = 64;

#[inline(always)]
fn split(place: Place) -> (usize, u64) {
    let place = place as usize;
    (place / 64, 1 << (place % 64))
}

#[inline(always)]
pub(super) fn insert(set: &mut [u64], place: Place) {
    let (word, bit) = split(place);
    if let Some(word) = set.get_mut(word) {
        *word |= bit;
    }
}

#[inline(always)]
pub(super) fn remove(set: &mut [u64], place: Place) {
    let (word, bit) = split(place);
    if let Some(word) = set.get_mut(word) {
        *word &= !bit;
    }
}

#[inline(always)]
pub(super) fn flip(set: &mut [u64], place: Place) {
    let (word, bit) = split(place);
    if let Some(word) = set.get_mut(word) {
        *word ^= bit;
    }
}

pub(super) fn contains(set: &[u64], place: Place) -> bool {
    let (word, bit) = split(place);
    set.get(word).is_some_and(|word| word & bit != 0)
}

/// Whether two sets have members in common.
pub(super) fn meets(set: &[u64], other: &[u64]) -> bool {
    let common = set.iter().zip(other).map(|(word, other)| word & other);
    common.fold(0, |all, word| all | word) != 0
}

/// How many members a set has.
#[multiversion(targets("x86_64+popcnt"))]
pub(in crate::matcher) fn count(set: &[u64]) -> usize {
    set.iter().map(|word| word.count_ones() as usize).sum()
}

/// The places in a set, which is given in words, in rising order.
pub(super) fn places(set: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Place> {
    set.into_iter().zip(0_u16..).flat_map(|(word, index)| {
        let mut left = word;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bit = left.trailing_zeros() as Place;
            left &= left - 1;
            Some(index * 64 + bit)
        })
    })
}
