//! Campaigns, as admins manage them.

pub(super) mod draft;
mod evaluation;
mod replay;

use actix_web::{HttpRequest, HttpResponse, delete, get, post, put, web};
use diesel::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::author::{Author, seed_time};
use crate::error::Error;
use crate::http::auth::{Admin, Authorized, Read};
use crate::http::body;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::request_id::new_uuid;
use crate::http::state::AppState;
use crate::model::unfit;
use crate::store::campaigns::{self, CampaignFields, CampaignFilter, StoredCampaign};
use crate::targeting::Targeting;
use draft::Draft;
pub(super) use evaluation::validate_campaign;
use evaluation::{Evaluation, Saved, WarningDoc, answered, with_warnings};

pub(super) use replay::replay_campaign;

const NOT_FOUND: Error = Error::NotFound("Campaign");

const FORCE: &str = "Save a campaign that is live and can never be shown; default false.";
const REFUSED: &str = "Its rules or targeting cannot be compiled, or it can never be shown.";

/// A campaign as it is sent. Members that are not listed are kept and returned.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes bodies that `draft` reads")]
struct CampaignBody {
    /// Its name, 1 to 255 characters. Needed for a new one.
    #[schema(nullable = false)]
    name: Option<String>,
    /// `active`, `paused` or `draft`.
    #[schema(nullable = false)]
    status: Option<String>,
    /// The event that makes it a candidate.
    trigger: Option<String>,
    /// What it looks like to clients; else `config.type`, else `modal`.
    r#type: Option<String>,
    /// What clients show; opaque.
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
    /// The seed's rule list; all must hold.
    #[schema(value_type = Option<Vec<Object>>)]
    rules: Option<Vec<Value>>,
    /// JsonLogic that must hold too.
    targeting: Option<Value>,
    /// When it may be shown.
    schedule: Option<CampaignSchedule>,
    /// Who may be shown it.
    segments: Option<CampaignSegments>,
    /// Higher goes first: a whole number of at most 1,000,000,000 either way; default 0.
    priority: Option<i32>,
    /// The place on a page it is for. A save warns of one that others of its slot always go before.
    slot: Option<String>,
}

/// When a campaign may be shown. There are no other members.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
struct CampaignSchedule {
    /// From then on, RFC 3339; from ever, if left out.
    start: Option<String>,
    /// Until before then, RFC 3339; for ever, if left out.
    end: Option<String>,
}

/// Who may be shown a campaign, by names or ids of segments. There are no other members.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
struct CampaignSegments {
    /// Those in all of these; everybody, if there are none.
    include: Option<Vec<String>>,
    /// But nobody in any of these.
    exclude: Option<Vec<String>>,
}

/// A campaign as it is answered.
#[derive(Debug, Serialize, ToSchema)]
struct Campaign {
    /// Its id, given by the server.
    id: String,
    /// Its name.
    name: String,
    /// `active`, `paused` or `draft`.
    status: Option<String>,
    /// The event that makes it a candidate.
    trigger: Option<String>,
    /// What it looks like to clients, as it was given.
    r#type: Value,
    /// What clients show.
    #[schema(value_type = Object)]
    config: Value,
    /// The seed's rule list.
    #[schema(value_type = Vec<Object>)]
    rules: Vec<Value>,
    /// JsonLogic.
    targeting: Option<Value>,
    /// When it may be shown.
    schedule: Option<CampaignSchedule>,
    /// Who may be shown it.
    segments: Option<CampaignSegments>,
    /// Higher goes first.
    priority: Option<i32>,
    /// The place on a page it is for, as it was given.
    slot: Option<Value>,
    /// When it was made.
    #[serde(rename = "createdAt")]
    created_at: String,
    /// When it was last changed.
    #[serde(rename = "updatedAt")]
    updated_at: Option<String>,
    /// What may surprise, in the answer to a save only.
    warnings: Option<Vec<WarningDoc>>,
    /// What Beckon knows of its evaluation.
    evaluation: Evaluation,
}

/// A page of campaigns.
#[derive(Debug, Serialize, ToSchema)]
struct CampaignList {
    /// The page, newest first.
    campaigns: Vec<Campaign>,
    /// How many the filter holds.
    total: i64,
}

/// A deleted campaign.
#[derive(Debug, Serialize, ToSchema)]
struct DeletedCampaign {
    /// Always true.
    ok: bool,
    /// What it was.
    deleted: Campaign,
}

