//! What is in the database: its schema, its partitions, and what retention has done.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::sql_types::{Nullable, Timestamptz};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::{Check, DatabaseCheck, Verdict};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{migrate, partitions};

/// How long a retention run that is due may wait for a retry and take.
const RETENTION_PATIENCE: TimeDelta = TimeDelta::hours(6);

/// What is looked at where there is a schema.
pub(super) const CHECKS: [(&str, DatabaseCheck); 3] = [
    ("partitions", partitions_ahead),
    ("message ids", message_ids),
    ("retention", last_retention),
];

/// Whether the schema is that of this binary.
pub(super) fn migrations(connection: &mut PgConnection) -> Check {
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
