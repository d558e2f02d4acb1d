//! Segments, as admins manage them.

use actix_web::{HttpRequest, HttpResponse, delete, get, post, put, web};
use diesel::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::author::{Author, seed_time};
use super::budget::{check_budget, written_bytes};
use super::campaigns::draft::{check_size, drop_servers_own};
use crate::error::{Error, FieldError};
use crate::http::auth::{Admin, Authorized, Read};
use crate::http::body;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::request_id::new_uuid;
use crate::http::state::AppState;
use crate::model::unfit;
use crate::store::segments::{self, StoredSegment};
use crate::targeting::{Targeting, Warning};

const NOT_FOUND: Error = Error::NotFound("Segment");

/// How many segments a project may have: all of them are held in memory, and read with each change.
const SEGMENTS_MAX: i64 = 10_000;

/// A segment as it is sent. Members that are not listed are kept and returned.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(
    dead_code,
    reason = "it describes bodies that are read member by member"
)]
struct SegmentBody {
    /// Its name, 1 to 255 characters. Needed for a new one.
    #[schema(nullable = false)]
    name: Option<String>,
    /// The seed's rule list; all must hold.
    #[schema(value_type = Option<Vec<Object>>)]
    rules: Option<Vec<Value>>,
    /// JsonLogic that must hold too.
    targeting: Option<Value>,
}

/// A segment as it is answered.
#[derive(Debug, Serialize, ToSchema)]
struct Segment {
    /// Its id, given by the server.
    id: String,
    /// Its name.
    name: String,
    /// The seed's rule list.
    #[schema(value_type = Option<Vec<Object>>)]
    rules: Option<Vec<Value>>,
    /// JsonLogic.
    targeting: Option<Value>,
    /// When it was made.
    #[serde(rename = "createdAt")]
    created_at: String,
    /// When it was last changed.
    #[serde(rename = "updatedAt")]
    updated_at: Option<String>,
    /// What may surprise, in the answer to a save only.
    #[schema(value_type = Option<Vec<Object>>)]
    warnings: Option<Vec<Value>>,
}

/// A page of segments.
#[derive(Debug, Serialize, ToSchema)]
struct SegmentList {
    /// The page, newest first.
    segments: Vec<Segment>,
    /// How many there are.
    total: i64,
}

/// Says that a segment is gone.
#[derive(Debug, Serialize, ToSchema)]
struct Deleted {
    /// Always true.
    ok: bool,
    /// What may surprise: what named it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Warning>,
}

/// Says that a thing was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// Always true.
    pub(super) ok: bool,
}

/// Lists segments, newest first.
#[utoipa::path(tag = "admin", operation_id = "list_segments", security(("api_key" = ["read"])),
    params(
        ("limit" = Option<i64>, Query, description = "1 to 1000, clamped; default 1000."),
        ("offset" = Option<i64>, Query, description = "How many to skip."),
    ),
    responses((status = 200, description = "A page.", body = SegmentList)))]
#[get("/v1/admin/segments")]
pub(super) async fn list_segments(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let (limit, offset) = (params.limit(1_000, 1_000)?, params.offset_of_all()?);
    let (page, total) = state
        .store
        .browse(project, move |connection| {
            segments::list(connection, project, limit, offset)
        })
        .await?;
    let page: Vec<_> = page.into_iter().map(into_answer).collect();
    Ok(HttpResponse::Ok().json(json!({"segments": page, "total": total})))
}

/// Reads a segment.
#[utoipa::path(tag = "admin", operation_id = "get_segment", security(("api_key" = ["read"])),
    params(("id" = String, Path, description = "The segment's id.")),
    responses((status = 200, description = "The segment.", body = Segment)))]
#[get("/v1/admin/segments/{id}")]
pub(super) async fn get_segment(
    reader: Authorized<Read>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id = checked_id(id.into_inner())?;
    let project = reader.access.project;
    let found = state
        .store
        .run(move |connection| segments::find(connection, project, &id))
        .await?;
    Ok(HttpResponse::Ok().json(into_answer(found.ok_or(NOT_FOUND)?)))
}

/// Makes a segment.
#[utoipa::path(tag = "admin", operation_id = "create_segment", security(("api_key" = ["admin"])),
    request_body = SegmentBody,
    responses((status = 201, description = "The segment.", body = Segment),
              (status = 422, description = "Its rules or targeting cannot be compiled.")))]
#[post("/v1/admin/segments")]
pub(super) async fn create_segment(
    request: HttpRequest,
    admin: Authorized<Admin>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let mut body = body::read_object(&request, payload, &state).await?;
    let author = Author::of(&request, &admin, &state.clock);
    drop_servers_own(&mut body);
    let name = check_fields(&body, true)?.unwrap_or_default();
    let id = new_uuid(&state.clock).to_string();
    body.insert("id".into(), json!(id));
    body.insert("createdAt".into(), json!(seed_time(author.at)));
    let targeting = state.targeting.clone();
    let (stored, warnings) = state
        .targeting
        .save(author.project, move |connection| {
            let (count, bytes) = segments::held(connection, author.project)?;
            if count >= SEGMENTS_MAX {
                return Err(Error::Conflict(format!(
                    "A project holds at most {SEGMENTS_MAX} segments."
                )));
            }
            let warnings = targeting.check_segment(connection, author.project, None, &body)?;
            let body = Value::Object(body);
            check_budget("segments", bytes, 0, written_bytes(&body))?;
            let stored =
                segments::insert(connection, author.project, &id, &name, &body, author.at)?;
            author.audit(connection, "create", "segment", &id)?;
            Ok((stored, warnings))
        })
        .await?;
    Ok(HttpResponse::Created().json(saved(stored, &warnings)))
}

