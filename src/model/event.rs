//! One call of a client, typed: what happened, to whom, when.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Identity, Invalid};

/// Which family of clients wrote the call; it decides how the answer and refusals look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The seed's own clients: snake_case, `user_id`.
    Seed,
    /// Segment and RudderStack clients: camelCase, `userId` and `anonymousId`.
    Segment,
}

/// The kind of a call, as stored beside the event's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum EventKind {
    /// Something a user did.
    Track = 0,
    /// Who a user is.
    Identify = 1,
    /// A page seen.
    Page = 2,
    /// A screen seen.
    Screen = 3,
    /// A group joined.
    Group = 4,
    /// Two identities are one person.
    Alias = 5,
}

impl EventKind {
    /// The number stored in the database.
    pub fn as_i16(self) -> i16 {
        self as i16
    }

    /// The kind a stored number stands for.
    pub fn from_i16(number: i16) -> Option<Self> {
        Some(match number {
            0 => Self::Track,
            1 => Self::Identify,
            2 => Self::Page,
            3 => Self::Screen,
            4 => Self::Group,
            5 => Self::Alias,
            _ => return None,
        })
    }

    /// The word Segment's `type` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }
}

/// An event's name: 1 to 200 characters of any text except `\0`.
///
/// Other control characters are kept: real clients send them, and an odd name is no reason to lose
/// an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventName(String);

/// The longest event name, in characters.
pub const EVENT_NAME_CHARS_MAX: usize = 200;

impl EventName {
    /// Takes the name as it is; callers trim first.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        if name.is_empty() {
            return Err(Invalid("event is required"));
        }
        if name.len() > EVENT_NAME_CHARS_MAX && name.chars().count() > EVENT_NAME_CHARS_MAX {
            return Err(Invalid("event name too long"));
        }
        if memchr::memchr(0, name.as_bytes()).is_some() {
            return Err(Invalid("event must not contain \\u0000"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The client's own id of a call, for idempotency: 1 to 1,024 characters without `\0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(String);

/// The longest message id, in characters.
pub const MESSAGE_ID_CHARS_MAX: usize = 1_024;

impl MessageId {
    /// Takes the id as it is.
    pub fn parse(id: &str) -> Result<Self, Invalid> {
        if id.is_empty() {
            return Err(Invalid("message id must not be empty"));
        }
        if id.len() > MESSAGE_ID_CHARS_MAX && id.chars().count() > MESSAGE_ID_CHARS_MAX {
            return Err(Invalid("message id must be at most 1024 characters"));
        }
        if memchr::memchr(0, id.as_bytes()).is_some() {
            return Err(Invalid("message id must not contain \\u0000"));
        }
        Ok(Self(id.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as it is kept for idempotency.
    pub fn digest(&self) -> Uuid {
        message_digest(&self.0)
    }
}

/// What is kept of a message id: the first 128 bits of its SHA-256. Of ten thousand million ids two
/// are taken for the same with a probability of about 10⁻¹⁹.
pub fn message_digest(id: &str) -> Uuid {
    let mut first = [0_u8; 16];
    first.copy_from_slice(&Sha256::digest(id.as_bytes())[..16]);
    Uuid::from_bytes(first)
}

/// A JSON object as the client wrote it, kept as text so that nothing is lost by parsing it.
///
/// Invariant: the text is one well-formed JSON object that every parser of the engine can read
/// (no lone surrogate escapes, numbers as written, nesting within the configured limit).
#[derive(Debug, Clone)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Wraps text that the decoder has checked to be an object within the limits.
    pub fn from_checked(raw: Box<RawValue>) -> Self {
        Self(raw)
    }

    /// The text as stored.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The object's members, parsed. The nesting was bounded when the text was checked.
    pub fn to_object(&self) -> Map<String, Value> {
        parse_object(self.as_str())
    }

    /// True for the object without members, however it is spaced.
    pub fn is_empty(&self) -> bool {
        let inner = self
            .as_str()
            .trim()
            .trim_start_matches('{')
            .trim_end_matches('}');
        inner.trim().is_empty()
    }
}

/// The members of a JSON object in text whose nesting was bounded before it was kept; empty for
/// anything else.
pub fn parse_object(text: &str) -> Map<String, Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.disable_recursion_limit();
    Map::deserialize(&mut parser).unwrap_or_default()
}

/// The traits of an identify as they are kept, from text whose nesting was bounded: `\0`, which the
/// database's traits cannot hold, becomes U+FFFD. The event itself keeps what was sent.
pub fn parse_traits(text: &str) -> Map<String, Value> {
    let traits = parse_object(text);
    if !text.contains("\\u0000") {
        return traits;
    }
    match without_nul(Value::Object(traits)) {
        Value::Object(traits) => traits,
        _ => Map::new(),
    }
}

fn without_nul(value: Value) -> Value {
    let replaced = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => Value::String(replaced(&text)),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nul).collect()),
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, item)| (replaced(&key), without_nul(item)))
                .collect(),
        ),
        other => other,
    }
}

