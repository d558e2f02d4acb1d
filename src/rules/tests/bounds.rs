//! What a rule may cost, at save and at run time.

use serde_json::{Value, json};

use super::{
    EvalErrorKind, RuleErrorCode, kind, newcomer, on_traits, parse, refusal, refused, var,
};
use crate::rules::{Condition, FactsArena, Limits, Prepared, RuleList};

/// Built by hand: the `json!` macro would copy what it is given, recursively, at each level.
fn object(name: &str, value: Value) -> Value {
    Value::Object([(name.to_owned(), value)].into_iter().collect())
}

/// With so many members.
fn numbered(members: usize) -> Value {
    Value::Object((0..members).map(|n| (n.to_string(), json!(n))).collect())
}

fn nested(levels: usize) -> Value {
    let mut rule = json!(true);
    for _ in 0..levels {
        rule = object("!", Value::Array(vec![rule]));
    }
    rule
}

#[test]
fn a_rule_nested_ten_thousand_deep_is_refused() {
    let rule = nested(10_000);
    let error = refusal(&rule);
    assert_eq!(error.code, RuleErrorCode::TooDeep);
    assert!(error.pointer.starts_with("/!/0/!/0"), "{}", error.pointer);
    assert_eq!(error.pointer.matches('/').count(), 128);
    let list = Value::Array(vec![object("value", nested(10_000))]);
    let error = RuleList::parse(Some(&list)).unwrap_err();
    assert_eq!(error.code, RuleErrorCode::TooDeep);
    assert!(error.pointer.starts_with("/0/value/"), "{}", error.pointer);
    // Dropping is the JSON library's own recursion, which is not what is tested here.
    let _ = std::mem::ManuallyDrop::new((rule, list));
}

#[test]
fn a_rule_as_deep_as_allowed_compiles_and_runs() {
    assert_eq!(on_traits(&nested(64), &json!({})), Ok(true));
    assert_eq!(refused(&nested(65)).0, RuleErrorCode::TooDeep);
    let mut rule = var("n");
    for _ in 0..62 {
        rule = json!({"+": [rule, var("n")]});
    }
    let rule = json!({"==": [rule, 63]});
    assert_eq!(on_traits(&rule, &json!({"n": 1})), Ok(true));
}

#[test]
fn a_rule_of_a_megabyte_is_refused() {
    let text = json!({"==": [var("x"), "x".repeat(1 << 20)]});
    assert_eq!(refused(&text), (RuleErrorCode::TooLarge, String::new()));
    let list = json!({"in": [var("x"), vec![1; 5_001]]});
    assert_eq!(
        refused(&list),
        (RuleErrorCode::TooManyNodes, "/in/1".to_owned())
    );
}

#[test]
fn iterations_are_at_most_two_deep() {
    let two = json!({"map": [var("a"), {"filter": [{"var": "b"}, {"var": "c"}]}]});
    parse(&two);
    // One after the other is not one in the other.
    parse(&json!({"map": [{"filter": [{"map": [var("a"), 1]}, true]}, true]}));
    let three = json!({"map": [var("a"), {"reduce": [{"var": "b"}, {"some": [[1], true]}, 0]}]});
    let expected = (
        RuleErrorCode::IterationTooDeep,
        "/map/1/reduce/1/some".to_owned(),
    );
    assert_eq!(refused(&three), expected);
}

#[test]
fn a_body_that_multiplies_too_much_is_refused() {
    let wide: Vec<Value> = (0..100).map(|n| json!({"==": [{"var": ""}, n]})).collect();
    let once = json!({"some": [var("a"), {"or": wide}]});
    parse(&once);
    let twice = json!({"some": [var("a"), once]});
    assert_eq!(
        refused(&twice),
        (RuleErrorCode::TooCostly, "/some".to_owned())
    );
    // Neither alone is too much.
    let limits = Limits {
        max_cost: 500_000,
        ..Limits::default()
    };
    let error = Condition::parse(&json!({"or": [once, once]}), &limits).unwrap_err();
    assert_eq!(
        (error.code, error.pointer.as_str()),
        (RuleErrorCode::TooCostly, "")
    );
}

