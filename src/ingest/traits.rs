//! A person's traits while the events of a batch set them: taken apart once, and measured as they
//! grow, so that an event costs what it sets and not what the person has.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::{fmt, io, iter};

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::ser::{Formatter, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::model::{Call, PersonId, RawJson, parse_traits};
use crate::targeting::PersonState;

/// Traits, and how long they are as JSON text.
///
/// They stay text, with a note of where each of them stands: a tree of them would take some fifteen
/// times as much memory, too much for all people of a batch at once, and to read people again and
/// again would take too long.
#[derive(Debug, Clone)]
pub(super) struct Traits {
    text: Arc<str>,
    /// Sorted by name.
    places: Vec<Place>,
    /// What was set since, as JSON texts by name. It counts where the text has another value.
    set: BTreeMap<String, Box<str>>,
    count: usize,
    bytes: usize,
}

/// Where a trait's name and its value stand in the text.
#[derive(Debug, Clone, Copy)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

impl Default for Traits {
    fn default() -> Self {
        Self::read(Arc::from("{}"))
    }
}

impl Traits {
    /// Those of a person.
    pub(super) fn of(state: &PersonState) -> Self {
        Self::read(Arc::clone(&state.traits))
    }

    fn read(text: Arc<str>) -> Self {
        let mut parser = serde_json::Deserializer::from_str(&text);
        let places = parser.deserialize_map(Places(&text)).unwrap_or_default();
        let mut traits = Self {
            count: places.len(),
            bytes: "{}".len(),
            set: BTreeMap::new(),
            places: Vec::new(),
            text,
        };
        let bytes = |place: &Place| {
            let name = text_bytes(&*traits.name(place));
            name + ":,".len() + traits.part(place.value).len()
        };
        let bytes: usize = places.iter().map(bytes).sum();
        traits.bytes += bytes.saturating_sub(",".len());
        let mut places = places;
        places.sort_by(|one, other| traits.name(one).cmp(&traits.name(other)));
        traits.places = places;
        traits
    }

    fn part(&self, (from, to): (u32, u32)) -> &str {
        self.text
            .get(from as usize..to as usize)
            .unwrap_or_default()
    }

    fn name(&self, place: &Place) -> Cow<'_, str> {
        let quoted = self.part(place.name);
        if quoted.contains('\\') {
            return Cow::Owned(serde_json::from_str(quoted).unwrap_or_default());
        }
        let inner = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        Cow::Borrowed(inner.unwrap_or_default())
    }

    /// The JSON text of one.
    fn get(&self, name: &str) -> Option<&str> {
        if let Some(value) = self.set.get(name) {
            return Some(value);
        }
        let by_name = |place: &Place| (*self.name(place)).cmp(name);
        let place = self.places.binary_search_by(by_name).ok()?;
        self.places.get(place).map(|place| self.part(place.value))
    }

    /// All of them, sorted by name, with their JSON texts.
    fn members(&self) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
        let mut old = self.places.iter().peekable();
        let mut new = self.set.iter().peekable();
        iter::from_fn(move || {
            let order = match (old.peek(), new.peek()) {
                (Some(place), Some((name, _))) => (*self.name(place)).cmp(name.as_str()),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            if order.is_le() {
                let place = old.next()?;
                if order.is_lt() {
                    return Some((self.name(place), self.part(place.value)));
                }
            }
            let (name, value) = new.next()?;
            Some((Cow::Borrowed(name.as_str()), &**value))
        })
    }

    /// The text of a JSON object.
    pub(super) fn text(&self) -> Arc<str> {
        let mut text = String::with_capacity(self.bytes);
        text.push('{');
        for (name, value) in self.members() {
            if text.len() > "{".len() {
                text.push(',');
            }
            text.push_str(&json_text(&*name));
            text.push(':');
            text.push_str(value);
        }
        text.push('}');
        Arc::from(text)
    }

    /// Whether these are among them, so that setting them changes nothing.
    pub(super) fn has(&self, patch: &Map<String, Value>) -> bool {
        let mut patch = patch.iter();
        patch.all(|(name, value)| self.get(name).is_some_and(|held| says(held, value)))
    }

    /// How long the text would be with these set.
    pub(super) fn bytes_with(&self, patch: &Map<String, Value>) -> usize {
        let (mut bytes, mut count) = (self.bytes, self.count);
        for (name, value) in patch {
            match self.get(name) {
                Some(held) => bytes = bytes + text_bytes(value) - held.len(),
                None => {
                    bytes += usize::from(count > 0) + text_bytes(name) + 1 + text_bytes(value);
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
        // Both are sorted, so that neither is searched for each name of the other.
        let mut held = self.members().peekable();
        let mut is_empty = self.count == 0 && patch.is_empty();
        for (name, value) in other.members() {
            if bytes > bytes_max {
                break;
            }
            while held.next_if(|(before, _)| *before < name).is_some() {}
            let is_held = held.peek().is_some_and(|(it, _)| *it == name);
            if !is_held && !patch.contains_key(&*name) {
                bytes += usize::from(!is_empty) + text_bytes(&*name) + 1 + value.len();
                is_empty = false;
            }
        }
        bytes > bytes_max
    }

    /// Sets these, shallowly.
    pub(super) fn set(&mut self, patch: Map<String, Value>) {
        for (name, value) in patch {
            self.put(name, json_text(&value).into());
        }
    }

    fn put(&mut self, name: String, value: Box<str>) {
        match self.get(&name).map(str::len) {
            Some(held) => self.bytes = self.bytes + value.len() - held,
            None => {
                self.bytes += usize::from(self.count > 0) + text_bytes(&name) + 1 + value.len();
                self.count += 1;
            }
        }
        self.set.insert(name, value);
    }

    /// Adds another's, of which those that are missing here count.
    pub(super) fn fill_up(&mut self, other: Traits) {
        self.join(other, false);
    }

    /// Adds another's, which count where both have a trait.
    pub(super) fn overwrite(&mut self, other: Traits) {
        self.join(other, true);
    }

    /// The fewer are added to the more, so that a row of merges does not move all of them each time.
    fn join(&mut self, other: Traits, other_counts: bool) {
        let (mut other, mut other_counts) = (other, other_counts);
        if other.count > self.count {
            std::mem::swap(self, &mut other);
            other_counts = !other_counts;
        }
        for (name, value) in other.members() {
            if other_counts || self.get(&name).is_none() {
                self.put(name.into_owned(), value.into());
            }
        }
    }
}

/// Finds the places of the members of an object in its text, which it borrows from.
struct Places<'a>(&'a str);

impl Places<'_> {
    fn place<E: Error>(&self, part: &RawValue) -> Result<(u32, u32), E> {
        let from = part.get().as_ptr().addr() - self.0.as_ptr().addr();
        let to = from + part.get().len();
        let number = |at: usize| u32::try_from(at).map_err(E::custom);
        Ok((number(from)?, number(to)?))
    }
}

impl<'a> Visitor<'a> for Places<'a> {
    type Value = Vec<Place>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut places = Vec::new();
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            places.push(Place {
                name: self.place(name)?,
                value: self.place(value)?,
            });
        }
        places.shrink_to_fit();
        Ok(places)
    }
}

