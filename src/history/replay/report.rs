//! What a replay tells.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::people::Knowledge;
use crate::matcher::{Gate, GateCounts, Matches};
use crate::store::history::PastEvent;

/// How many matches are shown.
const SAMPLE_MAX: usize = 20;

/// How many live campaigns are listed.
const OVERLAPS_MAX: usize = 100;

/// How many people are told apart, once in all and once for each live campaign they also see.
const PEOPLE_MAX: usize = 1_000_000;

/// How far a replay has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Progress {
    /// How many events were replayed.
    pub events: u64,
    /// How many of them the draft matches.
    pub matches: u64,
    /// How many people these are.
    pub users: usize,
    /// The part of the span that is done, 0 to 1.
    pub done: f64,
}

/// What a replay found.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// The first moment of the span.
    pub from: DateTime<Utc>,
    /// The moment after its last.
    pub to: DateTime<Utc>,
    /// The draft's trigger; only its events are replayed.
    pub trigger: String,
    /// How many events were replayed.
    pub events: u64,
    /// How many of them the draft matches.
    pub matches: u64,
    /// How many people these are.
    pub users: usize,
    /// True when there are more people than are told apart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub users_capped: bool,
    /// The other events, by the first gate that says no.
    pub first_closed: GateCounts,
    /// How many conditions failed.
    pub rule_errors: u64,
    /// The days on which events were received, in UTC.
    pub by_day: Vec<ReplayedDay>,
    /// The live campaigns that those events match too, most events first; at most 100.
    pub live_overlap: Vec<Overlap>,
    /// How many live campaigns are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub live_overlap_left_out: usize,
    /// Matches of different people, oldest first; at most 20. `beckon explain` takes their ids.
    pub sample: Vec<Match>,
    /// How the traits of the replayed events are known.
    pub traits: TraitsKnown,
}

/// One day of a replay.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ReplayedDay {
    /// The day, in UTC.
    #[schema(value_type = String, format = Date)]
    pub day: NaiveDate,
    /// How many events were replayed.
    pub events: u64,
    /// How many of them the draft matches.
    pub matches: u64,
}

/// A live campaign that people would see as well.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Overlap {
    /// The campaign.
    pub campaign_id: String,
    /// Of the draft's matches, how many this one matches too, as it is now.
    pub events: u64,
    /// How many people these are.
    pub users: usize,
}

/// An event that the draft matches.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Match {
    /// The event.
    pub event_id: Uuid,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The anonymous id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_id: Option<String>,
    /// When the event was received, which is when it was decided.
    pub received_at: DateTime<Utc>,
}

/// How the traits of the replayed events are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TraitsKnown {
    /// They have not changed since the event.
    pub unchanged: u64,
    /// They were rebuilt from stored identify calls.
    pub rebuilt: u64,
    /// They may be wrong: a trait was set later and perhaps by calls that were not read or are past
    /// their retention, the person was merged with another, or is gone.
    pub uncertain: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Counts as the replay goes on.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) events: u64,
    pub(super) matches: u64,
    pub(super) rule_errors: u64,
    first_closed: GateCounts,
    users: HashSet<i64>,
    users_capped: bool,
    days: BTreeMap<NaiveDate, (u64, u64)>,
    overlaps: HashMap<String, (u64, HashSet<i64>)>,
    overlapping_people: usize,
    sample: Vec<Match>,
    traits: TraitsKnown,
}

impl Tally {
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn count_traits(&mut self, knowledge: Knowledge) {
        *match knowledge {
            Knowledge::Unchanged => &mut self.traits.unchanged,
            Knowledge::Rebuilt => &mut self.traits.rebuilt,
            Knowledge::Uncertain => &mut self.traits.uncertain,
        } += 1;
    }

    /// An event that the draft does not match.
    pub(super) fn miss(&mut self, event: &PastEvent, gate: Gate) {
        self.count(event).0 += 1;
        self.first_closed.count(gate);
    }

    /// An event that the draft matches, and the live campaigns that match it as well.
    pub(super) fn hit(&mut self, event: &PastEvent, person: i64, live: &Matches) {
        let day = self.count(event);
        day.0 += 1;
        day.1 += 1;
        self.matches += 1;
        let has_room = self.users.len() < PEOPLE_MAX;
        if has_room && self.users.insert(person) {
            if self.sample.len() < SAMPLE_MAX {
                self.sample.push(Match {
                    event_id: event.id,
                    user_id: event.user_id.clone(),
                    anonymous_id: event.anonymous_id.clone(),
                    received_at: event.received_at,
                });
            }
        } else if !has_room && !self.users.contains(&person) {
            self.users_capped = true;
        }
        for campaign in live.iter() {
            let entry = match self.overlaps.get_mut(&campaign.id) {
                Some(entry) => entry,
                None => self.overlaps.entry(campaign.id.clone()).or_default(),
            };
            entry.0 += 1;
            if self.overlapping_people < PEOPLE_MAX {
                self.overlapping_people += usize::from(entry.1.insert(person));
            } else if !entry.1.contains(&person) {
                self.users_capped = true;
            }
        }
    }

    fn count(&mut self, event: &PastEvent) -> &mut (u64, u64) {
        self.events += 1;
        self.days.entry(event.received_at.date_naive()).or_default()
    }

    pub(super) fn into_report(
        self,
        trigger: String,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Report {
        let overlaps = self.overlaps.into_iter();
        let mut live_overlap: Vec<Overlap> = overlaps
            .map(|(campaign_id, (events, users))| Overlap {
                campaign_id,
                events,
                users: users.len(),
            })
            .collect();
        live_overlap.sort_by(|a, b| {
            let by_events = b.events.cmp(&a.events);
            by_events.then_with(|| a.campaign_id.cmp(&b.campaign_id))
        });
        let live_overlap_left_out = live_overlap.len().saturating_sub(OVERLAPS_MAX);
        live_overlap.truncate(OVERLAPS_MAX);
        let days = self.days.into_iter();
        Report {
            from,
            to,
            trigger,
            events: self.events,
            matches: self.matches,
            users: self.users.len(),
            users_capped: self.users_capped,
            first_closed: self.first_closed,
            rule_errors: self.rule_errors,
            by_day: days
                .map(|(day, (events, matches))| ReplayedDay {
                    day,
                    events,
                    matches,
                })
                .collect(),
            live_overlap,
            live_overlap_left_out,
            sample: self.sample,
            traits: self.traits,
        }
    }
}
