//! The OpenAPI 3.1 document: what the handlers say of themselves, and what is true of every route.

use actix_web::App;
use serde::Serialize;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response};
use utoipa::{OpenApi as _, ToSchema};
use utoipa_actix_web::AppExt;

use super::routes;
use crate::error::Code;

/// One refused field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FieldError)]
pub(super) struct FieldErrorDoc {
    /// Always `field`.
    r#type: String,
    /// The value that was refused; `""` when it was absent.
    value: serde_json::Value,
    /// What is wrong with it.
    msg: String,
    /// The field's name, or a JSON pointer into it.
    path: String,
    /// `body`, `query`, `params` or `headers`.
    location: String,
    /// Of a rule: the stable code of what is wrong with it.
    code: Option<String>,
}

/// Every error: RFC 9457 with the seed's members beside.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDoc {
    /// A URI that names the code.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What went wrong.
    detail: String,
    /// The request's id.
    instance: String,
    /// Always false.
    success: bool,
    /// A stable code from a closed list.
    code: String,
    /// As `detail`.
    message: String,
    /// The seed's short text.
    error: String,
    /// Each refused field.
    details: Vec<FieldErrorDoc>,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Beckon",
        description = "Event ingestion and campaign targeting. Times are RFC 3339 in UTC. Every \
                       error is one object with a stable `code`. `Content-Type` of JSON names its \
                       charset, which is UTF-8."
    ),
    components(schemas(ProblemDoc, FieldErrorDoc)),
    tags(
        (name = "ingest", description = "What SDKs send. Success is always 200 with a JSON object."),
        (name = "delivery", description = "What SDKs read."),
        (name = "admin", description = "What people manage."),
        (name = "analytics", description = "How campaigns do."),
        (name = "service", description = "How the server does."),
    )
)]
struct Base;

/// The whole document.
pub fn document() -> OpenApi {
    let (_, mut document) = App::new()
        .into_utoipa_app()
        .openapi(Base::openapi())
        .configure(routes::configure)
        .split_for_parts();
    add_security_schemes(&mut document);
    list_codes(&mut document);
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_common_answers(path, operation);
        }
    }
    document
}

/// The document's routes as `METHOD /path`, by path.
pub(super) fn route_list(document: &OpenApi) -> Vec<String> {
    let mut routes = Vec::new();
    for (path, item) in &document.paths.paths {
        for (method, _) in methods(item) {
            routes.push(format!("{method} {path}"));
        }
    }
    routes
}

/// The methods of each path.
pub(super) fn methods(item: &PathItem) -> Vec<(&'static str, &Operation)> {
    [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("DELETE", &item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_ref().map(|operation| (method, operation)))
    .collect()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

/// Lists the codes of errors, which are a closed list.
fn list_codes(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    if let Some(RefOr::T(Schema::Object(problem))) = components.schemas.get_mut("Problem") {
        let codes = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A stable code from a closed list."))
            .enum_values(Some(Code::ALL.map(Code::as_str)));
        problem
            .properties
            .insert("code".to_owned(), RefOr::T(codes.build().into()));
    }
}

/// The ways to carry a key, by the names that operations use.
fn add_security_schemes(document: &mut OpenApi) {
    let header = |name: &str| SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(name)));
    let schemes = [
        ("api_key", header("x-api-key")),
        ("write_key", header("x-write-key")),
        (
            "bearer",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        ),
        (
            "basic",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)),
        ),
        (
            "query_key",
            SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::new("writeKey"))),
        ),
    ];
    let components = document.components.get_or_insert_default();
    for (name, scheme) in schemes {
        components.add_security_scheme(name, scheme);
    }
}

/// An operation names its scope in `security(("api_key" = ["admin"]))`; the other ways to carry a
/// key, and the answers that no handler needs to mention, follow from that.
fn add_common_answers(path: &str, operation: &mut Operation) {
    let scope = operation.security.as_ref().and_then(|security| {
        let first = serde_json::to_value(security.first()?).ok()?;
        let scopes = first.get("api_key")?.as_array()?;
        scopes.first()?.as_str().map(str::to_owned)
    });
    let mut statuses: Vec<(&str, &str)> = vec![
        ("405", "The route has other methods."),
        (
            "429",
            "A limit is reached; `Retry-After` says when to come back.",
        ),
        (
            "500",
            "A defect on the server's side; the request id finds it in the log.",
        ),
        (
            "503",
            "Overload or no database; `Retry-After` says when to come back.",
        ),
    ];
    if let Some(scope) = &scope {
        let ways = ["api_key", "write_key", "bearer", "basic", "query_key"];
        operation.security = Some(
            ways.into_iter()
                .map(|way| SecurityRequirement::new(way, [scope.clone()]))
                .collect(),
        );
        statuses.push(("400", "Something in the request is invalid."));
        statuses.push(("401", "No key, or none that is good."));
        statuses.push(("403", "The key's scope is too small."));
    }
    if path.contains('{') {
        statuses.push(("404", "There is no such object in this project."));
    }
    if operation.request_body.is_some() {
        statuses.push(("413", "The body, event or batch is too large."));
    }
    let answers = &mut operation.responses.responses;
    for (status, text) in statuses {
        answers
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(problem(text)));
    }
    for (status, answer) in answers.iter_mut() {
        if let RefOr::T(answer) = answer
            && status.starts_with(['4', '5'])
            && answer.content.is_empty()
        {
            answer.content = problem(&answer.description).content;
        }
    }
}

fn problem(text: &str) -> Response {
    let mut response = Response::new(text);
    let schema = Ref::from_schema_name("Problem");
    let content = RefOr::T(Content::new(Some(schema)));
    response.content = [("application/problem+json".to_owned(), content)]
        .into_iter()
        .collect();
    response
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What may be asked without a key; the key of project settings stands in the path.
    const PUBLIC: [&str; 5] = [
        "POST /v1/m",
        "GET /v1/health",
        "GET /livez",
        "GET /readyz",
        "GET /v1/projects/{key}/settings",
    ];

    #[test]
    fn every_route_names_its_scope_and_has_an_id_of_its_own() {
        let document = document();
        let mut ids = HashSet::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in methods(item) {
                let route = format!("{method} {path}");
                let id = operation.operation_id.clone().unwrap_or_default();
                assert!(id.contains('_'), "{route} has the id {id:?}");
                assert!(ids.insert(id), "{route} has another route's id");
                let public = PUBLIC.contains(&route.as_str());
                assert_eq!(operation.security.is_none(), public, "{route}");
            }
        }
        assert!(ids.len() > 40, "{} routes", ids.len());
    }

    #[test]
    fn every_code_is_listed() {
        let text = document().to_json().unwrap_or_default();
        for code in Code::ALL {
            let quoted = format!("\"{}\"", code.as_str());
            assert!(text.contains(&quoted), "{quoted}");
        }
    }

    #[test]
    fn reads_and_writes_of_admins_need_their_scopes() {
        let document = document();
        for (path, item) in &document.paths.paths {
            for (method, operation) in methods(item) {
                let wanted = match (path.starts_with("/v1/admin/"), method) {
                    (true, "GET") => "read",
                    // A question that has a body; it changes nothing.
                    (true, "POST") if path == "/v1/admin/explain" => "read",
                    (true, _) => "admin",
                    (false, _) => continue,
                };
                let security = serde_json::to_string(&operation.security).unwrap_or_default();
                assert!(security.contains(wanted), "{method} {path}: {security}");
            }
        }
    }
}
