//! What targeting counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::decisions::DecisionAbout;
use crate::clock::Clock;
use crate::matcher::Snapshot;
use crate::model::ProjectId;
use crate::telemetry::metrics::{
    CACHE_BYTES, CACHE_ENTRIES, CACHE_REQUESTS, DECISION_PANICS, DECISIONS, HUB_CONNECTED, MATCHES,
    Metrics, NODES, PerProject, RULE_ERRORS, SNAPSHOT_CAMPAIGNS, SNAPSHOT_COST, SNAPSHOT_LOADED,
    SNAPSHOT_QUARANTINED, SNAPSHOT_RELOAD_DURATION, SNAPSHOT_RELOADS, SNAPSHOT_REVISION,
    SNAPSHOT_SEGMENTS, SNAPSHOT_UNINDEXED, STALENESS,
};

/// The handles of one service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TargetingMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    addresses: CacheMetrics,
    states: CacheMetrics,
    decisions: IntCounter,
    matches: IntCounter,
    rule_errors: IntCounter,
    panics: [IntCounter; DecisionAbout::ALL.len()],
    snapshots: PerProject<SnapshotGauges>,
    reloads_ok: IntCounter,
    reloads_failed: IntCounter,
    reload_duration: Histogram,
    hub_connected: IntGauge,
    nodes: IntGauge,
    staleness: Gauge,
    /// When the handles were made, and how many milliseconds after it the snapshots were last
    /// known to be current.
    since: Instant,
    current_after_ms: AtomicU64,
}

#[derive(Debug)]
struct SnapshotGauges {
    revision: IntGauge,
    campaigns: IntGauge,
    unindexed: IntGauge,
    cost: IntGauge,
    quarantined: IntGauge,
    segments: IntGauge,
    loaded: IntGauge,
}

/// The handles of one cache.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    hits: IntCounter,
    misses: IntCounter,
    entries: IntGauge,
    bytes: IntGauge,
}

impl CacheMetrics {
    /// Counts a look-up and passes on what it found.
    pub fn counted<T>(&self, found: Option<T>) -> Option<T> {
        match found {
            Some(_) => self.hits.inc(),
            None => self.misses.inc(),
        }
        found
    }

    /// Sets the gauges.
    pub fn sample(&self, entries: u64, bytes: u64) {
        self.entries.set(whole(entries));
        self.bytes.set(whole(bytes));
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Default for TargetingMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        Self::new(&Metrics::new())
    }
}

impl TargetingMetrics {
    /// The handles of this process's service.
    pub fn new(metrics: &Metrics) -> Self {
        let requests = metrics.counters(&CACHE_REQUESTS);
        let entries = metrics.gauges(&CACHE_ENTRIES);
        let bytes = metrics.gauges(&CACHE_BYTES);
        let cache = |name: &str| CacheMetrics {
            hits: requests.with_label_values(&[name, "hit"]),
            misses: requests.with_label_values(&[name, "miss"]),
            entries: entries.with_label_values(&[name]),
            bytes: bytes.with_label_values(&[name]),
        };
        let gauges = [
            &SNAPSHOT_REVISION,
            &SNAPSHOT_CAMPAIGNS,
            &SNAPSHOT_UNINDEXED,
            &SNAPSHOT_COST,
            &SNAPSHOT_QUARANTINED,
            &SNAPSHOT_SEGMENTS,
            &SNAPSHOT_LOADED,
        ];
        let [
            revision,
            campaigns,
            unindexed,
            cost,
            quarantined,
            segments,
            loaded,
        ] = gauges.map(|of| metrics.gauges(of));
        let of = |gauges: &IntGaugeVec, project: &str| gauges.with_label_values(&[project]);
        let reloads = metrics.counters(&SNAPSHOT_RELOADS);
        let panics = metrics.counters(&DECISION_PANICS);
        Self(Arc::new(Inner {
            addresses: cache("addresses"),
            states: cache("states"),
            decisions: metrics.counter(&DECISIONS),
            matches: metrics.counter(&MATCHES),
            rule_errors: metrics.counter(&RULE_ERRORS),
            panics: DecisionAbout::ALL.map(|about| panics.with_label_values(&[about.as_str()])),
            snapshots: PerProject::new(move |project| SnapshotGauges {
                revision: of(&revision, project),
                campaigns: of(&campaigns, project),
                unindexed: of(&unindexed, project),
                cost: of(&cost, project),
                quarantined: of(&quarantined, project),
                segments: of(&segments, project),
                loaded: of(&loaded, project),
            }),
            reloads_ok: reloads.with_label_values(&["ok"]),
            reloads_failed: reloads.with_label_values(&["failed"]),
            reload_duration: metrics.histogram(&SNAPSHOT_RELOAD_DURATION),
            hub_connected: metrics.gauge(&HUB_CONNECTED),
            nodes: metrics.gauge(&NODES),
            staleness: metrics.fraction(&STALENESS),
            since: Instant::now(),
            current_after_ms: AtomicU64::new(0),
        }))
    }

    /// The cache of where identities lead.
    pub fn addresses(&self) -> &CacheMetrics {
        &self.0.addresses
    }

    /// The cache of people's states.
    pub fn states(&self) -> &CacheMetrics {
        &self.0.states
    }

    pub(super) fn decided(&self, matched: usize, errors: u32) {
        self.0.decisions.inc();
        if matched > 0 {
            self.0.matches.inc_by(matched as u64);
        }
        self.failed(errors);
    }

    /// So many conditions failed at run time.
    pub(super) fn failed(&self, errors: u32) {
        if errors > 0 {
            self.0.rule_errors.inc_by(u64::from(errors));
        }
    }

    /// A decision panicked.
    pub(super) fn panicked(&self, about: DecisionAbout) {
        if let Some(panics) = self.0.panics.get(about as usize) {
            panics.inc();
        }
    }

    pub(super) fn rule_errors(&self) -> u64 {
        self.0.rule_errors.get()
    }

    pub(super) fn reloaded(&self, is_ok: bool, took: Duration) {
        if is_ok {
            self.0.reloads_ok.inc();
        } else {
            self.0.reloads_failed.inc();
        }
        self.0.reload_duration.observe(took.as_secs_f64());
    }

    pub(super) fn swapped(&self, project: ProjectId, snapshot: &Snapshot, clock: &Clock) {
        let gauges = self.0.snapshots.of(project);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        gauges.revision.set(snapshot.revision());
        gauges.campaigns.set(count(snapshot.campaigns().len()));
        gauges.unindexed.set(count(snapshot.unindexed()));
        gauges.cost.set(whole(snapshot.campaigns().highest_cost()));
        gauges.quarantined.set(snapshot.quarantined());
        gauges.segments.set(count(snapshot.segments().list().len()));
        gauges.loaded.set(clock.now().timestamp());
    }

    /// Every snapshot is current now, and so many other nodes work on the database.
    pub(super) fn is_current(&self, other_nodes: i64) {
        self.0.hub_connected.set(1);
        self.0.nodes.set(other_nodes + 1);
        let after = u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.current_after_ms.store(after, Ordering::Relaxed);
    }

    pub(super) fn is_cut_off(&self) {
        self.0.hub_connected.set(0);
    }

    pub(super) fn sample(&self) {
        let current_after = Duration::from_millis(self.0.current_after_ms.load(Ordering::Relaxed));
        let stale = self.0.since.elapsed().saturating_sub(current_after);
        self.0.staleness.set(stale.as_secs_f64());
    }
}
