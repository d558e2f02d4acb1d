//! `beckon serve`, and what it shares with the demo: the life of a server from its listener to its
//! end.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

use actix_web::rt::System;
use diesel::PgConnection;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::{Config, Mode};
use crate::http::{self, AppState, Serving};
use crate::retention::{RetentionMetrics, SchedulerOptions};

use super::compose::compose;
use super::database::Database;
use super::prepare::{Preparation, Preparing, Unprepared, prepare};
use super::signals::{Signals, Stops, Told};
use super::{Exit, Failure, Outcome, output, retention};

/// How long ingest may take to write what waits, once no request is in flight any more.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the threads that watch the database may take to end.
const THREADS_TIMEOUT: Duration = Duration::from_millis(500);

/// How many connections may wait to be accepted; the kernel has a limit of its own too.
const BACKLOG: i32 = 1024;

/// How often it is looked whether the preparation has failed for good.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn serve(config: &Config) -> Outcome {
    let signals = Signals::listen(Told::Server)?;
    // A port that is taken is found before a Postgres is started.
    let listeners = Listeners::bind(config)?;
    let database = Database::for_server(config, &signals)?;
    let prepared = if database.is_private() {
        match prepare(config, &database.url) {
            Ok(connection) => Some(connection),
            Err(Unprepared::NotYet(reason)) => return Err(Failure::new(reason)),
            Err(Unprepared::Never(failure)) => return Err(failure),
        }
    } else {
        // A database of one's own may be away, or large, so that a migration takes its time.
        // Meanwhile whoever asks hears that the server lives and is not ready.
        None
    };
    let server = Server {
        config,
        signals,
        database,
        listeners,
        mode: Mode::Normal,
    };
    server.run(prepared, |_| {})
}

/// Lets this process open as many files as it may: each connection takes two, and the usual soft
/// limit of 1,024 is far below the number of connections a server holds.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// The addresses a server listens at.
pub(super) struct Listeners {
    /// Where it serves.
    main: TcpListener,
    /// Where the metrics are scraped, if they have an address of their own.
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Takes the addresses of the settings.
    pub(super) fn bind(config: &Config) -> Result<Self, Failure> {
        let metrics = config.metrics_listen.as_deref();
        Ok(Self {
            main: bind(&config.listen)?,
            metrics: metrics.map(bind).transpose()?,
        })
    }
}

/// Takes the address.
fn bind(address: &str) -> Result<TcpListener, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot listen on {address}: {error}"))
    };
    let addresses: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| failed(&error))?
        .collect();
    let listener = TcpListener::bind(addresses.as_slice()).map_err(|error| failed(&error))?;
    // The standard library asks for 128, and what comes at once beyond that would have to knock again
    // a second later. The kernel takes the new number for a socket that listens already.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(&error))?;
    Ok(listener)
}

/// What a server needs to run.
pub(super) struct Server<'a> {
    pub(super) config: &'a Config,
    pub(super) signals: Signals,
    pub(super) database: Database,
    pub(super) listeners: Listeners,
    pub(super) mode: Mode,
}

impl Server<'_> {
    /// Serves until a signal comes, then stops everything in its order: no new calls, those in
    /// flight finish, what waits is written, the private Postgres stops.
    pub(super) fn run(
        self,
        prepared: Option<PgConnection>,
        greet: impl FnOnce(SocketAddr),
    ) -> Outcome {
        let Self {
            config,
            signals,
            database,
            listeners,
            mode,
        } = self;
        raise_open_files();
        let state = compose(config, &database.url, mode)?;
        let jobs = RetentionMetrics::new(&state.metrics);
        state.metrics.before_each_scrape({
            let (jobs, clock) = (jobs.clone(), state.clock.clone());
            move || jobs.set_gauges(clock.now())
        });
        let preparation = Preparation {
            config: config.clone(),
            url: database.url.clone(),
            store: state.store.clone(),
            targeting: state.targeting.clone(),
            readiness: state.readiness.clone(),
            schedule: SchedulerOptions {
                url: database.url.clone(),
                schedule: config
                    .retention_schedule
                    .parse()
                    .map_err(|error| Failure::usage(format!("retention_schedule: {error}")))?,
                retention: retention::options(config),
                metrics: jobs,
            },
            clock: state.clock.clone(),
        };
        let preparing = preparation.start(prepared)?;
        let (supervised, stops) = database.supervise(&signals)?;
        let ended = System::new().block_on(serve_until_signal(
            config,
            state.clone(),
            listeners,
            stops,
            &preparing,
            greet,
        ));
        if !state.ingest.close(FLUSH_TIMEOUT) {
            // None of it was acknowledged; the callers have been told to try again.
            tracing::warn!("ingest was stopped before everything that waited was written");
        }
        preparing.stop(THREADS_TIMEOUT);
        // Its connections would make a private Postgres wait for them.
        drop(state);
        let stopped = supervised.stop();
        ended?;
        stopped?;
        tracing::info!("stopped");
        Ok(Exit::Done)
    }
}

async fn serve_until_signal(
    config: &Config,
    state: AppState,
    listeners: Listeners,
    mut stops: Stops,
    preparing: &Preparing,
    greet: impl FnOnce(SocketAddr),
) -> Result<(), Failure> {
    let readiness = state.readiness.clone();
    let targeting = state.targeting.clone();
    let metrics = state.metrics.clone();
    let scraped = listeners
        .metrics
        .map(|listener| http::serve_metrics(metrics, listener))
        .transpose()?;
    let Serving {
        address,
        handle,
        server,
    } = http::serve(state, listeners.main)?;
    let serving = actix_web::rt::spawn(server);
    let scraped = match scraped {
        Some(scraped) => {
            output::line(format_args!(
                "metrics on http://{}/metrics",
                scraped.address
            ));
            Some((scraped.handle, actix_web::rt::spawn(scraped.server)))
        }
        None => None,
    };
    let life = async {
        // The first snapshot takes a moment, and a caller who was told the address may call now.
        let until = Instant::now() + config.database_deadline;
        let is_starting = || !targeting.is_ready() || readiness.blocked().is_some();
        while is_starting() && !preparing.is_waiting() && Instant::now() < until {
            if let Some(failure) = preparing.failure() {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        output::line(format_args!("listening on http://{address}"));
        greet(address);
        Err(failed(preparing).await)
    };
    let outcome = tokio::select! {
        () = stops.next() => Ok(()),
        failure = life => failure,
    };
    tracing::info!("stopping: no new calls; those in flight finish");
    readiness.start_shutdown();
    let graceful = tokio::time::timeout(config.shutdown_timeout, handle.stop(true));
    tokio::select! {
        finished = graceful => if finished.is_err() {
            tracing::warn!("some calls did not finish in time");
        },
        () = stops.next() => {
            tracing::warn!("told to stop again; calls in flight are cut");
        }
    }
    serving.abort();
    if let Some((handle, scraping)) = scraped {
        handle.stop(false).await;
        scraping.abort();
    }
    outcome
}

/// Ends when the database turns out to be one that this binary cannot serve.
async fn failed(preparing: &Preparing) -> Failure {
    loop {
        if let Some(failure) = preparing.failure() {
            return failure;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
