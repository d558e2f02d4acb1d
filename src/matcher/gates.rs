//! The gates of a campaign, one by one: what decides where the index cannot, and what explains.

use super::Campaign;
use crate::rules::{EvalError, Prepared};
use crate::segments::Membership;

/// The gates a campaign passes, in the order of a decision. Those of later stages (holdout, rollout,
/// frequency, slot) follow `Targeting`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The campaign is active.
    Status,
    /// The moment lies within its schedule.
    Schedule,
    /// The event is its trigger; on a fetch, no rule mentions an event.
    Trigger,
    /// The user is in every included segment and in no excluded one.
    Segments,
    /// The seed's rule list holds.
    Rules,
    /// The JsonLogic condition holds.
    Targeting,
}

impl Gate {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::Status,
        Self::Schedule,
        Self::Trigger,
        Self::Segments,
        Self::Rules,
        Self::Targeting,
    ];

    /// The name that answers use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Schedule => "schedule",
            Self::Trigger => "trigger",
            Self::Segments => "segments",
            Self::Rules => "rules",
            Self::Targeting => "targeting",
        }
    }
}

/// A segment that a campaign names.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedSegment<'c> {
    /// `include` or `exclude`.
    pub(super) side: &'static str,
    /// Its place there.
    pub(super) place: usize,
    pub(super) name: &'c str,
    /// Whether the user has to be in it.
    pub(super) wanted: bool,
}

impl Campaign {
    /// The segments of the gate, in the order in which they are looked up.
    pub(super) fn named_segments(&self) -> impl Iterator<Item = NamedSegment<'_>> {
        let include = self.extras().include.iter().enumerate();
        let include = include.map(|(place, name)| NamedSegment {
            side: "include",
            place,
            name,
            wanted: true,
        });
        let exclude = self.extras().exclude.iter().enumerate();
        include.chain(exclude.map(|(place, name)| NamedSegment {
            side: "exclude",
            place,
            name,
            wanted: false,
        }))
    }
}

/// The gates of one campaign on the facts of one decision.
#[derive(Clone, Copy)]
pub(super) struct Gates<'g, 'a> {
    pub(super) campaign: &'g Campaign,
    pub(super) prepared: &'g Prepared<'a>,
    pub(super) membership: &'g Membership<'a>,
}

impl Gates<'_, '_> {
    /// Whether one gate says yes; an error is a condition that failed, which is a no.
    pub(super) fn passes(&self, gate: Gate) -> Result<bool, EvalError> {
        let (campaign, facts) = (self.campaign, self.prepared.facts());
        Ok(match gate {
            Gate::Status => campaign.is_active,
            Gate::Schedule => campaign.schedule.is_open(facts.now),
            Gate::Trigger => match &facts.event {
                Some(event) => campaign.trigger.as_deref() == Some(event.name),
                None => !campaign.mentions_event(),
            },
            Gate::Segments => campaign
                .named_segments()
                .all(|segment| self.membership.contains(segment.name) == segment.wanted),
            Gate::Rules => {
                let properties = facts.event.as_ref().map(|event| event.properties);
                campaign.rules().matches(facts.user.traits, properties)
            }
            Gate::Targeting => match &campaign.targeting {
                None => true,
                Some(condition) => condition.matches_prepared(self.prepared)?,
            },
        })
    }

    /// The first gate that says no, or `None` when the campaign is to be shown. Counts a condition
    /// that failed.
    pub(super) fn first_closed(&self, errors: &mut u32) -> Option<Gate> {
        Gate::ALL.into_iter().find(|gate| match self.passes(*gate) {
            Ok(passes) => !passes,
            Err(_) => {
                *errors += 1;
                true
            }
        })
    }
}
