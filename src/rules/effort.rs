//! What looking at data costs an evaluation, counted while it runs.
//!
//! [`super::expr::Expr::cost`] counts the nodes of a rule. But a node that compares two lists, or
//! reads a long text as a number, takes as long as these are large, and inside an iteration it does
//! so again and again. So one evaluation may look at only so much. The count is of values and bytes
//! and never of time: the same rule fails on the same data everywhere.
//!
//! An object counts for the square of its members: where two are compared the evaluator looks for each
//! member of one among all of the other's.

use std::cell::Cell;

use datalogic_rs::DataValue;

/// What one evaluation may look at, in values. Some tenths of a second at most.
const EFFORT_MAX: u64 = 100_000_000;
/// Bytes of text that count as a value.
const TEXT_BYTES: usize = 8;

thread_local! {
    /// What is left for the evaluation that runs on this thread. There is one at a time, and each
    /// begins anew, so nothing is kept from one to the next.
    static LEFT: Cell<u64> = const { Cell::new(EFFORT_MAX) };
}

/// Begins an evaluation.
pub(super) fn begin() {
    LEFT.set(EFFORT_MAX);
}

/// Counts `steps`; whether that was still allowed.
pub(super) fn spend(steps: u64) -> bool {
    let left = LEFT.get().checked_sub(steps);
    LEFT.set(left.unwrap_or(0));
    left.is_some()
}

/// Counts that `value` is looked at so many times; whether that was still allowed.
pub(super) fn look(value: &DataValue<'_>, times: u64) -> bool {
    // Going through it only to count nothing would itself be a look.
    let Some(most) = LEFT.get().checked_div(times) else {
        return true;
    };
    spend(size(value, most).saturating_mul(times))
}

/// The same for what is iterated over, of which each element is looked at so many times. Where
/// `is_kept` an element may be held while all others are, as a `reduce` does.
pub(super) fn look_at_each(value: &DataValue<'_>, times: u64, is_kept: bool) -> bool {
    if !look(value, times) {
        return false;
    }
    let (count, largest) = match value {
        _ if !is_kept => return true,
        DataValue::Array(items) => (items.len(), largest(items.iter())),
        DataValue::Object(members) => (
            members.len(),
            largest(members.iter().map(|(_, member)| member)),
        ),
        _ => return true,
    };
    spend(
        to_steps(count)
            .saturating_mul(largest)
            .saturating_mul(times),
    )
}

fn largest<'v, 'a: 'v>(values: impl Iterator<Item = &'v DataValue<'a>>) -> u64 {
    values
        .map(|value| size(value, EFFORT_MAX))
        .max()
        .unwrap_or(0)
}

/// The values in `value`, with texts by their length; it stops counting beyond `most`.
fn size(value: &DataValue<'_>, most: u64) -> u64 {
    let mut sum = 1_u64;
    match value {
        DataValue::String(text) => sum += to_steps(text.len() / TEXT_BYTES),
        DataValue::Array(items) => {
            for item in *items {
                if sum > most {
                    break;
                }
                sum += size(item, most - sum);
            }
        }
        DataValue::Object(members) => {
            let count = to_steps(members.len());
            sum = sum.saturating_add(count.saturating_mul(count) / 2);
            for (name, member) in *members {
                if sum > most {
                    break;
                }
                sum += to_steps(name.len() / TEXT_BYTES) + size(member, most - sum);
            }
        }
        DataValue::Null | DataValue::Bool(_) | DataValue::Number(_) => {}
    }
    sum
}

fn to_steps(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
