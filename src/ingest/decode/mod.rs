//! From the bytes of a request to typed events.
//!
//! Pure over bytes: it knows no HTTP types, no database and no clock (the time is an argument).
//! The journey of a body:
//!
//! 1. [`Encodings`] are undone, capped.
//! 2. Invalid UTF-8 becomes U+FFFD, a byte order mark is dropped, and one iterative pass checks the
//!    text and makes it strict where real serializers are not (see `lenient`).
//! 3. The envelope is split into events, each a slice of the text. Each is decoded alone, so an
//!    odd one costs only itself: it becomes a [`Rejection`] and its neighbours live.
//! 4. The dialect's rules (`seed`, `segment`, `leads`) turn members into an
//!    [`Event`]. Properties, traits and context stay text.
//!
//! Decisions worth knowing:
//! - A list with more events than the limit is refused whole with `batch_too_large`: nothing of it
//!   is stored, so a client that halves it and sends it again loses nothing, and no client can
//!   fill the ledger with one body of a million empty events.
//! - An event over the size or nesting limit is rejected alone. Its payload, which is not safe to
//!   store as JSON, is kept as a JSON string of its text, cut at the body limit.
//! - Sizes are those of the event's strict text, which differs from the bytes received only where
//!   the text had to be changed.
//! - An envelope's `context` is copied into each event of the batch; when the copies together
//!   would outgrow the body limit the batch is refused with `body_too_large`.
//! - `integrations` name destinations of the client's vendor; the engine has none and drops them.

mod encoding;
mod leads;
mod lenient;
mod members;
mod rejection;
mod replay;
mod seed;
mod segment;
mod text;
mod time;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use crate::error::{Code, Error, FieldError};
use crate::model::{Dialect, Event, EventKind, MESSAGE_ID_CHARS_MAX, MessageId};

pub use encoding::Encodings;
use members::{AllMembers, Envelope, Field, List, Members};
pub use rejection::{Origin, Rejection};
use rejection::{Refusal, quoted_within};
pub use replay::{Kept, replay};
use text::Text;
use time::{Stamp, Stamps};

/// One element of a request, decoded on its own so that an odd one costs only itself.
#[derive(Debug, Clone)]
pub enum Item {
    /// A good event.
    Event(Box<Event>),
    /// An event that can never become valid, with what the ledger keeps of it.
    Rejected(Rejection),
}

/// The bounds of decoding. Each admits what real clients send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The largest event, in bytes of its JSON text. Default 1 MiB.
    pub event_bytes_max: usize,
    /// The largest body, in bytes, as received and decompressed. Default 8 MiB.
    pub body_bytes_max: usize,
    /// The most events in a batch, or leads in a list. Default 2,500.
    pub batch_events_max: usize,
    /// The deepest nesting of an event, the event itself being 1. Default 256.
    pub nesting_max: usize,
    /// The longest message id, in characters; at most what [`MessageId`] holds. Default 1,024.
    pub message_id_chars_max: usize,
}

impl DecodeLimits {
    /// A message id within the limit, or why it is none.
    fn message_id(&self, text: &str) -> Result<MessageId, &'static str> {
        let id = MessageId::parse(text).map_err(|invalid| invalid.0)?;
        if text.len() > self.message_id_chars_max
            && text.chars().count() > self.message_id_chars_max
        {
            return Err("message id is longer than the limit");
        }
        Ok(id)
    }
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            event_bytes_max: 1024 * 1024,
            body_bytes_max: 8 * 1024 * 1024,
            batch_events_max: 2_500,
            nesting_max: 256,
            message_id_chars_max: MESSAGE_ID_CHARS_MAX,
        }
    }
}

/// What the route says of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// One track, in either dialect.
    Track,
    /// One identify, in either dialect.
    Identify,
    /// One page call.
    Page,
    /// One screen call.
    Screen,
    /// One group call.
    Group,
    /// One alias call.
    Alias,
    /// An envelope with `batch`.
    Batch,
    /// The seed's `{leads: […]}`.
    Leads,
}

