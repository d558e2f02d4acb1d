//! What is known about a rule without any facts.

use serde_json::{Value, json};

use super::{newcomer, parse, var};
use crate::rules::{Condition, FactsArena, Prepared, RuleList};

#[test]
fn mentioning_the_event_is_decided_from_the_rule() {
    for rule in [
        json!({"var": "event"}),
        json!({"var": "event.name"}),
        json!({"==": [{"var": ["event.properties.x", 1]}, 1]}),
        json!({"var": ["user.id", {"var": "event.name"}]}),
        json!({"var": ""}),
        json!({"var": []}),
        json!({"var": null}),
        json!({"var": {"cat": ["ev", "ent"]}}),
        json!({"missing": ["user.id", "event.name"]}),
        json!({"missing": "event.name"}),
        json!({"missing": [["event.name"]]}),
        json!({"missing": {"var": "user.traits.paths"}}),
        json!({"missing_some": [1, ["event.name"]]}),
        json!({"exists": "event.properties.x"}),
        json!({"exists": {"var": "event"}}),
        json!({"if": [false, {"var": "event.name"}, true]}),
        json!({"some": [{"var": "event.properties.items"}, true]}),
        json!({"some": [var("tags"), {"var": "event"}]}),
        json!({"matches": [{"var": "event.name"}, "x"]}),
        json!({"within_last": [{"var": "event.timestamp"}, "1d"]}),
    ] {
        assert!(parse(&rule).mentions_event(), "{rule}");
    }
    for rule in [
        json!(true),
        json!({"var": "user.traits.event"}),
        json!({"var": "events"}),
        json!({"==": [var("x"), "event"]}),
        json!({"missing": ["user.id"]}),
        json!({"missing_some": [1, ["user.id"]]}),
        json!({"in_segment": "event"}),
        json!({"some": [var("tags"), {"==": [{"var": ""}, "event"]}]}),
        json!({"exists": "user.traits.x"}),
    ] {
        assert!(!parse(&rule).mentions_event(), "{rule}");
    }
}

#[test]
fn segments_are_listed_once() {
    let rule = json!({"or": [
        {"in_segment": "b"},
        {"!": [{"in_segment": ["a"]}]},
        {"some": [var("tags"), {"in_segment": "b"}]},
    ]});
    assert_eq!(parse(&rule).segments(), ["a", "b"]);
}

fn warned(rule: &Value) -> Vec<String> {
    let warnings = parse(rule).warnings(&crate::rules::Limits::default());
    warnings
        .iter()
        .map(|warning| {
            assert_eq!(warning.code, crate::error::WarningCode::MissingValueMatches);
            warning.pointer.clone()
        })
        .collect()
}

#[test]
fn comparisons_that_hold_on_a_missing_value_are_warned_about() {
    for (rule, pointer) in [
        (json!({"<": [var("age"), 18]}), "/<"),
        (json!({"<=": [0, var("age"), 18]}), "/<="),
        (json!({"!=": [var("plan"), "pro"]}), "/!="),
        (json!({"==": [var("count"), 0]}), "/=="),
        (json!({"!": {">=": [var("age"), 18]}}), "/!/>="),
        (
            json!({"!": {"in": [var("country"), ["de", "at"]]}}),
            "/!/in",
        ),
        (
            json!({"!": {"starts_with": [var("zip"), "1"]}}),
            "/!/starts_with",
        ),
        (json!({"!": {"matches": [var("zip"), "1"]}}), "/!/matches"),
        (
            json!({"or": [{"exists": "user.traits.age"}, {"<": [var("age"), 18]}]}),
            "/or/1/<",
        ),
        (
            json!({"and": [{"<": [var("age"), 18]}, {"exists": "user.traits.age"}]}),
            "/and/0/<",
        ),
    ] {
        assert_eq!(warned(&rule), [pointer], "{rule}");
    }
    for rule in [
        json!({">=": [var("age"), 18]}),
        json!({"==": [var("plan"), "pro"]}),
        json!({"!": {"<": [var("age"), 18]}}),
        json!({"!": {"!": {"==": [var("plan"), "pro"]}}}),
        json!({"<": [{"var": ["user.traits.age", 99]}, 18]}),
        json!({"!=": [{"var": "event.name"}, "x"]}),
        json!({"<": [{"var": "user.created_at"}, {"var": "now"}]}),
        json!({"starts_with": [var("zip"), "1"]}),
        json!({"and": [{"exists": "user.traits.age"}, {"<": [var("age"), 18]}]}),
        json!({"and": [var("age"), {"<": [var("age"), 18]}]}),
        json!({"and": [{"!": {"missing": ["user.traits.age"]}}, {"<": [var("age"), 18]}]}),
        json!({"if": [{"exists": "user.traits.age"}, {"<": [var("age"), 18]}, false]}),
    ] {
        assert_eq!(warned(&rule), Vec::<String>::new(), "{rule}");
    }
}

#[test]
fn a_condition_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Condition>();
    shared::<RuleList>();
}

#[test]
fn the_segment_lookup_may_evaluate_conditions_on_the_same_facts() {
    let segment = parse(&json!({">=": [var("age"), 18]}));
    let rule = parse(&json!({"and": [{"in_segment": "adults"}, {"in_segment": "adults"}]}));
    let traits = json!({"age": 20});
    for expected in [true, false] {
        let arena = FactsArena::new();
        let inner_arena = FactsArena::new();
        let nobody = |_: &str| false;
        let inner = Prepared::new(newcomer(&arena, &traits, &nobody), &inner_arena);
        let lookup = |name: &str| {
            expected && name == "adults" && segment.matches_prepared(&inner) == Ok(true)
        };
        let prepared = Prepared::new(newcomer(&arena, &traits, &lookup), &arena);
        assert_eq!(rule.matches_prepared(&prepared), Ok(expected));
        assert_eq!(segment.matches_prepared(&prepared), Ok(true));
    }
}
