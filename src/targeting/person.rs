//! What decisions know of one person.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::model::{PersonId, parse_object};
use crate::store::person_state::PersonRow;

/// What decisions know of a person.
///
/// A state that is shared never changes, but for the time the person was last seen: that only moves
/// forward unless it was wrong, and no decision about what to remember rests on it.
#[derive(Debug, Clone)]
pub struct PersonState {
    /// The internal number.
    pub id: PersonId,
    /// The hash of the bucketing identity; names the shard.
    pub home: i64,
    /// The application's own id, once one is linked.
    pub user_id: Option<String>,
    /// Traits, merged over all identifies: the text of a JSON object. As text they take a quarter
    /// of the memory that a tree of them would.
    pub traits: Arc<str>,
    /// When the person was first seen.
    pub created_at: DateTime<Utc>,
    /// When the person was last seen; it lags by up to
    /// [`LAST_SEEN_GRAIN`](crate::ingest::LAST_SEEN_GRAIN).
    pub last_seen: LastSeen,
}

/// A moment that only moves forward, but for what a wrong clock has set, in milliseconds since the
/// epoch.
#[derive(Debug)]
pub struct LastSeen(AtomicI64);

impl LastSeen {
    /// The moment.
    pub fn at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// Moves the moment forward, never back.
    pub fn advance(&self, at: DateTime<Utc>) {
        self.0.fetch_max(at.timestamp_millis(), Ordering::Relaxed);
    }

    /// Sets the moment that a clock which was ahead has set to what it is.
    pub fn set_back(&self, at: DateTime<Utc>) {
        self.0.store(at.timestamp_millis(), Ordering::Relaxed);
    }
}

impl From<DateTime<Utc>> for LastSeen {
    fn from(at: DateTime<Utc>) -> Self {
        Self(AtomicI64::new(at.timestamp_millis()))
    }
}

impl Clone for LastSeen {
    fn clone(&self) -> Self {
        Self(AtomicI64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl PersonState {
    /// The traits, parsed.
    pub fn traits_object(&self) -> Map<String, Value> {
        parse_object(&self.traits)
    }

    /// About how many bytes the state holds, with its place in the cache.
    pub(super) fn weight(&self) -> usize {
        let user_id = self.user_id.as_ref().map_or(0, String::len);
        STATE_OVERHEAD + self.traits.len() + user_id
    }
}

impl From<PersonRow> for PersonState {
    fn from(row: PersonRow) -> Self {
        Self {
            id: PersonId(row.id),
            home: row.home,
            user_id: row.user_id,
            // The database writes members in an order of its own and with spaces between them.
            traits: Arc::from(Value::Object(parse_object(&row.traits)).to_string()),
            created_at: row.created_at,
            last_seen: row.last_seen_at.into(),
        }
    }
}

/// The bytes of a cached state beside its texts: the struct, two allocations' headers, the entry.
const STATE_OVERHEAD: usize = 320;