impl Route {
    /// Every route whose events can be rejected.
    const REJECTING: [Self; 8] = [
        Self::Track,
        Self::Identify,
        Self::Page,
        Self::Screen,
        Self::Group,
        Self::Alias,
        Self::Batch,
        Self::Leads,
    ];

    /// The word that the ledger keeps.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
            Self::Batch => "batch",
            Self::Leads => "leads",
        }
    }

    /// The route that a word of the ledger stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::REJECTING
            .into_iter()
            .find(|route| route.as_str() == word)
    }

    /// The kind of the one event of a body; `None` for lists.
    fn kind(self) -> Option<EventKind> {
        Some(match self {
            Self::Track => EventKind::Track,
            Self::Identify => EventKind::Identify,
            Self::Page => EventKind::Page,
            Self::Screen => EventKind::Screen,
            Self::Group => EventKind::Group,
            Self::Alias => EventKind::Alias,
            Self::Batch | Self::Leads => return None,
        })
    }
}

/// What stands outside the body and fills in for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults<'a> {
    /// The `SentAt` header, which RudderStack's browser SDK sends in place of the member.
    pub sent_at: Option<&'a str>,
}

/// A decoded request.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The events in the request's order; exactly one unless `is_batch`.
    pub items: Vec<Item>,
    /// How many events the body holds, counted before they are read.
    pub received: usize,
    /// `writeKey`, `api_key` and `token` of the body, as many as there are: the keys of last resort.
    pub body_keys: Vec<String>,
    /// True for the routes that answer with a list.
    pub is_batch: bool,
    /// How a single event was read, also a rejected one; a batch is Segment's and its events say
    /// for themselves.
    pub dialect: Dialect,
}

/// Decodes a decompressed body.
///
/// Fails with [`Error::MalformedJson`] when the body is no JSON object or array, with
/// [`Error::Validation`] when the envelope lacks its list, with [`Error::TooLarge`] when the list
/// is too long. What is wrong with one event is an [`Item::Rejected`].
pub fn decode(
    route: Route,
    body: &[u8],
    now: DateTime<Utc>,
    limits: &DecodeLimits,
    defaults: Defaults<'_>,
) -> Result<Decoded, Error> {
    let text = text_of(body);
    let strict = lenient::strict(&text).map_err(|_| Error::MalformedJson)?;
    let text = strict.text.trim_matches([' ', '\t', '\n', '\r']);
    if !text.starts_with(['{', '[']) {
        return Err(Error::MalformedJson);
    }
    let request = Request {
        route,
        now,
        limits,
        sent_at: defaults.sent_at.and_then(Stamp::parse),
        context: None,
        context_text: None,
        deep: strict.depth > limits.nesting_max,
    };
    let kind = match route {
        Route::Batch => return request.batch(text),
        Route::Leads => return request.leads(text),
        _ => route.kind().unwrap_or(EventKind::Track),
    };
    let members = Members::split(text).unwrap_or_default();
    let dialect = single_dialect(kind, &members);
    Ok(Decoded {
        items: vec![request.item(Some(kind), dialect, text, &members)],
        received: 1,
        body_keys: members.keys(),
        is_batch: false,
        dialect,
    })
}

/// Reads only the keys that a body carries, for callers that authenticate before they decode.
pub fn body_keys(body: &[u8]) -> Vec<String> {
    let text = text_of(body);
    let strict = lenient::strict(&text).ok();
    let envelope = strict
        .as_ref()
        .and_then(|strict| Envelope::split(&strict.text, "", 0));
    envelope.map_or_else(Vec::new, |envelope| envelope.members.keys())
}

/// A body as JSON that every parser reads, mended as [`decode`] mends it: for callers that take what
/// applications send but do not ingest it. Fails with [`Error::MalformedJson`].
pub fn mended(body: &[u8]) -> Result<String, Error> {
    let text = text_of(body);
    let strict = lenient::strict(&text).map_err(|_| Error::MalformedJson)?;
    Ok(strict.text.into_owned())
}