/// What a call says, by kind.
#[derive(Debug, Clone)]
pub enum Call {
    /// `properties` is `None` when the client sent none (or null).
    Track {
        /// What happened.
        name: EventName,
        /// Its details.
        properties: Option<RawJson>,
    },
    /// Traits are merged shallowly into the person's; null values are kept.
    Identify {
        /// The traits of this call.
        traits: Option<RawJson>,
    },
    /// A page seen; its name, category and properties are in `properties`.
    Page {
        /// Its details.
        properties: Option<RawJson>,
    },
    /// A screen seen; its name, category and properties are in `properties`.
    Screen {
        /// Its details.
        properties: Option<RawJson>,
    },
    /// A group joined; `properties` holds `groupId` and `traits`.
    Group {
        /// Its details.
        properties: Option<RawJson>,
    },
    /// The call's other identity is the same person as `previous`.
    Alias {
        /// The identity to link with the event's own.
        previous: Identity,
    },
}

impl Call {
    /// The kind, as stored.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Track { .. } => EventKind::Track,
            Self::Identify { .. } => EventKind::Identify,
            Self::Page { .. } => EventKind::Page,
            Self::Screen { .. } => EventKind::Screen,
            Self::Group { .. } => EventKind::Group,
            Self::Alias { .. } => EventKind::Alias,
        }
    }

    /// The name that is stored and that triggers compare with: a track's own, else the kind's word.
    pub fn name(&self) -> &str {
        match self {
            Self::Track { name, .. } => name.as_str(),
            other => other.kind().as_str(),
        }
    }

    /// The details as the client wrote them: properties, or the traits of an identify.
    pub fn properties(&self) -> Option<&RawJson> {
        match self {
            Self::Track { properties, .. }
            | Self::Page { properties }
            | Self::Screen { properties }
            | Self::Group { properties } => properties.as_ref(),
            Self::Identify { traits } => traits.as_ref(),
            Self::Alias { .. } => None,
        }
    }
}

/// One call of a client, checked, with its times settled.
///
/// Invariant: at least one of `user` and `anonymous` is present, of the kind its field says.
#[derive(Debug, Clone)]
pub struct Event {
    /// The family of clients that wrote it.
    pub dialect: Dialect,
    /// What it says.
    pub call: Call,
    /// The application's own id, kind `User`.
    pub user: Option<Identity>,
    /// The id a client made up, kind `Anonymous`.
    pub anonymous: Option<Identity>,
    /// The client's id of the call; without one the event is never a duplicate.
    pub message_id: Option<MessageId>,
    /// When it happened, corrected for the client's clock.
    pub timestamp: DateTime<Utc>,
    /// When the engine received it.
    pub received_at: DateTime<Utc>,
    /// Segment's context, if any.
    pub context: Option<RawJson>,
    /// The size of the event as received, in bytes, for admission.
    pub size_bytes: usize,
    /// The rejected event that this is a replay of.
    pub replay_of: Option<i64>,
}

impl Event {
    /// The identity the event is filed under: the user's if known, else the anonymous one.
    pub fn identity(&self) -> Option<&Identity> {
        self.user.as_ref().or(self.anonymous.as_ref())
    }
}
