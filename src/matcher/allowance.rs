//! How much work a decision may be, in the worst case.
//!
//! Work is counted in steps of an evaluation, about ten nanoseconds each, and never by the clock: the
//! same decision is allowed or not on every machine and under every load. What the index does is
//! counted by the campaigns it is about; what it leaves to be tried counts by what each of these can
//! take at most, and so many times as much as the text of the person and the event is long. A campaign
//! that the index rules out costs nothing.

use std::sync::atomic::AtomicBool;

/// Bytes of a person and an event that count as little text.
const LITTLE_TEXT: usize = 256;
/// What any decision takes.
const BASE: u64 = 100;
/// How many bytes are read in a step.
const BYTES_A_STEP: usize = 4;
/// How many campaigns the index goes through in a step.
const CAMPAIGNS_A_STEP: usize = 64;

/// What one decision, or one after the other, may take.
#[derive(Debug)]
pub struct Allowance<'f> {
    /// The work that is left; `None` is without end.
    left: Option<u64>,
    /// The text of the person and the event, in bytes.
    bytes: usize,
    pub(super) abandoned: Option<&'f AtomicBool>,
}

impl<'f> Allowance<'f> {
    /// So much work, on text of so many bytes.
    pub fn of(work: u64, bytes: usize) -> Self {
        Self {
            left: Some(work),
            bytes,
            abandoned: None,
        }
    }

    /// As much as it takes, as long as `abandoned` is not set. What is decided then is of no use.
    pub fn boundless(abandoned: Option<&'f AtomicBool>) -> Self {
        Self {
            left: None,
            bytes: 0,
            abandoned,
        }
    }

    /// The work that is left.
    pub fn left(&self) -> u64 {
        self.left.unwrap_or(u64::MAX)
    }

    /// Takes what finding campaigns takes among so many; whether that was allowed.
    pub(super) fn find(&mut self, campaigns: usize) -> bool {
        let steps = self.bytes / BYTES_A_STEP + campaigns / CAMPAIGNS_A_STEP;
        self.take(BASE.saturating_add(to_steps(steps)))
    }

    /// Takes so many steps of evaluations, given for little text; whether that was allowed.
    pub(super) fn evaluate(&mut self, steps: u64) -> bool {
        self.take(steps.saturating_mul(to_steps(1 + self.bytes / LITTLE_TEXT)))
    }

    /// Where there is too little, none is taken.
    fn take(&mut self, work: u64) -> bool {
        let Some(left) = &mut self.left else {
            return true;
        };
        let rest = left.checked_sub(work);
        *left = rest.unwrap_or(*left);
        rest.is_some()
    }
}

fn to_steps(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
