//! Trying what the index has left.

use std::sync::Arc;

use super::Block;
use super::sets::places;
use crate::matcher::failures::{Notes, Runs};
use crate::matcher::{Campaign, Matches};
use crate::rules::native::Outcomes;
use crate::rules::{Allowance, EvalErrorKind, Prepared, Work};

/// The campaigns of a block that its index has left.
#[derive(Debug, Clone, Copy)]
pub(in crate::matcher) struct Left<'a> {
    pub(super) left: &'a [u64],
    /// To be tried, whatever the index says.
    pub(super) open: &'a [u64],
}

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
        let tried = places(self.words(left).map(|(_, tried)| tried));
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
        let now = facts.facts().now;
        let all_looked_at = match found.runs.is_some_and(Runs::is_any) {
            true => u64::MAX,
            false => 0,
        };
        let mut matched = std::mem::take(&mut found.matched);
        let most = left.left.iter().map(|word| word.count_ones() as usize);
        let most = most.sum();
        // A campaign that matches for certain is not touched, which would be waited for.
        let words = self.words(left).zip(&self.scheduled).zip(0_u16..);
        let shown = words.map(|(((left, tried), scheduled), index)| {
            let looked_at = left & (tried | scheduled | all_looked_at);
            let refused = places([looked_at]).filter(|&place| {
                let campaign = self.campaigns.get(usize::from(index * 64 + place));
                !campaign.is_some_and(|it| {
                    let is_certain = tried & (1 << place) == 0;
                    let is_shown = it.schedule.is_open(now)
                        && (is_certain || (!found.allowance.is_over() && it.holds(facts, found)));
                    if is_shown {
                        it.not_failed(found);
                    }
                    is_shown
                })
            });
            refused.fold(left, |left, place| left & !(1 << place))
        });
        matched.add(self, most, places(shown));
        found.matched = matched;
    }

    /// The words of the set that is left, each with those of it that have to be tried.
    fn words(&self, left: Left<'_>) -> impl Iterator<Item = (u64, u64)> {
        let words = left.left.iter().zip(left.open).zip(&self.complete);
        words.map(|((&left, open), complete)| (left, left & (open | !complete)))
    }

    /// The campaigns for which `is_shown`, which are tried one by one, added to `found`.
    pub(in crate::matcher) fn try_all(
        self: &Arc<Self>,
        found: &mut Found<'_>,
        mut is_shown: impl FnMut(&Campaign, &mut Found<'_>) -> bool,
    ) {
        let mut matched = std::mem::take(&mut found.matched);
        let places = self.campaigns.iter().zip(0..);
        let shown =
            places.filter(|(campaign, _)| !found.allowance.is_over() && is_shown(campaign, found));
        matched.add(self, 0, shown.map(|(_, place)| place));
        found.matched = matched;
    }
}

impl Campaign {
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
