//! What can be said about a rule without any facts: which data it reads, which segments it
//! names, and whether a comparison in it can hold on a missing value.

use chrono::DateTime;
use datalogic_rs::bumpalo::Bump;
use serde_json::Value;

use super::condition;
use super::data::{FactsArena, Object};
use super::expr::{Expr, Operator, VarPath};
use super::facts::{EventFacts, Facts, Prepared, UserFacts};
use super::limits::Limits;
use super::native::{Node, Outcomes};
use super::parse::Context;

/// Paths of the data that are never missing where they can be read at all.
const ALWAYS_PRESENT: [&str; 6] = [
    "user.id",
    "user.created_at",
    "user.last_seen_at",
    "event.name",
    "event.timestamp",
    "now",
];

/// Whether a rule reads the event anywhere.
pub(super) fn mentions_event(expr: &Expr) -> bool {
    reads_event(expr, false)
}

fn reads_event(expr: &Expr, in_body: bool) -> bool {
    match expr {
        Expr::Var { path, default } => {
            let by_path = match path {
                // Inside an iteration the whole is the element.
                VarPath::Whole => !in_body,
                VarPath::Dotted(path) => is_event_path(path),
                VarPath::Computed(_) => true,
            };
            by_path
                || default
                    .as_deref()
                    .is_some_and(|expr| reads_event(expr, in_body))
        }
        Expr::Call(Operator::Missing, args) => args.iter().any(names_event),
        Expr::Call(Operator::MissingSome, args) => {
            let (count, paths) = (args.first(), args.get(1));
            count.is_some_and(|count| reads_event(count, in_body)) || paths.is_some_and(names_event)
        }
        Expr::Call(operator, args) if operator.is_iteration() => args
            .iter()
            .enumerate()
            .any(|(index, arg)| reads_event(arg, in_body || index == 1)),
        _ => expr
            .children()
            .into_iter()
            .any(|child| reads_event(child, in_body)),
    }
}

/// Whether an argument of `missing` names the event, or is computed and so might.
fn names_event(arg: &Expr) -> bool {
    match arg {
        Expr::Literal(Value::String(path)) => is_event_path(path),
        Expr::Literal(_) => false,
        Expr::List(items) => items.iter().any(names_event),
        _ => true,
    }
}

fn is_event_path(path: &str) -> bool {
    path.split('.').next() == Some("event")
}

/// The names given to `in_segment`, sorted, each once.
pub(super) fn segments(expr: &Expr) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        if let Expr::InSegment(name) = expr {
            names.push(name.clone());
        }
        open.extend(expr.children());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Adds the paths that are certainly there when `expr` is truthy.
pub(super) fn paths_present_when(expr: &Expr, present: &mut Vec<String>) {
    match expr {
        Expr::Var {
            path: VarPath::Dotted(path),
            default: None,
        } => present.push(path.clone()),
        Expr::Exists(value) => {
            if let Expr::Var {
                path: VarPath::Dotted(path),
                ..
            } = value.as_ref()
            {
                present.push(path.clone());
            }
        }
        Expr::Call(Operator::And, args) => {
            for arg in args {
                paths_present_when(arg, present);
            }
        }
        Expr::Call(Operator::Truthy, args) => {
            if let [arg] = args.as_slice() {
                paths_present_when(arg, present);
            }
        }
        // Nothing is missing: all the paths are there.
        Expr::Call(Operator::Not, args) => {
            if let [Expr::Call(Operator::Missing, paths)] = args.as_slice() {
                let paths = match paths.as_slice() {
                    [Expr::List(paths)] => paths,
                    paths => paths,
                };
                present.extend(paths.iter().filter_map(|path| match path {
                    Expr::Literal(Value::String(path)) => Some(path.clone()),
                    _ => None,
                }));
            }
        }
        // A test of our own is false when a value is missing, so its values are there.
        Expr::Call(operator, args) if operator.is_ours() => {
            for arg in args {
                if let Expr::Var { .. } = arg {
                    paths_present_when(arg, present);
                }
            }
        }
        _ => {}
    }
}

/// The path without which a comparison would still make its surroundings hold.
pub(super) fn holds_when_missing(
    expr: &Expr,
    context: &Context,
    limits: &Limits,
) -> Option<String> {
    let path = match expr {
        Expr::Call(operator, args) if operator.is_comparison() => {
            let path = args.iter().find_map(|arg| may_be_missing(arg, context))?;
            let plain = |arg: &Expr| match arg {
                Expr::Literal(_)
                | Expr::Var {
                    path: VarPath::Dotted(_),
                    ..
                } => true,
                Expr::List(items) => items.iter().all(|item| matches!(item, Expr::Literal(_))),
                _ => false,
            };
            if !args.iter().all(plain) {
                return None;
            }
            if holds_on_nothing(expr, limits)? == context.negated {
                return None;
            }
            path
        }
        // Our own tests are false on a missing value; only a negation turns that around.
        _ if !context.negated => return None,
        Expr::Call(operator, args) if operator.is_ours() => {
            args.iter().find_map(|arg| may_be_missing(arg, context))?
        }
        Expr::Matches { value, .. } | Expr::WithinLast { value, .. } => {
            may_be_missing(value, context)?
        }
        _ => return None,
    };
    Some(path.to_owned())
}

fn may_be_missing<'e>(expr: &'e Expr, context: &Context) -> Option<&'e str> {
    match expr {
        Expr::Var {
            path: VarPath::Dotted(path),
            default: None,
        } => {
            let certain = context.iterations == 0 && ALWAYS_PRESENT.contains(&path.as_str());
            let element = context.iterations > 0 && (path == "current" || path == "accumulator");
            let known = certain || element || context.present.contains(path);
            (!known).then_some(path)
        }
        _ => None,
    }
}

/// Whether the comparison is truthy when everything optional is missing; `None` when it fails.
fn holds_on_nothing(expr: &Expr, limits: &Limits) -> Option<bool> {
    let time = DateTime::UNIX_EPOCH;
    let facts = Facts {
        user: UserFacts {
            id: "u",
            traits: Object::EMPTY,
            created_at: time,
            last_seen_at: time,
        },
        event: Some(EventFacts {
            name: "e",
            properties: Object::EMPTY,
            context: Object::EMPTY,
            timestamp: time,
        }),
        now: time,
        segments: &|_| false,
    };
    let arena = FactsArena::new();
    let prepared = Prepared::new(facts, &arena);
    match Node::of_condition(expr).outcomes(prepared.view()) {
        Outcomes::YES => return Some(true),
        Outcomes::NO => return Some(false),
        Outcomes::FAILS => return None,
        _ => {}
    }
    let compiled = condition::compile(expr, limits).ok()?;
    let scratch = Bump::new();
    let data = prepared.root().ok()?.object;
    let engine = compiled.engine;
    let result = engine.evaluate(&compiled.logic, data, &scratch).ok()?;
    Some(engine.truthy(result))
}
