//! From the bytes of a request to typed events.

use crate::error::{Code, FieldError};
use crate::model::Event;

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
