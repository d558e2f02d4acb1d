//! Which segments somebody is in.

use std::cell::Cell;

use chrono::{DateTime, Utc};

use super::{CHAIN_MAX, Segment, Segments};
use crate::rules::{Allowance, Facts, FactsArena, Limits, Prepared, UserFacts};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Unknown,
    Computing,
    In,
    Out,
    /// Not in it, since a condition of it failed.
    Failed,
}

/// The memberships of one user at one moment, computed when asked and remembered.
#[derive(Debug)]
pub struct Membership<'a> {
    segments: &'a Segments,
    user: UserFacts<'a>,
    now: DateTime<Utc>,
    arena: &'a FactsArena,
    answers: &'a [Cell<Answer>],
    errors: Cell<u32>,
    allowance: Option<&'a Allowance<'a>>,
}

impl<'a> Membership<'a> {
    /// Nothing is computed yet.
    pub fn new(
        segments: &'a Segments,
        user: UserFacts<'a>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Self {
        let answers = arena.slice(segments.list.len(), |_| Cell::new(Answer::Unknown));
        Self {
            segments,
            user,
            now,
            arena,
            answers,
            errors: Cell::new(0),
            allowance: None,
        }
    }

    /// The same for a decision that may take no more than this.
    pub(crate) fn within(self, allowance: &'a Allowance<'a>) -> Self {
        Self {
            allowance: Some(allowance),
            ..self
        }
    }

    /// Whether the user is in the segment of this id or name; nobody is in an unknown one, nor in any
    /// once the decision was given up.
    pub fn contains(&self, reference: &str) -> bool {
        let Some(index) = self.segments.index_of(reference) else {
            return false;
        };
        let (Some(segment), Some(answer)) =
            (self.segments.list.get(index), self.answers.get(index))
        else {
            return false;
        };
        match answer.get() {
            Answer::In => true,
            Answer::Out | Answer::Failed | Answer::Computing => false,
            Answer::Unknown if !self.may_evaluate(segment) => false,
            Answer::Unknown => {
                let chain = self.segments.chains.get(index).copied();
                answer.set(Answer::Computing);
                let found = match chain {
                    Some(chain) if chain <= CHAIN_MAX => self.evaluate(segment),
                    _ => Answer::Out,
                };
                answer.set(found);
                found == Answer::In
            }
        }
    }

    /// How many conditions failed at run time so far; such a segment does not contain the user.
    pub fn errors(&self) -> u32 {
        self.errors.get()
    }

    /// The segments of which a condition has failed so far.
    pub fn failed(&self) -> impl Iterator<Item = &Segment> {
        let segments = self.segments.list.iter().zip(self.answers);
        let failed = segments.filter(|(_, answer)| answer.get() == Answer::Failed);
        failed.map(|(segment, _)| segment.as_ref())
    }

    /// Whether a condition of the segment of this id or name has failed.
    pub fn has_failed(&self, reference: &str) -> bool {
        let index = self.segments.index_of(reference);
        let answer = index.and_then(|index| self.answers.get(index));
        answer.is_some_and(|answer| answer.get() == Answer::Failed)
    }

    /// The moments at which the membership may change by the passing of time alone, in milliseconds
    /// since 1970, added to `moments`; `None` where they cannot be told.
    pub fn changes_at(
        &self,
        reference: &str,
        limits: &Limits,
        moments: &mut Vec<i64>,
    ) -> Option<()> {
        let mut seen: Vec<&str> = Vec::new();
        let mut open = vec![reference];
        while let Some(reference) = open.pop() {
            let Some(segment) = self.segments.find(reference) else {
                continue;
            };
            if seen.contains(&segment.id.as_str()) {
                continue;
            }
            seen.push(&segment.id);
            if let Some(condition) = &segment.targeting {
                let lookup = |reference: &str| self.contains(reference);
                let prepared = Prepared::new(self.facts(&lookup), self.arena);
                moments.extend(condition.changes_at(&prepared, limits)?);
            }
            open.extend(segment.references().iter().map(String::as_str));
        }
        Some(())
    }

    /// A segment knows no event.
    fn facts<'f>(&self, lookup: &'f dyn Fn(&str) -> bool) -> Facts<'f>
    where
        'a: 'f,
    {
        Facts {
            user: self.user,
            event: None,
            now: self.now,
            segments: lookup,
        }
    }

    /// Which segments are asked for shows only now, so that is when their work is taken.
    fn may_evaluate(&self, segment: &Segment) -> bool {
        let allowance = self.allowance;
        allowance.is_none_or(|it| !it.is_over() && it.evaluate(segment.work()))
    }

    fn evaluate(&self, segment: &Segment) -> Answer {
        if !segment.rules.matches(self.user.traits, None) {
            return Answer::Out;
        }
        let Some(condition) = &segment.targeting else {
            return Answer::In;
        };
        let lookup = |reference: &str| self.contains(reference);
        let prepared = Prepared::new(self.facts(&lookup), self.arena).within(self.allowance);
        match condition.matches_prepared(&prepared) {
            Ok(true) => Answer::In,
            Ok(false) => Answer::Out,
            Err(_) => {
                self.errors.set(self.errors.get() + 1);
                Answer::Failed
            }
        }
    }
}
