//! What ingest counts: what became of each event, by project, and how the shards do.
//!
//! An event is received when it was decoded and accounted for when its caller is answered. The two
//! are counted apart, so that `received = stored + duplicate + rejected + failed + in flight` can
//! fail if anything is forgotten. It is the callers' view: an event whose answer came too late
//! counts as failed although it may be committed, and its repetition is then a duplicate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Outcome;
use super::admission::Load;
use crate::error::{Code, Error};
use crate::model::ProjectId;
use crate::telemetry::metrics::{
    Described, INGEST_AHEAD, INGEST_BATCH, INGEST_BISECTIONS, INGEST_COMMIT, INGEST_CONNECTS,
    INGEST_DUPLICATE, INGEST_FAILED, INGEST_FAILURES, INGEST_IN_FLIGHT, INGEST_PANICS,
    INGEST_QUEUE_BYTES, INGEST_QUEUE_BYTES_MAX, INGEST_QUEUE_EVENTS, INGEST_QUEUE_EVENTS_MAX,
    INGEST_QUEUE_OLDEST, INGEST_QUEUE_WAIT, INGEST_RECEIVED, INGEST_REJECTED, INGEST_RETRIES,
    INGEST_STORED, INGEST_UNACCOUNTED, Metrics, PerProject,
};

/// The code of events whose request was dropped without an answer: the server was stopped under it,
/// or its handler panicked.
const ABANDONED: &str = "abandoned";

/// The handles of one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IngestMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    projects: PerProject<ProjectCounters>,
    queue_events: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    queue_oldest: GaugeVec,
    queue_events_max: IntGauge,
    queue_bytes_max: IntGauge,
    wait: Histogram,
    batch: Histogram,
    commit: Histogram,
    retries: IntCounter,
    bisections: IntCounter,
    failures: IntCounter,
    connects: IntCounter,
    panics: IntCounter,
    ahead: IntCounter,
}

/// What became of one project's events.
#[derive(Debug)]
struct ProjectCounters {
    received: IntCounter,
    stored: IntCounter,
    duplicate: IntCounter,
    rejected: ByCode,
    failed: ByCode,
    abandoned: IntCounter,
    in_flight: IntGauge,
    unaccounted: IntCounter,
}

/// A counter for each code, made when it is first needed.
#[derive(Debug)]
struct ByCode {
    project: String,
    all: IntCounterVec,
    known: [OnceLock<IntCounter>; Code::ALL.len()],
}

impl ByCode {
    fn new(all: &IntCounterVec, project: &str, first: Code) -> Self {
        let counters = Self {
            project: project.to_owned(),
            all: all.clone(),
            known: std::array::from_fn(|_| OnceLock::new()),
        };
        // A series that is there from the start makes sums and rates whole.
        counters.add(first, 0);
        counters
    }

    fn add(&self, code: Code, events: u64) {
        let make = || {
            self.all
                .with_label_values(&[self.project.as_str(), code.as_str()])
        };
        match self.known.get(code as usize) {
            Some(counter) => counter.get_or_init(make).inc_by(events),
            None => make().inc_by(events),
        }
    }
}

impl Default for IngestMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        Self::new(&Metrics::new())
    }
}

impl IngestMetrics {
    /// The handles of this process's service.
    pub fn new(metrics: &Metrics) -> Self {
        let counters = |of: &Described| metrics.counters(of);
        let (received, stored) = (counters(&INGEST_RECEIVED), counters(&INGEST_STORED));
        let (duplicate, rejected) = (counters(&INGEST_DUPLICATE), counters(&INGEST_REJECTED));
        let (failed, unaccounted) = (counters(&INGEST_FAILED), counters(&INGEST_UNACCOUNTED));
        let in_flight = metrics.gauges(&INGEST_IN_FLIGHT);
        let projects = PerProject::new(move |project| ProjectCounters {
            received: received.with_label_values(&[project]),
            stored: stored.with_label_values(&[project]),
            duplicate: duplicate.with_label_values(&[project]),
            rejected: ByCode::new(&rejected, project, Code::InvalidField),
            failed: ByCode::new(&failed, project, Code::Overloaded),
            abandoned: failed.with_label_values(&[project, ABANDONED]),
            in_flight: in_flight.with_label_values(&[project]),
            unaccounted: unaccounted.with_label_values(&[project]),
        });
        Self(Arc::new(Inner {
            projects,
            queue_events: metrics.gauges(&INGEST_QUEUE_EVENTS),
            queue_bytes: metrics.gauges(&INGEST_QUEUE_BYTES),
            queue_oldest: metrics.fractions(&INGEST_QUEUE_OLDEST),
            queue_events_max: metrics.gauge(&INGEST_QUEUE_EVENTS_MAX),
            queue_bytes_max: metrics.gauge(&INGEST_QUEUE_BYTES_MAX),
            wait: metrics.histogram(&INGEST_QUEUE_WAIT),
            batch: metrics.histogram(&INGEST_BATCH),
            commit: metrics.histogram(&INGEST_COMMIT),
            retries: metrics.counter(&INGEST_RETRIES),
            bisections: metrics.counter(&INGEST_BISECTIONS),
            failures: metrics.counter(&INGEST_FAILURES),
            connects: metrics.counter(&INGEST_CONNECTS),
            panics: metrics.counter(&INGEST_PANICS),
            ahead: metrics.counter(&INGEST_AHEAD),
        }))
    }

    /// Counts how many events a request brought, as its decoder says. What comes back is told how
    /// the request was answered; dropped without that, it counts them as abandoned.
    pub fn received(&self, project: ProjectId, events: usize) -> Received {
        let counters = self.0.projects.of(project);
        counters.received.inc_by(events as u64);
        counters.in_flight.add(signed(events));
        Received {
            counters,
            events,
            is_answered: false,
        }
    }

