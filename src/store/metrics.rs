//! What the pool counts.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use crate::telemetry::metrics::{
    Metrics, POOL_CONNECTIONS, POOL_IN_USE, POOL_MAX, POOL_TIMEOUTS, POOL_WAIT, POOL_WAITING,
};

/// The handles of one pool.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    connections: IntGauge,
    in_use: IntGauge,
    max: IntGauge,
    waiting: IntGauge,
    wait: Histogram,
    timeouts: IntCounter,
}

impl Default for StoreMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        Self::new(&Metrics::new())
    }
}

/// A caller that waits for a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting(IntGauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl StoreMetrics {
    /// The handles of this process's pool.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            connections: metrics.gauge(&POOL_CONNECTIONS),
            in_use: metrics.gauge(&POOL_IN_USE),
            max: metrics.gauge(&POOL_MAX),
            waiting: metrics.gauge(&POOL_WAITING),
            wait: metrics.histogram(&POOL_WAIT),
            timeouts: metrics.counter(&POOL_TIMEOUTS),
        }
    }

    pub(super) fn wait(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }

    pub(super) fn waited(&self, time: Duration) {
        self.wait.observe(time.as_secs_f64());
    }

    pub(super) fn timed_out(&self) {
        self.timeouts.inc();
    }

    pub(super) fn sample(&self, open: u32, idle: u32, max: u32) {
        self.connections.set(i64::from(open));
        self.in_use.set(i64::from(open.saturating_sub(idle)));
        self.max.set(i64::from(max));
    }
}
