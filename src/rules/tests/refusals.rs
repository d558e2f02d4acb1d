//! That errors name the node of the rule that is refused.

use serde_json::json;

use super::{RuleErrorCode, refusal, refused, var};

#[test]
fn unknown_operators_are_refused_by_pointer() {
    let rule = json!({"and": [true, {"or": [{"performed": {"event": "x"}}]}]});
    let error = refusal(&rule);
    assert_eq!(error.pointer, "/and/1/or/0/performed");
    assert_eq!(error.code, RuleErrorCode::UnknownOperator);
    assert!(error.to_string().contains("\"performed\""));
    // Names of the evaluator that are not ours, names of the lowered form, and odd ones.
    for name in [
        "val",
        "log",
        "try",
        "throw",
        "??",
        "beckon.exists",
        "a/b~c",
        "",
        "AND",
    ] {
        let code = refused(&json!({ name: [1] })).0;
        assert_eq!(code, RuleErrorCode::UnknownOperator, "{name}");
    }
    assert_eq!(refused(&json!({"a/b~c": 1})).1, "/a~1b~0c");
    let two = json!({"and": [{"==": [1, 1], "!=": [1, 2]}]});
    assert_eq!(
        refused(&two),
        (RuleErrorCode::AmbiguousObject, "/and/0".to_owned())
    );
}

#[test]
fn bad_arguments_are_refused_by_pointer() {
    use RuleErrorCode::{
        InvalidPattern, InvalidTimestamp, InvalidVersion, InvalidWindow, WrongArguments,
    };
    let big = format!("(?:{}){{1000}}", "\\w{100}");
    for (rule, code, pointer) in [
        (
            json!({"matches": [var("x"), "a("]}),
            InvalidPattern,
            "/matches/1",
        ),
        (
            json!({"matches": [var("x"), "a".repeat(1_025)]}),
            InvalidPattern,
            "/matches/1",
        ),
        (
            json!({"matches": [var("x"), big]}),
            InvalidPattern,
            "/matches/1",
        ),
        (
            json!({"matches": [var("x"), "(?=look)"]}),
            InvalidPattern,
            "/matches/1",
        ),
        (
            json!({"matches": [var("x"), var("pattern")]}),
            WrongArguments,
            "/matches",
        ),
        (json!({"matches": "x"}), WrongArguments, "/matches"),
        (
            json!({"within_last": [var("x"), "3 days"]}),
            InvalidWindow,
            "/within_last/1",
        ),
        (
            json!({"within_last": [var("x"), 3]}),
            WrongArguments,
            "/within_last",
        ),
        (
            json!({"before": [var("x"), "soon"]}),
            InvalidTimestamp,
            "/before/1",
        ),
        (
            json!({"after": ["soon", var("x")]}),
            InvalidTimestamp,
            "/after/0",
        ),
        (
            json!({"semver_gt": [var("x"), "new"]}),
            InvalidVersion,
            "/semver_gt/1",
        ),
        (
            json!({"in_segment": var("x")}),
            WrongArguments,
            "/in_segment",
        ),
        (
            json!({"in_segment": ["a", "b"]}),
            WrongArguments,
            "/in_segment",
        ),
        (json!({"in_segment": ""}), WrongArguments, "/in_segment"),
        (
            json!({"exists": ["user", "traits"]}),
            WrongArguments,
            "/exists",
        ),
        (json!({"exists": []}), WrongArguments, "/exists"),
        (json!({"between": [1, 2]}), WrongArguments, "/between"),
        (json!({"starts_with": "x"}), WrongArguments, "/starts_with"),
        (json!({"==": [1]}), WrongArguments, "/=="),
        (json!({"and": true}), WrongArguments, "/and"),
        (json!({"map": [[1]]}), WrongArguments, "/map"),
        (json!({"var": ["a", 1, 2]}), WrongArguments, "/var"),
        (json!({"var": true}), WrongArguments, "/var"),
    ] {
        assert_eq!(refused(&rule), (code, pointer.to_owned()), "{rule}");
    }
    let many = vec![json!({"matches": [var("x"), "a"]}); 17];
    let expected = (InvalidPattern, "/or/16/matches/1".to_owned());
    assert_eq!(refused(&json!({ "or": many })), expected);
}
