//! People, as admins read them.
//!
//! In a list a person is `{id, ...traits}`, as in the seed; but a trait named `id` does not replace
//! the person's own, or one could not be told from another. The trait is in the answer for one user.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::{HttpResponse, get, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::events::{EventList, Page, TOTAL_MAX};
use crate::error::Error;
use crate::http::auth::{Authorized, Read};
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::model::{Identity, IdentityKind, PersonId, ProjectId};
use crate::store::people::{self, ListedPerson, StoredIdentity};
use crate::targeting::Subject;

const NOT_FOUND: Error = Error::NotFound("User");

/// How many names of one person are shown.
const IDENTITIES_MAX: i64 = 1_000;

/// A page of people.
#[derive(Debug, Serialize, ToSchema)]
struct UserList {
    /// The page, oldest first: each person's `id` and traits.
    #[schema(value_type = Vec<Object>)]
    users: Vec<BTreeMap<String, Box<RawValue>>>,
    /// How many there are, counted up to 100,000.
    total: i64,
    /// True when there are more than `total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_capped: Option<bool>,
}

/// One name of a person.
#[derive(Debug, Serialize, ToSchema)]
struct IdentityAnswer {
    /// `user` or `anonymous`.
    kind: &'static str,
    /// The name.
    value: String,
    /// When it was first seen.
    created_at: DateTime<Utc>,
}

/// A segment a person is in.
#[derive(Debug, Serialize, ToSchema)]
struct SegmentAnswer {
    /// Its id.
    id: String,
    /// Its name.
    name: String,
}

/// A person.
#[derive(Debug, Serialize, ToSchema)]
struct User {
    /// The name that names the person best: the oldest user id, else the oldest anonymous one.
    id: String,
    /// Traits, merged over all identifies.
    #[schema(value_type = Object)]
    traits: Map<String, Value>,
    /// All names.
    identities: Vec<IdentityAnswer>,
    /// The segments the person is in now.
    segments: Vec<SegmentAnswer>,
    /// When the person was first seen.
    created_at: DateTime<Utc>,
    /// When the person was last seen.
    last_seen_at: DateTime<Utc>,
}

/// Lists people, oldest first.
#[utoipa::path(tag = "admin", operation_id = "list_users", security(("api_key" = ["read"])),
    params(
        ("limit" = Option<i64>, Query, description = "1 to 100, clamped; default 20."),
        ("offset" = Option<i64>, Query, description = "How many to skip, clamped."),
    ),
    responses((status = 200, description = "A page.", body = UserList)))]
#[get("/v1/admin/users")]
pub(super) async fn list_users(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let (limit, offset) = (params.limit(20, 100)?, params.offset()?);
    let (page, total) = state
        .store
        .browse(project, move |connection| {
            let page = people::list(connection, project, limit, offset)?;
            Ok((page, people::count(connection, project, TOTAL_MAX + 1)?))
        })
        .await?;
    let users: Result<_, _> = page.into_iter().map(listed).collect();
    Ok(HttpResponse::Ok().json(UserList {
        users: users.map_err(|error| Error::Internal(error.to_string()))?,
        total: total.min(TOTAL_MAX),
        total_capped: (total > TOTAL_MAX).then_some(true),
    }))
}

/// A page of people may have many megabytes of traits, so these stay text.
fn listed(person: ListedPerson) -> serde_json::Result<BTreeMap<String, Box<RawValue>>> {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&person.traits)?;
    let id = to_raw_value(&person.name.unwrap_or_default())?;
    members.insert("id".to_owned(), id);
    Ok(members)
}

/// Reads a person by a user id, else by an anonymous one.
#[utoipa::path(tag = "admin", operation_id = "get_user", security(("api_key" = ["read"])),
    params(("id" = String, Path, description = "A user id, else an anonymous id.")),
    responses((status = 200, description = "The person.", body = User)))]
