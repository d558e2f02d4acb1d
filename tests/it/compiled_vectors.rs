//! The official JsonLogic suite and the seed's vectors, as campaigns: through the compiler, the
//! index, native tests, and the library only for what these leave open.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use beckon::matcher::{Campaign, CampaignRow, Snapshot};
use beckon::rules::{EventFacts, FactsArena, Limits, UserFacts};
use beckon::segments::Segments;
use chrono::DateTime;
use serde_json::{Map, Value, json};

use crate::rules_official_suite::cases;
use crate::rules_seed_vectors::{DIVERGENCES, decode, one_rule, vectors};

/// The campaigns, numbered, each on the event `x`.
fn compiled(campaigns: Vec<Value>) -> Vec<Arc<Campaign>> {
    let limits = Limits::default();
    let compiled = campaigns.into_iter().zip(0_i64..).map(|(more, seq)| {
        let mut body = Map::from_iter([
            ("status".to_owned(), json!("active")),
            ("trigger".to_owned(), json!("x")),
        ]);
        body.extend(more.as_object().unwrap().clone());
        let row = CampaignRow {
            id: seq.to_string(),
            seq,
            version: 1,
            body,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        };
        let campaign = Campaign::compile(&row, &limits);
        Arc::new(campaign.unwrap_or_else(|error| panic!("{:?}: {error}", row.body)))
    });
    compiled.collect()
}

fn snapshot(campaigns: Vec<Arc<Campaign>>) -> Snapshot {
    Snapshot::new(1, campaigns, Segments::default(), HashMap::new())
}

/// The numbers of the campaigns that are shown, on the event or, without one, on a fetch.
fn shown(snapshot: &Snapshot, traits: &Value, properties: Option<&Value>) -> BTreeSet<usize> {
    let arena = FactsArena::new();
    let (traits, properties) = (traits.to_string(), properties.map(Value::to_string));
    let user = UserFacts {
        id: "u",
        traits: arena.parse(&traits),
        created_at: DateTime::UNIX_EPOCH,
        last_seen_at: DateTime::UNIX_EPOCH,
    };
    let event = properties.as_ref().map(|properties| EventFacts {
        name: "x",
        properties: arena.parse(properties),
        context: arena.parse("{}"),
        timestamp: DateTime::UNIX_EPOCH,
    });
    let decision = match event {
        Some(event) => snapshot.on_event(user, event, DateTime::UNIX_EPOCH, &arena),
        None => snapshot.on_fetch(user, DateTime::UNIX_EPOCH, &arena),
    };
    let ids = decision
        .matched
        .iter()
        .map(|campaign| campaign.id.parse().unwrap());
    ids.collect()
}

const ITERATIONS: [&str; 6] = ["map", "filter", "reduce", "all", "none", "some"];

/// The rule, made to read its data below a trait.
fn moved(rule: &Value) -> Value {
    let Value::Object(members) = rule else {
        let Value::Array(items) = rule else {
            return rule.clone();
        };
        return items.iter().map(moved).collect();
    };
    let Some((name, args)) = members.iter().next() else {
        return rule.clone();
    };
    let args = match name.as_str() {
        "var" => match args {
            Value::Array(items) => {
                let path = items.first().map_or(below(&Value::Null), below);
                let rest = items.iter().skip(1).map(moved);
                std::iter::once(path).chain(rest).collect()
            }
            path => below(path),
        },
        "missing" => below_all(args),
        "missing_some" => json!([moved(&args[0]), below_all(&args[1])]),
        _ if ITERATIONS.contains(&name.as_str()) => {
            let args = args.as_array().unwrap().iter().enumerate();
            // The body sees an element.
            args.map(|(index, arg)| if index == 1 { arg.clone() } else { moved(arg) })
                .collect()
        }
        _ => moved(args),
    };
    json!({ name: args })
}

fn below(path: &Value) -> Value {
    match path {
        Value::Null => json!("user.traits.d"),
        Value::String(path) if path.is_empty() => json!("user.traits.d"),
        Value::String(path) => json!(format!("user.traits.d.{path}")),
        Value::Number(index) => json!(format!("user.traits.d.{index}")),
        computed => json!({"cat": ["user.traits.d.", moved(computed)]}),
    }
}

