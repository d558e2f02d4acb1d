//! From bytes of a request to rows that are committed: decode, admission, per-person order, group
//! commit and the ledger of rejected events.

pub mod decode;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::Error;
use crate::model::{Event, EventId, ProjectId};
use crate::targeting::LiveCampaign;
use decode::{Item, Rejection};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingest {}

/// What became of one item of a request, in the request's order.
#[derive(Debug)]
pub enum Outcome {
    /// The event is committed, now or by an earlier call with the same message id.
    Stored(Box<Stored>),
    /// The event can never become valid; the ledger has it.
    Rejected(Rejection),
    /// The call is answered and dropped on purpose.
    Ignored,
}

/// A committed event and what it led to.
#[derive(Debug)]
pub struct Stored {
    /// The event as it was decoded.
    pub event: Event,
    /// The stored event's id; a duplicate's is the first one's.
    pub id: EventId,
    /// True when an earlier call with this message id was stored before.
    pub duplicate: bool,
    /// The campaigns this person should see now, best first.
    pub matched: Vec<Arc<LiveCampaign>>,
    /// The person's traits after the event.
    pub traits: Arc<Map<String, Value>>,
}

impl Ingest {
    /// Stores the items and decides for each; returns after the commit. Items of one person keep
    /// their order. On an error nothing was acknowledged and the caller may try again.
    pub async fn submit(
        &self,
        _project: ProjectId,
        _items: Vec<Item>,
    ) -> Result<Vec<Outcome>, Error> {
        Err(Error::ShuttingDown)
    }
}
