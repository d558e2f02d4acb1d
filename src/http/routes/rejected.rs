//! Rejected events: what was refused for good, why, and another try after a fix.

use actix_web::{HttpMessage, HttpRequest, HttpResponse, get, post, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::events::TOTAL_MAX;
use crate::error::{Code, Error, FieldError};
use crate::http::auth::{Admin, Authorized, Read};
use crate::http::body;
use crate::http::cursor;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::request_id::RequestId;
use crate::http::state::AppState;
use crate::ingest::replay::{REPLAYED_MAX, ReplayOutcome, Replayed, Replayer};
use crate::store::rejected::{self, ListedRejection, Place, RejectedFilter, StoredRejection};

const NOT_FOUND: Error = Error::NotFound("Rejected event");

/// How many rejected events a replay by filter takes unless it is told.
const REPLAYED_DEFAULT: i64 = 100;

/// A rejected event, but for its payload.
#[derive(Debug, Serialize, ToSchema)]
struct RejectedEvent {
    /// Its number.
    id: i64,
    /// The stable code of the reason.
    code: String,
    /// The reason in words.
    message: String,
    /// The client's id of the call, if one could be read.
    message_id: Option<String>,
    /// How it came: `track`, `identify`, `page`, `screen`, `group`, `alias`, `batch` or `leads`.
    route: Option<String>,
    /// When it happened, corrected for the client's clock when it was received.
    timestamp: Option<DateTime<Utc>>,
    /// When it was received.
    received_at: DateTime<Utc>,
    /// The length of what is kept of it, in bytes.
    payload_bytes: i64,
    /// True when its end was cut off, so that it cannot be replayed.
    cut: bool,
    /// The rejected event that this was a replay of.
    replay_of: Option<i64>,
    /// When a replay of it was stored.
    replayed_at: Option<DateTime<Utc>>,
    /// The event it was stored as.
    replayed_as: Option<Uuid>,
}

/// A rejected event with its payload.
#[derive(Debug, Serialize, ToSchema)]
struct RejectedEventDetail {
    #[serde(flatten)]
    head: RejectedEvent,
    /// Each refused field.
    #[schema(value_type = Vec<Object>)]
    fields: Box<RawValue>,
    /// The event as received. What was too large or nested too deep is a text of its JSON.
    #[schema(value_type = Value)]
    payload: Box<RawValue>,
    /// The context of the batch around it.
    #[schema(value_type = Option<Object>)]
    context: Option<Box<RawValue>>,
}

/// A page of rejected events.
#[derive(Debug, Serialize, ToSchema)]
struct RejectedEventList {
    /// The page, newest first.
    rejected: Vec<RejectedEvent>,
    /// How many the filter holds, counted up to 100,000.
    total: i64,
    /// True when there are more than `total`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_capped: bool,
    /// Reads the next page, as `cursor`; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What became of a replay.
#[derive(Debug, Serialize, ToSchema)]
struct ReplayAnswer {
    /// The rejected event's number.
    id: i64,
    /// `stored`, `duplicate` (it had been stored before) or `refused`.
    outcome: &'static str,
    /// The stored event's id; a duplicate's is the first one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<Uuid>,
    /// Why it is still refused: a stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Each field that is still refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    fields: Vec<FieldError>,
}

/// What became of replays.
#[derive(Debug, Serialize, ToSchema)]
struct ReplayList {
    /// How many are stored now.
    stored: usize,
    /// How many had been stored before.
    duplicate: usize,
    /// How many are still refused.
    refused: usize,
    /// Each of them, oldest first.
    results: Vec<ReplayAnswer>,
    /// Goes on with the next ones, as `cursor`; absent when there are no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl From<ListedRejection> for RejectedEvent {
    fn from(row: ListedRejection) -> Self {
        Self {
            id: row.id,
            code: row.code,
            message: row.message,
            message_id: row.message_id,
            route: row.route,
            timestamp: row.timestamp,
            received_at: row.received_at,
            payload_bytes: row.payload_bytes,
            cut: row.is_cut,
            replay_of: row.replay_of,
            replayed_at: row.replayed_at,
            replayed_as: row.replayed_as,
        }
    }
}

impl From<StoredRejection> for RejectedEventDetail {
    fn from(row: StoredRejection) -> Self {
        Self {
            head: row.head.into(),
            fields: raw(row.content.fields),
            payload: raw(row.content.payload),
            context: row.content.context.map(raw),
        }
    }
}

impl From<Replayed> for ReplayAnswer {
    fn from(replayed: Replayed) -> Self {
        let mut answer = Self {
            id: replayed.id,
            outcome: "refused",
            event_id: None,
            code: None,
            message: None,
            fields: Vec::new(),
        };
        match replayed.outcome {
            ReplayOutcome::Stored(event) => {
                answer.outcome = "stored";
                answer.event_id = Some(event.0);
            }
            ReplayOutcome::Duplicate(event) => {
                answer.outcome = "duplicate";
                answer.event_id = Some(event.0);
            }
            ReplayOutcome::Refused {
                code,
                message,
                fields,
            } => {
                answer.code = Some(code.as_str());
                answer.message = Some(message);
                answer.fields = fields;
            }
        }
        answer
    }
}

/// JSON text of the database, passed through; what is none (it cannot be) as a text.
fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text.clone())
        .or_else(|_| RawValue::from_string(Value::from(text).to_string()))
        .unwrap_or_default()
}

