//! Data read straight into the arena is what the JSON library makes of the same text.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::at_least;
use crate::rules::FactsArena;

/// JSON as text: with spaces, escapes, repeated names, and numbers at the edges.
fn text() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-0.0",
            "1.0",
            "1e2",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775809",
            "1e308",
            "5e-324",
            "0.1",
            r#""""#,
            r#""a""#,
            r#""\u0000""#,
            r#""\ud83d\ude00 \"é""#,
            r#""😀""#,
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| json!(text).to_string()),
    ];
    let name = prop::sample::select(vec![
        r#""a""#,
        r#""\u0061""#,
        r#""b""#,
        r#""""#,
        r#""B""#,
        r#""é""#,
    ]);
    scalar.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| format!("[ {} ]", items.join(" ,"))),
            prop::collection::vec((name.clone(), inner), 0..8).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(name, value)| format!("{name}:{value}"))
                    .collect();
                format!("{{{} \n}}", members.join(", "))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(at_least(2_000))]
    #[test]
    fn parsed_texts_are_what_the_json_library_reads(text in text(), members in prop::collection::vec("[a-z]{1,3}", 0..60)) {
        let members: Vec<_> = members.iter().zip(0..).map(|(name, n)| format!("\"{name}\":{n}")).collect();
        let text = format!("{{\"value\": {text},{}\"end\": 1}}", members.join(",") + if members.is_empty() { "" } else { "," });
        let value: Value = serde_json::from_str(&text).unwrap();
        let arena = FactsArena::new();
        let (parsed, converted) = (arena.parse(&text), arena.from_value(&value));
        // Numbers by how they are kept and not by what they equal: -0, and 1.0 beside 1.
        prop_assert_eq!(format!("{parsed:?}"), format!("{converted:?}"));
        prop_assert_eq!(parsed.members().len(), value.as_object().unwrap().len());
        for (name, _) in parsed.members() {
            prop_assert!(parsed.get(name).is_some());
        }
    }
}

#[test]
fn what_is_no_object_is_null() {
    let arena = FactsArena::new();
    for text in [
        "",
        "null",
        "[1]",
        "{\"a\": 1} x",
        "{\"a\": 1e999}",
        "{\"a\"}",
        "7",
    ] {
        let object = arena.parse(text);
        assert!(
            object.value().is_null() && object.members().is_empty(),
            "{text}"
        );
    }
    assert!(arena.from_value(&json!([1])).value().is_null());
}

#[test]
fn of_very_many_repeated_names_the_last_counts() {
    let members: Vec<String> = (0..200_000)
        .map(|n| format!(r#""n{}":{n}"#, n % 60_000))
        .collect();
    let text = format!("{{{}}}", members.join(","));
    let arena = FactsArena::new();
    let object = arena.parse(&text);
    assert_eq!(object.members().len(), 60_000);
    for n in [0_i64, 19_999, 20_000, 59_999] {
        let last = n + if n < 20_000 { 180_000 } else { 120_000 };
        let value = object
            .get(&format!("n{n}"))
            .and_then(|value| value.as_i64());
        assert_eq!(value, Some(last), "n{n}");
    }
}

#[test]
fn a_text_nested_too_deep_is_marked_and_no_overflow() {
    let arena = FactsArena::new();
    let nested = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    let (allowed, too_deep) = (nested(255), nested(256));
    assert!(!arena.parse(&allowed).is_too_deep());
    assert!(arena.parse(&too_deep).is_too_deep());
    let value: Value = serde_json::from_str(&nested(100)).unwrap();
    assert!(!arena.from_value(&value).is_too_deep());
    let million = nested(1_000_000);
    assert!(arena.parse(&million).is_too_deep());
}

#[test]
fn a_reset_arena_keeps_its_memory() {
    let mut arena = FactsArena::new();
    let text = json!({"list": (0..1_000).collect::<Vec<_>>()}).to_string();
    let mut sizes = Vec::new();
    for _ in 0..20 {
        arena.reset();
        assert_eq!(
            arena.parse(&text).get("list").and_then(|it| it.len()),
            Some(1_000)
        );
        sizes.push(arena.facts.allocated_bytes());
    }
    assert_eq!(sizes[10], sizes[19], "{sizes:?}");
}
