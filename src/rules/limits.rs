//! The bounds a rule must respect before anything walks it recursively, and the errors and
//! warnings that saving a rule can produce.
//!
//! [`measure`] is the gate: it is iterative, so that a rule nested ten thousand levels deep is
//! refused with a clear error instead of overflowing the stack of the parser behind it. The walk
//! stops at the first bound exceeded, so its own memory is bounded by [`Limits::max_nodes`].

use serde_json::Value;

use crate::error::WarningCode;

/// What a rule may cost. Everything is checked when the rule is saved, except
/// [`Limits::max_array_len`] for arrays that only exist at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Size of the rule as compact JSON, in bytes. Default 65,536.
    pub max_bytes: usize,
    /// Nested JSON containers. An operator with an argument list takes two. Default 128; much
    /// more than 200 meets the evaluator's own bound, which refuses the rule without a pointer.
    pub max_depth: usize,
    /// JSON values in the rule, containers included. Default 5,000.
    pub max_nodes: usize,
    /// Length of a pattern given to `matches`, in bytes. Default 1,024.
    pub max_regex_bytes: usize,
    /// Memory that one compiled pattern may take, in bytes. Default 1 MiB.
    pub max_regex_compiled_bytes: usize,
    /// Patterns in one rule. Default 16.
    pub max_regexes: usize,
    /// How deeply `map`, `filter`, `reduce`, `all`, `none` and `some` may be nested in each
    /// other's bodies. Default 2.
    pub max_iteration_depth: usize,
    /// Elements of an array that is iterated over, at save for a literal and at run time for
    /// data. Default 1,000.
    pub max_array_len: usize,
    /// Worst-case evaluation steps: a body counts [`Limits::max_array_len`] times.
    /// Default 20,000,000, which leaves some twenty nodes in a body two iterations deep.
    pub max_cost: u64,
    /// Rules in a seed rule list. Default 1,000.
    pub max_list_rules: usize,
    /// How often in a row a campaign's targeting may fail before it is reported; 0 is without end.
    /// Default 1,000.
    pub max_failures: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_bytes: 65_536,
            max_depth: 128,
            max_nodes: 5_000,
            max_regex_bytes: 1_024,
            max_regex_compiled_bytes: 1 << 20,
            max_regexes: 16,
            max_iteration_depth: 2,
            max_array_len: 1_000,
            max_cost: 20_000_000,
            max_list_rules: 1_000,
            max_failures: 1_000,
        }
    }
}

/// Why a rule was refused. A closed list: callers may show the code to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleErrorCode {
    /// More bytes than [`Limits::max_bytes`].
    TooLarge,
    /// Nested deeper than [`Limits::max_depth`].
    TooDeep,
    /// More values than [`Limits::max_nodes`].
    TooManyNodes,
    /// More worst-case steps than [`Limits::max_cost`].
    TooCostly,
    /// Iterations nested deeper than [`Limits::max_iteration_depth`].
    IterationTooDeep,
    /// A literal array to iterate over that is longer than [`Limits::max_array_len`].
    ArrayTooLong,
    /// More rules in a list than [`Limits::max_list_rules`].
    TooManyRules,
    /// An operator that is not in the closed list.
    UnknownOperator,
    /// An object with several members: neither an operator call nor a literal.
    AmbiguousObject,
    /// The wrong number or kind of arguments.
    WrongArguments,
    /// A pattern that is no regular expression, or too large a one.
    InvalidPattern,
    /// A window such as `"3d"` that cannot be read.
    InvalidWindow,
    /// A literal that is compared as a time and is none.
    InvalidTimestamp,
    /// A literal that is compared as a semantic version and is none.
    InvalidVersion,
    /// The seed's rule list is not an array.
    NotAList,
    /// A member of the seed's rule list is not an object.
    NotAnObject,
    /// The evaluator refused a rule that passed every check here.
    NotCompilable,
}

impl RuleErrorCode {
    /// The stable name of the code.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleErrorCode::TooLarge => "rule_too_large",
            RuleErrorCode::TooDeep => "rule_too_deep",
            RuleErrorCode::TooManyNodes => "rule_too_many_nodes",
            RuleErrorCode::TooCostly => "rule_too_costly",
            RuleErrorCode::IterationTooDeep => "iteration_too_deep",
            RuleErrorCode::ArrayTooLong => "array_too_long",
            RuleErrorCode::TooManyRules => "too_many_rules",
            RuleErrorCode::UnknownOperator => "unknown_operator",
            RuleErrorCode::AmbiguousObject => "ambiguous_object",
            RuleErrorCode::WrongArguments => "wrong_arguments",
            RuleErrorCode::InvalidPattern => "invalid_pattern",
            RuleErrorCode::InvalidWindow => "invalid_window",
            RuleErrorCode::InvalidTimestamp => "invalid_timestamp",
            RuleErrorCode::InvalidVersion => "invalid_version",
            RuleErrorCode::NotAList => "not_a_list",
            RuleErrorCode::NotAnObject => "not_an_object",
            RuleErrorCode::NotCompilable => "not_compilable",
        }
    }
}

