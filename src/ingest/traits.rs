//! A person's traits while the events of a batch set them: parsed once, and measured as they grow, so
//! that an event costs what it sets and not what the person has.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::model::{PersonId, RawJson, parse_object};
use crate::targeting::PersonState;

/// Traits, and how long they are as JSON text.
#[derive(Debug, Clone)]
pub(super) struct Traits {
    members: Map<String, Value>,
    bytes: usize,
}

impl Default for Traits {
    fn default() -> Self {
        Self {
            members: Map::new(),
            bytes: "{}".len(),
        }
    }
}

impl Traits {
    /// Those of a person.
    pub(super) fn of(state: &PersonState) -> Self {
        Self {
            members: parse_object(&state.traits),
            bytes: state.traits.len(),
        }
    }

    /// The text of a JSON object.
    pub(super) fn text(&self) -> Arc<str> {
        let text = serde_json::to_string(&self.members);
        Arc::from(text.unwrap_or_else(|_| "{}".to_owned()))
    }

    /// Whether these are among them, so that setting them changes nothing.
    pub(super) fn has(&self, patch: &Map<String, Value>) -> bool {
        let mut patch = patch.iter();
        patch.all(|(name, value)| self.members.get(name) == Some(value))
    }

    /// How long the text would be with these set.
    pub(super) fn bytes_with(&self, patch: &Map<String, Value>) -> usize {
        let (mut bytes, mut count) = (self.bytes, self.members.len());
        for (name, value) in patch {
            match self.members.get(name) {
                Some(held) => bytes = bytes + text_bytes(value) - text_bytes(held),
                None => {
                    let comma = usize::from(count > 0);
                    bytes += comma + text_bytes(name) + 1 + text_bytes(value);
                    count += 1;
                }
            }
        }
        bytes
    }

    /// Whether the text would be longer than this with these set and another's added, of which those
    /// count that are missing then.
    pub(super) fn outgrows(
        &self,
        bytes_max: usize,
        patch: &Map<String, Value>,
        other: &Traits,
    ) -> bool {
        let mut bytes = self.bytes_with(patch);
        // Between the two there is a comma for two brackets less.
        if bytes + other.bytes <= bytes_max {
            return false;
        }
        let is_here = |name: &str| self.members.contains_key(name) || patch.contains_key(name);
        let mut is_empty = self.members.is_empty() && patch.is_empty();
        let mut missing = other.members.iter().filter(|(name, _)| !is_here(name));
        while bytes <= bytes_max
            && let Some((name, value)) = missing.next()
        {
            bytes += usize::from(!is_empty) + text_bytes(name) + 1 + text_bytes(value);
            is_empty = false;
        }
        bytes > bytes_max
    }

    /// Sets these, shallowly.
    pub(super) fn set(&mut self, patch: Map<String, Value>) {
        self.bytes = self.bytes_with(&patch);
        self.members.extend(patch);
    }

    /// Adds another's, of which those that are missing here count.
    pub(super) fn fill_up(&mut self, other: Traits) {
        let mut missing = other.members;
        missing.retain(|name, _| !self.members.contains_key(name));
        self.set(missing);
    }

    /// Adds another's, which count where both have a trait.
    pub(super) fn overwrite(&mut self, other: Traits) {
        self.set(other.members);
    }
}

/// The traits of an identify as they are kept.
pub(super) fn parse_traits(raw: &RawJson) -> Map<String, Value> {
    crate::model::parse_traits(raw.as_str())
}

/// How much text of traits is kept parsed, in bytes; that takes some fifteen times as much.
pub(super) const PARSED_BYTES_MAX: usize = 1 << 20;

/// What people have, each parsed when somebody asks first, and a few of them at a time.
#[derive(Debug, Default)]
pub(super) struct Held {
    people: HashMap<PersonId, Traits>,
    bytes: usize,
}

impl Held {
    /// Whether the person has these traits already.
    pub(super) fn has(&mut self, state: &PersonState, patch: &Map<String, Value>) -> bool {
        if patch.is_empty() {
            return true;
        }
        if !self.people.contains_key(&state.id) {
            if self.bytes + state.traits.len() > PARSED_BYTES_MAX {
                self.people.clear();
                self.bytes = 0;
            }
            self.bytes += state.traits.len();
        }
        let held = || Traits::of(state);
        let traits = self.people.entry(state.id).or_insert_with(held);
        traits.has(patch)
    }
}

/// How long the JSON text of a value is.
fn text_bytes(value: &(impl Serialize + ?Sized)) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX / 4,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn traits(members: &Value) -> Traits {
        let text = members.to_string();
        Traits {
            members: parse_object(&text),
            bytes: text.len(),
        }
    }

    fn object() -> impl Strategy<Value = Value> {
        let value = prop_oneof![
            Just(json!(null)),
            Just(json!({"a": [1, "\u{1f600}\n"]})),
            any::<i64>().prop_map(|number| json!(number)),
            any::<f64>().prop_map(|number| json!(number)),
            any::<String>().prop_map(|text| json!(text)),
        ];
        let members = prop::collection::btree_map("[a-c\"é]{0,2}", value, 0..5);
        members.prop_map(|members| json!(members))
    }

    proptest! {
        /// They are what maps of them are, and as long as their text, whatever is set.
        #[test]
        fn traits_are_as_long_as_their_text(first: bool, held in object(), others in prop::collection::vec(object(), 0..4)) {
            let mut all = traits(&held);
            let mut twin = held.as_object().unwrap().clone();
            for other in others {
                let members = other.as_object().unwrap().clone();
                let joined = |all: &Traits, bytes_max| all.outgrows(bytes_max, &members, &traits(&held));
                let mut union = held.as_object().unwrap().clone();
                union.extend(twin.clone());
                union.extend(members.clone());
                let length = Value::Object(union).to_string().len();
                prop_assert_eq!((joined(&all, length), joined(&all, length - 1)), (false, true));
                prop_assert_eq!(all.has(&members), members.iter().all(|(name, value)| twin.get(name) == Some(value)));
                if first {
                    all.fill_up(traits(&other));
                    let over = std::mem::replace(&mut twin, members);
                    twin.extend(over);
                } else {
                    all.overwrite(traits(&other));
                    twin.extend(members);
                }
                let text = Value::Object(twin.clone()).to_string();
                prop_assert_eq!(all.bytes, text.len());
                prop_assert_eq!(&*all.text(), text);
            }
        }
    }
}
