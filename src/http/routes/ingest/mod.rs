//! What SDKs send: the calls of both dialects, alone and in lists.
//!
//! Success is exactly 200 with a JSON object, since some SDKs retry 202 and 204 and one fails on
//! anything else. Whether a body may be JSON is decided by the body: content types are ignored.

pub(super) mod answer;

use std::time::{Duration, Instant};

use actix_web::body::BoxBody;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, post, web};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::Error;
use crate::http::auth::{Authorized, ByHead, Client, Scope};
use crate::http::body::{self, Body};
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::ingest::decode::{self, Decoded, Defaults, Route};
use crate::ingest::{Outcome, Submission, Wanted};

/// Bodies above this are unpacked and decoded on a blocking thread, so that one large batch does
/// not hold up the other connections of its worker.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// One call, in the seed's snake_case or Segment's camelCase.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `ingest::decode` reads")]
struct CallBody {
    /// The seed's name of the user.
    user_id: Option<String>,
    /// The seed's id of the call, for idempotency.
    event_id: Option<String>,
    /// Segment's name of the user.
    #[serde(rename = "userId")]
    user_id_segment: Option<String>,
    /// An id the client made up.
    #[serde(rename = "anonymousId")]
    anonymous_id: Option<String>,
    /// The same, as the seed's clients write it.
    #[serde(rename = "anonymous_id")]
    anonymous_id_seed: Option<String>,
    /// What it is; of a single call the route says so.
    r#type: Option<String>,
    /// Segment's id of the call, for idempotency.
    #[serde(rename = "messageId")]
    message_id: Option<String>,
    /// The event's name, on a track: 1 to 200 characters.
    event: Option<String>,
    /// The name of a page or screen.
    name: Option<String>,
    /// The category of a page.
    category: Option<String>,
    /// The details of a track, page or screen.
    #[schema(value_type = Option<Object>)]
    properties: Option<Value>,
    /// What is known of the user, on an identify or group.
    #[schema(value_type = Option<Object>)]
    traits: Option<Value>,
    /// The group, on a group call.
    #[serde(rename = "groupId")]
    group_id: Option<String>,
    /// The other identity, on an alias.
    #[serde(rename = "previousId")]
    previous_id: Option<String>,
    /// Segment's context.
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    /// Which other services are to have it; nothing is sent on.
    #[schema(value_type = Option<Object>)]
    integrations: Option<Value>,
    /// When it happened.
    timestamp: Option<String>,
    /// When it happened, of RudderStack's SDKs. Beside it `timestamp` is taken as it is.
    #[serde(rename = "originalTimestamp")]
    original_timestamp: Option<String>,
    /// When the client sent it, by the client's clock.
    #[serde(rename = "sentAt")]
    sent_at: Option<String>,
    /// A key of last resort; the first good one of `writeKey`, `api_key` and `token` counts.
    #[serde(rename = "writeKey")]
    write_key: Option<String>,
    /// As `writeKey`.
    api_key: Option<String>,
    /// As `writeKey`.
    token: Option<String>,
}

/// A list of calls.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `ingest::decode` reads")]
struct BatchBody {
    /// The calls, each with its `type`.
    #[schema(value_type = Vec<Object>)]
    batch: Vec<Value>,
    /// Copied into each call's context.
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    /// When the client sent it, by the client's clock.
    #[serde(rename = "sentAt")]
    sent_at: Option<String>,
    /// A key of last resort; the first good one of `writeKey`, `api_key` and `token` counts.
    #[serde(rename = "writeKey")]
    write_key: Option<String>,
    /// As `writeKey`.
    api_key: Option<String>,
    /// As `writeKey`.
    token: Option<String>,
}

/// A list of leads.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `ingest::decode` reads")]
struct LeadsBody {
    /// The leads; each is kept as an event.
    #[schema(value_type = Vec<Object>)]
    leads: Vec<Value>,
}

/// The answer to one call.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes what `answer` writes")]
struct CallAnswer {
    /// Always true.
    ok: bool,
    /// Always true.
    success: bool,
    /// Always 1.
    status: i32,
    /// The campaigns to show now, best first; not on an identify.
    #[schema(value_type = Option<Vec<Object>>)]
    matched: Option<Vec<Value>>,
    /// The event as stored; not on an identify.
    event: Option<EventAnswer>,
    /// On an identify: the merged traits for an admin key, this call's for a client key.
    #[schema(value_type = Option<Object>)]
    user: Option<Value>,
    /// True when the call was stored before.
    duplicate: Option<bool>,
    /// Why the call was refused for good.
    rejected: Option<Vec<RejectedAnswer>>,
}

/// A stored event.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes what `answer` writes")]
struct EventAnswer {
    /// The event's id; a duplicate's is the first one's.
    id: String,
    /// The user's id, else the anonymous one.
    user_id: String,
    /// The event's name.
    event: String,
    /// Its details.
    #[schema(value_type = Object)]
    properties: Value,
    /// When it happened, in milliseconds since 1970.
    ts: i64,
}

