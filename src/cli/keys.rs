//! `beckon keys`, and the keys that the settings ask for.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand, ValueEnum};
use diesel::sql_types::{BigInt, Binary, Nullable, Text, Timestamptz};
use diesel::{Connection, OptionalExtension, PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::config::Config;
use crate::model::ProjectId;

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, output};

/// The public part of a key, in characters.
const PREFIX_CHARS: usize = 12;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon keys create --scope client --name 'iOS app'
  KEY=$(beckon keys create --scope admin --json | jq -r .key)
  beckon keys list
  beckon keys revoke 3

A running server learns of a change within a second.")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    action: Action,
    /// The project, by name.
    #[arg(long, global = true, default_value = "default", value_name = "NAME")]
    project: String,
    /// Print one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it. It is shown this once; the database keeps a hash.
    Create {
        /// What the key may do.
        #[arg(long, value_enum)]
        scope: Scope,
        /// What it is for.
        #[arg(long, default_value = "", value_name = "TEXT")]
        name: String,
        /// After how many days it expires; never, if left out.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
        expires_in_days: Option<u32>,
    },
    /// List the project's keys by their public beginnings.
    List,
    /// Make a key worthless, by its number in the list.
    Revoke {
        /// The number.
        id: i64,
    },
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scope {
    /// Send events, fetch campaigns, read flags. May be public.
    Client,
    /// Read everything in the project.
    Read,
    /// Everything in the project.
    Admin,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

#[derive(Debug, Serialize)]
struct Created {
    id: i64,
    key: String,
    scope: &'static str,
}

#[derive(Debug, Serialize, diesel::QueryableByName)]
struct Listed {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    scope: String,
    #[diesel(sql_type = Text)]
    prefix: String,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    revoked_at: Option<DateTime<Utc>>,
}

pub(super) fn run(config: &Config, arguments: &KeysArgs) -> Outcome {
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = find_project(&mut connection, &arguments.project)?;
    let json = arguments.json;
    match &arguments.action {
        Action::Create {
            scope,
            name,
            expires_in_days,
        } => {
            if name.chars().count() > 200 {
                return Err(Failure::usage("a key's name has at most 200 characters"));
            }
            let expires_at = expires_in_days
                .map(|days| Clock::system().now() + TimeDelta::days(i64::from(days)));
            let key = generate(*scope)?;
            let id = connection.transaction(|connection| {
                insert(connection, project, *scope, name, &key, expires_at)
            })?;
            let created = Created {
                id,
                key,
                scope: scope.as_str(),
            };
            print_created(&created, json);
        }
        Action::List => print_list(&list(&mut connection, project)?, json),
        Action::Revoke { id } => {
            if !revoke(&mut connection, project, *id)? {
                return Err(Failure::new(format!(
                    "the project {} has no key {id} that is not revoked",
                    arguments.project
                )));
            }
            if json {
                output::json(&serde_json::json!({ "revoked": id }));
            } else {
                output::line(format_args!("revoked key {id}"));
            }
        }
    }
    drop(connection);
    database.stop()?;
    Ok(Exit::Done)
}

/// The number of the project of this name.
pub(super) fn find_project(
    connection: &mut PgConnection,
    name: &str,
) -> Result<ProjectId, Failure> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    sql_query("SELECT id FROM projects WHERE name = $1")
        .bind::<Text, _>(name)
        .get_result::<Row>(connection)
        .optional()?
        .map(|row| ProjectId(row.id))
        .ok_or_else(|| Failure::new(format!("there is no project named {name}")))
}

/// A fresh secret: the scope, to tell keys apart at sight, and 160 random bits.
pub(super) fn generate(scope: Scope) -> Result<String, Failure> {
    let mut bytes = [0_u8; 20];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(format!("no random numbers: {error}")))?;
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let start = match scope {
        Scope::Client => "wk_",
        Scope::Read => "rd_",
        Scope::Admin => "adm_",
    };
    Ok(format!("{start}{secret}"))
}

