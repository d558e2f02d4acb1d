//! What one person should see, by the rules that are live.
//!
//! A decision that is little work is made where it is asked for. Any other is made apart, on the same
//! snapshot and the same person, so that the answer is the same.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{PersonState, Targeting};
use crate::error::Error;
use crate::matcher::{Allowance, Decision, Matches, Snapshot};
use crate::model::{Identity, ProjectId};
use crate::rules::{FactsArena, Object, UserFacts};

/// The most work that is done on a thread that other requests wait for; about a millisecond.
pub const INLINE_WORK_MAX: u64 = 100_000;

/// A flag as one person sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagDecision {
    /// Whether the flag is on for this person; false for a flag that does not exist.
    pub enabled: bool,
    /// The flag's value when it is on and has one.
    pub value: Option<Value>,
}

/// A segment a person is in.
#[derive(Debug, Clone)]
pub struct SegmentMembership {
    /// The segment's id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecisionAbout {
    /// The campaigns that an event shows.
    Event,
    /// The campaigns that are shown without one.
    Fetch,
    /// A flag.
    Flag,
    /// The segments of a person.
    Segments,
}

impl DecisionAbout {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 4] = [Self::Event, Self::Fetch, Self::Flag, Self::Segments];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Fetch => "fetch",
            Self::Flag => "flag",
            Self::Segments => "segments",
        }
    }
}

/// Whom a decision without an event is about.
#[derive(Debug)]
pub struct Subject {
    /// The name that was given; `None` is nobody.
    pub identity: Option<Identity>,
    /// What is known of them; `None` is somebody never seen: no traits.
    pub person: Option<Arc<PersonState>>,
}

impl Subject {
    fn bytes(&self) -> usize {
        self.person.as_ref().map_or(0, |person| person.traits.len())
    }

    fn facts<'a>(&'a self, now: DateTime<Utc>, arena: &'a FactsArena) -> UserFacts<'a> {
        let person = self.person.as_deref();
        let last_seen = person.map(|person| person.last_seen.at());
        facts(self.identity.as_ref(), person.zip(last_seen), now, arena)
    }
}

impl Targeting {
    /// The live campaigns whose gates pass without an event, best first.
    pub async fn campaigns_on_fetch(
        &self,
        project: ProjectId,
        subject: Subject,
        now: DateTime<Utc>,
    ) -> Result<Matches, Error> {
        let snapshot = self.snapshot(project);
        let held = Arc::clone(&snapshot);
        let decide = move |subject: &Subject, allowance: &mut Allowance<'_>| {
            if !snapshot.may_find_on_fetch(allowance) {
                return None;
            }
            let arena = FactsArena::new();
            snapshot.on_fetch_within(allowance, subject.facts(now, &arena), now, &arena)
        };
        let about = DecisionAbout::Fetch;
        let decision = self.inline_or_apart(about, project, subject, decide);
        let decision = decision.await?;
        Ok(self.counted(&held, decision))
    }

    /// Counts a decision that is used, and what failed in it, and passes on what matched.
    pub fn counted(&self, snapshot: &Snapshot, decision: Decision) -> Matches {
        let decision = snapshot.counted(decision);
        self.metrics()
            .decided(decision.matched.len(), decision.errors);
        if !decision.failing.is_empty() {
            self.0.failing.note(decision.failing);
        }
        decision.matched
    }

    /// The flag for this person: whether it is on, and its value.
    pub async fn flag(
        &self,
        project: ProjectId,
        key: &str,
        subject: Subject,
        now: DateTime<Utc>,
    ) -> Result<FlagDecision, Error> {
        let (snapshot, key) = (self.snapshot(project), key.to_owned());
        let decide = move |subject: &Subject, allowance: &mut Allowance<'_>| {
            let Some(flag) = snapshot.flag(&key) else {
                return Some((None, 0));
            };
            if !allowance.read() {
                return None;
            }
            let arena = FactsArena::new();
            let user = subject.facts(now, &arena);
            let answer = snapshot.decide_flag(flag, allowance, user, now, &arena)?;
            let value = answer.is_on.then(|| flag.value.clone());
            Some((value, answer.errors))
        };
        let about = DecisionAbout::Flag;
        let decided = self.inline_or_apart(about, project, subject, decide);
        let (value, errors) = decided.await?;
        self.metrics().failed(errors);
        Ok(FlagDecision {
            enabled: value.is_some(),
            value: value.flatten(),
        })
    }

    /// The segments this person is in now.
    pub async fn segments_of(
        &self,
        project: ProjectId,
        subject: Subject,
        now: DateTime<Utc>,
    ) -> Result<Vec<SegmentMembership>, Error> {
        let snapshot = self.snapshot(project);
        let decide = move |subject: &Subject, allowance: &mut Allowance<'_>| {
            if !allowance.read() {
                return None;
            }
            let arena = FactsArena::new();
            let user = subject.facts(now, &arena);
            let (found, errors) = snapshot.segments_of(allowance, user, now, &arena)?;
            let named = found.into_iter().map(|segment| SegmentMembership {
                id: segment.id.clone(),
                name: segment.name.clone(),
            });
            Some((named.collect(), errors))
        };
        let about = DecisionAbout::Segments;
        let decided = self.inline_or_apart(about, project, subject, decide);
        let (segments, errors) = decided.await?;
        self.metrics().failed(errors);
        Ok(segments)
    }

    /// Does work of a project when it is its turn, where nobody else waits for it. It is told when
    /// its caller has gone.
    pub async fn apart<T: Send + 'static>(
        &self,
        project: ProjectId,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.0.apart.run(project, work).await
    }

    /// Makes a decision; `None` if it panicked, which is a defect in the evaluation of one rule and is
    /// counted. Nothing is left half done by it: a decision only reads.
    pub(crate) fn caught<T>(&self, about: DecisionAbout, decide: impl FnOnce() -> T) -> Option<T> {
        let decided = std::panic::catch_unwind(AssertUnwindSafe(decide));
        if decided.is_err() {
            self.metrics().panicked(about);
        }
        decided.ok()
    }

    /// Decides here if that is little work, else apart.
    async fn inline_or_apart<T: Send + 'static>(
        &self,
        about: DecisionAbout,
        project: ProjectId,
        subject: Subject,
        decide: impl Fn(&Subject, &mut Allowance<'_>) -> Option<T> + Send + 'static,
    ) -> Result<T, Error> {
        let panicked = || Error::Internal("a decision panicked".to_owned());
        let mut little = Allowance::of(INLINE_WORK_MAX, subject.bytes());
        let decided = self.caught(about, || decide(&subject, &mut little));
        if let Some(decided) = decided.ok_or_else(panicked)? {
            return Ok(decided);
        }
        let this = self.clone();
        let work = move |abandoned: &AtomicBool| {
            let mut all = Allowance::boundless(Some(abandoned));
            if abandoned.load(Ordering::Relaxed) {
                return Some(None);
            }
            this.caught(about, || decide(&subject, &mut all))
        };
        let decided = self.apart(project, work).await?.ok_or_else(panicked)?;
        decided.ok_or_else(|| Error::Internal("a decision was given up".to_owned()))
    }
}

