//! Takes a rule apart, down to its conditions.

use serde_json::Value;

use super::join::{Step, blames, join, leaf};
use super::seen::{Seen, bounded_json};
use super::{PARTS_MAX, SEEN_MAX, TraceOutcome, TracePart};
use crate::rules::condition::{Condition, EvalError};
use crate::rules::effort;
use crate::rules::expr::{Expr, Operator, VarPath};
use crate::rules::facts::Prepared;
use crate::rules::limits::{Limits, push_token};
use crate::rules::native::{Attribute, Outcomes};
use crate::rules::source::SourceText;

pub(super) struct Walk<'w, 'a> {
    prepared: &'w Prepared<'a>,
    limits: &'w Limits,
    shows: bool,
    parts_left: usize,
    /// What had been looked at before.
    looked_at: u64,
}

impl<'w, 'a> Walk<'w, 'a> {
    pub(super) fn new(prepared: &'w Prepared<'a>, limits: &'w Limits, shows: bool) -> Self {
        Self {
            prepared,
            limits,
            shows,
            parts_left: PARTS_MAX,
            looked_at: effort::looked_at(),
        }
    }

    /// Whether the parts have looked at more than one evaluation may. What is found out of the others
    /// is then of no use.
    pub(super) fn is_too_much(&self) -> bool {
        effort::looked_at().saturating_sub(self.looked_at) > effort::EFFORT_MAX
    }

    /// Explains the part at `pointer`, which is left as it was. The depth of rules is bounded when
    /// they are saved.
    pub(super) fn step(
        &mut self,
        json: &Value,
        expr: &Expr,
        pointer: &mut String,
        reached: bool,
    ) -> Step {
        let length = pointer.len();
        let call = json.as_object().and_then(|members| members.iter().next());
        if let Some((name, _)) = call {
            push_token(pointer, name);
        }
        let step = match (expr, call) {
            (Expr::Call(operator, args), Some((name, written))) if joins(*operator) => {
                let node = (name.as_str(), json, *operator);
                self.joined(node, written, args, pointer, reached)
            }
            _ => {
                let operator = call.map_or("value", |(name, _)| name);
                self.condition(operator, json, expr, pointer, reached)
            }
        };
        pointer.truncate(length);
        step
    }

    fn joined(
        &mut self,
        (name, json, operator): (&str, &Value, Operator),
        written: &Value,
        args: &[Expr],
        pointer: &mut String,
        reached: bool,
    ) -> Step {
        // The part's own place is taken before its parts take theirs.
        let is_shown = self.take_place();
        let mut steps: Vec<Step> = Vec::with_capacity(args.len());
        // `!` and `!!` look at their first argument only.
        let is_single = matches!(operator, Operator::Not | Operator::Truthy);
        let looked_at = if is_single { 1 } else { usize::MAX };
        for (index, arg) in args.iter().enumerate().take(looked_at) {
            let is_reached = reached && is_reached(operator, &steps);
            let length = pointer.len();
            let json = match written {
                Value::Array(items) => {
                    push_token(pointer, &index.to_string());
                    items.get(index).unwrap_or(&Value::Null)
                }
                single => single,
            };
            steps.push(self.step(json, arg, pointer, is_reached));
            pointer.truncate(length);
        }
        let mut joined = join(operator, &mut steps);
        if !self.shows {
            return joined;
        }
        let count = steps.len();
        let parts: Vec<TracePart> = steps.into_iter().filter_map(|step| step.part).collect();
        let mut part = TracePart {
            pointer: pointer.clone(),
            operator: name.to_owned(),
            outcome: TraceOutcome::of(joined.outcome),
            reached,
            error: None,
            rule: None,
            seen: Vec::new(),
            parts_left_out: count - parts.len(),
            parts,
        };
        if operator == Operator::Not || count == 0 {
            // What is negated is in the way because it holds; the negation says it better.
            let alone = Box::new(TracePart {
                rule: Some(bounded_json(json).0),
                seen: part
                    .parts
                    .first()
                    .map_or_else(Vec::new, |it| it.seen.clone()),
                parts: Vec::new(),
                ..part.clone()
            });
            joined.blame = blames(joined.outcome, Some(alone));
        }
        if let Some(only) = part.parts.first().filter(|_| count == 1) {
            part.error.clone_from(&only.error);
        }
        joined.part = is_shown.then_some(part);
        joined
    }

    fn condition(
        &mut self,
        operator: &str,
        json: &Value,
        expr: &Expr,
        pointer: &str,
        reached: bool,
    ) -> Step {
        if self.is_too_much() {
            return leaf(Outcomes::FAILS, None, false);
        }
        let answer = self.answer(json, expr);
        let is_shown = self.take_place();
        let part = self.shows.then(|| TracePart {
            reached,
            ..self.part(operator, json, expr, pointer, &answer)
        });
        leaf(outcome(&answer), part, is_shown)
    }

    /// A rule that is not taken apart.
    pub(super) fn whole(
        &self,
        json: &Value,
        expr: &Expr,
        pointer: &str,
        answer: &Result<bool, EvalError>,
    ) -> Step {
        let part = self
            .shows
            .then(|| self.part("rule", json, expr, pointer, answer));
        leaf(outcome(answer), part, true)
    }

