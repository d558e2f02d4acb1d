//! What every operator of ours means: when it holds, on a missing value, on the wrong type, and
//! negated.

use serde_json::{Value, json};

use super::{EvalErrorKind, kind, on_event, on_traits, var};

/// Checks one test on `v`: it holds for `yes`, not for `no`, fails for `wrong`, is false when `v`
/// is missing or null; and a negation turns all but the failure around.
fn check(test: impl Fn(Value) -> Value, yes: &[Value], no: &[Value], wrong: &[Value]) {
    let rule = test(var("v"));
    let negation = json!({ "!": [rule] });
    let both = |traits: &Value| (on_traits(&rule, traits), on_traits(&negation, traits));
    for value in yes {
        let answers = both(&json!({ "v": value }));
        assert_eq!(answers, (Ok(true), Ok(false)), "{rule} on {value}");
    }
    for value in no {
        let answers = both(&json!({ "v": value }));
        assert_eq!(answers, (Ok(false), Ok(true)), "{rule} on {value}");
    }
    for traits in [json!({}), json!({"v": null})] {
        assert_eq!(both(&traits), (Ok(false), Ok(true)), "{rule} on {traits}");
    }
    for value in wrong {
        let (plain, negated) = both(&json!({ "v": value }));
        assert_eq!(kind(plain), EvalErrorKind::Type, "{rule} on {value}");
        assert_eq!(kind(negated), EvalErrorKind::Type, "not {rule} on {value}");
    }
}

#[test]
fn starts_with() {
    check(
        |v| json!({"starts_with": [v, "ab"]}),
        &[json!("ab"), json!("abc")],
        &[json!(""), json!("Abc"), json!("cab")],
        &[json!(5), json!(true), json!(["ab"]), json!({"a": "ab"})],
    );
}

#[test]
fn ends_with() {
    check(
        |v| json!({"ends_with": [v, "@example.com"]}),
        &[json!("me@example.com")],
        &[json!("me@example.org"), json!("ME@EXAMPLE.COM")],
        &[json!(5), json!([])],
    );
}

#[test]
fn icontains() {
    check(
        |v| json!({"icontains": [v, "GRÜN"]}),
        &[json!("ganz grün"), json!("GRÜN")],
        &[json!("grun"), json!("")],
        &[json!(5), json!(["grün"])],
    );
}

#[test]
fn matches() {
    check(
        |v| json!({"matches": [v, "^[a-z]+\\d{2}$"]}),
        &[json!("abc12")],
        &[json!("abc1"), json!("ABC12"), json!("")],
        &[json!(12), json!(false), json!({})],
    );
    // Two patterns in one rule keep to their own texts.
    let rule = json!({"and": [{"matches": [var("a"), "^x"]}, {"matches": [var("b"), "^y"]}]});
    assert_eq!(on_traits(&rule, &json!({"a": "x", "b": "y"})), Ok(true));
    assert_eq!(on_traits(&rule, &json!({"a": "y", "b": "x"})), Ok(false));
}

#[test]
fn between() {
    check(
        |v| json!({"between": [v, 18, 30]}),
        &[
            json!(18),
            json!(30),
            json!(20.5),
            json!("25"),
            json!(" 25 "),
        ],
        &[json!(17.999), json!(31), json!("5")],
        &[
            json!("young"),
            json!(true),
            json!([20]),
            json!(""),
            json!("inf"),
        ],
    );
    check(
        |v| json!({"between": [v, "b", "d"]}),
        &[json!("b"), json!("c"), json!("d")],
        &[json!("a"), json!("da"), json!("C")],
        &[json!(5)],
    );
    let open = json!({"between": [5, var("low"), 9]});
    assert_eq!(on_traits(&open, &json!({})), Ok(false));
}

#[test]
fn exists() {
    for rule in [
        json!({"exists": "user.traits.v"}),
        json!({"exists": ["user.traits.v"]}),
        json!({"exists": var("v")}),
        json!({"exists": [var("v")]}),
    ] {
        let present = [json!(0), json!(""), json!(false), json!([]), json!({})];
        check(|_| rule.clone(), &present, &[], &[]);
    }
}

#[test]
fn exists_looks_at_the_element_inside_an_iteration() {
    let rule = json!({"==": [1, {"reduce": [
        {"filter": [var("items"), {"exists": "x"}]}, {"+": [1, {"var": "accumulator"}]}, 0,
    ]}]});
    let items = json!({"items": [{"x": 1}, {"x": null}, {"y": 2}]});
    assert_eq!(on_traits(&rule, &items), Ok(true));
}

