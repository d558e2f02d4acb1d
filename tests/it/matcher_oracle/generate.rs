//! Random rules, people and events, with a liking for what is odd: conversions, edges of numbers,
//! missing values, nested and misplaced data.

use beckon::rules::{Condition, Limits, RuleList};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::values::{COMPARISONS, TESTS, value};

/// A small set of values, so that rules and data meet.
pub fn scalar() -> BoxedStrategy<Value> {
    prop_oneof![
        2 => Just(Value::Null),
        2 => any::<bool>().prop_map(Value::from),
        4 => (-1_i64..6).prop_map(Value::from),
        3 => prop::sample::select(vec![
            json!(0.5), json!(-0.0), json!(1.0), json!(1e308), json!(5e-324), json!(-1e308),
            json!(9_007_199_254_740_991_i64), json!(9_007_199_254_740_992_i64),
            json!(9_007_199_254_740_993_i64), json!(i64::MAX), json!(i64::MIN), json!(u64::MAX),
            json!(1_770_000_000), json!(1_770_000_000_000_i64), json!(99_999_999_999_i64),
        ]),
        6 => prop::sample::select(vec![
            "", " ", "a", "b", "ab", "B", "0", "1", "2", "-0", "1.0", " 1 ", "1e0", "0x1", "+1", "5",
            "true", "false", "null", "NaN", "inf", "Infinity", "é", "É", "\u{1f600}", "\u{ffff}",
            "\u{0}", "event", "1,2", "[object Object]",
        ]).prop_map(Value::from),
        2 => prop::sample::select(vec![
            "2026-02-27T12:00:00Z", "2026-03-01T12:00:00.000Z", "2026-03-01T13:00:00+01:00",
            "2026-02-28", "2026-03-02", "1.2.3", "v1.2", "1.10.0-beta", "2",
        ]).prop_map(Value::from),
    ].boxed()
}

/// What a person or an event may have under a name.
fn data() -> BoxedStrategy<Value> {
    let nested = scalar().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab0]", inner, 0..3).prop_map(|map| json!(map)),
        ]
    });
    prop_oneof![5 => scalar(), 1 => nested].boxed()
}

/// Few names that are common, and some that are not.
fn name() -> BoxedStrategy<String> {
    prop_oneof![
        5 => prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["d", "e", "n", "n.x", "é", ""]).prop_map(str::to_owned),
        1 => (0..40).prop_map(|number| format!("r{number}")),
    ]
    .boxed()
}

/// An object with some of these names.
pub fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(name(), data(), 0..9).prop_map(|map| json!(map))
}

pub(super) fn path() -> BoxedStrategy<String> {
    prop_oneof![
        10 => name().prop_map(|name| format!("user.traits.{name}")),
        6 => name().prop_map(|name| format!("event.properties.{name}")),
        2 => name().prop_map(|name| format!("event.context.{name}")),
        1 => (name(), prop::sample::select(vec!["a", "0", "b.0", "+1"]))
            .prop_map(|(name, rest)| format!("user.traits.{name}.{rest}")),
        3 => prop::sample::select(vec![
            "user.id", "user.created_at", "user.last_seen_at", "user.traits", "user", "now",
            "event", "event.name", "event.timestamp", "event.properties", "event.context",
            "user.id.x", "nothing", "now.x", "user.traits.", "current", "accumulator",
        ]).prop_map(str::to_owned),
    ]
    .boxed()
}

pub(super) fn var() -> BoxedStrategy<Value> {
    prop_oneof![
        8 => path().prop_map(|path| json!({ "var": path })),
        1 => (path(), scalar()).prop_map(|(path, default)| json!({ "var": [path, default] })),
    ]
    .boxed()
}

pub(super) fn scalars() -> BoxedStrategy<Value> {
    prop::collection::vec(scalar(), 0..5)
        .prop_map(Value::from)
        .boxed()
}

