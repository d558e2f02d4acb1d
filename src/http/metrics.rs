//! What the HTTP server counts, and how it is scraped.
//!
//! Labels come from the list of routes: a path that no route takes, or a method that its route does
//! not have, counts under the route `none`, so no caller can make a series.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use actix_web::{App, HttpResponse, HttpServer, web};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::Serving;
use crate::error::Error;
use crate::model::ProjectId;
use crate::telemetry::metrics::{HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_REQUESTS, Metrics, READY};

/// The route of what no route takes.
const NO_ROUTE: &str = "none";

/// The content type of Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The statuses that are told apart; any other one is `other`.
const STATUSES: [(u16, &str); 19] = [
    (200, "200"),
    (201, "201"),
    (204, "204"),
    (304, "304"),
    (307, "307"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (409, "409"),
    (413, "413"),
    (414, "414"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (501, "501"),
    (503, "503"),
];

/// The methods that are told apart; any other one is `other`.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// The series of one operation, each made when it is first needed.
#[derive(Debug)]
struct Series {
    method: &'static str,
    duration: OnceLock<Histogram>,
    /// One for each of [`STATUSES`], then those of other statuses and of no answer at all.
    statuses: [OnceLock<IntCounter>; STATUSES.len() + 2],
}

const OTHER_STATUS: usize = STATUSES.len();
const NO_ANSWER: usize = STATUSES.len() + 1;

impl Series {
    fn new(method: &'static str) -> Self {
        Self {
            method,
            duration: OnceLock::new(),
            statuses: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

/// The handles of the requests of one server.
#[derive(Debug)]
pub struct RequestMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGauge,
    /// Where each pattern stands in `routes`.
    by_pattern: HashMap<String, usize>,
    /// Each route with its operations; the first one is none.
    routes: Vec<(String, Vec<Series>)>,
    ready: IntGauge,
}

impl RequestMetrics {
    /// The handles for these operations, each a method and a route's pattern.
    pub fn new(
        metrics: &Metrics,
        operations: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let methods = METHODS.into_iter().chain(["other"]);
        let mut routes = vec![(NO_ROUTE.to_owned(), methods.map(Series::new).collect())];
        let mut by_pattern = HashMap::new();
        for (method, route) in operations {
            let place = *by_pattern.entry(route).or_insert_with_key(|route| {
                routes.push((route.clone(), Vec::new()));
                routes.len() - 1
            });
            if let Some((_, series)) = routes.get_mut(place) {
                series.push(Series::new(method));
            }
        }
        Self {
            requests: metrics.counters(&HTTP_REQUESTS),
            durations: metrics.histograms(&HTTP_DURATION),
            in_flight: metrics.gauge(&HTTP_IN_FLIGHT),
            by_pattern,
            routes,
            ready: metrics.gauge(&READY),
        }
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }

    /// Counts a request as in flight until what comes back is answered or dropped.
    pub(super) fn began(self: &Arc<Self>, method: &Method, route: Option<&str>) -> InFlight {
        self.in_flight.inc();
        let asked = method.as_str();
        let operation = route.and_then(|route| {
            let place = *self.by_pattern.get(route)?;
            let (_, series) = self.routes.get(place)?;
            let wanted = if asked == "HEAD" { "GET" } else { asked };
            let index = series.iter().position(|series| series.method == wanted)?;
            Some((place, index))
        });
        let operation = operation.unwrap_or_else(|| {
            let known = METHODS.iter().position(|method| *method == asked);
            (0, known.unwrap_or(METHODS.len()))
        });
        InFlight {
            all: Arc::clone(self),
            operation,
            is_answered: false,
        }
    }

    fn count(&self, operation: (usize, usize), status: usize, took: Option<Duration>) {
        let Some((route, all)) = self.routes.get(operation.0) else {
            return;
        };
        let Some(series) = all.get(operation.1) else {
            return;
        };
        let Some(counter) = series.statuses.get(status) else {
            return;
        };
        let make = || {
            let name = match status {
                OTHER_STATUS => "other",
                NO_ANSWER => "none",
                known => STATUSES.get(known).map_or("other", |(_, name)| name),
            };
            self.requests
                .with_label_values(&[series.method, route.as_str(), name])
        };
        counter.get_or_init(make).inc();
        if let Some(took) = took {
            let make = || {
                self.durations
                    .with_label_values(&[series.method, route.as_str()])
            };
            let duration = series.duration.get_or_init(make);
            duration.observe(took.as_secs_f64());
        }
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    all: Arc<RequestMetrics>,
    /// The places of the route and of its operation.
    operation: (usize, usize),
    is_answered: bool,
}

impl InFlight {
    /// The request was answered after so long; `None` is a connection that is closed instead.
    pub(super) fn answered(mut self, status: Option<StatusCode>, took: Duration) {
        self.is_answered = true;
        let index = match status {
            None => NO_ANSWER,
            Some(status) => STATUSES
                .iter()
                .position(|(code, _)| *code == status.as_u16())
                .unwrap_or(OTHER_STATUS),
        };
        let took = status.map(|_| took);
        self.all.count(self.operation, index, took);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.in_flight.dec();
        if !self.is_answered {
            self.all.count(self.operation, NO_ANSWER, None);
        }
    }
}

/// The metrics as an answer: all of them, or without other projects' for a project's key.
pub(super) async fn answer(
    metrics: &Metrics,
    project: Option<ProjectId>,
) -> Result<HttpResponse, Error> {
    let metrics = metrics.clone();
    // It reads the process's state from files.
    let made = tokio::task::spawn_blocking(move || match project {
        Some(project) => metrics.text_for(project),
        None => metrics.text().to_string(),
    });
    let text = made
        .await
        .map_err(|panicked| Error::Internal(panicked.to_string()))?;
    Ok(HttpResponse::Ok().content_type(TEXT_FORMAT).body(text))
}

/// A server of nothing but the metrics, for an address of their own. It asks for no key.
pub fn serve_metrics(metrics: Metrics, listener: TcpListener) -> io::Result<Serving> {
    let address = listener.local_addr()?;
    let metrics = web::Data::new(metrics);
    let server = HttpServer::new(move || {
        let scrape = |metrics: web::Data<Metrics>| async move {
            answer(&metrics, None)
                .await
                .unwrap_or_else(|_| HttpResponse::InternalServerError().finish())
        };
        App::new()
            .app_data(metrics.clone())
            .route("/metrics", web::get().to(scrape))
    })
    .workers(1)
    .max_connections(64)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(Serving {
        address,
        handle: server.handle(),
        server,
    })
}
