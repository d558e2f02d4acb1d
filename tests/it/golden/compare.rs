//! Compares an answer with a recorded one: whole, except for ids, times and added members.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::{Map, Value};
use uuid::Uuid;

/// Members of ours beside the recorded ones are welcome, except in these: what a client stored
/// must come back as it was stored, with nothing added.
const CLOSED: [&str; 6] = ["user", "properties", "config", "rules", "flags", "addr"];

/// Which id of ours stands for which recorded one.
#[derive(Debug, Clone, Default)]
pub struct Ids(BTreeMap<String, String>);

impl Ids {
    /// The path, with our ids in the places of the recorded ones.
    pub fn in_path(&self, path: &str) -> String {
        self.0
            .iter()
            .fold(path.to_owned(), |path, (recorded, ours)| {
                path.replace(recorded, ours)
            })
    }

    fn meet(&mut self, recorded: &str, ours: &str) -> Result<(), String> {
        if let Some(known) = self.0.get(recorded) {
            return if known == ours {
                Ok(())
            } else {
                Err(format!("{recorded} was {known} before and is {ours} now"))
            };
        }
        if ours.is_empty() || self.0.values().any(|known| known == ours) {
            return Err(format!("{ours:?} cannot stand for {recorded}"));
        }
        self.0.insert(recorded.to_owned(), ours.to_owned());
        Ok(())
    }
}

/// Compares status and body.
pub fn answers(
    (status, expected): (u16, &Value),
    (our_status, ours): (u16, &Value),
    ids: &mut Ids,
) -> Result<(), String> {
    if status != our_status {
        return Err(format!("status {our_status} instead of {status}"));
    }
    values(expected, ours, "", "", ids)
}

fn values(
    expected: &Value,
    ours: &Value,
    key: &str,
    pointer: &str,
    ids: &mut Ids,
) -> Result<(), String> {
    let differs = || Err(format!("{pointer}: {ours} instead of {expected}"));
    match (expected, ours) {
        (Value::Object(expected), Value::Object(ours)) => {
            objects(expected, ours, key, pointer, ids)
        }
        (Value::Array(expected), Value::Array(ours)) => {
            if expected.len() != ours.len() {
                return Err(format!(
                    "{pointer}: {} elements instead of {}",
                    ours.len(),
                    expected.len()
                ));
            }
            for (place, (expected, ours)) in expected.iter().zip(ours).enumerate() {
                // Elements are judged by the name of their list.
                values(expected, ours, key, &format!("{pointer}/{place}"), ids)?;
            }
            Ok(())
        }
        (Value::String(expected), Value::String(ours)) if is_generated(key, expected) => ids
            .meet(expected, ours)
            .map_err(|problem| format!("{pointer}: {problem}")),
        (Value::String(_), Value::String(ours)) if is_time(key) => {
            if DateTime::parse_from_rfc3339(ours).is_ok() {
                Ok(())
            } else {
                Err(format!("{pointer}: {ours:?} is no time"))
            }
        }
        (Value::Number(_), Value::Number(ours)) if key == "ts" => {
            // Any time in this century, in milliseconds.
            let in_milliseconds = ours
                .as_i64()
                .is_some_and(|ms| (1_000_000_000_000..4_000_000_000_000).contains(&ms));
            if in_milliseconds { Ok(()) } else { differs() }
        }
        (Value::Number(expected), Value::Number(ours)) => {
            if expected.as_f64() == ours.as_f64() {
                Ok(())
            } else {
                differs()
            }
        }
        (expected, ours) if expected == ours => Ok(()),
        _ => differs(),
    }
}

fn objects(
    expected: &Map<String, Value>,
    ours: &Map<String, Value>,
    key: &str,
    pointer: &str,
    ids: &mut Ids,
) -> Result<(), String> {
    for (name, value) in expected {
        let inner = format!("{pointer}/{name}");
        match ours.get(name) {
            Some(our_value) => values(value, our_value, name, &inner, ids)?,
            None => return Err(format!("{inner}: absent instead of {value}")),
        }
    }
    if CLOSED.contains(&key)
        && let Some(added) = ours.keys().find(|name| !expected.contains_key(*name))
    {
        return Err(format!("{pointer}/{added}: not there in the recording"));
    }
    Ok(())
}

/// True for ids that a server makes up. People's ids are their own.
fn is_generated(key: &str, value: &str) -> bool {
    matches!(key, "id" | "campaign_id")
        && (value.starts_with("new:") || Uuid::try_parse(value).is_ok())
}

fn is_time(key: &str) -> bool {
    matches!(key, "createdAt" | "updatedAt" | "timestamp")
}

#[test]
fn a_difference_is_noticed_and_an_addition_is_not() {
    use serde_json::json;

    let id = "a17d2ee5-53d1-4697-aa48-7df348f0112d";
    let recorded = json!({
        "ok": true,
        "event": {"id": id, "properties": {"a": 1}, "ts": 1795224887872_i64},
        "matched": [{"id": "x", "createdAt": "2026-11-21T01:34:47.906Z"}],
    });
    let ours = json!({
        "ok": true,
        "success": true,
        "event": {"id": "e1", "properties": {"a": 1.0}, "ts": 1795224887999_i64, "kind": "track"},
        "matched": [{"id": "x", "createdAt": "2026-11-21T01:34:47Z", "rules": []}],
    });
    let fails = |pointer: &str, value: Value| {
        let mut changed = ours.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        values(&recorded, &changed, "", "", &mut Ids::default()).is_err()
    };
    assert!(!fails("/ok", json!(true)));
    assert!(fails("/ok", json!(false)));
    assert!(fails("/matched", json!([])));
    assert!(fails("/matched/0/id", json!("y")));
    assert!(fails("/matched/0/createdAt", json!("now")));
    assert!(fails("/event/ts", json!(1795224887)));
    assert!(fails("/event/properties", json!({"a": 1, "b": 2})));
    assert!(fails("/event/properties", json!({})));
    assert!(fails("/event/id", json!("")));
    assert!(answers((200, &recorded), (201, &ours), &mut Ids::default()).is_err());

    let mut ids = Ids::default();
    values(&recorded, &ours, "", "", &mut ids).unwrap();
    assert_eq!(ids.in_path(&format!("/v1/x/{id}")), "/v1/x/e1");
    let mut changed = ours;
    changed["event"]["id"] = json!("e2");
    assert!(values(&recorded, &changed, "", "", &mut ids).is_err());
}
