//! What people should see on an event.
//!
//! A decision is made in one of three places, and the answer never depends on which:
//!
//! - The one event of a call is decided on before it is queued, by the thread that has read it: the
//!   shards commit meanwhile, and have the less to do between one commit and the next. What was decided
//!   ahead holds if the shard finds the same state of the person and the same campaigns.
//! - Otherwise, and for events of lists, the shard decides, on what it finds.
//! - What would be too much for a batch is decided apart, after the commit, on what the shard found.
//!
//! Threads of the HTTP side must not be held up, nor those who wait for a shard, so each of the first two
//! has an [`Allowance`] and does nothing that is beyond it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use chrono::{DateTime, Utc};

use super::admission::overloaded;
use super::batch::Unit;
use super::decode::Item;
use super::held::Held;
use super::shard::Shard;
use super::{Outcome, Wanted};
use crate::error::Error;
use crate::matcher::{Allowance, Decision, Snapshot};
use crate::model::{Event, Identity, ProjectId, RawJson};
use crate::rules::{EventFacts, FactsArena, Object};
use crate::targeting::people::Remembered;
use crate::targeting::{DecisionAbout, INLINE_WORK_MAX, Matches, PersonState, Targeting, facts};

/// The most campaigns that a decision made ahead may hold while its event is in the queue, which does
/// not count them.
const AHEAD_HELD_MAX: usize = 256;

/// What a decision is made on, beside the event.
#[derive(Debug)]
pub(super) struct Basis {
    snapshot: Arc<Snapshot>,
    state: Arc<PersonState>,
    /// When the person was last seen, which moves within one state.
    last_seen: DateTime<Utc>,
}

/// A decision that was made before its event was queued, and what it was made on.
#[derive(Debug)]
pub(super) struct Ahead {
    basis: Basis,
    decision: Decision,
}

/// What a shard has decided. Nothing of it is counted until its event is committed.
#[derive(Debug)]
pub(super) enum Decided {
    /// Nobody wants to know, or there is nothing to find.
    Nothing,
    /// This, on these campaigns.
    Shown(Arc<Snapshot>, Decision),
    /// It is too much work: to be decided apart, on this.
    Apart(Box<Undecided>),
    /// It is too much work, and what it is to be decided on too much to keep. The caller hears that it
    /// was too much, and its repetition, which changes nobody, finds less to keep.
    GivenUp,
}

/// What is still to be decided, and on what.
#[derive(Debug)]
pub(super) struct Undecided {
    basis: Basis,
    _held: Arc<Held>,
}

impl Decided {
    /// What the caller of a committed event is told, and what is still to be decided.
    pub(super) fn told(
        self,
        targeting: &Targeting,
        is_duplicate: bool,
    ) -> Result<(Matches, Option<Box<Undecided>>), Error> {
        match self {
            Self::Nothing => Ok((Matches::default(), None)),
            Self::Shown(snapshot, decision) => {
                let matched = used(targeting, &snapshot, decision, is_duplicate);
                Ok((matched, None))
            }
            Self::Apart(undecided) => Ok((Matches::default(), Some(undecided))),
            Self::GivenUp => Err(overloaded()),
        }
    }
}

/// What matched in a decision that is used. It is counted with the event, so that a repetition, which may
/// come as often as somebody likes, counts for nothing.
fn used(
    targeting: &Targeting,
    snapshot: &Snapshot,
    decision: Decision,
    is_duplicate: bool,
) -> Matches {
    match is_duplicate {
        true => decision.matched,
        false => targeting.counted(snapshot, decision),
    }
}

thread_local! {
    /// The memory of one decision after the other.
    static ARENA: RefCell<FactsArena> = RefCell::new(FactsArena::new());
}

impl Ahead {
    /// Decides on the one event of a request, which is about this person, if somebody wants that and it
    /// is little work. Nothing is counted until it is used.
    pub(super) fn decide(
        targeting: &Targeting,
        project: ProjectId,
        person: &Remembered,
        wants: Wanted,
        items: &[(usize, Item)],
    ) -> Option<Self> {
        let [(_, Item::Event(event))] = items else {
            return None;
        };
        let own = event.identity()?;
        let snapshot = to_decide_on(targeting, project, wants, event)?;
        let state = person.state();
        let basis = Basis {
            snapshot,
            last_seen: state.last_seen.at(),
            state: Arc::clone(state),
        };
        let mut allowance = Allowance::of(INLINE_WORK_MAX, basis.bytes(event));
        let decision = ARENA.with_borrow_mut(|arena| {
            arena.reset();
            basis.decide(targeting, own, event, &mut allowance, arena)
        })?;
        Self::held(basis, decision)
    }

    /// What waits in the queue with its event, unless that holds too much.
    fn held(basis: Basis, decision: Decision) -> Option<Self> {
        let is_small = decision.campaigns_held() <= AHEAD_HELD_MAX;
        is_small.then_some(Self { basis, decision })
    }