/// One refused event.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes what `answer` writes")]
struct RejectedAnswer {
    /// Its place in the request.
    index: usize,
    /// A stable code.
    code: String,
    /// What is wrong with it.
    message: String,
}

/// The answer to a list.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes what `answer` writes")]
struct BatchAnswer {
    /// Always true.
    ok: bool,
    /// Always true.
    success: bool,
    /// Always 1.
    status: i32,
    /// Events stored by this request.
    accepted: usize,
    /// Events stored by an earlier request.
    duplicates: usize,
    /// Events that can never be stored.
    rejected: Vec<RejectedAnswer>,
    /// What each event led to, with `?matched=true`.
    #[schema(value_type = Option<Vec<Object>>)]
    results: Option<Vec<Value>>,
}

/// A route for one call. The attributes must be written at each route, which a function cannot do.
macro_rules! call_route {
    ($name:ident, $path:literal, $route:expr, $summary:literal) => {
        #[doc = $summary]
        #[utoipa::path(tag = "ingest", request_body = CallBody, security(("api_key" = ["client"])),
            responses((status = 200, description = "The call is stored.", body = CallAnswer)))]
        #[post($path)]
        pub(super) async fn $name(
            request: HttpRequest,
            payload: web::Payload,
            state: web::Data<AppState>,
        ) -> Result<HttpResponse, Problem> {
            receive($route, &request, payload, &state).await
        }
    };
}

call_route!(
    track_event,
    "/v1/track",
    Route::Track,
    "Stores what a user did and answers with the campaigns to show now."
);
call_route!(
    identify_user,
    "/v1/identify",
    Route::Identify,
    "Stores who a user is."
);
call_route!(
    page_event,
    "/v1/page",
    Route::Page,
    "Stores that a page was seen."
);
call_route!(
    screen_event,
    "/v1/screen",
    Route::Screen,
    "Stores that a screen was seen."
);
call_route!(
    group_user,
    "/v1/group",
    Route::Group,
    "Stores that a user joined a group."
);
call_route!(
    alias_user,
    "/v1/alias",
    Route::Alias,
    "Links two identities of one person."
);
call_route!(
    track_event_short,
    "/v1/t",
    Route::Track,
    "As /v1/track, for browsers."
);
call_route!(
    identify_user_short,
    "/v1/i",
    Route::Identify,
    "As /v1/identify, for browsers."
);
call_route!(
    page_event_short,
    "/v1/p",
    Route::Page,
    "As /v1/page, for browsers."
);
call_route!(
    screen_event_short,
    "/v1/s",
    Route::Screen,
    "As /v1/screen, for browsers."
);
call_route!(
    group_user_short,
    "/v1/g",
    Route::Group,
    "As /v1/group, for browsers."
);
call_route!(
    alias_user_short,
    "/v1/a",
    Route::Alias,
    "As /v1/alias, for browsers."
);
call_route!(
    track_event_analytics,
    "/v1/analytics/track",
    Route::Track,
    "As /v1/track."
);
call_route!(
    identify_user_analytics,
    "/v1/analytics/identify",
    Route::Identify,
    "As /v1/identify."
);

/// A route for a list of calls.
macro_rules! batch_route {
    ($name:ident, $path:literal, $summary:literal) => {
        #[doc = $summary]
        #[doc = ""]
        #[doc = "One bad event never fails its batch: it is listed in `rejected`."]
        #[utoipa::path(tag = "ingest", request_body = BatchBody, security(("api_key" = ["client"])),
            params(("matched" = Option<bool>, Query, description = "Whether to answer with each event's campaigns.")),
            responses((status = 200, description = "The events are stored.", body = BatchAnswer)))]
        #[post($path)]
        pub(super) async fn $name(
            request: HttpRequest,
            payload: web::Payload,
            state: web::Data<AppState>,
        ) -> Result<HttpResponse, Problem> {
            receive(Route::Batch, &request, payload, &state).await
        }
    };
}

batch_route!(batch_events, "/v1/batch", "Stores a list of calls.");
batch_route!(import_events, "/v1/import", "As /v1/batch, for history.");
batch_route!(batch_events_short, "/v1/b", "As /v1/batch, for browsers.");
batch_route!(
    batch_events_beacon,
    "/beacon/v1/batch",
    "As /v1/batch, for pages that close; the key is in the query."
);

/// What a client counted of itself.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that nobody looks into")]
struct MetricsBody {
    /// Its figures.
    #[schema(value_type = Vec<Object>)]
    series: Vec<Value>,
}

/// Takes a client's own metrics and drops them. SDKs send no key with them.
#[utoipa::path(tag = "ingest", request_body = MetricsBody,
    responses((status = 200, description = "They are dropped.", body = CallAnswer)))]