#[test]
fn before_and_after() {
    let (earlier, same, later) = (
        "2026-01-31T07:59:59Z",
        "2026-01-31T09:00:00+01:00",
        1_900_000_000,
    );
    let wrong = [json!("soon"), json!(true), json!([]), json!("")];
    check(
        |v| json!({"before": [v, "2026-01-31T08:00:00Z"]}),
        &[json!(earlier), json!("2026-01-31"), json!(1_000)],
        &[json!(same), json!(later), json!(1_900_000_000_000_i64)],
        &wrong,
    );
    check(
        |v| json!({"after": [v, "2026-01-31T08:00:00Z"]}),
        &[
            json!(later),
            json!(1_900_000_000_000_i64),
            json!("2026-02-01T00:00:00"),
        ],
        &[json!(same), json!(earlier)],
        &wrong,
    );
    let rule = json!({"before": [{"var": "user.created_at"}, {"var": "now"}]});
    assert_eq!(on_traits(&rule, &json!({})), Ok(true));
}

#[test]
fn within_last() {
    check(
        |v| json!({"within_last": [v, "3d"]}),
        &[
            json!("2026-03-10T12:00:00Z"),
            json!("2026-03-07T12:00:00Z"),
            json!(1_773_140_000),
        ],
        &[
            json!("2026-03-07T11:59:59.999Z"),
            json!("2026-03-10T12:00:00.001Z"),
            json!("2020-01-01"),
        ],
        &[json!("soon"), json!(false), json!({})],
    );
    let seen = json!({"within_last": [{"var": "user.last_seen_at"}, "1h"]});
    assert_eq!(on_traits(&seen, &json!({})), Ok(true));
    let event = json!({"within_last": [{"var": "event.timestamp"}, "59s"]});
    assert_eq!(on_event(&event, &json!({})), Ok(false));
}

#[test]
fn semantic_versions() {
    let wrong = [json!(2), json!("latest"), json!(["2.0.0"])];
    let order = [
        json!("1.9.9"),
        json!("v2.0.0-rc.1"),
        json!("2"),
        json!("2.0.0+build"),
        json!("2.0.1"),
    ];
    let [old, candidate, same, build, newer] = order;
    let lower = [old.clone(), candidate.clone()];
    let equal = [same.clone(), build.clone()];
    let at_most = [old.clone(), candidate.clone(), same.clone(), build.clone()];
    let at_least = [same, build, newer.clone()];
    let test = |operator: &'static str| move |v: Value| json!({ operator: [v, "2.0.0"] });
    check(test("semver_lt"), &lower, &at_least, &wrong);
    check(
        test("semver_lte"),
        &at_most,
        std::slice::from_ref(&newer),
        &wrong,
    );
    check(
        test("semver_gt"),
        std::slice::from_ref(&newer),
        &at_most,
        &wrong,
    );
    check(test("semver_gte"), &at_least, &lower, &wrong);
    check(test("semver_eq"), &equal, &[old, candidate, newer], &wrong);
}

#[test]
fn in_segment() {
    let traits = json!({"tags": [1, 2]});
    assert_eq!(on_traits(&json!({"in_segment": "vip"}), &traits), Ok(true));
    assert_eq!(
        on_traits(&json!({"in_segment": ["vip"]}), &traits),
        Ok(true)
    );
    assert_eq!(
        on_traits(&json!({"in_segment": "other"}), &traits),
        Ok(false)
    );
    assert_eq!(
        on_traits(&json!({"!": {"in_segment": "other"}}), &traits),
        Ok(true)
    );
    let nested =
        json!({"some": [var("tags"), {"and": [{"==": [{"var": ""}, 2]}, {"in_segment": "vip"}]}]});
    assert_eq!(on_traits(&nested, &traits), Ok(true));
}

