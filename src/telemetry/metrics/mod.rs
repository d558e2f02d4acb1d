//! Metrics: the list of all there are, the handles that count, and their text for Prometheus.
//!
//! Whoever counts makes its handles once, from a [`Metrics`] that is passed in, and keeps them: an
//! event costs an atomic addition. Labels come from closed sets (routes, statuses, codes, shards)
//! and from projects, which only admins make; never from what a caller sent.
//!
//! A scrape reads what is in memory and asks nobody, so it works without a database. What only the
//! database knows is looked up by a background job.

mod list;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::model::ProjectId;
pub use list::*;

/// How long a text is given again instead of being made anew, so that many scrapers cost as little
/// as one.
const TEXT_IS_GOOD_FOR: Duration = Duration::from_millis(200);

/// The upper bounds of histograms of times, in seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// The upper bounds of histograms of events.
const EVENTS: [f64; 12] = [
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 10_000.0,
];

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// A figure of the moment.
    Gauge,
    /// A histogram of times, in seconds.
    Seconds,
    /// A histogram of numbers of events.
    Events,
}

impl Kind {
    /// Prometheus's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Seconds | Self::Events => "histogram",
        }
    }
}

/// One metric: everything that is said of it anywhere.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Its name, which ends with its unit; counters add `_total`.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
}

impl Described {
    /// Its unit: seconds, bytes, or what its name counts.
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let name = name.strip_suffix("_max").unwrap_or(name);
        if name.ends_with("_timestamp_seconds") || name == "process_start_time_seconds" {
            "seconds since 1970"
        } else if name.ends_with("_seconds") {
            "seconds"
        } else if name.ends_with("_bytes") {
            "bytes"
        } else {
            "count"
        }
    }
}

type Sampler = Box<dyn Fn() + Send + Sync>;

/// A text and when it was made.
struct Text {
    made_at: Instant,
    text: Arc<str>,
}

/// All metrics of one process. Cheap to clone; clones are one.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
    samplers: Arc<Mutex<Vec<Sampler>>>,
    text: Arc<Mutex<Option<Text>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The data is replaced whole or appended to, so a panic elsewhere has left it good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// No metrics yet. Handles made from it count, whether or not anybody ever scrapes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is known of the process itself: its memory, files, time and build.
    pub fn with_process(self) -> Self {
        #[cfg(target_os = "linux")]
        self.register(prometheus::process_collector::ProcessCollector::for_self());
        self.gauges(&BUILD_INFO)
            .with_label_values(&[
                env!("CARGO_PKG_VERSION"),
                option_env!("BECKON_COMMIT").unwrap_or("unknown"),
            ])
            .set(1);
        self
    }

    /// Calls this before each text is made, to set gauges from what is in memory. It runs on a
    /// thread that may block for a moment; it must not ask the database.
    pub fn before_each_scrape(&self, sampler: impl Fn() + Send + Sync + 'static) {
        lock(&self.samplers).push(Box::new(sampler));
    }

    /// All metrics in Prometheus's text format. Blocks for a moment.
    pub fn text(&self) -> Arc<str> {
        // Held while the text is made: whoever comes meanwhile gets the same one.
        let mut held = lock(&self.text);
        if let Some(held) = held.as_ref()
            && held.made_at.elapsed() < TEXT_IS_GOOD_FOR
        {
            return Arc::clone(&held.text);
        }
        for sample in lock(&self.samplers).iter() {
            sample();
        }
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        let text: Arc<str> = text.into();
        *held = Some(Text {
            made_at: Instant::now(),
            text: Arc::clone(&text),
        });
        text
    }

    /// As [`Metrics::text`], without what is another project's.
    pub fn text_for(&self, project: ProjectId) -> String {
        let own = format!("project=\"{}\"", project.0);
        let text = self.text();
        let lines = text.split_inclusive('\n').filter(|line| {
            // No label's value holds this text, since all are from closed sets.
            line.starts_with('#') || !line.contains("project=\"") || line.contains(&own)
        });
        lines.collect()
    }

    fn register<C: Collector + 'static>(&self, collector: C) {
        #[expect(
            clippy::expect_used,
            reason = "at the start only, with constant names that a test makes all of"
        )]
        self.registry
            .register(Box::new(collector))
            .expect("each metric is made once");
    }

    fn made<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        #[expect(
            clippy::expect_used,
            reason = "at the start only, with constant names that a test makes all of"
        )]
        let collector = made.expect("the names are good");
        self.register(collector.clone());
        collector
    }

    /// A counter without labels.
    pub fn counter(&self, of: &Described) -> IntCounter {
        self.made(IntCounter::with_opts(options(of)))
    }

    /// A counter by its labels.
    pub fn counters(&self, of: &Described) -> IntCounterVec {
        self.made(IntCounterVec::new(options(of), of.labels))
    }

    /// A whole number without labels.
    pub fn gauge(&self, of: &Described) -> IntGauge {
        self.made(IntGauge::with_opts(options(of)))
    }

    /// A whole number by its labels.
    pub fn gauges(&self, of: &Described) -> IntGaugeVec {
        self.made(IntGaugeVec::new(options(of), of.labels))
    }

    /// A number without labels; NaN until it is known.
    pub fn fraction(&self, of: &Described) -> Gauge {
        let gauge = self.made(Gauge::with_opts(options(of)));
        gauge.set(f64::NAN);
        gauge
    }

    /// A number by its labels.
    pub fn fractions(&self, of: &Described) -> GaugeVec {
        self.made(GaugeVec::new(options(of), of.labels))
    }

    /// A histogram without labels.
    pub fn histogram(&self, of: &Described) -> Histogram {
        self.made(Histogram::with_opts(buckets(of)))
    }

    /// A histogram by its labels.
    pub fn histograms(&self, of: &Described) -> HistogramVec {
        self.made(HistogramVec::new(buckets(of), of.labels))
    }
}

