//! Random expressions in which every operator stands in any other, with arguments that are missing,
//! too many, of the wrong kind or at the edges of numbers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::generate::{or_else, path, scalar, scalars, var};

/// Operators of any number of arguments, or of one that is no list.
const VARIADIC: &[&str] = &["+", "-", "*", "/", "%", "max", "min", "merge", "cat"];

/// Operators that take nothing but a list.
const LISTED: &[&str] = &["and", "or", "if", "?:"];

/// Operators that compare two values, or more.
pub const COMPARISONS: &[&str] = &["==", "===", "!=", "!==", ">", ">=", "<", "<="];

/// Operators that test two values.
pub const TESTS: &[&str] = &[
    "in",
    "starts_with",
    "ends_with",
    "icontains",
    "before",
    "after",
    "semver_eq",
    "semver_gt",
    "semver_gte",
    "semver_lt",
    "semver_lte",
];

const TRIPLES: &[&str] = &["substr", "between", "if", "?:", "-", "/", "%"];

const ITERATIONS: &[&str] = &["map", "filter", "all", "none", "some"];

fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(names)
}

/// All operators of two arguments that are no comparison.
fn pair() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select([TESTS, &["substr", "missing_some"]].concat())
}

/// Any expression that can be saved.
pub fn value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        4 => scalar(),
        6 => var(),
        2 => odd_var(),
        1 => scalars(),
        1 => missing_some(),
        1 => iteration(scalars().boxed(), body()),
    ];
    let nested = leaf.prop_recursive(3, 16, 3, |inner| {
        let inner = inner.boxed();
        prop_oneof![
            4 => call(&inner),
            2 => form(&inner),
            2 => iteration(many(&inner), prop_oneof![4 => body(), 1 => inner.clone()].boxed()),
            1 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    });
    nested
        .prop_map(|it| {
            or_else(
                it,
                |text| json!({"-": [{"var": "user.traits.a"}, text.len()]}),
            )
        })
        .boxed()
}

/// A call of an operator, with as many arguments as it takes more often than not.
fn call(inner: &BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let list = |from, to| prop::collection::vec(inner.clone(), from..to);
    prop_oneof![
        6 => (one_of(VARIADIC), list(0, 5)).prop_map(|(op, args)| json!({ op: args })),
        2 => (one_of(VARIADIC), inner.clone()).prop_map(|(op, arg)| json!({ op: arg })),
        2 => (one_of(LISTED), list(0, 6)).prop_map(|(op, args)| json!({ op: args })),
        4 => (one_of(COMPARISONS), list(2, 5)).prop_map(|(op, args)| json!({ op: args })),
        4 => (pair(), list(2, 3)).prop_map(|(op, args)| json!({ op: args })),
        2 => (one_of(TRIPLES), list(3, 4)).prop_map(|(op, args)| json!({ op: args })),
        1 => (pair(), list(0, 5)).prop_map(|(op, args)| json!({ op: args })),
    ]
    .boxed()
}

/// What reads the data or the surroundings in a way of its own.
fn form(inner: &BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let pattern = prop::sample::select(vec!["^a", "1", "é", "^$"]);
    let window = prop::sample::select(vec!["3d", "1s", "100w", "0s"]);
    let segment = prop::sample::select(vec!["s-a", "s-odd", "nobody knows"]);
    prop_oneof![
        1 => (inner.clone(), pattern).prop_map(|(value, it)| json!({"matches": [value, it]})),
        1 => (inner.clone(), window).prop_map(|(value, it)| json!({"within_last": [value, it]})),
        1 => inner.clone().prop_map(|value| json!({ "exists": [value] })),
        1 => segment.prop_map(|name| json!({ "in_segment": [name] })),
        1 => (path(), inner.clone()).prop_map(|(path, other)| json!({"var": [path, other]})),
        1 => inner.clone().prop_map(|path| json!({ "var": [{ "cat": ["user.traits.", path] }] })),
        1 => inner.clone().prop_map(|path| json!({ "var": path })),
    ]
    .boxed()
}

/// The forms of `var` that are seldom written.
fn odd_var() -> BoxedStrategy<Value> {
    prop_oneof![
        2 => prop::sample::select(vec![
            json!({"var": ""}), json!({"var": null}), json!({"var": []}), json!({"var": 0}),
            json!({"var": [""]}), json!({"var": [1, "a"]}),
        ]),
        2 => path().prop_map(|path| json!({ "var": [path] })),
        1 => path().prop_map(|path| json!({ "exists": { "var": path } })),
    ]
    .boxed()
}

fn missing_some() -> BoxedStrategy<Value> {
    let paths = prop::collection::vec(path(), 0..4).boxed();
    let need = prop_oneof![3 => (-1_i64..4).prop_map(Value::from), 1 => scalar()];
    prop_oneof![
        3 => (need.clone(), paths.clone())
            .prop_map(|(need, paths)| json!({"missing_some": [need, paths]})),
        1 => (need, var()).prop_map(|(need, paths)| json!({"missing_some": [need, paths]})),
        1 => paths.prop_map(|paths| json!({ "missing": [paths] })),
    ]
    .boxed()
}

/// Something to iterate over: often a list, as an iteration over anything else has no elements.
fn many(inner: &BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let list = prop::collection::vec(inner.clone(), 0..4);
    prop_oneof![
        2 => list.clone().prop_map(Value::from),
        2 => list.prop_map(|parts| json!({ "merge": parts })),
        3 => var(),
        1 => inner.clone(),
    ]
    .boxed()
}

fn iteration(array: BoxedStrategy<Value>, body: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let reduction = (array.clone(), body.clone(), scalar())
        .prop_map(|(array, body, first)| json!({"reduce": [array, body, first]}))
        .boxed();
    prop_oneof![
        5 => (one_of(ITERATIONS), array, body).prop_map(|(op, array, body)| json!({op: [array, body]})),
        1 => reduction.clone(),
        1 => (reduction, scalar()).prop_map(|(value, other)| json!({"<": [value, other]})),
    ]
    .boxed()
}

/// What runs for each element.
fn body() -> BoxedStrategy<Value> {
    let element = prop::sample::select(vec![
        "",
        "",
        "",
        "current",
        "current",
        "accumulator",
        "a",
        "b.0",
        "0",
        "current.a",
        "user.traits.a",
    ]);
    let leaf = prop_oneof![
        4 => element.prop_map(|path| json!({ "var": path })),
        2 => scalar(),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| call(&inner.boxed()))
        .boxed()
}
