//! What waits for one shard: bounded, fair between projects, first in, first out within one.
//!
//! Each project has a lane, and a batch is filled from the lanes in turns, so that one event of a
//! quiet project does not wait behind the backlog of a noisy one. A person belongs to one project,
//! so a person's events keep their order. Turns are counted in rows, and large events as several
//! (deficit round robin): a lane whose first job is larger than its credit gets more of it and lets
//! the others go first. No turn is longer than half a batch: beside one other project, who comes anew
//! is in the batch after the one under way. A job that took its shard too long is taken in portions, one
//! a batch. Shards leave little work to each other (see [`neighbours`]).
//!
//! One short lock guards the queue and the counts of what is held. A [`Permit`] is a place in it,
//! held from the admission until the answer; nothing that owns one is dropped under the lock, as
//! giving it back takes the lock again.

mod neighbours;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Job;
use super::admission::{Bounds, Load, Occupied};
use super::decode::Item;
use crate::error::Error;
use crate::model::ProjectId;
use neighbours::{InHand, Neighbours, Thread};

/// How many rows a lane may take in its turn, if that is at most half of a batch.
const ROWS_A_TURN_MAX: usize = 32;

/// Makes the queues of so many shards: where jobs come in and where they go out, in batches of at most
/// this size. A queue closes when either is dropped; what waits when the entrance goes is still handed
/// out.
pub(super) fn queues(count: usize, bounds: Bounds, batch: Load) -> Vec<(Entrance, Outlet)> {
    let neighbours = Arc::new(Neighbours::default());
    let of_one = || {
        Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            bounds,
            turns: Turns {
                rows: (batch.rows / 2).clamp(1, ROWS_A_TURN_MAX),
                bytes_a_row: (batch.bytes / batch.rows.max(1)).max(1),
            },
            neighbours: Arc::clone(&neighbours),
        })
    };
    let all: Vec<Arc<Shared>> = (0..count).map(|_| of_one()).collect();
    let pair = |own: &Arc<Shared>| {
        let others = all.iter().filter(|other| !Arc::ptr_eq(own, other));
        let outlet = Outlet {
            own: Arc::clone(own),
            others: others.cloned().collect(),
        };
        (Entrance(Arc::clone(own)), outlet)
    };
    all.iter().map(pair).collect()
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    bounds: Bounds,
    turns: Turns,
    neighbours: Arc<Neighbours>,
}

/// What a lane may take in its turn.
#[derive(Debug, Clone, Copy)]
struct Turns {
    rows: usize,
    /// An event counts as a row for each so many bytes.
    bytes_a_row: usize,
}

impl Turns {
    fn rows_of(self, load: Load) -> usize {
        load.rows.max(load.bytes / self.bytes_a_row)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Each project that holds a place, waiting or being written.
    lanes: HashMap<ProjectId, Lane>,
    /// The projects with jobs that wait; the first one's turn is next.
    turns: VecDeque<ProjectId>,
    held: Load,
    /// When something was last taken, or came in while nothing was held.
    moved_at: Option<Instant>,
    closed: bool,
    /// What waits, and how many of its jobs took their shard too long before.
    waiting: Load,
    slow: usize,
    /// Whether a shard has taken jobs and is not done with them.
    is_in_hand: bool,
    /// What the shard's own thread does.
    thread: Thread,
}

#[derive(Debug, Default)]
struct Lane {
    jobs: VecDeque<Job>,
    held: Load,
    credit: usize,
}

/// A place in the queue; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    shared: Arc<Shared>,
    project: ProjectId,
    load: Load,
}

/// What a shard finds in its queue.
#[derive(Debug)]
pub(super) enum Taken {
    /// A batch, and the queues that it is of.
    Jobs(Vec<Job>, InHand),
    /// Nothing came until the moment that was given.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

/// Where jobs come in.
#[derive(Debug)]
pub(super) struct Entrance(Arc<Shared>);

/// Where they go out.
#[derive(Debug)]
pub(super) struct Outlet {
    own: Arc<Shared>,
    /// Those of the other shards.
    others: Vec<Arc<Shared>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }
}