/// A body as text. The seed's body parser read an empty body as an empty object.
fn text_of(body: &[u8]) -> Cow<'_, str> {
    match body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body) {
        [] => Cow::Borrowed("{}"),
        bytes => String::from_utf8_lossy(bytes),
    }
}

/// A body on the shared routes is the seed's when it names its user the seed's way, and when it
/// names nobody at all: then the seed's clients understand the refusal.
fn single_dialect(kind: EventKind, members: &Members<'_>) -> Dialect {
    let shared = matches!(kind, EventKind::Track | EventKind::Identify);
    let camel = members.raw(Field::UserId).is_some() || members.raw(Field::AnonymousId).is_some();
    if shared && (members.raw(Field::SnakeUserId).is_some() || !camel) {
        Dialect::Seed
    } else {
        Dialect::Segment
    }
}

/// What all events of one request share.
struct Request<'a> {
    route: Route,
    now: DateTime<Utc>,
    limits: &'a DecodeLimits,
    /// When the request was sent, for events that do not say themselves.
    sent_at: Option<Stamp>,
    /// The envelope's context.
    context: Option<AllMembers<'a>>,
    /// The same as text, for rejections.
    context_text: Option<Arc<str>>,
    /// True when some part of the body is nested deeper than one event may be.
    deep: bool,
}

impl<'a> Request<'a> {
    fn batch(mut self, text: &'a str) -> Result<Decoded, Error> {
        let (envelope, list) = self.envelope(text, "batch")?;
        if let Some(sent) = envelope.get(Field::SentAt).and_then(Stamp::read) {
            self.sent_at = Some(sent);
        }
        self.share_context(envelope.get(Field::Context), list.items.len())?;
        let items = list.items.iter().map(|raw| self.batched(raw.get()));
        Ok(Decoded {
            items: items.collect(),
            received: list.items.len(),
            body_keys: envelope.keys(),
            is_batch: true,
            dialect: Dialect::Segment,
        })
    }

    fn leads(self, text: &'a str) -> Result<Decoded, Error> {
        let (envelope, list) = self.envelope(text, "leads")?;
        let items = list.items.iter().map(|raw| self.lead(raw));
        Ok(Decoded {
            items: items.collect(),
            received: list.items.len(),
            body_keys: envelope.keys(),
            is_batch: true,
            dialect: Dialect::Seed,
        })
    }

    fn lead(&self, raw: &RawValue) -> Item {
        let members = Members::split(raw.get()).unwrap_or_default();
        self.bounded(raw.get(), &members)
            .unwrap_or_else(|| leads::item(self, raw))
    }

    fn envelope(&self, text: &'a str, list_key: &str) -> Result<(Members<'a>, List<'a>), Error> {
        let envelope =
            Envelope::split(text, list_key, self.limits.batch_events_max).unwrap_or_default();
        let Some(list) = envelope.list else {
            let message = format!("{list_key} must be an array");
            return Err(Error::field(FieldError::body(list_key, None, message)));
        };
        if list.over {
            return Err(Error::TooLarge {
                code: Code::BatchTooLarge,
                message: format!(
                    "The list holds more than {} events",
                    self.limits.batch_events_max
                ),
            });
        }
        Ok((envelope.members, list))
    }

    fn share_context(&mut self, context: Option<&'a RawValue>, events: usize) -> Result<(), Error> {
        let Some(context) = context.filter(|value| members::is_object(value)) else {
            return Ok(());
        };
        let text = context.get();
        if self.deep && lenient::depth(text) >= self.limits.nesting_max {
            return Err(Error::Validation {
                code: Code::TooDeep,
                fields: vec![FieldError::body("context", None, self.too_deep())],
            });
        }
        if text.len().saturating_mul(events) > self.limits.body_bytes_max {
            return Err(Error::TooLarge {
                code: Code::BodyTooLarge,
                message: format!(
                    "The batch's context, copied into each event, is larger than {} bytes",
                    self.limits.body_bytes_max
                ),
            });
        }
        self.context = AllMembers::split(text).filter(|members| !members.0.is_empty());
        self.context_text = self.context.is_some().then(|| Arc::from(text));
        Ok(())
    }