fn options(of: &Described) -> Opts {
    Opts::new(of.name, of.help)
}

fn buckets(of: &Described) -> HistogramOpts {
    let bounds = match of.kind {
        Kind::Events => EVENTS.to_vec(),
        Kind::Counter | Kind::Gauge | Kind::Seconds => SECONDS.to_vec(),
    };
    HistogramOpts::new(of.name, of.help).buckets(bounds)
}

/// Handles by project, made when a project is first met and found without a lock afterwards.
pub struct PerProject<T> {
    known: ArcSwap<HashMap<ProjectId, Arc<T>>>,
    make: Box<dyn Fn(&str) -> T + Send + Sync>,
}

impl<T> std::fmt::Debug for PerProject<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerProject").finish_non_exhaustive()
    }
}

impl<T> PerProject<T> {
    /// `make` gets the label's value.
    pub fn new(make: impl Fn(&str) -> T + Send + Sync + 'static) -> Self {
        Self {
            known: ArcSwap::default(),
            make: Box::new(make),
        }
    }

    /// The project's handles.
    pub fn of(&self, project: ProjectId) -> Arc<T> {
        if let Some(known) = self.known.load().get(&project) {
            return Arc::clone(known);
        }
        // Two that make them at once make handles of the same series.
        let made = Arc::new((self.make)(&project.0.to_string()));
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.entry(project).or_insert_with(|| Arc::clone(&made));
            known
        });
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_once_and_well() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for metric in ALL {
            let is_total = metric.name.ends_with("_total");
            assert_eq!(is_total, metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            // A scrape names these itself, and renames a series' own to `exported_…`.
            let taken = ["job", "instance"];
            let is_taken = metric.labels.iter().any(|label| taken.contains(label));
            assert!(!is_taken, "{}: {:?}", metric.name, metric.labels);
        }
    }

    #[test]
    fn a_project_sees_its_own_series_and_those_of_the_server() {
        let metrics = Metrics::new();
        let received = metrics.counters(&INGEST_RECEIVED);
        received.with_label_values(&["1"]).inc();
        received.with_label_values(&["11"]).inc();
        metrics.gauge(&NODES).set(3);
        let text = metrics.text_for(ProjectId(1));
        assert!(text.contains("{project=\"1\"} 1"), "{text}");
        assert!(!text.contains("11"), "{text}");
        assert!(text.contains("beckon_nodes 3"), "{text}");
    }

    #[test]
    fn handles_of_a_project_are_made_once() {
        let counters = Metrics::new().counters(&INGEST_RECEIVED);
        let projects = PerProject::new(move |project| counters.with_label_values(&[project]));
        let first = projects.of(ProjectId(7));
        first.inc_by(2);
        assert!(Arc::ptr_eq(&first, &projects.of(ProjectId(7))));
        assert_eq!(projects.of(ProjectId(8)).get(), 0);
    }
}