/// Makes sure that a key chosen by the operator exists; true when it was created. A revoked one
/// stays revoked.
pub(super) fn ensure(
    connection: &mut PgConnection,
    project: ProjectId,
    scope: Scope,
    key: &str,
) -> QueryResult<bool> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        scope: String,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        revoked_at: Option<DateTime<Utc>>,
    }
    connection.transaction(|connection| {
        // Two nodes that start at once would otherwise both find it absent.
        sql_query("SELECT id FROM projects WHERE id = $1 FOR UPDATE")
            .bind::<BigInt, _>(project.0)
            .execute(connection)?;
        let found = sql_query("SELECT scope, revoked_at FROM api_keys WHERE hash = $1")
            .bind::<Binary, _>(hash(key))
            .get_result::<Row>(connection)
            .optional()?;
        if let Some(found) = found {
            if found.scope != scope.as_str() || found.revoked_at.is_some() {
                tracing::warn!(
                    wanted = scope.as_str(),
                    found = found.scope,
                    revoked = found.revoked_at.is_some(),
                    "a key of the settings exists already, differently; it is left as it is"
                );
            }
            return Ok(false);
        }
        insert(connection, project, scope, "from the settings", key, None)?;
        Ok(true)
    })
}

fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

/// How much of a key is public: never more than half of it.
fn prefix(key: &str) -> String {
    key.chars()
        .take(PREFIX_CHARS.min(key.chars().count() / 2))
        .collect()
}

fn insert(
    connection: &mut PgConnection,
    project: ProjectId,
    scope: Scope,
    name: &str,
    key: &str,
    expires_at: Option<DateTime<Utc>>,
) -> QueryResult<i64> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let id = sql_query(
        "INSERT INTO api_keys (project_id, name, scope, prefix, hash, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Text, _>(name)
    .bind::<Text, _>(scope.as_str())
    .bind::<Text, _>(prefix(key))
    .bind::<Binary, _>(hash(key))
    .bind::<Nullable<Timestamptz>, _>(expires_at)
    .get_result::<Row>(connection)?
    .id;
    audit(connection, project, "key.create", id)?;
    announce(connection, project)?;
    Ok(id)
}

fn list(connection: &mut PgConnection, project: ProjectId) -> QueryResult<Vec<Listed>> {
    sql_query(
        "SELECT id, name, scope, prefix, created_at, expires_at, revoked_at FROM api_keys \
         WHERE project_id = $1 ORDER BY id",
    )
    .bind::<BigInt, _>(project.0)
    .load(connection)
}

fn revoke(connection: &mut PgConnection, project: ProjectId, id: i64) -> QueryResult<bool> {
    connection.transaction(|connection| {
        let rows = sql_query(
            "UPDATE api_keys SET revoked_at = now() \
             WHERE project_id = $1 AND id = $2 AND revoked_at IS NULL",
        )
        .bind::<BigInt, _>(project.0)
        .bind::<BigInt, _>(id)
        .execute(connection)?;
        if rows == 1 {
            audit(connection, project, "key.revoke", id)?;
            announce(connection, project)?;
        }
        Ok(rows == 1)
    })
}

fn audit(
    connection: &mut PgConnection,
    project: ProjectId,
    action: &str,
    id: i64,
) -> QueryResult<()> {
    sql_query(
        "INSERT INTO audit_log (project_id, at, actor, action, object_kind, object_id) \
         VALUES ($1, now(), 'cli', $2, 'key', $3)",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Text, _>(action)
    .bind::<Text, _>(id.to_string())
    .execute(connection)
    .map(drop)
}

/// Lets running nodes know that something of the project has changed.
pub(super) fn announce(connection: &mut PgConnection, project: ProjectId) -> QueryResult<()> {
    sql_query("UPDATE project_revisions SET revision = revision + 1 WHERE project_id = $1")
        .bind::<BigInt, _>(project.0)
        .execute(connection)?;
    sql_query("SELECT pg_notify('beckon_changes', $1)")
        .bind::<Text, _>(project.0.to_string())
        .execute(connection)
        .map(drop)
}

fn print_created(created: &Created, json: bool) {
    if json {
        output::json(created);
    } else {
        output::note(format_args!(
            "key {} of scope {}; it is shown this once:",
            created.id, created.scope
        ));
        output::line(&created.key);
    }
}

fn print_list(keys: &[Listed], json: bool) {
    if json {
        output::json(&keys);
        return;
    }
    let time = |time: Option<DateTime<Utc>>| {
        time.map_or_else(String::new, |time| time.format("%F %T").to_string())
    };
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            vec![
                key.id.to_string(),
                key.scope.clone(),
                format!("{}…", key.prefix),
                time(Some(key.created_at)),
                time(key.expires_at),
                time(key.revoked_at),
                // A name is free text; a control character must not reach the terminal.
                key.name.escape_debug().to_string(),
            ]
        })
        .collect();
    let headings = [
        "ID", "SCOPE", "KEY", "CREATED", "EXPIRES", "REVOKED", "NAME",
    ];
    output::table(&headings, &rows);
}
