//! Why an event is refused, and what the ledger keeps of it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::Route;
use super::members::{Field, Members, quoted};
use super::text::{self, Text};
use crate::error::{Code, Error, FieldError};
use crate::model::MESSAGE_ID_CHARS_MAX;

/// Why an event was refused, and the event itself as text.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The stable code.
    pub code: Code,
    /// The reason in words.
    pub message: String,
    /// Each refused field, for the seed's `details`. Never empty.
    pub fields: Vec<FieldError>,
    /// The event as received, made valid JSON text where it was not.
    ///
    /// An event that is over the size or nesting limit is a JSON string of its text, cut at the
    /// body limit.
    pub payload: String,
    /// The client's id of the call, if one could be read; shortened and without `\0` when the id
    /// itself is what is wrong.
    pub message_id: Option<String>,
    /// How the event came, for a replay.
    pub origin: Origin,
}

/// How a rejected event came, so that a replay decodes it as it was decoded first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The route; an event that was refused after it was decoded is kept as an element of a batch.
    pub route: Route,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// When it happened, settled with what its request said of its clock.
    pub timestamp: DateTime<Utc>,
    /// The context of the batch around it.
    pub context: Option<Arc<str>>,
    /// True when the payload was cut, so that it cannot be replayed.
    pub is_cut: bool,
    /// The rejected event that this one was a replay of.
    pub replay_of: Option<i64>,
}

impl Rejection {
    /// The rejection as the answer to a request that held only this event.
    pub fn into_error(self) -> Error {
        if self.code == Code::EventTooLarge {
            return Error::TooLarge {
                code: self.code,
                message: self.message,
            };
        }
        Error::Validation {
            code: self.code,
            fields: self.fields,
        }
    }
}

/// Why one event is refused, before its payload is known.
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) fields: Vec<FieldError>,
}

impl Refusal {
    pub(super) fn one(
        code: Code,
        path: &str,
        value: Option<&RawValue>,
        message: impl Into<String>,
    ) -> Self {
        let value = text::shown(value);
        Self {
            code,
            fields: vec![FieldError::body(path, value.as_ref(), message)],
        }
    }

    pub(super) fn field(path: &str, value: Option<&RawValue>, message: impl Into<String>) -> Self {
        Self::one(Code::InvalidField, path, value, message)
    }

    pub(super) fn into_rejection(
        self,
        payload: String,
        members: &Members<'_>,
        origin: Origin,
    ) -> Rejection {
        let message = self.fields.first().map(|field| field.msg.clone());
        Rejection {
            code: self.code,
            message: message.unwrap_or_default(),
            fields: self.fields,
            payload,
            message_id: rejected_message_id(members),
            origin,
        }
    }
}

fn rejected_message_id(members: &Members<'_>) -> Option<String> {
    let ids = [Field::MessageId, Field::EventId];
    ids.into_iter().find_map(|field| {
        let Text::Is(id) = Text::of(members.raw(field)) else {
            return None;
        };
        if id.trim().is_empty() {
            return None;
        }
        let kept = id.chars().take(MESSAGE_ID_CHARS_MAX);
        Some(
            kept.map(|c| if c == '\0' { '\u{fffd}' } else { c })
                .collect(),
        )
    })
}

/// The JSON string of as much of a text as stays within the limit when written, and whether that
/// is less than all of it.
pub(super) fn quoted_within(text: &str, bytes_max: usize) -> (String, bool) {
    let mut room = bytes_max.saturating_sub(2);
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        let written = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => 6,
            c => c.len_utf8(),
        };
        if written > room {
            end = at;
            break;
        }
        room -= written;
    }
    let kept = text.get(..end).unwrap_or_default();
    (quoted(kept), end < text.len())
}
