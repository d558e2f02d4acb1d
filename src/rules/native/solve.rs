//! Whether a condition can come out a certain way at all, found out without any facts.
//!
//! [`possible`] looks for a way through the tree, and on the way collects what would have to be
//! true of each attribute ([`super::literals`]). An answer of `false` is certain: there are no
//! facts on which all the nodes come out as wanted. An answer of `true` may also mean that it was
//! not found out, because only the library can tell, or because the search became too long.

use super::literals::{self, Claim};
use super::{Asked, Node, Outcomes};

/// Steps of one search. Beyond it everything counts as possible.
const STEPS_MAX: usize = 20_000;

/// Alternatives within alternatives, which bounds the recursion.
const DEPTH_MAX: usize = 64;

/// A node, and how it is to come out: exactly one of yes, no and failure.
pub(crate) type Goal<'n> = (&'n Node, Outcomes);

/// Whether there may be facts on which all these nodes come out as wanted. If a name is given, only
/// facts with an event of that name count; where a node reads the event there must be one.
pub(crate) fn possible<'n>(goals: &[Goal<'n>], event_name: Option<&'n str>) -> bool {
    let mut search = Search {
        event_name,
        steps_left: STEPS_MAX,
    };
    let goals = goals.iter().rev().copied().collect();
    search.run(goals, Found::default(), 0)
}

struct Search<'n> {
    event_name: Option<&'n str>,
    steps_left: usize,
}

/// What is settled on one way through the tree.
#[derive(Clone, Default)]
struct Found<'n> {
    claims: Vec<Claim<'n>>,
    /// Segments, and whether the user is in them.
    segments: Vec<(&'n str, bool)>,
    /// Nodes of which one part or another has to come out as wanted.
    open: Vec<Goal<'n>>,
}

impl<'n> Search<'n> {
    fn run(&mut self, mut goals: Vec<Goal<'n>>, mut found: Found<'n>, depth: usize) -> bool {
        while let Some((node, wanted)) = goals.pop() {
            if !self.step(1) {
                return true;
            }
            match node {
                Node::Ask => {}
                Node::Always(outcomes) => {
                    if !outcomes.meets(wanted) {
                        return false;
                    }
                }
                Node::Segment(name) => {
                    let is_in = wanted == Outcomes::YES;
                    if wanted == Outcomes::FAILS || found.segments.contains(&(name, !is_in)) {
                        return false;
                    }
                    found.segments.push((name, is_in));
                }
                Node::Test { .. } | Node::Defaulted(_) => {
                    let Some(asked) = node.asked() else {
                        continue;
                    };
                    let Asked {
                        attribute,
                        missing,
                        test,
                    } = asked;
                    found.claims.push(Claim {
                        attribute,
                        missing,
                        test,
                        wanted,
                    });
                    let claims = found.claims.iter();
                    let of_it: Vec<_> = claims.filter(|it| it.attribute == attribute).collect();
                    if !self.step(found.claims.len() + literals::work(&of_it)) {
                        return true;
                    }
                    if !literals::possible(&of_it, self.event_name) {
                        return false;
                    }
                }
                Node::Not(inner) => goals.push((&**inner, wanted.negated())),
                Node::All(nodes) if wanted == Outcomes::YES => push_all(&mut goals, nodes, wanted),
                Node::Any(nodes) if wanted == Outcomes::NO => push_all(&mut goals, nodes, wanted),
                Node::All(_) | Node::Any(_) | Node::Choice(_) => found.open.push((node, wanted)),
            }
        }
        let Some((node, wanted)) = found.open.pop() else {
            return true;
        };
        if depth >= DEPTH_MAX {
            return true;
        }
        alternatives(node, wanted).into_iter().any(|goals| {
            let cost = found.claims.len() + found.segments.len() + found.open.len();
            !self.step(cost) || self.run(goals, found.clone(), depth + 1)
        })
    }

    /// Takes so many steps; false if there are none left.
    fn step(&mut self, count: usize) -> bool {
        self.steps_left = self.steps_left.saturating_sub(count);
        self.steps_left > 0
    }
}

/// The first is looked at first.
fn push_all<'n>(goals: &mut Vec<Goal<'n>>, nodes: &'n [Node], wanted: Outcomes) {
    goals.extend(nodes.iter().rev().map(|node| (node, wanted)));
}

/// The ways in which a node can come out as wanted. What would have to be true of the parts before
/// is left out, so these are more than there are.
fn alternatives(node: &Node, wanted: Outcomes) -> Vec<Vec<Goal<'_>>> {
    match node {
        Node::All(nodes) | Node::Any(nodes) => {
            nodes.iter().map(|node| vec![(node, wanted)]).collect()
        }
        Node::Choice(nodes) => {
            let [condition, value, otherwise] = &**nodes;
            let mut ways = vec![
                vec![(value, wanted), (condition, Outcomes::YES)],
                vec![(otherwise, wanted), (condition, Outcomes::NO)],
            ];
            if wanted == Outcomes::FAILS {
                ways.push(vec![(condition, Outcomes::FAILS)]);
            }
            ways
        }
        node => vec![vec![(node, wanted)]],
    }
}
