//! How the server does. Public, and never refused by a key's limit.

use actix_web::{HttpRequest, HttpResponse, get, web};
use chrono::SecondsFormat;
use diesel::{RunQueryDsl, sql_query};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::error::Error;
use crate::http::auth::{Authorized, Read};
use crate::http::metrics;
use crate::http::problem::Problem;
use crate::http::routes::no_such_route;
use crate::http::settings::MetricsAccess;
use crate::http::state::AppState;

/// The seed's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` while the process answers.
    status: &'static str,
    /// The server's time.
    timestamp: String,
    /// Always `enabled`: there is no mode without keys.
    auth: &'static str,
    /// The server's version.
    version: &'static str,
}

/// Says that the server answers.
///
/// It does not ask the database; `/readyz` does.
#[utoipa::path(tag = "service", operation_id = "get_health",
    responses((status = 200, description = "The server answers.", body = Health)))]
#[get("/v1/health")]
pub(super) async fn get_health(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(Health {
        status: "ok",
        timestamp: state
            .clock
            .now()
            .to_rfc3339_opts(SecondsFormat::Millis, true),
        auth: "enabled",
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Whether the process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// Always `ok`.
    status: &'static str,
}

/// Says that the process is alive: restart it only when this fails.
#[utoipa::path(tag = "service", operation_id = "get_live",
    responses((status = 200, description = "The process is alive.", body = Live)))]
#[get("/livez")]
pub(super) async fn get_live() -> HttpResponse {
    HttpResponse::Ok().json(Live { status: "ok" })
}

/// Whether the server can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// Always `ok`.
    status: &'static str,
    /// How many events the fullest shard holds, waiting for their commit or being written.
    queued_events: usize,
    /// How many a shard may hold; beyond it events are refused with 503.
    queued_events_max: usize,
}

/// Says whether the server can do its work.
///
/// The database answers, it is set up to be durable, the campaigns are loaded, events are being
/// written if there are any, and the server is not stopping. Fails within the database's deadline;
/// `failed` names what does not hold: `database`, `campaigns`, `ingest`, `settings` or `shutdown`.
#[utoipa::path(tag = "service", operation_id = "get_ready",
    responses((status = 200, description = "The server is ready.", body = Ready)))]
#[get("/readyz")]
pub(super) async fn get_ready(state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    if state.readiness.is_shutting_down() {
        return Err(not_ready(Error::ShuttingDown, "shutdown"));
    }
    let failure = first_failure(&state).await;
    let check = failure.as_ref().map(|failure| failure.check);
    if state.readiness.changes_to(check) {
        match &failure {
            None => tracing::info!("the server is ready again"),
            Some(Failure { check, reason, .. }) => {
                tracing::warn!(failed = check, reason, "the server is not ready");
            }
        }
    }
    if let Some(Failure { check, error, .. }) = failure {
        return Err(not_ready(error, check));
    }
    Ok(HttpResponse::Ok().json(Ready {
        status: "ok",
        queued_events: state.ingest.fullest_queue_rows(),
        queued_events_max: state.ingest.queue_rows_max(),
    }))
}

/// What keeps the server from being ready.
struct Failure {
    /// As the answer names it.
    check: &'static str,
    /// As the log says it.
    reason: String,
    error: Error,
}

async fn first_failure(state: &AppState) -> Option<Failure> {
    let failure = |check, reason: &str, error| {
        let reason = reason.to_owned();
        Some(Failure {
            check,
            reason,
            error,
        })
    };
    let away = Error::DatabaseUnavailable;
    let asked = state
        .store
        .run(|connection| sql_query("SELECT 1").execute(connection));
    if let Err(error) = asked.await {
        return failure("database", &error.to_string(), error);
    }
    if !state.targeting.is_ready() {
        return failure("campaigns", "they are not loaded", away);
    }
    if state.ingest.is_stuck() {
        return failure("ingest", "events are not being written", away);
    }
    let reason = state.readiness.blocked()?;
    failure("settings", &reason, away)
}

fn not_ready(error: Error, failed: &'static str) -> Problem {
    Problem::from(error).with_extra("failed", json!(failed))
}

/// Figures of the server, for Prometheus.
///
/// Who may ask is a setting. A key sees the server's figures and those of its own project. It asks
/// no database and counts against no limit.
#[utoipa::path(tag = "service", operation_id = "get_metrics", security(("api_key" = ["read"])),
    responses((status = 200, description = "Prometheus's text format.", body = String,
        content_type = "text/plain"),
        (status = 404, description = "They are switched off.")))]
#[get("/metrics")]
pub(super) async fn get_metrics(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = match state.settings.metrics {
        MetricsAccess::Off => return Err(no_such_route(&request)),
        MetricsAccess::Public => None,
        MetricsAccess::Key => {
            let access = Authorized::<Read>::unlimited(&request, &state).await?;
            Some(access.project)
        }
    };
    Ok(metrics::answer(&state.metrics, project).await?)
}
