//! A condition: the typed form, its compiled twin, and what is known about both.

use std::sync::{Arc, OnceLock};

use datalogic_rs::bumpalo::Bump;
use datalogic_rs::bumpalo::collections::Vec as ArenaVec;
use datalogic_rs::{DataValue, Engine, Error, ErrorKind, FromDataValue, Logic};
use serde::Deserialize;
use serde_json::Value;

use super::data::{FactsArena, to_arena};
use super::effort;
use super::expr::Expr;
use super::facts::{self, Facts, Prepared};
use super::inspect;
use super::limits::{self, Limits, RuleError, RuleErrorCode, RuleWarning};
use super::lower;
use super::native::{Node, Outcomes};
use super::operators::{self, SEGMENTS_KEY};
use super::parse;
use super::pattern::Pattern;
use super::source::SourceText;
use super::work::Work;

/// A JsonLogic condition, parsed and compiled once.
pub struct Condition {
    /// The rule as JSON: a tenth of what its typed form takes.
    source: SourceText,
    node: Node,
    /// Compiled at once where the library is needed, else should somebody ask for it.
    library: OnceLock<Box<Compiled>>,
    mentions_event: bool,
    cost: u64,
    work: Work,
    segments: Box<[String]>,
}

/// A condition as the library evaluates it.
pub(super) struct Compiled {
    pub(super) engine: Arc<Engine>,
    pub(super) logic: Logic,
    /// How many places its patterns have, which is what compiling them takes.
    places: u64,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Condition").field(&self.source()).finish()
    }
}

/// What kind of run-time failure it was: a closed list, fit for a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvalErrorKind {
    /// A value of the wrong type, such as a number compared with a word.
    Type,
    /// Arithmetic that has no result.
    Arithmetic,
    /// A bound met at run time: a long array, deep data, too much memory.
    Limit,
    /// Anything else that the evaluator refuses.
    Other,
}

impl EvalErrorKind {
    /// The stable name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            EvalErrorKind::Type => "type",
            EvalErrorKind::Arithmetic => "arithmetic",
            EvalErrorKind::Limit => "limit",
            EvalErrorKind::Other => "other",
        }
    }
}

/// A condition that failed at run time. It does not match, as a whole, and is counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// What kind of failure.
    pub kind: EvalErrorKind,
    /// The same for a human being.
    pub message: String,
}

impl EvalError {
    pub(super) fn new(kind: EvalErrorKind, message: impl Into<String>) -> Self {
        EvalError {
            kind,
            message: message.into(),
        }
    }

    fn from_library(error: &Error) -> Self {
        let kind = match &error.kind {
            ErrorKind::TypeError(_) | ErrorKind::InvalidArguments(_) => EvalErrorKind::Type,
            // The evaluator throws `{"type": "NaN"}` for a number against a word.
            ErrorKind::Thrown(_) => EvalErrorKind::Type,
            ErrorKind::ArithmeticError(_) => EvalErrorKind::Arithmetic,
            ErrorKind::Custom(_) => EvalErrorKind::Limit,
            _ => EvalErrorKind::Other,
        };
        EvalError::new(kind, error.to_string())
    }
}

/// A part of a rule that was refused, though the whole was not.
impl From<RuleError> for EvalError {
    fn from(error: RuleError) -> Self {
        EvalError::new(EvalErrorKind::Other, error.to_string())
    }
}

impl Condition {
    /// Checks the bounds, parses and compiles.
    ///
    /// # Errors
    /// The first thing that is wrong, with a JSON pointer to it.
    pub fn parse(json: &Value, limits: &Limits) -> Result<Condition, RuleError> {
        Self::parse_with(json, limits, None)
    }

    /// The same, given where the text of this very JSON is kept, if it is anywhere.
    pub(crate) fn parse_with(
        json: &Value,
        limits: &Limits,
        source: Option<SourceText>,
    ) -> Result<Condition, RuleError> {
        limits::measure(json, limits)?;
        let expr = parse::parse(json, limits)?;
        let source = source.unwrap_or_else(|| SourceText::of(json));
        Self::of_expr(source, &expr, limits)
    }

