//! So many campaigns of one trigger that the index holds them in several blocks, at once and step by
//! step.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use beckon::matcher::{Campaign, Snapshot};
use beckon::rules::FactsArena;
use beckon::segments::Segments;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Moment, Slow, assert_met, compiled, parsed, parsed_segments, plain_campaign, plain_moment,
    shown,
};
use crate::support::is_soak;
use crate::support::property::run;

/// More than a block holds.
const LEAST: usize = 7_000;
/// Each rule is that of several campaigns, so that the slow matcher is asked once for all of them.
const RULES: usize = 500;
/// Campaigns that are there in another version before they are as they should be.
const OUTDATED: usize = 1_000;
/// Campaigns that are there only before, and those that are there from the start.
const PASSING: usize = 500;
const FIRST: usize = 3_000;

/// Campaigns with these rules in turns, the lowest priority being the one that goes and comes back.
fn bodies(rules: &[Value], count: usize, shift: usize) -> Vec<Value> {
    let body = |index: usize| {
        let mut body = rules[(index + shift) % rules.len()].clone();
        body["priority"] = json!(priority(index));
        body
    };
    (0..count).map(body).collect()
}

fn priority(index: usize) -> usize {
    index * 7 % 4
}

/// The same campaigns, after all kinds of changes of blocks: they grow and are cut, whole ranges of
/// the ranking go and come back, and some campaigns become others where they are.
fn in_steps(
    all: &[Arc<Campaign>],
    outdated: &[Arc<Campaign>],
    passing: &[Arc<Campaign>],
) -> Snapshot {
    let change = |from: &Snapshot, gone: Vec<String>, came: Vec<Arc<Campaign>>| {
        let revision = from.revision() + 1;
        from.changed(revision, &gone, came, Segments::default(), HashMap::new())
    };
    let later = || all[OUTDATED..].iter();
    let is_lowest = |campaign: &&Arc<Campaign>| campaign.priority() == 0;
    let first = [outdated, &all[OUTDATED..FIRST], passing].concat();
    let first = Snapshot::new(1, first, Segments::default(), HashMap::new());
    let more = change(&first, Vec::new(), all[FIRST..].to_vec());
    let gone = passing.iter().chain(later().filter(is_lowest));
    let less = change(&more, gone.map(|it| it.id.clone()).collect(), Vec::new());
    // A campaign that comes in another version goes in the one before.
    let gone = outdated.iter().map(|it| it.id.clone()).collect();
    let again = all[..OUTDATED].iter().chain(later().filter(is_lowest));
    change(&less, gone, again.cloned().collect())
}

fn compare(
    rules: &[Value],
    count: usize,
    moments: &[Moment],
    matches: &AtomicU64,
) -> Result<(), TestCaseError> {
    let mut all = compiled(&bodies(rules, count + PASSING, 0));
    let passing = all.split_off(count);
    let outdated = compiled(&bodies(rules, OUTDATED, 1));
    let steps = in_steps(&all, &outdated, &passing);
    let at_once = Snapshot::new(1, all, Segments::default(), HashMap::new());
    prop_assert_eq!(at_once.campaigns().len(), count);
    prop_assert_eq!(steps.campaigns().len(), count);
    let parsed = parsed(rules);
    let segments = parsed_segments();
    let mut arena = FactsArena::new();
    for moment in moments {
        arena.reset();
        let slow = Slow::at(moment, &segments, &arena);
        let holds: Vec<bool> = parsed
            .iter()
            .map(|rule| slow.first_closed(rule).is_none())
            .collect();
        let mut expected: Vec<usize> = (0..count)
            .filter(|index| holds[index % rules.len()])
            .collect();
        expected.sort_by_key(|&index| (Reverse(priority(index)), Reverse(index)));
        matches.fetch_add(expected.len() as u64, Ordering::Relaxed);
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        prop_assert_eq!(&shown(&at_once, &slow, &arena), &expected, "{:?}", moment);
        prop_assert_eq!(
            &shown(&steps, &slow, &arena),
            &expected,
            "steps, {:?}",
            moment
        );
    }
    Ok(())
}

#[test]
fn campaigns_of_several_blocks_are_decided_as_one_by_one() {
    let (cases, matches) = (if is_soak() { 50 } else { 1 }, AtomicU64::new(0));
    let strategy = (
        prop::collection::vec(plain_campaign(), RULES),
        LEAST..2 * LEAST,
        prop::collection::vec(plain_moment(), 12),
    );
    run(cases, strategy, |(rules, count, moments)| {
        compare(&rules, count, &moments, &matches)
    });
    // Some 5 % of the pairs, at the least.
    assert_met("matches", matches, 1_000, 100_000);
}
