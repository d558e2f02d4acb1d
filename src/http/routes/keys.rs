//! Keys, as admins manage them. A secret is shown once, in the answer that makes it.

use actix_web::{HttpRequest, HttpResponse, delete, get, post, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::author::Author;
use super::segments::Done;
use crate::error::{Error, FieldError};
use crate::http::auth::{Admin, Authorized, Read, Scope, Secret};
use crate::http::body;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::model::unfit;
use crate::store::keys::{self, NewKey, StoredKey};

const NAME_CHARS_MAX: usize = 200;
const NOT_FOUND: Error = Error::NotFound("Key");

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(
    dead_code,
    reason = "it describes bodies that are read member by member"
)]
struct KeyBody {
    /// `client`, `read` or `admin`.
    scope: String,
    /// What its owner calls it, at most 200 characters.
    name: Option<String>,
    /// When it ends by itself.
    expires_at: Option<DateTime<Utc>>,
}

/// A key without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct Key {
    /// Its number.
    id: i64,
    /// What its owner calls it.
    name: String,
    /// `client`, `read` or `admin`.
    scope: String,
    /// The public beginning of the secret.
    prefix: String,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it ends by itself.
    expires_at: Option<DateTime<Utc>>,
    /// When somebody ended it.
    revoked_at: Option<DateTime<Utc>>,
}

/// A new key with its secret.
#[derive(Debug, Serialize, ToSchema)]
struct NewKeyAnswer {
    /// The secret, shown this once.
    key: String,
    #[serde(flatten)]
    stored: Key,
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
struct KeyList {
    /// The page, oldest first.
    keys: Vec<Key>,
    /// How many there are.
    total: i64,
}

impl From<StoredKey> for Key {
    fn from(stored: StoredKey) -> Self {
        Self {
            id: stored.id,
            name: stored.name,
            scope: stored.scope,
            prefix: stored.prefix,
            created_at: stored.created_at,
            expires_at: stored.expires_at,
            revoked_at: stored.revoked_at,
        }
    }
}

/// Lists keys, revoked ones too.
#[utoipa::path(tag = "admin", operation_id = "list_keys", security(("api_key" = ["read"])),
    params(
        ("limit" = Option<i64>, Query, description = "1 to 100, clamped; default 100."),
        ("offset" = Option<i64>, Query, description = "How many to skip, clamped."),
    ),
    responses((status = 200, description = "A page.", body = KeyList)))]
#[get("/v1/admin/keys")]
pub(super) async fn list_keys(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let (limit, offset) = (params.limit(100, 100)?, params.offset()?);
    let (page, total) = state
        .store
        .browse(project, move |connection| {
            keys::list(connection, project, limit, offset)
        })
        .await?;
    Ok(HttpResponse::Ok().json(KeyList {
        keys: page.into_iter().map(Key::from).collect(),
        total,
    }))
}

/// Makes a key. The answer shows its secret, once.
#[utoipa::path(tag = "admin", operation_id = "create_key", security(("api_key" = ["admin"])),
    request_body = KeyBody,
    responses((status = 201, description = "The key with its secret.", body = NewKeyAnswer)))]
#[post("/v1/admin/keys")]
pub(super) async fn create_key(
    request: HttpRequest,
    admin: Authorized<Admin>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let body = body::read_object(&request, payload, &state).await?;
    let author = Author::of(&request, &admin, &state.clock);
    let wanted = Wanted::parse(&body, author.at)?;
    let secret = Secret::generate(wanted.scope)?;
    let (hash, prefix) = (secret.hash(), secret.prefix());
    let stored = state
        .targeting
        .change(author.project, move |connection| {
            let new = NewKey {
                project_id: author.project.0,
                name: &wanted.name,
                scope: wanted.scope.as_str(),
                prefix: &prefix,
                hash: &hash,
                created_at: author.at,
                expires_at: wanted.expires_at,
            };
            let stored = keys::insert(connection, &new)?;
            author.audit(connection, "create", "key", &stored.id.to_string())?;
            Ok(stored)
        })
        .await?;
    state.auth.invalidate(&hash);
    Ok(HttpResponse::Created().json(NewKeyAnswer {
        key: secret.reveal().to_owned(),
        stored: stored.into(),
    }))
}

