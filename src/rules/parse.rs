//! From JSON to the typed form: the closed list of operators, their arguments, the bounds that
//! depend on meaning, and the warnings.
//!
//! Runs after [`super::limits::measure`], which bounds the recursion here.

use serde_json::{Map, Value};

use crate::error::WarningCode;

use super::expr::{Expr, Form, Operator, VarPath};
use super::inspect;
use super::limits::{Limits, RuleError, RuleErrorCode, RuleWarning, push_token};
use super::moment;
use super::pattern::Pattern;

/// Parses a measured rule that passes every check.
pub(super) fn parse(json: &Value, limits: &Limits) -> Result<Expr, RuleError> {
    let mut parser = Parser::new(limits);
    let expr = parser.expr(json, &Context::default())?;
    parser.check_cost(&expr)?;
    Ok(expr)
}

/// What the author of a measured rule probably did not mean. To find it parts of the rule are
/// evaluated, so it is asked for only where somebody reads it.
pub(super) fn warnings(json: &Value, limits: &Limits) -> Result<Vec<RuleWarning>, RuleError> {
    let mut parser = Parser {
        warnings: Some(Vec::new()),
        ..Parser::new(limits)
    };
    parser.expr(json, &Context::default())?;
    Ok(parser.warnings.unwrap_or_default())
}

/// What the surroundings of a node mean for it.
#[derive(Clone, Default)]
pub(super) struct Context {
    /// Bodies of iterations around the node.
    pub(super) iterations: usize,
    /// Whether an odd number of negations surrounds the node.
    pub(super) negated: bool,
    /// Paths that are known to be there when the node is evaluated.
    pub(super) present: Vec<String>,
}

/// How deep lists of all values that a rule may have could be nested in each other.
const LISTS_DEPTH: usize = 8;

struct Parser<'l> {
    limits: &'l Limits,
    /// How many lists are open.
    lists: usize,
    /// The sum of that over all values so far.
    in_lists: usize,
    pointer: String,
    regexes: usize,
    /// `None` where nobody wants them.
    warnings: Option<Vec<RuleWarning>>,
}

impl<'l> Parser<'l> {
    fn new(limits: &'l Limits) -> Self {
        Parser {
            limits,
            lists: 0,
            in_lists: 0,
            pointer: String::new(),
            regexes: 0,
            warnings: None,
        }
    }

