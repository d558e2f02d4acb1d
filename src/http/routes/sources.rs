//! What the browser SDKs of Segment and RudderStack load before they send anything.
//!
//! Both refuse to start on an answer that does not switch their own destination on. The answers say
//! nothing that a caller with the key does not know.

use actix_web::http::header::HOST;
use actix_web::{HttpRequest, HttpResponse, get, web};
use serde_json::{Value, json};

use crate::error::Error;
use crate::http::auth::{Authorized, Client, Scope};
use crate::http::problem::Problem;
use crate::http::state::AppState;

/// The settings of Segment's SDKs. The key stands in the path.
#[utoipa::path(tag = "delivery", operation_id = "get_project_settings",
    params(("key" = String, Path, description = "A client key.")),
    responses((status = 200, description = "The settings.", body = Value)))]
#[get("/v1/projects/{key}/settings")]
pub(super) async fn get_project_settings(
    request: HttpRequest,
    key: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let access = state.auth.find(&request, &key).await?;
    match access {
        Some(access) if matches!(access.scope, Scope::Client | Scope::Admin) => {
            Authorized::<Client>::check(&request, &state, access)?;
        }
        // A key that may not send anything is no source, as little as one that is unknown.
        Some(_) | None => return Err(Error::NotFound("Project").into()),
    }
    let host = public_host(&request, state.settings.trusted_proxy_hops);
    Ok(HttpResponse::Ok().json(segment_settings(&key, &host)))
}

/// The host the caller asked. What a proxy says of it is believed where proxies are.
fn public_host(request: &HttpRequest, trusted_proxy_hops: usize) -> String {
    if trusted_proxy_hops > 0 {
        return request.connection_info().host().to_owned();
    }
    let host = request.headers().get(HOST);
    let host = host.and_then(|value| value.to_str().ok());
    host.unwrap_or_default().to_owned()
}

/// `apiHost` sends the SDK's events here unless the page names another host.
fn segment_settings(key: &str, host: &str) -> Value {
    json!({
        "integrations": {
            "Segment.io": {
                "apiKey": key,
                "apiHost": format!("{host}/v1"),
                "addBundledMetadata": true,
                "unbundledIntegrations": [],
            }
        },
        "plan": {},
        "edgeFunction": {},
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "remotePlugins": [],
    })
}

/// The configuration of RudderStack's SDKs.
#[utoipa::path(tag = "delivery", operation_id = "get_source_config",
    security(("api_key" = ["client"])),
    responses((status = 200, description = "The configuration.", body = Value)))]
#[get("/sourceConfig/")]
pub(super) async fn get_source_config(
    client: Authorized<Client>,
    state: web::Data<AppState>,
) -> HttpResponse {
    HttpResponse::Ok().json(rudder_config(client.access.project.0, &state))
}

fn rudder_config(project: i64, state: &AppState) -> Value {
    let id = format!("beckon-{project}");
    json!({
        "source": {
            "id": id,
            "name": "beckon",
            "enabled": true,
            "config": {
                "statsCollection": {
                    "errors": {"enabled": false},
                    "metrics": {"enabled": false},
                }
            },
            "destinations": [],
            "dataplanes": {},
            "workspaceId": id,
            "sourceDefinition": {"name": "Javascript"},
            "updatedAt": state.clock.now(),
        },
        "updatedAt": state.clock.now(),
    })
}
