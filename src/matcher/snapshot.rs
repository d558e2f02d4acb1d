//! The picture of a project's live campaigns, and the decision on it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use foldhash::fast::RandomState;
use serde_json::Value;

use super::failures::{Notes, Runs};
use super::gates::Gates;
use super::index::{self, Block, Found, Left};
use super::{Allowance, Campaign, Failing, Matches, Roster};
use crate::rules::{Condition, EventFacts, Facts, FactsArena, Prepared, UserFacts};
use crate::segments::{Membership, Segment, Segments};

/// A flag: a named value, perhaps for some users only.
#[derive(Debug)]
pub struct Flag {
    /// Whether it is on at all.
    pub enabled: bool,
    /// What it carries.
    pub value: Option<Value>,
    /// For whom; `None` is everybody.
    pub targeting: Option<Arc<Condition>>,
}

/// What a flag is for one user.
#[derive(Debug)]
pub struct FlagAnswer {
    /// Whether it is on.
    pub is_on: bool,
    /// How many conditions failed at run time.
    pub errors: u32,
}

/// What a decision found.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// The campaigns to show, best first.
    pub matched: Matches,
    /// How many conditions failed at run time.
    pub errors: u32,
    /// Campaigns that have failed too often in a row by now, once it is counted.
    pub failing: Vec<Failing>,
    notes: Notes,
}

impl Decision {
    /// How many campaigns it holds on to.
    pub fn campaigns_held(&self) -> usize {
        self.matched.len() + self.notes.len() + self.failing.len()
    }
}

/// An immutable picture of a project's live campaigns, segments and flags.
#[derive(Debug, Default)]
pub struct Snapshot {
    revision: i64,
    /// The name of the moment that it was read at.
    moment: Option<Box<str>>,
    campaigns: Roster,
    by_trigger: HashMap<Box<str>, Vec<Arc<Block>>, RandomState>,
    on_fetch: Vec<Arc<Block>>,
    segments: Segments,
    flags: HashMap<String, Flag>,
    quarantined: i64,
    runs: Runs,
}

impl Snapshot {
    /// Ranks and indexes the campaigns. Campaigns that are not active are left out.
    pub fn new(
        revision: i64,
        campaigns: Vec<Arc<Campaign>>,
        segments: Segments,
        flags: HashMap<String, Flag>,
    ) -> Self {
        let nothing = Self {
            runs: Runs::of(&campaigns),
            ..Self::default()
        };
        nothing.replaced(revision, campaigns, segments, flags)
    }

    /// The picture that follows this one. What concerns campaigns that are in both, as they were,
    /// is taken over.
    pub fn replaced(
        &self,
        revision: i64,
        campaigns: Vec<Arc<Campaign>>,
        segments: Segments,
        flags: HashMap<String, Flag>,
    ) -> Self {
        let stay: HashSet<*const Campaign> = campaigns.iter().map(Arc::as_ptr).collect();
        let held = self.campaigns.iter();
        let is_gone = |campaign: &&Arc<Campaign>| !stay.contains(&Arc::as_ptr(campaign));
        let gone: Vec<String> = held.filter(is_gone).map(|it| it.id.clone()).collect();
        let is_held = |campaign: &Arc<Campaign>| {
            let held = self.campaigns.get(&campaign.id);
            held.is_some_and(|held| Arc::ptr_eq(held, campaign))
        };
        let came = campaigns.into_iter().filter(|it| !is_held(it)).collect();
        self.changed(revision, &gone, came, segments, flags)
    }

    /// The same, knowing how many campaigns of the project are in quarantine and so left out.
    pub fn with_quarantined(self, quarantined: i64) -> Self {
        Self {
            quarantined,
            ..self
        }
    }

    /// How many campaigns of the project are in quarantine.
    pub fn quarantined(&self) -> i64 {
        self.quarantined
    }

    /// The picture that follows this one when the campaigns with these ids went and these came, some
    /// of them perhaps the same in another version. It costs hardly more for those that stay.
    pub fn changed(
        &self,
        revision: i64,
        gone: &[String],
        mut came: Vec<Arc<Campaign>>,
        segments: Segments,
        flags: HashMap<String, Flag>,
    ) -> Self {
        came.retain(|campaign| campaign.is_active);
        came.sort_by_cached_key(|campaign| campaign.rank());
        let (campaigns, mut left) = self.campaigns.changed(gone, &came);
        left.sort_by_cached_key(|campaign| campaign.rank());
        for campaign in &left {
            campaign.failures.end(&self.runs);
        }
        let (left_triggers, left_fetch) = by_trigger(&left);
        let (came_triggers, came_fetch) = by_trigger(&came);
        let mut by_trigger = self.by_trigger.clone();
        let triggers: HashSet<&str> = left_triggers
            .keys()
            .chain(came_triggers.keys())
            .copied()
            .collect();
        for trigger in triggers {
            let of = |all: &HashMap<&str, Vec<Arc<Campaign>>>| {
                all.get(trigger).cloned().unwrap_or_default()
            };
            let held = by_trigger.remove(trigger).unwrap_or_default();
            let blocks = index::changed(&held, &of(&left_triggers), &of(&came_triggers));
            if !blocks.is_empty() {
                by_trigger.insert(Box::from(trigger), blocks);
            }
        }
        Self {
            revision,
            moment: None,
            on_fetch: index::changed(&self.on_fetch, &left_fetch, &came_fetch),
            campaigns,
            by_trigger,
            segments,
            flags,
            quarantined: self.quarantined,
            runs: self.runs.clone(),
        }
    }

