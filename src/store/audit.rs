//! The audit log: one row a change. It names rows and keys, never people's data.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::schema::audit_log;
use crate::model::ProjectId;

/// A change, to be logged in the transaction that makes it.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The tenant.
    pub project: ProjectId,
    /// When.
    pub at: DateTime<Utc>,
    /// Who, as in `key:12`.
    pub actor: &'a str,
    /// What, as in `create`.
    pub action: &'a str,
    /// The kind of row, as in `campaign`.
    pub object_kind: &'a str,
    /// The row's id.
    pub object_id: &'a str,
    /// The request that asked for it.
    pub request_id: Option<&'a str>,
}

/// Logs a change.
pub fn record(connection: &mut PgConnection, change: &Change<'_>) -> QueryResult<()> {
    diesel::insert_into(audit_log::table)
        .values((
            audit_log::project_id.eq(change.project.0),
            audit_log::at.eq(change.at),
            audit_log::actor.eq(change.actor),
            audit_log::action.eq(change.action),
            audit_log::object_kind.eq(change.object_kind),
            audit_log::object_id.eq(change.object_id),
            audit_log::request_id.eq(change.request_id),
        ))
        .execute(connection)
        .map(|_| ())
}