/// Lists rejected events, newest first.
#[utoipa::path(tag = "admin", operation_id = "list_rejected_events",
    security(("api_key" = ["read"])),
    params(
        ("limit" = Option<i64>, Query, description = "1 to 100, clamped; default 20."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before."),
        ("code" = Option<String>, Query, description = "Only those of this code."),
        ("message_id" = Option<String>, Query, description = "Only those with this id of the call."),
        ("from" = Option<String>, Query, description = "Only those received then or later; RFC 3339 or milliseconds."),
        ("to" = Option<String>, Query, description = "Only those received before."),
        ("replayed" = Option<bool>, Query, description = "Only those of which a replay was stored (`true`) or was not (`false`)."),
    ),
    responses((status = 200, description = "A page.", body = RejectedEventList)))]
#[get("/v1/admin/rejected")]
pub(super) async fn list_rejected_events(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let filter = filter_of(&params)?;
    let limit = params.limit(20, 100)?;
    let after = cursor_of(&params)?;
    let (mut rows, total) = state
        .store
        .browse(project, move |connection| {
            // One row more than the page says whether there is another page.
            let rows = rejected::list(connection, project, &filter, after, limit + 1)?;
            let total = rejected::count(connection, project, &filter, TOTAL_MAX + 1)?;
            Ok((rows, total))
        })
        .await?;
    let page_length = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > page_length;
    rows.truncate(page_length);
    let last = rows.last().filter(|_| more);
    Ok(HttpResponse::Ok().json(RejectedEventList {
        next_cursor: last.map(|row| write_cursor((row.received_at, row.id))),
        rejected: rows.into_iter().map(RejectedEvent::from).collect(),
        total: total.min(TOTAL_MAX),
        total_capped: total > TOTAL_MAX,
    }))
}

/// Reads a rejected event with its payload.
#[utoipa::path(tag = "admin", operation_id = "get_rejected_event",
    security(("api_key" = ["read"])),
    params(("id" = String, Path, description = "Its number.")),
    responses((status = 200, description = "The rejected event.", body = RejectedEventDetail)))]
#[get("/v1/admin/rejected/{id}")]
pub(super) async fn get_rejected_event(
    reader: Authorized<Read>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let id: i64 = id.parse().map_err(|_| NOT_FOUND)?;
    let found = state
        .store
        .run(move |connection| rejected::find(connection, project, id))
        .await?
        .ok_or(NOT_FOUND)?;
    Ok(HttpResponse::Ok().json(RejectedEventDetail::from(found)))
}

/// Sends rejected events through ingest again, oldest first.
///
/// Those of which a replay is stored already are left out. Call it again with `next_cursor` until
/// there is none.
#[utoipa::path(tag = "admin", operation_id = "replay_rejected_events",
    security(("api_key" = ["admin"])),
    params(
        ("limit" = Option<i64>, Query, description = "How many at most, 1 to 500, clamped; default 100. Fewer are taken when they are large."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the call before."),
        ("code" = Option<String>, Query, description = "Only those of this code."),
        ("message_id" = Option<String>, Query, description = "Only those with this id of the call."),
        ("from" = Option<String>, Query, description = "Only those received then or later; RFC 3339 or milliseconds."),
        ("to" = Option<String>, Query, description = "Only those received before."),
    ),
    responses((status = 200, description = "What became of each.", body = ReplayList),
              (status = 413, description = "There is a body, and it is too large.")))]
