//! Segments: named conditions over a user's traits, evaluated for one user at a time.
//!
//! Pure. A segment knows its rules and targeting, nothing of people's storage. It may name other
//! segments with `in_segment`; [`Segments::new`] keeps all of them, and [`Membership`] answers for
//! one user, each segment at most once. Saving refuses a segment that would contain itself; should
//! one slip in (an import, say), the membership that is being computed counts as "not in".

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::rules::{
    Condition, Facts, FactsArena, Limits, Prepared, RuleError, RuleList, RuleWarning, UserFacts,
};

/// A segment, compiled.
#[derive(Debug)]
pub struct Segment {
    /// Its id.
    pub id: String,
    /// Its name; rules may use either.
    pub name: String,
    rules: RuleList,
    targeting: Option<Condition>,
}

impl Segment {
    /// Compiles `rules` (the seed's list) and `targeting` (JsonLogic) of a segment's body. Errors
    /// point into the body.
    pub fn compile(
        id: &str,
        body: &Map<String, Value>,
        limits: &Limits,
    ) -> Result<Self, RuleError> {
        let rules = RuleList::parse(body.get("rules")).map_err(|error| error.under("/rules"))?;
        let targeting = match body.get("targeting") {
            None | Some(Value::Null) => None,
            Some(json) => {
                Some(Condition::parse(json, limits).map_err(|error| error.under("/targeting"))?)
            }
        };
        let name = body
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        Ok(Self {
            id: id.to_owned(),
            name,
            rules,
            targeting,
        })
    }

    /// The segments this one names.
    pub fn references(&self) -> &[String] {
        self.targeting.as_ref().map_or(&[], Condition::segments)
    }

    /// What an admin may want to know; pointers lead into `/targeting`.
    pub fn warnings(&self, limits: &Limits) -> Vec<RuleWarning> {
        let targeting = self.targeting.as_ref();
        targeting.map_or_else(Vec::new, |condition| condition.warnings(limits))
    }
}

/// All segments of a project, found by id or, where no id matches, by name.
#[derive(Debug, Default)]
pub struct Segments {
    list: Vec<Arc<Segment>>,
    by_reference: HashMap<String, usize>,
}

impl Segments {
    /// Indexes the segments; of two with one name, the first is meant by it.
    pub fn new(list: Vec<Arc<Segment>>) -> Self {
        let mut by_reference = HashMap::with_capacity(list.len() * 2);
        for (index, segment) in list.iter().enumerate() {
            by_reference.entry(segment.name.clone()).or_insert(index);
        }
        for (index, segment) in list.iter().enumerate() {
            by_reference.insert(segment.id.clone(), index);
        }
        Self { list, by_reference }
    }

    /// Every segment, oldest first.
    pub fn list(&self) -> &[Arc<Segment>] {
        &self.list
    }

    /// The segment a rule means by this id or name.
    pub fn find(&self, reference: &str) -> Option<&Arc<Segment>> {
        self.by_reference
            .get(reference)
            .and_then(|&index| self.list.get(index))
    }

    /// The path by which `candidate` would contain itself, if it would, as ids.
    pub fn cycle_through(&self, candidate: &Segment) -> Option<Vec<String>> {
        let is_candidate = |reference: &str| {
            reference == candidate.id
                || (reference == candidate.name
                    && self
                        .find(reference)
                        .is_none_or(|found| found.id == candidate.id))
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut open: Vec<(&str, Vec<String>)> = candidate
            .references()
            .iter()
            .map(|name| (name.as_str(), vec![candidate.id.clone()]))
            .collect();
        while let Some((reference, path)) = open.pop() {
            if is_candidate(reference) {
                return Some(path);
            }
            let Some(segment) = self.find(reference) else {
                continue;
            };
            if seen.contains(&segment.id.as_str()) {
                continue;
            }
            seen.push(&segment.id);
            let mut path = path;
            path.push(segment.id.clone());
            open.extend(
                segment
                    .references()
                    .iter()
                    .map(|name| (name.as_str(), path.clone())),
            );
        }
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Unknown,
    Computing,
    In,
    Out,
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
        }
    }

    /// Whether the user is in the segment of this id or name; nobody is in an unknown one.
    pub fn contains(&self, reference: &str) -> bool {
        let Some(&index) = self.segments.by_reference.get(reference) else {
            return false;
        };
        let (Some(segment), Some(answer)) =
            (self.segments.list.get(index), self.answers.get(index))
        else {
            return false;
        };
        match answer.get() {
            Answer::In => true,
            Answer::Out | Answer::Computing => false,
            Answer::Unknown => {
                answer.set(Answer::Computing);
                let is_in = self.evaluate(segment);
                answer.set(if is_in { Answer::In } else { Answer::Out });
                is_in
            }
        }
    }

    /// How many conditions failed at run time so far; such a segment does not contain the user.
    pub fn errors(&self) -> u32 {
        self.errors.get()
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

    fn evaluate(&self, segment: &Segment) -> bool {
        if !segment.rules.matches(self.user.traits, None) {
            return false;
        }
        let Some(condition) = &segment.targeting else {
            return true;
        };
        let lookup = |reference: &str| self.contains(reference);
        let prepared = Prepared::new(self.facts(&lookup), self.arena);
        condition.matches_prepared(&prepared).unwrap_or_else(|_| {
            self.errors.set(self.errors.get() + 1);
            false
        })
    }
}
