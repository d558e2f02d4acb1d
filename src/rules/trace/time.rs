//! When a condition may turn out otherwise by the passing of time alone.

use serde_json::Value;

use crate::rules::condition::Condition;
use crate::rules::expr::{Expr, Operator, VarPath};
use crate::rules::facts::Prepared;
use crate::rules::limits::Limits;
use crate::rules::moment;
use crate::rules::native::{Attribute, micros};

/// The most moments of one rule.
const MOMENTS_MAX: usize = 64;

impl Condition {
    /// The moments at which the answer may change while user and event stay as they are, in
    /// milliseconds since 1970: between two of them it stays the same. `None` where that cannot be
    /// told: a rule that uses the time for something else than `before`, `after` and `within_last`.
    pub fn changes_at(&self, prepared: &Prepared<'_>, limits: &Limits) -> Option<Vec<i64>> {
        if prepared.is_too_deep() {
            return Some(Vec::new());
        }
        let (_, expr) = self.parsed(limits).ok()?;
        let mut moments = Vec::new();
        collect(&expr, prepared, false, &mut moments)?;
        Some(moments)
    }
}

/// Adds the moments of an expression; `in_body` is true inside an iteration, where a path starts
/// at the element.
fn collect(
    expr: &Expr,
    prepared: &Prepared<'_>,
    in_body: bool,
    moments: &mut Vec<i64>,
) -> Option<()> {
    match expr {
        Expr::WithinLast {
            value,
            window_seconds,
        } => {
            if in_body {
                return None;
            }
            if let Some(seen) = moment_of(value, prepared)? {
                let window = window_seconds.saturating_mul(1_000_000);
                push(moments, seen)?;
                push(moments, seen.saturating_add(window))?;
            }
            Some(())
        }
        Expr::Call(Operator::Before | Operator::After, args) if args.iter().any(is_now) => {
            let mut others = args.iter().filter(|arg| !is_now(arg));
            match (others.next(), others.next(), in_body) {
                (Some(other), None, false) => {
                    if let Some(seen) = moment_of(other, prepared)? {
                        push(moments, seen)?;
                    }
                    Some(())
                }
                _ => None,
            }
        }
        Expr::Var {
            path: VarPath::Whole,
            ..
        } if !in_body => None,
        Expr::Var {
            path: VarPath::Computed(_),
            ..
        } => None,
        Expr::Var {
            path: VarPath::Dotted(path),
            ..
        } if names_now(path) => None,
        Expr::Call(operator, args) if operator.is_iteration() => {
            for (index, arg) in args.iter().enumerate() {
                collect(arg, prepared, in_body || index == 1, moments)?;
            }
            Some(())
        }
        other => {
            for child in other.children() {
                collect(child, prepared, in_body, moments)?;
            }
            Some(())
        }
    }
}

/// A moment in microseconds, as the milliseconds at which rules see it pass.
fn push(moments: &mut Vec<i64>, micros: i64) -> Option<()> {
    let millis = micros.div_euclid(1_000);
    moments.extend([millis, millis.saturating_add(1)]);
    (moments.len() <= MOMENTS_MAX).then_some(())
}

/// The time that an argument is, in microseconds; nothing where it is none. `None` where it cannot
/// be told without running the rule.
fn moment_of(expr: &Expr, prepared: &Prepared<'_>) -> Option<Option<i64>> {
    match expr {
        Expr::Literal(Value::String(text)) => Some(moment::text_micros(text)),
        Expr::Literal(Value::Number(number)) => Some(number.as_f64().map(moment::number_micros)),
        Expr::Literal(_) => Some(None),
        Expr::Var {
            path: VarPath::Dotted(path),
            default: None,
        } if !names_now(path) => {
            let attribute = Attribute::of_path(path)?;
            Some(prepared.view().value(&attribute).and_then(micros))
        }
        _ => None,
    }
}

fn is_now(expr: &Expr) -> bool {
    matches!(expr, Expr::Var { path: VarPath::Dotted(path), default: None } if path == "now")
}

fn names_now(path: &str) -> bool {
    path.split('.').next() == Some("now")
}
