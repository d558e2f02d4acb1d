//! Conditions as native tests: the part of a rule that needs no evaluator.
//!
//! [`Node::of_condition`] and the seed's rules become a tree of typed [`Test`]s of one attribute
//! each. A tree answers with [`Outcomes`], the answers that are still possible, and follows the
//! evaluator step by step: what stands first counts first, a failure stays a failure under any
//! negation, conversions are the evaluator's own. Where a rule does something that is not written
//! down here the node is [`Node::Ask`], every outcome is possible, and the library decides. So a
//! certain answer is always the library's answer, and what is certainly not a yes needs no
//! question.
//!
//! For an index, [`Domain`] turns a tree about a single attribute into the set of values for which
//! it can hold.
mod by_kind;
mod compile;
mod domain;
mod literals;
mod outcome;
mod ranges;
mod solve;
mod test;
mod text_list;
mod view;

use lean_string::LeanStr;

pub(crate) use domain::{Class, Domain, Lookup, is_numeric_text};
pub use outcome::Outcomes;
pub(crate) use ranges::{Cut, Ranges};
pub(crate) use solve::possible;
pub(crate) use test::{Literal, Order, Test, micros};
use text_list::TextList;
pub(crate) use view::{Attribute, Source, View, descend};

/// A condition in native form.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// The same for everybody.
    Always(Outcomes),
    /// A test of one value, where [`Test::missing`] stands for a missing one.
    Test {
        /// Which value.
        attribute: Attribute,
        /// What is asked of it.
        test: Test,
    },
    /// A test of one value that has a default.
    Defaulted(Box<Defaulted>),
    /// The user is in the segment of this id or name.
    Segment(LeanStr),
    /// `and`.
    All(Box<[Node]>),
    /// `or`.
    Any(Box<[Node]>),
    /// `!`.
    Not(Box<Node>),
    /// `if`: condition, value, and value otherwise.
    Choice(Box<[Node; 3]>),
    /// Only the library can tell.
    Ask,
}

/// A test of one value, with the default of `var`, which is not null.
#[derive(Debug, Clone)]
pub(crate) struct Defaulted {
    attribute: Attribute,
    default: Literal,
    test: Test,
}

/// What a test sees where there is no value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Missing<'n> {
    /// The test does not hold, whatever it asks (the seed's rules).
    No,
    /// The default of `var`, which is null where none is given.
    Value(&'n Literal),
}

/// What a test asks, and of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'n> {
    /// Which value.
    pub(crate) attribute: &'n Attribute,
    /// What the test sees where there is none.
    pub(crate) missing: Missing<'n>,
    pub(crate) test: &'n Test,
}

impl Asked<'_> {
    /// Whether something other than null stands for a missing value.
    fn has_default(&self) -> bool {
        matches!(self.missing, Missing::Value(literal) if *literal != Literal::Null)
    }

    fn outcomes(&self, view: &View<'_>) -> Outcomes {
        let now = view.now_micros();
        match (view.value(self.attribute), self.missing) {
            (Some(value), _) => self.test.outcome_with(value, now, view.conversions()),
            (None, Missing::No) => Outcomes::NO,
            (None, Missing::Value(literal)) => self.test.outcome(&literal.value(), now),
        }
    }
}

impl Node {
    /// The test, where the node is one.
    pub(crate) fn asked(&self) -> Option<Asked<'_>> {
        match self {
            Node::Test { attribute, test } => Some(Asked {
                attribute,
                missing: test.missing(),
                test,
            }),
            Node::Defaulted(whole) => Some(Asked {
                attribute: &whole.attribute,
                missing: Missing::Value(&whole.default),
                test: &whole.test,
            }),
            _ => None,
        }
    }

    /// The answers that are possible on these facts.
    pub(crate) fn outcomes(&self, view: &View<'_>) -> Outcomes {
        match self {
            Node::Always(outcomes) => *outcomes,
            Node::Test { .. } | Node::Defaulted(_) => self
                .asked()
                .map_or(Outcomes::ASK, |asked| asked.outcomes(view)),
            Node::Segment(name) => Outcomes::certain(view.is_in_segment(name)),
            Node::All(nodes) => Outcomes::all(nodes.iter().map(|node| node.outcomes(view))),
            Node::Any(nodes) => Outcomes::any(nodes.iter().map(|node| node.outcomes(view))),
            Node::Not(node) => node.outcomes(view).negated(),
            Node::Choice(nodes) => {
                let [condition, value, otherwise] = &**nodes;
                let condition = condition.outcomes(view);
                Outcomes::choice(
                    condition,
                    || value.outcomes(view),
                    || otherwise.outcomes(view),
                )
            }
            Node::Ask => Outcomes::ASK,
        }
    }

    /// Whether the library may have to be asked.
    pub(crate) fn needs_library(&self) -> bool {
        match self {
            Node::Always(_) | Node::Test { .. } | Node::Defaulted(_) | Node::Segment(_) => false,
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().any(Node::needs_library),
            Node::Not(node) => node.needs_library(),
            Node::Choice(nodes) => nodes.iter().any(Node::needs_library),
            Node::Ask => true,
        }
    }

    /// The parts that must all hold, one by one, for this to hold.
    pub(crate) fn conjuncts<'n>(&'n self, parts: &mut Vec<&'n Node>) {
        match self {
            Node::All(nodes) => nodes.iter().for_each(|node| node.conjuncts(parts)),
            node => parts.push(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are some for each campaign.
    #[test]
    fn nodes_are_small() {
        assert_eq!(size_of::<Literal>(), 16);
        assert_eq!(size_of::<Node>(), 48);
    }
}
