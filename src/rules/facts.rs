//! What a condition sees: one user, perhaps one event, and the time of the decision.
//!
//! [`Prepared`] holds the facts in the evaluator's own form. It is built once per decision, on
//! first use, and shared by every condition evaluated for it; building it is the expensive part.

use std::cell::OnceCell;

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use datalogic_rs::DataValue;
use datalogic_rs::bumpalo::Bump;

use super::allowance::Allowance;
use super::condition::{EvalError, EvalErrorKind};
use super::data::{DATA_DEPTH_MAX, FactsArena, Object};
use super::native::View;
use super::operators::NOW_KEY;

/// The user a decision is about.
#[derive(Debug, Clone, Copy)]
pub struct UserFacts<'a> {
    /// The application's own id, or the anonymous one.
    pub id: &'a str,
    /// What is known of the user.
    pub traits: Object<'a>,
    /// When the user was first seen.
    pub created_at: DateTime<Utc>,
    /// When the user was last seen.
    pub last_seen_at: DateTime<Utc>,
}

/// The event a decision is about.
#[derive(Debug, Clone, Copy)]
pub struct EventFacts<'a> {
    /// The event's name.
    pub name: &'a str,
    /// What happened in detail.
    pub properties: Object<'a>,
    /// Where and on what it happened.
    pub context: Object<'a>,
    /// When it happened, corrected for the client's clock.
    pub timestamp: DateTime<Utc>,
}

/// Everything a condition sees.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The user.
    pub user: UserFacts<'a>,
    /// The event; absent when campaigns are fetched.
    pub event: Option<EventFacts<'a>>,
    /// The decision's time.
    pub now: DateTime<Utc>,
    /// Whether the user is a member of the segment with this name or id. Must be pure, and may
    /// evaluate other conditions.
    pub segments: &'a dyn Fn(&str) -> bool,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("user", &self.user)
            .field("event", &self.event)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

pub(super) type Members<'a> = &'a [(&'a str, DataValue<'a>)];

/// Facts in the evaluator's form, built when the first condition asks.
pub struct Prepared<'a> {
    facts: Facts<'a>,
    arena: &'a FactsArena,
    view: View<'a>,
    root: OnceCell<Root<'a>>,
    allowance: Option<&'a Allowance<'a>>,
}

/// The data of one decision: its members, and the object made of them.
#[derive(Clone, Copy)]
pub(super) struct Root<'a> {
    pub(super) members: Members<'a>,
    pub(super) object: &'a DataValue<'a>,
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl<'a> Prepared<'a> {
    /// Remembers the facts and where to build; costs nothing yet.
    pub fn new(facts: Facts<'a>, arena: &'a FactsArena) -> Self {
        Prepared {
            facts,
            arena,
            view: View::new(facts, arena),
            root: OnceCell::new(),
            allowance: None,
        }
    }

    /// The same for a decision that may take no more than this, if it is bounded at all. Once it was
    /// given up, what conditions answer is of no use.
    pub(crate) fn within(self, allowance: Option<&'a Allowance<'a>>) -> Self {
        Prepared { allowance, ..self }
    }

    /// The facts it was made from.
    pub fn facts(&self) -> &Facts<'a> {
        &self.facts
    }

    pub(super) fn allowance(&self) -> Option<&'a Allowance<'a>> {
        self.allowance
    }

    pub(super) fn arena(&self) -> &'a FactsArena {
        self.arena
    }

    /// The data as conditions see it.
    ///
    /// # Errors
    /// Something is nested deeper than conditions look.
    pub(super) fn root(&self) -> Result<Root<'a>, EvalError> {
        if self.is_too_deep() {
            return Err(too_deep());
        }
        Ok(*self.root.get_or_init(|| self.build()))
    }

    /// Whether something is nested deeper than conditions look, so that all of them fail.
    pub(crate) fn is_too_deep(&self) -> bool {
        let event = self.facts.event.as_ref();
        self.facts.user.traits.is_too_deep()
            || event.is_some_and(|it| it.properties.is_too_deep() || it.context.is_too_deep())
    }

    /// The facts as native tests read them.
    pub(crate) fn view(&self) -> &View<'a> {
        &self.view
    }

    fn build(&self) -> Root<'a> {
        let arena = &self.arena.facts;
        let facts = &self.facts;
        let user = object(
            arena,
            [
                ("created_at", time(arena, facts.user.created_at)),
                ("id", DataValue::String(facts.user.id)),
                ("last_seen_at", time(arena, facts.user.last_seen_at)),
                ("traits", facts.user.traits.value()),
            ],
        );
        let now = time(arena, facts.now);
        let members: Members<'a> = match &facts.event {
            None => arena.alloc_slice_copy(&[(NOW_KEY, now), ("user", user)]),
            Some(event) => {
                let event = object(
                    arena,
                    [
                        ("context", event.context.value()),
                        ("name", DataValue::String(event.name)),
                        ("properties", event.properties.value()),
                        ("timestamp", time(arena, event.timestamp)),
                    ],
                );
                arena.alloc_slice_copy(&[("event", event), (NOW_KEY, now), ("user", user)])
            }
        };
        Root {
            members,
            object: arena.alloc(DataValue::Object(members)),
        }
    }
}

pub(super) fn too_deep() -> EvalError {
    let message = format!("data nested deeper than {DATA_DEPTH_MAX} is not evaluated");
    EvalError::new(EvalErrorKind::Limit, message)
}

fn object<'a>(arena: &'a Bump, members: [(&'a str, DataValue<'a>); 4]) -> DataValue<'a> {
    DataValue::Object(arena.alloc_slice_copy(&members))
}

/// Milliseconds and `Z`, always, so that times written here also compare as texts.
pub(super) fn time<'a>(arena: &'a Bump, time: DateTime<Utc>) -> DataValue<'a> {
    let year = time.year();
    if !(0..=9_999).contains(&year) || time.timestamp_subsec_millis() > 999 {
        let text = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        return DataValue::String(arena.alloc_str(&text));
    }
    let text = datalogic_rs::bumpalo::format!(in arena,
        "{year:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.month(), time.day(), time.hour(), time.minute(), time.second(),
        time.timestamp_subsec_millis(),
    );
    DataValue::String(text.into_bump_str())
}
