//! From the bytes of a request to typed events.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::error::{Code, Error, FieldError};
use crate::model::{Dialect, Event};

/// One element of a request, decoded on its own so that an odd one costs only itself.
#[derive(Debug, Clone)]
pub enum Item {
    /// A good event.
    Event(Box<Event>),
    /// An event that can never become valid, with what the ledger keeps of it.
    Rejected(Rejection),
    /// A call that is answered and dropped on purpose (Segment's metrics).
    Ignored,
}

/// Why an event was refused, and the event itself as text.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The stable code.
    pub code: Code,
    /// The reason in words.
    pub message: String,
    /// Each refused field, for the seed's `details`.
    pub fields: Vec<FieldError>,
    /// The event as received, made valid JSON text where it was not; cut at the event limit.
    pub payload: String,
    /// The client's id of the call, if one could be read.
    pub message_id: Option<String>,
}

impl Rejection {
    /// The rejection as the answer to a request that held only this event.
    pub fn into_error(self) -> Error {
        Error::Validation {
            code: self.code,
            fields: self.fields,
        }
    }
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
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            event_bytes_max: 1024 * 1024,
            body_bytes_max: 8 * 1024 * 1024,
            batch_events_max: 2_500,
            nesting_max: 256,
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
    /// A client's own metrics, which are dropped.
    Metrics,
    /// An envelope with `batch`.
    Batch,
    /// The seed's `{leads: […]}`.
    Leads,
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
    /// `writeKey`, `api_key` or `token` of the body: the key of last resort.
    pub body_key: Option<String>,
    /// True for the routes that answer with a list.
    pub is_batch: bool,
    /// How a single event was read, also a rejected one.
    pub dialect: Dialect,
}

/// Undoes the encodings of `Content-Encoding`, the last one first, else sniffs gzip.
pub fn decompress<'a>(
    _content_encoding: Option<&str>,
    body: &'a [u8],
    _limits: &DecodeLimits,
) -> Result<Cow<'a, [u8]>, Error> {
    Ok(Cow::Borrowed(body))
}

/// Decodes a decompressed body.
pub fn decode(
    _route: Route,
    _body: &[u8],
    _now: DateTime<Utc>,
    _limits: &DecodeLimits,
    _defaults: Defaults<'_>,
) -> Result<Decoded, Error> {
    Err(Error::MalformedJson)
}

/// Reads only the key that a body carries, for callers that authenticate before they decode.
pub fn body_key(_body: &[u8]) -> Option<String> {
    None
}
