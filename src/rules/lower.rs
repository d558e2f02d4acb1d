//! From the typed form to the evaluator's own: names our operators, moves patterns out of the
//! rule, and puts the run-time bounds where data decides how much work there is.
//!
//! Everything official is passed on as it is, with two exceptions that do not change an answer:
//! - what is iterated over, and what is looked through in an iteration, passes a length check unless
//!   it is a literal (which was checked when the rule was parsed), what is joined passes a check of
//!   its size, and bodies that build values pass a memory check. These, and a check of what an
//!   operator looks at as a whole (see [`Looks`]), count what an evaluation looks at
//!   ([`super::effort`]). Comparisons in a body are left as they are, since the evaluator has
//!   shortcuts for them: what they can look at is a part of the element, so the whole element is
//!   counted once for each node of the body;
//! - a body that is nothing but `===` or `!==` is wrapped in `!!`. The evaluator (5.4.0) has a
//!   shortcut for such bodies that takes an absent member for something else than null.

use datalogic_rs::datavalue::{NumberValue, OwnedDataValue};

use super::expr::{Expr, Operator, VarPath};
use super::operators;
use super::pattern::Pattern;

/// What a path counts that is only known at run time: an object may have to be looked through for it.
const PATH_LOOKS: usize = 1_000;

/// So many operands of arithmetic outside of iterations are not counted, since counting costs as much
/// as the rest of a short rule. Each is at most a person's traits and an event, 80 MiB and so 42 million
/// values: together these looks add about as much as an evaluation may look at in all.
const FREE_LOOKS: usize = 3;

/// How many looks it is to write a text in small letters.
const SMALL_LETTERS_LOOKS: usize = 8;

/// How often the whole of an operand is looked at, beyond what a body counts for.
#[derive(Clone, Copy)]
enum Looks {
    Never,
    /// Once, from one end to the other. [`FREE_LOOKS`] of these are not counted.
    Once,
    /// So many times.
    Times(usize),
    /// Once, to be compared with something else of the data.
    Compared,
}

/// What the evaluator compiles.
pub(super) struct Lowered {
    pub(super) logic: OwnedDataValue,
    /// The patterns, in the order of their names.
    pub(super) patterns: Vec<Pattern>,
}

