//! What is known of a condition's answer without asking the library.

/// The answers that are still possible: yes, no, and failure. Exactly one bit is a certain answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcomes(u8);

impl Outcomes {
    /// It holds.
    pub const YES: Outcomes = Outcomes(1);
    /// It does not hold.
    pub const NO: Outcomes = Outcomes(2);
    /// It fails.
    pub const FAILS: Outcomes = Outcomes(4);
    /// It does not fail.
    pub(super) const YES_OR_NO: Outcomes = Outcomes(3);
    /// Only the library can tell.
    pub const ASK: Outcomes = Outcomes(7);

    /// A certain yes or no.
    pub fn certain(holds: bool) -> Outcomes {
        if holds { Outcomes::YES } else { Outcomes::NO }
    }

    /// Whether it may hold.
    pub fn may_hold(self) -> bool {
        self.0 & Outcomes::YES.0 != 0
    }

    /// Whether some answer is possible in both.
    pub(super) fn meets(self, other: Outcomes) -> bool {
        self.0 & other.0 != 0
    }

    fn may_not_hold(self) -> bool {
        self.0 & Outcomes::NO.0 != 0
    }

    /// What `!` makes of it. A failure stays a failure.
    pub(crate) fn negated(self) -> Outcomes {
        Outcomes(self.0 & 4 | (self.0 & 1) << 1 | (self.0 & 2) >> 1)
    }

    /// `if`.
    pub(crate) fn choice(
        condition: Outcomes,
        value: impl FnOnce() -> Outcomes,
        otherwise: impl FnOnce() -> Outcomes,
    ) -> Outcomes {
        let mut possible = condition.0 & Outcomes::FAILS.0;
        if condition.may_hold() {
            possible |= value().0;
        }
        if condition.may_not_hold() {
            possible |= otherwise().0;
        }
        Outcomes(possible)
    }

    /// `and`, in order: the rest counts only where all before it holds.
    pub(crate) fn all(parts: impl Iterator<Item = Outcomes>) -> Outcomes {
        let mut so_far = Outcomes::YES;
        for part in parts {
            so_far = Outcomes(so_far.0 & !1 | part.0);
            if !so_far.may_hold() {
                break;
            }
        }
        so_far
    }

    /// `or`, in order: the rest counts only where nothing before it holds.
    pub(crate) fn any(parts: impl Iterator<Item = Outcomes>) -> Outcomes {
        let mut so_far = Outcomes::NO;
        for part in parts {
            so_far = Outcomes(so_far.0 & !2 | part.0);
            if !so_far.may_not_hold() {
                break;
            }
        }
        so_far
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_counts_first() {
        let all = |parts: &[Outcomes]| Outcomes::all(parts.iter().copied());
        let any = |parts: &[Outcomes]| Outcomes::any(parts.iter().copied());
        let (yes, no, fails, ask) = (Outcomes::YES, Outcomes::NO, Outcomes::FAILS, Outcomes::ASK);
        assert_eq!(all(&[]), yes);
        assert_eq!(any(&[]), no);
        assert_eq!(all(&[no, fails]), no);
        assert_eq!(all(&[fails, no]), fails);
        assert_eq!(any(&[yes, fails]), yes);
        assert_eq!(any(&[fails, yes]), fails);
        // The library may fail before the no is reached, so its negation is not certain.
        assert_eq!(all(&[ask, no]), Outcomes(6));
        assert_eq!(all(&[ask, no]).negated(), Outcomes(5));
        assert_eq!(any(&[ask, yes]), Outcomes(5));
        assert_eq!(all(&[yes, ask]), ask);
    }
}
