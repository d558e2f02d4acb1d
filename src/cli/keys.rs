//! `beckon keys`, and the keys that the settings ask for.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand, ValueEnum};
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection, OptionalExtension, PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::http::auth::{Scope, Secret};
use crate::model::ProjectId;
use crate::store::keys::{NewKey, StoredKey};
use crate::store::{audit, keys, live};

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, output};

/// The most keys that are listed.
const LISTED_MAX: i64 = 10_000;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon keys create --scope client --name 'iOS app'
  KEY=$(beckon keys create --scope admin --json | jq -r .key)
  beckon keys list
  beckon keys revoke 3

A running server learns of a change within five seconds.")]
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
        scope: ScopeName,
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

/// What a key may do, as it is said on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    /// Send events, fetch campaigns, read flags. May be public.
    Client,
    /// Read everything in the project.
    Read,
    /// Everything in the project.
    Admin,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Client => Self::Client,
            ScopeName::Read => Self::Read,
            ScopeName::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Serialize)]
struct Created {
    id: i64,
    key: String,
    scope: &'static str,
}

#[derive(Debug, Serialize)]
struct Listed {
    id: i64,
    name: String,
    scope: String,
    prefix: String,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl From<StoredKey> for Listed {
    fn from(stored: StoredKey) -> Self {
        Self {
            id: stored.id,
            name: stored.name,
            scope: stored.scope,
            prefix: stored.prefix,
            created_at: stored.created_at,
            expires_at: stored.expires_at,
            revoked_at: stored.revoked_at,
        }
    }
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
            let scope = Scope::from(*scope);
            let secret = Secret::generate(scope)?;
            let id = connection.transaction(|connection| {
                insert(connection, project, scope, name, &secret, expires_at)
            })?;
            let created = Created {
                id,
                key: secret.reveal().to_owned(),
                scope: scope.as_str(),
            };
            print_created(&created, json);
        }
        Action::List => {
            let (found, _) = keys::list(&mut connection, project, LISTED_MAX, 0)?;
            let listed: Vec<Listed> = found.into_iter().map(Listed::from).collect();
            print_list(&listed, json);
        }
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
    look_up_project(connection, name)?.ok_or_else(|| no_project(name))
}

/// The project of this name, if there is one.
pub(super) fn look_up_project(
    connection: &mut PgConnection,
    name: &str,
) -> QueryResult<Option<ProjectId>> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let found = sql_query("SELECT id FROM projects WHERE name = $1")
        .bind::<Text, _>(name)
        .get_result::<Row>(connection)
        .optional()?;
    Ok(found.map(|row| ProjectId(row.id)))
}

/// That there is no project of this name.
pub(super) fn no_project(name: &str) -> Failure {
    Failure::new(format!("there is no project named {name}"))
}

/// Makes sure that a key chosen by the operator exists; true when it was created. A revoked one
/// stays revoked.
pub(super) fn ensure(
    connection: &mut PgConnection,
    project: ProjectId,
    scope: Scope,
    key: &str,
) -> QueryResult<bool> {
    let secret = Secret::chosen(key);
    connection.transaction(|connection| {
        // Two nodes that start at once would otherwise both find it absent.
        sql_query("SELECT id FROM projects WHERE id = $1 FOR UPDATE")
            .bind::<BigInt, _>(project.0)
            .execute(connection)?;
        if let Some(found) = keys::find_by_hash(connection, &secret.hash())? {
            let is_as_wanted = found.scope == scope.as_str()
                && found.project_id == project.0
                && found.revoked_at.is_none();
            if !is_as_wanted {
                tracing::warn!(
                    wanted = scope.as_str(),
                    found = found.scope,
                    revoked = found.revoked_at.is_some(),
                    "a key of the settings exists already, differently; it is left as it is"
                );
            }
            return Ok(false);
        }
        insert(
            connection,
            project,
            scope,
            "from the settings",
            &secret,
            None,
        )?;
        Ok(true)
    })
}

/// Stores a key; it belongs in a transaction.
pub(super) fn insert(
    connection: &mut PgConnection,
    project: ProjectId,
    scope: Scope,
    name: &str,
    secret: &Secret,
    expires_at: Option<DateTime<Utc>>,
) -> QueryResult<i64> {
    let now = Clock::system().now();
    let key = NewKey {
        project_id: project.0,
        name,
        scope: scope.as_str(),
        prefix: &secret.prefix(),
        hash: &secret.hash(),
        created_at: now,
        expires_at,
    };
    let id = keys::insert(connection, &key)?.id;
    announce(connection, project, "create", id, now)?;
    Ok(id)
}

fn revoke(connection: &mut PgConnection, project: ProjectId, id: i64) -> QueryResult<bool> {
    let now = Clock::system().now();
    connection.transaction(|connection| {
        let revoked = keys::revoke(connection, project, id, now)?;
        let is_news = revoked.is_some_and(|(_, is_news)| is_news);
        if is_news {
            announce(connection, project, "revoke", id, now)?;
        }
        Ok(is_news)
    })
}

/// Logs a change of a key and lets running servers know.
fn announce(
    connection: &mut PgConnection,
    project: ProjectId,
    action: &str,
    id: i64,
    at: DateTime<Utc>,
) -> QueryResult<()> {
    let change = audit::Change {
        project,
        at,
        actor: "cli",
        action,
        object_kind: "key",
        object_id: &id.to_string(),
        request_id: None,
    };
    audit::record(connection, &change)?;
    live::bump_revision(connection, project.0)?;
    live::notify_change(connection, project.0)
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
                output::printable(&key.name),
            ]
        })
        .collect();
    let headings = [
        "ID", "SCOPE", "KEY", "CREATED", "EXPIRES", "REVOKED", "NAME",
    ];
    output::table(&headings, &rows);
}
