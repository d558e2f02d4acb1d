//! Rejected events.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{
    OptionalExtension, PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query,
};
use serde::Serialize;
use uuid::Uuid;

use crate::model::{EventId, ProjectId};

/// A rejected event, but for its payload.
#[derive(Debug, Clone, QueryableByName, Serialize)]
pub struct ListedRejection {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// When it was received.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
    /// The stable code of the reason.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// The reason in words.
    #[diesel(sql_type = Text)]
    pub message: String,
    /// The client's id of the call.
    #[diesel(sql_type = Nullable<Text>)]
    pub message_id: Option<String>,
    /// The route it came by; absent on rows of earlier versions.
    #[diesel(sql_type = Nullable<Text>)]
    pub route: Option<String>,
    /// When it happened, as it was settled on receipt.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub timestamp: Option<DateTime<Utc>>,
    /// The length of what is kept of it, in bytes.
    #[diesel(sql_type = BigInt)]
    pub payload_bytes: i64,
    /// Whether its end was cut off.
    #[diesel(sql_type = Bool)]
    #[serde(rename = "cut")]
    pub is_cut: bool,
    /// The rejected event that this was a replay of.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub replay_of: Option<i64>,
    /// When a replay of it was stored.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub replayed_at: Option<DateTime<Utc>>,
    /// The event it was stored as.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub replayed_as: Option<Uuid>,
}

/// What is kept of a rejected event beside what lists show.
#[derive(Debug, Clone, QueryableByName)]
pub struct RejectedContent {
    /// The event as received.
    #[diesel(sql_type = Text)]
    pub payload: String,
    /// The context of the batch around it.
    #[diesel(sql_type = Nullable<Text>)]
    pub context: Option<String>,
    /// Each refused field: the text of a JSON array, whose values may nest deeper than the JSON
    /// library reads.
    #[diesel(sql_type = Text)]
    pub fields: String,
}

/// A rejected event.
#[derive(Debug, Clone, QueryableByName)]
pub struct StoredRejection {
    /// What lists show.
    #[diesel(embed)]
    pub head: ListedRejection,
    /// The rest.
    #[diesel(embed)]
    pub content: RejectedContent,
}

/// Which rejected events are meant.
#[derive(Debug, Clone, Default)]
pub struct RejectedFilter {
    /// Those of this code.
    pub code: Option<&'static str>,
    /// Those received then or later.
    pub from: Option<DateTime<Utc>>,
    /// Those received before.
    pub to: Option<DateTime<Utc>>,
    /// Those with this id of the call.
    pub message_id: Option<String>,
    /// Those of which a replay was stored, or those without.
    pub replayed: Option<bool>,
}

/// The place of a row in a list: when it was received, and its number.
pub type Place = (DateTime<Utc>, i64);

const HEAD: &str = "id, received_at, code, message, message_id, route, \"timestamp\", \
     octet_length(payload)::bigint AS payload_bytes, is_cut, replay_of, replayed_at, replayed_as";

const CONTENT: &str = "payload, context, fields::text AS fields";

type Query<'a> = BoxedSqlQuery<'a, Pg, SqlQuery>;

/// Which way a list goes on from a place.
#[derive(Debug, Clone, Copy)]
enum Beyond {
    Older(Place),
    Newer(Place),
}

/// Writes the filter with its binds; `$1` is the project.
fn filtered<'a>(
    select: &str,
    project: ProjectId,
    filter: &'a RejectedFilter,
    beyond: Option<Beyond>,
) -> Query<'a> {
    let mut bound = 1;
    let mut next = || {
        bound += 1;
        bound
    };
    let mut query = sql_query(format!(
        "{select} FROM rejected_events WHERE project_id = $1"
    ))
    .into_boxed::<Pg>()
    .bind::<BigInt, _>(project.0);
    if let Some(code) = filter.code {
        query = query
            .sql(format!(" AND code = ${}", next()))
            .bind::<Text, _>(code);
    }
    if let Some(from) = filter.from {
        query = query
            .sql(format!(" AND received_at >= ${}", next()))
            .bind::<Timestamptz, _>(from);
    }
    if let Some(to) = filter.to {
        query = query
            .sql(format!(" AND received_at < ${}", next()))
            .bind::<Timestamptz, _>(to);
    }
    if let Some(id) = &filter.message_id {
        query = query
            .sql(format!(" AND message_id = ${}", next()))
            .bind::<Text, _>(id);
    }
    if let Some(replayed) = filter.replayed {
        let not = if replayed { "NOT " } else { "" };
        query = query.sql(format!(" AND replayed_at IS {not}NULL"));
    }
    if let Some(beyond) = beyond {
        let (order, (received_at, id)) = match beyond {
            Beyond::Older(place) => ("<", place),
            Beyond::Newer(place) => (">", place),
        };
        query = query
            .sql(format!(
                " AND (received_at, id) {order} (${}, ${})",
                next(),
                next()
            ))
            .bind::<Timestamptz, _>(received_at)
            .bind::<BigInt, _>(id);
    }
    query
}