impl Entrance {
    /// Takes a place for these items, or says at once that there is none.
    pub(super) fn admit(
        &self,
        project: ProjectId,
        items: &[(usize, Item)],
        now: Instant,
    ) -> Result<Permit, Error> {
        let load = Load {
            rows: items.len(),
            bytes: items.iter().map(|(_, item)| size_of_item(item)).sum(),
        };
        let mut state = self.0.lock();
        self.0.bounds.check(load, state.occupied(project), now)?;
        if state.held.rows == 0 {
            state.moved_at = Some(now);
        }
        state.held.add(load);
        state.lanes.entry(project).or_default().held.add(load);
        drop(state);
        Ok(Permit {
            shared: Arc::clone(&self.0),
            project,
            load,
        })
    }

    /// Whether one event of this project would be admitted.
    pub(super) fn check(&self, project: ProjectId, now: Instant) -> Result<(), Error> {
        let occupied = self.0.lock().occupied(project);
        let least = Load { rows: 1, bytes: 1 };
        self.0.bounds.check(least, occupied, now)
    }

    /// Adds a job, whose permit must be this queue's.
    pub(super) fn push(&self, job: Job) -> Result<(), Error> {
        let mut state = self.0.lock();
        if state.closed {
            drop(state);
            drop(job);
            return Err(Error::ShuttingDown);
        }
        let project = job.project;
        state.comes(&job);
        let lane = state.lanes.entry(project).or_default();
        let is_first = lane.jobs.is_empty();
        lane.jobs.push_back(job);
        if is_first {
            lane.credit = self.0.turns.rows;
            state.turns.push_back(project);
        }
        if self.0.must_wake(&state) {
            self.0.wake(state);
        }
        Ok(())
    }

    /// How many items hold a place.
    pub(super) fn rows(&self) -> usize {
        self.held().0.rows
    }

    /// Since when nothing has moved though something holds a place.
    pub(super) fn stands_still_since(&self) -> Option<Instant> {
        let state = self.0.lock();
        state.moved_at.filter(|_| state.held.rows > 0)
    }

