//! What every request passes through: its name, its address's limit, CORS, the final form of its
//! errors, and its line in the log.
//!
//! The log never holds a key: it names the route's pattern, not the path or the query. What was
//! refused or failed has so many lines a second and no more; `held_back` says how many lines of the
//! kind were left out since the one before.

use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse, web};
use tracing::Instrument;

use super::auth::Access;
use super::connection::{Watched, as_it_is_sent};
use super::cors::Permission;
use super::limits::{self, Standing};
use super::problem::Problem;
use super::request_id::{self, RequestId};
use super::routes;
use super::state::{AppState, RequestLog};
use crate::error::Error;

/// The one middleware, outermost.
pub(super) async fn envelope(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let watched = request.conn_data::<Watched>();
    let _in_flight = watched.map(Watched::request);
    let connection = watched.map(Watched::handle);
    let Some(state) = request.app_data::<web::Data<AppState>>().cloned() else {
        let problem = Problem::from(Error::Internal("the state is missing".to_owned()));
        return Ok(request.error_response(problem));
    };
    let id = RequestId::of(request.headers(), &state.clock);
    request.extensions_mut().insert(id.clone());
    let permission = Permission::of(
        request.method(),
        request.headers(),
        &state.settings.cors_origins,
        &state.auth,
    )
    .await;
    let method = request.method().clone();
    let route = request.match_pattern();
    let counted = state.requests.began(&method, route.as_deref());
    if method == Method::HEAD {
        // It is answered as the GET it stands for; the framework leaves the body out.
        request.head_mut().method = Method::GET;
    }
    let span = tracing::info_span!("request", id = id.as_str());
    let answer = answer(request, next, &state, &permission).instrument(span.clone());
    let response = answer.await?;
    Ok(span.in_scope(|| {
        let (response, hung_up) = finish_error(response, &id, &state.log);
        let mut response = response.map_body(|_, body| as_it_is_sent(body, connection));
        finish_headers(&mut response, &id, &permission);
        let took = started.elapsed();
        counted.answered((!hung_up).then(|| response.status()), took);
        log(
            &response,
            &method,
            route.as_deref(),
            took,
            hung_up,
            &state.log,
        );
        response
    }))
}

async fn answer(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
    state: &AppState,
    permission: &Permission,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if permission.is_preflight() {
        return Ok(request.into_response(permission.preflight_answer()));
    }
    let hops = state.settings.trusted_proxy_hops;
    if let Some(address) = limits::client_address(request.request(), hops)
        && !is_probe(request.path())
    {
        let checked = state
            .limits
            .check_address(address, &mut request.extensions_mut());
        if let Err(error) = checked {
            return Ok(request.error_response(Problem::from(error)));
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Probes are never refused: an orchestrator would restart a server that is merely busy. Nor are
/// scrapes: what is refused under load is not seen.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/metrics")
}

/// Whether a route says in the log by itself that it fails: readiness does when that changes, since it
/// is asked every few seconds.
fn logs_itself(route: &str) -> bool {
    route == "/readyz"
}

/// Writes an error's final form, which names the request, and logs a defect once. True when the
/// connection will be closed without an answer.
fn finish_error(
    response: ServiceResponse<BoxBody>,
    id: &RequestId,
    log: &RequestLog,
) -> (ServiceResponse<BoxBody>, bool) {
    let status = response.status();
    let error = response.response().error();
    if error.is_none() && !status.is_client_error() && !status.is_server_error() {
        return (response, false);
    }
    let mut hung_up = false;
    let rendered: HttpResponse = match error.and_then(|error| error.as_error::<Problem>()) {
        Some(problem) => {
            hung_up = problem.is_hangup();
            if status.is_server_error()
                && !logs_itself(response.request().path())
                && let Some(held_back) = log.failures.admit()
            {
                let code = problem.code().as_str();
                // It passes by itself: too much at once, or no database for a while.
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    tracing::warn!(code, error = %problem, held_back, "request failed");
                } else {
                    tracing::error!(code, error = %problem, held_back, "request failed");
                }
            }
            problem.respond(Some(id.as_str()))
        }
        // Others' refusals; a path that is not text and a page there is not are known to get here.
        None if status.is_client_error() => {
            routes::no_such_route(response.request()).respond(Some(id.as_str()))
        }
        None => {
            if let Some(held_back) = log.failures.admit() {
                let error = error.map(tracing::field::display);
                tracing::error!(error, held_back, "request failed");
            }
            Problem::from(Error::Internal(String::new())).respond(Some(id.as_str()))
        }
    };
    (response.into_response(rendered), hung_up)
}

fn finish_headers(
    response: &mut ServiceResponse<BoxBody>,
    id: &RequestId,
    permission: &Permission,
) {
    let standing = response.request().extensions().get::<Standing>().cloned();
    let headers = response.headers_mut();
    if let Some(value) = id.header_value() {
        headers.insert(HeaderName::from_static(request_id::HEADER), value);
    }
    permission.write(headers);
    if let Some(standing) = standing {
        standing.write(headers);
    }
    if let Some(named) = headers.get(CONTENT_TYPE).and_then(with_charset) {
        headers.insert(CONTENT_TYPE, named);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// JSON is UTF-8 by itself, but the seed's Flutter SDK takes a text for Latin-1 unless its charset is
/// named, as the seed's server named it.
fn with_charset(content_type: &HeaderValue) -> Option<HeaderValue> {
    match content_type.as_bytes() {
        b"application/json" => Some("application/json; charset=utf-8"),
        b"application/problem+json" => Some("application/problem+json; charset=utf-8"),
        _ => None,
    }
    .map(HeaderValue::from_static)
}

fn log(
    response: &ServiceResponse<BoxBody>,
    method: &Method,
    route: Option<&str>,
    took: Duration,
    hung_up: bool,
    log: &RequestLog,
) {
    let request = response.request();
    let route = route.unwrap_or("none");
    let status = response.status().as_u16();
    let ms = took.as_millis();
    let extensions = request.extensions();
    let project = extensions.get::<Access>().map(|access| access.project.0);
    let is_as_asked = !hung_up && status < 400;
    // One line an event would be the larger part of a busy server's work; what went well is quiet.
    let is_quiet = match is_as_asked {
        true => !route.starts_with("/v1/admin"),
        false => logs_itself(route),
    };
    if is_quiet {
        tracing::debug!(%method, route, status, ms, project, "answered");
    } else if is_as_asked {
        tracing::info!(%method, route, status, ms, project, "answered");
    } else if let Some(held_back) = log.refusals.admit() {
        if hung_up {
            tracing::info!(%method, route, ms, project, held_back, "a client was too slow or left");
        } else {
            tracing::info!(%method, route, status, ms, project, held_back, "answered");
        }
    }
}
