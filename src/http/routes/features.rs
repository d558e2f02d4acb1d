//! Feature flags, as admins manage them.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use diesel::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::author::Author;
use super::budget::{check_budget, written_bytes};
use crate::error::{Error, FieldError};
use crate::http::auth::{Admin, Authorized, Read};
use crate::http::body;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::model::unfit;
use crate::store::flags::{self, StoredFlag};
use crate::targeting::{Targeting, Warning};

/// How many flags a project may have: all of them are answered at once, and held in memory.
const FLAGS_MAX: i64 = 10_000;

/// What a flag adds to the bytes of the project's.
fn bytes_of(flag: &StoredFlag) -> usize {
    let parts = [&flag.value, &flag.targeting];
    parts.into_iter().flatten().map(written_bytes).sum()
}

/// A flag to be saved. A member that is absent keeps what is stored.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(
    dead_code,
    reason = "it describes bodies that are read member by member"
)]
struct FlagBody {
    /// The flag's key, 1 to 255 characters.
    key: String,
    /// Whether it is on. A new flag is.
    #[schema(nullable = false)]
    enabled: Option<bool>,
    /// Its value, any JSON; null takes it away.
    value: Option<Value>,
    /// JsonLogic: for whom it is on; null takes it away.
    targeting: Option<Value>,
}

/// A flag.
#[derive(Debug, Serialize, ToSchema)]
struct Flag {
    /// Whether it is on for those it targets.
    enabled: bool,
    /// Its value, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// For whom it is on; absent is everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    targeting: Option<Value>,
}

/// All flags.
#[derive(Debug, Serialize, ToSchema)]
struct FlagList {
    /// The flags by key.
    flags: BTreeMap<String, Flag>,
}

/// A saved flag.
#[derive(Debug, Serialize, ToSchema)]
struct SavedFlag {
    /// Always true.
    ok: bool,
    /// The flag.
    flag: Flag,
    /// What may surprise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    warnings: Vec<Warning>,
}

impl From<StoredFlag> for Flag {
    fn from(stored: StoredFlag) -> Self {
        Self {
            enabled: stored.enabled,
            value: stored.value,
            targeting: stored.targeting,
        }
    }
}

/// Lists all flags.
#[utoipa::path(tag = "admin", operation_id = "list_features", security(("api_key" = ["read"])),
    responses((status = 200, description = "All flags.", body = FlagList)))]
#[get("/v1/admin/features")]
pub(super) async fn list_features(
    reader: Authorized<Read>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let stored = state
        .store
        .browse(project, move |connection| {
            flags::list(connection, project, FLAGS_MAX)
        })
        .await?;
    let flags = stored
        .into_iter()
        .map(|flag| (flag.key.clone(), Flag::from(flag)));
    Ok(HttpResponse::Ok().json(FlagList {
        flags: flags.collect(),
    }))
}

/// Makes or changes a flag.
#[utoipa::path(tag = "admin", operation_id = "save_feature", security(("api_key" = ["admin"])),
    request_body = FlagBody,
    responses((status = 200, description = "The flag.", body = SavedFlag),
              (status = 409, description = "The project has as many flags as it may."),
              (status = 422, description = "Its targeting cannot be compiled.")))]
#[post("/v1/admin/features")]
pub(super) async fn save_feature(
    request: HttpRequest,
    admin: Authorized<Admin>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let body = body::read_object(&request, payload, &state).await?;
    let Some(key) = body
        .get("key")
        .and_then(Value::as_str)
        .filter(|key| !key.is_empty())
    else {
        let field = FieldError::body("key", body.get("key"), "key required");
        return Err(Problem::from(Error::field(field)).with_headline("key required"));
    };
    if let Some(reason) = unfit(key, 255) {
        let reason = format!("key {reason}");
        return Err(Error::field(FieldError::body("key", body.get("key"), reason)).into());
    }
    let key = key.to_owned();
    check_enabled(&body)?;
    let author = Author::of(&request, &admin, &state.clock);
    let targeting = state.targeting.clone();
    let (flag, warnings) = state
        .targeting
        .save(author.project, move |connection| {
            save(connection, &targeting, &author, key, &body)
        })
        .await?;
    Ok(HttpResponse::Ok().json(SavedFlag {
        ok: true,
        flag: flag.into(),
        warnings,
    }))
}

fn check_enabled(body: &Map<String, Value>) -> Result<(), Error> {
    match body.get("enabled") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(other) => Err(Error::field(FieldError::body(
            "enabled",
            Some(other),
            "enabled must be true or false",
        ))),
    }
}

fn save(
    connection: &mut PgConnection,
    targeting: &Targeting,
    author: &Author,
    key: String,
    body: &Map<String, Value>,
) -> Result<(StoredFlag, Vec<Warning>), Error> {
    let stored = flags::find_for_update(connection, author.project, &key)?;
    let (count, bytes) = flags::held(connection, author.project)?;
    if stored.is_none() && count >= FLAGS_MAX {
        return Err(Error::Conflict(format!(
            "A project holds at most {FLAGS_MAX} flags."
        )));
    }
    let action = if stored.is_some() { "update" } else { "create" };
    let former_bytes = stored.as_ref().map_or(0, bytes_of);
    let flag = merge(stored, key, body);
    check_budget("flags", bytes, former_bytes, bytes_of(&flag))?;
    let warnings = targeting.check_flag(author.project, flag.targeting.as_ref())?;
    flags::save(connection, author.project, &flag, author.at)?;
    author.audit(connection, action, "feature", &flag.key)?;
    Ok((flag, warnings))
}

fn merge(stored: Option<StoredFlag>, key: String, body: &Map<String, Value>) -> StoredFlag {
    let mut flag = stored.unwrap_or(StoredFlag {
        key,
        enabled: true,
        value: None,
        targeting: None,
    });
    if let Some(enabled) = body.get("enabled").and_then(Value::as_bool) {
        flag.enabled = enabled;
    }
    if let Some(value) = body.get("value") {
        flag.value = Some(value.clone()).filter(|value| !value.is_null());
    }
    if let Some(targeting) = body.get("targeting") {
        flag.targeting = Some(targeting.clone()).filter(|targeting| !targeting.is_null());
    }
    flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(stored: Option<StoredFlag>, body: &Value) -> StoredFlag {
        let members = body.as_object().cloned().unwrap_or_default();
        merge(stored, "beta".to_owned(), &members)
    }

    #[test]
    fn a_new_flag_is_on_and_an_old_one_keeps_what_is_not_mentioned() {
        let flag = merged(None, &json!({"value": "blue", "targeting": {"==": [1, 1]}}));
        assert!(flag.enabled);
        let off = merged(Some(flag), &json!({"enabled": false}));
        assert!(!off.enabled);
        assert_eq!(off.value, Some(json!("blue")));
        let bare = merged(Some(off), &json!({"value": null, "targeting": null}));
        assert!(!bare.enabled);
        assert_eq!((bare.value, bare.targeting), (None, None));
    }
}
