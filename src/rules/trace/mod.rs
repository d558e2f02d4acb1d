//! Why a condition answers as it does: its parts, the values each of them saw, and what became of
//! them.
//!
//! `and`, `or`, `!`, `!!` and `if` are taken apart; whatever else stands in a rule is a *condition*
//! and is answered by [`Condition::matches_prepared`], the code that decides. The answers are put
//! together again as native tests do it, so the whole has the outcome of the decision.
//!
//! All parts are evaluated, those too at which a decision never arrives; these are marked. Bounds:
//! [`PARTS_MAX`] parts of a rule are shown, [`SEEN_MAX`] values of a condition, and of each value
//! the beginning. A rule whose parts look at more than one evaluation may is not taken apart.

mod join;
mod seen;
mod time;
mod walk;

use serde::Serialize;
use serde_json::Value;

use super::condition::Condition;
use super::data::Object;
use super::facts::{Prepared, too_deep};
use super::limits::Limits;
use super::native::Outcomes;
use super::seed_list::RuleList;
use join::Step;
use seen::bounded_json;
use walk::Walk;

pub use seen::Seen;

/// The most parts of one rule that are shown; what is left out is counted.
pub const PARTS_MAX: usize = 200;

/// The most values of one condition that are shown.
pub const SEEN_MAX: usize = 20;

/// What became of a rule or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceOutcome {
    /// It holds.
    Holds,
    /// It does not hold.
    DoesNotHold,
    /// It fails, and with it everything that is evaluated around it.
    Fails,
}

impl TraceOutcome {
    /// Yes or no.
    pub fn certain(holds: bool) -> Self {
        if holds {
            Self::Holds
        } else {
            Self::DoesNotHold
        }
    }

    fn of(outcomes: Outcomes) -> Self {
        match outcomes {
            Outcomes::YES => Self::Holds,
            Outcomes::NO => Self::DoesNotHold,
            _ => Self::Fails,
        }
    }
}

/// A part of a rule: a condition, or what joins others.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TracePart {
    /// Where it stands in the campaign, as a JSON pointer.
    pub pointer: String,
    /// Its operator; `value` where a value stands for itself.
    pub operator: String,
    /// What became of it.
    pub outcome: TraceOutcome,
    /// False when the decision did not come so far: what stood before had settled it.
    pub reached: bool,
    /// Why it fails; of a segment, that a condition of it failed, so that nobody is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The condition as it was written; the end of a long one is cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Value>,
    /// The values it saw.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Seen>,
    /// What it joins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub parts: Vec<TracePart>,
    /// How many of these are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub parts_left_out: usize,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A rule, explained.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// What became of it as a whole.
    pub outcome: TraceOutcome,
    /// The least number of conditions that would have to turn out otherwise for it to hold.
    pub misses: u32,
    /// The first condition that keeps it from holding. Absent if it holds or was not to be shown.
    pub first_failing: Option<Box<TracePart>>,
    /// The parts, unless they were not to be shown.
    pub parts: Vec<TracePart>,
    /// How many parts are not shown, at the top.
    pub parts_left_out: usize,
}

impl Condition {
    /// Explains the condition. `pointer` leads to it; parts are built if they are to be shown.
    pub fn trace(
        &self,
        prepared: &Prepared<'_>,
        limits: &Limits,
        pointer: &str,
        shows: bool,
    ) -> Traced {
        let parsed = match self.parsed(limits) {
            _ if prepared.is_too_deep() => Err(too_deep().message),
            outcome => outcome,
        };
        let mut walk = Walk::new(prepared, limits, shows);
        let step = match parsed {
            Ok((json, expr)) => {
                let step = walk.step(&json, &expr, &mut pointer.to_owned(), true);
                // Each part was evaluated for itself, with what one evaluation may look at; all of
                // them together may be too much.
                let is_too_much = walk.is_too_much();
                match self.matches_prepared(prepared) {
                    Err(error)
                        if is_too_much || TraceOutcome::of(step.outcome) != TraceOutcome::Fails =>
                    {
                        walk.failure(pointer, error.message)
                    }
                    answer if is_too_much => walk.whole(&json, &expr, pointer, &answer),
                    _ => step,
                }
            }
            Err(error) => walk.failure(pointer, error),
        };
        Traced::from(step)
    }
}

impl From<Step> for Traced {
    fn from(step: Step) -> Self {
        let holds = step.outcome == Outcomes::YES;
        Self {
            outcome: TraceOutcome::of(step.outcome),
            misses: step.misses.to_hold,
            first_failing: step.blame.to_hold.filter(|_| !holds),
            parts: step.part.into_iter().collect(),
            parts_left_out: 0,
        }
    }
}

impl RuleList {
    /// Explains the list. `items` is what it was parsed from, and `pointer` leads there.
    pub fn trace(
        &self,
        items: &[Value],
        traits: Object<'_>,
        properties: Option<Object<'_>>,
        pointer: &str,
        shows: bool,
    ) -> Traced {
        let mut traced = Traced {
            outcome: TraceOutcome::Holds,
            misses: 0,
            first_failing: None,
            parts: Vec::new(),
            parts_left_out: 0,
        };
        for rule in self.each(items, traits, properties) {
            let reached = traced.misses == 0;
            traced.misses += u32::from(!rule.holds);
            let is_first = !rule.holds && reached;
            let has_room = traced.parts.len() < PARTS_MAX;
            if !shows || !(has_room || is_first) {
                traced.parts_left_out += usize::from(shows);
                continue;
            }
            let object = if rule.reads_traits {
                "user.traits"
            } else {
                "event.properties"
            };
            let operator = rule.json.get("operator").and_then(Value::as_str);
            let part = TracePart {
                pointer: format!("{pointer}/{}", rule.place),
                operator: operator.unwrap_or_default().to_owned(),
                outcome: TraceOutcome::certain(rule.holds),
                reached,
                error: None,
                rule: Some(bounded_json(rule.json).0),
                seen: vec![Seen::new(format!("{object}.{}", rule.name), rule.left)],
                parts: Vec::new(),
                parts_left_out: 0,
            };
            if is_first {
                traced.first_failing = Some(Box::new(part.clone()));
            }
            if has_room {
                traced.parts.push(part);
            } else {
                traced.parts_left_out += 1;
            }
        }
        traced.outcome = TraceOutcome::certain(traced.misses == 0);
        traced
    }
}