    /// What follows parsing, for a rule or for a part of one.
    pub(super) fn of_expr(
        source: SourceText,
        expr: &Expr,
        limits: &Limits,
    ) -> Result<Condition, RuleError> {
        let node = Node::of_condition(expr);
        let library = OnceLock::new();
        if node.needs_library() {
            let compiled = compile(expr, limits)?;
            library.get_or_init(|| Box::new(compiled));
        }
        Ok(Condition {
            mentions_event: inspect::mentions_event(expr),
            segments: inspect::segments(expr).into(),
            cost: expr.cost(limits),
            work: Work::of(expr, limits),
            source,
            node,
            library,
        })
    }

    /// Whether the rule reads the event, decided from the rule and not from a run. A path that
    /// is computed, and the data as a whole, count as reading it.
    pub fn mentions_event(&self) -> bool {
        self.mentions_event
    }

    /// The names or ids given to `in_segment`, sorted, each once.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// What its author probably did not mean. It is looked for anew each time, within the limits
    /// that the rule was parsed with.
    pub fn warnings(&self, limits: &Limits) -> Vec<RuleWarning> {
        let json = self.json();
        json.ok()
            .and_then(|json| parse::warnings(&json, limits).ok())
            .unwrap_or_default()
    }

    /// The most steps that an evaluation can take: each node is one, and what runs for each element
    /// of an array counts [`Limits::max_array_len`] times.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// The steps that parsing and compiling it again takes: one for each byte, and many for each place
    /// of a pattern, which may stand for thousands of characters.
    pub fn preparation_cost(&self) -> u64 {
        /// Some microseconds.
        const STEPS_A_PLACE: u64 = 1_000;
        // What needs no library has no patterns.
        let places = self.library.get().map_or(0, |compiled| compiled.places);
        let bytes = u64::try_from(self.source().len()).unwrap_or(u64::MAX);
        bytes.saturating_add(places.saturating_mul(STEPS_A_PLACE))
    }

    /// What an evaluation can take in all.
    pub(crate) fn work(&self) -> Work {
        self.work
    }

    /// The rule as compact JSON.
    pub fn source(&self) -> &str {
        self.source.as_str()
    }

    /// Whether it was parsed from this very JSON.
    pub fn is_of(&self, json: &Value) -> bool {
        let text = json.to_string();
        self.source() == text
    }

    /// Whether the condition holds, for a caller with one condition only.
    ///
    /// # Errors
    /// A run-time failure: the condition does not match as a whole.
    pub fn matches(&self, facts: &Facts<'_>) -> Result<bool, EvalError> {
        let arena = FactsArena::new();
        self.matches_prepared(&Prepared::new(*facts, &arena))
    }

    /// Whether the condition holds, by native tests where these are certain. The facts are
    /// converted once for all conditions.
    ///
    /// # Errors
    /// A run-time failure: the condition does not match as a whole.
    pub fn matches_prepared(&self, prepared: &Prepared<'_>) -> Result<bool, EvalError> {
        if !prepared.is_too_deep() {
            match self.node.outcomes(prepared.view()) {
                Outcomes::YES => return Ok(true),
                Outcomes::NO => return Ok(false),
                _ => {}
            }
        }
        self.matches_by_library(prepared)
    }

    /// The same answer from the library alone: slower, and what native tests are compared with.
    ///
    /// # Errors
    /// As [`Condition::matches_prepared`].
    pub fn matches_by_library(&self, prepared: &Prepared<'_>) -> Result<bool, EvalError> {
        self.with_result(prepared, |engine, value| Ok(engine.truthy(value)))
    }

    /// The typed form, parsed again.
    pub(crate) fn expr(&self, limits: &Limits) -> Option<Expr> {
        self.parsed(limits).ok().map(|(_, expr)| expr)
    }

