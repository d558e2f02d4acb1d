//! Which campaigns a number rules out.
//!
//! The places on the number line where some campaign's condition begins or ceases to hold are
//! kept in order, with the campaign: passing one flips it. The line is cut into segments, so that
//! a look-up need not start at the far left: for each it is written down who is ruled out where it
//! begins, and which flips there are on the way to the next. Segments of one line are of one size,
//! and what a look-up needs of one stands together.

use super::sets::{Place, flip, insert, offset, touch};
use crate::rules::native::{Cut, Ranges};

/// The number lines of a block's attributes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where each segment begins.
    begins: Vec<Cut>,
    /// Of each segment the places of its flips, filled up with ones that no number passes, and then
    /// who is ruled out where it begins.
    segments: Vec<u64>,
    /// Who is flipped, for each of these places.
    flips: Vec<Place>,
}

/// One line among [`Lines`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    /// How many segments there are.
    count: u32,
    /// Where they stand in [`Lines::begins`], [`Lines::segments`] and [`Lines::flips`].
    begins: u32,
    segments: u32,
    flips: u32,
}

/// Where a number stands on a line; on one without segments, nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spot {
    segment: u32,
    /// How many of the segment's flips it has passed.
    passed: u32,
}

/// How many flips a segment has room for in a set of so many words: about as many as it takes to
/// cost what the set does.
#[inline(always)]
fn room(words: usize) -> usize {
    FLIPS_MIN.max(words / 2)
}

/// A segment has room for at least so many flips.
const FLIPS_MIN: usize = 16;

/// Among more segments than this it is worth halving.
const SEGMENTS_FEW: usize = 64;

impl Lines {
    /// Adds a line from the ranges in which campaigns hold. Campaigns are given in rising order,
    /// those that hold everywhere left out.
    pub(super) fn add(&mut self, campaigns: &[(Place, &Ranges)], words: usize) -> Line {
        if campaigns.is_empty() {
            return Line::default();
        }
        let mut flips: Vec<(Cut, Place)> = campaigns
            .iter()
            .flat_map(|(place, ranges)| ranges.cuts().iter().map(|cut| (*cut, *place)))
            .collect();
        flips.sort_by(|left, right| left.0.order(&right.0));
        let room = room(words);
        let mut out = vec![0; words];
        for (place, _) in campaigns {
            insert(&mut out, *place);
        }
        let mut line = Line {
            count: 0,
            begins: offset(self.begins.len()),
            segments: offset(self.segments.len()),
            flips: offset(self.flips.len()),
        };
        let mut begin = Cut::before(f64::NEG_INFINITY);
        let mut inside: Vec<(Cut, Place)> = Vec::with_capacity(room);
        let mut end = |begin, inside: &mut Vec<(Cut, Place)>, out: &mut [u64]| {
            line.count += 1;
            self.begins.push(begin);
            let none = (Cut::NEVER_PASSED, 0);
            let padded = inside.iter().chain(std::iter::repeat(&none)).take(room);
            for (cut, place) in padded {
                self.segments.push(cut.to_bits());
                self.flips.push(*place);
            }
            self.segments.extend_from_slice(out);
            inside.drain(..).for_each(|(_, place)| flip(out, place));
        };
        for group in flips.chunk_by(|left, right| left.0 == right.0) {
            let (Some((cut, _)), true) = (group.first(), inside.len() + group.len() > room) else {
                inside.extend_from_slice(group);
                continue;
            };
            end(begin, &mut inside, &mut out);
            begin = *cut;
            // What happens where a segment begins is in its row.
            group.iter().for_each(|(_, place)| flip(&mut out, *place));
        }
        end(begin, &mut inside, &mut out);
        line
    }

    /// Finds the segment in which a number stands, and asks for its memory.
    #[inline(always)]
    pub(super) fn seek(&self, line: Line, number: f64, words: usize) -> u32 {
        let place = Cut::before(number);
        let is_passed = |cut: &Cut| *cut <= place;
        let (first, count) = (line.begins as usize, line.count as usize);
        // The first begins before every number, and before what is no number.
        let Some(begins) = self.begins.get(first + 1..first + count) else {
            return 0;
        };
        let segment = if begins.len() > SEGMENTS_FEW {
            begins.partition_point(is_passed)
        } else {
            begins.iter().filter(|cut| is_passed(cut)).count()
        };
        let room = room(words);
        let start = line.segments as usize + segment * (room + words);
        let end = start + room + words;
        touch(self.segments.get(start..end).unwrap_or_default());
        let flips = line.flips as usize + segment * room;
        touch(self.flips.get(flips..flips + room).unwrap_or_default());
        offset(segment)
    }

