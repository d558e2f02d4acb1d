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
mod compile;
mod domain;
mod literals;
mod outcome;
mod ranges;
mod solve;
mod test;
mod view;

pub(crate) use domain::{Class, Domain, is_numeric_text};
pub use outcome::Outcomes;
pub(crate) use ranges::{Cut, Ranges};
pub(crate) use solve::possible;
pub(crate) use test::{Literal, Order, Test, micros};
pub(crate) use view::{Attribute, Source, View, descend};

/// A condition in native form.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// The same for everybody.
    Always(Outcomes),
    /// A test of one value.
    Test {
        /// Which value.
        attribute: Attribute,
        /// What the test sees where there is none.
        missing: Missing,
        /// What is asked of it.
        test: Test,
    },
    /// The user is in the segment of this id or name.
    Segment(Box<str>),
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

/// What a test sees where there is no value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Missing {
    /// The test does not hold, whatever it asks (the seed's rules).
    No,
    /// The default of `var`, which is null where none is given.
    Value(Literal),
}

impl Node {
    /// The answers that are possible on these facts.
    pub(crate) fn outcomes(&self, view: &View<'_>) -> Outcomes {
        match self {
            Node::Always(outcomes) => *outcomes,
            Node::Test {
                attribute,
                missing,
                test,
            } => match (view.value(attribute), missing) {
                (Some(value), _) => test.outcome(value, view.now_micros()),
                (None, Missing::No) => Outcomes::NO,
                (None, Missing::Value(literal)) => {
                    test.outcome(&literal.value(), view.now_micros())
                }
            },
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
            Node::Always(_) | Node::Test { .. } | Node::Segment(_) => false,
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
