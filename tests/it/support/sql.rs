//! Looks into the database past the server, to see what is really there.

use diesel::connection::SimpleConnection;
use diesel::sql_types::{BigInt, Text};
use diesel::{PgConnection, QueryableByName, RunQueryDsl, sql_query};
use serde_json::Value;
use sha2::{Digest, Sha256};

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    value: String,
}

/// The one number a query gives.
pub fn number(connection: &mut PgConnection, query: &str) -> i64 {
    sql_query(format!("SELECT ({query})::bigint AS value"))
        .get_result::<Number>(connection)
        .unwrap_or_else(|error| panic!("{query}: {error}"))
        .value
}

/// The rows a query gives, each as an object by column. `json` columns are read as they are.
pub fn rows(connection: &mut PgConnection, query: &str) -> Vec<Value> {
    texts(
        connection,
        &format!("SELECT row_to_json(row_)::text AS value FROM ({query}) AS row_"),
    )
    .iter()
    .map(|line| serde_json::from_str(line).unwrap())
    .collect()
}

/// The texts of a query whose one column is called `value`.
pub fn texts(connection: &mut PgConnection, query: &str) -> Vec<String> {
    sql_query(query)
        .load::<Line>(connection)
        .unwrap_or_else(|error| panic!("{query}: {error}"))
        .into_iter()
        .map(|line| line.value)
        .collect()
}

/// Runs statements.
pub fn run(connection: &mut PgConnection, statements: &str) {
    connection
        .batch_execute(statements)
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// A text as a literal.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// How many events carry this message id.
pub fn events_with_id(connection: &mut PgConnection, message_id: &str) -> i64 {
    number(
        connection,
        &format!(
            "SELECT count(*) FROM events WHERE message_id = {}",
            quoted(message_id)
        ),
    )
}

/// A key in the database, as its stored form allows: any text may be a key, however short.
pub struct KeyRow<'a> {
    /// The project's number.
    pub project: i64,
    /// `client`, `read` or `admin`.
    pub scope: &'a str,
    /// The secret.
    pub secret: &'a str,
    /// When it expires, as an SQL expression; `NULL` for never.
    pub expires_at: &'a str,
    /// When it was revoked, as an SQL expression; `NULL` for never.
    pub revoked_at: &'a str,
}

impl<'a> KeyRow<'a> {
    /// A good key.
    pub fn good(project: i64, scope: &'a str, secret: &'a str) -> Self {
        Self {
            project,
            scope,
            secret,
            expires_at: "NULL",
            revoked_at: "NULL",
        }
    }

    /// Stores it.
    pub fn insert(&self, connection: &mut PgConnection) {
        let hash: String = Sha256::digest(self.secret.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let prefix: String = self.secret.chars().take(8).collect();
        run(
            connection,
            &format!(
                "INSERT INTO api_keys (project_id, scope, prefix, hash, expires_at, revoked_at)
                 VALUES ({}, {}, {}, '\\x{hash}', {}, {});
                 UPDATE project_revisions SET revision = revision + 1 WHERE project_id = {}",
                self.project,
                quoted(self.scope),
                quoted(&prefix),
                self.expires_at,
                self.revoked_at,
                self.project,
            ),
        );
    }
}

/// The number of the project that the keys of the environment belong to.
pub fn default_project(connection: &mut PgConnection) -> i64 {
    number(connection, "SELECT id FROM projects WHERE name = 'default'")
}

/// Another project, with its number.
pub fn project(connection: &mut PgConnection, name: &str) -> i64 {
    run(
        connection,
        &format!(
            "WITH made AS (INSERT INTO projects (name) VALUES ({}) RETURNING id)
             INSERT INTO project_revisions (project_id) SELECT id FROM made",
            quoted(name)
        ),
    );
    number(
        connection,
        &format!("SELECT id FROM projects WHERE name = {}", quoted(name)),
    )
}

/// Moves what one user sent today so many days back, and since when they are known: the events of this
/// name, which is that of their kind for calls that are no tracks.
pub fn age_events(connection: &mut PgConnection, user: &str, name: &str, days: u32) {
    let day = super::now().date_naive() - chrono::Days::new(days.into());
    for day in [day - chrono::Days::new(1), day] {
        beckon::store::partitions::ensure_day(connection, day).unwrap();
    }
    let (user, name) = (quoted(user), quoted(name));
    run(
        connection,
        &format!(
            "UPDATE events SET received_on = received_on - {days}, \
             received_at = received_at - interval '{days} days' \
             WHERE user_id = {user} AND name = {name} AND received_on = current_date; \
             UPDATE persons SET created_at = least(created_at, now() - interval '{days} days 1 hour') \
             WHERE id IN (SELECT person_id FROM identities WHERE value = {user}); \
             UPDATE identities SET created_at = \
             least(created_at, now() - interval '{days} days 1 hour') WHERE value = {user}"
        ),
    );
}
