//! Feature flags.

use chrono::{DateTime, Utc};
use diesel::dsl::{count_star, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use serde_json::Value;

use super::schema::feature_flags;
use super::stored_json::OfFlag;
use crate::model::ProjectId;

/// A flag as stored.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = feature_flags)]
pub struct StoredFlag {
    /// Its key within the project.
    pub key: String,
    /// Whether it is on for those it targets.
    pub enabled: bool,
    /// Its value, if it has one.
    #[diesel(deserialize_as = OfFlag)]
    pub value: Option<Value>,
    /// JsonLogic; none is everybody.
    #[diesel(deserialize_as = OfFlag)]
    pub targeting: Option<Value>,
}

/// The first flags by key, at most `limit`.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
) -> QueryResult<Vec<StoredFlag>> {
    feature_flags::table
        .filter(feature_flags::project_id.eq(project.0))
        .order(feature_flags::key)
        .limit(limit)
        .select(StoredFlag::as_select())
        .load(connection)
}

/// One flag, locked until the transaction ends.
pub fn find_for_update(
    connection: &mut PgConnection,
    project: ProjectId,
    key: &str,
) -> QueryResult<Option<StoredFlag>> {
    feature_flags::table
        .find((project.0, key))
        .select(StoredFlag::as_select())
        .for_update()
        .first(connection)
        .optional()
}

/// How many flags the project has, and how many bytes their values and targeting have together.
pub fn held(connection: &mut PgConnection, project: ProjectId) -> QueryResult<(i64, i64)> {
    feature_flags::table
        .filter(feature_flags::project_id.eq(project.0))
        .select((
            count_star(),
            sql::<BigInt>(
                "coalesce(sum(coalesce(octet_length(value::text), 0) \
                            + coalesce(octet_length(targeting::text), 0)), 0)::bigint",
            ),
        ))
        .first(connection)
}

/// Stores a flag, new or changed.
pub fn save(
    connection: &mut PgConnection,
    project: ProjectId,
    flag: &StoredFlag,
    at: DateTime<Utc>,
) -> QueryResult<()> {
    let fields = (
        feature_flags::enabled.eq(flag.enabled),
        feature_flags::value.eq(&flag.value),
        feature_flags::targeting.eq(&flag.targeting),
    );
    diesel::insert_into(feature_flags::table)
        .values((
            feature_flags::project_id.eq(project.0),
            feature_flags::key.eq(&flag.key),
            fields,
            feature_flags::created_at.eq(at),
        ))
        .on_conflict((feature_flags::project_id, feature_flags::key))
        .do_update()
        .set((fields, feature_flags::updated_at.eq(at)))
        .execute(connection)
        .map(|_| ())
}
