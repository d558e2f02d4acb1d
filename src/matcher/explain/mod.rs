//! Why campaigns are shown to somebody, or are not.
//!
//! The gates are those that decide ([`gates`](super::gates)); here all of them are passed and not
//! only those up to the first that is closed. Every campaign is decided and counted. Up to a limit
//! they are explained in full: those that match first, then the nearest, by the number of
//! conditions that would have to turn out otherwise.
//!
//! Like a decision this reads nothing but its arguments.

mod gate;
mod opening;
mod report;
mod showing;
mod steps;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};

use super::Campaign;
use super::gates::{Gate, Gates};
use crate::rules::{Condition, EventFacts, Facts, FactsArena, Limits, Prepared, UserFacts};
use crate::segments::{Membership, Segments};
use showing::Showing;
use steps::{Steps, is_set};

pub use report::{
    Effort, ExplainedCampaign, Explanation, FailedSegment, GateCounts, GateReport, NearMiss,
    Summary,
};

/// The most campaigns that one explanation shows in full.
pub const SHOWN_MAX: usize = 1_000;

/// How many nearest misses are listed.
const NEAREST_MAX: usize = 10;

/// How many segments are listed that failed.
const FAILED_MAX: usize = 100;

/// For how many campaigns it is found out how near they are; those after them, by rank, are decided
/// and counted.
const EXAMINED_MAX: usize = 10_000;

/// The steps that one explanation may take, beyond deciding every campaign, to find out how near they
/// are: a second or two. They are those of [`Campaign::cost`], and the values that were looked at.
const EXAMINING_STEPS_MAX: u64 = 100_000_000;

/// The same to explain campaigns. What is left out for it is what is left out where there is too much
/// to show.
const STEPS_MAX: u64 = 100_000_000;

/// How often a campaign is evaluated to find out how near it is: part by part and as a whole.
const TIMES_TO_EXAMINE: u64 = 2;

/// How often to explain it: part by part and as a whole, for the gate, and twice for when it opens.
const TIMES_TO_EXPLAIN: u64 = 5;

/// Who is asked about, on which event, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The user.
    pub user: UserFacts<'a>,
    /// The event; without one it is a fetch.
    pub event: Option<EventFacts<'a>>,
    /// The moment of the decision.
    pub now: DateTime<Utc>,
}

/// Explains campaigns for one user and moment. They are taken in the order of their rank, whatever
/// order they come in; at most `shown_max` are shown in full.
///
/// It looks at `abandoned` between one campaign and the next. Once that is set, what it returns is of
/// no use.
pub fn explain<'a>(
    campaigns: &[Arc<Campaign>],
    segments: &'a Segments,
    asked: Asked<'a>,
    limits: &'a Limits,
    shown_max: usize,
    arena: &'a FactsArena,
    abandoned: Option<&AtomicBool>,
) -> Explanation {
    let mut ranked: Vec<&Arc<Campaign>> = campaigns.iter().collect();
    ranked.sort_by_cached_key(|campaign| campaign.rank());
    let case = Case {
        segments,
        asked,
        limits,
        arena,
    };
    case.at(asked.now, |moment| {
        moment.explain(&ranked, shown_max.min(SHOWN_MAX), abandoned)
    })
}

/// The first gate of one campaign that says no, live or not; `None` when it is to be shown. Counts
/// conditions that failed.
pub fn first_closed_gate<'a>(
    campaign: &Campaign,
    segments: &'a Segments,
    asked: Asked<'a>,
    limits: &'a Limits,
    arena: &'a FactsArena,
    errors: &mut u32,
) -> Option<Gate> {
    let case = Case {
        segments,
        asked,
        limits,
        arena,
    };
    case.at(asked.now, |moment| {
        moment.gates(campaign).first_closed(errors)
    })
}

/// What stays the same while time passes.
#[derive(Clone, Copy)]
struct Case<'a> {
    segments: &'a Segments,
    asked: Asked<'a>,
    limits: &'a Limits,
    arena: &'a FactsArena,
}

impl Case<'_> {
    /// Prepares the facts as they are at a moment.
    fn at<T>(self, now: DateTime<Utc>, work: impl FnOnce(&Moment<'_, '_>) -> T) -> T {
        let Asked { user, event, .. } = self.asked;
        let membership = Membership::new(self.segments, user, now, self.arena);
        let lookup = |reference: &str| membership.contains(reference);
        let facts = Facts {
            user,
            event,
            now,
            segments: &lookup,
        };
        let prepared = Prepared::new(facts, self.arena);
        work(&Moment {
            case: self,
            prepared: &prepared,
            membership: &membership,
        })
    }
}

/// The facts at one moment.
struct Moment<'m, 'a> {
    case: Case<'a>,
    prepared: &'m Prepared<'a>,
    membership: &'m Membership<'a>,
}

/// How far a campaign is from being shown: those of another trigger come last, however few their
/// conditions are.
type Distance = (bool, u32);

/// Campaigns that do not match.
struct Missed<'c> {
    /// The nearest first.
    near: Vec<&'c Arc<Campaign>>,
    /// Those that were too many to look at.
    far: Vec<&'c Arc<Campaign>>,
}

