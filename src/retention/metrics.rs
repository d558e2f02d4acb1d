//! What the background jobs count, and what they look up for the metrics: how far the partitions
//! reach and how old the oldest one is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use cron::Schedule;
use diesel::sql_types::{BigInt, Date};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};
use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec};

use super::projects;
use crate::store::partitions;
use crate::telemetry::metrics::{
    DATABASE_SIZE, JOB_DURATION, JOB_RUNS, JOB_SUCCESS, LEDGER_DIFFERENCE, Metrics,
    PARTITION_HORIZON, PARTITIONS_AHEAD, RETENTION_LAG, RETENTION_PAUSE,
};

/// How many runs of a schedule are looked at for the longest pause between two: all of a year's, if
/// there are not that many that the pause is of no matter.
const RUNS_LOOKED_AT: usize = 1_000;

/// The handles of one scheduler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RetentionMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    retention: JobMetrics,
    partitions: JobMetrics,
    sample: JobMetrics,
    horizon: Gauge,
    partitions_ahead: Gauge,
    lag: Gauge,
    pause: Gauge,
    database_size: Gauge,
    ledger_difference: IntGaugeVec,
    seen: Mutex<Seen>,
}

/// What was last seen in the database.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// When the last day ends that has its partition.
    partitions_end: Option<DateTime<Utc>>,
    /// When the oldest partition is due to be dropped.
    oldest_due: Option<DateTime<Utc>>,
}

/// The handles of one job.
#[derive(Debug)]
pub(super) struct JobMetrics {
    ok: IntCounter,
    failed: IntCounter,
    last_success: IntGauge,
    last_duration: Gauge,
}

impl JobMetrics {
    /// A run ended then, after so long.
    pub(super) fn ran(&self, is_ok: bool, at: DateTime<Utc>, took: Duration) {
        if is_ok {
            self.ok.inc();
            self.last_success.set(at.timestamp());
        } else {
            self.failed.inc();
        }
        self.last_duration.set(took.as_secs_f64());
    }
}

impl Default for RetentionMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        Self::new(&Metrics::new())
    }
}

impl RetentionMetrics {
    /// The handles of this process's scheduler.
    pub fn new(metrics: &Metrics) -> Self {
        let runs = metrics.counters(&JOB_RUNS);
        let success = metrics.gauges(&JOB_SUCCESS);
        let duration = metrics.fractions(&JOB_DURATION);
        let job = |name: &str| JobMetrics {
            ok: runs.with_label_values(&[name, "ok"]),
            failed: runs.with_label_values(&[name, "failed"]),
            last_success: success.with_label_values(&[name]),
            last_duration: duration.with_label_values(&[name]),
        };
        Self(Arc::new(Inner {
            retention: job("retention"),
            partitions: job("partitions"),
            sample: job("sample"),
            horizon: metrics.fraction(&PARTITION_HORIZON),
            partitions_ahead: metrics.fraction(&PARTITIONS_AHEAD),
            lag: metrics.fraction(&RETENTION_LAG),
            pause: metrics.fraction(&RETENTION_PAUSE),
            database_size: metrics.fraction(&DATABASE_SIZE),
            ledger_difference: metrics.gauges(&LEDGER_DIFFERENCE),
            seen: Mutex::default(),
        }))
    }

    /// Sets what the settings ask for, which an alert compares with what is.
    pub(super) fn set_wanted(&self, schedule: &Schedule, ahead_days: u32, now: DateTime<Utc>) {
        let ahead = TimeDelta::days(i64::from(ahead_days));
        self.0.partitions_ahead.set(ahead.as_seconds_f64());
        let pause = longest_pause(schedule, now);
        self.0.pause.set(pause.as_seconds_f64());
    }

    pub(super) fn retention(&self) -> &JobMetrics {
        &self.0.retention
    }

    pub(super) fn partitions(&self) -> &JobMetrics {
        &self.0.partitions
    }

    pub(super) fn sample(&self) -> &JobMetrics {
        &self.0.sample
    }

