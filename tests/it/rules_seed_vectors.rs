//! The seed's rule list against vectors made by running the seed's own functions, and against a
//! slow twin that follows ECMA-262 word for word.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use beckon::rules::{FactsArena, RuleList};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Where we answer differently from the seed on purpose.
pub const DIVERGENCES: &[(&str, &str)] = &[(
    "[{\"id\":1,\"type\":\"event\",\"field\":\"unknown\",\"operator\":\"==\",\"value\":\"\"}]",
    "the dashboard's placeholder could never hold; it is ignored",
)];

/// Names that a JavaScript object inherits: the seed finds a function there, we find nothing.
const INHERITED: [&str; 5] = [
    "constructor",
    "toString",
    "__proto__",
    "hasOwnProperty",
    "valueOf",
];

pub fn vectors() -> Value {
    let text = include_str!("../fixtures/vectors/seed-rule-vectors.json");
    serde_json::from_str(text).unwrap()
}

/// The vectors write what JSON cannot say as marker texts.
pub fn decode(value: &Value) -> Option<Value> {
    match value.as_str() {
        Some("__absent__") => None,
        Some("__neg_zero__") => Some(json!(-0.0)),
        _ => Some(value.clone()),
    }
}

pub fn one_rule(kind: &str, operator: &Value, value: Option<Value>) -> Value {
    let mut rule = json!({"type": kind, "field": "f", "operator": operator});
    if let Some(value) = value {
        rule["value"] = value;
    }
    json!([rule])
}

/// Whether the list holds on these objects, which it reads from their texts.
fn holds(list: &RuleList, traits: &Value, properties: Option<&Value>) -> bool {
    let arena = FactsArena::new();
    let traits = traits.to_string();
    let properties = properties.map(Value::to_string);
    list.matches(
        arena.parse(&traits),
        properties.as_deref().map(|text| arena.parse(text)),
    )
}

/// An object of this one member, or of none.
fn member(name: &str, value: Option<Value>) -> Value {
    let members = value.into_iter().map(|value| (name.to_owned(), value));
    Value::Object(members.collect())
}

