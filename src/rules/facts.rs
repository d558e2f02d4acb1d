//! What a condition sees: one user, perhaps one event, and the time of the decision.
//!
//! [`Prepared`] holds the facts in the evaluator's own form. It is built once per decision, on
//! first use, and shared by every condition evaluated for it; building it is the expensive part.

use std::cell::{OnceCell, RefCell};

use chrono::{DateTime, SecondsFormat, Utc};
use datalogic_rs::DataValue;
use datalogic_rs::bumpalo::Bump;
use datalogic_rs::datavalue::NumberValue;
use serde_json::Value;

use super::condition::{EvalError, EvalErrorKind};
use super::operators::NOW_KEY;

/// Nesting of traits, properties and context that conditions can look at.
const DATA_DEPTH_MAX: usize = 256;

/// The user a decision is about.
#[derive(Debug, Clone, Copy)]
pub struct UserFacts<'a> {
    /// The application's own id, or the anonymous one.
    pub id: &'a str,
    /// A JSON object.
    pub traits: &'a Value,
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
    /// A JSON object, or null.
    pub properties: &'a Value,
    /// A JSON object, or null.
    pub context: &'a Value,
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

/// The memory that [`Prepared`] builds its form in.
#[derive(Debug, Default)]
pub struct FactsArena(Bump);

impl FactsArena {
    /// Takes no memory until it is used.
    pub fn new() -> Self {
        FactsArena(Bump::new())
    }
}

pub(super) type Members<'a> = &'a [(&'a str, DataValue<'a>)];

/// Facts in the evaluator's form, built when the first condition asks.
pub struct Prepared<'a> {
    facts: Facts<'a>,
    arena: &'a FactsArena,
    root: OnceCell<Result<Root<'a>, EvalError>>,
    /// Reused from one condition to the next, so that most evaluations allocate nothing.
    pub(super) scratch: RefCell<Bump>,
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
            root: OnceCell::new(),
            scratch: RefCell::new(Bump::new()),
        }
    }

    /// The facts it was made from.
    pub fn facts(&self) -> &Facts<'a> {
        &self.facts
    }

    pub(super) fn root(&self) -> Result<Root<'a>, EvalError> {
        self.root.get_or_init(|| self.build()).clone()
    }

    fn build(&self) -> Result<Root<'a>, EvalError> {
        let arena = &self.arena.0;
        let facts = &self.facts;
        let user = object(
            arena,
            [
                ("created_at", time(arena, facts.user.created_at)),
                ("id", DataValue::String(facts.user.id)),
                ("last_seen_at", time(arena, facts.user.last_seen_at)),
                ("traits", to_arena(facts.user.traits, arena, 0)?),
            ],
        );
        let now = time(arena, facts.now);
        let members: Members<'a> = match &facts.event {
            None => arena.alloc_slice_copy(&[(NOW_KEY, now), ("user", user)]),
            Some(event) => {
                let event = object(
                    arena,
                    [
                        ("context", to_arena(event.context, arena, 0)?),
                        ("name", DataValue::String(event.name)),
                        ("properties", to_arena(event.properties, arena, 0)?),
                        ("timestamp", time(arena, event.timestamp)),
                    ],
                );
                arena.alloc_slice_copy(&[("event", event), (NOW_KEY, now), ("user", user)])
            }
        };
        Ok(Root {
            members,
            object: arena.alloc(DataValue::Object(members)),
        })
    }
}

fn object<'a>(arena: &'a Bump, members: [(&'a str, DataValue<'a>); 4]) -> DataValue<'a> {
    DataValue::Object(arena.alloc_slice_copy(&members))
}

/// Milliseconds and `Z`, always, so that times written here also compare as texts.
fn time<'a>(arena: &'a Bump, time: DateTime<Utc>) -> DataValue<'a> {
    let text = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    DataValue::String(arena.alloc_str(&text))
}

/// Borrows texts and keys from `value`; only the structure is built anew.
pub(super) fn to_arena<'a>(
    value: &'a Value,
    arena: &'a Bump,
    depth: usize,
) -> Result<DataValue<'a>, EvalError> {
    if depth > DATA_DEPTH_MAX {
        let message = format!("data nested deeper than {DATA_DEPTH_MAX} is not evaluated");
        return Err(EvalError::new(EvalErrorKind::Limit, message));
    }
    Ok(match value {
        Value::Null => DataValue::Null,
        Value::Bool(value) => DataValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => DataValue::from_i64(integer),
            // Kept as it is: the library's own constructor would make an integer of it.
            None => DataValue::Number(NumberValue::Float(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => DataValue::String(text),
        Value::Array(items) => {
            let items: Result<Vec<_>, _> = items
                .iter()
                .map(|item| to_arena(item, arena, depth + 1))
                .collect();
            DataValue::Array(arena.alloc_slice_copy(&items?))
        }
        Value::Object(members) => {
            let members: Result<Vec<_>, EvalError> = members
                .iter()
                .map(|(key, member)| Ok((key.as_str(), to_arena(member, arena, depth + 1)?)))
                .collect();
            DataValue::Object(arena.alloc_slice_copy(&members?))
        }
    })
}
