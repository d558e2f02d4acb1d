//! Whom a draft would have reached: stored events against a campaign that is not saved.
//!
//! The events of the draft's trigger are read day by day, oldest first, in pages by key, on a
//! connection of the caller's; between pages the replay waits as long as its rate asks. Each event
//! is decided at the moment at which it was received, as it was decided when it came, with the traits
//! that its person had then as far as stored identify calls tell. Segments and live campaigns are
//! those of now.

mod people;
mod report;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use diesel::PgConnection;
use serde_json::{Map, Value, json};

use super::question::{refuse, time};
use crate::error::{Error, FieldError};
use crate::matcher::{self, Asked, Campaign, CampaignRow, Refusal, Snapshot, first_closed_gate};
use crate::model::ProjectId;
use crate::rules::{EventFacts, FactsArena, Limits, Object, UserFacts};
use crate::store::history::{self, PastEvent, Place};
use crate::store::partitions;
use people::{Knowledge, Timelines};
use report::Tally;

pub use report::{Match, Overlap, Progress, ReplayedDay, Report, TraitsKnown};

/// How many events are read at once, at most.
const PAGE_MAX: u32 = 500;

/// Of how many events people are loaded at once, at most. Somebody's traits and calls take up to two
/// megabytes of text.
const TOGETHER_MAX: usize = 20;

/// How often it is told how far the replay has come.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How long a replay goes back unless it is said.
const SPAN_DEFAULT: TimeDelta = TimeDelta::days(7);

/// `received_on` is the database's date and `received_at` the node's time.
const DATE_SLACK: TimeDelta = TimeDelta::days(1);

/// What is replayed.
#[derive(Debug)]
pub struct Plan {
    draft: Campaign,
    trigger: String,
    span: Range<DateTime<Utc>>,
}

impl Plan {
    /// Reads a plan: the draft as it would be saved, and the span. A draft counts as active, and its
    /// schedule does not count unless it is asked for.
    pub fn parse(
        body: &Map<String, Value>,
        now: DateTime<Utc>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let known = ["campaign", "from", "to", "keep_schedule"];
        if let Some((name, value)) = body
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            let reason = format!("unknown member; known are {}", known.join(", "));
            return Err(refuse(name, Some(value), reason));
        }
        let Some(Value::Object(draft)) = body.get("campaign") else {
            let reason = "campaign must be an object: the draft as it would be saved";
            return Err(refuse("campaign", body.get("campaign"), reason));
        };
        let keep_schedule = match body.get("keep_schedule") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(keep)) => *keep,
            Some(other) => {
                let reason = "keep_schedule must be true or false";
                return Err(refuse("keep_schedule", Some(other), reason));
            }
        };
        Error::if_refused(matcher::refused_fields(draft, "campaign/", false))?;
        let draft = compile(draft, keep_schedule, limits)?;
        let Some(trigger) = draft.trigger().map(str::to_owned) else {
            let reason = "a campaign without a trigger is for fetches, which are not stored";
            return Err(refuse("campaign/trigger", None, reason));
        };
        let to = time(body, "to", "to")?.unwrap_or(now).min(now);
        let from = time(body, "from", "from")?.unwrap_or(to - SPAN_DEFAULT);
        if from >= to {
            return Err(refuse("from", body.get("from"), "from must be before to"));
        }
        Ok(Self {
            draft,
            trigger,
            span: from..to,
        })
    }
}

fn compile(
    draft: &Map<String, Value>,
    keep_schedule: bool,
    limits: &Limits,
) -> Result<Campaign, Error> {
    let mut body = draft.clone();
    body.insert("status".to_owned(), json!("active"));
    if !keep_schedule {
        body.remove("schedule");
    }
    let row = CampaignRow {
        id: String::new(),
        seq: 0,
        version: 0,
        body,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: None,
    };
    Campaign::compile(&row, limits).map_err(|refusal| match refusal {
        Refusal::Rule(error) => Error::InvalidRule {
            pointer: format!("/campaign{}", error.pointer),
            code: error.code.as_str(),
            message: error.message,
        },
        Refusal::Field { pointer, message } => Error::field(FieldError::body(
            &format!("campaign{pointer}"),
            Value::Object(row.body.clone()).pointer(&pointer),
            message,
        )),
    })
}

/// Against what a plan is replayed, and how fast.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Whose events.
    pub project: ProjectId,
    /// The live campaigns and the segments.
    pub snapshot: Arc<Snapshot>,
    /// The bounds of rules.
    pub limits: Limits,
    /// The most events a second.
    pub events_per_second: u32,
}

