//! Which campaigns of a block can be shown, found without trying each of them.
//!
//! A [`Block`] holds campaigns of one trigger, or those that need no event, in the order of their
//! rank. Every campaign's rules are taken apart into conditions that must all hold; those about a
//! single attribute become a [`Domain`](crate::rules::native::Domain), the set of values for which they can hold. For each
//! attribute the block knows which campaigns a value rules out: sets of campaigns by class of
//! value and by text ([`texts`]), and places on the number line ([`numbers`]). A decision starts with all
//! campaigns as a set of bits and takes out, attribute by attribute, those that its value rules
//! out ([`common_attributes`]), those with few outcomes several at once ([`combined`]). Sets of an attribute are over those campaigns only that ask about it, where that
//! pays ([`spread`]). A segment is looked up only if a campaign that names it is still there.
//!
//! What is left has passed every condition that is about one attribute or a segment. For most
//! campaigns that is everything, and they match. The others are tried one by one: those with
//! conditions about several attributes, and those for which a value is *open* (a text that may be
//! read as a number, a list), by native tests, and where these are not certain by the library.
//!
//! An attribute that few campaigns ask about is *rare*. It is not looked at unless the user or the
//! event has it, and a campaign that cannot hold without it does not even start out in the set: it
//! comes in with the attribute. So the cost of a decision grows with the width of the event, with
//! what is left, and with a bit for each campaign and common attribute, but not with the number of
//! attributes that exist.
//!
//! Failures: a campaign that the index rules out is not evaluated, so a failure that its
//! evaluation would have met is not counted.

mod attribute;
mod blocks;
mod build;
mod combined;
mod common_attributes;
mod names;
mod numbers;
mod sets;
mod spread;
mod texts;
mod trying;
#[cfg(test)]
mod twins;

use std::collections::HashMap;
use std::sync::Arc;

use datalogic_rs::DataValue;
use foldhash::fast::RandomState;

use super::Campaign;
use crate::rules::native::{Attribute, Source, descend};
use crate::rules::{Allowance, FactsArena, Prepared};
use attribute::{AttributeIndex, Memory};
pub(super) use blocks::changed;
use common_attributes::CommonAttributes;
pub(super) use sets::{Place, count};
use sets::{Set, contains, insert};
pub(super) use trying::{Found, Left};

/// Campaigns that are decided on together, and their index. Immutable.
#[derive(Debug)]
pub(super) struct Block {
    campaigns: Box<[Arc<Campaign>]>,
    /// Campaigns that start out in the set.
    start: Box<[u64]>,
    /// Campaigns that match if nothing rules them out.
    complete: Box<[u64]>,
    /// Campaigns with a schedule.
    scheduled: Box<[u64]>,
    common: CommonAttributes,
    rare: Rare,
    segments: Box<[SegmentIndex]>,
    /// How many campaigns have conditions but none that the index could use.
    unindexed: usize,
    /// How many of these have no trigger.
    unindexed_untriggered: usize,
    memory: Memory,
}

/// What membership of one segment rules out.
#[derive(Debug)]
struct SegmentIndex {
    name: Box<str>,
    /// Who names the segment.
    named_by: Set,
    out_if_in: Set,
    out_if_not: Set,
}

/// Attributes that few campaigns ask about.
#[derive(Debug, Default)]
struct Rare {
    attributes: Vec<RareAttribute>,
    /// Which of them begin with a member of this name, for each of the three objects.
    by_name: [HashMap<Box<str>, Vec<u32>, RandomState>; 3],
}

#[derive(Debug)]
struct RareAttribute {
    attribute: Attribute,
    /// Over the campaigns that ask about it, numbered from 0.
    index: AttributeIndex,
    /// Their places in the block.
    places: Box<[Place]>,
    /// Of these, which come into the set with the attribute.
    enters: Box<[u64]>,
}

/// What looking up an attribute takes, in steps.
const ATTRIBUTE_STEPS: u64 = 3;

/// How many campaigns a set of those that an attribute rules out goes through in a step.
const CAMPAIGNS_A_STEP: usize = 2_048;

/// How many campaigns are gone through in a step to see what is left.
const CAMPAIGNS_LEFT_A_STEP: usize = 64;

/// The objects that have members, in the order of [`Rare::by_name`].
const OBJECTS: [Source; 3] = [Source::Traits, Source::Properties, Source::Context];

impl Block {
    /// The campaigns, best first.
    pub(super) fn campaigns(&self) -> &[Arc<Campaign>] {
        &self.campaigns
    }