#[post("/v1/admin/rejected/replay")]
pub(super) async fn replay_rejected_events(
    request: HttpRequest,
    admin: Authorized<Admin>,
    params: Params,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    // What is not understood must not replay more than was meant.
    params.only(&["limit", "cursor", "code", "message_id", "from", "to"])?;
    if let Some((name, value)) = body::read_object(&request, payload, &state)
        .await?
        .iter()
        .next()
    {
        let reason = "filters are parameters of the query; the body is to be empty";
        return Err(Error::field(FieldError::body(name, Some(value), reason)).into());
    }
    let filter = filter_of(&params)?;
    let limit = params.number("limit", REPLAYED_DEFAULT, 1, REPLAYED_MAX)?;
    let after = cursor_of(&params)?;
    let page = replayer(&request, &admin, &state)
        .next(filter, after, limit)
        .await?;
    let results: Vec<ReplayAnswer> = page.replayed.into_iter().map(ReplayAnswer::from).collect();
    let count = |outcome| results.iter().filter(|r| r.outcome == outcome).count();
    Ok(HttpResponse::Ok().json(ReplayList {
        stored: count("stored"),
        duplicate: count("duplicate"),
        refused: count("refused"),
        results,
        next_cursor: page.next.map(write_cursor),
    }))
}

/// Sends a rejected event through ingest again.
#[utoipa::path(tag = "admin", operation_id = "replay_rejected_event",
    security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "Its number.")),
    responses((status = 200, description = "What became of it.", body = ReplayAnswer)))]
#[post("/v1/admin/rejected/{id}/replay")]
pub(super) async fn replay_rejected_event(
    request: HttpRequest,
    admin: Authorized<Admin>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id: i64 = id.parse().map_err(|_| NOT_FOUND)?;
    let replayed = replayer(&request, &admin, &state).one(id).await?;
    Ok(HttpResponse::Ok().json(ReplayAnswer::from(replayed)))
}

fn replayer(request: &HttpRequest, admin: &Authorized<Admin>, state: &AppState) -> Replayer {
    let extensions = request.extensions();
    let request_id = extensions.get::<RequestId>();
    Replayer {
        ingest: state.ingest.clone(),
        store: state.store.clone(),
        limits: state.settings.decode.clone(),
        clock: state.clock.clone(),
        project: admin.access.project,
        actor: admin.access.actor.clone(),
        request_id: request_id.map(|id| id.as_str().to_owned()),
    }
}

fn filter_of(params: &Params) -> Result<RejectedFilter, Error> {
    let refuse = |name, word: &str, reason| {
        Error::field(FieldError::query(name, Some(&json!(word)), reason))
    };
    let code = match params.get("code") {
        None => None,
        Some(word) => {
            let known = Code::ALL.iter().find(|code| code.as_str() == word);
            let code = known.ok_or_else(|| refuse("code", word, "code is none of the list"))?;
            Some(code.as_str())
        }
    };
    let replayed = match params.get("replayed") {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(word) => {
            return Err(refuse("replayed", word, "replayed must be true or false"));
        }
    };
    Ok(RejectedFilter {
        code,
        from: params.time("from")?,
        to: params.time("to")?,
        message_id: params.text("message_id", 1_024)?.map(str::to_owned),
        replayed,
    })
}

fn cursor_of(params: &Params) -> Result<Option<Place>, Error> {
    let place = cursor::of(params)?;
    Ok(place.map(|(time, id)| (time, i64::from_be_bytes(id))))
}

fn write_cursor((received_at, id): Place) -> String {
    cursor::write(received_at, id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn filters_take_known_words_only() {
        let filter = |query: &str| filter_of(&Params::parse(query));
        let both = filter("code=too_deep&replayed=false").unwrap();
        assert_eq!((both.code, both.replayed), (Some("too_deep"), Some(false)));
        assert!(filter("code=nonsense").is_err());
        assert!(filter("replayed=maybe").is_err());
    }
}
