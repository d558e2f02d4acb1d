//! Puts the answers of parts together, as native tests do it.

use super::TracePart;
use crate::rules::expr::Operator;
use crate::rules::native::Outcomes;

/// Something for each of the two ways a part may be wanted to turn out.
#[derive(Debug, Clone, Default)]
pub(super) struct ByWish<T> {
    pub(super) to_hold: T,
    pub(super) not_to_hold: T,
}

impl<T> ByWish<T> {
    fn swapped(self) -> Self {
        ByWish {
            to_hold: self.not_to_hold,
            not_to_hold: self.to_hold,
        }
    }
}

type Blame = Option<Box<TracePart>>;

/// What was found out about a part.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) outcome: Outcomes,
    /// The least number of conditions that would have to turn out otherwise.
    pub(super) misses: ByWish<u32>,
    /// The first condition that is in the way.
    pub(super) blame: ByWish<Blame>,
    /// What is shown of it.
    pub(super) part: Option<TracePart>,
}

pub(super) fn leaf(outcome: Outcomes, part: Option<TracePart>, is_shown: bool) -> Step {
    Step {
        outcome,
        misses: ByWish {
            to_hold: u32::from(outcome != Outcomes::YES),
            not_to_hold: u32::from(outcome != Outcomes::NO),
        },
        blame: blames(outcome, part.clone().map(Box::new)),
        part: part.filter(|_| is_shown),
    }
}

/// What is in the way of what is not so.
pub(super) fn blames(outcome: Outcomes, part: Blame) -> ByWish<Blame> {
    ByWish {
        to_hold: part.clone().filter(|_| outcome != Outcomes::YES),
        not_to_hold: part.filter(|_| outcome != Outcomes::NO),
    }
}

/// Puts the answers together as native tests do.
pub(super) fn join(operator: Operator, steps: &mut [Step]) -> Step {
    let mut joined = joined(operator, steps);
    // What turns out as wished has nothing in its way, whatever its parts have.
    let ByWish {
        to_hold,
        not_to_hold,
    } = &mut joined.blame;
    if joined.outcome == Outcomes::YES {
        *to_hold = None;
    }
    if joined.outcome == Outcomes::NO {
        *not_to_hold = None;
    }
    joined
}

fn joined(operator: Operator, steps: &mut [Step]) -> Step {
    let outcomes = || steps.iter().map(|step| step.outcome);
    match operator {
        // Without arguments both are null.
        Operator::And | Operator::Or if steps.is_empty() => leaf(Outcomes::NO, None, false),
        Operator::And => Step {
            outcome: Outcomes::all(outcomes()),
            misses: all_of(steps),
            blame: first_of(steps),
            part: None,
        },
        Operator::Or => Step {
            outcome: Outcomes::any(outcomes()),
            misses: all_of(&swapped(steps)).swapped(),
            blame: first_of(steps),
            part: None,
        },
        Operator::If => choice(steps),
        _ => {
            // Without an argument it is null.
            let only = match steps.first() {
                Some(step) => Step {
                    part: None,
                    ..step.clone()
                },
                None => leaf(Outcomes::NO, None, false),
            };
            if operator != Operator::Not {
                return only;
            }
            Step {
                outcome: only.outcome.negated(),
                misses: only.misses.swapped(),
                blame: only.blame.swapped(),
                part: None,
            }
        }
    }
}

fn swapped(steps: &[Step]) -> Vec<Step> {
    let swap = |step: &Step| Step {
        outcome: step.outcome.negated(),
        misses: step.misses.clone().swapped(),
        blame: ByWish::default(),
        part: None,
    };
    steps.iter().map(swap).collect()
}

/// All must hold. For the contrary one is enough, once nothing before it fails.
fn all_of(steps: &[Step]) -> ByWish<u32> {
    let to_hold = steps.iter().map(|step| step.misses.to_hold);
    let mut failures_before = 0_u32;
    let mut not_to_hold = u32::MAX;
    for step in steps {
        let this = failures_before.saturating_add(step.misses.not_to_hold);
        not_to_hold = not_to_hold.min(this);
        if step.outcome != Outcomes::YES && step.outcome != Outcomes::NO {
            failures_before = failures_before.saturating_add(step.misses.to_hold);
        }
    }
    ByWish {
        to_hold: to_hold.fold(0, u32::saturating_add),
        not_to_hold,
    }
}

fn first_of(steps: &mut [Step]) -> ByWish<Blame> {
    let first = |pick: fn(&mut ByWish<Blame>) -> &mut Blame, steps: &mut [Step]| {
        let blames = steps.iter_mut().map(|step| pick(&mut step.blame));
        blames.into_iter().find_map(Option::take)
    };
    ByWish {
        to_hold: first(|blame| &mut blame.to_hold, steps),
        not_to_hold: first(|blame| &mut blame.not_to_hold, steps),
    }
}

/// `if`: conditions and values in turn, then the value otherwise, which is null where none is given.
/// From the last to the first, as each is what the one before is otherwise.
fn choice(steps: &[Step]) -> Step {
    let pairs = steps.chunks_exact(2);
    let last = match pairs.remainder() {
        [value] => Step {
            part: None,
            ..value.clone()
        },
        _ => leaf(Outcomes::NO, None, false),
    };
    pairs.rev().fold(last, |otherwise, pair| match pair {
        [condition, value] => chosen(condition, value, otherwise),
        _ => otherwise,
    })
}

/// A condition, its value, and the value otherwise.
fn chosen(condition: &Step, value: &Step, otherwise: Step) -> Step {
    let outcome = Outcomes::choice(condition.outcome, || value.outcome, || otherwise.outcome);
    let misses = |value: u32, otherwise: u32| {
        let taken = condition.misses.to_hold.saturating_add(value);
        taken.min(condition.misses.not_to_hold.saturating_add(otherwise))
    };
    let misses = ByWish {
        to_hold: misses(value.misses.to_hold, otherwise.misses.to_hold),
        not_to_hold: misses(value.misses.not_to_hold, otherwise.misses.not_to_hold),
    };
    let taken = match condition.outcome {
        Outcomes::YES => value.blame.clone(),
        Outcomes::NO => otherwise.blame,
        _ => ByWish::default(),
    };
    let ByWish {
        to_hold,
        not_to_hold,
    } = condition.blame.clone();
    // Where the value taken has nothing to say, the condition chose it.
    let or_condition = to_hold.or(not_to_hold);
    Step {
        outcome,
        misses,
        blame: ByWish {
            to_hold: taken.to_hold.or_else(|| or_condition.clone()),
            not_to_hold: taken.not_to_hold.or(or_condition),
        },
        part: None,
    }
}