    /// The condition in native form.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    fn library(&self) -> Result<&Compiled, EvalError> {
        if let Some(compiled) = self.library.get() {
            return Ok(compiled);
        }
        // What needs no library has neither patterns nor iterations, which are what the limits
        // are about.
        let compiled = self
            .compile_source(&Limits::default())
            .map_err(|error| EvalError::new(EvalErrorKind::Other, error))?;
        Ok(self.library.get_or_init(|| Box::new(compiled)))
    }

    /// The rule, parsed again from its text.
    pub(super) fn parsed(&self, limits: &Limits) -> Result<(Value, Expr), String> {
        let json = self.json().map_err(|error| error.to_string())?;
        let expr = parse::parse(&json, limits).map_err(|error| error.to_string())?;
        Ok((json, expr))
    }

    fn json(&self) -> Result<Value, serde_json::Error> {
        let mut parser = serde_json::Deserializer::from_str(self.source());
        parser.disable_recursion_limit();
        Value::deserialize(&mut parser)
    }

    /// What the rule's value looks like, for a part of a rule that is no condition.
    pub(super) fn value_prepared<T>(
        &self,
        prepared: &Prepared<'_>,
        read: impl FnOnce(&DataValue<'_>) -> T,
    ) -> Result<T, EvalError> {
        self.with_result(prepared, |_, value| Ok(read(value)))
    }

    /// The value of the rule, before it is taken for true or false.
    ///
    /// # Errors
    /// A run-time failure.
    pub fn evaluate_value(&self, facts: &Facts<'_>) -> Result<Value, EvalError> {
        let arena = FactsArena::new();
        let prepared = Prepared::new(*facts, &arena);
        self.with_result(&prepared, |_, value| to_json(value))
    }

    /// The value of the rule on data of any shape, where nobody is in a segment.
    ///
    /// # Errors
    /// A run-time failure.
    pub fn evaluate_on(&self, data: &Value) -> Result<Value, EvalError> {
        let arena = Bump::new();
        let mut is_too_deep = false;
        let data = to_arena(data, &arena, 0, &mut is_too_deep);
        if is_too_deep {
            return Err(facts::too_deep());
        }
        let data: &DataValue<'_> = arena.alloc(data);
        let library = self.library()?;
        let evaluate = || library.engine.evaluate(&library.logic, data, &arena);
        let result = effort::bounded(None, evaluate);
        to_json(result.map_err(|error| EvalError::from_library(&error))?)
    }

    fn compile_source(&self, limits: &Limits) -> Result<Compiled, String> {
        let (_, expr) = self.parsed(limits)?;
        compile(&expr, limits).map_err(|error| error.to_string())
    }

    fn with_result<T>(
        &self,
        prepared: &Prepared<'_>,
        read: impl FnOnce(&Engine, &DataValue<'_>) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let root = prepared.root()?;
        let Compiled { engine, logic, .. } = self.library()?;
        // Asked before the scratch memory is taken: the lookup may evaluate other conditions.
        let lookup = prepared.facts().segments;
        let memory = prepared.arena();
        let answers = memory
            .facts
            .alloc_slice_fill_iter(self.segments().iter().map(|name| {
                let name: &str = memory.facts.alloc_str(name);
                (name, DataValue::Bool(lookup(name)))
            }));
        let scratch = memory.scratch();
        let arena = &*scratch;
        let data = if answers.is_empty() {
            root.object
        } else {
            let answers = (SEGMENTS_KEY, DataValue::Object(answers));
            let members = std::iter::once(answers).chain(root.members.iter().copied());
            let mut built = ArenaVec::with_capacity_in(root.members.len() + 1, arena);
            built.extend(members);
            arena.alloc(DataValue::Object(built.into_bump_slice()))
        };
        let evaluate = || engine.evaluate(logic, data, arena);
        match effort::bounded(prepared.allowance(), evaluate) {
            Ok(value) => read(engine, value),
            Err(error) => Err(EvalError::from_library(&error)),
        }
    }
}

/// Compiles a typed form for evaluation.
pub(super) fn compile(expr: &Expr, limits: &Limits) -> Result<Compiled, RuleError> {
    // The parser has compiled every pattern once and named its node; failing again here would
    // mean that compiling is not a function of the pattern.
    let refused = |error: String| RuleError::new("", RuleErrorCode::NotCompilable, error);
    let lowered = lower::lower(expr, limits.max_array_len, |pattern| {
        Pattern::compile(pattern, limits)
    })
    .map_err(|error| refused(error.to_string()))?;
    let places = lowered.patterns.iter().map(Pattern::places);
    let places = places.fold(0, u64::saturating_add);
    let engine = operators::engine(lowered.patterns);
    let logic = engine
        .compile(lowered.logic)
        .map_err(|error| refused(error.to_string()))?;
    Ok(Compiled {
        engine,
        logic,
        places,
    })
}

fn to_json(value: &DataValue<'_>) -> Result<Value, EvalError> {
    Value::from_arena(value).map_err(|error| EvalError::from_library(&error))
}
