//! One campaign, compiled from the object an admin wrote.

use std::cmp::Reverse;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lean_string::LeanStr;
use serde_json::{Map, Value};

use super::failures::{Failures, LastFailure};
use super::row::CampaignRow;
use crate::rules::native::{Node, Outcomes};
use crate::rules::{Condition, Limits, RuleError, RuleList, SourceText, Work};

/// Why a campaign cannot be compiled; `pointer` leads into the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field is of the wrong type or out of range.
    #[error("{message}")]
    Field {
        /// JSON pointer.
        pointer: String,
        /// What is wrong there.
        message: String,
    },
    /// A rule is well-formed JSON but cannot be compiled.
    #[error("{}", .0.message)]
    Rule(RuleError),
}

impl Refusal {
    fn field(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

/// When a campaign may be shown: from `start` (inclusive) until `end` (exclusive).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Not before.
    pub start: Option<DateTime<Utc>>,
    /// Not at or after.
    pub end: Option<DateTime<Utc>>,
}

impl Schedule {
    /// Whether the campaign may be shown at this moment.
    pub fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.start.is_none_or(|start| start <= now) && self.end.is_none_or(|end| now < end)
    }
}

/// A campaign, compiled once and shared by every snapshot that holds it.
///
/// What every match reads comes first, so that it stands in one cache line with the count of an
/// `Arc`.
#[derive(Debug)]
#[repr(C)]
pub struct Campaign {
    pub(super) failures: Failures,
    /// The whole campaign as one JSON object, ready to be sent.
    pub json: Arc<str>,
    /// Its id.
    pub id: String,
    pub(super) stored: (i64, i64),
    pub(super) is_active: bool,
    pub(super) trigger: Option<LeanStr>,
    pub(super) schedule: Schedule,
    pub(super) targeting: Option<Condition>,
    priority: i32,
    created_at: DateTime<Utc>,
    pub(super) last_failure: LastFailure,
    /// None for most campaigns.
    extras: Option<Box<Extras>>,
}

/// What most campaigns do without.
#[derive(Debug)]
pub(super) struct Extras {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) rules: RuleList,
    /// The rule list and the segments, in native form.
    pub(super) gates: Node,
    pub(super) slot: Option<Box<str>>,
}

/// What it takes to look at a campaign at all, in steps: its memory is waited for.
const TRIED_STEPS: u64 = 10;

static NO_EXTRAS: Extras = Extras {
    include: Vec::new(),
    exclude: Vec::new(),
    rules: RuleList::empty(),
    gates: Node::Always(Outcomes::YES),
    slot: None,
};

impl Extras {
    fn new(rules: RuleList, body: &Map<String, Value>) -> Result<Self, Refusal> {
        let (include, exclude) = parse_segments(body.get("segments"))?;
        Ok(Self {
            gates: gates(&rules, &include, &exclude),
            include,
            exclude,
            rules,
            // No gate reads it yet, so it may be anything.
            slot: body.get("slot").and_then(Value::as_str).map(Box::from),
        })
    }

    fn are_none(&self) -> bool {
        let segments = self.include.len() + self.exclude.len();
        segments == 0
            && self.rules.is_empty()
            && self.rules.warnings().is_empty()
            && self.slot.is_none()
    }
}

