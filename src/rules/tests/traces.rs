//! Traces of rules against their decisions.

use serde_json::json;

use super::{NOW, parse, time, var};
use crate::rules::{Facts, FactsArena, Limits, Prepared, TraceOutcome, UserFacts};

/// A trace evaluates each part for itself; what is too much for the whole is too much there, too.
#[test]
fn a_trace_fails_where_the_whole_looks_at_too_much() {
    let same = json!({"===": [var("list"), var("list")]});
    let condition = parse(&json!({"and": vec![same; 800]}));
    let (arena, traits) = (FactsArena::new(), json!({"list": vec![1; 100_000]}));
    let facts = Facts {
        user: UserFacts {
            id: "u1",
            traits: arena.from_value(&traits),
            created_at: time(NOW),
            last_seen_at: time(NOW),
        },
        event: None,
        now: time(NOW),
        segments: &|_| false,
    };
    let prepared = Prepared::new(facts, &arena);
    let error = condition.matches_prepared(&prepared).unwrap_err();
    for shows in [false, true] {
        let traced = condition.trace(&prepared, &Limits::default(), "/targeting", shows);
        assert_eq!((traced.outcome, traced.misses), (TraceOutcome::Fails, 1));
        let failing = traced.first_failing.and_then(|part| part.error);
        assert_eq!(failing, shows.then(|| error.message.clone()));
    }
}