/// The paths given to `missing`, however they are made.
fn below_all(paths: &Value) -> Value {
    match paths {
        Value::Array(items) => items.iter().map(below_all).collect(),
        Value::Object(call) => {
            let (name, args) = call.iter().next().unwrap();
            let args = match (name.as_str(), args) {
                ("merge", args) => below_all(args),
                ("if" | "?:", Value::Array(args)) => {
                    let last = args.len() - 1;
                    let parts = args.iter().enumerate();
                    let is_path = |index: usize| index % 2 == 1 || index == last;
                    parts
                        .map(|(index, arg)| {
                            if is_path(index) {
                                below_all(arg)
                            } else {
                                moved(arg)
                            }
                        })
                        .collect()
                }
                (_, args) => moved(args),
            };
            json!({ name: args })
        }
        path => below(path),
    }
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

#[test]
fn the_official_suite_passes_as_campaigns() {
    let cases = cases();
    assert_eq!(cases.len(), 278);
    // All rules in one snapshot, so that the index holds them side by side; each case asks it with
    // its own data and looks at its own campaign.
    let rules = cases
        .iter()
        .map(|case| json!({"targeting": moved(&case["rule"])}));
    let compiled = compiled(rules.collect());
    let snapshot = snapshot(compiled.clone());
    let (mut wrong, mut not_on_fetch) = (Vec::new(), 0);
    for (index, case) in cases.iter().enumerate() {
        let data = case.get("data").cloned().unwrap_or_else(|| json!({}));
        let traits = json!({ "d": data });
        // No targeting is for everybody.
        let expected = case["rule"].is_null() || truthy(&case["result"]);
        let on_event = shown(&snapshot, &traits, Some(&json!({}))).contains(&index);
        let on_fetch = shown(&snapshot, &traits, None).contains(&index);
        // A path that is computed might lead to the event, which keeps a campaign out of fetches.
        let is_out = compiled[index].mentions_event();
        not_on_fetch += usize::from(is_out && expected);
        if on_event != expected || on_fetch != (expected && !is_out) {
            wrong.push(case.to_string());
        }
    }
    assert_eq!(not_on_fetch, 3);
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}

#[test]
fn every_rule_vector_gives_the_seeds_answer_as_a_campaign() {
    let vectors = vectors();
    let rows = vectors["rules"].as_array().unwrap();
    assert_eq!(rows.len(), 13_050);
    // One campaign for each rule there is, asked with each left side.
    let mut numbers = BTreeMap::new();
    let mut rules = Vec::new();
    let mut lefts: BTreeMap<String, (Option<Value>, BTreeMap<usize, bool>)> = BTreeMap::new();
    for row in rows {
        let rule = one_rule("attribute", &row[0], decode(&row[2]));
        let key = json!([row[0], row[2]]).to_string();
        let number = *numbers.entry(key).or_insert_with(|| {
            rules.push(json!({ "rules": rule }));
            rules.len() - 1
        });
        let left = lefts.entry(row[1].to_string());
        let (_, expected) = left.or_insert_with(|| (decode(&row[1]), BTreeMap::new()));
        expected.insert(number, row[3].as_bool().unwrap());
    }
    assert_eq!((rules.len(), lefts.len()), (282, 49));
    let snapshot = snapshot(compiled(rules));
    let mut compared = 0;
    for (left, expected) in lefts.values() {
        let members = left.iter().map(|value| ("f".to_owned(), value.clone()));
        let traits = Value::Object(members.collect());
        for properties in [None, Some(&json!({}))] {
            let shown = shown(&snapshot, &traits, properties);
            for (number, expected) in expected {
                assert_eq!(shown.contains(number), *expected, "{traits} {number}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 2 * rows.len());
}

#[test]
fn every_campaign_vector_gives_the_seeds_answer_as_a_campaign() {
    let vectors = vectors();
    let rows = vectors["campaign_level"].as_array().unwrap();
    let selection = vectors["source_selection"].as_array().unwrap();
    assert_eq!((rows.len(), selection.len()), (24, 24));
    let rules = rows.iter().map(|row| decode(&row["rules"]));
    let single = selection.iter().map(|row| Some(json!([row["rule"]])));
    let campaigns = rules.clone().chain(single).map(|rules| match rules {
        Some(rules) => json!({ "rules": rules }),
        None => json!({}),
    });
    let snapshot = snapshot(compiled(campaigns.collect()));
    let rows = rows
        .iter()
        .chain(selection)
        .zip(rules.chain(std::iter::repeat(None)));
    for (index, (row, rules)) in rows.enumerate() {
        let listed = DIVERGENCES
            .iter()
            .any(|(text, _)| rules == Some(serde_json::from_str::<Value>(text).unwrap()));
        // On an event without details there are none to be found.
        let properties = Some(&row["event_props"]).filter(|it| it.is_object());
        let empty = json!({});
        let shown = shown(&snapshot, &row["attrs"], Some(properties.unwrap_or(&empty)));
        let is_shown = shown.contains(&index);
        assert_eq!(
            is_shown == row["expect"].as_bool().unwrap(),
            !listed,
            "{row}"
        );
    }
}
