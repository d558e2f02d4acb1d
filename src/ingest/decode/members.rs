//! The members of JSON objects, split off without parsing what they hold.
//!
//! Works on strict text only (see `lenient`), so values are borrowed as text and never looked into
//! deeper than one level: nothing here recurses. Where a key is repeated, the last one wins, as in
//! every parser the engine uses later.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::RawJson;

/// The most unknown members of one event that are kept.
const OTHER_MEMBERS_MAX: usize = 64;

/// A member of an event or envelope that the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Field {
    UserId,
    SnakeUserId,
    AnonymousId,
    SnakeAnonymousId,
    Kind,
    Event,
    Properties,
    Traits,
    Context,
    Name,
    Category,
    GroupId,
    PreviousId,
    MessageId,
    EventId,
    Timestamp,
    OriginalTimestamp,
    SentAt,
    WriteKey,
    ApiKey,
    Token,
    Integrations,
}

const FIELD_COUNT: usize = Field::Integrations as usize + 1;

impl Field {
    fn named(key: &str) -> Option<Self> {
        Some(match key {
            "userId" => Self::UserId,
            "user_id" => Self::SnakeUserId,
            "anonymousId" => Self::AnonymousId,
            "anonymous_id" => Self::SnakeAnonymousId,
            "type" => Self::Kind,
            "event" => Self::Event,
            "properties" => Self::Properties,
            "traits" => Self::Traits,
            "context" => Self::Context,
            "name" => Self::Name,
            "category" => Self::Category,
            "groupId" | "group_id" => Self::GroupId,
            "previousId" | "previous_id" => Self::PreviousId,
            "messageId" | "message_id" => Self::MessageId,
            "event_id" => Self::EventId,
            "timestamp" => Self::Timestamp,
            "originalTimestamp" | "original_timestamp" => Self::OriginalTimestamp,
            "sentAt" | "sent_at" => Self::SentAt,
            "writeKey" => Self::WriteKey,
            "api_key" => Self::ApiKey,
            "token" => Self::Token,
            "integrations" => Self::Integrations,
            _ => return None,
        })
    }
}

/// The members of one object: the known ones by name, some of the others in order.
#[derive(Debug, Default)]
pub(super) struct Members<'a> {
    known: [Option<&'a RawValue>; FIELD_COUNT],
    pub(super) others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Members<'a> {
    /// Splits an object's text; `None` when it is not an object.
    pub(super) fn split(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// A member's text, also when it is `null`.
    pub(super) fn raw(&self, field: Field) -> Option<&'a RawValue> {
        self.known.get(field as usize).copied().flatten()
    }

    /// A member's text, unless it is absent or `null`.
    pub(super) fn get(&self, field: Field) -> Option<&'a RawValue> {
        self.raw(field).filter(|value| !is_null(value))
    }

    fn set(&mut self, field: Field, value: &'a RawValue) {
        if let Some(slot) = self.known.get_mut(field as usize) {
            *slot = Some(value);
        }
    }

    /// The keys that a body carries, for callers that send no header, in the order in which they are
    /// tried.
    pub(super) fn keys(&self) -> Vec<String> {
        [Field::WriteKey, Field::ApiKey, Field::Token]
            .into_iter()
            .filter_map(|field| self.get(field))
            .filter_map(|value| string(value).filter(|text| !text.is_empty()))
            .map(Cow::into_owned)
            .collect()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(Key(key)) = map.next_key()? {
                    match Field::named(&key) {
                        Some(field) => members.set(field, map.next_value()?),
                        None if members.others.len() < OTHER_MEMBERS_MAX => {
                            members.others.push((key, map.next_value()?));
                        }
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The object around a list of events.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) members: Members<'a>,
    /// The list under the envelope's list key; `None` when it is absent or not an array.
    pub(super) list: Option<List<'a>>,
}

impl<'a> Envelope<'a> {
    /// Splits an envelope's text, keeping at most `items_max` items of its list.
    pub(super) fn split(text: &'a str, list_key: &str, items_max: usize) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let object = EnvelopeObject {
            list_key,
            items_max,
        };
        deserializer.deserialize_map(object).ok()
    }
}

/// The items of a list, each as text.
#[derive(Debug, Default)]
pub(super) struct List<'a> {
    pub(super) items: Vec<&'a RawValue>,
    /// True when there were more items than are kept.
    pub(super) over: bool,
}

struct EnvelopeObject<'k> {
    list_key: &'k str,
    items_max: usize,
}

impl<'de> Visitor<'de> for EnvelopeObject<'_> {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(Key(key)) = map.next_key()? {
            if key == self.list_key {
                envelope.list = map.next_value_seed(ListSeed {
                    items_max: self.items_max,
                })?;
            } else if let Some(field) = Field::named(&key) {
                envelope.members.set(field, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(envelope)
    }
}

struct ListSeed {
    items_max: usize,
}

impl<'de> serde::de::DeserializeSeed<'de> for ListSeed {
    type Value = Option<List<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = Option<List<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = List::default();
        while list.items.len() < self.items_max {
            match seq.next_element()? {
                Some(item) => list.items.push(item),
                None => return Ok(Some(list)),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            list.over = true;
        }
        Ok(Some(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A member's name, borrowed unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// All members of any object, for joining two of them.
#[derive(Debug)]
pub(super) struct AllMembers<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> AllMembers<'a> {
    /// Splits an object's text; `None` when it is not an object.
    pub(super) fn split(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The last member of this name.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for AllMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = AllMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(AllMembers(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The object of `base`'s members and `over`'s, where `over` wins; shallow. `over` is an object's
/// text and is kept as it is; without one the result holds `base` alone.
pub(super) fn union(
    base: &[(Cow<'_, str>, &RawValue)],
    over: Option<&RawValue>,
) -> Option<RawJson> {
    let over = over.filter(|value| is_object(value));
    let taken = over.and_then(|value| AllMembers::split(value.get()));
    let taken: HashSet<&str> = taken
        .iter()
        .flat_map(|members| members.0.iter().map(|(key, _)| key.as_ref()))
        .collect();
    if let Some(value) = over
        && base.iter().all(|(key, _)| taken.contains(key.as_ref()))
    {
        return Some(RawJson::from_checked(value.to_owned()));
    }
    let mut text = String::from("{");
    for (key, value) in base.iter().filter(|(key, _)| !taken.contains(key.as_ref())) {
        push_member(&mut text, key, value.get());
    }
    let inner = over.map_or("", |value| {
        value
            .get()
            .strip_prefix('{')
            .unwrap_or_default()
            .strip_suffix('}')
            .unwrap_or_default()
    });
    if !inner.trim().is_empty() {
        push_comma(&mut text);
        text.push_str(inner);
    }
    text.push('}');
    RawValue::from_string(text).ok().map(RawJson::from_checked)
}

/// Writes `"key":value`, behind a comma unless it is the object's first member.
pub(super) fn push_member(object: &mut String, key: &str, value: &str) {
    push_comma(object);
    object.push_str(&quoted(key));
    object.push(':');
    object.push_str(value);
}

fn push_comma(object: &mut String) {
    if !object.ends_with('{') {
        object.push(',');
    }
}

/// The JSON string of a text.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// True for `null`.
pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// True for an object.
pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The text of a JSON string; `None` for any other value.
pub(super) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(value.get()).ok().map(Cow::Owned)
}