impl Campaign {
    /// Compiles a stored campaign.
    pub fn compile(row: &CampaignRow, limits: &Limits) -> Result<Self, Refusal> {
        let body = &row.body;
        let rules = RuleList::parse(body.get("rules"))
            .map_err(|error| Refusal::Rule(error.under("/rules")))?;
        let (text, place) = row.to_text();
        let text: Arc<str> = text.into();
        let targeting = match body.get("targeting") {
            None | Some(Value::Null) => None,
            Some(json) => {
                let part = place.and_then(|place| SourceText::part_of(&text, place));
                Some(
                    Condition::parse_with(json, limits, part)
                        .map_err(|error| Refusal::Rule(error.under("/targeting")))?,
                )
            }
        };
        let extras = Extras::new(rules, body)?;
        let priority = parse_priority(body.get("priority"))?;
        Ok(Self {
            id: row.id.clone(),
            json: text,
            stored: (row.seq, row.version),
            is_active: body.get("status").and_then(Value::as_str) == Some("active"),
            trigger: parse_trigger(body.get("trigger"))?,
            schedule: parse_schedule(body.get("schedule"))?,
            targeting,
            failures: Failures::new(limits.max_failures),
            priority,
            created_at: row.created_at,
            last_failure: LastFailure::never(),
            extras: (!extras.are_none()).then(|| Box::new(extras)),
        })
    }

    /// The same in quarantine: live for nobody, whatever its status.
    pub fn out_of_service(self) -> Self {
        Self {
            is_active: false,
            ..self
        }
    }

    /// Names this state of this row: a change or a re-creation gives another.
    pub fn stored(&self) -> (i64, i64) {
        self.stored
    }

    /// The event that makes it a candidate.
    pub fn trigger(&self) -> Option<&str> {
        self.trigger.as_deref()
    }

    /// The order in which matches are returned, best first.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let (seq, _) = self.stored;
        (
            Reverse(self.priority),
            Reverse(self.created_at),
            Reverse(seq),
        )
    }

    /// The campaign's priority: higher goes first.
    pub fn priority(&self) -> i64 {
        self.priority.into()
    }

    /// The rule list, the segments and the slot.
    pub(super) fn extras(&self) -> &Extras {
        self.extras.as_deref().unwrap_or(&NO_EXTRAS)
    }

    /// Whether the rules or the targeting mention the event anywhere, which keeps the campaign out
    /// of a fetch.
    pub fn mentions_event(&self) -> bool {
        self.rules().mentions_event()
            || self
                .targeting
                .as_ref()
                .is_some_and(Condition::mentions_event)
    }

    /// Every segment the campaign names, with a pointer to where.
    pub fn segment_references(&self) -> Vec<(String, &str)> {
        let include = self.extras().include.iter().enumerate();
        let exclude = self.extras().exclude.iter().enumerate();
        let targeting = self.targeting.as_ref().map_or(&[][..], Condition::segments);
        include
            .map(|(index, name)| (format!("/segments/include/{index}"), name.as_str()))
            .chain(exclude.map(|(i, name)| (format!("/segments/exclude/{i}"), name.as_str())))
            .chain(
                targeting
                    .iter()
                    .map(|name| ("/targeting".to_owned(), name.as_str())),
            )
            .collect()
    }

    /// The targeting, for its warnings.
    pub fn targeting(&self) -> Option<&Condition> {
        self.targeting.as_ref()
    }

    /// The seed's rules, for their warnings.
    pub fn rules(&self) -> &RuleList {
        &self.extras().rules
    }

    /// When it may be shown.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// Whether its status makes it live.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// The most steps that an evaluation of its gates can take; what the segments it names cost is
    /// left out.
    pub fn cost(&self) -> u64 {
        let targeting = self.targeting.as_ref().map_or(0, Condition::cost);
        self.plain_cost().saturating_add(targeting)
    }

    fn plain_cost(&self) -> u64 {
        let extras = self.extras();
        let segments = extras.include.len() + extras.exclude.len();
        u64::try_from(extras.rules.len() + segments).unwrap_or(u64::MAX)
    }

    /// What trying it can take; the segments it names are left out.
    pub(super) fn work(&self) -> Work {
        let targeting = self.targeting.as_ref().map(Condition::work);
        let gates = Work::on_text(TRIED_STEPS.saturating_add(self.plain_cost()));
        gates + targeting.unwrap_or_default()
    }
}

