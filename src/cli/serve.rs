//! `beckon serve`: runs the server until it is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_web::rt::System;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::compose::compose;
use super::database::Database;
use super::prepare::{Running, prepare};
use super::{Exit, Failure, Outcome, output};
use crate::config::{Config, Mode};
use crate::http::{self, AppState};

/// How long listening waits for the first look at the database.
const FIRST_LOOK: Duration = Duration::from_secs(15);

/// How long the shards may take to write what waits, after the last request was answered.
const FLUSH: Duration = Duration::from_secs(3);

/// How long the retention thread may take to end.
const THREADS: Duration = Duration::from_secs(1);

/// Runs the server.
pub(super) fn serve(config: &Config) -> Outcome {
    run(config, Mode::Normal, |_, _| Ok(()))
}

/// Runs the server; `once_ready` is called with its address when the database is prepared, and its
/// failure stops the server.
pub(super) fn run(
    config: &Config,
    mode: Mode,
    once_ready: impl FnOnce(SocketAddr, &AppState) -> Result<(), Failure> + Send + 'static,
) -> Outcome {
    let listener = TcpListener::bind(&config.listen)
        .map_err(|error| Failure::new(format!("cannot listen on {}: {error}", config.listen)))?;
    let database = Database::for_server(config)?;
    let served = with_database(config, mode, &database.url, listener, once_ready);
    let stopped = database.stop();
    served?;
    stopped?;
    Ok(Exit::Done)
}

fn with_database(
    config: &Config,
    mode: Mode,
    url: &str,
    listener: TcpListener,
    once_ready: impl FnOnce(SocketAddr, &AppState) -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let state = compose(config, mode, url)?.state;
    let address = listener.local_addr()?;
    let preparation = Preparation::start(config, &state, address, once_ready)?;
    let served = System::new().block_on(listen(state.clone(), listener, preparation.failed));
    let started = Instant::now();
    drop(preparation.stop);
    if !state.ingest.close(FLUSH) {
        tracing::warn!("the shards did not finish; what was not committed was not acknowledged");
    }
    match finish(preparation.thread, THREADS) {
        Some(Ok(Some(running))) => running.stop(THREADS),
        Some(Ok(None)) => {}
        Some(Err(failure)) => return Err(failure),
        None => tracing::warn!("the database still does not answer; going without it"),
    }
    tracing::info!(flush_ms = started.elapsed().as_millis(), "stopped");
    served
}

/// The thread that prepares the database.
struct Preparation {
    thread: JoinHandle<Result<Option<Running>, Failure>>,
    /// Dropping it ends the waiting for a database.
    stop: Sender<()>,
    /// Resolves when the preparation failed for good.
    failed: oneshot::Receiver<()>,
}

impl Preparation {
    /// Starts it, and returns once it has looked at the database for the first time.
    fn start(
        config: &Config,
        state: &AppState,
        address: SocketAddr,
        once_ready: impl FnOnce(SocketAddr, &AppState) -> Result<(), Failure> + Send + 'static,
    ) -> Result<Self, Failure> {
        let (stop, stopped) = channel();
        let (tried, first_try) = channel();
        let (fail, failed) = oneshot::channel();
        let (config, state) = (config.clone(), state.clone());
        let thread = std::thread::Builder::new()
            .name("beckon-prepare".to_owned())
            .spawn(move || {
                let outcome = prepare(&config, &state, &stopped, &tried).and_then(|running| {
                    if running.is_some() {
                        once_ready(address, &state)?;
                    }
                    Ok(running)
                });
                if outcome.is_err() {
                    let _nobody_listens_any_more = fail.send(());
                }
                outcome
            })?;
        // A database that does not even refuse leaves this to the time limit.
        let _tried_or_not = first_try.recv_timeout(FIRST_LOOK);
        Ok(Self {
            thread,
            stop,
            failed,
        })
    }
}

async fn listen(
    state: AppState,
    listener: TcpListener,
    failed: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let serving = http::serve(state.clone(), listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    output::line(format_args!("listening on http://{}", serving.address));
    let mut server = serving.server;
    tokio::select! {
        outcome = &mut server => return Ok(outcome?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Ok(()) = failed => {}
    }
    tracing::info!("stopping: finishing what is in flight");
    state.readiness.start_shutdown();
    let stopping = serving.handle.stop(true);
    let (outcome, ()) = tokio::join!(server, stopping);
    Ok(outcome?)
}

/// Waits for a thread to end, so long; `None` when it did not, or panicked.
fn finish<T: Send + 'static>(thread: JoinHandle<T>, patience: Duration) -> Option<T> {
    let (done, ended) = channel();
    std::thread::Builder::new()
        .spawn(move || {
            let _nobody_waits = done.send(thread.join().ok());
        })
        .ok()?;
    ended.recv_timeout(patience).ok().flatten()
}