/// Lowers `expr`. `compile` is asked once for each pattern.
pub(super) fn lower<E>(
    expr: &Expr,
    max_array_len: usize,
    compile: impl FnMut(&str) -> Result<Pattern, E>,
) -> Result<Lowered, E> {
    let mut lowering = Lowering {
        max_array_len,
        iterations: 0,
        free_looks: FREE_LOOKS,
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
    /// How many of [`FREE_LOOKS`] are left.
    free_looks: usize,
    compile: F,
    patterns: Vec<Pattern>,
}

impl<E, F: FnMut(&str) -> Result<Pattern, E>> Lowering<F> {
    fn expr(&mut self, expr: &Expr) -> Result<OwnedDataValue, E> {
        self.looked_at(expr, Looks::Never)
    }

    /// Lowers what is looked at as a whole.
    fn looked_at(&mut self, expr: &Expr, looks: Looks) -> Result<OwnedDataValue, E> {
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
                let value = call("var", args);
                match looks {
                    Looks::Never => value,
                    Looks::Once if self.iterations == 0 && self.free_looks > 0 => {
                        self.free_looks -= 1;
                        value
                    }
                    Looks::Once => bounded_look(value, 1, 0),
                    Looks::Times(times) => bounded_look(value, times, 0),
                    Looks::Compared => bounded_look(value, 1, 1),
                }
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
                self.iteration(*operator, args, looks)?
            }
            Expr::Call(operator, args) if operator.is_ours() => {
                // It writes both in small letters; next to a constant it is a native test.
                let looks = match operator {
                    Operator::IContains if !args.iter().any(Expr::is_constant) => {
                        Looks::Times(SMALL_LETTERS_LOOKS)
                    }
                    _ => Looks::Never,
                };
                let mut lowered = Vec::with_capacity(args.len());
                for arg in args {
                    lowered.push(self.looked_at(arg, looks)?);
                }
                call(&operators::lowered_name(*operator), lowered)
            }
            Expr::Call(operator @ (Operator::Cat | Operator::Merge), args) => {
                // Each has its share before anything is built, all together after it.
                let parts = number(args.len());
                let bounded = |value| call(operators::BOUNDED_PART, vec![value, parts.clone()]);
                let mut lowered = Vec::with_capacity(args.len());
                for arg in args {
                    let value = self.looked_at(arg, looks)?;
                    lowered.push(match arg {
                        Expr::Literal(_) => value,
                        _ => bounded(value),
                    });
                }
                bounded_memory(call(operator.name(), lowered))
            }
            Expr::Call(operator, args) => {
                let looks = match operator {
                    Operator::If | Operator::And | Operator::Or => looks,
                    _ => looks_at_all(expr, *operator, self.iterations > 0),
                };
                let mut lowered = Vec::with_capacity(args.len());
                for arg in args {
                    lowered.push(self.looked_at(arg, looks)?);
                }
                if self.iterations > 0
                    && expr.looks_through_data()
                    && let Some(haystack) = lowered.get_mut(1)
                {
                    let value = std::mem::replace(haystack, OwnedDataValue::Null);
                    *haystack = self.bounded_array(value, 0, 0, false);
                }
                call(operator.name(), lowered)
            }
        })
    }

    /// `looks_after` is how often the whole result is looked at.
    fn iteration(
        &mut self,
        operator: Operator,
        args: &[Expr],
        looks_after: Looks,
    ) -> Result<OwnedDataValue, E> {
        let is_reduce = operator == Operator::Reduce;
        let is_kept = matches!(operator, Operator::Map | Operator::Filter);
        let body = args.get(1);
        let looks = body.map_or(0, Expr::nodes_at_an_element);
        let compared = body.map_or(0, Expr::comparisons_at_an_element);
        let of_all = |count: usize| count.saturating_mul(self.max_array_len);
        let (looks_of_all, compared_of_all) = (of_all(looks), of_all(compared));
        let mut lowered = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            let is_body = index == 1;
            let looks_at_it = if index == 0 && is_kept {
                looks_after
            } else {
                Looks::Never
            };
            self.iterations += usize::from(is_body);
            let value = self.looked_at(arg, looks_at_it)?;
            self.iterations -= usize::from(is_body);
            lowered.push(match (index, arg) {
                (0 | 2, arg) if arg.is_constant() => value,
                (0, _) => self.bounded_array(value, looks, compared, is_reduce),
                (1, body) if is_reduce && body.builds_values() => call(
                    operators::BOUNDED_VALUE,
                    vec![value, number(looks), number(compared)],
                ),
                (1, body) if body.builds_values() => bounded_memory(value),
                (1, Expr::Call(Operator::StrictEqual | Operator::StrictNotEqual, _)) => {
                    call(Operator::Truthy.name(), vec![value])
                }
                // A body may hand on what it begins with from one element to the next.
                (2, _) => bounded_look(value, looks_of_all, compared_of_all),
                _ => value,
            });
        }
        Ok(call(operator.name(), lowered))
    }

    /// What is iterated over, each element of which is looked at and compared so many times.
    fn bounded_array(
        &self,
        value: OwnedDataValue,
        looks: usize,
        compared: usize,
        is_kept: bool,
    ) -> OwnedDataValue {
        let max = number(self.max_array_len);
        let is_kept = OwnedDataValue::Bool(is_kept);
        call(
            operators::BOUNDED_ARRAY,
            vec![value, number(looks), number(compared), max, is_kept],
        )
    }

    fn all(&mut self, items: &[Expr]) -> Result<Vec<OwnedDataValue>, E> {
        items.iter().map(|item| self.expr(item)).collect()
    }
}

/// How often an operator looks at the whole of what it is given, beyond what a body counts for.
fn looks_at_all(expr: &Expr, operator: Operator, in_iteration: bool) -> Looks {
    match operator {
        Operator::Missing | Operator::MissingSome => Looks::Times(PATH_LOOKS),
        _ if in_iteration => Looks::Never,
        // Next to a constant it is a native test, which has no bound.
        _ if expr.compares_data() => Looks::Compared,
        Operator::Max
        | Operator::Min
        | Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Modulo => Looks::Once,
        _ => Looks::Never,
    }
}

fn bounded_look(value: OwnedDataValue, times: usize, compared: usize) -> OwnedDataValue {
    call(
        operators::BOUNDED_LOOK,
        vec![value, number(times), number(compared)],
    )
}

fn number(number: usize) -> OwnedDataValue {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    OwnedDataValue::Number(NumberValue::from_i64(number))
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
