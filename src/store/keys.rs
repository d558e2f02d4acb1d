//! API keys, and the origins that need none.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::schema::{api_keys, project_origins, projects};
use crate::model::ProjectId;

/// A key as stored: never the secret.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = api_keys)]
pub struct StoredKey {
    /// The row's number.
    pub id: i64,
    /// The tenant.
    pub project_id: i64,
    /// What its owner calls it.
    pub name: String,
    /// `client`, `read` or `admin`.
    pub scope: String,
    /// The public beginning of the secret.
    pub prefix: String,
    /// SHA-256 of the secret.
    pub hash: Vec<u8>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When somebody ended it.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key to be stored.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = api_keys)]
pub struct NewKey<'a> {
    /// The tenant.
    pub project_id: i64,
    /// What its owner calls it.
    pub name: &'a str,
    /// `client`, `read` or `admin`.
    pub scope: &'a str,
    /// The public beginning of the secret.
    pub prefix: &'a str,
    /// SHA-256 of the secret.
    pub hash: &'a [u8],
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The key with this SHA-256. Not scoped by project: the key is what names the project.
pub fn find_by_hash(
    connection: &mut PgConnection,
    hash: &[u8; 32],
) -> QueryResult<Option<StoredKey>> {
    api_keys::table
        .filter(api_keys::hash.eq(hash.as_slice()))
        .select(StoredKey::as_select())
        .first(connection)
        .optional()
}

/// Stores a key. Fails with a violation of `api_keys_hash_key` when it exists already.
pub fn insert(connection: &mut PgConnection, key: &NewKey<'_>) -> QueryResult<StoredKey> {
    diesel::insert_into(api_keys::table)
        .values(key)
        .returning(StoredKey::as_returning())
        .get_result(connection)
}

/// A page of the project's keys, oldest first, revoked ones too, and how many there are.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
    offset: i64,
) -> QueryResult<(Vec<StoredKey>, i64)> {
    let keys = api_keys::table
        .filter(api_keys::project_id.eq(project.0))
        .order(api_keys::id)
        .limit(limit)
        .offset(offset)
        .select(StoredKey::as_select())
        .load(connection)?;
    let total = api_keys::table
        .filter(api_keys::project_id.eq(project.0))
        .count()
        .get_result(connection)?;
    Ok((keys, total))
}

/// Ends a key and returns it, and whether this ended it: a key that was ended before keeps its time.
/// `None` is a key that is not in this project.
pub fn revoke(
    connection: &mut PgConnection,
    project: ProjectId,
    id: i64,
    now: DateTime<Utc>,
) -> QueryResult<Option<(StoredKey, bool)>> {
    let ended = diesel::update(
        api_keys::table
            .filter(api_keys::project_id.eq(project.0))
            .filter(api_keys::id.eq(id))
            .filter(api_keys::revoked_at.is_null()),
    )
    .set(api_keys::revoked_at.eq(now))
    .execute(connection)?;
    let key = api_keys::table
        .filter(api_keys::project_id.eq(project.0))
        .filter(api_keys::id.eq(id))
        .select(StoredKey::as_select())
        .first(connection)
        .optional()?;
    Ok(key.map(|key| (key, ended > 0)))
}

/// The origins that may ingest without a key, with their projects. Not scoped by project: the
/// origin is what names the project. At most `limit`, so that what is cached stays bounded.
pub fn keyless_origins(
    connection: &mut PgConnection,
    limit: i64,
) -> QueryResult<Vec<(String, i64)>> {
    project_origins::table
        .order(project_origins::origin)
        .limit(limit)
        .select((project_origins::origin, project_origins::project_id))
        .load(connection)
}

/// The project of a fresh install, if it is still there. Not scoped by project: it looks one up.
pub fn default_project(connection: &mut PgConnection) -> QueryResult<Option<ProjectId>> {
    projects::table
        .filter(projects::name.eq("default"))
        .select(projects::id)
        .first(connection)
        .optional()
        .map(|id| id.map(ProjectId))
}