/// A person as rules see them, last seen then.
pub(crate) fn facts<'a>(
    identity: Option<&'a Identity>,
    person: Option<(&'a PersonState, DateTime<Utc>)>,
    now: DateTime<Utc>,
    arena: &'a FactsArena,
) -> UserFacts<'a> {
    let id = person.and_then(|(person, _)| person.user_id.as_deref());
    UserFacts {
        id: id.or(identity.map(Identity::value)).unwrap_or_default(),
        traits: person.map_or(Object::EMPTY, |(person, _)| arena.parse(&person.traits)),
        created_at: person.map_or(now, |(person, _)| person.created_at),
        last_seen_at: person.map_or(now, |(_, last_seen)| last_seen),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::store::{Store, StoreOptions};
    use crate::targeting::{TargetingMetrics, TargetingOptions};
    use crate::telemetry::metrics::Metrics;

    /// A service whose database nobody asks.
    fn counting_in(metrics: &Metrics) -> Targeting {
        let store = Store::new(StoreOptions {
            url: "host=/nowhere".to_owned(),
            pool_size: 1,
            deadline: Duration::from_secs(1),
        });
        let options = TargetingOptions {
            metrics: TargetingMetrics::new(metrics),
            ..TargetingOptions::default()
        };
        Targeting::new(store, Clock::system(), options)
    }

    #[test]
    fn a_decision_that_panics_is_an_error_and_is_counted_wherever_it_is_made() {
        let metrics = Metrics::new();
        let targeting = counting_in(&metrics);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let decide = |about, is_little: bool| {
            let decide = move |_: &Subject, allowance: &mut Allowance<'_>| -> Option<()> {
                if !is_little && allowance.left() <= INLINE_WORK_MAX {
                    return None;
                }
                panic!("a defect in a rule")
            };
            let nobody = Subject {
                identity: None,
                person: None,
            };
            let decided = targeting.inline_or_apart(about, ProjectId(1), nobody, decide);
            runtime.block_on(decided)
        };
        for (about, is_little) in [
            (DecisionAbout::Fetch, true),
            (DecisionAbout::Fetch, false),
            (DecisionAbout::Segments, false),
        ] {
            let error = decide(about, is_little).unwrap_err();
            assert!(matches!(error, Error::Internal(_)), "{error:?}");
        }
        let text = metrics.text();
        for (about, count) in [("event", 0), ("fetch", 2), ("flag", 0), ("segments", 1)] {
            let line = format!("beckon_decision_panics_total{{decision=\"{about}\"}} {count}\n");
            assert!(text.contains(&line), "no {line} in {text}");
        }
    }
}
