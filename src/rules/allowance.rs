//! How much work a decision may be.
//!
//! Work is counted in steps of an evaluation, about ten nanoseconds each, and never by the clock: the
//! same decision is allowed or not on every machine and under every load. It is counted twice:
//!
//! - What something can take is taken before it is done. What the index does counts by the
//!   attributes and campaigns it is about; what it leaves to be tried by what each of these can take,
//!   and so many times as much as the text of the person and the event is long. A campaign that the
//!   index rules out costs nothing, nor does a segment that nobody asks for.
//! - How much evaluations look at shows only while they run ([`super::effort`]): two objects are
//!   compared name by name, and how many names they have is known to nobody before. What is looked at
//!   beyond what was taken is taken then.
//!
//! Where there is too little a decision is given up. It has no answer then: whatever it has found is
//! not to be used, and nothing of it is counted.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::work::Work;

/// What any decision takes.
const BASE: u64 = 100;
/// How many bytes are read in a step.
const BYTES_A_STEP: usize = 4;
/// How many values an evaluation looks at in a step.
const VALUES_A_STEP: u64 = 4;
/// Which part of what is left an evaluation may take beyond what was taken for it. Who is last shall
/// find something, too: the others of a batch would else be decided apart with the one that is large.
const PART_BEYOND: u64 = 4;

/// What one decision may take.
#[derive(Debug)]
pub struct Allowance<'f> {
    /// The work that is left; `None` is without end.
    left: Cell<Option<u64>>,
    /// The text of the person and the event, in bytes.
    bytes: usize,
    abandoned: Option<&'f AtomicBool>,
    /// How many values may be looked at for what was taken.
    paid: Cell<u64>,
    is_refused: Cell<bool>,
}

impl<'f> Allowance<'f> {
    /// So much work, on text of so many bytes.
    pub fn of(work: u64, bytes: usize) -> Self {
        Self {
            left: Cell::new(Some(work)),
            bytes,
            abandoned: None,
            paid: Cell::new(0),
            is_refused: Cell::new(false),
        }
    }

    /// As much as it takes, as long as `abandoned` is not set.
    pub fn boundless(abandoned: Option<&'f AtomicBool>) -> Self {
        Self {
            left: Cell::new(None),
            abandoned,
            ..Self::of(0, 0)
        }
    }

    /// The work that is left.
    pub fn left(&self) -> u64 {
        self.left.get().unwrap_or(u64::MAX)
    }

    /// Whether the decision was given up: it was too much work, or nobody waits for it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_refused.get() || self.abandoned.is_some_and(|it| it.load(Ordering::Relaxed))
    }

    /// Takes what reading the person and the event takes; whether that was allowed. To be asked before
    /// they are read.
    pub fn read(&mut self) -> bool {
        self.take(BASE.saturating_add(to_steps(self.bytes / BYTES_A_STEP)))
    }

    /// Takes what evaluations can take; whether that was allowed.
    pub(crate) fn evaluate(&self, work: Work) -> bool {
        let steps = work.steps(to_steps(self.bytes));
        let is_allowed = self.take(steps);
        if is_allowed {
            let values = steps.saturating_mul(VALUES_A_STEP);
            self.paid.set(self.paid.get().saturating_add(values));
        }
        is_allowed
    }

    /// How many values an evaluation may look at.
    pub(super) fn values(&self) -> u64 {
        let beyond = self.left.get().map_or(u64::MAX, |left| left / PART_BEYOND);
        let beyond = beyond.saturating_mul(VALUES_A_STEP);
        self.paid.get().saturating_add(beyond)
    }

    /// Takes what an evaluation has looked at beyond what was taken for it.
    pub(super) fn looked_at(&self, values: u64) {
        let paid = self.paid.get();
        self.paid.set(paid.saturating_sub(values));
        let beyond = values.saturating_sub(paid).div_ceil(VALUES_A_STEP);
        let left = self.left.get().map(|left| left.saturating_sub(beyond));
        self.left.set(left);
    }

    /// Gives the decision up, since an evaluation was not allowed to look at all that it wanted.
    pub(super) fn give_up(&self) {
        self.is_refused.set(true);
    }

    /// Takes so many steps; whether that was allowed. Where there is too little, none is taken.
    pub(crate) fn take(&self, work: u64) -> bool {
        let Some(left) = self.left.get() else {
            return true;
        };
        let rest = left.checked_sub(work);
        match rest {
            Some(_) => self.left.set(rest),
            None => self.give_up(),
        }
        rest.is_some()
    }
}

fn to_steps(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