/// A page of rejected events, newest first.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &RejectedFilter,
    after: Option<Place>,
    limit: i64,
) -> QueryResult<Vec<ListedRejection>> {
    let beyond = after.map(Beyond::Older);
    filtered(&format!("SELECT {HEAD}"), project, filter, beyond)
        .sql(format!(" ORDER BY received_at DESC, id DESC LIMIT {limit}"))
        .load(connection)
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    total: i64,
}

/// How many rejected events the filter holds, counted up to `cap`.
pub fn count(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &RejectedFilter,
    cap: i64,
) -> QueryResult<i64> {
    filtered(
        "SELECT count(*) AS total FROM (SELECT 1",
        project,
        filter,
        None,
    )
    .sql(format!(" LIMIT {cap}) counted"))
    .get_result::<Counted>(connection)
    .map(|counted| counted.total)
}

/// One rejected event of the project.
pub fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    id: i64,
) -> QueryResult<Option<StoredRejection>> {
    sql_query(format!(
        "SELECT {HEAD}, {CONTENT} FROM rejected_events WHERE project_id = $1 AND id = $2"
    ))
    .bind::<BigInt, _>(project.0)
    .bind::<BigInt, _>(id)
    .get_result(connection)
    .optional()
}

/// The rejected events that a replay takes next, oldest first: those without a stored replay that
/// are no replays themselves, at most `limit` of them and, beyond the first, at most `bytes_max`.
pub fn waiting(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &RejectedFilter,
    after: Option<Place>,
    limit: i64,
    bytes_max: i64,
) -> QueryResult<Vec<StoredRejection>> {
    let unreplayed = RejectedFilter {
        replayed: Some(false),
        ..filter.clone()
    };
    // The sizes are summed up first, so that payloads beyond the bound are not read.
    let select = "WITH next AS (SELECT id, received_at, \
         octet_length(payload) + coalesce(octet_length(context), 0) AS bytes";
    filtered(select, project, &unreplayed, after.map(Beyond::Newer))
        .sql(format!(
            " AND replay_of IS NULL ORDER BY received_at, id LIMIT {limit}), \
             summed AS (SELECT id, sum(bytes) OVER w AS bytes, row_number() OVER w AS place \
                        FROM next WINDOW w AS (ORDER BY received_at, id)) \
             SELECT {HEAD}, {CONTENT} FROM rejected_events WHERE project_id = $1 \
               AND id IN (SELECT id FROM summed WHERE place = 1 OR bytes <= {bytes_max}) \
             ORDER BY received_at, id"
        ))
        .load(connection)
}

/// Whether a replay finds more after this place.
pub fn any_waiting(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &RejectedFilter,
    after: Place,
) -> QueryResult<bool> {
    let unreplayed = RejectedFilter {
        replayed: Some(false),
        ..filter.clone()
    };
    let beyond = Some(Beyond::Newer(after));
    let select = "SELECT count(*) AS total FROM (SELECT 1";
    filtered(select, project, &unreplayed, beyond)
        .sql(" AND replay_of IS NULL LIMIT 1) found")
        .get_result::<Counted>(connection)
        .map(|counted| counted.total > 0)
}

/// Notes that a replay of a rejected event is stored. True for whoever is first to note it.
pub fn mark_replayed(
    connection: &mut PgConnection,
    project: ProjectId,
    id: i64,
    at: DateTime<Utc>,
    event: EventId,
) -> QueryResult<bool> {
    sql_query(
        "UPDATE rejected_events SET replayed_at = $3, replayed_as = $4 \
         WHERE project_id = $1 AND id = $2 AND replayed_at IS NULL",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<BigInt, _>(id)
    .bind::<Timestamptz, _>(at)
    .bind::<SqlUuid, _>(event.0)
    .execute(connection)
    .map(|rows| rows > 0)
}
