//! Bounds what waits for a shard, in rows and bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::decode::Item;
use crate::error::Error;

/// How long an overloaded caller is asked to stay away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The counters of one queue.
#[derive(Debug)]
pub(super) struct Admission {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    rows_max: usize,
    bytes_max: usize,
}

/// A place in the queue; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    rows: usize,
    bytes: usize,
}

impl Admission {
    pub(super) fn new(rows_max: usize, bytes_max: usize) -> Self {
        Self {
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            rows_max,
            bytes_max,
        }
    }

    /// Takes a place for these items, or says at once that there is none. An empty queue takes
    /// anything, so that no request is too large for ever.
    pub(super) fn admit(self: &Arc<Self>, items: &[(usize, Item)]) -> Result<Permit, Error> {
        let rows = items.len();
        let bytes = items.iter().map(|(_, item)| size_of_item(item)).sum();
        let rows_before = self.rows.fetch_add(rows, Ordering::AcqRel);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let permit = Permit {
            admission: Arc::clone(self),
            rows,
            bytes,
        };
        let is_full = rows_before + rows > self.rows_max || bytes_before + bytes > self.bytes_max;
        if is_full && rows_before > 0 {
            return Err(Error::Overloaded {
                retry_after: RETRY_AFTER,
            });
        }
        Ok(permit)
    }

    /// How many items hold a place.
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// How many bytes they are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.rows.fetch_sub(self.rows, Ordering::AcqRel);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

fn size_of_item(item: &Item) -> usize {
    match item {
        Item::Event(event) => event.size_bytes,
        Item::Rejected(rejection) => rejection.payload.len(),
        Item::Ignored => 0,
    }
}