    /// The same, with the name of the moment it was read at.
    pub fn read_at(self, moment: String) -> Self {
        Self {
            moment: Some(moment.into()),
            ..self
        }
    }

    /// The name of the moment this picture was read at.
    pub fn moment(&self) -> Option<&str> {
        self.moment.as_deref()
    }

    /// The project's revision this picture was taken at.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The live campaigns.
    pub fn campaigns(&self) -> &Roster {
        &self.campaigns
    }

    /// How many live campaigns have conditions but none that the index can use. Each of them is
    /// tried at every event that is its trigger, and at every fetch unless it mentions an event.
    pub fn unindexed(&self) -> usize {
        let on_event = self.by_trigger.values().flatten();
        let on_event: usize = on_event.map(|block| block.unindexed()).sum();
        let on_fetch = self.on_fetch.iter();
        let on_fetch: usize = on_fetch.map(|block| block.unindexed_untriggered()).sum();
        on_event + on_fetch
    }

    /// The memory of the index, the campaigns themselves left out, in bytes.
    pub fn index_bytes(&self) -> usize {
        let blocks = self.by_trigger.values().flatten().chain(&self.on_fetch);
        blocks.map(|block| block.bytes()).sum()
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
    pub fn on_event<'a>(
        &self,
        user: UserFacts<'a>,
        event: EventFacts<'a>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Decision {
        let mut all = Allowance::boundless(None);
        let decision = self.on_event_within(&mut all, user, event, now, arena);
        self.counted(decision.unwrap_or_default())
    }

    /// Whether finding the campaigns of this event is allowed. To be asked before the facts are read.
    pub fn may_find(&self, event: &str, allowance: &mut Allowance<'_>) -> bool {
        let blocks = self.by_trigger.get(event);
        self.may_find_in(blocks.map_or(&[], |blocks| blocks), allowance)
    }

    /// The same for a decision without an event.
    pub fn may_find_on_fetch(&self, allowance: &mut Allowance<'_>) -> bool {
        self.may_find_in(&self.on_fetch, allowance)
    }

    fn may_find_in(&self, blocks: &[Arc<Block>], allowance: &mut Allowance<'_>) -> bool {
        let steps = blocks.iter().map(|block| block.steps());
        allowance.read() && allowance.take(steps.fold(0, u64::saturating_add))
    }

