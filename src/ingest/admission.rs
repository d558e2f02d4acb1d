//! Who may join the queue of a shard: bounds in rows, bytes and time, shared between projects.
//!
//! A project may hold up to twice what is left free. Alone it can take two thirds of the queue, two
//! that want all they can get two fifths each, and so on: nobody counts who is active, and there is
//! always room for one more. Who waits is not the only thing that counts: what a transaction writes
//! just now holds its place until it is committed.
//!
//! Waiting is of no use for a call that would be too late, so a project whose first call has stood
//! in the queue for half of the deadline is refused until that one's turn has come. What a call
//! waited for before, its key or whom it is about, says nothing of the queue.

use std::time::{Duration, Instant};

use crate::error::Error;

/// How long a caller that is refused is asked to stay away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How many times what is free a project may hold.
const SHARE: usize = 2;

/// Rows and bytes of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn add(&mut self, other: Self) {
        self.rows = self.rows.saturating_add(other.rows);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    pub(super) fn take(&mut self, other: Self) {
        self.rows = self.rows.saturating_sub(other.rows);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// The bounds of one queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) most: Load,
    /// How long a caller waits for its commit.
    pub(super) deadline: Duration,
}

/// Where things stand when a request comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occupied {
    /// What all projects hold.
    pub(super) all: Load,
    /// What the request's project holds.
    pub(super) own: Load,
    /// Since when the first of the project's calls stands in the queue.
    pub(super) waits_since: Option<Instant>,
}

impl Bounds {
    /// Whether a request of this size may join. An empty queue takes anything, so that no request
    /// is too large for ever.
    pub(super) fn check(&self, request: Load, at: Occupied, now: Instant) -> Result<(), Error> {
        if let Some(since) = at.waits_since {
            let waits = now.saturating_duration_since(since);
            if waits >= self.deadline {
                // Its turn should have come long ago: the shard is not getting on.
                return Err(Error::DatabaseUnavailable);
            }
            if waits > self.deadline / 2 {
                return Err(overloaded());
            }
        }
        if at.all.rows == 0 {
            return Ok(());
        }
        let fits = |most: usize, all: usize, own: usize, request: usize| {
            let free = most.saturating_sub(all);
            (request <= free, own + request <= free.saturating_mul(SHARE))
        };
        let rows = fits(self.most.rows, at.all.rows, at.own.rows, request.rows);
        let bytes = fits(self.most.bytes, at.all.bytes, at.own.bytes, request.bytes);
        let is_alone = at.all == at.own;
        // A project that holds nothing asks for no more than what is free.
        let within_share = at.own.rows == 0 || (rows.1 && bytes.1);
        match (rows.0 && bytes.0, within_share) {
            (true, true) => Ok(()),
            (_, false) if !is_alone => Err(Error::RateLimited {
                retry_after: RETRY_AFTER,
            }),
            _ => Err(overloaded()),
        }
    }
}

/// Tells a caller to come again.
pub(super) fn overloaded() -> Error {
    Error::Overloaded {
        retry_after: RETRY_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        most: Load {
            rows: 90,
            bytes: 9_000,
        },
        deadline: Duration::from_secs(2),
    };

    fn rows(rows: usize) -> Load {
        Load { rows, bytes: rows }
    }

    fn check(all: usize, own: usize, request: usize) -> Result<(), Error> {
        let at = Occupied {
            all: rows(all),
            own: rows(own),
            waits_since: None,
        };
        BOUNDS.check(rows(request), at, Instant::now())
    }

    #[test]
    fn a_project_alone_leaves_a_third_for_the_next_one() {
        let mut held = 0;
        while check(held, held, 1).is_ok() {
            held += 1;
        }
        assert_eq!(held, 60);
        assert!(matches!(check(60, 60, 1), Err(Error::Overloaded { .. })));
        assert!(check(60, 0, 30).is_ok(), "another one finds room");
        assert!(matches!(check(60, 0, 31), Err(Error::Overloaded { .. })));
    }

    #[test]
    fn projects_that_want_everything_get_the_same() {
        let mut held = [0_usize; 4];
        let mut refused = 0;
        while refused < held.len() {
            refused = 0;
            for project in 0..held.len() {
                let all = held.iter().sum();
                match check(all, held[project], 1) {
                    Ok(()) => held[project] += 1,
                    Err(error) => {
                        // It is their own fault while others have work here, too.
                        assert!(matches!(error, Error::RateLimited { .. }), "{error:?}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(held.iter().all(|held| (19..=21).contains(held)), "{held:?}");
        let all: usize = held.iter().sum();
        assert!(
            check(all, 0, 90 - all).is_ok(),
            "there is room for one more"
        );
    }

    #[test]
    fn an_empty_queue_takes_anything_and_bytes_count_like_rows() {
        assert!(check(0, 0, 1_000_000).is_ok());
        let at = Occupied {
            all: Load {
                rows: 1,
                bytes: 6_000,
            },
            own: Load {
                rows: 1,
                bytes: 6_000,
            },
            waits_since: None,
        };
        let request = Load { rows: 1, bytes: 1 };
        let refused = BOUNDS.check(request, at, Instant::now());
        assert!(matches!(refused, Err(Error::Overloaded { .. })));
    }

    #[test]
    fn nobody_waits_behind_a_call_that_has_waited_for_half_of_the_deadline() {
        let since = Instant::now();
        let after = |waited_ms: u64| {
            let at = Occupied {
                all: rows(1),
                own: rows(1),
                waits_since: Some(since),
            };
            BOUNDS.check(rows(1), at, since + Duration::from_millis(waited_ms))
        };
        assert!(after(0).is_ok());
        assert!(after(1_000).is_ok());
        let late = after(1_001);
        assert!(matches!(late, Err(Error::Overloaded { .. })));
        let stuck = after(2_000);
        assert!(matches!(stuck, Err(Error::DatabaseUnavailable)));
    }
}
