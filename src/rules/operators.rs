//! Our own operators, as the evaluator sees them, and the engine that knows them.
//!
//! All of them are pure functions of their arguments and of the root of the data. They share one
//! law: a missing (or null) operand makes the test false, an operand of the wrong type is a
//! run-time failure of the whole condition. The names here belong to the lowered form and can
//! never be written in a rule, since the parser's list of operators is closed.

use std::sync::{Arc, LazyLock};

use datalogic_rs::bumpalo::Bump;
use datalogic_rs::operator::EvalContext;
use datalogic_rs::{ArenaExt, CustomOperator, DataValue, Engine, EngineBuilder, Error, Result};

use super::effort;
use super::expr::Operator;
use super::moment;
use super::pattern::Pattern;

/// Where the root of the data keeps the answers of the segment lookup, for conditions that ask.
/// Nobody writes a path that starts with this character by accident; one who does, or who looks
/// at the data as a whole, sees no more than the answers to the rule's own questions.
pub(super) const SEGMENTS_KEY: &str = "\u{0}segments";
pub(super) const NOW_KEY: &str = "now";

pub(super) const EXISTS: &str = "beckon.exists";
pub(super) const WITHIN_LAST: &str = "beckon.within_last";
pub(super) const IN_SEGMENT: &str = "beckon.in_segment";
pub(super) const BOUNDED_ARRAY: &str = "beckon.bounded_array";
pub(super) const BOUNDED_LOOK: &str = "beckon.bounded_look";
pub(super) const BOUNDED_PART: &str = "beckon.bounded_part";
pub(super) const BOUNDED_MEMORY: &str = "beckon.bounded_memory";
pub(super) const BOUNDED_VALUE: &str = "beckon.bounded_value";

/// Memory that one evaluation may take, in bytes.
const ARENA_BYTES_MAX: usize = 64 << 20;
/// Values in what a `reduce` accumulates.
const ACCUMULATOR_NODES_MAX: usize = 10_000;
/// Text in what a `reduce` accumulates, in bytes.
const ACCUMULATOR_TEXT_BYTES_MAX: usize = 65_536;
/// Depth of what a `reduce` accumulates.
const ACCUMULATOR_DEPTH_MAX: usize = 64;

/// The engine of every condition that brings no patterns of its own. It never changes after it
/// was made, reads nothing from outside and keeps nothing between evaluations, which is why one
/// for the process is not a hidden state.
static SHARED: LazyLock<Arc<Engine>> = LazyLock::new(|| Arc::new(builder().build()));

/// The name of the `index`-th pattern of a condition.
pub(super) fn pattern_name(index: usize) -> String {
    format!("beckon.matches.{index}")
}

/// The name that an operator of ours has in the lowered form.
pub(super) fn lowered_name(operator: Operator) -> String {
    format!("beckon.{}", operator.name())
}

/// An engine that knows our operators and these patterns.
pub(super) fn engine(patterns: Vec<Pattern>) -> Arc<Engine> {
    if patterns.is_empty() {
        return Arc::clone(&SHARED);
    }
    let mut builder = builder();
    for (index, pattern) in patterns.into_iter().enumerate() {
        builder = builder.add_operator(pattern_name(index), Matches(pattern));
    }
    Arc::new(builder.build())
}

fn builder() -> EngineBuilder {
    let mut builder = Engine::builder()
        .add_operator(EXISTS, Exists)
        .add_operator(WITHIN_LAST, WithinLast)
        .add_operator(IN_SEGMENT, InSegment)
        .add_operator(BOUNDED_ARRAY, BoundedArray)
        .add_operator(BOUNDED_LOOK, BoundedLook)
        .add_operator(BOUNDED_PART, BoundedPart)
        .add_operator(BOUNDED_MEMORY, BoundedMemory)
        .add_operator(BOUNDED_VALUE, BoundedValue)
        .add_operator(lowered_name(Operator::Between), Between);
    for operator in [
        Operator::StartsWith,
        Operator::EndsWith,
        Operator::IContains,
    ] {
        builder = builder.add_operator(lowered_name(operator), TextTest(operator));
    }
    for operator in [Operator::Before, Operator::After] {
        builder = builder.add_operator(lowered_name(operator), TimeTest(operator));
    }
    for operator in [
        Operator::SemverEq,
        Operator::SemverGt,
        Operator::SemverGte,
        Operator::SemverLt,
        Operator::SemverLte,
    ] {
        builder = builder.add_operator(lowered_name(operator), SemverTest(operator));
    }
    builder
}

struct Exists;
struct WithinLast;
struct InSegment;
struct BoundedArray;
struct BoundedLook;
struct BoundedPart;
struct BoundedMemory;
struct BoundedValue;
struct Between;
struct TextTest(Operator);
struct TimeTest(Operator);
struct SemverTest(Operator);
struct Matches(Pattern);

