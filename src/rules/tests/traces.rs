//! Traces of rules against their decisions.

use serde_json::json;

use super::{newcomer, parse, var};
use crate::rules::{FactsArena, Limits, Prepared, TraceOutcome};

/// A trace evaluates each part for itself; what is too much for the whole is too much there, too.
#[test]
fn a_trace_fails_where_the_whole_looks_at_too_much() {
    let same = json!({"===": [var("list"), var("list")]});
    let condition = parse(&json!({"and": vec![same; 800]}));
    let (arena, traits) = (FactsArena::new(), json!({"list": vec![1; 100_000]}));
    let prepared = Prepared::new(newcomer(&arena, &traits, &|_| false), &arena);
    let error = condition.matches_prepared(&prepared).unwrap_err();
    for shows in [false, true] {
        let traced = condition.trace(&prepared, &Limits::default(), "/targeting", shows);
        assert_eq!((traced.outcome, traced.misses), (TraceOutcome::Fails, 1));
        let failing = traced.first_failing.and_then(|part| part.error);
        assert_eq!(failing, shows.then(|| error.message.clone()));
    }
}