/// Whether a JSON text says this value.
fn says(text: &str, value: &Value) -> bool {
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.disable_recursion_limit();
    Value::deserialize(&mut parser).is_ok_and(|held| held == *value)
}

/// The traits that a call sets.
pub(super) fn set_by(call: &Call) -> Option<&RawJson> {
    match call {
        Call::Identify { traits } => traits.as_ref(),
        _ => None,
    }
}

/// How large the states are that one transaction compares with calls, in bytes. To read them takes about
/// a hundred milliseconds.
const COMPARED_BYTES_MAX: usize = 16 << 20;

/// The people whom these calls set traits of, each once, with the state if it is known and has all of
/// them already. One person is read after the other, in whatever order the calls came, so that it
/// takes neither the time of reading a person for each call nor the memory for all of them. An error
/// says how many were read of those who are too much to read.
pub(super) fn compare<'a>(
    calls: &'a mut [(PersonId, &RawJson)],
    state: impl Fn(PersonId) -> Option<Arc<PersonState>> + 'a,
) -> impl Iterator<Item = Result<(PersonId, Option<Arc<PersonState>>), usize>> + 'a {
    calls.sort_by_key(|(person, _)| *person);
    let by_person = calls.chunk_by(|one, other| one.0 == other.0);
    let (mut people, mut bytes) = (0, 0);
    by_person.filter_map(move |of_one| {
        let (person, _) = *of_one.first()?;
        let Some(state) = state(person) else {
            return Some(Ok((person, None)));
        };
        people += 1;
        bytes += state.traits.len();
        if bytes > COMPARED_BYTES_MAX && people > 1 {
            return Some(Err(people));
        }
        let unchanged = has_all(&state, of_one).then_some(state);
        Some(Ok((person, unchanged)))
    })
}

