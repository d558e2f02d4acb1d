//! Plain types that every layer speaks: ids, identities, events.
//!
//! Construction validates, so a value of one of these types is always good and nothing inside the
//! engine checks it again. This module does no I/O, reads no clock and draws no randomness; times
//! and ids are arguments.

mod event;
mod identity;
mod ids;

pub use event::{
    Call, Dialect, Event, EventKind, EventName, MESSAGE_ID_CHARS_MAX, MessageId, RawJson,
    message_digest, parse_object, parse_traits,
};
pub use identity::{Identity, IdentityKind};
pub use ids::{CampaignId, EventId, KeyId, PersonId, ProjectId, SegmentId};

/// A name or id without the space at its ends, which is JavaScript's notion of it, since the seed cut it
/// off.
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}')
}

/// Why a text cannot go into a column.
pub fn unfit(text: &str, chars_max: usize) -> Option<&'static str> {
    if text.contains('\0') {
        return Some("must not contain \\u0000");
    }
    (text.chars().count() > chars_max).then_some("too long")
}

/// Why a value was refused. The text is complete without the value that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);
