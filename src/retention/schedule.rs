//! Runs retention by the clock, on a thread of its own.
//!
//! Of several nodes one runs a job when it is due: whoever gets the lock of the run. It writes the
//! due time down once the run has succeeded, and whoever gets the lock next reads it; so a run that
//! was cut off, with its node, its connection or the database, is nobody's, and is made up for by
//! whoever looks next. So is one that was due while no node was up, at the start. Partitions
//! are looked after every hour besides, so that even a yearly schedule never runs out of them, and
//! a database that was down or a lock that was taken at the due time is asked for again every minute.
//! Should the clock be set back, what is due is found out anew, as at the start.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use cron::Schedule;
use diesel::sql_types::{Bool, Text, Timestamptz};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};

use super::{
    CLOCK_DIFFERENCE_MAX, Mode, RetentionError, RetentionMetrics, RetentionOptions, under_lock,
    work,
};
use crate::clock::Clock;
use crate::store::{self, partitions};

/// How often the thread looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often partitions are looked after.
const PARTITIONS_EVERY: TimeDelta = TimeDelta::hours(1);

/// How often the partitions are looked at for the metrics.
const SAMPLE_EVERY: TimeDelta = TimeDelta::minutes(1);

/// When a job that failed is tried again.
const RETRY_AFTER: TimeDelta = TimeDelta::minutes(1);

/// What the scheduler needs.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// The database.
    pub url: String,
    /// When to run, in UTC.
    pub schedule: Schedule,
    /// How to run.
    pub retention: RetentionOptions,
    /// What counts.
    pub metrics: RetentionMetrics,
}

/// The running schedule.
#[derive(Debug)]
pub struct Scheduler {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Scheduler {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(options: SchedulerOptions, clock: Clock) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("retention".to_owned())
            .spawn(move || Clockwork::new(options, clock).turn(&stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops the thread within a second, or after a bounded wait when it is in the middle of a
    /// run: what it has done stays done, and its session ends with the process.
    pub fn stop(mut self, patience: Duration) {
        // The thread may have ended by itself, which is as good.
        let _ended_already = self.stop.send(());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let (done, waited) = channel();
        let waiter = std::thread::Builder::new().spawn(move || {
            let outcome = thread.join();
            let _nobody_waits = done.send(outcome.is_ok());
        });
        if waiter.is_err() || waited.recv_timeout(patience) != Ok(true) {
            tracing::warn!("retention was stopped in the middle of a run");
        }
    }
}

/// The thread's own state: when what is due next.
struct Clockwork {
    options: SchedulerOptions,
    clock: Clock,
    /// The time at the last look.
    looked_at: DateTime<Utc>,
    next_run: Option<DateTime<Utc>>,
    /// The due time of a run that is not known to be done, and when to try it again.
    retry: Option<(DateTime<Utc>, DateTime<Utc>)>,
    next_partitions: DateTime<Utc>,
    next_sample: DateTime<Utc>,
}

impl Clockwork {
    fn new(options: SchedulerOptions, clock: Clock) -> Self {
        let now = clock.now();
        // A run that was due while no node was up is made up for; if one was, it is done.
        let missed = options.schedule.after(&now).next_back();
        let ahead_days = options.retention.partitions_ahead_days;
        let metrics = &options.metrics;
        metrics.set_wanted(&options.schedule, ahead_days, now);
        Self {
            next_run: options.schedule.after(&now).next(),
            retry: missed.map(|due| (due, now)),
            next_partitions: now,
            next_sample: now,
            looked_at: now,
            options,
            clock,
        }
    }

    /// A clock that was ahead and is right again would otherwise not reach what it has set for years.
    fn begin_anew_if_set_back(&mut self, now: DateTime<Utc>) {
        if now < self.looked_at {
            tracing::warn!(%now, was = %self.looked_at, "the clock went back; what is due is asked anew");
            *self = Self::new(self.options.clone(), self.clock.clone());
        }
        self.looked_at = now;
    }

    fn turn(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.look();
        }
    }

    fn look(&mut self) {
        let now = self.clock.now();
        self.begin_anew_if_set_back(now);
        if now >= self.next_partitions {
            let started = Instant::now();
            let outcome = self.look_after_partitions();
            let job = self.options.metrics.partitions();
            job.ran(outcome.is_ok(), now, started.elapsed());
            self.next_partitions = now + next_look(outcome);
        }
        if let Some(due) = self.next_run.filter(|due| now >= *due) {
            self.next_run = self.options.schedule.after(&now).next();
            self.retry = None;
            self.attempt(due, now);
        } else if let Some((due, _)) = self.retry.filter(|(_, at)| now >= *at) {
            self.attempt(due, now);
        }
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE_EVERY;
            let started = Instant::now();
            let outcome = self.sample();
            if let Err(error) = &outcome {
                tracing::warn!(%error, "the partitions could not be looked at");
            }
            let job = self.options.metrics.sample();
            job.ran(outcome.is_ok(), now, started.elapsed());
        }
    }