type Args<'s, 'a> = &'s [&'a DataValue<'a>];
type Value<'a> = &'a DataValue<'a>;

impl CustomOperator for Exists {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        Ok(arena.bool(!any_missing(args)))
    }
}

impl CustomOperator for TextTest {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        if any_missing(args) {
            return Ok(arena.bool(false));
        }
        let [value, other] = args else {
            return Err(arguments(self.0.name()));
        };
        let (value, other) = (text(value, self.0)?, text(other, self.0)?);
        Ok(arena.bool(match self.0 {
            Operator::StartsWith => value.starts_with(other),
            Operator::EndsWith => value.ends_with(other),
            _ => value.to_lowercase().contains(&other.to_lowercase()),
        }))
    }
}

impl CustomOperator for Matches {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        match args {
            [DataValue::Null] => Ok(arena.bool(false)),
            [DataValue::String(text)] => {
                allowed(effort::spend(self.0.steps(text)))?;
                Ok(arena.bool(self.0.is_match(text)))
            }
            _ => Err(Error::type_error("matches needs a text")),
        }
    }
}

impl CustomOperator for Between {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        if any_missing(args) {
            return Ok(arena.bool(false));
        }
        let [value, low, high] = args else {
            return Err(arguments("between"));
        };
        if let (DataValue::String(value), DataValue::String(low), DataValue::String(high)) =
            (value, low, high)
        {
            return Ok(arena.bool(low <= value && value <= high));
        }
        let (value, low, high) = (number(value)?, number(low)?, number(high)?);
        Ok(arena.bool(low <= value && value <= high))
    }
}

impl CustomOperator for TimeTest {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        if any_missing(args) {
            return Ok(arena.bool(false));
        }
        let [value, other] = args else {
            return Err(arguments(self.0.name()));
        };
        let (value, other) = (micros(value, self.0.name())?, micros(other, self.0.name())?);
        Ok(arena.bool(match self.0 {
            Operator::Before => value < other,
            _ => value > other,
        }))
    }
}

impl CustomOperator for WithinLast {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [value, window] = args else {
            return Err(arguments("within_last"));
        };
        if value.is_null() {
            return Ok(arena.bool(false));
        }
        let value = micros(value, "within_last")?;
        let Some(now) = ctx.root_input().get(NOW_KEY) else {
            return Err(Error::variable_not_found(NOW_KEY));
        };
        let now = micros(now, "within_last")?;
        let window = window.as_i64().unwrap_or(0).saturating_mul(1_000_000);
        Ok(arena.bool(value <= now && value >= now.saturating_sub(window)))
    }
}

impl CustomOperator for SemverTest {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        if any_missing(args) {
            return Ok(arena.bool(false));
        }
        let [value, other] = args else {
            return Err(arguments(self.0.name()));
        };
        let order = version(value, self.0)?.cmp_precedence(&version(other, self.0)?);
        Ok(arena.bool(match self.0 {
            Operator::SemverGt => order.is_gt(),
            Operator::SemverGte => order.is_ge(),
            Operator::SemverLt => order.is_lt(),
            Operator::SemverLte => order.is_le(),
            _ => order.is_eq(),
        }))
    }
}

impl CustomOperator for InSegment {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [DataValue::String(name)] = args else {
            return Err(arguments("in_segment"));
        };
        let answers = ctx.root_input().get(SEGMENTS_KEY);
        let member = answers.and_then(|answers| answers.get(*name));
        Ok(arena.bool(member.and_then(DataValue::as_bool).unwrap_or(false)))
    }
}

impl CustomOperator for BoundedArray {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        _arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [value, times, compared, max, is_kept] = args else {
            return Err(arguments("iteration"));
        };
        let len = match value {
            DataValue::Array(items) => items.len(),
            DataValue::Object(members) => members.len(),
            _ => return Ok(value),
        };
        if len as u64 > bound(max) {
            return Err(limit("an array to iterate over is too long"));
        }
        let is_kept = is_kept.as_bool().unwrap_or(false);
        allowed(effort::look_at_each(value, looks(times, compared), is_kept))?;
        Ok(value)
    }
}

impl CustomOperator for BoundedLook {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        _arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [value, times, compared] = args else {
            return Err(arguments("a comparison"));
        };
        allowed(effort::look(value, looks(times, compared)))?;
        Ok(value)
    }
}

impl CustomOperator for BoundedPart {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        _arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [value, parts] = args else {
            return Err(arguments("cat and merge"));
        };
        let once = effort::Looks {
            times: 1,
            compared: 0,
        };
        allowed(effort::look(value, once))?;
        let parts = usize::try_from(bound(parts)).unwrap_or(usize::MAX);
        check_part(value, ARENA_BYTES_MAX / parts.max(1))?;
        Ok(value)
    }
}

