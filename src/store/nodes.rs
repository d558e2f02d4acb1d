//! Which nodes work on the database.
//!
//! A node has a number, drawn when it starts. Each of its sessions that writes people, and the one
//! that counts the nodes, holds a shared advisory lock on the number. A node is there as long as one
//! of these sessions is, so no heartbeat has to expire, and none can write unseen because the
//! session that counts was lost.

use std::time::Duration;

use diesel::sql_types::{BigInt, Int4};
use diesel::{PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query};

/// The first half of the key of every node's lock; the second one is the node's number.
const NODE_LOCKS: i32 = 0x6265_636b;

/// How long a node that finds others waits until they have noticed it and remember nobody any more:
/// longer than their counts are good for.
pub const INTRODUCTION: Duration = Duration::from_millis(1_500);

/// One node's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(i32);

impl NodeId {
    /// One that hardly any other node has.
    pub fn draw() -> Self {
        // The random bits come last.
        let low = uuid::Uuid::new_v4().as_u128() & 0x7fff_ffff;
        Self(i32::try_from(low).unwrap_or_default())
    }
}

/// Shows that the node is there, until the session ends.
pub fn join(connection: &mut PgConnection, node: NodeId) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_lock_shared($1, $2)")
        .bind::<Int4, _>(NODE_LOCKS)
        .bind::<Int4, _>(node.0)
        .execute(connection)
        .map(|_| ())
}

/// Takes back that the node is there.
pub fn leave(connection: &mut PgConnection, node: NodeId) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_unlock_shared($1, $2)")
        .bind::<Int4, _>(NODE_LOCKS)
        .bind::<Int4, _>(node.0)
        .execute(connection)
        .map(|_| ())
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    nodes: i64,
}

/// How many other nodes are there.
pub fn others(connection: &mut PgConnection, node: NodeId) -> QueryResult<i64> {
    // A key of two numbers is shown as these with objsubid 2.
    let row: Count = sql_query(
        "SELECT count(DISTINCT objid) AS nodes FROM pg_locks WHERE locktype = 'advisory' \
         AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND classid::bigint = $1 AND objid::bigint <> $2 AND objsubid = 2",
    )
    .bind::<BigInt, _>(i64::from(NODE_LOCKS))
    .bind::<BigInt, _>(i64::from(node.0))
    .get_result(connection)?;
    Ok(row.nodes)
}