#[test]
fn long_arrays_are_not_iterated_over() {
    let rule = json!({"some": [var("a"), {"==": [{"var": ""}, 1]}]});
    assert_eq!(on_traits(&rule, &json!({"a": vec![1; 1_000]})), Ok(true));
    let long = json!({"a": vec![1; 1_001]});
    for rule in [rule.clone(), json!({ "!": rule })] {
        assert_eq!(kind(on_traits(&rule, &long)), EvalErrorKind::Limit);
    }
    for iteration in ["map", "filter", "all", "none"] {
        let rule = json!({ iteration: [var("a"), true] });
        assert_eq!(
            kind(on_traits(&rule, &long)),
            EvalErrorKind::Limit,
            "{iteration}"
        );
    }
    let rule = json!({"reduce": [var("a"), {"var": "current"}, 0]});
    assert_eq!(kind(on_traits(&rule, &long)), EvalErrorKind::Limit);
    let joined = json!({"some": [{"merge": [var("b"), var("b")]}, true]});
    assert_eq!(
        kind(on_traits(&joined, &json!({"b": vec![1; 600]}))),
        EvalErrorKind::Limit
    );
    let literal = json!({"some": [vec![1; 1_001], true]});
    assert_eq!(
        refused(&literal),
        (RuleErrorCode::ArrayTooLong, "/some/0".to_owned())
    );
    // Looking something up in a long list is no iteration.
    assert_eq!(on_traits(&json!({"in": [1, var("a")]}), &long), Ok(true));
}

#[test]
fn an_accumulator_cannot_explode() {
    let traits = json!({"a": vec!["x"; 1_000]});
    for body in [
        json!({"cat": [{"var": "accumulator"}, {"var": "accumulator"}]}),
        json!([{"var": "accumulator"}, {"var": "accumulator"}]),
        json!([[[[[[[[{"var": "accumulator"}]]]]]]]]),
        json!({"merge": [{"var": "accumulator"}, {"var": "accumulator"}, [1]]}),
    ] {
        let rule = json!({"reduce": [var("a"), body, "seed"]});
        assert_eq!(
            kind(on_traits(&rule, &traits)),
            EvalErrorKind::Limit,
            "{rule}"
        );
    }
    let join = json!({"==": [1_001, {"reduce": [
        var("a"), {"+": [{"var": "accumulator"}, 1]}, 1,
    ]}]});
    assert_eq!(on_traits(&join, &traits), Ok(true));
}

#[test]
fn memory_is_bounded() {
    let traits = json!({"a": vec!["x".repeat(50_000); 1_000]});
    let texts = vec![json!({"var": ""}); 10];
    let rule = json!({"map": [var("a"), {"cat": texts}]});
    assert_eq!(kind(on_traits(&rule, &traits)), EvalErrorKind::Limit);
}

/// Evaluates conditions one after the other in the memory that a shard keeps.
fn in_one_memory(rules: &[&Value], traits: &Value) -> Vec<Result<bool, EvalErrorKind>> {
    let mut arena = FactsArena::new();
    let evaluate = |rule: &&Value| {
        arena.reset();
        let facts = newcomer(&arena, traits, &|_| false);
        let answer = parse(rule).matches_by_library(&Prepared::new(facts, &arena));
        answer.map_err(|error| error.kind)
    };
    rules.iter().map(evaluate).collect()
}

#[test]
fn what_a_condition_may_take_does_not_depend_on_those_before_it() {
    let traits = json!({"a": "x".repeat(1_000_000)});
    let holds = |parts: usize| json!({"!": {"in": ["zz", {"cat": vec![var("a"); parts]}]}});
    let (large, too_large) = (holds(32), holds(64));
    let small = json!({"==": [{"cat": ["a", "b"]}, {"cat": ["a", {"var": "x"}, "b"]}]});
    let limit = Err(EvalErrorKind::Limit);
    assert_eq!(
        in_one_memory(&[&too_large, &too_large, &small, &too_large], &traits),
        [limit, limit, Ok(true), limit]
    );
    let alone = in_one_memory(&[&large], &traits)[0];
    assert_eq!(in_one_memory(&[&large; 4], &traits), [alone; 4]);
    let mixed = in_one_memory(&[&small, &too_large, &large, &small], &traits);
    assert_eq!(mixed, [Ok(true), limit, alone, Ok(true)]);
}

