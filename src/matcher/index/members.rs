//! Sets of campaigns, by their place in a block.

/// A set: as a list while it is small, as bits from there on.
#[derive(Debug, Default)]
pub(super) enum Members {
    /// Nobody.
    #[default]
    None,
    /// Places in rising order.
    Few(Box<[u32]>),
    /// A bit for each place.
    Many(Box<[u64]>),
}

impl Members {
    /// The set of these places, which are in rising order, in a block of so many words.
    pub(super) fn new(places: Vec<u32>, words: usize) -> Members {
        if places.is_empty() {
            return Members::None;
        }
        if places.len() < words {
            return Members::Few(places.into());
        }
        let mut bits = vec![0; words];
        for place in places {
            insert(&mut bits, place);
        }
        Members::Many(bits.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Members::None)
    }

    /// Takes the members out of a set.
    pub(super) fn remove_from(&self, set: &mut [u64]) {
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
    pub(super) fn insert_into(&self, set: &mut [u64]) {
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

    /// Adds the members that another set has to a set.
    pub(super) fn copy_in(&self, from: &[u64], set: &mut [u64]) {
        match self {
            Members::None => {}
            Members::Few(places) => {
                let there = places.iter().filter(|&&place| contains(from, place));
                there.for_each(|&place| insert(set, place));
            }
            Members::Many(bits) => {
                for ((word, from), bits) in set.iter_mut().zip(from).zip(bits) {
                    *word |= from & bits;
                }
            }
        }
    }

    /// Whether a set has any of the members.
    pub(super) fn meets(&self, set: &[u64]) -> bool {
        match self {
            Members::None => false,
            Members::Few(places) => places.iter().any(|&place| contains(set, place)),
            Members::Many(bits) => set.iter().zip(bits).any(|(word, bits)| word & bits != 0),
        }
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Members::None => 0,
            Members::Few(places) => size_of_val::<[u32]>(places),
            Members::Many(bits) => size_of_val::<[u64]>(bits),
        }
    }
}

fn split(place: u32) -> (usize, u64) {
    let place = place as usize;
    (place / 64, 1 << (place % 64))
}

pub(super) fn insert(set: &mut [u64], place: u32) {
    let (word, bit) = split(place);
    if let Some(word) = set.get_mut(word) {
        *word |= bit;
    }
}

pub(super) fn remove(set: &mut [u64], place: u32) {
    let (word, bit) = split(place);
    if let Some(word) = set.get_mut(word) {
        *word &= !bit;
    }
}

pub(super) fn flip(set: &mut [u64], place: u32) {
    let (word, bit) = split(place);
    if let Some(word) = set.get_mut(word) {
        *word ^= bit;
    }
}

pub(super) fn contains(set: &[u64], place: u32) -> bool {
    let (word, bit) = split(place);
    set.get(word).is_some_and(|word| word & bit != 0)
}

/// The places in a set, in rising order.
pub(super) fn places(set: &[u64]) -> impl Iterator<Item = u32> {
    set.iter().zip(0_u32..).flat_map(|(&word, index)| {
        let mut left = word;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bit = left.trailing_zeros();
            left &= left - 1;
            Some(index * 64 + bit)
        })
    })
}
