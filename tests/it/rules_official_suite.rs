//! The official JsonLogic suite, as the evaluator's own source ships it, through our rule API.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Command;

use beckon::rules::{Condition, Limits};
use serde_json::{Value, json};

/// Where cargo keeps the source of the evaluator that this build uses.
fn evaluator_source() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {stderr}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages
        .iter()
        .find(|package| package["name"] == "datalogic-rs" && package["version"] == "5.4.0")
        .unwrap();
    let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().to_owned()
}

/// JSON numbers are equal when their values are: the suite writes `1`, arithmetic makes `1.0`.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (left, right) => left == right,
    }
}

/// The suite's cases: a rule, data, and the result.
pub fn cases() -> Vec<Value> {
    let path = evaluator_source().join("tests/suites/compatible.json");
    let suite: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = suite.as_array().unwrap().iter();
    cases.filter(|case| case.is_object()).cloned().collect()
}

#[test]
fn the_official_suite_passes_in_full() {
    let cases = cases();
    assert_eq!(cases.len(), 278);
    let mut wrong = Vec::new();
    for case in &cases {
        let data = case.get("data").cloned().unwrap_or_else(|| json!({}));
        let condition = match Condition::parse(&case["rule"], &Limits::default()) {
            Ok(condition) => condition,
            Err(error) => {
                wrong.push(format!("{case}: {error}"));
                continue;
            }
        };
        match condition.evaluate_on(&data) {
            Ok(value) if same(&value, &case["result"]) => {}
            answer => wrong.push(format!("{case}: {answer:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}
