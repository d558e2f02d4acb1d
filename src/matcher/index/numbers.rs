//! Which campaigns a number rules out.
//!
//! The places on the number line where some campaign's condition begins or ceases to hold are
//! kept in order. Passing one flips its campaigns. So that a look-up need not start at the far
//! left, the state is written down every so many flips, and the nearest one is the start.

use crate::rules::native::{Cut, Ranges};

use super::members::{flip, insert};

#[derive(Debug, Default)]
pub(super) struct Numbers {
    cuts: Box<[Cut]>,
    /// How many flips there are up to each cut, itself included.
    passed: Box<[u32]>,
    flips: Box<[u32]>,
    /// The campaigns ruled out after each multiple of `every` flips, one block of bits after the
    /// other.
    states: Box<[u64]>,
    every: usize,
}

/// What a number rules out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State<'i> {
    /// Who is ruled out somewhere near it.
    out: &'i [u64],
    /// Who is in and out the other way there.
    flips: &'i [u32],
}

impl State<'_> {
    /// Takes the campaigns that are ruled out of a set. `spare` has at least its length.
    pub(super) fn remove_from(&self, set: &mut [u64], spare: &mut [u64]) {
        if self.flips.is_empty() {
            for (word, out) in set.iter_mut().zip(self.out) {
                *word &= !out;
            }
            return;
        }
        for (spare, out) in spare.iter_mut().zip(self.out) {
            *spare = *out;
        }
        for place in self.flips {
            flip(spare, *place);
        }
        for (word, out) in set.iter_mut().zip(spare) {
            *word &= !*out;
        }
    }
}

/// At least so many flips between two written states.
const FLIPS_MIN: usize = 4;

impl Numbers {
    /// From the ranges in which campaigns hold. Campaigns are given in rising order, those that
    /// hold everywhere left out.
    pub(super) fn new(campaigns: &[(u32, &Ranges)], words: usize) -> Numbers {
        if campaigns.is_empty() {
            return Numbers::default();
        }
        let mut flips: Vec<(Cut, u32)> = campaigns
            .iter()
            .flat_map(|(place, ranges)| ranges.cuts().iter().map(|cut| (*cut, *place)))
            .collect();
        flips.sort_by(|left, right| left.0.order(&right.0));
        let every = FLIPS_MIN.max(words / 2);
        let mut state = vec![0; words];
        for (place, _) in campaigns {
            insert(&mut state, *place);
        }
        let mut states = state.clone();
        let (mut cuts, mut passed) = (Vec::new(), Vec::new());
        for (index, (cut, place)) in flips.iter().enumerate() {
            flip(&mut state, *place);
            if (index + 1) % every == 0 {
                states.extend_from_slice(&state);
            }
            let count = u32::try_from(index + 1).unwrap_or(u32::MAX);
            match passed.last_mut() {
                Some(last) if cuts.last() == Some(cut) => *last = count,
                _ => {
                    cuts.push(*cut);
                    passed.push(count);
                }
            }
        }
        Numbers {
            cuts: cuts.into(),
            passed: passed.into(),
            flips: flips.into_iter().map(|(_, place)| place).collect(),
            states: states.into(),
            every,
        }
    }

    /// Finds what a number rules out of sets of so many words.
    pub(super) fn look_up(&self, number: f64, words: usize) -> State<'_> {
        if self.states.is_empty() {
            return State::default();
        }
        let place = Cut::before(number);
        let cuts = self.cuts.partition_point(|cut| *cut <= place);
        let passed = cuts
            .checked_sub(1)
            .and_then(|last| self.passed.get(last))
            .map_or(0, |passed| *passed as usize);
        let written = self.states.len() / words - 1;
        let nearest = ((passed + self.every / 2) / self.every).min(written);
        let from = nearest * self.every;
        let start = nearest * words;
        let out = self.states.get(start..start + words);
        let flips = self.flips.get(from.min(passed)..from.max(passed));
        State {
            out: out.unwrap_or_default(),
            flips: flips.unwrap_or_default(),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[Cut]>(&self.cuts)
            + size_of_val::<[u32]>(&self.passed)
            + size_of_val::<[u32]>(&self.flips)
            + size_of_val::<[u64]>(&self.states)
    }
}