impl CustomOperator for BoundedMemory {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [value] = args else {
            return Err(arguments("iteration"));
        };
        check_memory(arena)?;
        Ok(value)
    }
}

impl CustomOperator for BoundedValue {
    fn evaluate<'a>(
        &self,
        args: Args<'_, 'a>,
        _ctx: &mut EvalContext<'_, 'a>,
        arena: &'a Bump,
    ) -> Result<Value<'a>> {
        let [value, times, compared] = args else {
            return Err(arguments("reduce"));
        };
        check_memory(arena)?;
        check_accumulator(value)?;
        allowed(effort::look(value, looks(times, compared)))?;
        Ok(value)
    }
}

/// Looks that lowering wrote beside a value.
fn looks(times: &DataValue<'_>, compared: &DataValue<'_>) -> effort::Looks {
    effort::Looks {
        times: bound(times),
        compared: bound(compared),
    }
}

/// A number that lowering wrote.
fn bound(number: &DataValue<'_>) -> u64 {
    let number = number.as_i64();
    number
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or(0)
}

fn allowed(is_allowed: bool) -> Result<()> {
    match is_allowed {
        true => Ok(()),
        false => Err(limit("the condition looks at too much data")),
    }
}

fn check_memory(arena: &Bump) -> Result<()> {
    if arena.allocated_bytes() > ARENA_BYTES_MAX {
        return Err(limit("the condition takes too much memory"));
    }
    Ok(())
}

/// What is joined with others must not take more than its part of what a condition may take.
fn check_part(value: &DataValue<'_>, bytes_max: usize) -> Result<()> {
    let mut bytes = 0_usize;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        bytes = bytes.saturating_add(match value {
            DataValue::String(text) => text.len(),
            DataValue::Array(items) => {
                let own = size_of_val(*items);
                if bytes.saturating_add(own) <= bytes_max {
                    open.extend(items.iter());
                }
                own
            }
            _ => 0,
        });
        if bytes > bytes_max {
            return Err(limit("the condition takes too much memory"));
        }
    }
    Ok(())
}

/// A `reduce` could otherwise double its accumulator a thousand times over, or nest it so deep
/// that comparing it overflows the stack.
fn check_accumulator(value: &DataValue<'_>) -> Result<()> {
    let (mut nodes, mut text_bytes) = (0_usize, 0_usize);
    let mut open = vec![(value, 0_usize)];
    while let Some((value, depth)) = open.pop() {
        nodes += 1;
        match value {
            DataValue::String(text) => text_bytes += text.len(),
            DataValue::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            DataValue::Object(members) => {
                open.extend(members.iter().map(|(_, member)| (member, depth + 1)));
            }
            _ => {}
        }
        let too_much = nodes.saturating_add(open.len()) > ACCUMULATOR_NODES_MAX
            || text_bytes > ACCUMULATOR_TEXT_BYTES_MAX
            || depth > ACCUMULATOR_DEPTH_MAX;
        if too_much {
            return Err(limit("reduce accumulates too much"));
        }
    }
    Ok(())
}

fn any_missing(args: &[&DataValue<'_>]) -> bool {
    args.iter().any(|arg| arg.is_null())
}

fn text<'a>(value: &'a DataValue<'_>, operator: Operator) -> Result<&'a str> {
    match value {
        DataValue::String(text) => Ok(text),
        _ => Err(Error::type_error(format!(
            "{} needs texts",
            operator.name()
        ))),
    }
}

fn number(value: &DataValue<'_>) -> Result<f64> {
    let number = match value {
        DataValue::Number(number) => Some(number.as_f64()),
        DataValue::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite()),
        _ => None,
    };
    number.ok_or_else(|| Error::type_error("between needs numbers, or texts only"))
}

fn micros(value: &DataValue<'_>, operator: &str) -> Result<i64> {
    let micros = match value {
        DataValue::String(text) => moment::text_micros(text),
        DataValue::Number(number) => Some(moment::number_micros(number.as_f64())),
        _ => None,
    };
    micros.ok_or_else(|| Error::type_error(format!("{operator} needs a time")))
}

fn version(value: &DataValue<'_>, operator: Operator) -> Result<semver::Version> {
    let version = value.as_str().and_then(moment::version);
    version.ok_or_else(|| Error::type_error(format!("{} needs versions", operator.name())))
}

fn arguments(operator: &str) -> Error {
    Error::invalid_arguments(format!("{operator}: wrong number of arguments"))
}

fn limit(message: &str) -> Error {
    Error::custom_message(message)
}
