//! Looking at JSON text without building it.

use std::collections::HashMap;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting that is imported.
const NESTING_MAX: usize = 256;

/// An object's members in the order of the text, values as written.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Collect<'a> {
            type Value = Members<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some(member) = map.next_entry::<String, &'a RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect(std::marker::PhantomData))
    }
}

impl<'a> Members<'a> {
    /// The members of an object; nothing for any other text.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The last value under a name, as JSON readers take it.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let mut members = self.0.iter().rev();
        members
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.get())
    }

    /// Where each name is last.
    pub(super) fn last_places(&self) -> HashMap<&str, usize> {
        let members = self.0.iter().enumerate();
        members
            .map(|(place, (name, _))| (name.as_str(), place))
            .collect()
    }

    /// The object without some members, as text; of members named twice the last.
    pub(super) fn without(&self, names: &[&str]) -> String {
        let mut text = String::from("{");
        let last = self.last_places();
        for (place, (name, value)) in self.0.iter().enumerate() {
            let named_again = last.get(name.as_str()) != Some(&place);
            if named_again || names.contains(&name.as_str()) {
                continue;
            }
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_str()).to_string());
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        text
    }
}

/// Whether the nesting is within bounds. The text is well-formed JSON.
pub(super) fn is_shallow(json: &str) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTING_MAX {
            return false;
        }
    }
    true
}

/// The text with the character that Postgres' `jsonb` cannot keep replaced by U+FFFD, as the traits
/// of an identify are kept. Nothing when it is not there.
pub(super) fn without_nul(json: &str) -> Option<String> {
    let nul = escapes(json).filter_map(|(at, code)| (code == 0).then_some(at));
    replaced(json, nul.collect())
}

/// The text with lone surrogates, which Node writes and nobody can read, replaced by U+FFFD.
/// Nothing when there are none.
pub(super) fn without_lone_surrogates(json: &str) -> Option<String> {
    let mut lone = Vec::new();
    let mut high: Option<usize> = None;
    for (at, code) in escapes(json) {
        let follows = high.is_some_and(|start| at == start + 6);
        match code {
            0xd800..=0xdbff => lone.extend(high.replace(at)),
            0xdc00..=0xdfff if follows => high = None,
            0xdc00..=0xdfff => {
                lone.extend(high.take());
                lone.push(at);
            }
            _ => lone.extend(high.take()),
        }
    }
    lone.extend(high);
    replaced(json, lone)
}

/// The text with the escapes that begin at these places replaced; nothing when there are none.
fn replaced(json: &str, places: Vec<usize>) -> Option<String> {
    if places.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(json.len());
    let mut from = 0;
    for at in places {
        out.push_str(json.get(from..at).unwrap_or_default());
        out.push_str("\\ufffd");
        from = at + 6;
    }
    out.push_str(json.get(from..).unwrap_or_default());
    Some(out)
}

/// Each `\uXXXX` of a well-formed text: where it begins and which code it names.
fn escapes(json: &str) -> impl Iterator<Item = (usize, u32)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = json.as_bytes().get(at..)?;
            let start = at + memchr::memchr(b'\\', rest)?;
            if json.as_bytes().get(start + 1) != Some(&b'u') {
                at = start + 2;
                continue;
            }
            at = start + 6;
            let code = json
                .get(start + 2..start + 6)
                .and_then(|hex| u32::from_str_radix(hex, 16).ok());
            if let Some(code) = code {
                return Some((start, code));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_are_kept() {
        for (text, expected) in [
            (r#""\ud83d\ude00""#, None),
            (r#""\\ud83d""#, None),
            (r#""a\ud83d""#, Some(r#""a\ufffd""#)),
            (r#""\ude00b""#, Some(r#""\ufffdb""#)),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\ud83d \ude00""#, Some(r#""\ufffd \ufffd""#)),
            (r#""\ud83dA""#, Some(r#""\ufffdA""#)),
        ] {
            assert_eq!(without_lone_surrogates(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_strings_only() {
        let deep = format!("{}{}", "[".repeat(257), "]".repeat(257));
        assert!(!is_shallow(&deep));
        assert!(is_shallow(&deep[1..deep.len() - 1]));
        assert!(is_shallow(&format!("\"\\\"{}\"", "[".repeat(1_000))));
    }

    #[test]
    fn nul_is_replaced_where_it_is_an_escape() {
        let replaced = without_nul(r#"{"a\u0000":"\u0000b"}"#);
        assert_eq!(replaced.as_deref(), Some(r#"{"a\ufffd":"\ufffdb"}"#));
        assert_eq!(without_nul(r#"{"a":"\\u0000"}"#), None);
    }

    #[test]
    fn members_keep_their_text_and_the_last_of_a_name_wins() {
        let members = Members::of(r#"{"b":1.0, "a":"\u0041", "b": [ 2 ]}"#);
        let members = members.unwrap_or(Members(Vec::new()));
        assert_eq!(members.get("b"), Some("[ 2 ]"));
        assert_eq!(members.without(&["id"]), r#"{"a":"\u0041","b":[ 2 ]}"#);
    }
}