    /// Looks at the partitions, the ledger and the database's size.
    pub(super) fn look(&self, connection: &mut PgConnection) -> QueryResult<()> {
        let today = partitions::database_now(connection)?.date_naive();
        let days: Vec<NaiveDate> = partitions::list(connection)?
            .into_iter()
            .map(|partition| partition.day)
            .collect();
        let longest = projects(connection)?
            .iter()
            .map(|project| project.retention_days)
            .max();
        let size: Size = sql_query("SELECT pg_database_size(current_database()) AS bytes")
            .get_result(connection)?;
        self.0.database_size.set(size.bytes as f64);
        // Of all projects: a metric tells of each.
        let differences: Vec<Difference> = sql_query(
            "SELECT p.id AS project_id, \
                    coalesce(sum(l.received - l.stored - l.duplicate - l.rejected), 0)::bigint \
                        AS events \
             FROM projects p LEFT JOIN ingest_ledger l \
               ON l.project_id = p.id AND l.day >= $1::date - 1 \
             GROUP BY p.id",
        )
        .bind::<Date, _>(today)
        .load(connection)?;
        for Difference { project_id, events } in differences {
            let gauges = &self.0.ledger_difference;
            gauges
                .with_label_values(&[project_id.to_string()])
                .set(events);
        }
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen::of(&days, today, longest);
        Ok(())
    }

    /// Sets the gauges from what was last seen, so that they move on while the database is away.
    pub fn set_gauges(&self, now: DateTime<Utc>) {
        let seen = *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |time: TimeDelta| time.as_seconds_f64();
        if let Some(end) = seen.partitions_end {
            self.0.horizon.set(seconds(end - now));
        }
        if let Some(due) = seen.oldest_due {
            self.0.lag.set(seconds(now - due).max(0.0));
        }
    }
}

/// The longest time between two of the next runs of a schedule.
fn longest_pause(schedule: &Schedule, now: DateTime<Utc>) -> TimeDelta {
    let runs = || schedule.after(&now).take(RUNS_LOOKED_AT);
    let pauses = runs().zip(runs().skip(1)).map(|(one, next)| next - one);
    pauses.max().unwrap_or_default()
}

#[derive(diesel::QueryableByName)]
struct Difference {
    #[diesel(sql_type = BigInt)]
    project_id: i64,
    #[diesel(sql_type = BigInt)]
    events: i64,
}

#[derive(diesel::QueryableByName)]
struct Size {
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

impl Seen {
    /// `days` are those that have their partition; `longest` is the longest retention, in days.
    fn of(days: &[NaiveDate], today: NaiveDate, longest: Option<i32>) -> Self {
        let midnight = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
        let gap = today
            .iter_days()
            .take(days.len() + 1)
            .find(|day| !days.contains(day))
            .unwrap_or(today);
        let oldest = days.iter().min().copied();
        let due = oldest.zip(longest).and_then(|(oldest, longest)| {
            // A day goes once all of it is so old, which is at the next midnight.
            oldest.checked_add_days(Days::new(u64::from(longest.unsigned_abs()) + 1))
        });
        Self {
            partitions_end: Some(midnight(gap)),
            oldest_due: due.map(midnight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 5, number).unwrap_or_default()
    }

    fn midnight(number: u32) -> Option<DateTime<Utc>> {
        Some(day(number).and_time(NaiveTime::MIN).and_utc())
    }

    #[test]
    fn the_horizon_ends_at_the_first_day_without_a_partition() {
        let days = [day(9), day(10), day(11), day(13)];
        assert_eq!(Seen::of(&days, day(10), None).partitions_end, midnight(12));
        assert_eq!(Seen::of(&days, day(12), None).partitions_end, midnight(12));
        assert_eq!(Seen::of(&[], day(12), None).partitions_end, midnight(12));
    }

    #[test]
    fn the_oldest_day_is_due_once_all_of_it_is_past_its_retention() {
        let seen = Seen::of(&[day(3), day(4)], day(4), Some(2));
        assert_eq!(seen.oldest_due, midnight(6));
        assert_eq!(Seen::of(&[], day(4), Some(2)).oldest_due, None);
    }

    #[test]
    fn the_longest_pause_of_a_schedule_is_found() -> Result<(), cron::error::Error> {
        for (text, hours) in [
            ("0 17 3 * * *", 24),
            ("0 0 3 * * Sun", 7 * 24),
            ("0 0 2,4 * * Mon-Fri", 2 * 24 + 22),
            ("0 0 * * 1 *", 334 * 24 + 1),
        ] {
            let pause = longest_pause(&text.parse()?, DateTime::UNIX_EPOCH);
            assert_eq!(pause, TimeDelta::hours(hours), "{text}");
        }
        Ok(())
    }
}