#[test]
fn a_failure_spoils_the_whole_condition() {
    let failing = json!({"<": [var("age"), 18]});
    let traits = json!({"age": "young", "x": true});
    for rule in [
        failing.clone(),
        json!({"!": failing}),
        json!({"!": {"!": failing}}),
        json!({"or": [failing, true]}),
        json!({"if": [failing, true, true]}),
        json!({"none": [[1], failing]}),
    ] {
        let rule = match rule.get("none") {
            // Inside a body the path is the element's, so that the failure is spelled out.
            Some(_) => json!({"none": [["young"], {"<": [{"var": ""}, 18]}]}),
            None => rule,
        };
        assert_eq!(
            kind(on_traits(&rule, &traits)),
            EvalErrorKind::Type,
            "{rule}"
        );
    }
    // What is never evaluated cannot fail.
    let guarded = json!({"or": [var("x"), {"<": [var("age"), 18]}]});
    assert_eq!(on_traits(&guarded, &traits), Ok(true));
}

#[test]
fn the_event_is_there_on_a_track_and_absent_on_a_fetch() {
    let rule = json!({"and": [
        {"==": [{"var": "event.name"}, "order_placed"]},
        {">": [{"var": "event.properties.total"}, 99]},
        {"==": [{"var": "event.context.locale"}, "de"]},
    ]});
    assert_eq!(on_event(&rule, &json!({"total": 100})), Ok(true));
    assert_eq!(on_event(&rule, &json!({"total": 99})), Ok(false));
    assert_eq!(
        on_traits(&json!({"exists": "event"}), &json!({})),
        Ok(false)
    );
}

#[test]
fn a_body_that_is_a_strict_comparison_takes_absent_for_null() {
    // The evaluator's own shortcut for such bodies says otherwise.
    let items = json!({"items": [{"x": 1}, {"y": 2}]});
    let counted = |body: Value, count: u64| {
        json!({"==": [count, {"reduce": [
            {"filter": [var("items"), body]}, {"+": [1, {"var": "accumulator"}]}, 0,
        ]}]})
    };
    let missing = json!({"===": [{"var": "x"}, null]});
    let present = json!({"!==": [{"var": "x"}, null]});
    assert_eq!(on_traits(&counted(missing.clone(), 1), &items), Ok(true));
    assert_eq!(on_traits(&counted(present.clone(), 1), &items), Ok(true));
    for (operator, body, expected) in [
        ("all", &missing, false),
        ("some", &missing, true),
        ("none", &missing, false),
        ("all", &present, false),
        ("some", &present, true),
        ("none", &present, false),
    ] {
        let rule = json!({ operator: [var("items"), body] });
        assert_eq!(on_traits(&rule, &items), Ok(expected), "{rule}");
    }
}

/// The table of the module's documentation.
#[test]
fn official_comparisons_follow_the_documented_table() {
    const T: Option<bool> = Some(true);
    const F: Option<bool> = Some(false);
    const FAILS: Option<bool> = None;
    let missing = || var("nothing");
    let rows = [
        (missing(), missing(), [T, T, F, T, F, T]),
        (missing(), json!(18), [F, F, T, T, F, F]),
        (missing(), json!(0), [T, F, F, T, F, T]),
        (missing(), json!("x"), [F, F, F, F, F, F]),
        (missing(), json!(""), [T, F, F, T, F, T]),
        (missing(), json!(false), [T, F, F, T, F, T]),
        (json!(1), json!("1"), [T, F, F, T, F, T]),
        (json!(1), json!("x"), [FAILS, F, FAILS, FAILS, FAILS, FAILS]),
        (json!("b"), json!("a"), [F, F, F, F, T, T]),
        (json!(1), json!(true), [T, F, F, T, F, T]),
        (
            var("list"),
            json!(1),
            [FAILS, F, FAILS, FAILS, FAILS, FAILS],
        ),
        (
            var("list"),
            json!("a"),
            [FAILS, F, FAILS, FAILS, FAILS, FAILS],
        ),
    ];
    let traits = json!({"list": [1]});
    for (left, right, answers) in rows {
        for (operator, answer) in ["==", "===", "<", "<=", ">", ">="].into_iter().zip(answers) {
            let rule = json!({ operator: [left, right] });
            assert_eq!(on_traits(&rule, &traits).ok(), answer, "{rule}");
            let negated = json!({ "!": rule });
            assert_eq!(
                on_traits(&negated, &traits).ok(),
                answer.map(|answer| !answer),
                "{negated}"
            );
            if operator.starts_with("==") {
                let unequal = json!({ operator.replacen('=', "!", 1): [left, right] });
                let expected = answer.map(|answer| !answer);
                assert_eq!(on_traits(&unequal, &traits).ok(), expected, "{unequal}");
            }
        }
    }
}
