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
use crate::rules::{Condition, EventFacts, Facts, FactsArena, Limits, Prepared, UserFacts};
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

/// The steps ([`Campaign::cost`]) that one explanation may take, beyond deciding every campaign, to find
/// out how near they are: a second or two.
const EXAMINING_STEPS_MAX: u64 = 100_000_000;

/// The same to explain campaigns. What is left out for it is what is left out where there is too much
/// to show.
const STEPS_MAX: u64 = 100_000_000;

/// How often a campaign is evaluated to find out how near it is: part by part and as a whole.
const TIMES_TO_EXAMINE: u64 = 2;

/// How often to explain it: part by part and as a whole, for the gate, and twice for when it opens.
const TIMES_TO_EXPLAIN: u64 = 5;

/// The most bytes of JSON that the campaigns of one explanation take together; the first is shown
/// whatever it takes. Of one campaign some megabytes can be shown, so their number alone bounds little.
const SHOWN_BYTES_MAX: u64 = 16 * 1024 * 1024;

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
        let explained = |campaign: &&Arc<Campaign>| self.affordable(campaign);
        let nearest = near.iter().take(NEAREST_MAX).map_while(explained);
        let nearest: Vec<ExplainedCampaign> = nearest.collect();
        let nearest_misses = nearest.iter().map(NearMiss::of).collect();
        let others = near.iter().skip(nearest.len()).chain(&far).map(explained);
        let in_order = matched.iter().map(explained);
        let in_order = in_order.chain(nearest.into_iter().map(Some)).chain(others);
        let shown = shown(in_order.take(shown_max).map_while(|explained| explained));
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

    /// The campaign with all of its gates, if there are steps enough.
    fn affordable(&self, campaign: &Arc<Campaign>) -> Option<ExplainedCampaign> {
        let steps = steps(campaign).saturating_mul(TIMES_TO_EXPLAIN);
        self.case.affords(steps).then(|| self.explained(campaign))
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
        let examining = Cell::new(EXAMINING_STEPS_MAX);
        let case = Case {
            steps: &examining,
            ..self.case
        };
        let affordable = candidates
            .iter()
            .take(EXAMINED_MAX)
            .take_while(|campaign| case.affords(steps(campaign).saturating_mul(TIMES_TO_EXAMINE)))
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

/// What evaluating a campaign once takes, after parsing it again.
fn steps(campaign: &Campaign) -> u64 {
    let targeting = campaign.targeting.as_ref();
    let bytes = u64::try_from(campaign.json.len()).unwrap_or(u64::MAX);
    [bytes, targeting.map_or(0, Condition::preparation_cost)]
        .into_iter()
        .fold(campaign.cost(), u64::saturating_add)
}

/// The first of these that there are bytes for.
fn shown(explained: impl Iterator<Item = ExplainedCampaign>) -> Vec<ExplainedCampaign> {
    let mut shown: Vec<ExplainedCampaign> = Vec::new();
    let mut left = SHOWN_BYTES_MAX;
    for explained in explained {
        match left.checked_sub(explained.bytes()) {
            Some(rest) => left = rest,
            None if shown.is_empty() => left = 0,
            None => break,
        }
        shown.push(explained);
    }
    shown
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

    /// Compiling a pattern takes longer than most evaluations.
    #[test]
    fn patterns_count_for_what_compiling_them_takes() {
        let pattern = |pattern: &str| json!({"matches": [{"var": "user.traits.a"}, pattern]});
        let plain = steps(&campaign(1, pattern("^a")));
        assert!(plain < 10_000, "{plain}");
        let repeated = steps(&campaign(1, pattern("^(ab){200}$")));
        assert!(repeated > 400_000, "{repeated}");
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
    fn an_explanation_shows_only_so_many_bytes() {
        let long = |n| (format!("t{n}"), json!("\u{1}".repeat(512)));
        let traits: Value = (0..20).map(long).collect();
        let read = |n| json!({"var": format!("user.traits.t{n}")});
        let all: Vec<Value> = (0..20).map(read).collect();
        let tests = vec![json!({"==": [{"cat": all}, "x"]}); 100];
        let campaigns: Vec<_> = (0..30)
            .map(|n| campaign(n, json!({ "and": tests })))
            .collect();
        let arena = FactsArena::new();
        let explanation = explained(&campaigns, &Segments::default(), &traits, &arena);
        let bytes = serde_json::to_vec(&explanation).unwrap().len();
        // What stands beside the campaigns is little.
        let most = usize::try_from(SHOWN_BYTES_MAX).unwrap() + 1_000_000;
        assert!(bytes > most / 2 && bytes < most, "{bytes}");
        let summary = explanation.summary;
        assert_eq!(summary.shown, explanation.campaigns.len());
        assert_eq!((summary.campaigns, summary.examined), (30, 30));
    }

    #[test]
    fn an_explanation_takes_only_so_many_steps() {
        let element = json!({"var": ""});
        let tests: Vec<Value> = (0..4).map(|n| json!({"==": [element, n]})).collect();
        let twice = json!({"some": [
            {"var": "user.traits.a"}, {"some": [element, {"or": tests}]},
        ]});
        let campaigns: Vec<_> = (0..30).map(|n| campaign(n, twice.clone())).collect();
        let once = steps(campaigns.first().unwrap());
        let arena = FactsArena::new();
        let explanation = explained(&campaigns, &Segments::default(), &json!({}), &arena);
        let summary = explanation.summary;
        assert_eq!((summary.campaigns, summary.matched), (30, 0));
        let times = |most, times| usize::try_from(most / (once * times)).unwrap();
        let examined = times(EXAMINING_STEPS_MAX, TIMES_TO_EXAMINE);
        let shown = times(STEPS_MAX, TIMES_TO_EXPLAIN);
        assert!((1..examined).contains(&shown) && examined < 30, "{once}");
        assert_eq!((summary.examined, summary.shown), (examined, shown));
        assert_eq!(explanation.nearest_misses.len(), shown);
    }
}
