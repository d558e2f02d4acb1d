//! Trying what the index has left.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Block;
use super::sets::{insert, meets, places};
use crate::matcher::failures::{Notes, Runs};
use crate::matcher::{Campaign, Matches};
use crate::rules::native::Outcomes;
use crate::rules::{Allowance, EvalErrorKind, Prepared, Work};

/// The campaigns of a block that its index has left.
#[derive(Debug, Clone, Copy)]
pub(in crate::matcher) struct Left<'a> {
    pub(super) left: &'a [u64],
    /// Those of them that are to be tried; the others match unless their schedule is against it.
    pub(super) tried: &'a [u64],
    /// Whether there are such.
    pub(super) is_any_tried: bool,
}

/// A set of a block's campaigns; the largest blocks have so many words.
type Words = SmallVec<[u64; 96]>;

/// What a decision on a block found.
#[derive(Debug)]
pub(in crate::matcher) struct Found<'s> {
    /// `None` for a decision that nobody sees, which counts for nothing.
    pub(in crate::matcher) runs: Option<&'s Runs>,
    /// Once the decision was given up the rest is left out.
    pub(in crate::matcher) allowance: &'s Allowance<'s>,
    pub(in crate::matcher) matched: Matches,
    pub(in crate::matcher) errors: u32,
    pub(in crate::matcher) notes: Notes,
}

impl Block {
    /// What it can take to try those that are left.
    pub(in crate::matcher) fn work(&self, left: Left<'_>) -> Work {
        if !left.is_any_tried {
            return Work::default();
        }
        let tried = places(left.tried.iter().copied());
        let tried = tried.filter_map(|place| self.campaigns.get(usize::from(place)));
        tried.map(|it| it.work()).sum()
    }

    /// The same for all campaigns of the block.
    pub(in crate::matcher) fn work_of_all(&self) -> Work {
        self.campaigns.iter().map(|it| it.work()).sum()
    }

    /// The campaigns of those left that match, best first, added to `found`.
    pub(in crate::matcher) fn decide(
        self: &Arc<Self>,
        left: Left<'_>,
        facts: &Prepared<'_>,
        found: &mut Found<'_>,
    ) {
        let are_all_looked_at = found.runs.is_some_and(Runs::is_any);
        // A campaign that matches for certain is not touched, which would be waited for.
        if !left.is_any_tried && !are_all_looked_at && !meets(left.left, &self.scheduled) {
            found.matched.add(self, left.left);
            return;
        }
        let certain_too = if are_all_looked_at { u64::MAX } else { 0 };
        let mut shown = Words::from(left.left);
        let words = shown.iter_mut().zip(left.tried).zip(&self.scheduled);
        for (((shown, tried), scheduled), index) in words.zip(0_u16..) {
            for place in places([*shown & (tried | scheduled | certain_too)]) {
                let campaign = self.campaigns.get(usize::from(index * 64 + place));
                let is_certain = tried & (1 << place) == 0;
                if !campaign.is_some_and(|it| it.is_shown(is_certain, facts, found)) {
                    *shown &= !(1 << place);
                }
            }
        }
        found.matched.add(self, &shown);
    }

    /// The campaigns for which `is_shown`, which are tried one by one, added to `found`.
    pub(in crate::matcher) fn try_all(
        self: &Arc<Self>,
        found: &mut Found<'_>,
        mut is_shown: impl FnMut(&Campaign, &mut Found<'_>) -> bool,
    ) {
        let mut shown = Words::from_elem(0, self.campaigns.len().div_ceil(64));
        for (campaign, place) in self.campaigns.iter().zip(0..) {
            if !found.allowance.is_over() && is_shown(campaign, found) {
                insert(&mut shown, place);
            }
        }
        found.matched.add(self, &shown);
    }
}

impl Campaign {
    /// Whether it is open and, unless that is certain, holds.
    fn is_shown(
        self: &Arc<Self>,
        is_certain: bool,
        facts: &Prepared<'_>,
        found: &mut Found<'_>,
    ) -> bool {
        let is_shown = self.schedule.is_open(facts.facts().now)
            && (is_certain || (!found.allowance.is_over() && self.holds(facts, found)));
        if is_shown {
            self.not_failed(found);
        }
        is_shown
    }

    /// Whether the rules, segments and targeting hold.
    fn holds(self: &Arc<Self>, facts: &Prepared<'_>, found: &mut Found<'_>) -> bool {
        let view = facts.view();
        if self.extras().gates.outcomes(view) != Outcomes::YES {
            return false;
        }
        let Some(targeting) = &self.targeting else {
            return true;
        };
        match targeting.node().outcomes(view) {
            Outcomes::YES => true,
            Outcomes::FAILS => {
                self.failed(EvalErrorKind::Type, facts.facts().now, found);
                false
            }
            outcomes if !outcomes.may_hold() => {
                // What it is, no or a failure, only the library could tell.
                if outcomes == Outcomes::NO {
                    self.not_failed(found);
                }
                false
            }
            _ => match targeting.matches_by_library(facts) {
                Ok(holds) => {
                    self.not_failed(found);
                    holds
                }
                Err(error) => {
                    self.failed(error.kind, facts.facts().now, found);
                    false
                }
            },
        }
    }
}
