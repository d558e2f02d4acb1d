//! Segments: named conditions over a user's traits, evaluated for one user at a time.
//!
//! Pure. A segment knows its rules and targeting, nothing of people's storage. It may name other
//! segments with `in_segment`; [`Segments::new`] keeps all of them, and [`Membership`] answers for
//! one user, each segment at most once. Saving refuses a segment that would contain itself, and
//! chains of more than [`CHAIN_MAX`]; should such a thing slip in (an import, say), the membership
//! that is being computed counts as "not in", and so does a segment at the end of a longer chain.

mod membership;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::rules::{Condition, Limits, RuleError, RuleList, RuleWarning, Work};

pub use membership::Membership;

/// A segment, compiled.
#[derive(Debug)]
pub struct Segment {
    /// Its id.
    pub id: String,
    /// Its name; rules may use either.
    pub name: String,
    rules: RuleList,
    /// The rules as JSON.
    rules_source: Box<str>,
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
        Ok(Self {
            id: id.to_owned(),
            name: name(body).to_owned(),
            rules,
            rules_source: source(body.get("rules")).into(),
            targeting,
        })
    }

    /// Whether compiling this body would give the same segment again.
    pub fn is_of(&self, id: &str, body: &Map<String, Value>) -> bool {
        let targeting = body.get("targeting").filter(|json| !json.is_null());
        let is_same_targeting = match (&self.targeting, targeting) {
            (None, None) => true,
            (Some(held), Some(json)) => held.is_of(json),
            _ => false,
        };
        self.id == id
            && self.name == name(body)
            && *self.rules_source == *source(body.get("rules"))
            && is_same_targeting
    }

    /// The seed's rules.
    pub fn rules(&self) -> &RuleList {
        &self.rules
    }

    /// The JsonLogic.
    pub fn targeting(&self) -> Option<&Condition> {
        self.targeting.as_ref()
    }

    /// The segments this one names.
    pub fn references(&self) -> &[String] {
        self.targeting.as_ref().map_or(&[], Condition::segments)
    }

    fn cost(&self) -> u64 {
        let rules = u64::try_from(self.rules.len()).unwrap_or(u64::MAX);
        rules.saturating_add(self.targeting.as_ref().map_or(0, Condition::cost))
    }

    /// What finding out who is in it can take; what it names is left out.
    fn work(&self) -> Work {
        let rules = u64::try_from(self.rules.len()).unwrap_or(u64::MAX);
        let targeting = self.targeting.as_ref().map(Condition::work);
        Work::on_text(rules) + targeting.unwrap_or_default()
    }

    /// What an admin may want to know; pointers lead into `/targeting`.
    pub fn warnings(&self, limits: &Limits) -> Vec<RuleWarning> {
        let targeting = self.targeting.as_ref();
        targeting.map_or_else(Vec::new, |condition| condition.warnings(limits))
    }
}

/// The name as lists show it: without spaces around it.
fn name(body: &Map<String, Value>) -> &str {
    let name = body.get("name").and_then(Value::as_str);
    name.unwrap_or_default().trim()
}

fn source(json: Option<&Value>) -> String {
    json.map_or_else(String::new, Value::to_string)
}

/// How many segments may stand in a chain, each naming the next. Each is a level of recursion.
pub const CHAIN_MAX: usize = 32;

