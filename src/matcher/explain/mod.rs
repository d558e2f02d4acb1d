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

use std::cell::Cell;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Campaign;
use super::gates::{Gate, Gates};
use crate::rules::{EventFacts, Facts, FactsArena, Limits, Prepared, UserFacts};
use crate::segments::{Membership, Segments};

pub use report::{
    Effort, ExplainedCampaign, Explanation, GateCounts, GateReport, NearMiss, Summary,
};

/// The most campaigns that one explanation shows in full.
pub const SHOWN_MAX: usize = 1_000;

/// How many nearest misses are listed.
const NEAREST_MAX: usize = 10;

/// For how many campaigns it is found out how near they are; those after them, by rank, are decided
/// and counted.
const EXAMINED_MAX: usize = 10_000;

/// The steps ([`Campaign::cost`]) that one explanation may take beyond deciding every campaign: some
/// seconds. What is left out for it is what is left out where there is too much to show.
const STEPS_MAX: u64 = 200_000_000;

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
pub fn explain<'a>(
    campaigns: &[Arc<Campaign>],
    segments: &'a Segments,
    asked: Asked<'a>,
    limits: &'a Limits,
    shown_max: usize,
    arena: &'a FactsArena,
) -> Explanation {
    let mut ranked: Vec<&Arc<Campaign>> = campaigns.iter().collect();
    ranked.sort_by_cached_key(|campaign| campaign.rank());
    let steps = Cell::new(STEPS_MAX);
    let case = Case {
        segments,
        asked,
        limits,
        arena,
        steps: &steps,
    };
    case.at(asked.now, |moment| {
        moment.explain(&ranked, shown_max.min(SHOWN_MAX))
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
    let steps = Cell::new(STEPS_MAX);
    let case = Case {
        segments,
        asked,
        limits,
        arena,
        steps: &steps,
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
    /// What is left of [`STEPS_MAX`].
    steps: &'a Cell<u64>,
}

impl Case<'_> {
    /// Takes so many steps, or none if there are fewer left.
    fn affords(&self, wanted: u64) -> bool {
        let left = self.steps.get().checked_sub(wanted);
        if let Some(left) = left {
            self.steps.set(left);
        }
        left.is_some()
    }

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

    fn explain(&self, ranked: &[&Arc<Campaign>], shown_max: usize) -> Explanation {
        let mut summary = Summary {
            campaigns: ranked.len(),
            ..Summary::default()
        };
        let mut matched: Vec<&Arc<Campaign>> = Vec::new();
        let mut missed: Vec<&Arc<Campaign>> = Vec::new();
        for &campaign in ranked {
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
        let Missed { near, far } = self.by_distance(missed);
        summary.examined = near.len();
        let nearest = near.iter().take(NEAREST_MAX);
        let nearest_misses = nearest.map(|campaign| self.near_miss(campaign)).collect();
        let shown: Vec<ExplainedCampaign> = matched
            .iter()
            .copied()
            .chain(near)
            .chain(far)
            .take(shown_max)
            .take_while(|campaign| self.case.affords(campaign.cost()))
            .map(|campaign| self.explained(campaign))
            .collect();
        summary.shown = shown.len();
        Explanation {
            summary,
            matched: matched
                .iter()
                .take(SHOWN_MAX)
                .map(|campaign| campaign.id.clone())
                .collect(),
            nearest_misses,
            campaigns: shown,
        }
    }

    /// Puts those in order that are looked at.
    fn by_distance<'c>(&self, missed: Vec<&'c Arc<Campaign>>) -> Missed<'c> {
        let is_other_trigger =
            |campaign: &Arc<Campaign>| self.gates(campaign).passes(Gate::Trigger) != Ok(true);
        let (others, mut candidates): (Vec<_>, Vec<_>) = missed
            .into_iter()
            .partition(|campaign| is_other_trigger(campaign));
        let first_other = candidates.len();
        candidates.extend(others);
        let affordable = candidates
            .iter()
            .take(EXAMINED_MAX)
            .take_while(|campaign| self.case.affords(campaign.cost()))
            .count();
        let far = candidates.split_off(affordable);
        let mut near: Vec<(Distance, &Arc<Campaign>)> = candidates
            .into_iter()
            .enumerate()
            .map(|(place, campaign)| ((place >= first_other, self.misses(campaign)), campaign))
            .collect();
        // Those of one distance stay in the order of their rank.
        near.sort_by_key(|(distance, _)| *distance);
        let near = near.into_iter().map(|(_, campaign)| campaign).collect();
        Missed { near, far }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::{Value, json};

    use super::*;
    use crate::matcher::CampaignRow;
    use crate::segments::Segment;

    fn campaign(seq: i64, targeting: Value) -> Arc<Campaign> {
        let body = json!({"status": "active", "targeting": targeting});
        let row = CampaignRow {
            seq,
            ..CampaignRow::of(&format!("c{seq}"), &body)
        };
        Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
    }

    fn explained(
        campaigns: &[Arc<Campaign>],
        segments: &Segments,
        traits: &Value,
        arena: &FactsArena,
    ) -> Explanation {
        let now = DateTime::UNIX_EPOCH;
        let user = UserFacts {
            id: "u",
            traits: arena.from_value(traits),
            created_at: now,
            last_seen_at: now,
        };
        let asked = Asked {
            user,
            event: None,
            now,
        };
        explain(campaigns, segments, asked, &Limits::default(), 100, arena)
    }

    /// Conditions that time alone makes true, each at moments of its own.
    fn windows(count: usize) -> Vec<Value> {
        let window = |n| json!({"within_last": [{"var": format!("user.traits.t{n}")}, "1d"]});
        (0..count).map(window).collect()
    }

    /// The traits that they ask for.
    fn times() -> Value {
        (0..15)
            .map(|n| (format!("t{n}"), json!(format!("2030-01-01T00:00:{n:02}Z"))))
            .collect()
    }

    #[test]
    fn moments_that_are_tried_leave_nothing_behind() {
        let segment = |n| {
            let body = json!({"name": format!("s{n}")});
            let body = body.as_object().unwrap();
            Arc::new(Segment::compile(&format!("id{n}"), body, &Limits::default()).unwrap())
        };
        let segments = Segments::new((0..5_000).map(segment).collect());
        let never = json!({"==": [{"var": "user.traits.plan"}, "pro"]});
        let targeting = json!({"and": [never, {"or": windows(15)}]});
        let arena = FactsArena::new();
        explained(&[campaign(1, targeting)], &segments, &times(), &arena);
        // The memberships of each moment are 5,000 bytes.
        assert!(arena.facts_bytes() < 100_000, "{}", arena.facts_bytes());
    }

    /// Its moments would take more steps than there are; that of the others is found out all the same.
    #[test]
    fn moments_that_cannot_be_afforded_cost_the_other_campaigns_nothing() {
        let dear = json!({"some": [
            {"var": "user.traits.a"}, {"some": [{"var": ""}, {"==": [{"var": ""}, {"var": ""}]}]},
        ]});
        let mut of_dear = windows(15);
        of_dear.push(dear);
        let campaigns = [
            campaign(2, json!({ "or": of_dear })),
            campaign(1, json!({ "or": windows(2) })),
        ];
        let arena = FactsArena::new();
        let explanation = explained(&campaigns, &Segments::default(), &times(), &arena);
        let shown = explanation.campaigns.iter();
        let shown = shown.map(|it| (it.campaign_id.as_str(), it.opens_at.is_some()));
        assert_eq!(shown.collect::<Vec<_>>(), [("c2", false), ("c1", true)]);
    }

    #[test]
    fn conditions_of_segments_that_fail_are_counted() {
        let arena = FactsArena::new();
        let body = json!({"name": "s", "targeting": {"<": [{"var": "user.traits.plan"}, 1]}});
        let body = body.as_object().unwrap();
        let segment = Segment::compile("id", body, &Limits::default()).unwrap();
        let segments = Segments::new(vec![Arc::new(segment)]);
        let campaigns = [1, 2].map(|seq| campaign(seq, json!({"in_segment": "s"})));
        let traits = json!({"plan": "pro"});
        let summary = explained(&campaigns, &segments, &traits, &arena).summary;
        // Who is in a segment is found out once.
        assert_eq!(
            (summary.first_closed.targeting, summary.rule_errors),
            (2, 1)
        );
    }

    #[test]
    fn an_explanation_takes_only_so_many_steps() {
        let element = json!({"var": ""});
        let tests: Vec<Value> = (0..4).map(|n| json!({"==": [element, n]})).collect();
        let twice = json!({"some": [
            {"var": "user.traits.a"}, {"some": [element, {"or": tests}]},
        ]});
        let campaigns: Vec<_> = (0..30).map(|n| campaign(n, twice.clone())).collect();
        let cost = campaigns.first().unwrap().cost();
        let arena = FactsArena::new();
        let explanation = explained(&campaigns, &Segments::default(), &json!({}), &arena);
        let summary = explanation.summary;
        assert_eq!((summary.campaigns, summary.matched), (30, 0));
        let affordable = usize::try_from(STEPS_MAX / cost).unwrap();
        assert!((10..30).contains(&affordable), "{cost}");
        assert_eq!(summary.examined, affordable);
        assert_eq!(summary.shown, 0);
    }
}