/// Conditions with an operator and a variable.
fn comparison() -> BoxedStrategy<Value> {
    let two_sided = prop::sample::select([COMPARISONS, TESTS].concat());
    let order = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "===", "between"]);
    prop_oneof![
        8 => (two_sided.clone(), var(), scalar()).prop_map(|(op, l, r)| json!({op: [l, r]})),
        2 => (two_sided.clone(), scalar(), var()).prop_map(|(op, l, r)| json!({op: [l, r]})),
        1 => (two_sided, var(), var()).prop_map(|(op, l, r)| json!({op: [l, r]})),
        2 => (order.clone(), var(), scalar(), scalar())
            .prop_map(|(op, value, low, high)| json!({op: [value, low, high]})),
        2 => (order, scalar(), var(), scalar())
            .prop_map(|(op, low, value, high)| json!({op: [low, value, high]})),
        3 => (var(), scalars()).prop_map(|(value, list)| json!({"in": [value, list]})),
        1 => (scalar(), var()).prop_map(|(value, list)| json!({"in": [value, list]})),
        2 => var(),
        2 => path().prop_map(|path| json!({ "exists": path })),
        1 => (var(), prop::sample::select(vec!["^a", "1", "é"]))
            .prop_map(|(value, pattern)| json!({"matches": [value, pattern]})),
        1 => (var(), prop::sample::select(vec!["3d", "1s", "100w"]))
            .prop_map(|(value, window)| json!({"within_last": [value, window]})),
        2 => prop::sample::select(vec!["s-a", "s-odd", "s-both", "Named", "nobody knows"])
            .prop_map(|name| json!({ "in_segment": name })),
        1 => path().prop_map(|path| json!({ "missing": [path] })),
        1 => (var(), comparison_inside())
            .prop_map(|(list, body)| json!({"some": [list, body]})),
        8 => value(),
        1 => scalar(),
        1 => scalars(),
    ]
    .boxed()
}

fn comparison_inside() -> BoxedStrategy<Value> {
    (prop::sample::select(vec!["==", ">", "==="]), scalar())
        .prop_map(|(op, constant)| json!({op: [{"var": ""}, constant]}))
        .boxed()
}

/// A JsonLogic rule that can be saved.
pub fn rule() -> impl Strategy<Value = Value> {
    let raw = comparison().prop_recursive(4, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..5);
        let choice = prop::sample::select(vec!["if", "?:"]);
        prop_oneof![
            5 => list.clone().prop_map(|args| json!({ "and": args })),
            3 => list.clone().prop_map(|args| json!({ "or": args })),
            3 => inner.clone().prop_map(|arg| json!({ "!": [arg] })),
            1 => list.clone().prop_map(|args| json!({ "!": args })),
            1 => list.clone().prop_map(|args| json!({ "!!": args })),
            1 => (choice, list).prop_map(|(op, args)| json!({ op: args })),
            1 => (inner.clone(), scalar()).prop_map(|(arg, sum)| json!({"==": [arg, sum]})),
        ]
    });
    // A literal that can be no version, say.
    raw.prop_map(|rule| {
        or_else(
            rule,
            |text| json!({"==": [{"var": "user.traits.a"}, text.len()]}),
        )
    })
}

/// The rule, or something else if it cannot be saved.
pub(super) fn or_else(rule: Value, other: impl FnOnce(String) -> Value) -> Value {
    match Condition::parse(&rule, &Limits::default()) {
        Ok(_) => rule,
        Err(_) => other(rule.to_string()),
    }
}