#[test]
fn every_rule_vector_gives_the_seeds_answer() {
    let vectors = vectors();
    let rows = vectors["rules"].as_array().unwrap();
    assert_eq!(rows.len(), 13_050);
    let mut wrong = Vec::new();
    for row in rows {
        let (operator, left, right) = (&row[0], decode(&row[1]), decode(&row[2]));
        let list = RuleList::parse(Some(&one_rule("attribute", operator, right))).unwrap();
        if holds(&list, &member("f", left), None) != row[3].as_bool().unwrap() {
            wrong.push(row.to_string());
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}: {:#?}",
        wrong.len(),
        rows.len(),
        wrong
    );
}

#[test]
fn every_source_selection_vector_gives_the_seeds_answer() {
    let vectors = vectors();
    let rows = vectors["source_selection"].as_array().unwrap();
    assert_eq!(rows.len(), 24);
    for row in rows {
        let list = RuleList::parse(Some(&json!([row["rule"]]))).unwrap();
        let properties = Some(&row["event_props"]).filter(|it| it.is_object());
        let answer = holds(&list, &row["attrs"], properties);
        assert_eq!(answer, row["expect"].as_bool().unwrap(), "{row}");
    }
}

#[test]
fn every_campaign_vector_gives_the_seeds_answer_or_a_listed_one() {
    let vectors = vectors();
    let rows = vectors["campaign_level"].as_array().unwrap();
    assert_eq!(rows.len(), 24);
    let mut diverged = 0;
    for row in rows {
        let rules = decode(&row["rules"]);
        let list = RuleList::parse(rules.as_ref()).unwrap();
        let properties = Some(&row["event_props"]).filter(|it| it.is_object());
        let answer = holds(&list, &row["attrs"], properties);
        let listed = DIVERGENCES
            .iter()
            .any(|(text, _reason)| rules == Some(serde_json::from_str::<Value>(text).unwrap()));
        diverged += usize::from(listed);
        assert_eq!(answer == row["expect"].as_bool().unwrap(), !listed, "{row}");
    }
    assert_eq!(
        diverged, 4,
        "a divergence that no vector shows is not a divergence"
    );
}

#[test]
fn inherited_names_are_absent() {
    let vectors = vectors();
    let rows = vectors["inherited_names"].as_array().unwrap();
    assert_eq!(rows.len(), 7);
    for row in rows {
        let field = row["field"].as_str().unwrap();
        let rule =
            json!([{"type": "attribute", "field": field, "operator": "contains", "value": ""}]);
        let list = RuleList::parse(Some(&rule)).unwrap();
        assert!(!holds(&list, &json!({}), None), "{field}");
        let seed = row["contains_empty_on_empty_attrs"].as_bool().unwrap();
        assert_eq!(seed, INHERITED.contains(&field), "{field}");
        let own = member(field, Some(json!(1)));
        assert!(holds(&list, &own, None), "{field} of its own is present");
    }
}

/// The seed's `evalValue` and the abstract operations of ECMA-262 that it runs into, written down
/// one by one without any of the short cuts of the real implementation.
mod twin {
    use serde_json::Value;

    /// A JavaScript primitive.
    #[derive(Debug, Clone, PartialEq)]
    enum Primitive {
        Undefined,
        Null,
        Boolean(bool),
        Number(f64),
        Text(Vec<u16>),
    }

    fn units(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    fn is_object(value: Option<&Value>) -> bool {
        matches!(value, Some(Value::Array(_) | Value::Object(_)))
    }

    fn to_primitive(value: Option<&Value>) -> Primitive {
        match value {
            None => Primitive::Undefined,
            Some(Value::Null) => Primitive::Null,
            Some(Value::Bool(value)) => Primitive::Boolean(*value),
            Some(Value::Number(number)) => Primitive::Number(number.as_f64().unwrap()),
            Some(Value::String(text)) => Primitive::Text(units(text)),
            Some(Value::Object(_)) => Primitive::Text(units("[object Object]")),
            Some(Value::Array(items)) => {
                let mut parts = Vec::new();
                for item in items {
                    parts.push(match item {
                        Value::Null => Vec::new(),
                        item => to_string(&to_primitive(Some(item))),
                    });
                }
                Primitive::Text(parts.join(&units(",")[..]))
            }
        }
    }

    fn to_string(value: &Primitive) -> Vec<u16> {
        match value {
            Primitive::Undefined => units("undefined"),
            Primitive::Null => units("null"),
            Primitive::Boolean(value) => units(&value.to_string()),
            // The strategy keeps to numbers that both languages write the same way.
            Primitive::Number(number) if *number == 0.0 => units("0"),
            Primitive::Number(number) => units(&number.to_string()),
            Primitive::Text(text) => text.clone(),
        }
    }

    fn to_number(value: &Primitive) -> f64 {
        match value {
            Primitive::Undefined => f64::NAN,
            Primitive::Null => 0.0,
            Primitive::Boolean(value) => f64::from(*value as u8),
            Primitive::Number(number) => *number,
            Primitive::Text(text) => {
                let text = String::from_utf16(text).unwrap();
                let text = text.trim();
                if text.is_empty() {
                    return 0.0;
                }
                if text == "Infinity" {
                    return f64::INFINITY;
                }
                if let Some(digits) = text.strip_prefix("0x") {
                    return i64::from_str_radix(digits, 16).map_or(f64::NAN, |n| n as f64);
                }
                let plain = text
                    .chars()
                    .all(|c| c.is_ascii_digit() || "+-.e".contains(c));
                if plain {
                    text.parse().unwrap_or(f64::NAN)
                } else {
                    f64::NAN
                }
            }
        }
    }

    fn is_loosely_equal(left: Option<&Value>, right: Option<&Value>) -> bool {
        if is_object(left) && is_object(right) {
            return false;
        }
        loose(to_primitive(left), to_primitive(right))
    }

    fn loose(left: Primitive, right: Primitive) -> bool {
        use Primitive::{Boolean, Null, Number, Text, Undefined};
        match (left, right) {
            (Undefined | Null, Undefined | Null) => true,
            (Undefined | Null, _) | (_, Undefined | Null) => false,
            (Number(left), Number(right)) => left == right,
            (Text(left), Text(right)) => left == right,
            (Boolean(left), right) => loose(Number(f64::from(left as u8)), right),
            (left, Boolean(right)) => loose(left, Number(f64::from(right as u8))),
            (Number(left), text @ Text(_)) => left == to_number(&text),
            (text @ Text(_), Number(right)) => to_number(&text) == right,
        }
    }

    pub(super) fn holds(operator: &str, left: Option<&Value>, right: Option<&Value>) -> bool {
        if left.is_none() {
            return false;
        }
        let (l, r) = (to_primitive(left), to_primitive(right));
        let (ls, rs) = (to_string(&l), to_string(&r));
        let (ln, rn) = (to_number(&l), to_number(&r));
        let numeric = !ln.is_nan() && !rn.is_nan();
        match operator {
            "==" => is_loosely_equal(left, right),
            "!=" => !is_loosely_equal(left, right),
            ">" => {
                if numeric {
                    ln > rn
                } else {
                    ls > rs
                }
            }
            ">=" => {
                if numeric {
                    ln >= rn
                } else {
                    ls >= rs
                }
            }
            "<" => {
                if numeric {
                    ln < rn
                } else {
                    ls < rs
                }
            }
            "<=" => {
                if numeric {
                    ln <= rn
                } else {
                    ls <= rs
                }
            }
            "contains" => rs.is_empty() || ls.windows(rs.len()).any(|window| window == rs),
            _ => false,
        }
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-30_i64..30).prop_map(Value::from),
        (-300_i64..300).prop_map(|n| json!(n as f64 / 8.0)),
        "[ 0-9a-c.,+-]{0,4}".prop_map(Value::from),
        prop::sample::select(vec![
            "Infinity",
            "null",
            "true",
            "0x1f",
            "1e2",
            "é",
            "\u{ffff}",
            "😀",
            "undefined",
            "[object Object]"
        ])
        .prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..2).prop_map(|map| json!(map)),
        ]
    })
}

/// More than the 4_000 of the short form if `PROPTEST_CASES` says so.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(4_000),
        ..asked
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn random_rules_agree_with_the_slow_twin(
        operator in prop::sample::select(vec!["==", "!=", ">", ">=", "<", "<=", "contains", "equals"]),
        left in prop::option::of(value()),
        right in prop::option::of(value()),
    ) {
        let rule = one_rule("attribute", &json!(operator), right.clone());
        let list = RuleList::parse(Some(&rule)).unwrap();
        prop_assert_eq!(
            holds(&list, &member("f", left.clone()), None),
            twin::holds(operator, left.as_ref(), right.as_ref())
        );
    }
}
