//! Change broadcast between the nodes of one database: LISTEN/NOTIFY to be quick, a poll of
//! revisions to be sure.
//!
//! A notification is a wake-up, never the truth. The hub knows nothing of what changed beyond a
//! project's number; whoever listens reads the database. It owns one connection and one thread,
//! since the driver's notification iterator does not block and has to be polled.
//!
//! The same connection shows that the node is there and counts the others ([`nodes`]).

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use crate::store::{self, nodes, nodes::NodeId};

/// What the hub tells its listener, together with the hub's connection for the reads it calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// The connection is there, for the first time or again; anything may have changed meanwhile.
    Connected {
        /// How many other nodes there are.
        other_nodes: i64,
        /// From when to when they were counted.
        counted: Range<Instant>,
    },
    /// A project's campaigns, segments, flags or keys changed.
    Changed(i64),
    /// People of a project were changed behind the nodes' backs (an import).
    PeopleChanged(i64),
    /// Time to compare revisions.
    Poll {
        /// How many other nodes there are.
        other_nodes: i64,
        /// From when to when they were counted.
        counted: Range<Instant>,
    },
}

/// How the hub behaves.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The database.
    pub url: String,
    /// How often revisions are compared and nodes are counted.
    pub poll: Duration,
    /// This node's number.
    pub node: NodeId,
    /// Set by whoever cannot wait for the next poll.
    pub hurry: Arc<AtomicBool>,
}

/// How often the driver is asked for notifications.
const NOTIFICATION_POLL: Duration = Duration::from_millis(50);
/// How long to wait before connecting again.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// The channel that changes are announced on.
pub const CHANNEL: &str = "beckon_changes";

/// The thread that listens, until this value is dropped or stopped.
#[derive(Debug)]
#[must_use = "the thread ends when this is dropped"]
pub struct Hub {
    /// Nothing is ever sent: dropping it wakes the thread to end.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Hub {
    /// Starts listening. A signal whose handling fails (or panics) is repeated as `Connected` after
    /// the connection was made anew. `on_lost` is called whenever the connection is lost and at the
    /// end: from then until `Connected` nobody knows what other nodes do, nor do they know of this
    /// one.
    pub fn start<F, L>(
        options: HubOptions,
        mut on_signal: F,
        mut on_lost: L,
    ) -> std::io::Result<Self>
    where
        F: FnMut(Signal, &mut PgConnection) -> QueryResult<()> + Send + 'static,
        L: FnMut() + Send + 'static,
    {
        let (stop, stopping) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("beckon-hub".to_owned())
            .spawn(move || {
                let mut listen = || {
                    let listen = || listen(&options, &stopping, &mut on_signal);
                    std::panic::catch_unwind(AssertUnwindSafe(listen))
                        .unwrap_or_else(|_| Err("a signal's handling panicked".to_owned()))
                };
                while let Err(reason) = listen() {
                    on_lost();
                    tracing::warn!(reason, "change broadcast has no connection");
                    if is_stopped(&stopping, RECONNECT_DELAY) {
                        break;
                    }
                }
                on_lost();
            })?;
        Ok(Self { stop, thread })
    }

    /// Asks the thread to end. It may be stuck in a call to a stopped database, so it is not
    /// waited for unless it is done.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.is_finished() && self.thread.join().is_err() {
            tracing::error!("the hub's thread panicked");
        }
    }
}

/// Waits so long unless the hub is stopped meanwhile.
fn is_stopped(stop: &Receiver<()>, wait: Duration) -> bool {
    !matches!(stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

/// Returns when the hub is stopped, or with the reason when the connection is of no more use.
fn listen<F>(options: &HubOptions, stop: &Receiver<()>, on_signal: &mut F) -> Result<(), String>
where
    F: FnMut(Signal, &mut PgConnection) -> QueryResult<()>,
{
    let mut connection = store::connect(&options.url).map_err(|error| error.to_string())?;
    let text = |error: diesel::result::Error| error.to_string();
    connection
        .batch_execute(&format!("LISTEN {CHANNEL}"))
        .and_then(|()| nodes::join(&mut connection, options.node))
        .map_err(text)?;
    let (others, counted) = count(&mut connection, options.node).map_err(text)?;
    on_signal(
        Signal::Connected {
            other_nodes: others,
            counted,
        },
        &mut connection,
    )
    .map_err(text)?;
    let mut polled_at = Instant::now();
    while !is_stopped(stop, NOTIFICATION_POLL) {
        let mut signals: Vec<Signal> = Vec::new();
        for notification in connection.notifications_iter() {
            let notification = notification.map_err(text)?;
            match parse(&notification.payload) {
                Some(signal) if signals.contains(&signal) => {}
                Some(signal) => signals.push(signal),
                None => tracing::warn!(payload = notification.payload, "unknown notification"),
            }
        }
        if options.hurry.swap(false, Ordering::AcqRel) || polled_at.elapsed() >= options.poll {
            polled_at = Instant::now();
            let (others, counted) = count(&mut connection, options.node).map_err(text)?;
            signals.push(Signal::Poll {
                other_nodes: others,
                counted,
            });
        }
        for signal in signals {
            on_signal(signal, &mut connection).map_err(text)?;
        }
    }
    Ok(())
}

/// The other nodes, and from when to when they were counted.
fn count(connection: &mut PgConnection, node: NodeId) -> QueryResult<(i64, Range<Instant>)> {
    let began = Instant::now();
    let others = nodes::others(connection, node)?;
    Ok((others, began..Instant::now()))
}

/// A payload is a project's number, followed by ` people` when people changed.
fn parse(payload: &str) -> Option<Signal> {
    match payload.split_once(' ') {
        None => payload.parse().ok().map(Signal::Changed),
        Some((project, "people")) => project.parse().ok().map(Signal::PeopleChanged),
        Some(_) => None,
    }
}
