//! Traces of rules against their decisions.

use serde_json::{Value, json};

use super::{newcomer, parse, var};
use crate::rules::effort::{EFFORT_MAX, looked_at};
use crate::rules::{FactsArena, Limits, Prepared, TraceOutcome};

/// The facts of somebody with these traits.
fn with_traits<T>(traits: &Value, work: impl FnOnce(&Prepared<'_>) -> T) -> T {
    let arena = FactsArena::new();
    work(&Prepared::new(newcomer(&arena, traits, &|_| false), &arena))
}

/// A trace evaluates each part for itself; what is too much for the whole is too much there, too.
#[test]
fn a_trace_fails_where_the_whole_looks_at_too_much() {
    let same = json!({"===": [var("list"), var("list")]});
    let condition = parse(&json!({"and": vec![same; 800]}));
    with_traits(&json!({"list": vec![1; 100_000]}), |prepared| {
        let error = condition.matches_prepared(prepared).unwrap_err();
        for shows in [false, true] {
            let traced = condition.trace(prepared, &Limits::default(), "/targeting", shows);
            assert_eq!((traced.outcome, traced.misses), (TraceOutcome::Fails, 1));
            let failing = traced.first_failing.and_then(|part| part.error);
            assert_eq!(failing, shows.then(|| error.message.clone()));
        }
    });
}

/// The decision never comes to the parts that look at much.
#[test]
fn a_trace_looks_at_little_more_than_a_decision_may() {
    let same = json!({"===": [var("list"), var("list")]});
    for (first, outcome) in [
        (false, TraceOutcome::DoesNotHold),
        (true, TraceOutcome::Holds),
    ] {
        let operator = if first { "or" } else { "and" };
        let mut parts = vec![json!(first)];
        parts.extend(vec![same.clone(); 400]);
        let condition = parse(&json!({ operator: parts }));
        with_traits(&json!({"list": vec![1; 1_000_000]}), |prepared| {
            assert_eq!(condition.matches_prepared(prepared), Ok(first));
            let before = looked_at();
            let traced = condition.trace(prepared, &Limits::default(), "/targeting", true);
            let looked_at = looked_at() - before;
            assert!(looked_at < EFFORT_MAX * 2, "{looked_at}");
            assert_eq!(
                (traced.outcome, traced.misses),
                (outcome, u32::from(!first))
            );
            let [part] = &*traced.parts else {
                panic!("{traced:?}");
            };
            assert_eq!(
                (part.pointer.as_str(), part.outcome),
                ("/targeting", outcome)
            );
            assert!(part.rule.is_some() && part.parts.is_empty(), "{part:?}");
        });
    }
}