    /// What holds a place, and since when the job waits that has waited longest.
    pub(super) fn held(&self) -> (Load, Option<Instant>) {
        let state = self.0.lock();
        (state.held, state.waits_since())
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Outlet {
    /// Waits for jobs, at most until a moment, and takes what waits, within the bounds of one
    /// transaction; one larger job is taken alone. Jobs whose callers have given up are dropped.
    /// `shares` says whether it takes along what other shards leave, and leaves them its own.
    pub(super) fn take(&self, most: Load, until: Option<Instant>, shares: bool) -> Taken {
        loop {
            let mut state = self.own.lock();
            state.thread = Thread::Works;
            if state.turns.is_empty() && state.closed && !state.is_in_hand {
                drop(state);
                self.wake_others();
                return Taken::Closed;
            }
            if self.own.may_take(&mut state, shares) {
                let is_little = shares && state.is_little();
                let mut in_hand = InHand::of(&self.own, &mut state, is_little);
                let (mut jobs, given_up) = state.gather(self.own.turns, most);
                drop(state);
                drop(given_up);
                match is_little {
                    true => self.take_along(&mut jobs, most, &mut in_hand),
                    false => self.wake_others(),
                }
                if jobs.is_empty() {
                    continue;
                }
                return Taken::Jobs(jobs, in_hand);
            }
            drop(state);
            self.wake_others();
            if !self.own.sleep(until) {
                return Taken::Nothing;
            }
        }
    }

    /// Puts jobs back before the others of their projects, where they were taken from, the last one of a
    /// project first. They keep their places.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        for job in jobs {
            let queue = Arc::clone(&job.permit.shared);
            let mut state = queue.lock();
            state.comes(&job);
            let project = job.project;
            let lane = state.lanes.entry(project).or_default();
            let is_first = lane.jobs.is_empty();
            lane.jobs.push_front(job);
            if is_first {
                state.turns.push_back(project);
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.own.close();
        let mut state = self.own.lock();
        state.turns.clear();
        (state.waiting, state.slow) = (Load::default(), 0);
        let lanes = state.lanes.values_mut();
        let left: Vec<VecDeque<Job>> = lanes.map(|lane| std::mem::take(&mut lane.jobs)).collect();
        drop(state);
        // Their callers hear that nobody will answer.
        drop(left);
    }
}

impl State {
    /// Counts a job that waits from now on.
    fn comes(&mut self, job: &Job) {
        self.waiting.add(job.load_left());
        self.slow += usize::from(job.portion.is_some());
    }

    fn occupied(&self, project: ProjectId) -> Occupied {
        let lane = self.lanes.get(&project);
        let oldest = lane.and_then(|lane| lane.jobs.front());
        Occupied {
            all: self.held,
            own: lane.map_or_else(Load::default, |lane| lane.held),
            waits_since: oldest.map(|job| job.queued_at),
        }
    }

    /// Fills a batch in turns; the second list is of jobs that nobody waits for any more.
    fn gather(&mut self, turns: Turns, most: Load) -> (Vec<Job>, Vec<Job>) {
        let now = Instant::now();
        self.moved_at = Some(now);
        let (mut jobs, mut given_up, mut resting) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken = Load::default();
        while taken.rows < most.rows && taken.bytes < most.bytes {
            let Some(project) = self.turns.front() else {
                break;
            };
            let Some(lane) = self.lanes.get_mut(project) else {
                self.turns.pop_front();
                continue;
            };
            let waits = |job: &Job| job.give_up_at > now && !job.reply.is_closed();
            let next = lane.jobs.front().map(|job| (waits(job), job.load_now()));
            match next {
                None => {
                    self.turns.pop_front();
                }
                Some((false, _)) => given_up.extend(lane.jobs.pop_front()),
                Some((true, load)) if lane.credit < turns.rows_of(load) && self.turns.len() > 1 => {
                    lane.credit += turns.rows;
                    self.turns.rotate_left(1);
                }
                Some((true, load)) => {
                    lane.credit = lane.credit.saturating_sub(turns.rows_of(load));
                    taken.add(load);
                    let job = lane.jobs.pop_front();
                    if job.as_ref().is_some_and(|job| load.rows < job.items.len()) {
                        // What is left of it comes before the others of its project.
                        resting.extend(self.turns.pop_front());
                    }
                    jobs.extend(job);
                }
            }
        }
        // A lane that was emptied by the last job taken must not have a turn left.
        if let Some(project) = self.turns.front()
            && let Some(lane) = self.lanes.get(project)
            && lane.jobs.is_empty()
        {
            self.turns.pop_front();
        }
        let waits = |project: &ProjectId| {
            let lane = self.lanes.get(project);
            lane.is_some_and(|lane| !lane.jobs.is_empty())
        };
        self.turns.extend(resting.into_iter().filter(waits));
        for job in jobs.iter().chain(&given_up) {
            self.waiting.take(job.load_left());
            self.slow -= usize::from(job.portion.is_some());
        }
        (jobs, given_up)
    }
}

impl Permit {
    /// What it stands for.
    pub(super) fn load(&self) -> Load {
        self.load
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.held.take(self.load);
        if let Some(lane) = state.lanes.get_mut(&self.project) {
            lane.held.take(self.load);
            if lane.held.rows == 0 && lane.jobs.is_empty() {
                state.lanes.remove(&self.project);
            }
        }
    }
}

fn size_of_item(item: &Item) -> usize {
    match item {
        Item::Event(event) => event.size_bytes,
        Item::Rejected(rejection) => {
            let context = rejection.origin.context.as_ref();
            rejection.payload.len() + context.map_or(0, |context| context.len())
        }
    }
}

#[cfg(test)]
mod tests;