#[post("/v1/m")]
pub(super) async fn send_metrics(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let (budget, limits) = (&state.bodies_of_strangers, &state.settings.decode);
    // A body that is not read would cost the connection.
    body::read(&request, payload, &state, budget, limits.body_bytes_max).await?;
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(answer::dropped()))
}

/// Stores leads, each as an event.
#[utoipa::path(tag = "ingest", request_body = LeadsBody, security(("api_key" = ["client"])),
    responses((status = 200, description = "The leads are stored.", body = BatchAnswer)))]
#[post("/v1/leads")]
pub(super) async fn create_leads(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    receive(Route::Leads, &request, payload, &state).await
}

async fn receive(
    route: Route,
    request: &HttpRequest,
    payload: web::Payload,
    state: &web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let asked = Instant::now();
    let head = state.auth.by_head(request).await?;
    let mut waited = asked.elapsed();
    let head = match head {
        // A key that is known but not allowed is refused before its body is read.
        ByHead::Known(access) => {
            let allowed = Authorized::<Client>::check(request, state, access)?;
            ByHead::Known(allowed.access)
        }
        undecided => undecided,
    };
    let bytes_max = state.settings.decode.body_bytes_max;
    let budget = match head {
        ByHead::Known(_) => &state.bodies,
        _ => &state.bodies_of_strangers,
    };
    let body = body::read(request, payload, state, budget, bytes_max).await?;
    if let ByHead::Known(access) = &head {
        // A body that was not read would cost the connection, so it is checked only now.
        state.ingest.check_room(access.project)?;
    }
    let mut plain = body::unpack(request, body, state, &state.settings.decode).await?;
    let access = match head {
        ByHead::Known(access) => access,
        undecided => {
            let keys;
            (plain, keys) = beside(state, plain, |plain| Ok(decode::body_keys(plain))).await?;
            let asked = Instant::now();
            let access = state.auth.by_body(request, undecided, &keys).await?;
            waited += asked.elapsed();
            Authorized::<Client>::check(request, state, access)?.access
        }
    };
    let decoded = read_events(route, request, plain, state).await?;
    let (is_batch, dialect) = (decoded.is_batch, decoded.dialect);
    let metrics = state.ingest.metrics();
    let received = metrics.received(access.project, decoded.received);
    let wants = Wanted {
        matches: match is_batch {
            true => Params::parse(request.query_string()).get("matched") == Some("true"),
            false => route != Route::Identify,
        },
        // Others must not read what somebody else may have sent.
        traits: !is_batch && route == Route::Identify && access.scope == Scope::Admin,
    };
    let submission = Submission {
        project: access.project,
        items: decoded.items,
        received: decoded.received,
        wants,
    };
    let outcome = submit(request, state, submission, waited).await;
    received.answered(&outcome);
    let mut outcomes = outcome?;
    let body = if is_batch {
        answer::batch(outcomes, wants.matches)
    } else {
        let outcome = outcomes.pop();
        let missing = || Error::Internal("a call has no outcome".to_owned());
        BoxBody::new(answer::single(
            outcome.ok_or_else(missing)?,
            dialect,
            access.scope,
        )?)
    };
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(body))
}

async fn read_events(
    route: Route,
    request: &HttpRequest,
    plain: Body,
    state: &web::Data<AppState>,
) -> Result<Decoded, Error> {
    let header = request.headers().get("sentat");
    let sent_at = header
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let limits = state.settings.decode.clone();
    let now = state.clock.now();
    let (_, decoded) = beside(state, plain, move |plain| {
        let defaults = Defaults {
            sent_at: sent_at.as_deref(),
        };
        decode::decode(route, plain, now, &limits, defaults)
    })
    .await?;
    Ok(decoded)
}

/// Reads a body here when it is small, else on another thread; returns it with what was read.
async fn beside<T: Send + 'static>(
    state: &AppState,
    body: Body,
    read: impl FnOnce(&[u8]) -> Result<T, Error> + Send + 'static,
) -> Result<(Body, T), Error> {
    let is_small = body.as_slice().len() <= INLINE_BYTES_MAX;
    let work = move || {
        let found = read(body.as_slice())?;
        Ok((body, found))
    };
    if is_small {
        return work();
    }
    body::on_a_decoder(state, work).await
}

/// Stores the items. What was not acknowledged by the deadline may be sent again. Reading the key
/// has taken a part of it, so that a caller waits for the database no longer than that in all.
async fn submit(
    request: &HttpRequest,
    state: &AppState,
    submission: Submission,
    waited: Duration,
) -> Result<Vec<Outcome>, Error> {
    state.limits.check_events(
        submission.project,
        submission.items.len(),
        &mut request.extensions_mut(),
    )?;
    state.ingest.submit_after(waited, submission).await
}
