//! `beckon doctor`: looks at everything durability and the schedule depend on, and says what to do.

mod ledger;
mod schema;
mod server;

use clap::Args;
use diesel::sql_types::{BigInt, Text};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde::Serialize;

use crate::config::{Config, redact_url};
use crate::store::ledger::LEDGER_DAYS;

use super::database::{Database, data_folder};
use super::running;
use super::settings::CommandSettings;
use super::{Exit, Outcome, output};

/// Below this share of the disk a warning is given, and below a fifth of it a failure.
const DISK_FREE_PERCENT_MIN: u64 = 10;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon doctor
  beckon doctor --json | jq -r '.[] | select(.verdict != \"ok\") | .advice'
  beckon doctor --days 30

Each check says ok, warn or fail. The exit code is 1 if any says fail. Of the last days it compares
the ledger with itself (received = stored + duplicate + rejected) and with the tables.")]
pub(super) struct DoctorArgs {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// How many days, today among them, the ledger is compared for.
    #[arg(long, value_name = "DAYS", default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LEDGER_DAYS)))]
    days: u32,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty when it is fine.
    advice: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = match verdict {
            Verdict::Ok => String::new(),
            Verdict::Warn | Verdict::Fail => advice.into(),
        };
        Self {
            name,
            verdict,
            found: found.into(),
            advice,
        }
    }
}

pub(super) fn run(config: &Config, arguments: &DoctorArgs) -> Outcome {
    let checks = examine(config, arguments.days);
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    if arguments.json {
        output::json(&checks);
    } else {
        print(&checks);
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn print(checks: &[Check]) {
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        output::line(format_args!("{verdict}  {}: {}", check.name, check.found));
        if !check.advice.is_empty() {
            output::line(format_args!("      {}", check.advice));
        }
    }
}

fn examine(config: &Config, days: u32) -> Vec<Check> {
    let mut checks = vec![disk(config), queue(config)];
    let opened =
        Database::for_command(config).and_then(|database| Ok((database.connect()?, database)));
    match opened {
        Ok((mut connection, database)) => {
            checks.push(Check::ok("database", redact_url(&database.url)));
            examine_database(&mut connection, config, days, &mut checks);
            drop(connection);
            if let Err(failure) = database.stop() {
                let advice = "look at postgres.log in the data folder";
                checks.push(Check::new(
                    "private Postgres",
                    Verdict::Fail,
                    failure.message,
                    advice,
                ));
            }
        }
        Err(failure) => checks.push(Check::new(
            "database",
            Verdict::Fail,
            failure.message,
            "start Postgres, or set DATABASE_URL to one that runs",
        )),
    }
    checks
}

/// A check of the database.
type DatabaseCheck = fn(&mut PgConnection, &Config) -> QueryResult<Check>;

fn examine_database(
    connection: &mut PgConnection,
    config: &Config,
    days: u32,
    checks: &mut Vec<Check>,
) {
    for (name, check) in server::CHECKS {
        checks.push(check(connection, config).unwrap_or_else(|error| unanswered(name, &error)));
    }
    let migrations = schema::migrations(connection);
    let has_schema = migrations.verdict != Verdict::Fail;
    checks.push(migrations);
    // Without its tables every further question would fail for the same reason.
    if has_schema {
        for (name, check) in schema::CHECKS {
            checks.push(check(connection, config).unwrap_or_else(|error| unanswered(name, &error)));
        }
        ledger::examine(connection, config, days, checks);
    }
}

fn unanswered(name: &'static str, error: &diesel::result::Error) -> Check {
    let advice = "see the database's log";
    Check::new(name, Verdict::Fail, error.to_string(), advice)
}

#[derive(diesel::QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(diesel::QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

/// A server setting as it is for sessions of ours.
pub(super) fn setting(connection: &mut PgConnection, name: &str) -> QueryResult<String> {
    sql_query("SELECT current_setting($1) AS value")
        .bind::<Text, _>(name)
        .get_result::<TextRow>(connection)
        .map(|row| row.value)
}

fn number(connection: &mut PgConnection, query: &str) -> QueryResult<i64> {
    sql_query(query)
        .get_result::<NumberRow>(connection)
        .map(|row| row.value)
}

/// The ingest queue of the server that runs with these settings.
fn queue(config: &Config) -> Check {
    match running::ask(&config.listen) {
        running::Server::Unknown => Check::ok("queue", "not asked: the port is not fixed"),
        running::Server::Absent(address) => Check::ok(
            "queue",
            format!("no server answers at {address}, so nothing waits"),
        ),
        running::Server::Mute(found) => {
            let advice = "look at the server's log; restart it if it hangs";
            Check::new("queue", Verdict::Warn, found, advice)
        }
        running::Server::NotReady(failed) => Check::new(
            "queue",
            Verdict::Warn,
            format!("the server is not ready: {failed}"),
            "look at the other checks and at the server's log",
        ),
        running::Server::Ready {
            queued_events,
            queued_events_max,
        } => {
            let found = format!(
                "{queued_events} of at most {queued_events_max} event(s) in the fullest shard"
            );
            let verdict = if queued_events > queued_events_max / 2 {
                Verdict::Warn
            } else {
                Verdict::Ok
            };
            let advice = "Postgres commits more slowly than events come; look at its disk, or \
                          raise ingest_shards";
            Check::new("queue", verdict, found, advice)
        }
    }
}

/// The disk of the data folder, or of the folder above while there is none.
fn disk(config: &Config) -> Check {
    // Where another server keeps its data cannot be asked, and this machine's disk tells nothing.
    if config.database_url.is_some() {
        return Check::ok(
            "disk",
            "not known: Postgres is one of your own (database_url)",
        );
    }
    let data_dir = data_folder(config);
    let folder = data_dir
        .ancestors()
        .find(|folder| folder.exists() && !folder.as_os_str().is_empty())
        .unwrap_or_else(|| std::path::Path::new("."));
    let stat = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat,
        Err(error) => {
            return Check::new(
                "disk",
                Verdict::Warn,
                error.to_string(),
                "check the data folder",
            );
        }
    };
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    let percent = stat.f_bavail.saturating_mul(100) / stat.f_blocks.max(1);
    let verdict = match percent {
        _ if percent < DISK_FREE_PERCENT_MIN / 5 => Verdict::Fail,
        _ if percent < DISK_FREE_PERCENT_MIN => Verdict::Warn,
        _ => Verdict::Ok,
    };
    let found = format!("{}: {free_mib} MiB free, {percent} %", folder.display());
    let advice = "make room, or shorten the projects' retention and run `beckon retention run`";
    Check::new("disk", verdict, found, advice)
}