fn has_all(state: &PersonState, calls: &[(PersonId, &RawJson)]) -> bool {
    let held = LazyCell::new(|| Traits::of(state));
    calls.iter().all(|(_, traits)| {
        let patch = parse_traits(traits.as_str());
        patch.is_empty() || held.has(&patch)
    })
}

/// Writes numbers with all their digits, as the database gives them back: `1e308` has 309, and what
/// somebody has could otherwise be fifty times what was measured.
struct AllDigits;

impl Formatter for AllDigits {
    fn write_f64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match value.fract() == 0.0 {
            true => write!(writer, "{value:.1}"),
            false => write!(writer, "{value}"),
        }
    }
}

/// The JSON text of a value, as it is stored.
fn json_text(value: &(impl Serialize + ?Sized)) -> String {
    let mut text = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut text, AllDigits));
    let text = written.ok().and_then(|()| String::from_utf8(text).ok());
    text.unwrap_or_else(|| "null".to_owned())
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
    match value.serialize(&mut Serializer::with_formatter(&mut count, AllDigits)) {
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
        Traits::read(Arc::from(json_text(members)))
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

    /// As the database writes an object: with spaces, and sorted in another way.
    #[test]
    fn values_stay_as_they_are_written() {
        let mut held = Traits::read(Arc::from(
            r#"{"b": [1, 2.50], "a\"": {"x": "\u0001"}, "c": 1}"#,
        ));
        assert!(
            held.has(
                json!({"b": [1, 2.5], "a\"": {"x": "\u{1}"}})
                    .as_object()
                    .unwrap()
            )
        );
        assert!(!held.has(json!({"b": [1, 2.5], "d": null}).as_object().unwrap()));
        held.set(json!({"c": 2}).as_object().unwrap().clone());
        let text = r#"{"a\"":{"x": "\u0001"},"b":[1, 2.50],"c":2}"#;
        assert_eq!((&*held.text(), held.bytes), (text, text.len()));
    }

    /// The database has these lengths of numbers when it writes them.
    #[test]
    fn numbers_are_as_long_as_all_their_digits() {
        let lengths = [
            (1e308, 311),
            (-5e-324, 327),
            (1e16, 19),
            (2.5, 3),
            (-0.0, 4),
        ];
        for (number, length) in lengths {
            let text = json_text(&number);
            assert_eq!(
                (text.len(), text_bytes(&number)),
                (length, length),
                "{text}"
            );
            assert_eq!(serde_json::from_str::<f64>(&text).unwrap(), number);
        }
    }

    #[test]
    fn no_more_is_compared_than_there_is_time_for() {
        let large = Arc::from(format!(r#"{{"a":"{}"}}"#, "x".repeat(1 << 20)));
        let state = |id| PersonState {
            id,
            home: 0,
            user_id: None,
            traits: Arc::clone(&large),
            created_at: chrono::DateTime::UNIX_EPOCH,
            last_seen: chrono::DateTime::UNIX_EPOCH.into(),
        };
        let raw =
            |text: &str| RawJson::from_checked(RawValue::from_string(text.to_owned()).unwrap());
        let traits = raw(r#"{"b":1}"#);
        let compared = |people: i64, known: i64| {
            let mut calls: Vec<_> = (0..people).map(|id| (PersonId(id), &traits)).collect();
            let state = |id: PersonId| (id.0 < known).then(|| Arc::new(state(id)));
            compare(&mut calls, state).collect::<Result<Vec<_>, usize>>()
        };
        assert_eq!(compared(15, 15).unwrap().len(), 15);
        assert_eq!(compared(20, 20).unwrap_err(), 16);
        // Whoever is not known is locked and read elsewhere.
        assert_eq!(compared(20, 15).unwrap().len(), 20);
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
                let length = json_text(&union).len();
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
                let text = json_text(&twin);
                prop_assert_eq!(all.bytes, text.len());
                prop_assert_eq!(&*all.text(), text);
            }
        }
    }
}
