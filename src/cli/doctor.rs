//! `beckon doctor`: looks at everything durability and the schedule depend on, and says what to do.

mod ledger;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde::Serialize;

use crate::clock::Clock;
use crate::config::{Config, redact_url};
use crate::store::ledger::LEDGER_DAYS;
use crate::store::{migrate, partitions};

use super::database::{Database, data_folder};
use super::running;
use super::settings::CommandSettings;
use super::{Exit, Outcome, output};

/// The oldest Postgres that detaches partitions concurrently.
const POSTGRES_MAJOR_MIN: i64 = 14;

/// What `max_wal_size` of a private Postgres is, in MiB, and what it should be of another.
const LOG_MIB_MIN: i64 = 4_096;

/// Below this share of the disk a warning is given, and below a fifth of it a failure.
const DISK_FREE_PERCENT_MIN: u64 = 10;

/// How long a retention run that is due may wait for a retry and take.
const RETENTION_PATIENCE: TimeDelta = TimeDelta::hours(6);

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

type DatabaseCheck = fn(&mut PgConnection, &Config) -> QueryResult<Check>;

fn examine_database(
    connection: &mut PgConnection,
    config: &Config,
    days: u32,
    checks: &mut Vec<Check>,
) {
    let of_the_server: [(&'static str, DatabaseCheck); 8] = [
        ("version", version),
        ("fsync", |connection, _| {
            must_be_on(connection, "fsync", "a power cut can lose or damage events")
        }),
        ("full_page_writes", |connection, _| {
            must_be_on(
                connection,
                "full_page_writes",
                "a power cut can damage the database",
            )
        }),
        ("synchronous_commit", synchronous_commit),
        ("wal_level", wal_level),
        ("max_wal_size", max_wal_size),
        ("connections", connections),
        ("clock", clock_difference),
    ];
    for (name, check) in of_the_server {
        checks.push(check(connection, config).unwrap_or_else(|error| unanswered(name, &error)));
    }
    let schema = migrations(connection);
    let has_schema = schema.verdict != Verdict::Fail;
    checks.push(schema);
    // Without its tables every further question would fail for the same reason.
    if has_schema {
        let of_the_schema: [(&'static str, DatabaseCheck); 3] = [
            ("partitions", partitions_ahead),
            ("message ids", message_ids),
            ("retention", last_retention),
        ];
        for (name, check) in of_the_schema {
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

fn version(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let major = number(
        connection,
        "SELECT current_setting('server_version_num')::bigint / 10000 AS value",
    )?;
    let text = setting(connection, "server_version")?;
    let verdict = if major >= POSTGRES_MAJOR_MIN {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    let advice = format!("upgrade to Postgres {POSTGRES_MAJOR_MIN} or newer");
    Ok(Check::new("version", verdict, text, advice))
}

fn must_be_on(connection: &mut PgConnection, name: &'static str, risk: &str) -> QueryResult<Check> {
    let value = setting(connection, name)?;
    let verdict = if value == "on" {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    let advice = format!(
        "{risk}; run `ALTER SYSTEM SET {name} = on` and `SELECT pg_reload_conf()` as a superuser"
    );
    Ok(Check::new(name, verdict, value, advice))
}

fn synchronous_commit(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let value = number(
        connection,
        "SELECT count(*) AS value FROM pg_settings WHERE name = 'synchronous_commit' \
         AND reset_val IN ('off', 'local')",
    )?;
    // Beckon's own sessions set it on, so a weaker default harms other clients only.
    let verdict = if value == 0 {
        Verdict::Ok
    } else {
        Verdict::Warn
    };
    let found = "on for Beckon's sessions";
    let advice = "the server's default is weaker, so what other programs write may be lost";
    Ok(Check::new("synchronous_commit", verdict, found, advice))
}

fn wal_level(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let value = setting(connection, "wal_level")?;
    let verdict = if value == "minimal" {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let advice = "with `minimal` there is no replica and no point-in-time recovery; set `replica`";
    Ok(Check::new("wal_level", verdict, value, advice))
}

fn max_wal_size(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let mebibytes = number(
        connection,
        "SELECT setting::bigint AS value FROM pg_settings WHERE name = 'max_wal_size'",
    )?;
    let verdict = if mebibytes < LOG_MIB_MIN {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let found = setting(connection, "max_wal_size")?;
    let advice = "under load Postgres makes checkpoints often, and writes several times as much; \
        if the disk has room, set `max_wal_size` to 4GB and `min_wal_size` to 1GB";
    Ok(Check::new("max_wal_size", verdict, found, advice))
}

fn connections(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let most = number(
        connection,
        "SELECT current_setting('max_connections')::bigint AS value",
    )?;
    let used = number(
        connection,
        "SELECT count(*) AS value FROM pg_stat_activity \
         WHERE backend_type = 'client backend'",
    )?;
    let verdict = if used * 10 > most * 9 {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let advice = "raise max_connections, or lower pool_size and ingest_shards";
    Ok(Check::new(
        "connections",
        verdict,
        format!("{used} of {most}"),
        advice,
    ))
}

fn clock_difference(connection: &mut PgConnection, _: &Config) -> QueryResult<Check> {
    let difference = partitions::database_now(connection)? - Clock::system().now();
    let seconds = difference.num_milliseconds().abs();
    let verdict = match seconds {
        0..5_000 => Verdict::Ok,
        5_000..3_600_000 => Verdict::Warn,
        _ => Verdict::Fail,
    };
    let found = format!(
        "the database's is {} ms off this machine's",
        difference.num_milliseconds()
    );
    let advice = "let NTP set both clocks; retention refuses to run when they are an hour apart";
    Ok(Check::new("clock", verdict, found, advice))
}

fn migrations(connection: &mut PgConnection) -> Check {
    match migrate::pending(connection) {
        Ok(pending) if pending.is_empty() => Check::ok("schema", "up to date"),
        Ok(pending) => Check::new(
            "schema",
            Verdict::Fail,
            format!("{} migration(s) pending", pending.len()),
            "run `beckon migrate up`; the server also does it at its start",
        ),
        Err(error @ migrate::MigrateError::NewerSchema(_)) => Check::new(
            "schema",
            Verdict::Fail,
            error.to_string(),
            "use the beckon that wrote it, or a newer one",
        ),
        Err(error) => Check::new(
            "schema",
            Verdict::Fail,
            error.to_string(),
            "see the database's log",
        ),
    }
}

fn partitions_ahead(connection: &mut PgConnection, config: &Config) -> QueryResult<Check> {
    let today = partitions::database_now(connection)?.date_naive();
    let days = partitions::list(connection)?;
    let ahead = (0_u64..)
        .zip(today.iter_days())
        .take_while(|(_, day)| days.iter().any(|partition| partition.day == *day))
        .count();
    let leftovers = partitions::leftovers(connection)?.len();
    let verdict = match ahead {
        0 => Verdict::Fail,
        1 => Verdict::Warn,
        _ if leftovers > 0 => Verdict::Warn,
        _ => Verdict::Ok,
    };
    let found = format!(
        "{} in all; {ahead} from today on without a gap, {leftovers} half dropped",
        days.len()
    );
    let advice = format!(
        "events of a day without a partition cannot be stored; a running server creates {} days \
         ahead every hour, `beckon retention run` does it now and finishes drops",
        config.partitions_ahead_days
    );
    Ok(Check::new("partitions", verdict, found, advice))
}

#[derive(diesel::QueryableByName)]
struct TimeRow {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    value: Option<DateTime<Utc>>,
}

fn message_ids(connection: &mut PgConnection, config: &Config) -> QueryResult<Check> {
    let rotated = sql_query("SELECT rotated_at AS value FROM message_buckets")
        .get_result::<TimeRow>(connection)?
        .value;
    let age = rotated.map_or(TimeDelta::zero(), |at| Clock::system().now() - at);
    let window = TimeDelta::days(i64::from(config.dedupe_window_days));
    let verdict = if age > window + TimeDelta::days(2) {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let found = format!("the current bucket is {} h old", age.num_hours());
    let advice = "they are kept longer than needed because retention does not run; see there";
    Ok(Check::new("message ids", verdict, found, advice))
}

fn last_retention(connection: &mut PgConnection, config: &Config) -> QueryResult<Check> {
    let last = sql_query("SELECT max(started_at) AS value FROM job_runs WHERE job = 'retention'")
        .get_result::<TimeRow>(connection)?
        .value;
    let overdue = overdue_since(config, Clock::system().now());
    let shown = |at: DateTime<Utc>| at.format("%F %T UTC");
    let (verdict, found) = match (last, overdue) {
        (None, _) => (
            Verdict::Warn,
            "no run by its schedule has succeeded yet".to_owned(),
        ),
        (Some(at), Some(due)) if at < due => (
            Verdict::Warn,
            format!(
                "last ran {}, and not since it was due {}",
                shown(at),
                shown(due)
            ),
        ),
        (Some(at), _) => (Verdict::Ok, format!("last ran {}", shown(at))),
    };
    let advice = "it runs while a server runs, whose log says why if it fails; \
                  `beckon retention run` does it now";
    Ok(Check::new("retention", verdict, found, advice))
}

/// When the last run was due that should be over by now.
fn overdue_since(config: &Config, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let schedule: cron::Schedule = config.retention_schedule.parse().ok()?;
    schedule.after(&(now - RETENTION_PATIENCE)).next_back()
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
