//! Every route, in one list.
//!
//! A handler's attribute holds its method and path; the OpenAPI document is collected from the same
//! list, so a route that is served is described.

mod analytics;
mod author;
mod budget;
mod campaigns;
mod delivery;
mod events;
mod explain;
mod features;
mod health;
mod ingest;
mod keys;
mod ledger;
mod rejected;
mod segments;
mod sources;
mod users;

use actix_web::http::Method;
use actix_web::web::{self, Redirect};
use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::OpenApi;
use utoipa_actix_web::service_config::ServiceConfig;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::openapi;
use super::problem::Problem;

/// The list.
pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        // What SDKs send.
        .service(ingest::track_event)
        .service(ingest::identify_user)
        .service(ingest::page_event)
        .service(ingest::screen_event)
        .service(ingest::group_user)
        .service(ingest::alias_user)
        .service(ingest::track_event_short)
        .service(ingest::identify_user_short)
        .service(ingest::page_event_short)
        .service(ingest::screen_event_short)
        .service(ingest::group_user_short)
        .service(ingest::alias_user_short)
        .service(ingest::send_metrics)
        .service(ingest::batch_events)
        .service(ingest::import_events)
        .service(ingest::batch_events_short)
        .service(ingest::batch_events_beacon)
        .service(ingest::create_leads)
        .service(ingest::track_event_analytics)
        .service(ingest::identify_user_analytics)
        // What SDKs read.
        .service(delivery::list_live_campaigns)
        .service(delivery::get_feature)
        .service(delivery::get_feature_value)
        .service(delivery::get_feature_payload)
        .service(sources::get_project_settings)
        .service(sources::get_source_config)
        // What people manage.
        .service(campaigns::list_campaigns)
        .service(campaigns::create_campaign)
        // Before the route that would take `replay` for an id.
        .service(campaigns::validate_campaign)
        .service(campaigns::replay_campaign)
        .service(campaigns::get_campaign)
        .service(campaigns::update_campaign)
        .service(campaigns::delete_campaign)
        .service(segments::list_segments)
        .service(segments::create_segment)
        .service(segments::get_segment)
        .service(segments::update_segment)
        .service(segments::delete_segment)
        .service(users::list_users)
        .service(users::get_user)
        .service(users::list_user_events)
        .service(events::list_events)
        .service(features::list_features)
        .service(features::save_feature)
        .service(keys::list_keys)
        .service(keys::create_key)
        .service(keys::revoke_key)
        .service(rejected::list_rejected_events)
        // Before the route that would take `replay` for a number.
        .service(rejected::replay_rejected_events)
        .service(rejected::get_rejected_event)
        .service(rejected::replay_rejected_event)
        .service(ledger::get_ledger)
        .service(explain::explain_decision)
        // How campaigns do.
        .service(analytics::get_overview)
        .service(analytics::get_campaign_report)
        // How the server does.
        .service(health::get_health)
        .service(health::get_live)
        .service(health::get_ready)
        .service(health::get_metrics);
}

/// Every operation that is served: its method and its pattern.
pub(super) fn operations() -> Vec<(&'static str, String)> {
    let document = openapi::document();
    let described = document.paths.paths.iter().flat_map(|(path, item)| {
        openapi::methods(item)
            .into_iter()
            .map(|(method, _)| (method, path.clone()))
    });
    let undescribed = ["/openapi.json", "/docs", DOCS].map(|path| ("GET", path.to_owned()));
    described.chain(undescribed).collect()
}

const DOCS: &str = "/docs/{_:.*}";

/// The document and its page, if they are wanted. They describe; they are not described.
pub(super) fn configure_docs(config: &mut web::ServiceConfig, wanted: bool) {
    if !wanted {
        return;
    }
    config
        .route("/openapi.json", web::get().to(document))
        .route(
            "/docs",
            web::get().to(|| async { Redirect::to("/docs/").temporary() }),
        )
        .service(SwaggerUi::new(DOCS).config(Config::from("/openapi.json")));
}

async fn document(known: web::Data<Known>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(known.document.clone())
}

/// The routes that exist, to tell an unknown path from a wrong method.
#[derive(Debug)]
pub(super) struct Known {
    document: String,
    routes: Vec<String>,
    paths: Vec<(Vec<Segment>, Vec<&'static str>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Exact(String),
    Any,
}

impl Known {
    pub(super) fn new(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter().map(|(path, item)| {
            let segments = path.split('/').map(|segment| {
                if segment.starts_with('{') {
                    Segment::Any
                } else {
                    Segment::Exact(segment.to_owned())
                }
            });
            let mut methods: Vec<&'static str> = openapi::methods(item)
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            if methods.contains(&"GET") {
                methods.push("HEAD");
            }
            (segments.collect(), methods)
        });
        Self {
            document: document.to_json().unwrap_or_default(),
            routes: openapi::route_list(document),
            paths: paths.collect(),
        }
    }

    /// The methods of a path, when it exists.
    fn methods(&self, path: &str) -> Option<String> {
        let asked: Vec<&str> = path.split('/').collect();
        let matches = |pattern: &[Segment]| {
            pattern.len() == asked.len()
                && pattern
                    .iter()
                    .zip(&asked)
                    .all(|(segment, part)| match segment {
                        Segment::Exact(text) => text == part,
                        Segment::Any => !part.is_empty(),
                    })
        };
        let found = self.paths.iter().find(|(pattern, _)| matches(pattern));
        found.map(|(_, methods)| methods.join(", "))
    }
}

/// There is no such route; the refusal names those there are.
pub(super) fn no_such_route(request: &HttpRequest) -> Problem {
    let route = format!("{} {}", request.method(), request.path());
    let known = request.app_data::<web::Data<Known>>();
    let routes = known.iter().flat_map(|known| &known.routes);
    let others: Vec<&String> = routes.filter(|known| **known != route).collect();
    Problem::route_not_found(&route, &others)
}

/// Whatever no route takes: an unknown path is the seed's 404, a known one a 405.
pub(super) async fn not_found(
    request: HttpRequest,
    known: web::Data<Known>,
) -> Result<HttpResponse, Problem> {
    let route = format!("{} {}", request.method(), request.path());
    match known.methods(request.path()) {
        // A plain OPTIONS asks what there is.
        Some(allow) if request.method() == Method::OPTIONS => {
            Ok(HttpResponse::Ok().insert_header(("Allow", allow)).finish())
        }
        Some(allow) => Err(Problem::method_not_allowed(route, allow)),
        None => Err(no_such_route(&request)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths_tell_their_methods() {
        let known = Known::new(&openapi::document());
        assert_eq!(known.methods("/v1/track").as_deref(), Some("POST"));
        assert_eq!(known.methods("/v1/nope"), None);
        assert_eq!(known.methods("/v1/track/"), None);
        assert!(known.routes.contains(&"GET /v1/health".to_owned()));
    }
}