impl<'a> Moment<'_, 'a> {
    fn gates<'g>(&'g self, campaign: &'g Campaign) -> Gates<'g, 'a> {
        Gates {
            campaign,
            prepared: self.prepared,
            membership: self.membership,
        }
    }

    fn explain(
        &self,
        ranked: &[&Arc<Campaign>],
        shown_max: usize,
        abandoned: Option<&AtomicBool>,
    ) -> Explanation {
        let mut summary = Summary {
            campaigns: ranked.len(),
            ..Summary::default()
        };
        let mut matched: Vec<&Arc<Campaign>> = Vec::new();
        let mut missed: Vec<&Arc<Campaign>> = Vec::new();
        for &campaign in ranked.iter().take_while(|_| !is_set(abandoned)) {
            match self.gates(campaign).first_closed(&mut summary.rule_errors) {
                None => matched.push(campaign),
                Some(gate) => {
                    summary.first_closed.count(gate);
                    missed.push(campaign);
                }
            }
        }
        let of_segments = self.membership.errors();
        summary.rule_errors = summary.rule_errors.saturating_add(of_segments);
        summary.matched = matched.len();
        let Missed { near, far } = self.by_distance(missed, abandoned);
        summary.examined = near.len();
        let mut showing = Showing::of(shown_max);
        let steps = Steps::of(STEPS_MAX, abandoned);
        self.show(&mut showing, &matched, &steps);
        let nearest = near.iter().take(NEAREST_MAX);
        let nearest = nearest.map_while(|campaign| self.affordable(campaign, &steps));
        let nearest: Vec<ExplainedCampaign> = nearest.collect();
        let nearest_misses = nearest.iter().map(NearMiss::of).collect();
        let others = near.iter().skip(nearest.len()).chain(&far);
        for explained in nearest {
            showing.add(explained);
        }
        self.show(&mut showing, others, &steps);
        let campaigns = showing.into_shown();
        summary.shown = campaigns.len();
        Explanation {
            summary,
            matched: matched
                .iter()
                .take(SHOWN_MAX)
                .map(|campaign| campaign.id.clone())
                .collect(),
            nearest_misses,
            campaigns,
            failed_segments: self.failed_segments(),
        }
    }

    /// Shows these in order, as long as there are places and steps.
    fn show<'c>(
        &self,
        showing: &mut Showing,
        campaigns: impl IntoIterator<Item = &'c &'c Arc<Campaign>>,
        steps: &Steps<'_>,
    ) {
        for campaign in campaigns {
            if !showing.has_place() {
                return;
            }
            let Some(explained) = self.affordable(campaign, steps) else {
                return;
            };
            showing.add(explained);
        }
    }

    /// The segments that failed while campaigns were decided and explained.
    fn failed_segments(&self) -> Vec<FailedSegment> {
        let failed = self.membership.failed().take(FAILED_MAX);
        failed
            .map(|segment| FailedSegment {
                id: segment.id.clone(),
                name: segment.name.clone(),
            })
            .collect()
    }

    /// The campaign with all of its gates, if there are steps enough.
    fn affordable(&self, campaign: &Arc<Campaign>, left: &Steps<'_>) -> Option<ExplainedCampaign> {
        let wanted = steps(campaign).saturating_mul(TIMES_TO_EXPLAIN);
        left.afford(wanted).then(|| self.explained(campaign, left))
    }

    /// Puts those in order that are looked at.
    fn by_distance<'c>(
        &self,
        missed: Vec<&'c Arc<Campaign>>,
        abandoned: Option<&AtomicBool>,
    ) -> Missed<'c> {
        let is_other_trigger =
            |campaign: &Arc<Campaign>| self.gates(campaign).passes(Gate::Trigger) != Ok(true);
        let (others, mut candidates): (Vec<_>, Vec<_>) = missed
            .into_iter()
            .partition(|campaign| is_other_trigger(campaign));
        let first_other = candidates.len();
        candidates.extend(others);
        let examining = Steps::of(EXAMINING_STEPS_MAX, abandoned);
        let mut near: Vec<(Distance, &Arc<Campaign>)> = Vec::new();
        let mut far: Vec<&Arc<Campaign>> = Vec::new();
        for (place, campaign) in candidates.into_iter().enumerate() {
            let wanted = steps(campaign).saturating_mul(TIMES_TO_EXAMINE);
            let is_examined =
                far.is_empty() && near.len() < EXAMINED_MAX && examining.afford(wanted);
            if is_examined {
                let distance = (place >= first_other, self.misses(campaign));
                near.push((distance, campaign));
            } else {
                far.push(campaign);
            }
        }
        // Those of one distance stay in the order of their rank.
        near.sort_by_key(|(distance, _)| *distance);
        let near = near.into_iter().map(|(_, campaign)| campaign).collect();
        Missed { near, far }
    }
}

/// What evaluating a campaign once takes, after parsing it again.
fn steps(campaign: &Campaign) -> u64 {
    let targeting = campaign.targeting.as_ref();
    let bytes = u64::try_from(campaign.json.len()).unwrap_or(u64::MAX);
    [bytes, targeting.map_or(0, Condition::preparation_cost)]
        .into_iter()
        .fold(campaign.cost(), u64::saturating_add)
}

#[cfg(test)]
mod tests;