/// All segments of a project, found by id or, where no id matches, by name.
#[derive(Debug, Default)]
pub struct Segments {
    list: Vec<Arc<Segment>>,
    by_reference: HashMap<String, usize>,
    /// How long the chain is that begins with each.
    chains: Vec<usize>,
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
        let mut segments = Self {
            list,
            by_reference,
            chains: Vec::new(),
        };
        segments.chains = segments.measure_chains();
        segments
    }

    /// What [`Segments::chains`] holds. One that leads to a segment that contains itself has no end;
    /// who is in it would depend on who is asked first, so nobody is.
    fn measure_chains(&self) -> Vec<usize> {
        let mut chains: Vec<Option<usize>> = vec![None; self.list.len()];
        for start in 0..self.list.len() {
            let mut open = vec![(start, false)];
            while let Some((index, is_after)) = open.pop() {
                let Some(segment) = self.list.get(index) else {
                    continue;
                };
                let references = segment.references().iter();
                let next = references.filter_map(|name| self.index_of(name));
                if is_after {
                    let longest = next.filter_map(|next| chains.get(next).copied().flatten());
                    let longest = longest.max().unwrap_or(0);
                    if let Some(chain) = chains.get_mut(index) {
                        *chain = Some(longest.saturating_add(1));
                    }
                } else if chains.get(index).copied().flatten().is_none() {
                    // Whoever comes by again meanwhile is part of a circle.
                    if let Some(chain) = chains.get_mut(index) {
                        *chain = Some(usize::MAX);
                    }
                    open.push((index, true));
                    open.extend(next.map(|next| (next, false)));
                }
            }
        }
        chains.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// How long the longest chain is.
    pub fn longest_chain(&self) -> usize {
        self.chains.iter().copied().max().unwrap_or(0)
    }

    /// How long it would be with this segment among them or in its former one's place.
    pub fn longest_chain_with(&self, candidate: Segment) -> usize {
        let mut list = self.list.clone();
        let candidate = Arc::new(candidate);
        match list.iter_mut().find(|held| held.id == candidate.id) {
            Some(held) => *held = candidate,
            None => list.push(candidate),
        }
        Self::new(list).longest_chain()
    }

    /// Every segment, oldest first.
    pub fn list(&self) -> &[Arc<Segment>] {
        &self.list
    }

    /// The segment a rule means by this id or name, which it may write with spaces around it.
    pub fn find(&self, reference: &str) -> Option<&Arc<Segment>> {
        self.index_of(reference)
            .and_then(|index| self.list.get(index))
    }

    fn index_of(&self, reference: &str) -> Option<usize> {
        let found = self.by_reference.get(reference);
        let found = found.or_else(|| self.by_reference.get(reference.trim()));
        found.copied()
    }

    /// The most steps that it can take to find out who is in these and in those that they name, each of
    /// them once.
    pub fn cost<'r>(&'r self, references: impl IntoIterator<Item = &'r str>) -> u64 {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut open: Vec<&str> = references.into_iter().collect();
        let mut steps = 0_u64;
        while let Some(reference) = open.pop() {
            let Some(segment) = self.find(reference) else {
                continue;
            };
            if seen.insert(&segment.id) {
                steps = steps.saturating_add(segment.cost());
                open.extend(segment.references().iter().map(String::as_str));
            }
        }
        steps
    }

    /// The segments by way of which `candidate` would contain itself, if it would, by name.
    pub fn cycle_through(&self, candidate: &Segment) -> Option<Vec<String>> {
        let is_candidate = |reference: &str| {
            reference == candidate.id
                || (reference.trim() == candidate.name
                    && self
                        .find(reference)
                        .is_none_or(|found| found.id == candidate.id))
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut open: Vec<(&str, Vec<String>)> = candidate
            .references()
            .iter()
            .map(|name| (name.as_str(), Vec::new()))
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
            path.push(segment.name.clone());
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::atomic::AtomicBool;

    use serde_json::json;

    use chrono::DateTime;

    use super::*;
    use crate::rules::{Allowance, FactsArena, Object, UserFacts};

    fn segment(id: &str, targeting: &Value) -> Segment {
        let body = json!({"name": id, "targeting": targeting});
        Segment::compile(id, body.as_object().unwrap(), &Limits::default()).unwrap()
    }

    /// Each but the first names the one before it.
    fn chain(length: usize) -> Segments {
        let list = (0..length).map(|number| {
            let before = format!("s{}", number.wrapping_sub(1));
            let targeting = match number {
                0 => json!(true),
                _ => json!({"in_segment": before}),
            };
            Arc::new(segment(&format!("s{number}"), &targeting))
        });
        Segments::new(list.collect())
    }

    fn is_in(segments: &Segments, reference: &str) -> bool {
        is_in_within(&Allowance::boundless(None), segments, reference)
    }

    fn is_in_within(all: &Allowance<'_>, segments: &Segments, reference: &str) -> bool {
        let arena = FactsArena::new();
        let user = UserFacts {
            id: "u",
            traits: Object::EMPTY,
            created_at: DateTime::UNIX_EPOCH,
            last_seen_at: DateTime::UNIX_EPOCH,
        };
        let membership = Membership::new(segments, user, DateTime::UNIX_EPOCH, &arena);
        membership.within(all).contains(reference)
    }

    #[test]
    fn segments_are_evaluated_while_that_is_allowed_and_wanted() {
        let segments = chain(2);
        let each = segments.list[1].work().steps(0);
        for (work, is_enough) in [(2 * each, true), (2 * each - 1, false), (0, false)] {
            let little = Allowance::of(work, 0);
            assert_eq!(is_in_within(&little, &segments, "s1"), is_enough);
            assert_eq!(little.is_over(), !is_enough);
        }
        for has_gone in [false, true] {
            let has_gone = AtomicBool::new(has_gone);
            let all = Allowance::boundless(Some(&has_gone));
            assert_eq!(is_in_within(&all, &segments, "s1"), !all.is_over());
        }
    }

    #[test]
    fn a_chain_is_followed_as_far_as_its_bound_and_a_longer_one_overflows_nothing() {
        let segments = chain(20_000);
        assert_eq!(segments.longest_chain(), 20_000);
        assert!(is_in(&segments, &format!("s{}", CHAIN_MAX - 1)));
        for beyond in [CHAIN_MAX, 19_999] {
            assert!(!is_in(&segments, &format!("s{beyond}")), "{beyond}");
        }
    }

    #[test]
    fn spaces_around_a_name_are_no_part_of_it() {
        let body = json!({"name": " vip ", "targeting": true});
        let body = body.as_object().unwrap();
        let vip = Segment::compile("s0", body, &Limits::default()).unwrap();
        assert_eq!(vip.name, "vip");
        let of_vip = segment("s1", &json!({"in_segment": "vip"}));
        let written = segment("s2", &json!({"in_segment": " vip "}));
        let list = [vip, of_vip, written].map(Arc::new).to_vec();
        let segments = Segments::new(list);
        for reference in ["vip", " vip ", "s1", "s2"] {
            assert!(is_in(&segments, reference), "{reference:?}");
        }
        let circle = json!({"name": " vip", "targeting": {"in_segment": " s2"}});
        let circle = circle.as_object().unwrap();
        let circle = Segment::compile("s0", circle, &Limits::default()).unwrap();
        assert!(segments.cycle_through(&circle).is_some());
    }

    #[test]
    fn a_candidate_counts_with_those_that_name_it() {
        let segments = chain(10);
        let after = segment("new", &json!({"in_segment": "s9"}));
        assert_eq!(segments.longest_chain_with(after), 11);
        let beside = segment("new", &json!({"in_segment": "s3"}));
        assert_eq!(segments.longest_chain_with(beside), 10);
        // The first of the chain names others from now on.
        let first = segment(
            "s0",
            &json!({"or": [{"in_segment": "x"}, {"in_segment": "y"}]}),
        );
        assert_eq!(segments.longest_chain_with(first), 10);
        let circle = segment("s0", &json!({"in_segment": "s9"}));
        assert!(segments.longest_chain_with(circle) >= 10);
    }
}