/// A rule that cannot be saved, and the node that is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at \"{pointer}\")")]
pub struct RuleError {
    /// Where in the rule, as an RFC 6901 JSON pointer; empty for the whole rule.
    pub pointer: String,
    /// What is wrong.
    pub code: RuleErrorCode,
    /// The same for a human being.
    pub message: String,
}

impl RuleError {
    pub(super) fn new(
        pointer: impl Into<String>,
        code: RuleErrorCode,
        message: impl Into<String>,
    ) -> Self {
        RuleError {
            pointer: pointer.into(),
            code,
            message: message.into(),
        }
    }
}

impl RuleError {
    /// The same error of a rule that stands inside a larger object.
    pub fn under(mut self, pointer: &str) -> Self {
        self.pointer.insert_str(0, pointer);
        self
    }
}

/// Something about a valid rule that its author probably did not mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleWarning {
    /// Where in the rule, as an RFC 6901 JSON pointer.
    pub pointer: String,
    /// What kind of thing.
    pub code: WarningCode,
    /// The same for a human being.
    pub message: String,
}

/// Appends one token to a JSON pointer, escaped as RFC 6901 wants it.
pub(super) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for c in token.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

struct Visit<'a> {
    value: &'a Value,
    parent: usize,
    step: Step<'a>,
    depth: usize,
}

/// Checks size, depth and node count without recursion.
pub(super) fn measure(json: &Value, limits: &Limits) -> Result<(), RuleError> {
    let mut visits = vec![Visit {
        value: json,
        parent: 0,
        step: Step::Root,
        depth: 0,
    }];
    let mut bytes = 0_usize;
    let mut next = 0;
    while let Some(visit) = visits.get(next) {
        let (value, depth) = (visit.value, visit.depth);
        bytes = bytes.saturating_add(own_bytes(value));
        if bytes > limits.max_bytes {
            let message = format!("a rule may have at most {} bytes", limits.max_bytes);
            return Err(RuleError::new("", RuleErrorCode::TooLarge, message));
        }
        let children = match value {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        };
        let is_container = matches!(value, Value::Array(_) | Value::Object(_));
        if is_container && depth >= limits.max_depth {
            let message = format!("a rule may be nested at most {} deep", limits.max_depth);
            let pointer = pointer_of(&visits, next);
            return Err(RuleError::new(pointer, RuleErrorCode::TooDeep, message));
        }
        if visits.len().saturating_add(children) > limits.max_nodes {
            let message = format!("a rule may have at most {} values", limits.max_nodes);
            let pointer = pointer_of(&visits, next);
            return Err(RuleError::new(
                pointer,
                RuleErrorCode::TooManyNodes,
                message,
            ));
        }
        push_children(&mut visits, value, next, depth + 1);
        next += 1;
    }
    Ok(())
}

fn push_children<'a>(visits: &mut Vec<Visit<'a>>, value: &'a Value, parent: usize, depth: usize) {
    match value {
        Value::Array(items) => {
            visits.extend(items.iter().enumerate().map(|(index, value)| Visit {
                value,
                parent,
                step: Step::Index(index),
                depth,
            }));
        }
        Value::Object(members) => visits.extend(members.iter().map(|(key, value)| Visit {
            value,
            parent,
            step: Step::Key(key),
            depth,
        })),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The bytes a value adds to compact JSON, its children's own bytes left out. Escapes are not
/// counted, so the sum is a lower bound of the text and an upper bound of what is kept.
fn own_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number.to_string().len(),
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.len().saturating_sub(1),
        Value::Object(members) => {
            let keys: usize = members.keys().map(|key| key.len() + 3).sum();
            2 + members.len().saturating_sub(1) + keys
        }
    }
}

fn pointer_of(visits: &[Visit<'_>], index: usize) -> String {
    let mut steps = Vec::new();
    let mut current = visits.get(index);
    while let Some(visit) = current {
        match visit.step {
            Step::Root => break,
            step => steps.push(step),
        }
        current = visits.get(visit.parent);
    }
    let mut pointer = String::new();
    for step in steps.iter().rev() {
        match step {
            Step::Key(key) => push_token(&mut pointer, key),
            Step::Index(index) => push_token(&mut pointer, &index.to_string()),
            Step::Root => {}
        }
    }
    pointer
}