    fn part(
        &self,
        operator: &str,
        json: &Value,
        expr: &Expr,
        pointer: &str,
        answer: &Result<bool, EvalError>,
    ) -> TracePart {
        let error = answer.as_ref().err();
        TracePart {
            pointer: pointer.to_owned(),
            operator: operator.to_owned(),
            outcome: TraceOutcome::of(outcome(answer)),
            reached: true,
            error: error.map(|error| error.message.clone()),
            rule: Some(bounded_json(json).0),
            seen: self.seen(expr),
            parts: Vec::new(),
            parts_left_out: 0,
        }
    }

    /// A rule that fails as a whole.
    pub(super) fn failure(&mut self, pointer: &str, error: String) -> Step {
        let part = self.shows.then(|| TracePart {
            pointer: pointer.to_owned(),
            operator: "rule".to_owned(),
            outcome: TraceOutcome::Fails,
            reached: true,
            error: Some(error),
            rule: None,
            seen: Vec::new(),
            parts: Vec::new(),
            parts_left_out: 0,
        });
        leaf(Outcomes::FAILS, part, true)
    }

    /// The answer of the code that decides.
    fn answer(&self, json: &Value, expr: &Expr) -> Result<bool, EvalError> {
        self.compiled(json, expr)?.matches_prepared(self.prepared)
    }

    fn compiled(&self, json: &Value, expr: &Expr) -> Result<Condition, EvalError> {
        Condition::of_expr(SourceText::of(json), expr, self.limits).map_err(EvalError::from)
    }

    /// Whether one more part may be shown.
    fn take_place(&mut self) -> bool {
        let has_place = self.parts_left > 0;
        self.parts_left = self.parts_left.saturating_sub(1);
        has_place
    }

    /// The values of the data that a condition reads; inside iterations there are many, and they
    /// are not shown.
    fn seen(&self, expr: &Expr) -> Vec<Seen> {
        let mut paths = Vec::new();
        paths_of(expr, &mut paths);
        paths.into_iter().map(|path| self.seen_at(path)).collect()
    }

    fn seen_at(&self, path: &str) -> Seen {
        if let Some(attribute) = Attribute::of_path(path) {
            let value = self.prepared.view().value(&attribute);
            return Seen::new(path.to_owned(), value);
        }
        let json = serde_json::json!({ "var": path });
        let expr = Expr::Var {
            path: VarPath::Dotted(path.to_owned()),
            default: None,
        };
        let seen = self.compiled(&json, &expr).and_then(|variable| {
            variable.value_prepared(self.prepared, |value| {
                // The library knows no difference.
                let value = Some(value).filter(|value| !value.is_null());
                Seen::new(path.to_owned(), value)
            })
        });
        seen.unwrap_or_else(|_| Seen::new(path.to_owned(), None))
    }
}

fn outcome(answer: &Result<bool, EvalError>) -> Outcomes {
    match answer {
        Ok(holds) => Outcomes::certain(*holds),
        Err(_) => Outcomes::FAILS,
    }
}

/// Whether an operator is taken apart.
fn joins(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::And | Operator::Or | Operator::Not | Operator::Truthy | Operator::If
    )
}

/// Whether an evaluation comes to the next argument after these.
fn is_reached(operator: Operator, before: &[Step]) -> bool {
    let is = |outcome| move |step: &Step| step.outcome == outcome;
    match operator {
        Operator::And => before.iter().all(is(Outcomes::YES)),
        Operator::Or => before.iter().all(is(Outcomes::NO)),
        Operator::If => {
            // Every condition before was a no; after a condition that holds comes its value.
            let (conditions, last) = match before.split_last() {
                Some((last, earlier)) if before.len() % 2 == 1 => (earlier, Some(last)),
                _ => (before, None),
            };
            conditions.iter().step_by(2).all(is(Outcomes::NO)) && last.is_none_or(is(Outcomes::YES))
        }
        _ => true,
    }
}

/// The dotted paths that an expression reads from the data, each once, in the order in which they
/// stand, up to a bound.
fn paths_of<'e>(expr: &'e Expr, paths: &mut Vec<&'e str>) {
    match expr {
        Expr::Var {
            path: VarPath::Dotted(path),
            default,
        } => {
            note(path, paths);
            if let Some(default) = default {
                paths_of(default, paths);
            }
        }
        Expr::Call(Operator::Missing, args) => {
            for arg in args {
                match arg {
                    Expr::Literal(Value::String(path)) => note(path, paths),
                    other => paths_of(other, paths),
                }
            }
        }
        Expr::Call(operator, args) if operator.is_iteration() => {
            for (index, arg) in args.iter().enumerate() {
                if index != 1 {
                    paths_of(arg, paths);
                }
            }
        }
        other => {
            for child in other.children() {
                paths_of(child, paths);
            }
        }
    }
}

fn note<'e>(path: &'e str, paths: &mut Vec<&'e str>) {
    if paths.len() < SEEN_MAX && !paths.contains(&path) {
        paths.push(path);
    }
}
