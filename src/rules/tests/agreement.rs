//! Random official rules give the same answer through the typed form and through the evaluator
//! alone, and facts look to a rule like the JSON they are documented as.

use datalogic_rs::Engine;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{NOW, at_least, parse, time};
use crate::rules::{Condition, EventFacts, Facts, FactsArena, Limits, Prepared, UserFacts};

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..30).prop_map(Value::from),
        prop::sample::select(vec![json!(0.5), json!(-0.0), json!(1e300), json!(i64::MAX)]),
        prop::sample::select(vec!["", "a", "ab", "12", "1e1", "event", "é"]).prop_map(Value::from),
    ]
}

fn data() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn path() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(""),
        json!("a"),
        json!("b"),
        json!("a.b"),
        json!("c.0"),
        json!("d.a"),
        json!(1),
        json!("current"),
        json!("accumulator"),
        json!("current.a"),
        json!("zz"),
    ])
}

fn variadic() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "and", "or", "if", "?:", "+", "-", "*", "/", "%", "max", "min", "merge", "cat", "missing",
    ])
}

fn binary() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "==", "===", "!=", "!==", ">", ">=", "<", "<=", "in", "substr",
    ])
}

fn iteration() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["map", "filter", "all", "none", "some"])
}

fn rule() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        scalar(),
        path().prop_map(|path| json!({ "var": path })),
        (path(), scalar()).prop_map(|(path, default)| json!({"var": [path, default]})),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            3 => (binary(), inner.clone(), inner.clone()).prop_map(|(op, l, r)| json!({op: [l, r]})),
            2 => (variadic(), list.clone()).prop_map(|(op, args)| json!({ op: args })),
            1 => (prop::sample::select(vec!["!", "!!"]), inner.clone())
                .prop_map(|(op, arg)| json!({ op: arg })),
            1 => list.prop_map(Value::from),
            1 => (iteration(), inner.clone(), inner.clone())
                .prop_map(|(op, array, body)| json!({op: [array, body]})),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(array, body, init)| json!({"reduce": [array, body, init]})),
            1 => (0..3, prop::collection::vec(path(), 0..3))
                .prop_map(|(need, paths)| json!({"missing_some": [need, paths]})),
            1 => inner.prop_map(|computed| json!({"var": [{"cat": [computed]}]})),
        ]
    })
}

/// The one place where we differ from the evaluator: its shortcut for bodies that are strict
/// comparisons. See the module `lower`.
fn has_strict_body(rule: &Value) -> bool {
    match rule {
        Value::Array(items) => items.iter().any(has_strict_body),
        Value::Object(members) => members.iter().any(|(name, args)| {
            let strict = |body: &Value| body.get("===").or_else(|| body.get("!==")).is_some();
            let iterates = ["filter", "all", "none", "some", "map"].contains(&name.as_str());
            (iterates && args.get(1).is_some_and(strict)) || has_strict_body(args)
        }),
        _ => false,
    }
}

proptest! {
    #![proptest_config(at_least(3_000))]
    #[test]
    fn the_typed_form_and_the_evaluator_agree(rule in rule(), data in data()) {
        prop_assume!(!has_strict_body(&rule));
        // Too deep an iteration is refused, which the evaluator does not do.
        if let Ok(condition) = Condition::parse(&rule, &Limits::default()) {
            let alone = Engine::new().eval_into::<Value, _, _>(&rule, &data);
            match (condition.evaluate_on(&data), alone) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} against {:?}", ours, theirs),
            }
        }
    }

    #[test]
    fn facts_look_like_the_documented_json(
        traits in prop::collection::btree_map("[a-z]{1,2}", data(), 0..30),
        properties in prop_oneof![
            Just(Value::Null),
            prop::collection::btree_map("[a-d]", data(), 0..4).prop_map(|map| json!(map)),
        ],
        rule in rule(),
        with_event in any::<bool>(),
    ) {
        let (traits, context) = (json!(traits), json!({"locale": "de"}));
        let arena = FactsArena::new();
        let facts = Facts {
            user: UserFacts {
                id: "u1",
                traits: arena.from_value(&traits),
                created_at: time("2026-01-01T00:00:00Z"),
                last_seen_at: time("2026-03-10T11:00:00.1239Z"),
            },
            event: with_event.then(|| EventFacts {
                name: "e",
                properties: arena.from_value(&properties),
                context: arena.from_value(&context),
                timestamp: time("2026-03-10T11:59:00Z"),
            }),
            now: time(NOW),
            segments: &|_| false,
        };
        let mut json = json!({
            "user": {
                "id": "u1",
                "traits": traits,
                "created_at": "2026-01-01T00:00:00.000Z",
                "last_seen_at": "2026-03-10T11:00:00.123Z",
            },
            "now": "2026-03-10T12:00:00.000Z",
        });
        if with_event {
            json["event"] = json!({
                "name": "e",
                "properties": properties,
                "context": context,
                "timestamp": "2026-03-10T11:59:00.000Z",
            });
        }
        prop_assert_eq!(parse(&json!({"var": ""})).evaluate_value(&facts).unwrap(), json.clone());
        // Once more with what a rule does to a user's traits, on facts prepared once.
        let rule = json!({"some": [[{"var": "user.traits"}], rule]});
        if let Ok(condition) = Condition::parse(&rule, &Limits::default()) {
            let prepared = Prepared::new(facts, &arena);
            let first = condition.matches_prepared(&prepared);
            prop_assert_eq!(&first, &condition.matches_prepared(&prepared));
            let expected = condition.evaluate_on(&json).map(|value| value == json!(true));
            prop_assert_eq!(first, expected);
        }
    }
}
