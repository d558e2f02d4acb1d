//! Events, as admins read them. What ingest writes is its own.
//!
//! Lists are ordered by `(received_at, id)`, which an index holds for a project and for a person;
//! a page far down is read by the last row of the one before, not by an offset.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_query;
use diesel::sql_types::{
    Array, BigInt, Date, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use uuid::Uuid;

use crate::model::{EventKind, ProjectId};

/// An event as stored; `properties` and `context` are JSON text, as they were sent.
#[derive(Debug, Clone, QueryableByName)]
pub struct StoredEvent {
    /// Its id.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// The number of its kind.
    #[diesel(sql_type = SmallInt)]
    pub kind: i16,
    /// Its name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The user's id.
    #[diesel(sql_type = Nullable<Text>)]
    pub user_id: Option<String>,
    /// The anonymous id.
    #[diesel(sql_type = Nullable<Text>)]
    pub anonymous_id: Option<String>,
    /// The client's id of the call.
    #[diesel(sql_type = Nullable<Text>)]
    pub message_id: Option<String>,
    /// Its details.
    #[diesel(sql_type = Nullable<Text>)]
    pub properties: Option<String>,
    /// Its context.
    #[diesel(sql_type = Nullable<Text>)]
    pub context: Option<String>,
    /// When it happened.
    #[diesel(sql_type = Timestamptz)]
    pub timestamp: DateTime<Utc>,
    /// When it was received.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
}

/// Which events a list holds.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Those of these people.
    pub persons: Option<Vec<i64>>,
    /// Those of this name.
    pub name: Option<String>,
    /// Those of this kind.
    pub kind: Option<EventKind>,
    /// Those received then or later.
    pub from: Option<DateTime<Utc>>,
    /// Those received before.
    pub to: Option<DateTime<Utc>>,
    /// Those that a list shows after this row: its `received_at` and id.
    pub after: Option<(DateTime<Utc>, Uuid)>,
}

/// `received_on` is the database's date and `received_at` the node's time, so partitions are ruled
/// out with a day to spare.
const DATE_SLACK: TimeDelta = TimeDelta::days(1);

type Query<'a> = BoxedSqlQuery<'a, Pg, SqlQuery>;

/// Writes the filter with its binds; `$1` is the project.
fn filtered<'a>(select: &str, project: ProjectId, filter: &'a EventFilter) -> Query<'a> {
    let mut bound = 1;
    let mut next = || {
        bound += 1;
        bound
    };
    let mut query = sql_query(format!("{select} FROM events WHERE project_id = $1"))
        .into_boxed::<Pg>()
        .bind::<BigInt, _>(project.0);
    if let Some(persons) = &filter.persons {
        query = query
            .sql(format!(" AND person_id = ANY(${})", next()))
            .bind::<Array<BigInt>, _>(persons);
    }
    // All but track have the kind's word as their name, and names have an index.
    let of_kind = filter.kind.filter(|kind| *kind != EventKind::Track);
    let word = of_kind.map(EventKind::as_str);
    for name in filter.name.as_deref().into_iter().chain(word) {
        query = query
            .sql(format!(" AND name = ${}", next()))
            .bind::<Text, _>(name);
    }
    if let Some(kind) = filter.kind {
        query = query
            .sql(format!(" AND kind = ${}", next()))
            .bind::<SmallInt, _>(kind.as_i16());
    }
    if let Some(from) = filter.from {
        query = query
            .sql(format!(" AND received_at >= ${}", next()))
            .bind::<Timestamptz, _>(from)
            .sql(format!(" AND received_on >= ${}", next()))
            .bind::<Date, _>((from - DATE_SLACK).date_naive());
    }
    if let Some(to) = filter.to {
        query = query
            .sql(format!(" AND received_at < ${}", next()))
            .bind::<Timestamptz, _>(to)
            .sql(format!(" AND received_on <= ${}", next()))
            .bind::<Date, _>((to + DATE_SLACK).date_naive());
    }
    if let Some((received_at, id)) = filter.after {
        query = query
            .sql(format!(
                " AND (received_at, id) < (${}, ${})",
                next(),
                next()
            ))
            .bind::<Timestamptz, _>(received_at)
            .bind::<SqlUuid, _>(id)
            .sql(format!(" AND received_on <= ${}", next()))
            .bind::<Date, _>((received_at + DATE_SLACK).date_naive());
    }
    query
}

/// A page of events, newest first.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &EventFilter,
    limit: i64,
    offset: i64,
) -> QueryResult<Vec<StoredEvent>> {
    let select = "SELECT id, kind, name, user_id, anonymous_id, message_id, \
                  properties::text AS properties, context::text AS context, \"timestamp\", \
                  received_at";
    filtered(select, project, filter)
        .sql(format!(
            " ORDER BY received_at DESC, id DESC LIMIT {limit} OFFSET {offset}"
        ))
        .load(connection)
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    total: i64,
}

/// How many events the filter holds, wherever a page starts; counted up to `cap`.
pub fn count(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &EventFilter,
    cap: i64,
) -> QueryResult<i64> {
    let whole = EventFilter {
        after: None,
        ..filter.clone()
    };
    filtered("SELECT count(*) AS total FROM (SELECT 1", project, &whole)
        .sql(format!(" LIMIT {cap}) counted"))
        .get_result::<Counted>(connection)
        .map(|counted| counted.total)
}
