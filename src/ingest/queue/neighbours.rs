//! Shards leave little work to a neighbour that is at work anyway.
//!
//! A transaction costs the database as much as some ten rows more, whatever is in it. Two shards that
//! commit a few events each, again and again, are slower than one that commits the events of both; with
//! many events it is the other way round, since a transaction is the work of one core. So a shard for
//! which little waits, while a neighbour has little in hand, leaves it: the neighbour takes it along with
//! what comes next for itself. Work grows, and each shard does its own again.
//!
//! - A queue is in one hand at a time, so events keep their order whoever takes them.
//! - What is left waits for the transaction under way, or for [`LEAVES_MAX`] if that takes longer. Only
//!   what comes after work that was taken along waits for that in any case.
//! - Nobody leaves anything while no neighbour has little in hand, so an idle server adds no delay.
//!
//! Only one lock is held at a time. That no wakening is lost rests on the order of two steps: who leaves
//! says so under the lock of the queue before it looks at [`Neighbours::at_little`], and who is done
//! counts itself out there before it looks at the queues.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Load, Outlet, Shared, State};
use crate::ingest::Job;

/// How much is little, of one transaction.
const LITTLE: Load = Load {
    rows: 64,
    bytes: 256 << 10,
};

/// How long a shard leaves its work before it does it, whatever its neighbours do.
const LEAVES_MAX: Duration = Duration::from_millis(3);

/// The shards of a node, as each of them needs to know the others.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    at_little: AtomicUsize,
}

impl Neighbours {
    /// Whether one of them has little in hand, and will look at what was left when it is done.
    pub(super) fn are_at_little(&self) -> bool {
        self.at_little.load(Ordering::SeqCst) > 0
    }
}

/// What the thread of a shard does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    #[default]
    Works,
    /// Whatever comes wakes it.
    Sleeps,
    /// It sleeps as long as little waits and a neighbour may take it along.
    Leaves,
}

/// The queues that a shard has in hand. Dropping it gives them free, whatever became of their jobs.
#[derive(Debug)]
pub(in crate::ingest) struct InHand {
    queues: Vec<Arc<Shared>>,
    /// Where it counts, if it is little.
    neighbours: Option<Arc<Neighbours>>,
}

impl InHand {
    /// Notes that the queue is in hand, under its lock.
    pub(super) fn of(own: &Arc<Shared>, state: &mut State, is_little: bool) -> Self {
        state.is_in_hand = true;
        let neighbours = is_little.then(|| Arc::clone(&own.neighbours));
        if let Some(neighbours) = &neighbours {
            neighbours.at_little.fetch_add(1, Ordering::SeqCst);
        }
        Self {
            queues: vec![Arc::clone(own)],
            neighbours,
        }
    }

    /// Takes another one.
    pub(super) fn add(&mut self, queue: &Arc<Shared>, state: &mut State) {
        state.is_in_hand = true;
        self.queues.push(Arc::clone(queue));
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.at_little.fetch_sub(1, Ordering::SeqCst);
        }
        for queue in &self.queues {
            let mut state = queue.lock();
            state.is_in_hand = false;
            // What is little the one who is done looks at next.
            if state.thread == Thread::Leaves && !state.is_little() {
                queue.wake(state);
            }
        }
    }
}

impl Outlet {
    /// After little of its own: takes what others leave, as far as it is little together. Whoever leaves
    /// more is woken.
    pub(super) fn take_along(&self, jobs: &mut Vec<Job>, most: Load, in_hand: &mut InHand) {
        let mut taken = Load::default();
        jobs.iter().for_each(|job| taken.add(job.load_now()));
        for other in &self.others {
            let mut state = other.lock();
            if !state.is_left() {
                continue;
            }
            if !state.is_little_beside(taken) {
                other.wake(state);
                continue;
            }
            let mut room = most;
            room.take(taken);
            let (own, given_up) = state.gather(other.turns, room);
            in_hand.add(other, &mut state);
            drop(state);
            drop(given_up);
            own.iter().for_each(|job| taken.add(job.load_now()));
            jobs.extend(own);
        }
    }

    /// Wakes those who leave something, if nobody will look at it.
    pub(super) fn wake_others(&self) {
        for other in &self.others {
            let state = other.lock();
            if state.is_left() && !self.own.neighbours.are_at_little() {
                other.wake(state);
            }
        }
    }
}

impl Shared {
    /// Whether the shard takes what waits in its queue now. If not, its thread is about to sleep.
    pub(super) fn may_take(&self, state: &mut State, shares: bool) -> bool {
        // That it may be woken comes before it looks who else is there.
        state.thread = match state.turns.is_empty() && !state.is_in_hand {
            true => Thread::Sleeps,
            false => Thread::Leaves,
        };
        let takes = state.is_left()
            && !(shares
                && state.is_little()
                && self.neighbours.are_at_little()
                && state
                    .waits_since()
                    .is_some_and(|it| it.elapsed() < LEAVES_MAX));
        if takes {
            state.thread = Thread::Works;
        }
        takes
    }

    /// Sleeps until the thread is woken or may have to do something; false at the moment.
    pub(super) fn sleep(&self, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let looks_at = (state.thread == Thread::Leaves).then(|| {
            let since = state.waits_since().filter(|_| !state.is_in_hand);
            since.unwrap_or(now) + LEAVES_MAX
        });
        let wakes_at = until.into_iter().chain(looks_at).min();
        while state.thread != Thread::Works {
            state = match wakes_at {
                None => {
                    let woken = self.arrived.wait(state);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return until.is_none_or(|until| at < until);
                    }
                    let woken = self.arrived.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// Whether what came last must wake the shard's thread.
    pub(super) fn must_wake(&self, state: &State) -> bool {
        match state.thread {
            Thread::Works => false,
            Thread::Sleeps => true,
            Thread::Leaves => {
                let is_left = state.is_little() && self.neighbours.are_at_little();
                !state.is_in_hand && !is_left
            }
        }
    }

    /// Wakes the shard's thread.
    pub(super) fn wake(&self, mut state: MutexGuard<'_, State>) {
        // Once is enough.
        state.thread = Thread::Works;
        drop(state);
        self.arrived.notify_one();
    }
}

impl State {
    /// Whether jobs wait that the shard's own thread leaves.
    fn is_left(&self) -> bool {
        self.thread == Thread::Leaves && !self.is_in_hand && !self.turns.is_empty()
    }

    /// Since when the job waits that has waited longest.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let lanes = self.turns.iter().filter_map(|it| self.lanes.get(it));
        let oldest = lanes.filter_map(|lane| Some(lane.jobs.front()?.queued_at));
        oldest.min()
    }

    /// Whether what waits is little, beside what is taken already.
    pub(super) fn is_little_beside(&self, taken: Load) -> bool {
        self.slow == 0
            && taken.rows + self.waiting.rows <= LITTLE.rows
            && taken.bytes.saturating_add(self.waiting.bytes) <= LITTLE.bytes
    }

    /// Whether what waits is so little that it may be left.
    pub(super) fn is_little(&self) -> bool {
        // With as much in a neighbour's hand it is little together.
        let as_much = self.waiting;
        self.is_little_beside(as_much)
    }
}

#[cfg(test)]
mod tests;
