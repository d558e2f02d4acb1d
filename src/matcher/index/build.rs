//! Building a block.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::attribute::{AttributeIndex, Memory};
use super::sets::{Place, contains, insert, remove};
use super::{Block, CommonAttributes, OBJECTS, Rare, RareAttribute, SegmentIndex};
use crate::matcher::{Campaign, Schedule};
use crate::rules::native::{Attribute, Class, Domain, Node, Outcomes};

/// An attribute that fewer than one in so many campaigns ask about is rare.
const RARE_SHARE: usize = 64;

type Asking<'c> = HashMap<&'c Attribute, Vec<(Place, Domain<'c>)>, RandomState>;

/// What is known of one campaign while its block is built.
#[derive(Clone, Copy)]
struct Plan {
    /// Nothing is left to be tried when nothing rules it out.
    is_complete: bool,
    is_indexed: bool,
    /// It cannot match at all.
    is_dead: bool,
}

impl Plan {
    /// Whether it has conditions but none that the index can use.
    fn is_unindexed(self) -> bool {
        !self.is_indexed && !self.is_complete && !self.is_dead
    }
}

/// Who names a segment.
#[derive(Default)]
struct Named {
    in_it: Vec<Place>,
    not_in_it: Vec<Place>,
}

impl Block {
    /// Indexes campaigns, given best first.
    pub(in crate::matcher) fn new(campaigns: Vec<Arc<Campaign>>) -> Block {
        let words = campaigns.len().div_ceil(64);
        let mut asking = Asking::default();
        let mut named: HashMap<&str, Named> = HashMap::new();
        let mut plans = Vec::with_capacity(campaigns.len());
        for (campaign, place) in campaigns.iter().zip(0..) {
            plans.push(take_apart(campaign, place, &mut asking, &mut named));
        }
        let mut asking: Vec<_> = asking.into_iter().collect();
        asking.sort_unstable_by_key(|(attribute, _)| *attribute);
        let (rare, common): (Vec<_>, Vec<_>) =
            asking.into_iter().partition(|(attribute, asking)| {
                attribute.name().is_some() && asking.len() * RARE_SHARE < campaigns.len()
            });
        let mut start = vec![0; words];
        for (plan, place) in plans.iter().zip(0..) {
            if !plan.is_dead {
                insert(&mut start, place);
            }
        }
        let mut memory = Memory::default();
        let rare = build_rare(rare, &mut start, &mut plans, &mut memory);
        let mut complete = vec![0; words];
        for (plan, place) in plans.iter().zip(0..) {
            if plan.is_complete {
                insert(&mut complete, place);
            }
        }
        let common = CommonAttributes::new(common, words, &mut memory);
        let mut named: Vec<_> = named.into_iter().collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        let segments = named.into_iter().map(|(name, named)| {
            let mut all = [named.in_it.as_slice(), &named.not_in_it].concat();
            all.sort_unstable();
            SegmentIndex {
                name: name.into(),
                named_by: memory.sets.add(&all, words),
                out_if_in: memory.sets.add(&named.not_in_it, words),
                out_if_not: memory.sets.add(&named.in_it, words),
            }
        });
        let segments = segments.collect();
        let mut scheduled = vec![0; words];
        for (campaign, place) in campaigns.iter().zip(0..) {
            if campaign.schedule != Schedule::default() {
                insert(&mut scheduled, place);
            }
        }
        memory.shrink();
        Block {
            start: start.into(),
            complete: complete.into(),
            scheduled: scheduled.into(),
            common,
            rare,
            segments,
            unindexed: plans.iter().filter(|plan| plan.is_unindexed()).count(),
            unindexed_untriggered: plans
                .iter()
                .zip(&campaigns)
                .filter(|(plan, campaign)| plan.is_unindexed() && campaign.trigger.is_none())
                .count(),
            campaigns: campaigns.into(),
            memory,
        }
    }
}

fn take_apart<'c>(
    campaign: &'c Campaign,
    place: Place,
    asking: &mut Asking<'c>,
    named: &mut HashMap<&'c str, Named>,
) -> Plan {
    let mut plan = Plan {
        is_complete: true,
        is_indexed: false,
        is_dead: false,
    };
    let mut parts = Vec::new();
    let mut asked = Vec::new();
    campaign.extras().gates.conjuncts(&mut parts);
    if let Some(targeting) = &campaign.targeting {
        targeting.node().conjuncts(&mut parts);
    }
    for part in parts {
        match part {
            Node::Always(Outcomes::YES) => continue,
            Node::Always(outcomes) if !outcomes.may_hold() => plan.is_dead = true,
            Node::Segment(name) => push(&mut named.entry(name).or_default().in_it, place),
            Node::Not(inner) if matches!(**inner, Node::Segment(_)) => {
                if let Node::Segment(name) = &**inner {
                    push(&mut named.entry(name).or_default().not_in_it, place);
                }
            }
            part => {
                let Some(of_one) = Domain::of(part) else {
                    plan.is_complete = false;
                    continue;
                };
                asked.push(of_one);
            }
        }
        plan.is_indexed = true;
    }
    asked.sort_by_key(|(attribute, _)| *attribute);
    let mut asked = asked.into_iter().peekable();
    while let Some((attribute, domain)) = asked.next() {
        let mut domains = vec![domain];
        while let Some((_, domain)) = asked.next_if(|(other, _)| *other == attribute) {
            domains.push(domain);
        }
        if let Some(domain) = Domain::of_all(domains) {
            asking.entry(attribute).or_default().push((place, domain));
        }
    }
    plan
}