fn gates(rules: &RuleList, include: &[String], exclude: &[String]) -> Node {
    let segment = |name: &String| Node::Segment(name.as_str().into());
    let include = include.iter().map(segment);
    let exclude = exclude
        .iter()
        .map(|name| Node::Not(Box::new(segment(name))));
    let segments: Vec<Node> = include.chain(exclude).collect();
    if segments.is_empty() {
        return rules.node();
    }
    let rules = std::iter::once(rules.node());
    Node::All(rules.chain(segments).collect())
}

fn parse_trigger(value: Option<&Value>) -> Result<Option<LeanStr>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= 200 => Ok(Some(text.into())),
        Some(_) => Err(Refusal::field(
            "/trigger",
            "trigger must be an event name of at most 200 characters",
        )),
    }
}

fn parse_priority(value: Option<&Value>) -> Result<i32, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .filter(|number| number.unsigned_abs() <= 1_000_000_000)
            .ok_or_else(|| {
                Refusal::field("/priority", "priority must be a whole number, higher first")
            }),
    }
}

fn parse_schedule(value: Option<&Value>) -> Result<Schedule, Refusal> {
    let object = match value {
        None | Some(Value::Null) => return Ok(Schedule::default()),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(Refusal::field("/schedule", "schedule must be an object")),
    };
    if let Some(key) = object
        .keys()
        .find(|key| !matches!(key.as_str(), "start" | "end"))
    {
        // A misspelt bound that was ignored would show the campaign to everybody at once.
        return Err(Refusal::field(
            format!("/schedule/{}", key.replace('~', "~0").replace('/', "~1")),
            "schedule knows start and end",
        ));
    }
    let time = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => DateTime::parse_from_rfc3339(text)
            .map(|time| Some(time.with_timezone(&Utc)))
            .map_err(|_| bad_time(name)),
        Some(_) => Err(bad_time(name)),
    };
    let schedule = Schedule {
        start: time("start")?,
        end: time("end")?,
    };
    if let (Some(start), Some(end)) = (schedule.start, schedule.end)
        && end <= start
    {
        return Err(Refusal::field(
            "/schedule/end",
            "schedule.end must be after schedule.start",
        ));
    }
    Ok(schedule)
}

fn bad_time(name: &str) -> Refusal {
    Refusal::field(
        format!("/schedule/{name}"),
        format!(
            "schedule.{name} must be an RFC 3339 time with a zone, such as 2026-01-31T09:00:00Z"
        ),
    )
}

/// The most segments a campaign may include or exclude.
const SEGMENTS_MAX: usize = 100;

fn parse_segments(value: Option<&Value>) -> Result<(Vec<String>, Vec<String>), Refusal> {
    let object = match value {
        None | Some(Value::Null) => return Ok((Vec::new(), Vec::new())),
        Some(Value::Object(object)) => object,
        Some(Value::Array(_)) => {
            return Err(Refusal::field(
                "/segments",
                "segments must be an object with include and exclude",
            ));
        }
        Some(_) => return Err(Refusal::field("/segments", "segments must be an object")),
    };
    if let Some(key) = object
        .keys()
        .find(|key| !matches!(key.as_str(), "include" | "exclude"))
    {
        return Err(Refusal::field(
            format!("/segments/{}", key.replace('~', "~0").replace('/', "~1")),
            "segments knows include and exclude",
        ));
    }
    let names = |side: &str| -> Result<Vec<String>, Refusal> {
        let pointer = format!("/segments/{side}");
        let list = match object.get(side) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= SEGMENTS_MAX => list,
            Some(_) => {
                return Err(Refusal::field(
                    pointer,
                    format!("{side} must be a list of at most {SEGMENTS_MAX} segment ids"),
                ));
            }
        };
        list.iter()
            .enumerate()
            .map(|(index, name)| match name {
                Value::String(text) if !text.is_empty() => Ok(text.clone()),
                _ => Err(Refusal::field(
                    format!("{pointer}/{index}"),
                    "must be a segment id",
                )),
            })
            .collect()
    };
    Ok((names("include")?, names("exclude")?))
}
