//! Who makes a change, when, and by which request: what the audit log and the history want to know.

use std::sync::Arc;

use actix_web::{HttpMessage, HttpRequest};
use chrono::{DateTime, SecondsFormat, Utc};
use diesel::{PgConnection, QueryResult};

use crate::clock::Clock;
use crate::http::auth::{Admin, Authorized};
use crate::http::request_id::RequestId;
use crate::model::ProjectId;
use crate::store::audit;

/// The author of a change.
#[derive(Debug, Clone)]
pub(super) struct Author {
    pub(super) project: ProjectId,
    pub(super) actor: Arc<str>,
    pub(super) at: DateTime<Utc>,
    request_id: Option<RequestId>,
}

impl Author {
    pub(super) fn of(request: &HttpRequest, admin: &Authorized<Admin>, clock: &Clock) -> Self {
        Self {
            project: admin.access.project,
            actor: Arc::clone(&admin.access.actor),
            at: clock.now(),
            request_id: request.extensions().get::<RequestId>().cloned(),
        }
    }

    /// Logs a change in the transaction that makes it.
    pub(super) fn audit(
        &self,
        connection: &mut PgConnection,
        action: &str,
        object_kind: &str,
        object_id: &str,
    ) -> QueryResult<()> {
        audit::record(
            connection,
            &audit::Change {
                project: self.project,
                at: self.at,
                actor: &self.actor,
                action,
                object_kind,
                object_id,
                request_id: self.request_id.as_ref().map(RequestId::as_str),
            },
        )
    }
}

/// A time as the seed writes it: to the millisecond, in UTC.
pub(super) fn seed_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