    /// What was decided, if it was on this.
    fn on(self, basis: &Basis) -> Option<Decision> {
        let holds = Arc::ptr_eq(&self.basis.snapshot, &basis.snapshot)
            && Arc::ptr_eq(&self.basis.state, &basis.state)
            && self.basis.last_seen == basis.last_seen;
        holds.then_some(self.decision)
    }
}

impl Basis {
    /// The text that is read to decide, in bytes.
    fn bytes(&self, event: &Event) -> usize {
        let parts = [event.call.properties(), event.context.as_ref()];
        let parts = parts.into_iter().flatten().map(|raw| raw.as_str().len());
        self.state.traits.len() + parts.sum::<usize>()
    }

    /// Decides, if that is allowed. Nothing is counted yet but a panic.
    fn decide(
        &self,
        targeting: &Targeting,
        own: &Identity,
        event: &Event,
        allowance: &mut Allowance<'_>,
        arena: &FactsArena,
    ) -> Option<Decision> {
        let decision = || self.find(own, event, allowance, arena);
        // A defect in the evaluation of one rule must not keep events from being stored.
        let decided = targeting.caught(DecisionAbout::Event, decision);
        decided.unwrap_or_else(|| {
            let name = event.call.name();
            tracing::error!(event = name, "a decision panicked; no campaign is shown");
            Some(Decision::default())
        })
    }

    fn find(
        &self,
        own: &Identity,
        event: &Event,
        allowance: &mut Allowance<'_>,
        arena: &FactsArena,
    ) -> Option<Decision> {
        let name = event.call.name();
        if !self.snapshot.may_find(name, allowance) {
            return None;
        }
        let now = event.received_at;
        let person = (self.state.as_ref(), self.last_seen);
        let user = facts(Some(own), Some(person), now, arena);
        let event = EventFacts {
            name,
            properties: object(event.call.properties(), arena),
            context: object(event.context.as_ref(), arena),
            timestamp: event.timestamp,
        };
        self.snapshot
            .on_event_within(allowance, user, event, now, arena)
    }
}

/// The campaigns to decide on, if somebody wants to know what the person should see and there may
/// be something.
pub(super) fn to_decide_on(
    targeting: &Targeting,
    project: ProjectId,
    wants: Wanted,
    event: &Event,
) -> Option<Arc<Snapshot>> {
    if !wants.matches {
        return None;
    }
    let snapshot = targeting.snapshot(project);
    snapshot.has_trigger(event.call.name()).then_some(snapshot)
}

impl Shard {
    /// The campaigns to decide on, if the unit's caller can still be told.
    pub(super) fn to_decide_on(&self, unit: &Unit, event: &Event) -> Option<Arc<Snapshot>> {
        let is_given_up = self.given_up == Some(unit.caller);
        let wants = unit.wants;
        (!is_given_up)
            .then(|| to_decide_on(&self.targeting, unit.project, wants, event))
            .flatten()
    }

    /// What the person should see now; nothing if nobody wants to know.
    pub(super) fn decide(
        &mut self,
        unit: &Unit,
        own: &Identity,
        state: Option<&Arc<PersonState>>,
        event: &Event,
    ) -> Decided {
        let (Some(snapshot), Some(state)) = (self.to_decide_on(unit, event), state) else {
            return Decided::Nothing;
        };
        let basis = Basis {
            snapshot,
            state: Arc::clone(state),
            last_seen: self.seen.last(state),
        };
        let ahead = unit.ahead.take().and_then(|ahead| ahead.on(&basis));
        if ahead.is_some() {
            self.metrics.used_ahead();
        }
        let decision = ahead.or_else(|| {
            let left = self.work.left(unit.project);
            let mut allowance = Allowance::of(left, basis.bytes(event));
            self.arena.reset();
            let decision = basis.decide(&self.targeting, own, event, &mut allowance, &self.arena);
            let taken = left.saturating_sub(allowance.left());
            self.work.take(unit.project, taken);
            decision
        });
        match decision {
            Some(decision) => Decided::Shown(basis.snapshot, decision),
            None => self.put_apart(unit, basis),
        }
    }

    /// Keeps what is to be decided on until that is done, if there is room for it. A state that the
    /// batch decides on again takes room once.
    fn put_apart(&mut self, unit: &Unit, basis: Basis) -> Decided {
        let person = basis.state.id;
        let held = self.held.get(&person).and_then(Weak::upgrade);
        let held = held.filter(|held| held.is(&basis.state)).or_else(|| {
            let held = Arc::new(self.room.hold(unit.project, &basis.state)?);
            self.held.insert(person, Arc::downgrade(&held));
            Some(held)
        });
        let Some(held) = held else {
            self.given_up = Some(unit.caller);
            return Decided::GivenUp;
        };
        let undecided = Undecided { basis, _held: held };
        Decided::Apart(Box::new(undecided))
    }
}