/// Lists campaigns, newest first, or live ones by their cost.
#[utoipa::path(tag = "admin", operation_id = "list_campaigns", security(("api_key" = ["read"])),
    params(
        ("limit" = Option<i64>, Query, description = "1 to 100, clamped; default 20."),
        ("offset" = Option<i64>, Query, description = "How many to skip."),
        ("status" = Option<String>, Query, description = "Only those of this status."),
        ("trigger" = Option<String>, Query, description = "Only those of this trigger."),
        ("q" = Option<String>, Query, description = "Only those with these words in name or trigger."),
        ("quarantined" = Option<bool>, Query, description = "Only those in quarantine; default false."),
        ("sort" = Option<String>, Query, description =
            "`cost`: live campaigns only, the most expensive first. No filter goes with it."),
    ),
    responses((status = 200, description = "A page.", body = CampaignList)))]
#[get("/v1/admin/campaigns")]
pub(super) async fn list_campaigns(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let (limit, offset) = (params.limit(20, 100)?, params.offset_of_all()?);
    let filter = CampaignFilter {
        status: params.text("status", 20)?.map(str::to_owned),
        trigger: params.text("trigger", 200)?.map(str::to_owned),
        words: params.text("q", 200)?.map(str::to_owned),
        quarantined: params.flag("quarantined")?,
    };
    let by_cost = match params.get("sort") {
        None => false,
        Some("cost") if filter == CampaignFilter::default() => true,
        Some(sort) => return Err(evaluation::refuse_sort(sort).into()),
    };
    let targeting = state.targeting.clone();
    let list = move |connection: &mut PgConnection| {
        let (page, total) = if by_cost {
            let (ids, total) = targeting.most_expensive(project, limit, offset);
            let mut page = campaigns::find_many(connection, project, &ids)?;
            page.sort_by_key(|stored| ids.iter().position(|id| *id == stored.id));
            (page, total)
        } else {
            campaigns::list(connection, project, &filter, limit, offset)?
        };
        // Compiling takes its time, which no async thread has.
        let page = page.into_iter().map(|stored| answered(stored, &targeting));
        Ok((page.collect::<Vec<_>>(), total))
    };
    let (page, total) = state.store.browse(project, list).await?;
    Ok(HttpResponse::Ok().json(json!({"campaigns": page, "total": total})))
}

/// Reads a campaign.
#[utoipa::path(tag = "admin", operation_id = "get_campaign", security(("api_key" = ["read"])),
    params(("id" = String, Path, description = "The campaign's id.")),
    responses((status = 200, description = "The campaign.", body = Campaign)))]
#[get("/v1/admin/campaigns/{id}")]
pub(super) async fn get_campaign(
    reader: Authorized<Read>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id = checked_id(id.into_inner())?;
    let project = reader.access.project;
    let targeting = state.targeting.clone();
    let found = state
        .store
        .run(move |connection| {
            let found = campaigns::find(connection, project, &id)?;
            Ok(found.map(|stored| answered(stored, &targeting)))
        })
        .await?;
    Ok(HttpResponse::Ok().json(found.ok_or(NOT_FOUND)?))
}

/// Makes a campaign. It is live, if active, before the answer is sent.
#[utoipa::path(tag = "admin", operation_id = "create_campaign", security(("api_key" = ["admin"])),
    params(("force" = Option<bool>, Query, description = FORCE)),
    request_body = CampaignBody,
    responses((status = 201, description = "The campaign.", body = Campaign),
              (status = 422, description = REFUSED)))]
#[post("/v1/admin/campaigns")]
pub(super) async fn create_campaign(
    request: HttpRequest,
    admin: Authorized<Admin>,
    params: Params,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let body = body::read_object(&request, payload, &state).await?;
    let author = Author::of(&request, &admin, &state.clock);
    let id = new_uuid(&state.clock).to_string();
    let draft = Draft::new(body, &id, &seed_time(author.at))?;
    let targeting = state.targeting.clone();
    let (project, force) = (author.project, params.flag("force")?);
    let saved = state
        .targeting
        .save(project, move |connection| {
            create(connection, &targeting, &author, &id, draft, force)
        })
        .await?;
    Ok(HttpResponse::Created().json(with_warnings(saved, &state.targeting, project).await))
}