/// Keeps a rising list free of repetitions.
fn push(places: &mut Vec<Place>, place: Place) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}

fn build_rare<'c>(
    attributes: Vec<(&'c Attribute, Vec<(Place, Domain<'c>)>)>,
    start: &mut [u64],
    plans: &mut [Plan],
    memory: &mut Memory,
) -> Rare {
    // A campaign that cannot hold without a rare attribute comes in with the rarest of these.
    let mut enters_with: HashMap<Place, (usize, usize)> = HashMap::new();
    for (index, (_, asking)) in attributes.iter().enumerate() {
        for (place, domain) in asking {
            if !domain.yes.has(Class::Missing) && contains(start, *place) {
                let candidate = (asking.len(), index);
                let rarest = enters_with.entry(*place).or_insert(candidate);
                *rarest = candidate.min(*rarest);
            }
        }
    }
    for place in enters_with.keys() {
        remove(start, *place);
    }
    let mut rare = Rare::default();
    for (index, (attribute, mut asking)) in attributes.into_iter().enumerate() {
        let words = asking.len().div_ceil(64);
        let mut enters = vec![0; words];
        for ((place, domain), local) in asking.iter().zip(0..) {
            if enters_with
                .get(place)
                .is_some_and(|(_, with)| *with == index)
            {
                insert(&mut enters, local);
            } else if !domain.yes.has(Class::Missing)
                && let Some(plan) = plans.get_mut(usize::from(*place))
            {
                // Nobody looks whether the attribute is absent.
                plan.is_complete = false;
            }
        }
        let places: Vec<Place> = asking.iter().map(|(place, _)| *place).collect();
        let position = OBJECTS
            .iter()
            .position(|source| *source == attribute.source);
        if let (Some(object), Some(name)) = (position, attribute.name())
            && let Some(by_name) = rare.by_name.get_mut(object)
        {
            let number = u32::try_from(rare.attributes.len()).unwrap_or(u32::MAX);
            by_name.entry(name.into()).or_default().push(number);
        }
        for ((place, _), local) in asking.iter_mut().zip(0..) {
            *place = local;
        }
        rare.attributes.push(RareAttribute {
            attribute: attribute.clone(),
            index: AttributeIndex::new(&asking, memory, words),
            places: places.into(),
            enters: enters.into(),
        });
    }
    rare
}