/// Replays. Blocks for as long as it takes; `progress` is told about once a second, and before the
/// first event, and ends the replay with `Break`: the outcome is then `None`.
pub fn replay(
    connection: &mut PgConnection,
    stage: &Stage,
    plan: Plan,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<Report>, Error> {
    let Range { start, end } = plan.span;
    let days: Vec<NaiveDate> = partitions::list(connection)?
        .into_iter()
        .map(|partition| partition.day)
        .filter(|day| {
            ((start - DATE_SLACK).date_naive()..=(end + DATE_SLACK).date_naive()).contains(day)
        })
        .collect();
    let since = (start - DATE_SLACK).date_naive();
    let mut running = Running {
        stage,
        plan: &plan,
        people: Timelines::new(connection, stage.project, since)?,
        tally: Tally::default(),
        arena: FactsArena::new(),
        told: Instant::now(),
    };
    if progress(running.progress(start)).is_break() {
        return Ok(None);
    }
    for day in days {
        let mut after: Option<Place> = None;
        loop {
            let began = Instant::now();
            let page = history::events_of_day(
                connection,
                stage.project,
                &plan.trigger,
                day,
                &plan.span,
                after,
                i64::from(PAGE_MAX.min(stage.events_per_second.max(1))),
            )?;
            let Some(last) = page.last() else { break };
            let (place, read) = ((last.received_at, last.id), page.len());
            for events in page.chunks(TOGETHER_MAX) {
                if running
                    .decide(connection, events, &mut progress)?
                    .is_break()
                {
                    return Ok(None);
                }
            }
            after = Some(place);
            wait(began, read, stage.events_per_second);
        }
    }
    let Running { tally, .. } = running;
    Ok(Some(tally.into_report(plan.trigger.clone(), start, end)))
}

/// Waits until the page has taken as long as the rate allows it to.
#[expect(
    clippy::disallowed_methods,
    reason = "a replay has a thread of its own, which may block"
)]
fn wait(began: Instant, events: usize, events_per_second: u32) {
    let events = u32::try_from(events).unwrap_or(u32::MAX);
    let due = Duration::from_secs(1) * events / events_per_second.max(1);
    std::thread::sleep(due.saturating_sub(began.elapsed()));
}

/// A replay that is under way.
struct Running<'r> {
    stage: &'r Stage,
    plan: &'r Plan,
    people: Timelines,
    tally: Tally,
    arena: FactsArena,
    /// When it was told last how far it is.
    told: Instant,
}

impl Running<'_> {
    fn progress(&self, at: DateTime<Utc>) -> Progress {
        let span = &self.plan.span;
        let millis = |delta: TimeDelta| delta.num_milliseconds() as f64;
        let done = millis(at - span.start) / millis(span.end - span.start).max(1.0);
        Progress {
            events: self.tally.events,
            matches: self.tally.matches,
            users: self.tally.users(),
            done: (done.clamp(0.0, 1.0) * 1_000.0).round() / 1_000.0,
        }
    }

    fn decide(
        &mut self,
        connection: &mut PgConnection,
        events: &[PastEvent],
        progress: &mut impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        self.people.load(connection, events)?;
        let last_seen = self.people.last_seen(connection, events)?;
        for (event, last_seen) in events.iter().zip(last_seen) {
            // One event may take some tenths of a second.
            if self.told.elapsed() >= PROGRESS_EVERY {
                if progress(self.progress(event.received_at)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                self.told = Instant::now();
            }
            self.decide_one(event, last_seen);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decide_one(&mut self, event: &PastEvent, last_seen: Option<DateTime<Utc>>) {
        self.arena.reset();
        let (arena, tally, stage) = (&self.arena, &mut self.tally, self.stage);
        let person = self.people.of(event);
        let (traits, knowledge) = match &person {
            Some(person) => person.traits_at((event.received_at, event.id)),
            None => ("{}".to_owned(), Knowledge::Uncertain),
        };
        tally.count_traits(knowledge);
        let own = event.user_id.as_deref().or(event.anonymous_id.as_deref());
        let created_at = person
            .as_ref()
            .map_or(event.received_at, |it| it.created_at());
        let user = UserFacts {
            id: match &person {
                Some(person) => person.user_id(event),
                None => own.unwrap_or_default(),
            },
            traits: arena.parse(&traits),
            created_at,
            last_seen_at: last_seen.unwrap_or(created_at),
        };
        let facts = EventFacts {
            name: &event.name,
            properties: object(event.properties.as_deref(), arena),
            context: object(event.context.as_deref(), arena),
            timestamp: event.timestamp,
        };
        let asked = Asked {
            user,
            event: Some(facts),
            now: event.received_at,
        };
        let segments = stage.snapshot.segments();
        let mut errors = 0;
        let closed = first_closed_gate(
            &self.plan.draft,
            segments,
            asked,
            &stage.limits,
            arena,
            &mut errors,
        );
        tally.rule_errors += u64::from(errors);
        match closed {
            Some(gate) => tally.miss(event, gate),
            None => {
                let snapshot = &stage.snapshot;
                let live = snapshot.on_past_event(user, facts, event.received_at, arena);
                let id = person
                    .as_ref()
                    .map_or(event.person_id, |person| person.id());
                tally.hit(event, id, &live);
            }
        }
    }
}

fn object<'a>(text: Option<&'a str>, arena: &'a FactsArena) -> Object<'a> {
    text.map_or(Object::EMPTY, |text| arena.parse(text))
}
