//! What people should see on an event.
//!
//! The one event of a call is decided on before it is queued, by the thread that has read it: the
//! shards commit meanwhile, and have the less to do between one commit and the next. What was decided
//! ahead holds if the shard finds the same state of the person and the same campaigns; otherwise, and
//! for events of lists, the shard decides. The slow twin is to decide in the shard always.
//!
//! Threads of the HTTP side must not be held up, so only what is little work is decided ahead.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::Wanted;
use super::batch::Unit;
use super::decode::Item;
use super::shard::Shard;
use crate::matcher::Snapshot;
use crate::model::{Event, Identity, PersonId, ProjectId, RawJson};
use crate::rules::{EventFacts, FactsArena, Object};
use crate::targeting::{Matches, PersonState, Targeting};

/// The most text of a person and an event that is read to decide ahead, in bytes.
const AHEAD_BYTES_MAX: usize = 32 * 1024;
/// The most campaigns among which is decided ahead. For twice as many of the adversarial world the index
/// takes 36 µs (`docs/benchmarks.md`).
const AHEAD_CAMPAIGNS_MAX: usize = 50_000;
/// The most steps of rules, in the worst case, that are evaluated to decide ahead: a rule that looks
/// through a list takes a thousand times its body.
const AHEAD_STEPS_MAX: u64 = 20_000;

/// A decision that was made before its event was queued, and what it was made on.
#[derive(Debug)]
pub(super) struct Ahead {
    snapshot: Arc<Snapshot>,
    state: Arc<PersonState>,
    matched: Matches,
}

thread_local! {
    /// The memory of one decision after the other.
    static ARENA: RefCell<FactsArena> = RefCell::new(FactsArena::new());
}

impl Ahead {
    /// Decides on the one event of a request, which is about this person, if somebody wants that, the
    /// person's state is remembered and it is little work.
    pub(super) fn decide(
        targeting: &Targeting,
        project: ProjectId,
        person: PersonId,
        wants: Wanted,
        items: &[(usize, Item)],
    ) -> Option<Self> {
        let [(_, Item::Event(event))] = items else {
            return None;
        };
        let own = event.identity()?;
        let snapshot = to_decide_on(targeting, project, wants, event)?;
        let (campaigns, steps) = snapshot.work_on(event.call.name());
        if campaigns > AHEAD_CAMPAIGNS_MAX || steps > AHEAD_STEPS_MAX {
            return None;
        }
        let state = targeting.people().state(person)?;
        if state.traits.len() + event.size_bytes > AHEAD_BYTES_MAX {
            return None;
        }
        let matched = ARENA.with_borrow_mut(|arena| {
            arena.reset();
            decide(targeting, &snapshot, own, &state, event, arena)
        });
        Some(Self {
            snapshot,
            state,
            matched,
        })
    }

    /// What was decided, if it was on these.
    fn on(&self, snapshot: &Arc<Snapshot>, state: &Arc<PersonState>) -> Option<&Matches> {
        let holds = Arc::ptr_eq(&self.snapshot, snapshot) && Arc::ptr_eq(&self.state, state);
        holds.then_some(&self.matched)
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
    /// What the person should see now; nothing if nobody wants to know.
    pub(super) fn decide(
        &mut self,
        unit: &Unit,
        own: &Identity,
        state: Option<&Arc<PersonState>>,
        event: &Event,
    ) -> Matches {
        let snapshot = to_decide_on(&self.targeting, unit.project, unit.wants, event);
        let (Some(snapshot), Some(state)) = (snapshot, state) else {
            return Matches::default();
        };
        let ahead = unit.ahead.as_ref();
        if let Some(matched) = ahead.and_then(|ahead| ahead.on(&snapshot, state)) {
            return matched.clone();
        }
        self.arena.reset();
        decide(&self.targeting, &snapshot, own, state, event, &self.arena)
    }
}

fn decide(
    targeting: &Targeting,
    snapshot: &Snapshot,
    own: &Identity,
    state: &PersonState,
    event: &Event,
    arena: &FactsArena,
) -> Matches {
    let name = event.call.name();
    let decision = || {
        let facts = EventFacts {
            name,
            properties: object(event.call.properties(), arena),
            context: object(event.context.as_ref(), arena),
            timestamp: event.timestamp,
        };
        targeting.campaigns_on_event(snapshot, own, state, facts, event.received_at, arena)
    };
    // A defect in the evaluation of one rule must not keep events from being stored. Nothing is
    // left half done by it: a decision only reads.
    std::panic::catch_unwind(AssertUnwindSafe(decision)).unwrap_or_else(|_| {
        tracing::error!(event = name, "a decision panicked; no campaign is shown");
        Matches::default()
    })
}

fn object<'a>(raw: Option<&'a RawJson>, arena: &'a FactsArena) -> Object<'a> {
    raw.map_or(Object::EMPTY, |raw| arena.parse(raw.as_str()))
}
