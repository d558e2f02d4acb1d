//! What an explanation says.

use std::io;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Gate;
use crate::rules::TracePart;

/// Why campaigns are shown or not.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// How many there are of what.
    pub summary: Summary,
    /// The ids of the campaigns that match, best first; at most 1,000.
    pub matched: Vec<String>,
    /// Of the campaigns that do not match, those with the fewest conditions in the way; of as many,
    /// those of higher rank first. Campaigns of another trigger come after all others.
    pub nearest_misses: Vec<NearMiss>,
    /// Campaigns in full, up to the limit: those that match, then the nearest.
    pub campaigns: Vec<ExplainedCampaign>,
    /// Segments of which a condition failed, so that nobody is in them; at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed_segments: Vec<FailedSegment>,
}

/// A segment of which a condition failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FailedSegment {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// How many campaigns there are of what.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct Summary {
    /// The campaigns that were decided.
    pub campaigns: usize,
    /// Those that match.
    pub matched: usize,
    /// The others, by the first gate that says no.
    pub first_closed: GateCounts,
    /// How many conditions failed while they were decided, those of segments included.
    pub rule_errors: u32,
    /// For how many of those that do not match it was found out how near they are.
    pub examined: usize,
    /// How many are shown in full.
    pub shown: usize,
}

/// A count for each gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct GateCounts {
    /// Not active.
    pub status: usize,
    /// Outside of the schedule.
    pub schedule: usize,
    /// Another trigger.
    pub trigger: usize,
    /// Not in an included segment, or in an excluded one.
    pub segments: usize,
    /// The rule list does not hold.
    pub rules: usize,
    /// The targeting does not hold.
    pub targeting: usize,
}

impl GateCounts {
    /// One more.
    pub fn count(&mut self, gate: Gate) {
        *match gate {
            Gate::Status => &mut self.status,
            Gate::Schedule => &mut self.schedule,
            Gate::Trigger => &mut self.trigger,
            Gate::Segments => &mut self.segments,
            Gate::Rules => &mut self.rules,
            Gate::Targeting => &mut self.targeting,
        } += 1;
    }
}

/// A campaign that is nearly shown.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct NearMiss {
    /// The campaign.
    pub campaign_id: String,
    /// Its name.
    pub name: String,
    /// The least number of conditions, over all gates, that would have to turn out otherwise.
    pub failing_conditions: u32,
    /// The first gate that says no.
    pub first_closed_gate: Option<Gate>,
    /// The first condition there that is in the way.
    pub first_failing: Option<TracePart>,
    /// The earliest time at which it would be shown if nothing but the time changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<DateTime<Utc>>,
}

/// A campaign and all of its gates.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ExplainedCampaign {
    /// The campaign.
    pub campaign_id: String,
    /// Its name.
    pub name: String,
    /// Whether it is shown.
    pub matched: bool,
    /// The first gate that says no.
    pub first_closed_gate: Option<Gate>,
    /// The first condition there that is in the way.
    pub first_failing: Option<TracePart>,
    /// The least number of conditions, over all gates, that would have to turn out otherwise.
    pub failing_conditions: u32,
    /// The earliest time at which it would be shown if nothing but the time changed. Absent where
    /// there is none, and where it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<DateTime<Utc>>,
    /// What deciding it takes, as the campaign itself says.
    pub evaluation: Effort,
    /// The gates, in the order of a decision.
    pub gates: Vec<GateReport>,
}

impl ExplainedCampaign {
    /// How long it is as JSON.
    pub(super) fn bytes(&self) -> u64 {
        /// Keeps nothing of what it is given but its length.
        struct Length(u64);
        impl io::Write for Length {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.0 = self.0.saturating_add(more);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut length = Length(0);
        match serde_json::to_writer(&mut length, self) {
            Ok(()) => length.0,
            // What cannot be written is as good as endless.
            Err(_) => u64::MAX,
        }
    }
}

/// What deciding a campaign takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Effort {
    /// The most steps that an evaluation can take, the segments it names left out.
    pub cost: u64,
    /// Whether the index can use a condition of it. If not, it is evaluated at every event that is
    /// its trigger.
    pub indexed: bool,
}

/// A gate of a campaign.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct GateReport {
    /// Which.
    pub gate: Gate,
    /// Whether it says yes.
    pub passes: bool,
    /// What it asks, with the values it saw. A gate without conditions says yes.
    pub conditions: Vec<TracePart>,
    /// How many conditions are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub conditions_left_out: usize,
    /// The earliest time at which this gate would say yes if nothing but the time changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<DateTime<Utc>>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}
