//! The signals that tell this process to end: SIGTERM, SIGINT and SIGHUP.
//!
//! They are heard from before a private Postgres is started, which has a process group of its own
//! and would outlive this process. Until a server serves, and in every other command, the first
//! signal stops the Postgres and ends the process, whatever it is at: it may wait for the database
//! for long, and whatever it does there bears being cut. A serving server ends by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::embedded_pg::{EmbeddedError, EmbeddedPostgres};

use super::Failure;

/// Whom the signals tell to end, which decides what a process that they end exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// A server, which was told so in good order: it is done.
    Server,
    /// Anything else: its work is not done, as a shell would put it.
    Command,
}

/// The signals of this process. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Signals(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    told: Told,
    /// Ends a start of the private Postgres.
    stop: Arc<AtomicBool>,
    /// Locked while the private Postgres starts or stops, and from a signal on until the process
    /// has ended: whoever wants to stop what is being stopped waits for that.
    state: Mutex<State>,
    /// How many signals came while a server served.
    count: watch::Sender<u32>,
}

#[derive(Debug, Default)]
struct State {
    postgres: Option<EmbeddedPostgres>,
    is_serving: bool,
}

impl Signals {
    /// Hears the signals from now on.
    pub(super) fn listen(told: Told) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let heard = Heard::new(&runtime)?;
        let signals = Self(Arc::new(Shared {
            told,
            stop: Arc::default(),
            state: Mutex::default(),
            count: watch::Sender::new(0),
        }));
        let shared = Arc::clone(&signals.0);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(shared.obey(heard)))?;
        Ok(signals)
    }

    /// Starts a private Postgres, to be stopped by a signal too. The start is to end when the flag
    /// that it gets is set.
    pub(super) fn hold(
        &self,
        start: impl FnOnce(&Arc<AtomicBool>) -> Result<EmbeddedPostgres, EmbeddedError>,
    ) -> Result<Held, EmbeddedError> {
        let mut state = self.0.lock();
        match start(&self.0.stop) {
            Ok(postgres) => {
                state.postgres = Some(postgres);
                drop(state);
                Ok(Held(self.clone()))
            }
            Err(EmbeddedError::Stopped) => {
                drop(state);
                // The thread that hears the signals ends the process now.
                loop {
                    std::thread::park();
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Hands over what a server looks after by itself from now on: the private Postgres, if there
    /// is one, and the signals.
    pub(super) fn serve(&self) -> (Option<EmbeddedPostgres>, Stops) {
        let mut state = self.0.lock();
        state.is_serving = true;
        let stops = Stops {
            count: self.0.count.subscribe(),
            _sender: self.clone(),
        };
        (state.postgres.take(), stops)
    }
}

impl Shared {
    /// Each change of the state is one assignment, so a panic elsewhere has left it good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn obey(&self, mut heard: Heard) {
        loop {
            let number = heard.next().await;
            self.stop.store(true, Ordering::Release);
            let mut state = self.lock();
            if state.is_serving {
                self.count.send_modify(|count| *count += 1);
                continue;
            }
            if let Some(postgres) = state.postgres.take()
                && let Err(error) = postgres.stop()
            {
                tracing::error!(%error, "could not stop PostgreSQL");
            }
            tracing::info!(signal = number, "stopped");
            let exit = match self.told {
                Told::Server => 0,
                Told::Command => 128 + number,
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "the private Postgres is stopped, and who waits for the database would not end"
            )]
            std::process::exit(exit);
        }
    }
}

/// A private Postgres that stops when this is dropped, or by a signal before.
#[derive(Debug)]
#[must_use = "the private Postgres stops when this is dropped"]
pub(super) struct Held(Signals);

impl Held {
    /// Stops it.
    pub(super) fn stop(self) -> Result<(), EmbeddedError> {
        let mut state = self.0.0.lock();
        state.postgres.take().map_or(Ok(()), EmbeddedPostgres::stop)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        drop(state.postgres.take());
    }
}

/// The signals to a server that serves.
#[derive(Debug)]
pub(super) struct Stops {
    count: watch::Receiver<u32>,
    /// As long as it is there, the count goes on.
    _sender: Signals,
}

impl Stops {
    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        let _sender_is_there = self.count.changed().await;
    }
}

/// The streams of the signals.
struct Heard {
    terminate: Signal,
    interrupt: Signal,
    /// Nothing where the end of a terminal is to be survived.
    hangup: Option<Signal>,
}

impl Heard {
    fn new(runtime: &Runtime) -> std::io::Result<Self> {
        let _context = runtime.enter();
        let hangup = SignalKind::hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: (!is_ignored(hangup)).then(|| signal(hangup)).transpose()?,
        })
    }

    /// The number of the next signal.
    async fn next(&mut self) -> i32 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = hangup => SignalKind::hangup().as_raw_value(),
        }
    }
}

/// Whether whoever started this process wants it to ignore this signal, as `nohup` does. Where that
/// cannot be told it is left as it is.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}
