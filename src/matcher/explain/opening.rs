//! When a campaign would be shown if nothing but the time changed.
//!
//! The moments at which its gates may turn out otherwise are known; at each of them, in order, the
//! gates are asked as a decision would ask them. Where the moments cannot all be told nothing is
//! said: what is said is then the earliest.

use chrono::{DateTime, Utc};

use super::{Campaign, Case, Gate, Moment, Steps};
use crate::rules::FactsArena;

/// The most moments of one campaign that are tried.
const TRIED_MAX: usize = 256;

/// The earliest moments, for gates that are closed now.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// For all gates together.
    pub(super) whole: Option<DateTime<Utc>>,
    gates: [Option<DateTime<Utc>>; TIME_BOUND.len()],
}

/// The gates that time alone can open.
const TIME_BOUND: [Gate; 3] = [Gate::Schedule, Gate::Segments, Gate::Targeting];

impl Opening {
    pub(super) fn of(&self, gate: Gate) -> Option<DateTime<Utc>> {
        let place = TIME_BOUND.iter().position(|bound| *bound == gate)?;
        self.gates.get(place).copied().flatten()
    }
}

impl Moment<'_, '_> {
    /// Finds the earliest moments, as far as there are steps left to try them.
    pub(super) fn opening(&self, campaign: &Campaign, left: &Steps<'_>) -> Opening {
        let gates = self.gates(campaign);
        let is_closed = |gate: Gate| gates.passes(gate) != Ok(true);
        let mut opening = Opening::default();
        let moments = TIME_BOUND.map(|gate| self.moments(campaign, gate));
        for ((gate, moments), opens_at) in
            TIME_BOUND.into_iter().zip(&moments).zip(&mut opening.gates)
        {
            if let Some(moments) = moments.clone().filter(|_| is_closed(gate)) {
                *opens_at = self.earliest(campaign, &[gate], moments, left);
            }
        }
        let closed: Vec<Gate> = Gate::ALL
            .into_iter()
            .filter(|gate| is_closed(*gate))
            .collect();
        if !closed.is_empty() && closed.iter().all(|gate| TIME_BOUND.contains(gate)) {
            let all: Option<Vec<Vec<DateTime<Utc>>>> = moments.into_iter().collect();
            let all = all.map(|moments| moments.concat());
            opening.whole =
                all.and_then(|moments| self.earliest(campaign, &Gate::ALL, moments, left));
        }
        opening
    }

    /// When a gate may turn out otherwise; `None` where that cannot be told.
    fn moments(&self, campaign: &Campaign, gate: Gate) -> Option<Vec<DateTime<Utc>>> {
        let limits = self.case.limits;
        let mut millis = Vec::new();
        match gate {
            Gate::Schedule => return Some(campaign.schedule.start.into_iter().collect()),
            Gate::Segments => {
                for segment in campaign.named_segments() {
                    self.membership
                        .changes_at(segment.name, limits, &mut millis)?;
                }
            }
            _ => {
                if let Some(targeting) = &campaign.targeting {
                    millis = targeting.changes_at(self.prepared, limits)?;
                    for segment in targeting.segments() {
                        self.membership.changes_at(segment, limits, &mut millis)?;
                    }
                }
            }
        }
        let moments = millis
            .into_iter()
            .filter_map(DateTime::from_timestamp_millis);
        Some(moments.collect())
    }

    /// The first of the moments to come at which all of these gates say yes.
    fn earliest(
        &self,
        campaign: &Campaign,
        gates: &[Gate],
        mut moments: Vec<DateTime<Utc>>,
        left: &Steps<'_>,
    ) -> Option<DateTime<Utc>> {
        moments.retain(|moment| *moment > self.case.asked.now);
        moments.sort_unstable();
        moments.dedup();
        // Each moment begins anew, so it also finds out anew who is in which segment.
        let segments = campaign.segment_references().into_iter();
        let segments = self.case.segments.cost(segments.map(|(_, name)| name));
        let steps = campaign.cost().saturating_add(segments);
        let tried = u64::try_from(moments.len()).unwrap_or(u64::MAX);
        if moments.len() > TRIED_MAX || !left.afford(steps.saturating_mul(tried)) {
            return None;
        }
        let mut arena = FactsArena::new();
        for moment in moments {
            if !left.settle() {
                return None;
            }
            // What one moment needs is of no use to the next.
            arena.reset();
            let case = Case {
                arena: &arena,
                ..self.case
            };
            let is_open = case.at(moment, |then| {
                let then = then.gates(campaign);
                gates.iter().all(|gate| then.passes(*gate) == Ok(true))
            });
            if is_open {
                return Some(moment);
            }
        }
        None
    }
}
