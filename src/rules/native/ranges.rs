//! Sets of numbers.

use std::cmp::Ordering;

use smallvec::{SmallVec, smallvec};

use super::Order;

/// A place just before a number. The place just after one is that before the next one, since
/// there is none between them.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Cut(f64);

impl Cut {
    /// The place just before a number, which is not NaN.
    pub(crate) fn before(number: f64) -> Cut {
        // Adding zero makes a zero of a negative one, which is the same number.
        Cut(number + 0.0)
    }

    fn after(number: f64) -> Cut {
        Cut::before((number + 0.0).next_up())
    }

    /// No number is beyond it.
    pub(crate) const NEVER_PASSED: Cut = Cut(f64::NAN);

    /// As bits, to be kept among others.
    pub(crate) fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// From its bits.
    pub(crate) fn from_bits(bits: u64) -> Cut {
        Cut(f64::from_bits(bits))
    }

    /// The order of two places.
    pub(crate) fn order(&self, other: &Cut) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A set of numbers: the places where it begins and ends in turn.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Ranges(SmallVec<[Cut; 2]>);

impl Ranges {
    /// No number.
    pub(super) fn none() -> Ranges {
        Ranges(SmallVec::new())
    }

    /// Every number.
    pub(super) fn all() -> Ranges {
        Ranges(smallvec![Cut::before(f64::NEG_INFINITY)])
    }

    /// This number only; none for NaN.
    pub(super) fn only(number: f64) -> Ranges {
        Ranges::between(number, number)
    }

    /// From one number to another, both included.
    pub(super) fn between(low: f64, high: f64) -> Ranges {
        if low <= high {
            Ranges(smallvec![Cut::before(low), Cut::after(high)])
        } else {
            Ranges::none()
        }
    }

    /// The numbers that stand in this order to a bound; none for NaN.
    pub(super) fn ordered(order: Order, bound: f64) -> Ranges {
        let start = Cut::before(f64::NEG_INFINITY);
        if bound.is_nan() {
            return Ranges::none();
        }
        Ranges(match order {
            Order::Greater => smallvec![Cut::after(bound)],
            Order::GreaterOrEqual => smallvec![Cut::before(bound)],
            Order::Less => smallvec![start, Cut::before(bound)],
            Order::LessOrEqual => smallvec![start, Cut::after(bound)],
        })
        .tidied()
    }

    /// Leaves out what is empty.
    fn tidied(self) -> Ranges {
        match self.0.as_slice() {
            [low, high] if low == high => Ranges::none(),
            _ => self,
        }
    }

    /// The places where membership changes, in order.
    pub(crate) fn cuts(&self) -> &[Cut] {
        &self.0
    }

    /// Whether every number is in it.
    pub(crate) fn is_all(&self) -> bool {
        *self == Ranges::all()
    }

    /// Whether this number is in it.
    #[cfg(test)]
    pub(crate) fn contains(&self, number: f64) -> bool {
        let place = Cut::before(number);
        let passed = self.0.partition_point(|cut| *cut <= place);
        passed % 2 == 1
    }

    /// These numbers; NaN is none.
    pub(super) fn of(mut numbers: Vec<f64>) -> Ranges {
        numbers.retain(|number| !number.is_nan());
        numbers.sort_by(f64::total_cmp);
        let mut cuts: SmallVec<[Cut; 2]> = SmallVec::with_capacity(2 * numbers.len());
        for number in numbers {
            let (start, end) = (Cut::before(number), Cut::after(number));
            match cuts.last_mut() {
                // The same number once more, or the next one.
                Some(last) if *last >= start => *last = end,
                _ => cuts.extend([start, end]),
            }
        }
        Ranges(cuts)
    }

    /// The numbers for which `keep` says yes, given whether each of the two has them.
    pub(super) fn combine(&self, other: &Ranges, keep: fn(bool, bool) -> bool) -> Ranges {
        let (mut ours, mut theirs) = (self.0.as_slice(), other.0.as_slice());
        let mut combined = SmallVec::new();
        let (mut left, mut right, mut inside) = (false, false, false);
        // What holds where neither has begun yet begins before every number.
        let mut place = Some(Cut::before(f64::NEG_INFINITY));
        while let Some(cut) = place {
            while let [first, rest @ ..] = ours
                && first.order(&cut).is_le()
            {
                (left, ours) = (!left, rest);
            }
            while let [first, rest @ ..] = theirs
                && first.order(&cut).is_le()
            {
                (right, theirs) = (!right, rest);
            }
            if keep(left, right) != inside {
                inside = !inside;
                combined.push(cut);
            }
            place = match (ours.first(), theirs.first()) {
                (Some(left), Some(right)) if right.order(left).is_lt() => Some(*right),
                (left, right) => left.or(right).copied(),
            };
        }
        Ranges(combined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_numbers_are_what_their_members_say() {
        let numbers = [
            f64::MIN,
            -1.0,
            -0.0,
            0.0,
            5e-324,
            1.0,
            2.0,
            9_007_199_254_740_992.0,
            f64::MAX,
        ];
        let orders = [
            Order::Greater,
            Order::GreaterOrEqual,
            Order::Less,
            Order::LessOrEqual,
        ];
        let mut sets = vec![Ranges::none(), Ranges::all(), Ranges::only(f64::NAN)];
        for bound in numbers {
            for order in orders {
                let set = Ranges::ordered(order, bound);
                for number in numbers {
                    assert_eq!(set.contains(number), order.holds(&number, &bound));
                }
                sets.push(set);
            }
            sets.push(Ranges::only(bound));
            sets.push(Ranges::between(bound, 1.5));
        }
        let keeps: [fn(bool, bool) -> bool; 4] =
            [|l, r| l && r, |l, r| l || r, |l, _| !l, |l, r| l != r];
        for left in &sets {
            for right in &sets {
                for keep in keeps {
                    let both = left.combine(right, keep);
                    for number in numbers {
                        let expected = keep(left.contains(number), right.contains(number));
                        assert_eq!(
                            both.contains(number),
                            expected,
                            "{left:?} {right:?} {number}"
                        );
                    }
                    assert!(both.0.is_sorted_by(|a, b| a.order(b).is_lt()));
                }
            }
        }
    }

    #[test]
    fn no_number_is_less_than_the_infinitely_small() {
        assert!(
            Ranges::ordered(Order::Less, f64::NEG_INFINITY)
                .cuts()
                .is_empty()
        );
        assert!(Ranges::ordered(Order::GreaterOrEqual, f64::NEG_INFINITY).is_all());
    }
}
