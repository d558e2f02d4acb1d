//! Tests of conditions as a whole: what the operators mean, what a rule may cost, what is known
//! about a rule, and that the typed form changes no answer.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod agreement;
mod bounds;
mod data;
mod operators;
mod reads;
mod refusals;
mod traces;

use chrono::{DateTime, Utc};
use proptest::prelude::ProptestConfig;
use serde_json::{Value, json};

use super::{
    Condition, EvalError, EvalErrorKind, EventFacts, Facts, FactsArena, Limits, Object, RuleError,
    RuleErrorCode, UserFacts,
};

const NOW: &str = "2026-03-10T12:00:00Z";

/// So many cases, and more if `PROPTEST_CASES` says so.
fn at_least(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(cases),
        ..asked
    }
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn parse(rule: &Value) -> Condition {
    Condition::parse(rule, &Limits::default()).unwrap_or_else(|error| panic!("{rule}: {error}"))
}

fn refusal(rule: &Value) -> RuleError {
    match Condition::parse(rule, &Limits::default()) {
        Ok(_) => panic!("{rule} was accepted"),
        Err(error) => error,
    }
}

fn refused(rule: &Value) -> (RuleErrorCode, String) {
    let error = refusal(rule);
    (error.code, error.pointer)
}

/// A user with these traits who came at [`NOW`], which it still is.
fn newcomer<'a>(
    arena: &'a FactsArena,
    traits: &'a Value,
    segments: &'a dyn Fn(&str) -> bool,
) -> Facts<'a> {
    Facts {
        user: UserFacts {
            id: "u1",
            traits: arena.from_value(traits),
            created_at: time(NOW),
            last_seen_at: time(NOW),
        },
        event: None,
        now: time(NOW),
        segments,
    }
}

/// Evaluates on a user with these traits, a member of `vip` only, at [`NOW`].
fn on_traits(rule: &Value, traits: &Value) -> Result<bool, EvalError> {
    let arena = FactsArena::new();
    parse(rule).matches(&Facts {
        user: UserFacts {
            id: "u1",
            traits: arena.from_value(traits),
            created_at: time("2026-01-01T00:00:00Z"),
            last_seen_at: time("2026-03-10T11:00:00Z"),
        },
        event: None,
        now: time(NOW),
        segments: &|name| name == "vip",
    })
}

/// Evaluates on an event with these properties.
fn on_event(rule: &Value, properties: &Value) -> Result<bool, EvalError> {
    let arena = FactsArena::new();
    parse(rule).matches(&Facts {
        user: UserFacts {
            id: "u1",
            traits: Object::EMPTY,
            created_at: time("2026-01-01T00:00:00Z"),
            last_seen_at: time("2026-03-10T11:00:00Z"),
        },
        event: Some(EventFacts {
            name: "order_placed",
            properties: arena.from_value(properties),
            context: arena.parse(r#"{"locale": "de"}"#),
            timestamp: time("2026-03-10T11:59:00Z"),
        }),
        now: time(NOW),
        segments: &|_| false,
    })
}

fn kind(result: Result<bool, EvalError>) -> EvalErrorKind {
    match result {
        Ok(answer) => panic!("no failure but {answer}"),
        Err(error) => error.kind,
    }
}

fn var(name: &str) -> Value {
    json!({ "var": format!("user.traits.{name}") })
}