fn create(
    connection: &mut PgConnection,
    targeting: &Targeting,
    author: &Author,
    id: &str,
    draft: Draft,
    force: bool,
) -> Result<Saved, Error> {
    let warnings = targeting.check_campaign(author.project, None, &draft.body, force)?;
    let body = Value::Object(draft.body.clone());
    let fields = fields(&draft, &body);
    let stored = campaigns::insert(connection, author.project, id, &fields, author.at)?;
    record(connection, author, &stored, "create")?;
    Ok((answered(stored, targeting), warnings))
}

/// Changes a campaign: each top-level member that is sent replaces the stored one whole.
#[utoipa::path(tag = "admin", operation_id = "update_campaign", security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "The campaign's id."),
           ("force" = Option<bool>, Query, description = FORCE)),
    request_body = CampaignBody,
    responses((status = 200, description = "The campaign.", body = Campaign),
              (status = 422, description = REFUSED)))]
#[put("/v1/admin/campaigns/{id}")]
pub(super) async fn update_campaign(
    request: HttpRequest,
    admin: Authorized<Admin>,
    id: web::Path<String>,
    params: Params,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let patch = draft::check_patch(body::read_object(&request, payload, &state).await?)?;
    let id = checked_id(id.into_inner())?;
    let author = Author::of(&request, &admin, &state.clock);
    let targeting = state.targeting.clone();
    let (project, force) = (author.project, params.flag("force")?);
    let bytes_max = state.settings.admin_body_bytes_max;
    let saved = state
        .targeting
        .save(project, move |connection| {
            let merge = |stored| Draft::merged(stored, patch, &seed_time(author.at), bytes_max);
            update(connection, &targeting, &author, &id, merge, force)
        })
        .await?;
    Ok(HttpResponse::Ok().json(with_warnings(saved, &state.targeting, project).await))
}

fn update(
    connection: &mut PgConnection,
    targeting: &Targeting,
    author: &Author,
    id: &str,
    merge: impl FnOnce(StoredCampaign) -> Result<Draft, Error>,
    force: bool,
) -> Result<Saved, Error> {
    let stored = campaigns::find_for_update(connection, author.project, id)?.ok_or(NOT_FOUND)?;
    let draft = merge(stored)?;
    let warnings = targeting.check_campaign(author.project, Some(id), &draft.body, force)?;
    let body = Value::Object(draft.body.clone());
    let fields = fields(&draft, &body);
    let stored = campaigns::update(connection, author.project, id, &fields, author.at)?;
    record(connection, author, &stored, "update")?;
    Ok((answered(stored, targeting), warnings))
}

/// Deletes a campaign. Its history is kept.
#[utoipa::path(tag = "admin", operation_id = "delete_campaign", security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "The campaign's id.")),
    responses((status = 200, description = "What it was.", body = DeletedCampaign)))]
#[delete("/v1/admin/campaigns/{id}")]
pub(super) async fn delete_campaign(
    request: HttpRequest,
    admin: Authorized<Admin>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id = checked_id(id.into_inner())?;
    let author = Author::of(&request, &admin, &state.clock);
    let targeting = state.targeting.clone();
    let (mut deleted, warnings) = state
        .targeting
        .save(author.project, move |connection| {
            let deleted = campaigns::delete(connection, author.project, &id)?.ok_or(NOT_FOUND)?;
            record(connection, &author, &deleted, "delete")?;
            Ok((answered(deleted, &targeting), Vec::new()))
        })
        .await?;
    if !warnings.is_empty() {
        deleted.insert("warnings".into(), json!(warnings));
    }
    Ok(HttpResponse::Ok().json(json!({"ok": true, "deleted": deleted})))
}

/// An id that cannot be one is as missing as one that is not there.
fn checked_id(id: String) -> Result<String, Error> {
    if unfit(&id, 255).is_some() {
        return Err(NOT_FOUND);
    }
    Ok(id)
}

fn fields<'a>(draft: &'a Draft, body: &'a Value) -> CampaignFields<'a> {
    CampaignFields {
        name: draft.name(),
        status: draft.status(),
        trigger: draft.trigger(),
        body,
    }
}

fn record(
    connection: &mut PgConnection,
    author: &Author,
    campaign: &StoredCampaign,
    action: &str,
) -> Result<(), Error> {
    campaigns::record_history(
        connection,
        author.project,
        campaign,
        action,
        &author.actor,
        author.at,
    )?;
    author.audit(connection, action, "campaign", &campaign.id)?;
    Ok(())
}
