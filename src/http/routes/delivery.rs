//! What SDKs read: campaigns and flags.
//!
//! Nobody's key, and somebody never seen, are answered as a person without traits.

use actix_web::{HttpResponse, get, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::ingest::answer::push_campaigns;
use crate::error::Error;
use crate::http::auth::{Authorized, Client};
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::model::ProjectId;
use crate::targeting::{FlagDecision, Subject};

/// Live campaigns.
#[derive(Debug, Serialize, ToSchema)]
struct LiveCampaigns {
    /// The campaigns to show, best first.
    #[schema(value_type = Vec<Object>)]
    campaigns: Vec<Value>,
}

/// A flag as one person sees it.
#[derive(Debug, Serialize, ToSchema)]
struct FeatureAnswer {
    /// The flag's key.
    key: String,
    /// Whether it is on; false for a flag that does not exist.
    enabled: bool,
    /// Its value, when it is on and has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

/// A flag's value.
#[derive(Debug, Serialize, ToSchema)]
struct ValueAnswer {
    /// The flag's key.
    key: String,
    /// Its value; null when it is off or has none.
    value: Option<Value>,
}

/// Lists the campaigns this person should see without an event.
#[utoipa::path(tag = "delivery", operation_id = "list_live_campaigns",
    security(("api_key" = ["client"])),
    params(
        ("user_id" = Option<String>, Query, description = "The user's id, at most 255 characters."),
        ("anonymous_id" = Option<String>, Query, description = "Else an anonymous id."),
    ),
    responses((status = 200, description = "Live campaigns.", body = LiveCampaigns)))]
#[get("/v1/campaigns")]
pub(super) async fn list_live_campaigns(
    client: Authorized<Client>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = client.access.project;
    let subject = find_subject(&state, project, &params).await?;
    let now = state.clock.now();
    let campaigns = state.targeting.campaigns_on_fetch(project, subject, now);
    let campaigns = campaigns.await?;
    let mut text = String::from(r#"{"campaigns":["#);
    push_campaigns(&mut text, &campaigns);
    text.push_str("]}");
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(text))
}

/// Says whether a flag is on for this person.
#[utoipa::path(tag = "delivery", operation_id = "get_feature", security(("api_key" = ["client"])),
    params(
        ("key" = String, Path, description = "The flag's key."),
        ("user_id" = Option<String>, Query, description = "The user's id."),
        ("anonymous_id" = Option<String>, Query, description = "Else an anonymous id."),
    ),
    responses((status = 200, description = "The flag.", body = FeatureAnswer)))]
#[get("/v1/features/{key}")]
pub(super) async fn get_feature(
    client: Authorized<Client>,
    key: web::Path<String>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let decision = decide(&state, client.access.project, &key, &params).await?;
    Ok(HttpResponse::Ok().json(FeatureAnswer {
        key: key.into_inner(),
        enabled: decision.enabled,
        value: decision.value,
    }))
}

/// Reads a flag's value for this person.
#[utoipa::path(tag = "delivery", operation_id = "get_feature_value",
    security(("api_key" = ["client"])),
    params(
        ("key" = String, Path, description = "The flag's key."),
        ("user_id" = Option<String>, Query, description = "The user's id."),
        ("anonymous_id" = Option<String>, Query, description = "Else an anonymous id."),
    ),
    responses((status = 200, description = "The value.", body = ValueAnswer)))]
#[get("/v1/features/{key}/value")]
pub(super) async fn get_feature_value(
    client: Authorized<Client>,
    key: web::Path<String>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let decision = decide(&state, client.access.project, &key, &params).await?;
    Ok(HttpResponse::Ok().json(ValueAnswer {
        key: key.into_inner(),
        value: decision.value,
    }))
}

/// Reads a flag's value for this person, as the whole body.
#[utoipa::path(tag = "delivery", operation_id = "get_feature_payload",
    security(("api_key" = ["client"])),
    params(
        ("key" = String, Path, description = "The flag's key."),
        ("user_id" = Option<String>, Query, description = "The user's id."),
        ("anonymous_id" = Option<String>, Query, description = "Else an anonymous id."),
    ),
    responses((status = 200, description = "The value; null when the flag is off or has none.",
        body = Value)))]
#[get("/v1/features/{key}/payload")]
pub(super) async fn get_feature_payload(
    client: Authorized<Client>,
    key: web::Path<String>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let decision = decide(&state, client.access.project, &key, &params).await?;
    Ok(HttpResponse::Ok().json(decision.value))
}

async fn decide(
    state: &AppState,
    project: ProjectId,
    key: &str,
    params: &Params,
) -> Result<FlagDecision, Error> {
    let subject = find_subject(state, project, params).await?;
    let now = state.clock.now();
    state.targeting.flag(project, key, subject, now).await
}

/// The person a query names, and what is known of them.
async fn find_subject(
    state: &AppState,
    project: ProjectId,
    params: &Params,
) -> Result<Subject, Error> {
    let names = params.identities()?;
    if !state.targeting.is_ready_for(project) {
        // Nothing is loaded yet; "no campaigns" would be a wrong decision.
        return Err(Error::DatabaseUnavailable);
    }
    let mut subject = Subject {
        identity: None,
        person: None,
    };
    for name in names {
        subject.person = state.targeting.person(project, &name).await?;
        subject.identity = Some(name);
        if subject.person.is_some() {
            break;
        }
    }
    Ok(subject)
}