    fn expr(&mut self, json: &Value, context: &Context) -> Result<Expr, RuleError> {
        // The evaluator copies what is in a list for each list around it.
        self.in_lists = self.in_lists.saturating_add(self.lists);
        let most = self.limits.max_nodes.saturating_mul(LISTS_DEPTH);
        if self.in_lists > most {
            let message = format!(
                "the values of a rule may stand in {most} lists, where each counts all around it"
            );
            return Err(self.error(RuleErrorCode::TooDeep, message));
        }
        match json {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Ok(Expr::Literal(json.clone()))
            }
            Value::Array(items) => {
                self.lists += 1;
                let parsed = self.items(items, context);
                self.lists -= 1;
                Ok(Expr::List(parsed?))
            }
            Value::Object(members) => self.object(members, context),
        }
    }

    fn object(
        &mut self,
        members: &Map<String, Value>,
        context: &Context,
    ) -> Result<Expr, RuleError> {
        let mut entries = members.iter();
        match (entries.next(), entries.next()) {
            (None, _) => Ok(Expr::Literal(Value::Object(Map::new()))),
            (Some((name, args)), None) => {
                self.inside(name, |parser| parser.call(name, args, context))
            }
            (Some(_), Some(_)) => Err(self.error(
                RuleErrorCode::AmbiguousObject,
                "an object in a rule has one member, which names its operator",
            )),
        }
    }

    fn call(&mut self, name: &str, args: &Value, context: &Context) -> Result<Expr, RuleError> {
        match Form::from_name(name) {
            Some(Form::Var) => self.var(args, context),
            Some(Form::Exists) => self.exists(args, context),
            Some(Form::Matches) => self.matches(args, context),
            Some(Form::WithinLast) => self.within_last(args, context),
            Some(Form::InSegment) => self.in_segment(args),
            None => {
                let Some(operator) = Operator::from_name(name) else {
                    let message = format!("there is no operator \"{name}\"");
                    return Err(self.error(RuleErrorCode::UnknownOperator, message));
                };
                self.operator(operator, args, context)
            }
        }
    }

    fn operator(
        &mut self,
        operator: Operator,
        args: &Value,
        context: &Context,
    ) -> Result<Expr, RuleError> {
        let needs_list = matches!(operator, Operator::And | Operator::Or | Operator::If);
        if needs_list && !args.is_array() {
            let message = format!("\"{}\" takes a list of arguments", operator.name());
            return Err(self.error(RuleErrorCode::WrongArguments, message));
        }
        let (least, most) = operator.arity();
        let given = args.as_array().map_or(1, Vec::len);
        if given < least || given > most {
            let message = if least == most {
                format!(
                    "\"{}\" takes {least} arguments, not {given}",
                    operator.name()
                )
            } else if most == usize::MAX {
                format!(
                    "\"{}\" takes {least} arguments or more, not {given}",
                    operator.name()
                )
            } else {
                format!(
                    "\"{}\" takes {least} to {most} arguments, not {given}",
                    operator.name()
                )
            };
            return Err(self.error(RuleErrorCode::WrongArguments, message));
        }
        let parsed = if operator.is_iteration() {
            self.iteration(operator, args, context)?
        } else {
            self.arguments(operator, args, context)?
        };
        let expr = Expr::Call(operator, parsed);
        if operator.is_iteration() {
            self.check_cost(&expr)?;
        }
        self.warn(&expr, context);
        Ok(expr)
    }

    /// The arguments of an operator that is no iteration, each in its own surroundings.
    fn arguments(
        &mut self,
        operator: Operator,
        args: &Value,
        context: &Context,
    ) -> Result<Vec<Expr>, RuleError> {
        let mut inner = context.clone();
        inner.negated ^= operator == Operator::Not;
        let Value::Array(items) = args else {
            return Ok(vec![self.expr(args, &inner)?]);
        };
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let expr = self.inside(&index.to_string(), |parser| {
                parser.check_literal(operator, item)?;
                parser.expr(item, &inner)
            })?;
            // The branch after a condition is taken when the condition holds.
            if operator == Operator::And || operator == Operator::If {
                if operator == Operator::If && index % 2 == 1 {
                    inner.present.clone_from(&context.present);
                } else {
                    inspect::paths_present_when(&expr, &mut inner.present);
                }
            }
            parsed.push(expr);
        }
        Ok(parsed)
    }

    /// A literal that can never be what the operator needs is an error now, not at run time.
    fn check_literal(&mut self, operator: Operator, item: &Value) -> Result<(), RuleError> {
        let Value::String(text) = item else {
            return Ok(());
        };
        if operator.is_semver() && moment::version(text).is_none() {
            let message = format!("\"{text}\" is not a version such as 1.2.3");
            return Err(self.error(RuleErrorCode::InvalidVersion, message));
        }
        let times = matches!(operator, Operator::Before | Operator::After);
        if times && moment::text_micros(text).is_none() {
            let message = format!("\"{text}\" is not a time such as 2026-01-31T08:00:00Z");
            return Err(self.error(RuleErrorCode::InvalidTimestamp, message));
        }
        Ok(())
    }

    fn iteration(
        &mut self,
        operator: Operator,
        args: &Value,
        context: &Context,
    ) -> Result<Vec<Expr>, RuleError> {
        if context.iterations >= self.limits.max_iteration_depth {
            let message = format!(
                "iterations may be nested at most {} deep",
                self.limits.max_iteration_depth
            );
            return Err(self.error(RuleErrorCode::IterationTooDeep, message));
        }
        let body = Context {
            iterations: context.iterations + 1,
            negated: context.negated ^ (operator == Operator::None),
            // The body sees an element, of which nothing is known.
            present: Vec::new(),
        };
        let items = args.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let surroundings = if index == 1 { &body } else { context };
            parsed.push(self.inside(&index.to_string(), |parser| {
                let too_long = |items: &Vec<Value>| items.len() > parser.limits.max_array_len;
                if index == 0 && item.as_array().is_some_and(too_long) {
                    let message = format!(
                        "an array to iterate over may have at most {} elements",
                        parser.limits.max_array_len
                    );
                    return Err(parser.error(RuleErrorCode::ArrayTooLong, message));
                }
                parser.expr(item, surroundings)
            })?);
        }
        Ok(parsed)
    }

    fn check_cost(&self, expr: &Expr) -> Result<(), RuleError> {
        let most = self.limits.max_cost;
        if expr.cost(self.limits) <= most {
            return Ok(());
        }
        let message = format!("evaluating this could take more than {most} steps");
        Err(self.error(RuleErrorCode::TooCostly, message))
    }

    fn var(&mut self, args: &Value, context: &Context) -> Result<Expr, RuleError> {
        let (path, default) = match args {
            Value::Array(items) => match items.as_slice() {
                [] => (None, None),
                [path] => (Some((path, "0")), None),
                [path, default] => (Some((path, "0")), Some(default)),
                _ => {
                    let message = "\"var\" takes a path and perhaps a default";
                    return Err(self.error(RuleErrorCode::WrongArguments, message));
                }
            },
            path => (Some((path, "")), None),
        };
        let path = match path {
            None | Some((Value::Null, _)) => VarPath::Whole,
            Some((Value::String(path), _)) if path.is_empty() => VarPath::Whole,
            Some((Value::String(path), _)) => VarPath::Dotted(path.clone()),
            Some((Value::Number(index), _)) => VarPath::Dotted(index.to_string()),
            Some((computed @ Value::Object(_), token)) => {
                VarPath::Computed(Box::new(self.at(token, computed, context)?))
            }
            Some((Value::Bool(_) | Value::Array(_), _)) => {
                let message = "the path of \"var\" is a text or a number";
                return Err(self.error(RuleErrorCode::WrongArguments, message));
            }
        };
        let default = match default {
            Some(default) => Some(Box::new(self.at("1", default, context)?)),
            None => None,
        };
        Ok(Expr::Var { path, default })
    }

    fn exists(&mut self, args: &Value, context: &Context) -> Result<Expr, RuleError> {
        let (value, token) = match args {
            Value::Array(items) => match items.as_slice() {
                [value] => (value, "0"),
                _ => {
                    let message = "\"exists\" takes one argument: a dotted path or a value";
                    return Err(self.error(RuleErrorCode::WrongArguments, message));
                }
            },
            value => (value, ""),
        };
        let value = match value {
            Value::String(path) if !path.is_empty() => Expr::Var {
                path: VarPath::Dotted(path.clone()),
                default: None,
            },
            Value::Object(_) => self.at(token, value, context)?,
            _ => {
                let message = "\"exists\" takes a dotted path or a value";
                return Err(self.error(RuleErrorCode::WrongArguments, message));
            }
        };
        Ok(Expr::Exists(Box::new(value)))
    }

    fn matches(&mut self, args: &Value, context: &Context) -> Result<Expr, RuleError> {
        let Some([value, Value::String(pattern)]) = args.as_array().map(Vec::as_slice) else {
            let message = "\"matches\" takes a text and a pattern that stands in the rule";
            return Err(self.error(RuleErrorCode::WrongArguments, message));
        };
        let value = Box::new(self.at("0", value, context)?);
        self.inside("1", |parser| {
            parser.regexes += 1;
            let limits = parser.limits;
            let refusal = if parser.regexes > limits.max_regexes {
                format!("a rule may have at most {} patterns", limits.max_regexes)
            } else if pattern.len() > limits.max_regex_bytes {
                format!(
                    "a pattern may have at most {} bytes",
                    limits.max_regex_bytes
                )
            } else {
                match Pattern::compile(pattern, limits) {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                }
            };
            Err(parser.error(RuleErrorCode::InvalidPattern, refusal))
        })?;
        let expr = Expr::Matches {
            value,
            pattern: pattern.clone(),
        };
        self.warn(&expr, context);
        Ok(expr)
    }

    fn within_last(&mut self, args: &Value, context: &Context) -> Result<Expr, RuleError> {
        let Some([value, Value::String(window)]) = args.as_array().map(Vec::as_slice) else {
            let message = "\"within_last\" takes a time and a window such as \"3d\"";
            return Err(self.error(RuleErrorCode::WrongArguments, message));
        };
        let value = Box::new(self.at("0", value, context)?);
        let Some(window_seconds) = moment::window_seconds(window) else {
            let message = format!("\"{window}\" is not a window such as 30s, 15m, 12h, 3d or 2w");
            return self.inside("1", |parser| {
                Err(parser.error(RuleErrorCode::InvalidWindow, message))
            });
        };
        let expr = Expr::WithinLast {
            value,
            window_seconds,
        };
        self.warn(&expr, context);
        Ok(expr)
    }

    fn in_segment(&mut self, args: &Value) -> Result<Expr, RuleError> {
        let name = match args {
            Value::Array(items) if items.len() == 1 => items.first(),
            other => Some(other),
        };
        match name {
            Some(Value::String(name)) if !name.is_empty() => Ok(Expr::InSegment(name.clone())),
            _ => {
                let message = "\"in_segment\" takes the name of a segment, as it stands";
                Err(self.error(RuleErrorCode::WrongArguments, message))
            }
        }
    }

    fn items(&mut self, items: &[Value], context: &Context) -> Result<Vec<Expr>, RuleError> {
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            parsed.push(self.at(&index.to_string(), item, context)?);
        }
        Ok(parsed)
    }

    fn at(&mut self, token: &str, json: &Value, context: &Context) -> Result<Expr, RuleError> {
        if token.is_empty() {
            return self.expr(json, context);
        }
        self.inside(token, |parser| parser.expr(json, context))
    }

    fn inside<T>(
        &mut self,
        token: &str,
        work: impl FnOnce(&mut Self) -> Result<T, RuleError>,
    ) -> Result<T, RuleError> {
        let length = self.pointer.len();
        push_token(&mut self.pointer, token);
        let result = work(self);
        self.pointer.truncate(length);
        result
    }

    fn error(&self, code: RuleErrorCode, message: impl Into<String>) -> RuleError {
        RuleError::new(self.pointer.clone(), code, message)
    }

    fn warn(&mut self, expr: &Expr, context: &Context) {
        if let Some(warnings) = &mut self.warnings
            && let Some(path) = inspect::holds_when_missing(expr, context, self.limits)
        {
            let message = format!("this can hold when \"{path}\" is missing");
            warnings.push(RuleWarning {
                pointer: self.pointer.clone(),
                code: WarningCode::MissingValueMatches,
                message,
            });
        }
    }
}