    /// One element of a batch, whose `type` says what it is.
    fn batched(&self, text: &str) -> Item {
        let members = Members::split(text).unwrap_or_default();
        let kind = match Text::of(members.raw(Field::Kind)) {
            Text::Is(word) => EVENT_KINDS
                .into_iter()
                .find(|kind| kind.as_str().eq_ignore_ascii_case(word.trim())),
            Text::Absent if members.get(Field::Event).is_some() => Some(EventKind::Track),
            Text::Absent | Text::Odd => None,
        };
        let seed = members.raw(Field::SnakeUserId).is_some()
            && members.raw(Field::UserId).is_none()
            && members.raw(Field::AnonymousId).is_none()
            && matches!(kind, Some(EventKind::Track | EventKind::Identify));
        let dialect = if seed {
            Dialect::Seed
        } else {
            Dialect::Segment
        };
        self.item(kind, dialect, text, &members)
    }

    fn item(
        &self,
        kind: Option<EventKind>,
        dialect: Dialect,
        text: &str,
        members: &Members<'_>,
    ) -> Item {
        if let Some(rejected) = self.bounded(text, members) {
            return rejected;
        }
        let decoded = match (dialect, kind) {
            (Dialect::Seed, Some(EventKind::Identify)) => seed::identify(self, text, members),
            (Dialect::Seed, Some(EventKind::Track)) => seed::track(self, text, members),
            _ if !text.starts_with('{') => Err(Refusal::field("", None, "event must be an object")),
            (_, Some(kind)) => segment::event(self, kind, text, members),
            (_, None) => Err(Refusal::one(
                Code::UnknownType,
                "type",
                members.raw(Field::Kind),
                "type must be one of track, identify, page, screen, group, alias",
            )),
        };
        match decoded {
            Ok(event) => Item::Event(Box::new(event)),
            Err(refusal) => Item::Rejected(refusal.into_rejection(
                text.to_owned(),
                members,
                self.origin(members),
            )),
        }
    }

    /// The rejection of an event that is over the size or nesting limit.
    fn bounded(&self, text: &str, members: &Members<'_>) -> Option<Item> {
        let refusal = if self.size_with_context(text) > self.limits.event_bytes_max {
            let message = format!(
                "The event, with its batch's context, is larger than {} bytes",
                self.limits.event_bytes_max
            );
            Refusal::one(Code::EventTooLarge, "", None, message)
        } else if self.deep && lenient::depth(text) > self.limits.nesting_max {
            Refusal::one(Code::TooDeep, "", None, self.too_deep())
        } else {
            return None;
        };
        let (payload, is_cut) = quoted_within(text, self.limits.body_bytes_max);
        let origin = Origin {
            is_cut,
            ..self.origin(members)
        };
        Some(Item::Rejected(
            refusal.into_rejection(payload, members, origin),
        ))
    }

    /// The bytes of an event as it is kept: each has a copy of its batch's context.
    fn size_with_context(&self, text: &str) -> usize {
        text.len() + self.context_text.as_ref().map_or(0, |shared| shared.len())
    }

    fn origin(&self, members: &Members<'_>) -> Origin {
        Origin {
            route: self.route,
            received_at: self.now,
            timestamp: self.timestamp(members),
            context: self.context_text.clone(),
            is_cut: false,
            replay_of: None,
        }
    }

    fn too_deep(&self) -> String {
        format!(
            "The JSON is nested deeper than {} levels",
            self.limits.nesting_max
        )
    }

    /// When the event happened.
    fn timestamp(&self, members: &Members<'_>) -> DateTime<Utc> {
        let read = |field| members.get(field).and_then(Stamp::read);
        let stamps = Stamps {
            timestamp: read(Field::Timestamp),
            original: read(Field::OriginalTimestamp),
            sent_at: read(Field::SentAt).or(self.sent_at),
        };
        stamps.settle(self.now)
    }
}

const EVENT_KINDS: [EventKind; 6] = [
    EventKind::Track,
    EventKind::Identify,
    EventKind::Page,
    EventKind::Screen,
    EventKind::Group,
    EventKind::Alias,
];
