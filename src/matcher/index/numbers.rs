//! Which campaigns a number rules out.
//!
//! The places on the number line where some campaign's condition begins or ceases to hold are
//! kept in order, with the campaign: passing one flips it. The line is cut into segments, so that
//! a look-up need not start at the far left: for each it is written down who is ruled out where it
//! begins, and which flips there are on the way to the next.

use super::sets::{Place, Sets, flip, insert, offset};
use crate::rules::native::{Cut, Ranges};

/// The number lines of a block's attributes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where each segment begins.
    begins: Vec<Cut>,
    /// Where each segment's flips begin.
    first_flips: Vec<u32>,
    cuts: Vec<Cut>,
    flips: Vec<Place>,
}

/// One line among [`Lines`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    first_segment: u32,
    segments: u32,
    /// Where the last segment's flips end.
    end: u32,
    /// Where the segments' rows begin, one after another.
    rows: u32,
}

/// What a number rules out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State<'i> {
    /// Who is ruled out where the segment begins.
    pub(super) out: &'i [u64],
    /// Who is in and out the other way at the number.
    pub(super) flips: &'i [Place],
}

impl Line {
    pub(super) fn segments(self) -> u32 {
        self.segments
    }
}

impl State<'_> {
    /// Takes the campaigns that are ruled out of a set. `spare` has its length.
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

/// Among more segments than this it is worth halving.
const SEGMENTS_FEW: usize = 64;

impl Lines {
    /// Adds a line from the ranges in which campaigns hold. Campaigns are given in rising order,
    /// those that hold everywhere left out.
    pub(super) fn add(
        &mut self,
        campaigns: &[(Place, &Ranges)],
        sets: &mut Sets,
        words: usize,
    ) -> Line {
        if campaigns.is_empty() {
            return Line::default();
        }
        let mut flips: Vec<(Cut, Place)> = campaigns
            .iter()
            .flat_map(|(place, ranges)| ranges.cuts().iter().map(|cut| (*cut, *place)))
            .collect();
        flips.sort_by(|left, right| left.0.order(&right.0));
        let every = FLIPS_MIN.max(words / 2);
        let mut state = vec![0; words];
        for (place, _) in campaigns {
            insert(&mut state, *place);
        }
        let first_segment = offset(self.begins.len());
        let mut segment = self.cuts.len();
        self.begins.push(Cut::before(f64::NEG_INFINITY));
        self.first_flips.push(offset(segment));
        let rows = sets.add_row(&state);
        for group in flips.chunk_by(|left, right| left.0 == right.0) {
            for (cut, place) in group {
                flip(&mut state, *place);
                self.cuts.push(*cut);
                self.flips.push(*place);
            }
            let (Some((cut, _)), true) = (group.first(), self.cuts.len() - segment >= every) else {
                continue;
            };
            // What happens where a segment begins is in its row.
            self.cuts.truncate(self.cuts.len() - group.len());
            self.flips.truncate(self.cuts.len());
            segment = self.cuts.len();
            self.begins.push(*cut);
            self.first_flips.push(offset(segment));
            sets.add_row(&state);
        }
        Line {
            first_segment,
            segments: offset(self.begins.len()) - first_segment,
            end: offset(self.cuts.len()),
            rows,
        }
    }

    /// Finds what a number rules out of sets of so many words.
    pub(super) fn look_up<'i>(
        &'i self,
        line: Line,
        number: f64,
        sets: &'i Sets,
        words: usize,
    ) -> State<'i> {
        let first = line.first_segment as usize;
        let end = first + line.segments as usize;
        // The first begins before every number, and before what is no number.
        let Some(begins) = self.begins.get(first + 1..end) else {
            return State::default();
        };
        let place = Cut::before(number);
        let is_passed = |cut: &Cut| *cut <= place;
        let segment = if begins.len() > SEGMENTS_FEW {
            begins.partition_point(is_passed)
        } else {
            begins.iter().filter(|cut| is_passed(cut)).count()
        };
        let out = sets.row(line.rows as usize + segment * words, words);
        let flip_at = |segment: usize| self.first_flips.get(segment).map(|place| *place as usize);
        let from = flip_at(first + segment).unwrap_or_default();
        let to = match segment == begins.len() {
            true => line.end as usize,
            false => flip_at(first + segment + 1).unwrap_or_default(),
        };
        let cuts = self.cuts.get(from..to).unwrap_or_default();
        let passed = cuts.iter().filter(|cut| is_passed(cut)).count();
        State {
            out,
            flips: self.flips.get(from..from + passed).unwrap_or_default(),
        }
    }

    /// How many campaigns a number rules out, on average over the segments.
    pub(super) fn mean_out(&self, line: Line, sets: &Sets, words: usize) -> usize {
        let segments = line.segments as usize;
        let rows = sets.row(line.rows as usize, segments * words).iter();
        let out: usize = rows.map(|word| word.count_ones() as usize).sum();
        out.checked_div(segments).unwrap_or_default()
    }

    /// Gives back what was taken for growing.
    pub(super) fn shrink(&mut self) {
        self.begins.shrink_to_fit();
        self.first_flips.shrink_to_fit();
        self.cuts.shrink_to_fit();
        self.flips.shrink_to_fit();
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[Cut]>(&self.begins)
            + size_of_val::<[u32]>(&self.first_flips)
            + size_of_val::<[Cut]>(&self.cuts)
            + size_of_val::<[Place]>(&self.flips)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::sets::contains;
    use super::*;
    use crate::rules::native::Domain;
    use crate::rules::{Condition, Limits};
    use serde_json::json;

    /// Segments and flips come to the same as asking each campaign's ranges.
    #[test]
    fn a_number_rules_out_whom_its_ranges_do_not_hold() {
        for (seed, campaigns, values) in [(1_u64, 3, 4), (2, 70, 2), (3, 200, 50), (4, 700, 9)] {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let conditions: Vec<Condition> = (0..campaigns)
                .map(|_| {
                    let (low, more) = (random(values), random(values));
                    let var = json!({ "var": "user.traits.a" });
                    let rule = match random(5) {
                        0 => json!({ ">": [var, low] }),
                        1 => json!({ "<=": [var, low] }),
                        2 => json!({ "<": [low, var, low + more] }),
                        3 => json!({ "!": { "<": [low, var, low + more] } }),
                        _ => json!({ "in": [var, [low, low + more, low + 3 * more]] }),
                    };
                    Condition::parse(&rule, &Limits::default()).unwrap()
                })
                .collect();
            let domains: Vec<_> = conditions
                .iter()
                .map(|condition| Domain::of(condition.node()).unwrap().1)
                .collect();
            let ranges: Vec<_> = (0..)
                .zip(domains.iter().map(|domain| &domain.yes.numbers))
                .collect();
            let (mut lines, mut sets) = (Lines::default(), Sets::default());
            let words = domains.len().div_ceil(64);
            // Another line before it, so that nothing begins at 0.
            lines.add(&ranges, &mut sets, words);
            let line = lines.add(&ranges, &mut sets, words);
            let halves = (0..8 * values).map(|step| step as f64 / 2.0 - 1.0);
            let odd = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, -0.0, f64::MIN];
            for number in halves.chain(odd) {
                let mut left = vec![u64::MAX; words];
                let state = lines.look_up(line, number, &sets, words);
                state.remove_from(&mut left, &mut vec![0; words]);
                for (place, ranges) in &ranges {
                    assert_eq!(
                        contains(&left, *place),
                        ranges.contains(number),
                        "seed {seed}, {number} in {ranges:?}"
                    );
                }
            }
        }
    }
}