    /// Finds where a number stands in its segment.
    #[inline(always)]
    pub(super) fn look_up(&self, line: Line, segment: u32, number: f64, words: usize) -> Spot {
        if segment >= line.count {
            return Spot::default();
        }
        let place = Cut::before(number);
        let room = room(words);
        let start = line.segments as usize + segment as usize * (room + words);
        let cuts = self.segments.get(start..start + room).unwrap_or_default();
        let is_passed = |bits: &&u64| Cut::from_bits(**bits) <= place;
        Spot {
            segment,
            passed: offset(cuts.iter().filter(is_passed).count()),
        }
    }

    /// Who is ruled out where the segment begins, and who stands the other way where the number is.
    #[inline(always)]
    pub(super) fn out(&self, line: Line, spot: Spot, words: usize) -> (&[u64], &[Place]) {
        if spot.segment >= line.count {
            return Default::default();
        }
        let (room, segment) = (room(words), spot.segment as usize);
        let start = line.segments as usize + segment * (room + words) + room;
        let flips = line.flips as usize + segment * room;
        (
            self.segments.get(start..start + words).unwrap_or_default(),
            self.flips
                .get(flips..flips + spot.passed as usize)
                .unwrap_or_default(),
        )
    }

    /// At how many places of a line somebody is flipped.
    pub(super) fn places(&self, line: Line, words: usize) -> usize {
        let room = room(words);
        let (first, count) = (line.begins as usize, line.count as usize);
        // The first begins before every number.
        let begins = self.begins.get(first..first + count).unwrap_or_default();
        let begins = begins.iter().skip(1).map(|cut| cut.to_bits());
        let start = line.segments as usize;
        let segments = self.segments.get(start..start + count * (room + words));
        let segments = segments.unwrap_or_default().chunks_exact(room + words);
        let inside = segments.flat_map(|segment| segment.iter().take(room).copied());
        let flips = inside.filter(|bits| *bits != Cut::NEVER_PASSED.to_bits());
        let mut places: Vec<u64> = begins.chain(flips).collect();
        places.sort_unstable();
        places.dedup();
        places.len()
    }

    /// How many campaigns a number rules out, on average over the segments.
    pub(super) fn mean_out(&self, line: Line, words: usize) -> usize {
        let out = (0..line.count).map(|segment| {
            let spot = Spot { segment, passed: 0 };
            let (out, _) = self.out(line, spot, words);
            out.iter()
                .map(|word| word.count_ones() as usize)
                .sum::<usize>()
        });
        let all: usize = out.sum();
        all.checked_div(line.count as usize).unwrap_or_default()
    }

    /// Gives back what was taken for growing.
    pub(super) fn shrink(&mut self) {
        self.begins.shrink_to_fit();
        self.segments.shrink_to_fit();
        self.flips.shrink_to_fit();
    }

    /// The memory it takes beyond itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[Cut]>(&self.begins)
            + size_of_val::<[u64]>(&self.segments)
            + size_of_val::<[Place]>(&self.flips)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::sets::contains;
    use super::super::twins::random;
    use super::*;
    use crate::rules::native::Domain;
    use crate::rules::{Condition, Limits};
    use serde_json::json;

    /// Segments and flips come to the same as asking each campaign's ranges.
    #[test]
    fn a_number_rules_out_whom_its_ranges_do_not_hold() {
        for (seed, campaigns, values) in [(1_u64, 3, 4), (2, 70, 2), (3, 200, 50), (4, 700, 9)] {
            let mut random = random(seed);
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
            let mut lines = Lines::default();
            let words = domains.len().div_ceil(64);
            // Another line before it, so that nothing begins at 0.
            lines.add(&ranges, words);
            let line = lines.add(&ranges, words);
            let halves = (0..8 * values).map(|step| step as f64 / 2.0 - 1.0);
            let odd = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, -0.0, f64::MIN];
            for number in halves.chain(odd) {
                let segment = lines.seek(line, number, words);
                let spot = lines.look_up(line, segment, number, words);
                let (row, flips) = lines.out(line, spot, words);
                let mut out = row.to_vec();
                flips.iter().for_each(|place| flip(&mut out, *place));
                for (place, ranges) in &ranges {
                    assert_eq!(
                        !contains(&out, *place),
                        ranges.contains(number),
                        "seed {seed}, {number} in {ranges:?}"
                    );
                }
            }
        }
    }
}