    /// The campaigns to show on this event, if that is allowed. Nothing is counted before
    /// [`Snapshot::counted`].
    pub fn on_event_within<'a>(
        &self,
        allowance: &mut Allowance<'_>,
        user: UserFacts<'a>,
        event: EventFacts<'a>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Option<Decision> {
        let runs = Some(&self.runs);
        let blocks = self.triggered(&event);
        self.decide(allowance, blocks, user, Some(event), now, arena, runs)
    }

    /// The decision, with its failures counted. Each is to be counted once, if it is used.
    pub fn counted(&self, mut decision: Decision) -> Decision {
        decision.failing = std::mem::take(&mut decision.notes).count(&self.runs);
        decision
    }

    /// The campaigns that would have been shown on an event of the past. Failures count for nothing.
    pub fn on_past_event<'a>(
        &self,
        user: UserFacts<'a>,
        event: EventFacts<'a>,
        at: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Matches {
        let blocks = self.triggered(&event);
        let mut all = Allowance::boundless(None);
        let decision = self.decide(&mut all, blocks, user, Some(event), at, arena, None);
        decision.unwrap_or_default().matched
    }

    fn triggered(&self, event: &EventFacts<'_>) -> &[Arc<Block>] {
        self.by_trigger.get(event.name).map_or(&[], |blocks| blocks)
    }

    /// The campaigns to show without an event.
    pub fn on_fetch<'a>(
        &self,
        user: UserFacts<'a>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Decision {
        let mut all = Allowance::boundless(None);
        let decision = self.on_fetch_within(&mut all, user, now, arena);
        self.counted(decision.unwrap_or_default())
    }

    /// The same, if that is allowed. Nothing is counted before [`Snapshot::counted`].
    pub fn on_fetch_within<'a>(
        &self,
        allowance: &mut Allowance<'_>,
        user: UserFacts<'a>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Option<Decision> {
        let runs = Some(&self.runs);
        self.decide(allowance, &self.on_fetch, user, None, now, arena, runs)
    }

    /// The flags by key, in no order.
    pub fn flags(&self) -> impl Iterator<Item = (&str, &Flag)> {
        self.flags.iter().map(|(key, flag)| (key.as_str(), flag))
    }

    /// The condition of the flag of this name.
    pub fn flag_targeting(&self, key: &str) -> Option<&Arc<Condition>> {
        self.flags.get(key)?.targeting.as_ref()
    }

    /// The flag of this name.
    pub fn flag(&self, key: &str) -> Option<&Flag> {
        self.flags.get(key)
    }

    /// What the flag is for this user, if saying so is allowed.
    pub fn decide_flag(
        &self,
        flag: &Flag,
        allowance: &mut Allowance<'_>,
        user: UserFacts<'_>,
        now: DateTime<Utc>,
        arena: &FactsArena,
    ) -> Option<FlagAnswer> {
        let allowance = &*allowance;
        let Some(condition) = flag.targeting.as_ref().filter(|_| flag.enabled) else {
            return Some(FlagAnswer {
                is_on: flag.enabled,
                errors: 0,
            });
        };
        if !allowance.evaluate(condition.work()) {
            return None;
        }
        let membership = Membership::new(&self.segments, user, now, arena).within(allowance);
        let lookup = |reference: &str| membership.contains(reference);
        let facts = Facts {
            user,
            event: None,
            now,
            segments: &lookup,
        };
        let prepared = Prepared::new(facts, arena).within(Some(allowance));
        let holds = condition.matches_prepared(&prepared);
        (!allowance.is_over()).then(|| FlagAnswer {
            errors: u32::from(holds.is_err()) + membership.errors(),
            is_on: holds.unwrap_or(false),
        })
    }

    /// The segments the user is in, and how many conditions failed at run time, if finding them is
    /// allowed.
    pub fn segments_of(
        &self,
        allowance: &mut Allowance<'_>,
        user: UserFacts<'_>,
        now: DateTime<Utc>,
        arena: &FactsArena,
    ) -> Option<(Vec<&Arc<Segment>>, u32)> {
        let allowance = &*allowance;
        let membership = Membership::new(&self.segments, user, now, arena).within(allowance);
        let list = self.segments.list().iter();
        let list = list.filter(|segment| membership.contains(&segment.id));
        let list = list.collect();
        (!allowance.is_over()).then(|| (list, membership.errors()))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are what a decision is made on"
    )]
    fn decide<'a>(
        &self,
        allowance: &mut Allowance<'_>,
        blocks: &[Arc<Block>],
        user: UserFacts<'a>,
        event: Option<EventFacts<'a>>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
        runs: Option<&Runs>,
    ) -> Option<Decision> {
        if blocks.is_empty() {
            return Some(Decision::default());
        }
        let allowance = &*allowance;
        let membership = Membership::new(&self.segments, user, now, arena).within(allowance);
        let lookup = |reference: &str| membership.contains(reference);
        let facts = Facts {
            user,
            event,
            now,
            segments: &lookup,
        };
        let facts = Prepared::new(facts, arena).within(Some(allowance));
        let is_too_deep = facts.is_too_deep();
        let count = if is_too_deep { 0 } else { blocks.len() };
        let left: &[Option<Left<'_>>] = arena.slice(count, |place| {
            blocks
                .get(place)
                .map(|block| block.left(&facts, arena, allowance))
        });
        let left = || blocks.iter().zip(left.iter().copied().flatten());
        let work = match is_too_deep {
            true => blocks.iter().map(|block| block.work_of_all()).sum(),
            false => left().map(|(block, left)| block.work(left)).sum(),
        };
        if allowance.is_over() || !allowance.evaluate(work) {
            return None;
        }
        let mut found = Found {
            runs,
            allowance,
            matched: Matches::default(),
            errors: 0,
            notes: Notes::default(),
        };
        for (block, left) in left() {
            block.decide(left, &facts, &mut found);
        }
        for block in blocks.iter().filter(|_| is_too_deep) {
            // Every condition fails, which no index knows.
            block.try_all(&mut found, |campaign, found| {
                let gates = Gates {
                    campaign,
                    prepared: &facts,
                    membership: &membership,
                };
                gates.first_closed(&mut found.errors).is_none()
            });
        }
        (!allowance.is_over()).then(|| Decision {
            matched: found.matched,
            errors: found.errors + membership.errors(),
            failing: Vec::new(),
            notes: found.notes,
        })
    }
}

type ByTrigger<'a> = HashMap<&'a str, Vec<Arc<Campaign>>>;

/// Campaigns by their trigger, and those that need no event, in the order given.
fn by_trigger(campaigns: &[Arc<Campaign>]) -> (ByTrigger<'_>, Vec<Arc<Campaign>>) {
    let mut by_trigger = ByTrigger::new();
    let mut on_fetch = Vec::new();
    for campaign in campaigns {
        if let Some(trigger) = &campaign.trigger {
            let triggered = by_trigger.entry(trigger).or_default();
            triggered.push(Arc::clone(campaign));
        }
        if !campaign.mentions_event() {
            on_fetch.push(Arc::clone(campaign));
        }
    }
    (by_trigger, on_fetch)
}
