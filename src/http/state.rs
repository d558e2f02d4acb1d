//! What every handler shares. Cheap to clone; one clone lives in each worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

use super::auth::Authenticator;
use super::body::BodyBudget;
use super::limits::RateLimits;
use super::metrics::RequestMetrics;
use super::routes;
use super::settings::HttpSettings;
use crate::clock::Clock;
use crate::ingest::Ingest;
use crate::store::{Shares, Store};
use crate::targeting::Targeting;
use crate::telemetry::Sparse;
use crate::telemetry::metrics::Metrics;

/// Callers whose key is not in the head have one in so many parts of the memory for bodies together.
const STRANGERS_SHARE: usize = 4;

/// How many large bodies are unpacked or read at a time. Each may become as large as the limit.
const DECODERS: usize = 4;

/// How many explanations one project may have made or wait for, so that none keeps the others waiting
/// for good.
const EXPLANATIONS_OF_A_PROJECT: usize = 4;

/// The services and settings behind the routes.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The shared pool, for plain reads.
    pub store: Store,
    /// Where events go.
    pub ingest: Ingest,
    /// Where decisions come from, and writes that change them go.
    pub targeting: Targeting,
    /// Who may do what.
    pub auth: Authenticator,
    /// Where the time comes from.
    pub clock: Clock,
    /// How the server behaves.
    pub settings: Arc<HttpSettings>,
    /// Who asks too much.
    pub limits: Arc<RateLimits>,
    /// How much of bodies is held in memory.
    pub bodies: BodyBudget,
    /// The part of it for those whose key is not in the head: they may have none.
    pub bodies_of_strangers: BodyBudget,
    /// Whether the server may call itself ready.
    pub readiness: Readiness,
    /// What is scraped.
    pub metrics: Metrics,
    /// What counts requests.
    pub requests: Arc<RequestMetrics>,
    /// Whose turn it is to have a large body unpacked or read.
    pub decoders: Arc<Semaphore>,
    /// Whose turn it is to have decisions explained.
    pub explaining: Arc<Semaphore>,
    /// Which of a project's explanations has that turn or is the next of its project.
    pub explaining_of_each: Arc<Shares>,
    /// The explanations that each project may have made or wait for.
    pub explanations: Arc<Shares>,
    /// The one place for a replay of a draft.
    pub replaying: Arc<Semaphore>,
    /// The log's lines of requests that were refused or failed.
    pub log: Arc<RequestLog>,
}

/// The lines of requests that were not answered as asked, each kind bounded in number.
#[derive(Debug, Default)]
pub struct RequestLog {
    /// What a request failed of.
    pub failures: Sparse,
    /// That one was refused, failed or closed.
    pub refusals: Sparse,
}

impl AppState {
    /// Wires the services together; the limits and caches start empty.
    pub fn new(
        store: Store,
        ingest: Ingest,
        targeting: Targeting,
        clock: Clock,
        settings: HttpSettings,
        metrics: Metrics,
    ) -> Self {
        let auth = Authenticator::new(store.clone(), clock.clone(), &settings);
        let limits = Arc::new(RateLimits::new(&settings));
        let bodies = BodyBudget::new(settings.bodies_bytes_max);
        let a_part = settings.bodies_bytes_max / STRANGERS_SHARE;
        let bodies_of_strangers = bodies.part(a_part.max(settings.decode.body_bytes_max));
        let requests = Arc::new(RequestMetrics::new(&metrics, routes::operations()));
        let readiness = Readiness::default();
        metrics.before_each_scrape({
            let (requests, readiness) = (Arc::clone(&requests), readiness.clone());
            let (targeting, ingest) = (targeting.clone(), ingest.clone());
            move || {
                let is_well = targeting.is_ready() && !ingest.is_stuck();
                requests.set_ready(readiness.is_good() && is_well);
            }
        });
        Self {
            store,
            ingest,
            targeting,
            auth,
            clock,
            settings: Arc::new(settings),
            limits,
            bodies,
            bodies_of_strangers,
            readiness,
            metrics,
            requests,
            decoders: Arc::new(Semaphore::new(DECODERS)),
            explaining: Arc::new(Semaphore::new(1)),
            explaining_of_each: Arc::new(Shares::of_each(1)),
            explanations: Arc::new(Shares::of_each(EXPLANATIONS_OF_A_PROJECT)),
            replaying: Arc::new(Semaphore::new(1)),
            log: Arc::default(),
        }
    }
}

/// Whether the server may call itself ready, as far as it is not asked of the database each time.
///
/// It starts ready; whoever checks `fsync` and `full_page_writes` blocks it with a reason. Cheap to
/// clone; clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    shared: Arc<ReadinessState>,
}

#[derive(Debug, Default)]
struct ReadinessState {
    blocked: ArcSwapOption<String>,
    shutting_down: AtomicBool,
    /// The check that failed when somebody last asked.
    failed: Mutex<Option<&'static str>>,
}

impl Readiness {
    /// Makes the server unready for this reason, until [`Readiness::unblock`].
    pub fn block(&self, reason: impl Into<String>) {
        self.shared.blocked.store(Some(Arc::new(reason.into())));
    }

    /// Takes the reason back.
    pub fn unblock(&self) {
        self.shared.blocked.store(None);
    }

    /// The reason why the server is not ready, if there is one.
    pub fn blocked(&self) -> Option<Arc<String>> {
        self.shared.blocked.load_full()
    }

    /// True unless the server is blocked or stopping.
    pub fn is_good(&self) -> bool {
        self.blocked().is_none() && !self.is_shutting_down()
    }

    /// Remembers which check failed as somebody asked, if one did; true when it is another than the
    /// time before, which is worth a line in the log.
    pub fn changes_to(&self, failed: Option<&'static str>) -> bool {
        let before = self.shared.failed.lock();
        let mut before = before.unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *before, failed) != failed
    }

    /// Says that the server is stopping: it is no longer ready, but finishes what it has.
    pub fn start_shutdown(&self) {
        self.shared.shutting_down.store(true, Ordering::Release);
    }

    /// True once the server is stopping.
    pub fn is_shutting_down(&self) -> bool {
        self.shared.shutting_down.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_readiness_is_told_once() {
        let readiness = Readiness::default();
        assert!(!readiness.changes_to(None), "it starts ready");
        assert!(readiness.changes_to(Some("database")));
        assert!(!readiness.clone().changes_to(Some("database")));
        assert!(readiness.changes_to(Some("campaigns")));
        assert!(readiness.changes_to(None));
        assert!(!readiness.changes_to(None));
    }
}
