//! Segments.

use chrono::{DateTime, Utc};
use diesel::dsl::{count_star, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use serde_json::Value;

use super::schema::segments;
use crate::model::ProjectId;

/// A segment as stored. `body` holds every top-level field as the admin wrote it.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = segments)]
pub struct StoredSegment {
    /// Its id within the project.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The whole segment.
    pub body: Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
}

/// A page of segments, newest first, and how many there are.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
    offset: i64,
) -> QueryResult<(Vec<StoredSegment>, i64)> {
    let page = segments::table
        .filter(segments::project_id.eq(project.0))
        .order((segments::created_at.desc(), segments::seq.desc()))
        .limit(limit)
        .offset(offset)
        .select(StoredSegment::as_select())
        .load(connection)?;
    let total = segments::table
        .filter(segments::project_id.eq(project.0))
        .count()
        .get_result(connection)?;
    Ok((page, total))
}

/// How many segments the project has, and how many bytes their bodies have together.
pub fn held(connection: &mut PgConnection, project: ProjectId) -> QueryResult<(i64, i64)> {
    segments::table
        .filter(segments::project_id.eq(project.0))
        .select((
            count_star(),
            sql::<BigInt>("coalesce(sum(octet_length(body::text)), 0)::bigint"),
        ))
        .first(connection)
}

/// One segment.
pub fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
) -> QueryResult<Option<StoredSegment>> {
    segments::table
        .find((project.0, id))
        .select(StoredSegment::as_select())
        .first(connection)
        .optional()
}

/// One segment, locked until the transaction ends.
pub fn find_for_update(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
) -> QueryResult<Option<StoredSegment>> {
    segments::table
        .find((project.0, id))
        .select(StoredSegment::as_select())
        .for_update()
        .first(connection)
        .optional()
}

/// Stores a new segment. Fails with a violation of `segments_pkey` when the id is taken.
pub fn insert(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
    name: &str,
    body: &Value,
    at: DateTime<Utc>,
) -> QueryResult<StoredSegment> {
    diesel::insert_into(segments::table)
        .values((
            segments::project_id.eq(project.0),
            segments::id.eq(id),
            segments::name.eq(name),
            segments::body.eq(body),
            segments::created_at.eq(at),
        ))
        .returning(StoredSegment::as_returning())
        .get_result(connection)
}

/// Replaces a segment that the transaction has locked.
pub fn update(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
    name: &str,
    body: &Value,
    at: DateTime<Utc>,
) -> QueryResult<StoredSegment> {
    diesel::update(segments::table.find((project.0, id)))
        .set((
            segments::name.eq(name),
            segments::body.eq(body),
            segments::updated_at.eq(at),
        ))
        .returning(StoredSegment::as_returning())
        .get_result(connection)
}

/// Deletes a segment; false when there was none.
pub fn delete(connection: &mut PgConnection, project: ProjectId, id: &str) -> QueryResult<bool> {
    diesel::delete(segments::table.find((project.0, id)))
        .execute(connection)
        .map(|rows| rows > 0)
}