    /// The handles of one shard.
    pub(super) fn shard(&self, number: usize) -> ShardMetrics {
        let label = [number.to_string()];
        ShardMetrics {
            all: self.clone(),
            events: self.0.queue_events.with_label_values(&label),
            bytes: self.0.queue_bytes.with_label_values(&label),
            oldest: self.0.queue_oldest.with_label_values(&label),
            since: Instant::now(),
            oldest_ms: Arc::default(),
        }
    }

    pub(super) fn bounds(&self, events_max: usize, bytes_max: usize) {
        self.0.queue_events_max.set(signed(events_max));
        self.0.queue_bytes_max.set(signed(bytes_max));
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The events of a request that wait for their answer.
#[derive(Debug)]
#[must_use = "dropped, it counts its events as abandoned"]
pub struct Received {
    counters: Arc<ProjectCounters>,
    events: usize,
    is_answered: bool,
}

impl Received {
    /// Counts what became of the events, as their caller will hear it.
    pub fn answered(mut self, outcome: &Result<Vec<Outcome>, Error>) {
        self.is_answered = true;
        let outcomes = match outcome {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let events = self.events as u64;
                return self.counters.failed.add(error.code(), events);
            }
        };
        let (mut stored, mut duplicate, mut rejected) = (0, 0, 0);
        for outcome in outcomes {
            match outcome {
                Outcome::Stored(event) if event.duplicate => duplicate += 1,
                Outcome::Stored(_) => stored += 1,
                Outcome::Rejected(rejection) => {
                    rejected += 1;
                    self.counters.rejected.add(rejection.code, 1);
                }
            }
        }
        let told = stored + duplicate + rejected;
        let unaccounted = (self.events as u64).abs_diff(told);
        for (counter, events) in [
            (&self.counters.stored, stored),
            (&self.counters.duplicate, duplicate),
            (&self.counters.unaccounted, unaccounted),
        ] {
            if events > 0 {
                counter.inc_by(events);
            }
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.is_answered {
            self.counters.abandoned.inc_by(self.events as u64);
        }
        self.counters.in_flight.sub(signed(self.events));
    }
}

/// The handles of one shard. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ShardMetrics {
    all: IngestMetrics,
    events: IntGauge,
    bytes: IntGauge,
    oldest: Gauge,
    since: Instant,
    /// When the first event of the batch in work was queued, in milliseconds after `since` and one;
    /// 0 while the shard is idle.
    oldest_ms: Arc<AtomicU64>,
}

impl ShardMetrics {
    /// A batch was taken whose first event was queued then.
    pub(super) fn batch_taken(&self, first: Instant) {
        self.all.0.wait.observe(first.elapsed().as_secs_f64());
        let after = first.saturating_duration_since(self.since).as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX - 1);
        self.oldest_ms.store(after + 1, Ordering::Relaxed);
    }

    /// The batch is done with, one way or the other.
    pub(super) fn idle(&self) {
        self.oldest_ms.store(0, Ordering::Relaxed);
    }

    /// A transaction of so many events was committed after so long.
    pub(super) fn batch_committed(&self, events: usize, took: Duration) {
        self.all.0.batch.observe(events as f64);
        self.all.0.commit.observe(took.as_secs_f64());
    }

    /// A transaction lost a race and will be tried again.
    pub(super) fn raced(&self) {
        self.all.0.retries.inc();
    }

    /// A connection was opened.
    pub(super) fn connected(&self) {
        self.all.0.connects.inc();
    }

    /// A batch was halved to find the event that the database refuses.
    pub(super) fn bisected(&self) {
        self.all.0.bisections.inc();
    }

    /// A batch was given up.
    pub(super) fn gave_up(&self) {
        self.all.0.failures.inc();
    }

    /// A panic was caught.
    pub(super) fn panicked(&self) {
        self.all.0.panics.inc();
    }

    /// A decision that was made ahead is used.
    pub(super) fn used_ahead(&self) {
        self.all.0.ahead.inc();
    }

    /// Sets the gauges of the queue.
    pub(super) fn sample(&self, held: Load, waits_since: Option<Instant>) {
        self.events.set(signed(held.rows));
        self.bytes.set(signed(held.bytes));
        let waited = waits_since.map_or(Duration::ZERO, |since| since.elapsed());
        let worked = match self.oldest_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            after => self
                .since
                .elapsed()
                .saturating_sub(Duration::from_millis(after - 1)),
        };
        self.oldest.set(waited.max(worked).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: ProjectId = ProjectId(7);

    #[test]
    fn what_is_dropped_without_an_answer_is_abandoned() {
        let metrics = IngestMetrics::default();
        let counters = metrics.0.projects.of(PROJECT);
        let received = metrics.received(PROJECT, 3);
        assert_eq!((counters.received.get(), counters.in_flight.get()), (3, 3));
        drop(received);
        assert_eq!((counters.abandoned.get(), counters.in_flight.get()), (3, 0));
    }

    #[test]
    fn an_answer_that_does_not_tell_of_each_event_is_noticed() {
        let metrics = IngestMetrics::default();
        let counters = metrics.0.projects.of(PROJECT);
        let received = metrics.received(PROJECT, 3);
        received.answered(&Ok(Vec::new()));
        assert_eq!(counters.unaccounted.get(), 3);
        assert_eq!((counters.abandoned.get(), counters.in_flight.get()), (0, 0));
        let received = metrics.received(PROJECT, 2);
        received.answered(&Err(Error::ShuttingDown));
        assert_eq!(counters.unaccounted.get(), 3);
    }
}