#[test]
fn what_a_pattern_may_take_counts() {
    let many_places = json!({"matches": [var("a"), "x[a-z]{5000}[0-9]"]});
    let few_places = json!({"matches": [var("a"), r"^\w+@[a-z]{1,63}\.[a-z]{2,10}$"]});
    let long = json!({"a": "xa".repeat(500_000)});
    assert_eq!(kind(on_traits(&many_places, &long)), EvalErrorKind::Limit);
    assert_eq!(on_traits(&few_places, &long), Ok(false));
    assert_eq!(
        on_traits(&many_places, &json!({"a": "xa".repeat(5_000)})),
        Ok(false)
    );
    assert_eq!(
        on_traits(&few_places, &json!({"a": "ada@example.org"})),
        Ok(true)
    );
    // Each element that is tried counts.
    let each = json!({"some": [var("list"), {"matches": [{"var": ""}, "x[a-z]{5000}[0-9]"]}]});
    let list = json!({"list": vec!["xa".repeat(5_000); 3]});
    assert_eq!(kind(on_traits(&each, &list)), EvalErrorKind::Limit);
}

#[test]
fn texts_that_are_looked_for_in_each_other_count() {
    let pair = json!({"icontains": [var("a"), var("b")]});
    let rule = |pairs: usize| json!({ "or": vec![pair.clone(); pairs] });
    let traits = json!({"a": "Ä".repeat(100_000), "b": "É".repeat(90_000)});
    assert_eq!(on_traits(&rule(10), &traits), Ok(false));
    assert_eq!(kind(on_traits(&rule(800), &traits)), EvalErrorKind::Limit);
    assert_eq!(
        on_traits(&rule(800), &json!({"a": "Ä", "b": "É"})),
        Ok(false)
    );
}

#[test]
fn what_is_joined_is_measured_before_it_is_built() {
    let many = |operator: &str| json!({"==": [{ operator: vec![var("a"); 1_600] }, 1]});
    let (numbers, text) = (
        json!({"a": vec![1; 20_000]}),
        json!({"a": "x".repeat(100_000)}),
    );
    for (rule, traits) in [
        (many("merge"), &numbers),
        (many("cat"), &text),
        (many("cat"), &json!({"a": [[text["a"]]]})),
    ] {
        assert_eq!(kind(on_traits(&rule, traits)), EvalErrorKind::Limit);
    }
    let two = json!({"in": [1, {"merge": [var("a"), var("a")]}]});
    assert_eq!(on_traits(&two, &numbers), Ok(true));
    let two = json!({"!!": {"cat": [var("a"), var("a")]}});
    assert_eq!(on_traits(&two, &text), Ok(true));
}

#[test]
fn looking_through_data_counts_in_an_iteration() {
    let inner = json!({"in": ["zz", {"var": ""}]});
    let elements = vec![var("a"); 900];
    let once = json!({"some": [elements, inner]});
    parse(&once);
    let twice = json!({"some": [var("a"), {"some": [{"var": ""}, inner]}]});
    assert_eq!(refused(&twice).0, RuleErrorCode::TooCostly);
    let traits = |length| json!({"a": [vec!["zz"; length]]});
    let rule = json!({"some": [var("a"), inner]});
    assert_eq!(on_traits(&rule, &traits(1_000)), Ok(true));
    assert_eq!(kind(on_traits(&rule, &traits(1_001))), EvalErrorKind::Limit);
}

