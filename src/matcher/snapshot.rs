//! The picture of a project's live campaigns, and the decision on it.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::Campaign;
use crate::rules::{Condition, EventFacts, Facts, FactsArena, Prepared, UserFacts};
use crate::segments::{Membership, Segment, Segments};

/// The gates a campaign passes, in the order of a decision. Those of later stages (holdout, rollout,
/// frequency, slot) follow `Targeting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// Who a decision is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The application's own id, or the anonymous one.
    pub id: &'a str,
    /// Traits; a JSON object.
    pub traits: &'a Value,
    /// When the person was first seen.
    pub created_at: DateTime<Utc>,
    /// When the person was last seen before this event.
    pub last_seen_at: DateTime<Utc>,
}

/// The event a decision is made on.
#[derive(Debug, Clone, Copy)]
pub struct Occurrence<'a> {
    /// The event's name.
    pub name: &'a str,
    /// Its properties; a JSON object.
    pub properties: &'a Value,
    /// Its context; a JSON object.
    pub context: &'a Value,
    /// When it happened.
    pub timestamp: DateTime<Utc>,
}

/// A flag: a named value, perhaps for some users only.
#[derive(Debug)]
pub struct Flag {
    /// Whether it is on at all.
    pub enabled: bool,
    /// What it carries.
    pub value: Option<Value>,
    /// For whom; `None` is everybody.
    pub targeting: Option<Condition>,
}

/// What a decision found.
#[derive(Debug, Default)]
pub struct Decision {
    /// The campaigns to show, best first.
    pub matched: Vec<Arc<Campaign>>,
    /// How many conditions failed at run time.
    pub errors: u32,
}

/// An immutable picture of a project's live campaigns, segments and flags.
#[derive(Debug, Default)]
pub struct Snapshot {
    revision: i64,
    campaigns: Vec<Arc<Campaign>>,
    by_trigger: HashMap<String, Vec<usize>>,
    on_fetch: Vec<usize>,
    segments: Segments,
    flags: HashMap<String, Flag>,
}

impl Snapshot {
    /// Ranks and indexes the campaigns. Campaigns that are not active are left out.
    pub fn new(
        revision: i64,
        mut campaigns: Vec<Arc<Campaign>>,
        segments: Segments,
        flags: HashMap<String, Flag>,
    ) -> Self {
        campaigns.retain(|campaign| campaign.is_active);
        campaigns.sort_by_key(|campaign| campaign.rank());
        let mut by_trigger: HashMap<String, Vec<usize>> = HashMap::new();
        let mut on_fetch = Vec::new();
        for (index, campaign) in campaigns.iter().enumerate() {
            if let Some(trigger) = &campaign.trigger {
                by_trigger.entry(trigger.clone()).or_default().push(index);
            }
            if !campaign.mentions_event() {
                on_fetch.push(index);
            }
        }
        Self {
            revision,
            campaigns,
            by_trigger,
            on_fetch,
            segments,
            flags,
        }
    }

    /// The project's revision this picture was taken at.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The live campaigns, best first.
    pub fn campaigns(&self) -> &[Arc<Campaign>] {
        &self.campaigns
    }

    /// The project's segments.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Whether any live campaign has this trigger; when not, the event's details need not be read.
    pub fn has_trigger(&self, event: &str) -> bool {
        self.by_trigger.contains_key(event)
    }

    /// The campaigns to show on this event.
    pub fn on_event(
        &self,
        subject: Subject<'_>,
        event: Occurrence<'_>,
        now: DateTime<Utc>,
    ) -> Decision {
        match self.by_trigger.get(event.name) {
            None => Decision::default(),
            Some(candidates) => self.decide(candidates, subject, Some(event), now),
        }
    }

    /// The campaigns to show without an event.
    pub fn on_fetch(&self, subject: Subject<'_>, now: DateTime<Utc>) -> Decision {
        self.decide(&self.on_fetch, subject, None, now)
    }