/// Decides what the shards did not, in the order of the request. `undecided` are places in `outcomes`.
pub(super) async fn decide_apart(
    targeting: &Targeting,
    project: ProjectId,
    mut outcomes: Vec<Outcome>,
    mut undecided: Vec<(usize, Box<Undecided>)>,
) -> Result<Vec<Outcome>, Error> {
    if undecided.is_empty() {
        return Ok(outcomes);
    }
    undecided.sort_unstable_by_key(|(place, _)| *place);
    let this = targeting.clone();
    let work = move |abandoned: &AtomicBool| {
        ARENA.with_borrow_mut(|arena| {
            for (place, undecided) in undecided {
                let basis = &undecided.basis;
                let Some(Outcome::Stored(stored)) = outcomes.get_mut(place) else {
                    continue;
                };
                let Some(own) = stored.event.identity() else {
                    continue;
                };
                arena.reset();
                let mut all = Allowance::boundless(Some(abandoned));
                let decision = basis.decide(&this, own, &stored.event, &mut all, arena);
                if abandoned.load(Ordering::Relaxed) {
                    break;
                }
                let decision = decision.unwrap_or_default();
                stored.matched = used(&this, &basis.snapshot, decision, stored.duplicate);
            }
        });
        outcomes
    };
    targeting.apart(project, work).await
}

fn object<'a>(raw: Option<&'a RawJson>, arena: &'a FactsArena) -> Object<'a> {
    raw.map_or(Object::EMPTY, |raw| arena.parse(raw.as_str()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::matcher::{Campaign, CampaignRow};
    use crate::model::{Call, Dialect, EventName, PersonId};
    use crate::rules::Limits;
    use crate::segments::Segments;

    fn bought() -> Event {
        Event {
            dialect: Dialect::Seed,
            call: Call::Track {
                name: EventName::parse("buy").unwrap(),
                properties: None,
            },
            user: Some(Identity::user("ada").unwrap()),
            anonymous: None,
            message_id: None,
            timestamp: DateTime::UNIX_EPOCH,
            received_at: DateTime::UNIX_EPOCH,
            context: None,
            size_bytes: 100,
            replay_of: None,
        }
    }

    /// Somebody, and so many live campaigns with this rule.
    fn basis(campaigns: i64, rule: &Value) -> Basis {
        let compiled = |seq: i64| {
            let body = json!({"status": "active", "trigger": "buy", "targeting": rule});
            let row = CampaignRow {
                seq,
                ..CampaignRow::of(&format!("c{seq}"), &body)
            };
            Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
        };
        let campaigns = (0..campaigns).map(compiled).collect();
        let snapshot = Snapshot::new(1, campaigns, Segments::default(), HashMap::new());
        let state = PersonState {
            id: PersonId(1),
            home: 0,
            user_id: None,
            traits: r#"{"plan":"pro"}"#.into(),
            created_at: DateTime::UNIX_EPOCH,
            last_seen: DateTime::UNIX_EPOCH.into(),
        };
        Basis {
            snapshot: Arc::new(snapshot),
            state: Arc::new(state),
            last_seen: DateTime::UNIX_EPOCH,
        }
    }

    fn decided(campaigns: i64, rule: &Value) -> (Basis, Decision) {
        let (basis, event, arena) = (basis(campaigns, rule), bought(), FactsArena::new());
        let mut all = Allowance::boundless(None);
        let own = event.identity().unwrap();
        let decision = basis.find(own, &event, &mut all, &arena).unwrap();
        (basis, decision)
    }

    /// Those that failed are held on to as well, to be counted.
    #[test]
    fn a_decision_that_holds_many_campaigns_does_not_wait_in_the_queue() {
        let plan = json!({"var": "user.traits.plan"});
        // The index does not know that it fails.
        let fails = json!({"or": [{"in": ["x", plan]}, {"<": [plan, 1]}]});
        for (rule, matches) in [(json!(true), true), (fails, false)] {
            for (campaigns, is_held) in [(AHEAD_HELD_MAX, true), (AHEAD_HELD_MAX + 1, false)] {
                let (basis, decision) = decided(i64::try_from(campaigns).unwrap(), &rule);
                assert_eq!(decision.campaigns_held(), campaigns, "{rule}");
                assert_eq!(!decision.matched.is_empty(), matches, "{rule}");
                let held = Ahead::held(basis, decision);
                assert_eq!(held.is_some(), is_held, "{campaigns} {rule}");
            }
        }
    }

    #[test]
    fn a_decision_that_nobody_waits_for_tries_nothing_more() {
        // No index knows what is in a text.
        let rule = json!({"in": ["r", {"var": "user.traits.plan"}]});
        let (event, arena) = (bought(), FactsArena::new());
        let own = event.identity().unwrap();
        for (is_abandoned, matches) in [(false, 3), (true, 0)] {
            let abandoned = AtomicBool::new(is_abandoned);
            let mut all = Allowance::boundless(Some(&abandoned));
            let decision = basis(3, &rule).find(own, &event, &mut all, &arena);
            assert_eq!(decision.map_or(0, |it| it.matched.len()), matches);
        }
    }
}