#[test]
fn what_a_condition_looks_at_is_counted() {
    let iterations = |outer: Value, inner: Value| json!({"some": [outer, inner]});
    let element = json!({"var": ""});
    let list = json!({"a": vec![1; 100_000]});
    let digits = json!({"a": "1".repeat(500_000)});
    let paths = json!({"a": vec!["event.properties.x"; 100_000]});
    let nulls = json!({"a": vec![Value::Null; 100_000]});
    let unequal = json!({"!==": [element, element]});
    let twice = |inner: Value| {
        iterations(
            json!(vec![var("a"); 1_000]),
            iterations(json!(vec![element.clone(); 1_000]), inner),
        )
    };
    // The shortest way to keep a list from one element to the next.
    let held = json!({"if": [
        {"!==": [{"var": "accumulator"}, {"var": "accumulator"}]}, 1, {"var": "accumulator"},
    ]});
    for (rule, traits) in [
        (
            iterations(json!(vec![var("a"); 1_000]), unequal.clone()),
            &list,
        ),
        (twice(json!({"==": [element, 2]})), &digits),
        (twice(json!({"matches": [element, "x"]})), &digits),
        (twice(json!({"cat": element})), &nulls),
        (
            iterations(
                json!([var("a"), var("a")]),
                json!({"missing": [["zz"], element]}),
            ),
            &paths,
        ),
        (json!({"reduce": [vec![1; 1_000], held, var("a")]}), &list),
        (
            json!({"or": vec![json!({"!==": [var("a"), var("a")]}); 800]}),
            &list,
        ),
        (json!({"missing": var("a")}), &paths),
    ] {
        assert_eq!(
            kind(on_traits(&rule, traits)),
            EvalErrorKind::Limit,
            "{}",
            &rule.to_string()[..60]
        );
    }
}

/// The evaluator looks for each member of one among all of the other's.
#[test]
fn objects_that_are_compared_count_for_their_square() {
    let traits =
        |count| json!({"a": numbered(count), "b": numbered(count), "c": [numbered(count)]});
    for operator in ["===", "!=="] {
        let rule = object(operator, json!([var("a"), var("b")]));
        let is_equal = operator == "===";
        assert_eq!(on_traits(&rule, &traits(1_000)), Ok(is_equal));
        assert_eq!(
            kind(on_traits(&rule, &traits(15_000))),
            EvalErrorKind::Limit
        );
    }
    let one_of = json!({"in": [var("a"), var("c")]});
    assert_eq!(on_traits(&one_of, &traits(1_000)), Ok(true));
    assert_eq!(
        kind(on_traits(&one_of, &traits(15_000))),
        EvalErrorKind::Limit
    );
    let element = json!({"var": ""});
    let each = json!({"some": [var("c"), {"===": [element, element]}]});
    assert_eq!(on_traits(&each, &traits(1_000)), Ok(true));
    assert_eq!(
        kind(on_traits(&each, &traits(15_000))),
        EvalErrorKind::Limit
    );
    let held = json!({"if": [
        {"!==": [{"var": "accumulator"}, {"var": "accumulator"}]}, 1, {"var": "accumulator"},
    ]});
    let reduce = json!({"!!": {"reduce": [vec![1; 1_000], held, var("a")]}});
    assert_eq!(on_traits(&reduce, &traits(300)), Ok(true));
    assert_eq!(kind(on_traits(&reduce, &traits(500))), EvalErrorKind::Limit);
    // What is not compared costs no more than its length.
    let wide: Vec<Value> = vec![numbered(500); 1_000];
    let member = json!({"==": [{"var": "7"}, 8]});
    let rule = json!({"some": [var("a"), {"or": vec![member; 20]}]});
    assert_eq!(on_traits(&rule, &json!({"a": wide})), Ok(false));
}

#[test]
fn the_first_three_operands_of_arithmetic_are_not_counted() {
    // Comparing these leaves too little for another look at the list.
    let same = numbered(9_990);
    let traits = json!({"a": same, "b": same, "n": 1, "list": vec![1; 300_000]});
    let after = |small: usize| {
        let mut operands = vec![var("n"); small];
        operands.push(var("list"));
        let compared = json!({"===": [var("a"), var("b")]});
        let rule = json!({"and": [compared, {"==": [{"max": operands}, 1]}]});
        kind(on_traits(&rule, &traits))
    };
    assert_eq!(after(2), EvalErrorKind::Type);
    assert_eq!(after(3), EvalErrorKind::Limit);
}

