//! Values as a trace shows them: the beginning, where they are long.

use datalogic_rs::DataValue;
use datalogic_rs::FromDataValue;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::rules::data::FactsArena;

/// How much text of one value is shown, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// How many values inside one value are shown.
const VALUES_MAX: usize = 50;

/// A value that a condition saw.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Seen {
    /// Where the rule found it: a dotted path.
    pub path: String,
    /// The value; null where there is none.
    pub value: Value,
    /// True where there is no value at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// True when only the beginning is shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl Seen {
    /// What stands at a path.
    pub(super) fn new(path: String, value: Option<&DataValue<'_>>) -> Self {
        let (shown, cut) = value.map_or((Value::Null, false), bounded);
        Self {
            path,
            value: shown,
            missing: value.is_none(),
            cut,
        }
    }
}

/// A value, and whether its end was cut off.
fn bounded(value: &DataValue<'_>) -> (Value, bool) {
    let mut left = Left {
        bytes: TEXT_BYTES_MAX,
        values: VALUES_MAX,
        cut: false,
    };
    let shown = left.value(value);
    (shown, left.cut)
}

/// The same for JSON.
pub(super) fn bounded_json(value: &Value) -> (Value, bool) {
    bounded(&FactsArena::new().value(value))
}

/// How much may still be shown.
struct Left {
    bytes: usize,
    values: usize,
    cut: bool,
}

impl Left {
    fn value(&mut self, value: &DataValue<'_>) -> Value {
        self.values = self.values.saturating_sub(1);
        match value {
            DataValue::String(text) => Value::String(self.text(text)),
            DataValue::Array(items) => {
                let mut shown = Vec::new();
                for item in *items {
                    if self.is_used_up() {
                        break;
                    }
                    shown.push(self.value(item));
                }
                Value::Array(shown)
            }
            DataValue::Object(members) => {
                let mut shown = Map::new();
                for (name, member) in *members {
                    if self.is_used_up() {
                        break;
                    }
                    let name = self.text(name);
                    shown.insert(name, self.value(member));
                }
                Value::Object(shown)
            }
            // A number that JSON has no form for.
            other => Value::from_arena(other).unwrap_or_default(),
        }
    }

    fn text(&mut self, text: &str) -> String {
        let end = text.floor_char_boundary(self.bytes);
        self.bytes -= end;
        match text.get(..end) {
            Some(shown) if end < text.len() => {
                self.cut = true;
                format!("{shown}…")
            }
            _ => text.to_owned(),
        }
    }

    /// Whether nothing more may be shown; what asks has something to show.
    fn is_used_up(&mut self) -> bool {
        let is_used_up = self.values == 0 || self.bytes == 0;
        self.cut |= is_used_up;
        is_used_up
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_values_are_cut_and_short_ones_are_whole() {
        let short = json!({"a": [1, "x", null, true], "b": {"c": 0.5}});
        assert_eq!(bounded_json(&short), (short, false));
        let (text, cut) = bounded_json(&json!("é".repeat(1_000)));
        assert!(cut);
        assert_eq!(text, json!(format!("{}…", "é".repeat(256))));
        let (list, cut) = bounded_json(&json!(vec![0; 1_000]));
        assert!(cut);
        assert_eq!(list, json!(vec![0; 49]));
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        assert!(bounded_json(&deep).1);
    }
}
