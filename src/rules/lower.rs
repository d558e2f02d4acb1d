//! From the typed form to the evaluator's own: names our operators, moves patterns out of the
//! rule, and puts the run-time bounds where data decides how much work there is.
//!
//! Everything official is passed on as it is, with two exceptions that do not change an answer:
//! - what is iterated over, and what is looked through in an iteration, passes a length check unless
//!   it is a literal (which was checked when the rule was parsed), what is joined passes a check of
//!   its size, and bodies that build values pass a memory check;
//! - a body that is nothing but `===` or `!==` is wrapped in `!!`. The evaluator (5.4.0) has a
//!   shortcut for such bodies that takes an absent member for something else than null.

use datalogic_rs::datavalue::{NumberValue, OwnedDataValue};
use regex::Regex;

use super::expr::{Expr, Operator, VarPath};
use super::operators;

/// What the evaluator compiles.
pub(super) struct Lowered {
    pub(super) logic: OwnedDataValue,
    /// The patterns, in the order of their names.
    pub(super) patterns: Vec<Regex>,
}

/// Lowers `expr`. `compile` is asked once for each pattern.
pub(super) fn lower<E>(
    expr: &Expr,
    max_array_len: usize,
    compile: impl FnMut(&str) -> Result<Regex, E>,
) -> Result<Lowered, E> {
    let mut lowering = Lowering {
        max_array_len,
        iterations: 0,
        compile,
        patterns: Vec::new(),
    };
    let logic = lowering.expr(expr)?;
    Ok(Lowered {
        logic,
        patterns: lowering.patterns,
    })
}

struct Lowering<F> {
    max_array_len: usize,
    /// How many iterations stand around what is lowered.
    iterations: usize,
    compile: F,
    patterns: Vec<Regex>,
}

impl<E, F: FnMut(&str) -> Result<Regex, E>> Lowering<F> {
    fn expr(&mut self, expr: &Expr) -> Result<OwnedDataValue, E> {
        Ok(match expr {
            Expr::Literal(value) => OwnedDataValue::from(value),
            Expr::List(items) => OwnedDataValue::Array(self.all(items)?),
            Expr::Var { path, default } => {
                let mut args = vec![match path {
                    VarPath::Whole => text(""),
                    VarPath::Dotted(path) => text(path),
                    VarPath::Computed(path) => self.expr(path)?,
                }];
                if let Some(default) = default {
                    args.push(self.expr(default)?);
                }
                call("var", args)
            }
            Expr::Exists(value) => call(operators::EXISTS, vec![self.expr(value)?]),
            Expr::Matches { value, pattern } => {
                let value = self.expr(value)?;
                let name = operators::pattern_name(self.patterns.len());
                self.patterns.push((self.compile)(pattern)?);
                call(&name, vec![value])
            }
            Expr::WithinLast {
                value,
                window_seconds,
            } => {
                let window = OwnedDataValue::Number(NumberValue::from_i64(*window_seconds));
                call(operators::WITHIN_LAST, vec![self.expr(value)?, window])
            }
            Expr::InSegment(name) => call(operators::IN_SEGMENT, vec![text(name)]),
            Expr::Call(operator, args) if operator.is_iteration() => {
                self.iteration(*operator, args)?
            }
            Expr::Call(operator, args) if operator.is_ours() => {
                call(&operators::lowered_name(*operator), self.all(args)?)
            }
            Expr::Call(operator @ (Operator::Cat | Operator::Merge), args) => {
                // Each has its share before anything is built, all together after it.
                let parts = i64::try_from(args.len()).unwrap_or(i64::MAX);
                let parts = OwnedDataValue::Number(NumberValue::from_i64(parts));
                let bounded = |value| call(operators::BOUNDED_PART, vec![value, parts.clone()]);
                let mut lowered = Vec::with_capacity(args.len());
                for arg in args {
                    let value = self.expr(arg)?;
                    lowered.push(match arg {
                        Expr::Literal(_) => value,
                        _ => bounded(value),
                    });
                }
                bounded_memory(call(operator.name(), lowered))
            }
            Expr::Call(operator, args) => {
                let mut lowered = self.all(args)?;
                if self.iterations > 0
                    && expr.looks_through_data()
                    && let Some(haystack) = lowered.get_mut(1)
                {
                    let value = std::mem::replace(haystack, OwnedDataValue::Null);
                    *haystack = self.bounded_array(value);
                }
                call(operator.name(), lowered)
            }
        })
    }

    fn iteration(&mut self, operator: Operator, args: &[Expr]) -> Result<OwnedDataValue, E> {
        let mut lowered = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            let is_body = index == 1;
            self.iterations += usize::from(is_body);
            let value = self.expr(arg)?;
            self.iterations -= usize::from(is_body);
            lowered.push(match (index, arg) {
                (0, Expr::List(_) | Expr::Literal(_)) => value,
                (0, _) => self.bounded_array(value),
                (1, body) if operator == Operator::Reduce && body.builds_values() => {
                    call(operators::BOUNDED_VALUE, vec![value])
                }
                (1, body) if body.builds_values() => bounded_memory(value),
                (1, Expr::Call(Operator::StrictEqual | Operator::StrictNotEqual, _)) => {
                    call(Operator::Truthy.name(), vec![value])
                }
                _ => value,
            });
        }
        Ok(call(operator.name(), lowered))
    }

    fn bounded_array(&self, value: OwnedDataValue) -> OwnedDataValue {
        let max = i64::try_from(self.max_array_len).unwrap_or(i64::MAX);
        let max = OwnedDataValue::Number(NumberValue::from_i64(max));
        call(operators::BOUNDED_ARRAY, vec![value, max])
    }

    fn all(&mut self, items: &[Expr]) -> Result<Vec<OwnedDataValue>, E> {
        items.iter().map(|item| self.expr(item)).collect()
    }
}

fn bounded_memory(value: OwnedDataValue) -> OwnedDataValue {
    call(operators::BOUNDED_MEMORY, vec![value])
}

fn call(name: &str, args: Vec<OwnedDataValue>) -> OwnedDataValue {
    OwnedDataValue::Object(vec![(name.to_owned(), OwnedDataValue::Array(args))])
}

fn text(text: &str) -> OwnedDataValue {
    OwnedDataValue::String(text.to_owned())
}
