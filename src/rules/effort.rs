//! What looking at data costs an evaluation, counted while it runs.
//!
//! [`super::expr::Expr::cost`] counts the nodes of a rule. But a node that compares two lists, or
//! reads a long text as a number, takes as long as these are large, and inside an iteration it does
//! so again and again. So one evaluation may look at only so much. The count is of values and bytes
//! and never of time: the same rule fails on the same data everywhere. A decision that others wait for
//! may look at less; it is given up then, and made again where nobody waits.
//!
//! Comparing counts apart: where two objects are compared the evaluator looks for each member of one
//! among all of the other's, so each counts for the square of its members.

use std::cell::Cell;

use datalogic_rs::DataValue;

use super::allowance::Allowance;

/// What one evaluation may look at, in values. Some tenths of a second at most.
pub(super) const EFFORT_MAX: u64 = 100_000_000;
/// Bytes of text that count as a value.
const TEXT_BYTES: usize = 8;

thread_local! {
    /// What is left for the evaluation that runs on this thread; `None` once it wanted more. There is
    /// one at a time, and each begins anew, so none is allowed less for those before it.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    /// What those before it looked at.
    static BEFORE: Cell<u64> = const { Cell::new(0) };
}

/// Does an evaluation, which may look at no more than is allowed. If that is less than any evaluation
/// may look at and was not enough, the decision is given up.
pub(super) fn bounded<T>(allowance: Option<&Allowance<'_>>, evaluate: impl FnOnce() -> T) -> T {
    let most = allowance.map_or(EFFORT_MAX, |it| it.values().min(EFFORT_MAX));
    LEFT.set(Some(most));
    let result = evaluate();
    let left = LEFT.get();
    let looked_at = most.saturating_sub(left.unwrap_or(0));
    BEFORE.set(BEFORE.get().saturating_add(looked_at));
    if let Some(allowance) = allowance {
        allowance.looked_at(looked_at);
        if left.is_none() && most < EFFORT_MAX {
            allowance.give_up();
        }
    }
    result
}

/// What the evaluations on this thread have looked at so far, all together.
pub(crate) fn looked_at() -> u64 {
    BEFORE.get()
}

/// Counts `steps`; whether that was still allowed.
pub(super) fn spend(steps: u64) -> bool {
    let left = LEFT.get().and_then(|left| left.checked_sub(steps));
    LEFT.set(left);
    left.is_some()
}

/// How often something is looked at.
#[derive(Clone, Copy)]
pub(super) struct Looks {
    /// From one end to the other.
    pub(super) times: u64,
    /// To be compared with something else of the data.
    pub(super) compared: u64,
}

/// What one look at a value costs.
#[derive(Clone, Copy, Default)]
struct Size {
    /// The values in it, with texts by their length.
    values: u64,
    /// The steps of comparing its objects, beyond that.
    compared: u64,
}

impl Size {
    fn times(self, looks: Looks) -> u64 {
        let values = self.values.saturating_mul(looks.times);
        values.saturating_add(self.compared.saturating_mul(looks.compared))
    }
}

/// Counts that `value` is looked at; whether that was still allowed.
pub(super) fn look(value: &DataValue<'_>, looks: Looks) -> bool {
    // Going through it only to count nothing would itself be a look.
    if looks.times == 0 && looks.compared == 0 {
        return true;
    }
    let left = LEFT.get().unwrap_or(0);
    let most = Size {
        values: left.checked_div(looks.times).unwrap_or(left),
        compared: left.checked_div(looks.compared).unwrap_or(u64::MAX),
    };
    spend(size(value, most).times(looks))
}

/// The same for what is iterated over, each element of which is looked at. Where `is_kept` an element
/// may be held while all others are, as a `reduce` does.
pub(super) fn look_at_each(value: &DataValue<'_>, looks: Looks, is_kept: bool) -> bool {
    if !look(value, looks) {
        return false;
    }
    let (count, largest) = match value {
        _ if !is_kept => return true,
        DataValue::Array(items) => (items.len(), largest(items.iter(), looks)),
        DataValue::Object(members) => (
            members.len(),
            largest(members.iter().map(|(_, member)| member), looks),
        ),
        _ => return true,
    };
    spend(to_steps(count).saturating_mul(largest))
}

fn largest<'v, 'a: 'v>(values: impl Iterator<Item = &'v DataValue<'a>>, looks: Looks) -> u64 {
    let most = Size {
        values: EFFORT_MAX,
        compared: EFFORT_MAX,
    };
    values
        .map(|value| size(value, most).times(looks))
        .max()
        .unwrap_or(0)
}

/// What a look at `value` costs; it stops counting where either is beyond `most`.
fn size(value: &DataValue<'_>, most: Size) -> Size {
    let mut sum = Size::default();
    add(value, most, &mut sum);
    sum
}

fn add(value: &DataValue<'_>, most: Size, sum: &mut Size) {
    sum.values += 1;
    match value {
        DataValue::String(text) => sum.values += to_steps(text.len() / TEXT_BYTES),
        DataValue::Array(items) => {
            for item in *items {
                if sum.values > most.values || sum.compared > most.compared {
                    return;
                }
                add(item, most, sum);
            }
        }
        DataValue::Object(members) => {
            let count = to_steps(members.len());
            let pairs = count.saturating_mul(count) / 2;
            sum.compared = sum.compared.saturating_add(pairs);
            for (name, member) in *members {
                if sum.values > most.values || sum.compared > most.compared {
                    return;
                }
                sum.values += to_steps(name.len() / TEXT_BYTES);
                add(member, most, sum);
            }
        }
        DataValue::Null | DataValue::Bool(_) | DataValue::Number(_) => {}
    }
}

fn to_steps(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