    /// The steps that finding out who is left takes, whoever it is about. What rare attributes take
    /// depends on which there are.
    pub(super) fn steps(&self) -> u64 {
        let campaigns = self.campaigns.len();
        let attribute = ATTRIBUTE_STEPS + (campaigns / CAMPAIGNS_A_STEP) as u64;
        let attributes = attribute.saturating_mul(self.common.len() as u64);
        attributes.saturating_add((campaigns / CAMPAIGNS_LEFT_A_STEP) as u64)
    }

    /// How many campaigns have conditions but none that the index could use.
    pub(super) fn unindexed(&self) -> usize {
        self.unindexed
    }

    /// How many of these have no trigger, and so are in no other block.
    pub(super) fn unindexed_untriggered(&self) -> usize {
        self.unindexed_untriggered
    }

    /// The campaigns that nothing the index knows of rules out.
    /// None that are to be used if that was not allowed.
    pub(super) fn left<'a>(
        &self,
        facts: &Prepared<'_>,
        arena: &'a FactsArena,
        allowance: &Allowance<'_>,
    ) -> Left<'a> {
        let words = self.start.len();
        let left = arena.words(words);
        left.copy_from_slice(&self.start);
        let open = arena.words(words);
        self.apply_rare(facts, arena, allowance, left, open);
        common_attributes::rule_out(&self.common, facts, arena, &self.memory, left, open);
        let members = |set| self.memory.sets.members(set, words);
        for segment in &self.segments {
            if members(segment.named_by).meets(left) {
                members(match (facts.facts().segments)(&segment.name) {
                    true => segment.out_if_in,
                    false => segment.out_if_not,
                })
                .remove_from(left);
            }
        }
        let mut is_any_tried = false;
        for ((open, left), complete) in open.iter_mut().zip(&*left).zip(&self.complete) {
            *open = *left & (*open | !complete);
            is_any_tried |= *open != 0;
        }
        Left {
            left,
            tried: open,
            is_any_tried,
        }
    }

    fn apply_rare(
        &self,
        facts: &Prepared<'_>,
        arena: &FactsArena,
        allowance: &Allowance<'_>,
        left: &mut [u64],
        open: &mut [u64],
    ) {
        if self.rare.attributes.is_empty() {
            return;
        }
        let out = arena.words(left.len());
        for (source, by_name) in OBJECTS.into_iter().zip(&self.rare.by_name) {
            let Some(object) = facts.view().object(source).filter(|_| !by_name.is_empty()) else {
                continue;
            };
            for (name, value) in object.members() {
                let attributes = by_name.get(*name).map_or(&[][..], Vec::as_slice);
                // One member may be the way to any number of them.
                let steps = ATTRIBUTE_STEPS.saturating_mul(attributes.len() as u64);
                if !allowance.take(steps) {
                    return;
                }
                for &attribute in attributes {
                    if let Some(rare) = self.rare.attributes.get(attribute as usize) {
                        rare.apply(value, &self.memory, arena, left, open, out);
                    }
                }
            }
        }
        for (left, out) in left.iter_mut().zip(out) {
            *left &= !*out;
        }
    }

    /// The memory of the index, the campaigns themselves left out, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let rare = |rare: &RareAttribute| {
            size_of_val(rare)
                + size_of_val::<[Place]>(&rare.places)
                + size_of_val::<[u64]>(&rare.enters)
        };
        size_of::<Self>()
            + size_of_val::<[Arc<Campaign>]>(&self.campaigns)
            + size_of_val::<[u64]>(&self.start)
            + size_of_val::<[u64]>(&self.complete)
            + size_of_val::<[u64]>(&self.scheduled)
            + self.common.heap_bytes()
            + self.rare.attributes.iter().map(rare).sum::<usize>()
            + size_of_val::<[SegmentIndex]>(&self.segments)
            + self.memory.heap_bytes()
    }
}

impl RareAttribute {
    fn apply(
        &self,
        member: &DataValue<'_>,
        memory: &Memory,
        arena: &FactsArena,
        left: &mut [u64],
        open: &mut [u64],
        out: &mut [u64],
    ) {
        let value = descend(member, self.attribute.rest());
        let words = self.enters.len();
        let standing = self.index.look_up(self.index.seek(value, memory), memory);
        let out_of_ours = arena.words(words);
        let ruled_out = self.index.out(standing, memory, arena.words(words));
        ruled_out.insert_into(out_of_ours);
        let our_open = arena.words(words);
        for opened in self.index.open(standing, memory) {
            opened.insert_into(our_open);
        }
        for (&place, index) in self.places.iter().zip(0..) {
            if contains(out_of_ours, index) {
                insert(out, place);
            } else if contains(&self.enters, index) {
                insert(left, place);
            }
            if contains(our_open, index) {
                insert(open, place);
            }
        }
    }
}