#[test]
fn what_people_do_is_not_too_much() {
    let item = |n: usize| {
        json!({
            "sku": format!("sku-{n}"), "name": "a product with a name", "price": n, "qty": 2,
            "text": "x".repeat(1_000),
            "tags": ["new", "sale", "summer", "winter", "spring", "red", "green", "blue"],
        })
    };
    let traits = json!({"orders": (0..1_000).map(item).collect::<Vec<_>>()});
    let tests: Vec<Value> = (0..4)
        .map(|n| {
            json!({"and": [
                {">": [{"var": "price"}, 2_000 + n]},
                {"icontains": [{"var": "text"}, "sale"]},
                {"!==": [{"var": "sku"}, {"var": "name"}]},
            ]})
        })
        .collect();
    let rule = json!({"some": [var("orders"), {"or": tests}]});
    assert_eq!(on_traits(&rule, &traits), Ok(false));
    let rule = json!({"some": [var("orders"), {"and": [
        {"some": [{"var": "tags"}, {"==": [{"var": ""}, "autumn"]}]},
        {"in": ["sale", {"var": "tags"}]},
    ]}]});
    assert_eq!(on_traits(&rule, &traits), Ok(false));
    let join = json!({"cat": [{"var": "accumulator"}, ",", {"var": "current.sku"}]});
    let rule = json!({"!!": {"reduce": [var("orders"), join, ""]}});
    assert_eq!(on_traits(&rule, &traits), Ok(true));
    let collect = json!({"merge": [{"var": "accumulator"}, {"var": "current.sku"}]});
    let rule = json!({"!!": {"reduce": [var("orders"), collect, []]}});
    assert_eq!(on_traits(&rule, &traits), Ok(true));
}

#[test]
fn a_long_text_of_a_rule_counts_in_a_body() {
    let long = |length: usize| {
        json!({"some": [var("a"), {"some": [{"var": ""}, {"icontains": [
            {"var": ""}, "x".repeat(length),
        ]}]}]})
    };
    parse(&long(500));
    assert_eq!(refused(&long(50_000)).0, RuleErrorCode::TooCostly);
}

#[test]
fn a_long_if_needs_no_deep_stack() {
    let mut args = Vec::new();
    for n in 0..1_600 {
        args.extend([
            json!({"var": format!("user.traits.t{n}")}),
            json!(n % 2 == 0),
        ]);
    }
    args.push(json!(true));
    let rule = json!({ "if": args });
    let work = move || {
        assert_eq!(on_traits(&rule, &json!({})), Ok(true));
        assert_eq!(on_traits(&rule, &json!({"t1500": 1})), Ok(true));
        assert_eq!(
            on_traits(&rule, &json!({"t1501": 1, "t1502": 1})),
            Ok(false)
        );
        assert_eq!(on_traits(&rule, &json!({"t1": 1, "t1500": 1})), Ok(false));
    };
    let small = std::thread::Builder::new().stack_size(512 << 10);
    small.spawn(work).unwrap().join().unwrap();
}

#[test]
fn many_values_in_deep_lists_are_refused() {
    let lists = |depth: usize, texts: usize| {
        let mut list = Value::Array((0..texts).map(|n| json!(n.to_string())).collect());
        for _ in 1..depth {
            list = Value::Array(vec![list]);
        }
        json!({"in": [var("a"), list]})
    };
    parse(&lists(8, 4_900));
    parse(&lists(120, 200));
    let error = refusal(&lists(120, 4_800));
    assert_eq!(error.code, RuleErrorCode::TooDeep);
    assert!(error.pointer.starts_with("/in/1/0/0"), "{}", error.pointer);
}

#[test]
fn data_nested_too_deep_is_a_failure_and_no_overflow() {
    let mut deep = json!(1);
    for _ in 0..10_000 {
        deep = Value::Array(vec![deep]);
    }
    let traits = object("deep", deep);
    assert_eq!(
        kind(on_traits(&json!({"exists": "user.id"}), &traits)),
        EvalErrorKind::Limit
    );
    let _ = std::mem::ManuallyDrop::new(traits);
}
