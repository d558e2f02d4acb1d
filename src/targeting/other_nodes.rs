//! What this node knows of the other nodes on its database, and so whether what it remembers of
//! people can be trusted.
//!
//! It is cut off from them while its hub has no connection, and when it has not counted them for
//! [`LEASE`], whatever the hub waits for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// How long a count of the other nodes is good for. A node that comes waits for longer than that
/// before it changes anybody.
pub(super) const LEASE: Duration = Duration::from_millis(1_250);
/// Before the first count.
const NEVER: i64 = i64::MIN / 2;

/// The other nodes, as last counted.
#[derive(Debug)]
pub struct OtherNodes {
    are_there: AtomicBool,
    cut_off: AtomicBool,
    made_at: Instant,
    /// When they were last counted, in milliseconds since `made_at`.
    counted_at: AtomicI64,
    hurry: Arc<AtomicBool>,
}

impl OtherNodes {
    /// There may be some until they are counted.
    pub(super) fn new() -> Self {
        Self {
            are_there: AtomicBool::new(true),
            cut_off: AtomicBool::new(false),
            made_at: Instant::now(),
            counted_at: AtomicI64::new(NEVER),
            hurry: Arc::default(),
        }
    }

    /// Says whether this node is cut off from the others, so that nobody knows what they change.
    pub(super) fn set_cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::SeqCst);
    }

    /// Whether this node is cut off from the others, or has not counted them for too long.
    pub fn is_cut_off(&self) -> bool {
        let age = self.millis(Instant::now()) - self.counted_at.load(Ordering::SeqCst);
        self.cut_off.load(Ordering::SeqCst) || age > millis(LEASE)
    }

    /// Whether there was one when they were last counted.
    pub(super) fn are_there(&self) -> bool {
        self.are_there.load(Ordering::SeqCst)
    }

    /// Whether nobody else can have changed what is remembered.
    pub(super) fn let_trust(&self) -> bool {
        // The clock is asked at each look-up: how long after another one it comes is not bounded.
        !self.are_there() && !self.is_cut_off()
    }

    /// Notes whether there are any, as counted in this span. Where they may have changed what is
    /// remembered, `forget` is called before the count is good.
    pub(super) fn counted(&self, are_there: bool, span: Range<Instant>, forget: impl FnOnce()) {
        // The last count may have looked at its beginning, and this one at its end.
        let (at, end) = (self.millis(span.start), self.millis(span.end));
        let is_late = end - self.counted_at.load(Ordering::SeqCst) > millis(LEASE);
        // Since the last count a node may have come, changed people and left. Once nobody is there
        // any more, a reader may still hold what it loaded before the other node's last change;
        // forgetting keeps that out too.
        if self.are_there.swap(are_there, Ordering::SeqCst) != are_there || is_late {
            forget();
        }
        self.counted_at.fetch_max(at, Ordering::SeqCst);
    }

    /// Whether they were counted since then; if not, they soon will be.
    pub fn are_counted_since(&self, at: Instant) -> bool {
        let are_counted = self.counted_at.load(Ordering::SeqCst) > self.millis(at);
        if !are_counted {
            self.hurry.store(true, Ordering::Release);
        }
        are_counted
    }

    /// What makes the hub count them at once.
    pub(super) fn hurry(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.hurry)
    }

    fn millis(&self, at: Instant) -> i64 {
        millis(at.saturating_duration_since(self.made_at))
    }

    /// As if so much time passed.
    #[cfg(test)]
    pub(super) fn grow_older(&mut self, by: Duration) {
        if let Some(made_at) = self.made_at.checked_sub(by) {
            self.made_at = made_at;
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2)
}
