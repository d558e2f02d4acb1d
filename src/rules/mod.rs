//! The rule language: JsonLogic conditions in a typed form of our own, and the seed's rule list.
//!
//! Pure: no input or output, no clock, no randomness. Time and segment membership are given in
//! [`Facts`]. The module knows nothing of campaigns, gates or storage.
//!
//! A rule is saved in three steps. Its bounds are checked without recursion ([`Limits`]); it is
//! parsed into [`Expr`], a closed list of operators, where an unknown operator or a bad argument
//! is a [`RuleError`] that names the node; and it is compiled once for the evaluator, datalogic-rs
//! 5.4.0. The typed form is the specification, by the tables below. Wherever they are silent the
//! official JsonLogic semantics hold, as the public suite of 278 cases tests them.
//!
//! # What a rule sees
//! ```text
//! user:  { id, traits: {…}, created_at, last_seen_at }
//! event: { name, properties: {…}, context: {…}, timestamp }      absent on a fetch
//! now:   the decision's time
//! ```
//! Times are RFC 3339 with milliseconds and `Z`. Integers beyond 64 bits are doubles. Data nested
//! deeper than 256 fails every condition that is evaluated on it.
//!
//! # Three outcomes
//! A condition holds, does not hold, or fails. A failure anywhere, under whatever negation, is the
//! failure of the whole condition ([`EvalError`]); a failed condition does not match. What is not
//! evaluated cannot fail: `and`, `or` and `if` stop where they always do.
//!
//! # Official operators
//! `var`, `missing`, `missing_some`, `if` (also `?:`), `==`, `===`, `!=`, `!==`, `!`, `!!`, `or`,
//! `and`, `>`, `>=`, `<`, `<=`, `max`, `min`, `+`, `-`, `*`, `/`, `%`, `map`, `filter`, `reduce`,
//! `all`, `none`, `some`, `merge`, `in`, `cat`, `substr`. A missing value is null, and null takes
//! part in comparisons: where that makes one hold, saving warns ([`RuleWarning`]).
//!
//! | left | right | `==` | `===` | `<` | `<=` | `>` | `>=` |
//! |---|---|---|---|---|---|---|---|
//! | missing | missing | true | true | false | true | false | true |
//! | missing | `18` | false | false | true | true | false | false |
//! | missing | `0` | true | false | false | true | false | true |
//! | missing | `"x"` | false | false | false | false | false | false |
//! | missing | `""` | true | false | false | true | false | true |
//! | missing | `false` | true | false | false | true | false | true |
//! | `1` | `"1"` | true | false | false | true | false | true |
//! | `1` | `"x"` | fails | false | fails | fails | fails | fails |
//! | `"b"` | `"a"` | false | false | false | false | true | true |
//! | `1` | `true` | true | false | false | true | false | true |
//! | a list | a number or text | fails | false | fails | fails | fails | fails |
//!
//! `!=` and `!==` are the negations of `==` and `===`, failures included.
//!
//! # Our operators
//! "Missing" is absent or null. The negation of each row swaps true and false, and fails where the
//! row fails.
//!
//! | operator | arguments | true | false | missing operand | fails |
//! |---|---|---|---|---|---|
//! | `exists` | a dotted path as text, or a value | not null (`""`, `0`, `false` and `[]` are there) | otherwise | false | never |
//! | `starts_with`, `ends_with` | text, text | the text does, case counts | otherwise | false | not two texts |
//! | `icontains` | text, text | contained, by Unicode lower case | otherwise | false | not two texts |
//! | `matches` | text, literal pattern | the pattern matches somewhere | otherwise | false | not a text |
//! | `between` | value, low, high | `low <= value <= high`: as texts if all are, else as numbers | otherwise | false | not a number, nor text that is one |
//! | `before`, `after` | time, time | strictly earlier, later | otherwise, equal included | false | not a time |
//! | `within_last` | time, literal window | `now - window <= time <= now` | otherwise, the future included | false | not a time |
//! | `semver_eq`, `_gt`, `_gte`, `_lt`, `_lte` | version, version | by precedence | otherwise | false | not a version |
//! | `in_segment` | literal name | the lookup says so | otherwise | | never |
//!
//! Times are RFC 3339, without offset (UTC), dates (their midnight in UTC), or Unix numbers:
//! seconds when below 100,000,000,000, milliseconds from there on. Windows are a whole number of
//! `s`, `m`, `h`, `d` or `w`. Versions may start with `v` and leave out minor and patch; build
//! metadata does not count. Patterns are those of the `regex` crate, in linear time. Literal
//! patterns, windows, times and versions are checked when the rule is saved.
//!
//! `exists` is ours and no official operator. The extension of the same name that some libraries
//! have takes path segments (`["a", "b"]`) and finds null present; here several arguments are
//! refused, so that no rule written for the other quietly means something else.
//!
//! # Bounds
//! Besides the bounds at save, an array that is iterated over may have 1,000 elements, what a
//! `reduce` accumulates 10,000 values or 64 KiB of text, and one evaluation 64 MiB of memory. It may
//! look at 100,000,000 values: what is iterated over counts once for each node of the body, with all
//! that is in it, what two values are compared as a whole counts once, and 8 bytes of text are a
//! value. Beyond that the condition fails.
mod allowance;
mod condition;
mod conversions;
mod data;
mod effort;
mod expr;
mod facts;
mod inspect;
mod js_value;
mod limits;
mod lower;
mod mentions;
mod moment;
pub(crate) mod native;
mod operators;
mod parse;
mod pattern;
mod seed_list;
mod source;
mod trace;
mod work;

pub use allowance::Allowance;
pub use condition::{Condition, EvalError, EvalErrorKind};
pub use data::{FactsArena, Object};
pub(crate) use effort::looked_at;
pub use expr::{Expr, Operator, VarPath, operator_names};
pub use facts::{EventFacts, Facts, Prepared, UserFacts};
pub use limits::{Limits, RuleError, RuleErrorCode, RuleWarning};
pub use mentions::{Mention, Mentioned, mentions};
pub use seed_list::RuleList;
pub(crate) use source::SourceText;
pub use trace::{PARTS_MAX, SEEN_MAX, Seen, TraceOutcome, TracePart, Traced};
pub(crate) use work::Work;

#[cfg(test)]
mod tests;

#[cfg(test)]
thread_local! {
    /// How many patterns this thread compiled, for tests that count work.
    pub(crate) static PATTERNS_COMPILED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