    /// Whether the flag is on for this user, and its value; `None` when there is no such flag.
    pub fn flag(
        &self,
        key: &str,
        subject: Subject<'_>,
        now: DateTime<Utc>,
    ) -> Option<(bool, &Flag)> {
        let flag = self.flags.get(key)?;
        let is_on = flag.enabled
            && flag.targeting.as_ref().is_none_or(|condition| {
                let user = user_facts(subject);
                let membership = Membership::new(&self.segments, user, now);
                let lookup = |reference: &str| membership.contains(reference);
                let facts = Facts {
                    user,
                    event: None,
                    now,
                    segments: &lookup,
                };
                condition.matches(&facts).unwrap_or(false)
            });
        Some((is_on, flag))
    }

    /// The segments the user is in.
    pub fn segments_of(&self, subject: Subject<'_>, now: DateTime<Utc>) -> Vec<&Arc<Segment>> {
        let membership = Membership::new(&self.segments, user_facts(subject), now);
        self.segments
            .list()
            .iter()
            .filter(|segment| membership.contains(&segment.id))
            .collect()
    }

    fn decide(
        &self,
        candidates: &[usize],
        subject: Subject<'_>,
        event: Option<Occurrence<'_>>,
        now: DateTime<Utc>,
    ) -> Decision {
        let user = user_facts(subject);
        let membership = Membership::new(&self.segments, user, now);
        let lookup = |reference: &str| membership.contains(reference);
        let event = event.map(|event| EventFacts {
            name: event.name,
            properties: event.properties,
            context: event.context,
            timestamp: event.timestamp,
        });
        let arena = FactsArena::new();
        let facts = Prepared::new(
            Facts {
                user,
                event,
                now,
                segments: &lookup,
            },
            &arena,
        );
        let mut decision = Decision::default();
        for campaign in candidates
            .iter()
            .filter_map(|&index| self.campaigns.get(index))
        {
            if first_closed_gate(campaign, &facts, &membership, &mut decision.errors).is_none() {
                decision.matched.push(Arc::clone(campaign));
            }
        }
        decision.errors += membership.errors();
        decision
    }
}

fn user_facts(subject: Subject<'_>) -> UserFacts<'_> {
    UserFacts {
        id: subject.id,
        traits: subject.traits,
        created_at: subject.created_at,
        last_seen_at: subject.last_seen_at,
    }
}

/// The first gate that says no, or `None` when the campaign is to be shown.
fn first_closed_gate(
    campaign: &Campaign,
    prepared: &Prepared<'_>,
    membership: &Membership<'_>,
    errors: &mut u32,
) -> Option<Gate> {
    let facts = prepared.facts();
    if !campaign.is_active {
        return Some(Gate::Status);
    }
    if !campaign.schedule.is_open(facts.now) {
        return Some(Gate::Schedule);
    }
    let passes_trigger = match &facts.event {
        Some(event) => campaign.trigger.as_deref() == Some(event.name),
        None => !campaign.mentions_event(),
    };
    if !passes_trigger {
        return Some(Gate::Trigger);
    }
    if !campaign
        .include
        .iter()
        .all(|name| membership.contains(name))
        || campaign
            .exclude
            .iter()
            .any(|name| membership.contains(name))
    {
        return Some(Gate::Segments);
    }
    let nothing = Map::new();
    let traits = facts.user.traits.as_object().unwrap_or(&nothing);
    let properties = facts
        .event
        .as_ref()
        .and_then(|event| event.properties.as_object());
    if !campaign.rules.matches(traits, properties) {
        return Some(Gate::Rules);
    }
    match campaign
        .targeting
        .as_ref()
        .map(|condition| condition.matches_prepared(prepared))
    {
        None | Some(Ok(true)) => None,
        Some(Ok(false)) => Some(Gate::Targeting),
        Some(Err(_)) => {
            *errors += 1;
            Some(Gate::Targeting)
        }
    }
}