    fn sample(&self) -> Result<(), JobError> {
        let mut connection = store::connect(&self.options.url)?;
        Ok(self.options.metrics.look(&mut connection)?)
    }

    fn attempt(&mut self, due: DateTime<Utc>, now: DateTime<Utc>) {
        match self.run_due(due, now) {
            Ok(()) => self.retry = None,
            // Somebody else's run is as good as ours, if it succeeds and is that of this due time.
            Err(JobError::Retention(RetentionError::Busy)) => {
                tracing::info!("another retention run is going on; it is asked after in a minute");
                self.retry = Some((due, now + RETRY_AFTER));
            }
            Err(error) => {
                tracing::error!(%error, "retention failed; it is tried again in a minute");
                self.retry = Some((due, now + RETRY_AFTER));
            }
        }
    }

    fn run_due(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), JobError> {
        let mut connection = store::connect(&self.options.url)?;
        under_lock(&mut connection, |connection| {
            if is_done(connection, due, now)? {
                return Ok(());
            }
            let started = Instant::now();
            let outcome = work(connection, &self.clock, &self.options.retention, Mode::Run);
            let job = self.options.metrics.retention();
            job.ran(outcome.is_ok(), self.clock.now(), started.elapsed());
            outcome?;
            Ok(note_done(connection, due, now)?)
        })?;
        Ok(())
    }

    fn look_after_partitions(&self) -> Result<(), JobError> {
        let mut connection = store::connect(&self.options.url)?;
        let today = partitions::database_now(&mut connection)?.date_naive();
        let days = self.options.retention.partitions_ahead_days;
        for day in partitions::ensure_ahead(&mut connection, today, days)? {
            tracing::info!(%day, "partition created");
        }
        Ok(())
    }
}

fn next_look(outcome: Result<(), JobError>) -> TimeDelta {
    match outcome {
        Ok(()) => PARTITIONS_EVERY,
        Err(error) => {
            tracing::warn!(%error, "partitions could not be looked after");
            RETRY_AFTER
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Connection(#[from] diesel::result::ConnectionError),
    #[error(transparent)]
    Retention(#[from] RetentionError),
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
}

/// The job's name in `job_runs`.
const JOB: &str = "retention";

/// Whether the run that was due then, or a later one, has succeeded. Asked under the lock. One that
/// is due later than another node's clock may be ahead was noted by a wrong clock, and is none.
fn is_done(
    connection: &mut PgConnection,
    due: DateTime<Utc>,
    now: DateTime<Utc>,
) -> QueryResult<bool> {
    #[derive(diesel::QueryableByName)]
    struct Done {
        #[diesel(sql_type = Bool)]
        done: bool,
    }
    sql_query(
        "SELECT EXISTS (SELECT FROM job_runs \
                        WHERE job = $1 AND due_at BETWEEN $2 AND $3) AS done",
    )
    .bind::<Text, _>(JOB)
    .bind::<Timestamptz, _>(due)
    .bind::<Timestamptz, _>(now + CLOCK_DIFFERENCE_MAX)
    .get_result::<Done>(connection)
    .map(|row| row.done)
}

/// Notes that the run that was due then has succeeded.
fn note_done(
    connection: &mut PgConnection,
    due: DateTime<Utc>,
    started: DateTime<Utc>,
) -> QueryResult<()> {
    sql_query(
        "INSERT INTO job_runs (job, due_at, started_at) VALUES ($1, $2, $3) \
         ON CONFLICT (job) DO UPDATE SET due_at = excluded.due_at, started_at = excluded.started_at",
    )
    .bind::<Text, _>(JOB)
    .bind::<Timestamptz, _>(due)
    .bind::<Timestamptz, _>(started)
    .execute(connection)
    .map(drop)
}