#[get("/v1/admin/users/{id}")]
pub(super) async fn get_user(
    reader: Authorized<Read>,
    id: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    if !state.targeting.is_ready_for(project) {
        // Nothing is loaded yet; "in no segment" would be wrong.
        return Err(Error::DatabaseUnavailable.into());
    }
    let found = find(&state, project, &id).await?;
    let (identity, person) = (found.identity, found.person);
    let decided = state
        .targeting
        .person(project, &identity)
        .await?
        .ok_or(NOT_FOUND)?;
    let names = state
        .store
        .run(move |connection| people::identities_of(connection, project, person, IDENTITIES_MAX))
        .await?;
    let now = state.clock.now();
    let subject = Subject {
        identity: Some(identity.clone()),
        person: Some(Arc::clone(&decided)),
    };
    let segments = state.targeting.segments_of(project, subject, now).await?;
    let segments = segments.into_iter().map(|segment| SegmentAnswer {
        id: segment.id,
        name: segment.name,
    });
    Ok(HttpResponse::Ok().json(User {
        id: names
            .first()
            .map_or_else(|| identity.value().to_owned(), |name| name.value.clone()),
        segments: segments.collect(),
        traits: decided.traits_object().clone(),
        identities: names.into_iter().map(IdentityAnswer::from).collect(),
        created_at: decided.created_at,
        last_seen_at: decided.last_seen.at(),
    }))
}

impl From<StoredIdentity> for IdentityAnswer {
    fn from(stored: StoredIdentity) -> Self {
        Self {
            kind: IdentityKind::from_i16(stored.kind).map_or("unknown", IdentityKind::as_str),
            value: stored.value,
            created_at: stored.created_at,
        }
    }
}

/// Lists a person's events, newest first, also those of people merged into this one.
#[utoipa::path(tag = "admin", operation_id = "list_user_events", security(("api_key" = ["read"])),
    params(
        ("id" = String, Path, description = "A user id, else an anonymous id."),
        ("limit" = Option<i64>, Query, description = "1 to 100, clamped; default 20."),
        ("offset" = Option<i64>, Query, description = "How many to skip, clamped; use `cursor` for deep pages."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before."),
        ("event" = Option<String>, Query, description = "Only those of this name."),
        ("type" = Option<String>, Query, description = "Only those of this type."),
        ("from" = Option<String>, Query, description = "Only those received then or later."),
        ("to" = Option<String>, Query, description = "Only those received before."),
    ),
    responses((status = 200, description = "A page.", body = EventList)))]
#[get("/v1/admin/users/{id}/events")]
pub(super) async fn list_user_events(
    reader: Authorized<Read>,
    id: web::Path<String>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let mut page = Page::parse(&params)?;
    let person = find(&state, project, &id).await?.person;
    let family = state
        .store
        .run(move |connection| people::family(connection, project, person))
        .await?;
    page.filter.persons = Some(family);
    Ok(HttpResponse::Ok().json(page.read(&state, project).await?))
}

struct FoundPerson {
    identity: Identity,
    person: PersonId,
}

/// The person a text names: a user if there is one of that id, else somebody anonymous.
async fn find(state: &AppState, project: ProjectId, id: &str) -> Result<FoundPerson, Error> {
    let user = Identity::user(id).map_err(|_| NOT_FOUND)?;
    let anonymous = Identity::anonymous(id).map_err(|_| NOT_FOUND)?;
    let found = state
        .store
        .run(move |connection| {
            for identity in [user, anonymous] {
                if let Some(person) = people::find(connection, project, &identity)? {
                    return Ok(Some(FoundPerson { identity, person }));
                }
            }
            Ok(None)
        })
        .await?;
    found.ok_or(NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_trait_does_not_replace_the_id() {
        let person = ListedPerson {
            traits: r#"{"id": "evil", "plan": null}"#.to_owned(),
            name: Some("u-51".to_owned()),
        };
        assert_eq!(
            json!(listed(person).unwrap()),
            json!({"id": "u-51", "plan": null})
        );
    }
}
