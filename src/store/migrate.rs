//! Brings a database to the schema of this binary, one node at a time, beside nodes of the version
//! before that still write. Whoever waits for the lock of a table makes all of its writers queue
//! behind it, so each migration waits for its locks briefly and is tried again.

use diesel::connection::SimpleConnection;
use diesel::migration::MigrationSource;
use diesel::pg::{Pg, PgConnection};
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryResult, RunQueryDsl, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::is_transient;
use super::partitions::{LOCK_WAIT_MS, retried};

/// Every migration, compiled into the binary. Each has a `down.sql`.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// The advisory lock that one migrating node holds.
const MIGRATION_LOCK: i64 = 0x6265_636b_6f6e_0001;

/// Why a database could not be brought to this binary's schema.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database has migrations this binary does not know: a newer Beckon wrote it.
    #[error(
        "the database schema is newer than this binary (it has migration {0}); \
         run the version of beckon that migrated it, or a newer one"
    )]
    NewerSchema(String),
    /// A migration failed; it was rolled back.
    #[error("migration failed: {0}")]
    Failed(String),
    /// A migration could not be done now, for want of its locks or of the database; it was rolled
    /// back, and may be done later.
    #[error("migration not possible now: {0}")]
    NotNow(String),
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
}

/// Runs what is pending and returns the versions that were run. Waits for another node that is
/// migrating.
pub fn migrate(connection: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
    under_lock(connection, |connection| {
        refuse_newer(connection)?;
        let pending = connection.pending_migrations(MIGRATIONS).map_err(failed)?;
        let mut versions = Vec::with_capacity(pending.len());
        for migration in pending {
            let version = with_short_locks(|| connection.run_migration(&migration))?;
            versions.push(version.to_string());
        }
        Ok(versions)
    })
}

/// Tries a migration until it gets its locks.
fn with_short_locks<T>(
    mut attempt: impl FnMut() -> Result<T, BoxedError>,
) -> Result<T, MigrateError> {
    let logged = || attempt().inspect_err(|error| tracing::warn!(%error, "a migration failed"));
    retried(logged, |error| error.to_string().contains("lock timeout")).map_err(failed)
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// What the library gives is the database's own error, or one that has its text.
fn failed(error: BoxedError) -> MigrateError {
    match error.downcast::<diesel::result::Error>() {
        Ok(error) => MigrateError::Database(*error),
        Err(error) if is_transient(&error.to_string()) => MigrateError::NotNow(error.to_string()),
        Err(error) => MigrateError::Failed(error.to_string()),
    }
}

/// Undoes the newest migration and returns its version; nothing when none has run.
pub fn revert_newest(connection: &mut PgConnection) -> Result<Option<String>, MigrateError> {
    under_lock(connection, |connection| {
        refuse_newer(connection)?;
        let applied = connection.applied_migrations().map_err(failed)?;
        if applied.is_empty() {
            return Ok(None);
        }
        with_short_locks(|| connection.revert_last_migration(MIGRATIONS))
            .map(|version| Some(version.to_string()))
    })
}

#[derive(diesel::QueryableByName)]
struct Timeouts {
    #[diesel(sql_type = Text)]
    statement: String,
    #[diesel(sql_type = Text)]
    lock: String,
}

/// Does the work while no other node migrates. Waiting for that node and the work itself may take
/// longer than the session's statements usually may; the locks of tables may not.
fn under_lock<T>(
    connection: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    let usual: Timeouts = sql_query(
        "SELECT current_setting('statement_timeout') AS statement, \
         current_setting('lock_timeout') AS lock",
    )
    .get_result(connection)?;
    connection.batch_execute("SET statement_timeout = 0; SET lock_timeout = 0")?;
    sql_query("SELECT pg_advisory_lock($1)")
        .bind::<BigInt, _>(MIGRATION_LOCK)
        .execute(connection)?;
    connection.batch_execute(&format!("SET lock_timeout = {LOCK_WAIT_MS}"))?;
    let outcome = work(connection);
    // Lock and settings belong to the session, so a failure to give them back ends with it.
    let released = connection
        .batch_execute(&format!("SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
        .and_then(|()| set(connection, "statement_timeout", &usual.statement))
        .and_then(|()| set(connection, "lock_timeout", &usual.lock));
    let value = outcome?;
    released?;
    Ok(value)
}

fn set(connection: &mut PgConnection, name: &str, value: &str) -> QueryResult<()> {
    sql_query("SELECT set_config($1, $2, false)")
        .bind::<Text, _>(name)
        .bind::<Text, _>(value)
        .execute(connection)
        .map(drop)
}

/// The versions that are pending, oldest first; refuses a schema that is newer than the binary.
pub fn pending(connection: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
    refuse_newer(connection)?;
    connection
        .pending_migrations(MIGRATIONS)
        .map(|list| {
            list.iter()
                .map(|migration| migration.name().version().to_string())
                .collect()
        })
        .map_err(failed)
}

fn refuse_newer(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let known: Vec<String> = MigrationSource::<Pg>::migrations(&MIGRATIONS)
        .map_err(failed)?
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    let applied = connection.applied_migrations().map_err(failed)?;
    match applied
        .iter()
        .map(ToString::to_string)
        .find(|version| !known.contains(version))
    {
        Some(version) => Err(MigrateError::NewerSchema(version)),
        None => Ok(()),
    }
}