/// Revokes a key. It is refused from the answer on; revoking it again changes nothing.
#[utoipa::path(tag = "admin", operation_id = "revoke_key", security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "The key's number.")),
    responses((status = 200, description = "It is revoked.", body = Done)))]
#[delete("/v1/admin/keys/{id}")]
pub(super) async fn revoke_key(
    request: HttpRequest,
    admin: Authorized<Admin>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id: i64 = id.parse().map_err(|_| NOT_FOUND)?;
    let author = Author::of(&request, &admin, &state.clock);
    let revoked = state
        .targeting
        .change(author.project, move |connection| {
            let revoked = keys::revoke(connection, author.project, id, author.at)?;
            let (revoked, is_news) = revoked.ok_or(NOT_FOUND)?;
            if is_news {
                author.audit(connection, "revoke", "key", &revoked.id.to_string())?;
            }
            Ok(revoked)
        })
        .await?;
    state.auth.invalidate(&revoked.hash);
    Ok(HttpResponse::Ok().json(Done { ok: true }))
}

/// What a body asks for.
struct Wanted {
    scope: Scope,
    name: String,
    expires_at: Option<DateTime<Utc>>,
}

impl Wanted {
    fn parse(body: &Map<String, Value>, now: DateTime<Utc>) -> Result<Self, Error> {
        let mut fields = Vec::new();
        let mut refuse = |name: &str, message: &str| {
            fields.push(FieldError::body(name, body.get(name), message));
        };
        let scope = body.get("scope").and_then(Value::as_str);
        let scope = scope.and_then(Scope::parse);
        if scope.is_none() {
            refuse("scope", "scope must be client, read or admin");
        }
        let mut name = String::new();
        match body.get("name") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => match unfit(text, NAME_CHARS_MAX) {
                Some(reason) => refuse("name", &format!("name {reason}")),
                None => name.clone_from(text),
            },
            Some(_) => refuse("name", "name must be a string"),
        }
        let expires_at = match body.get("expires_at") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let time = value.as_str().and_then(parse_time).filter(|at| *at > now);
                if time.is_none() {
                    refuse(
                        "expires_at",
                        "expires_at must be a time in the future, in RFC 3339",
                    );
                }
                time
            }
        };
        Error::if_refused(fields)?;
        Ok(Self {
            // A missing scope was refused above.
            scope: scope.unwrap_or(Scope::Client),
            name,
            expires_at,
        })
    }
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    let last = DateTime::from_timestamp(253_402_300_799, 0)?;
    (time <= last).then_some(time)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<Wanted, Error> {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        Wanted::parse(body.as_object().unwrap(), now)
    }

    #[test]
    fn keys_need_a_scope_and_end_in_the_future() {
        assert_eq!(parse(json!({"scope": "read"})).unwrap().scope, Scope::Read);
        let good = json!({"scope": "admin", "name": "ci", "expires_at": "2030-01-01T00:00:00Z"});
        assert!(parse(good).unwrap().expires_at.is_some());
        for odd in [
            json!({}),
            json!({"scope": "root"}),
            json!({"scope": "read", "name": 5}),
            json!({"scope": "read", "name": "x".repeat(201)}),
            json!({"scope": "read", "expires_at": "2020-01-01T00:00:00Z"}),
            json!({"scope": "read", "expires_at": "+99999-01-01T00:00:00Z"}),
            json!({"scope": "read", "expires_at": 5}),
        ] {
            assert!(parse(odd.clone()).is_err(), "{odd}");
        }
    }
}