/// Conditions about so few values that they often contradict or imply each other.
pub fn clashing() -> impl Strategy<Value = Value> {
    let path = prop::sample::select(vec![
        "user.traits.a",
        "user.traits.a",
        "event.properties.a",
        "user.id",
        "event.name",
    ]);
    let two_sided = prop::sample::select(vec![
        "==",
        "===",
        "!=",
        "!==",
        ">",
        ">=",
        "<",
        "<=",
        "in",
        "starts_with",
        "before",
        "after",
        "semver_gt",
    ]);
    let test = prop_oneof![
        6 => (two_sided, scalar()).prop_map(|(op, it)| json!({op: [{"var": "?"}, it]})),
        2 => (scalar(), scalar()).prop_map(|(l, h)| json!({"between": [{"var": "?"}, l, h]})),
        2 => scalars().prop_map(|list| json!({"in": [{"var": "?"}, list]})),
        1 => Just(json!({"exists": "?"})),
        1 => Just(json!({"var": "?"})),
        1 => Just(json!({"within_last": [{"var": "?"}, "3d"]})),
    ];
    let test = (test, any::<bool>()).prop_map(
        |(test, is_negated)| {
            if is_negated { json!({"!": test}) } else { test }
        },
    );
    let joined = prop::sample::select(vec!["and", "and", "and", "or", "if"]);
    let group = (joined, prop::collection::vec(test, 1..4))
        .prop_map(|(operator, tests)| json!({ operator: tests }));
    (path, prop::collection::vec(group, 1..3)).prop_map(|(path, groups)| {
        let text = json!({ "and": groups }).to_string();
        let rule = serde_json::from_str(&text.replace("\"?\"", &format!("\"{path}\"")));
        let rule: Value = rule.unwrap_or_default();
        or_else(rule, |_| json!({"===": [{"var": path}, text.len()]}))
    })
}

fn seed_rule() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["attribute", "attribute", "event", "other"]);
    let operator = prop::sample::select(vec![
        "==", "==", "==", "!=", ">", ">=", "<", "<=", "contains", "like",
    ]);
    (kind, name(), operator, prop::option::weighted(0.95, data())).prop_map(
        |(kind, field, operator, value)| {
            let mut rule = json!({"type": kind, "field": field, "operator": operator});
            if let Some(value) = value {
                rule["value"] = value;
            }
            rule
        },
    )
}

/// The seed's rule list.
pub fn rules() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => Just(json!([])),
        2 => prop::collection::vec(seed_rule(), 1..4).prop_map(|rules| {
            let rules = json!(rules);
            assert!(RuleList::parse(Some(&rules)).is_ok());
            rules
        }),
    ]
}

/// Values of few kinds, of which there are many.
fn plain_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        5 => (0..200_i32).prop_map(Value::from),
        5 => (0..60).prop_map(|number| json!(format!("t{number}"))),
        1 => any::<bool>().prop_map(Value::from),
        1 => (0..9_i32).prop_map(|number| json!(number.to_string())),
        1 => Just(json!([1])),
    ]
}

/// Some names that many rules have, one in eight each, some that one in twenty-five has, and a hundred
/// that few have: the index keeps these in different ways.
fn plain_name() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned),
        1 => (0..5).prop_map(|number| format!("m{number}")),
        1 => (0..100).prop_map(|number| format!("r{number}")),
    ]
}

/// An object as most are.
pub fn plain_object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(plain_name(), plain_value(), 0..40).prop_map(|map| json!(map))
}

/// A condition as most are: it can be indexed as a whole.
pub fn plain_rule() -> impl Strategy<Value = Value> {
    let var = || {
        let object = prop::sample::select(vec!["user.traits", "event.properties"]);
        (object, plain_name()).prop_map(|(object, name)| json!({"var": format!("{object}.{name}")}))
    };
    let two_sided = prop::sample::select(vec!["==", "===", "!=", "!==", ">", ">=", "<", "<="]);
    let part = prop_oneof![
        6 => (two_sided, var(), plain_value()).prop_map(|(op, l, r)| json!({op: [l, r]})),
        3 => (var(), prop::collection::vec(plain_value(), 1..30))
            .prop_map(|(value, list)| json!({"in": [value, list]})),
        2 => (var(), prop::collection::vec(plain_value(), 1..4))
            .prop_map(|(value, list)| json!({"!": {"in": [value, list]}})),
        3 => (var(), 0..150, 0..80).prop_map(|(value, low, width)| {
            json!({"<=": [low, value, low + width]})
        }),
        1 => var().prop_map(|value| json!({ "exists": value })),
        1 => var().prop_map(|value| json!({ "!": { "exists": value } })),
        1 => (var(), 0..60).prop_map(|(value, number)| {
            json!({"starts_with": [value, format!("t{}", number % 10)]})
        }),
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| json!({ "and": parts }))
}