/// Changes a segment: each top-level member that is sent replaces the stored one whole.
#[utoipa::path(tag = "admin", operation_id = "update_segment", security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "The segment's id.")),
    request_body = SegmentBody,
    responses((status = 200, description = "The segment.", body = Segment),
              (status = 422, description = "Its rules or targeting cannot be compiled.")))]
#[put("/v1/admin/segments/{id}")]
pub(super) async fn update_segment(
    request: HttpRequest,
    admin: Authorized<Admin>,
    id: web::Path<String>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let mut patch = body::read_object(&request, payload, &state).await?;
    drop_servers_own(&mut patch);
    check_fields(&patch, false)?;
    let id = checked_id(id.into_inner())?;
    let author = Author::of(&request, &admin, &state.clock);
    let targeting = state.targeting.clone();
    let bytes_max = state.settings.admin_body_bytes_max;
    let (stored, warnings) = state
        .targeting
        .save(author.project, move |connection| {
            update(connection, &targeting, &author, &id, patch, bytes_max)
        })
        .await?;
    Ok(HttpResponse::Ok().json(saved(stored, &warnings)))
}

fn update(
    connection: &mut PgConnection,
    targeting: &Targeting,
    author: &Author,
    id: &str,
    patch: Map<String, Value>,
    bytes_max: usize,
) -> Result<(StoredSegment, Vec<Warning>), Error> {
    let stored = segments::find_for_update(connection, author.project, id)?.ok_or(NOT_FOUND)?;
    let former_bytes = written_bytes(&stored.body);
    let mut body = into_answer(stored);
    body.extend(patch);
    let name = check_fields(&body, true)?.unwrap_or_default();
    body.insert("updatedAt".into(), json!(seed_time(author.at)));
    check_size(&body, bytes_max)?;
    let warnings = targeting.check_segment(connection, author.project, Some(id), &body)?;
    let body = Value::Object(body);
    let (_, bytes) = segments::held(connection, author.project)?;
    check_budget("segments", bytes, former_bytes, written_bytes(&body))?;
    let stored = segments::update(connection, author.project, id, &name, &body, author.at)?;
    author.audit(connection, "update", "segment", id)?;
    Ok((stored, warnings))
}

/// Deletes a segment.
#[utoipa::path(tag = "admin", operation_id = "delete_segment", security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "The segment's id.")),
    responses((status = 200, description = "It is gone.", body = Deleted)))]
#[delete("/v1/admin/segments/{id}")]
pub(super) async fn delete_segment(
    request: HttpRequest,
    admin: Authorized<Admin>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id = checked_id(id.into_inner())?;
    let author = Author::of(&request, &admin, &state.clock);
    let targeting = state.targeting.clone();
    let ((), warnings) = state
        .targeting
        .save(author.project, move |connection| {
            let warnings = targeting.check_segment_gone(connection, author.project, &id)?;
            if !segments::delete(connection, author.project, &id)? {
                return Err(NOT_FOUND);
            }
            author.audit(connection, "delete", "segment", &id)?;
            Ok(((), warnings))
        })
        .await?;
    Ok(HttpResponse::Ok().json(Deleted { ok: true, warnings }))
}

fn checked_id(id: String) -> Result<String, Error> {
    if unfit(&id, 255).is_some() {
        return Err(NOT_FOUND);
    }
    Ok(id)
}

/// The segment's name, trimmed, when it is there.
fn check_fields(body: &Map<String, Value>, name_required: bool) -> Result<Option<String>, Error> {
    let mut fields = Vec::new();
    let mut refuse = |name: &str, message: &str| {
        fields.push(FieldError::body(name, body.get(name), message));
    };
    let mut checked = None;
    match body.get("name") {
        None if !name_required => {}
        Some(Value::String(name)) if !name.trim().is_empty() => match unfit(name, 255) {
            Some(reason) => refuse("name", &format!("Segment name {reason}")),
            None => checked = Some(name.trim().to_owned()),
        },
        _ => refuse("name", "Segment name is required"),
    }
    if !matches!(
        body.get("rules"),
        None | Some(Value::Null | Value::Array(_))
    ) {
        refuse("rules", "rules must be an array");
    }
    Error::if_refused(fields)?;
    Ok(checked)
}

fn into_answer(stored: StoredSegment) -> Map<String, Value> {
    let mut body = match stored.body {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    body.insert("id".into(), json!(stored.id));
    body.entry("name").or_insert_with(|| json!(stored.name));
    body.entry("createdAt")
        .or_insert_with(|| json!(seed_time(stored.created_at)));
    if let Some(at) = stored.updated_at {
        body.entry("updatedAt")
            .or_insert_with(|| json!(seed_time(at)));
    }
    body
}

fn saved(stored: StoredSegment, warnings: &[Warning]) -> Map<String, Value> {
    let mut answer = into_answer(stored);
    if !warnings.is_empty() {
        answer.insert("warnings".into(), json!(warnings));
    }
    answer
}
