//! Rejected events, decoded again.
//!
//! A payload goes through the same rules as when it was received, under the limits of today. What
//! came with its request is kept beside it: the batch's context and the time it was settled at. An
//! event that was refused after it was decoded is written as an element of a batch, its details
//! and context byte for byte. A context in which that element would find traits is kept as the
//! batch's, whose traits are nobody's: which ones are set was settled when it was decoded, and not
//! every identify takes those of its context.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::members::{Field, Members, push_member, quoted, string};
use super::segment::traits_within;
use super::{DecodeLimits, Item, Origin, Rejection, Request, Route, lenient, single_dialect};
use crate::error::{Code, Error, FieldError};
use crate::model::{Call, Event, EventKind, RawJson};

/// A rejected event as the ledger keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The route it came by.
    pub route: Route,
    /// Why it was rejected: what was too large or too deep is kept as a JSON string of its text.
    pub code: &'a str,
    /// The event.
    pub payload: &'a str,
    /// The context of the batch around it.
    pub context: Option<&'a str>,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// When it happened, as it was settled then.
    pub timestamp: Option<DateTime<Utc>>,
}

/// Decodes a rejected event again. It keeps its own times.
///
/// Fails with [`Error::MalformedJson`] when the payload is none, and as [`super::decode`] does for
/// the context of a batch.
pub fn replay(kept: &Kept<'_>, limits: &DecodeLimits) -> Result<Item, Error> {
    let is_text = [Code::EventTooLarge, Code::TooDeep]
        .iter()
        .any(|code| code.as_str() == kept.code);
    let text: Cow<'_, str> = if is_text {
        let value = serde_json::from_str::<&RawValue>(kept.payload).ok();
        let text = value.and_then(string).ok_or(Error::MalformedJson)?;
        Cow::Owned(text.into_owned())
    } else {
        Cow::Borrowed(kept.payload)
    };
    let strict = lenient::strict(&text).map_err(|_| Error::MalformedJson)?;
    let text = strict.text.as_ref();
    let context: Option<&RawValue> = kept
        .context
        .map(serde_json::from_str)
        .transpose()
        .map_err(|_| Error::MalformedJson)?;
    let context_depth = kept.context.map_or(0, lenient::depth);
    let mut request = Request {
        route: kept.route,
        now: kept.received_at,
        limits,
        sent_at: None,
        context: None,
        context_text: None,
        deep: strict.depth > limits.nesting_max || context_depth >= limits.nesting_max,
    };
    request.share_context(context, 1)?;
    let mut item = match kept.route {
        Route::Batch => request.batched(text),
        Route::Leads => {
            let lead = serde_json::from_str(text).map_err(|_| Error::MalformedJson)?;
            request.lead(lead)
        }
        single => {
            let kind = single.kind().unwrap_or(EventKind::Track);
            let members = Members::split(text).unwrap_or_default();
            let dialect = single_dialect(kind, &members);
            request.item(Some(kind), dialect, text, &members)
        }
    };
    if let (Item::Event(event), Some(timestamp)) = (&mut item, kept.timestamp) {
        event.timestamp = timestamp;
    }
    Ok(item)
}

impl Rejection {
    /// The rejection of an event that was decoded, and refused by what is known of its people or
    /// by the database.
    pub fn of_event(event: &Event, code: Code, message: String) -> Self {
        let context = event.context.as_ref().map(RawJson::as_str);
        let is_identify = matches!(event.call, Call::Identify { .. });
        let has_traits = is_identify && context.and_then(traits_within).is_some();
        let (shared, own) = match has_traits {
            true => (context, None),
            false => (None, context),
        };
        Self {
            code,
            // For what it would do, not for a member.
            fields: vec![FieldError::body("", None, message.clone())],
            message,
            payload: written(event, own),
            message_id: event.message_id.as_ref().map(|id| id.as_str().to_owned()),
            origin: Origin {
                route: Route::Batch,
                received_at: event.received_at,
                timestamp: event.timestamp,
                context: shared.map(Arc::from),
                is_cut: false,
                replay_of: event.replay_of,
            },
        }
    }
}

/// An event as an element of a batch, with a context of its own or not; decoded, it is the same
/// event.
fn written(event: &Event, context: Option<&str>) -> String {
    let mut text = String::from("{");
    let kind = event.call.kind().as_str();
    push_member(&mut text, "type", &quoted(kind));
    let ids = [
        ("userId", event.user.as_ref().map(|id| id.value())),
        ("anonymousId", event.anonymous.as_ref().map(|id| id.value())),
        ("messageId", event.message_id.as_ref().map(|id| id.as_str())),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            push_member(&mut text, key, &quoted(id));
        }
    }
    push_member(
        &mut text,
        "timestamp",
        &quoted(&event.timestamp.to_rfc3339()),
    );
    let mut details = |key: &str, details: &Option<RawJson>| {
        if let Some(details) = details {
            push_member(&mut text, key, details.as_str());
        }
    };
    match &event.call {
        Call::Track { name, properties } => {
            details("properties", properties);
            push_member(&mut text, "event", &quoted(name.as_str()));
        }
        Call::Identify { traits } => details("traits", traits),
        Call::Page { properties } | Call::Screen { properties } => {
            details("properties", properties);
        }
        Call::Group { properties } => {
            let members = properties.as_ref().map(RawJson::as_str);
            let members = members.and_then(Members::split).unwrap_or_default();
            for (key, field) in [("groupId", Field::GroupId), ("traits", Field::Traits)] {
                if let Some(value) = members.raw(field) {
                    push_member(&mut text, key, value.get());
                }
            }
        }
        Call::Alias { previous } => {
            push_member(&mut text, "previousId", &quoted(previous.value()));
        }
    }
    if let Some(context) = context {
        push_member(&mut text, "context", context);
    }
    text.push('}');
    text
}
