//! How a value of any type reads as text, where a client may send an id or name as a number.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use super::members::{is_null, string};
use crate::model::trim;

/// The most characters of a refused value that are shown back.
const SHOWN_CHARS_MAX: usize = 1_024;
/// How many lists and objects a refused value that is shown back may hold; who reads it may not
/// follow all of them into each other.
const SHOWN_BRACKETS_MAX: usize = 64;

/// A member that should be text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// Missing or null.
    Absent,
    /// A string as it is, or a number's text.
    Is(Cow<'a, str>),
    /// A boolean, array or object.
    Odd,
}

impl<'a> Text<'a> {
    pub(super) fn of(value: Option<&'a RawValue>) -> Self {
        let Some(value) = value.filter(|value| !is_null(value)) else {
            return Self::Absent;
        };
        if let Some(text) = string(value) {
            return Self::Is(text);
        }
        number(value).map_or(Self::Odd, Self::Is)
    }
}

/// The text of a JSON number as JavaScript prints it, except that integers keep all their digits:
/// two long ids must not become one by rounding. `None` for any other value.
fn number(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get();
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    if text == "-0" {
        return Some(Cow::Borrowed("0"));
    }
    if !text.contains(['.', 'e', 'E']) {
        return Some(Cow::Borrowed(text));
    }
    let number: f64 = text.parse().ok()?;
    let magnitude = number.abs();
    Some(Cow::Owned(if number == 0.0 {
        "0".to_owned()
    } else if (1e-6..1e21).contains(&magnitude) {
        number.to_string()
    } else {
        let text = format!("{number:e}");
        match text.split_once('e') {
            Some((digits, power)) if !power.starts_with('-') => format!("{digits}e+{power}"),
            _ => text,
        }
    }))
}

/// A member as the seed's validator reads it: JavaScript's `String()`, with space trimmed from
/// each text. An absent or null one is empty; `None` stands for an object, which has no text worth
/// taking for an id.
pub(super) fn trimmed(value: Option<&RawValue>) -> Option<String> {
    let Some(value) = value else {
        return Some(String::new());
    };
    match Text::of(Some(value)) {
        Text::Absent => Some(String::new()),
        Text::Is(text) => Some(trim(&text).to_owned()),
        Text::Odd => match value.get() {
            "true" | "false" => Some(value.get().to_owned()),
            text if text.starts_with('[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let items: Option<Vec<String>> = items
                    .into_iter()
                    .map(|item| match item.get().as_bytes().first() {
                        // An array in an array would need recursion for ids nobody sends.
                        Some(b'[' | b'{') => None,
                        _ => trimmed(Some(item)),
                    })
                    .collect();
                items.map(|items| items.join(","))
            }
            _ => None,
        },
    }
}

/// A refused value as it is shown back; a long or deep one as the beginning of its text.
pub(super) fn shown(value: Option<&RawValue>) -> Option<Value> {
    let text = value?.get();
    let brackets = text.bytes().filter(|byte| b"[{".contains(byte)).count();
    if text.len() <= SHOWN_CHARS_MAX
        && brackets <= SHOWN_BRACKETS_MAX
        && let Ok(parsed) = serde_json::from_str(text)
    {
        return Some(parsed);
    }
    Some(Value::String(cut(text)))
}

/// The beginning of a text, as much of it as is shown back.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}
