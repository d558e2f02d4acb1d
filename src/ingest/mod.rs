//! From bytes of a request to rows that are committed: decode, admission, per-person order, group
//! commit and the ledger of rejected events.
//!
//! # Shards
//!
//! Each person belongs to one shard, by the home hash stored with the person (the hash of the first
//! identity the person was seen with). A shard is one thread with one connection: it takes whatever
//! waits, and that is a batch; a batch is a transaction. While one batch commits the next one
//! gathers, so batches grow with the load and an idle server adds no delay. What is too much for one
//! turn of the shard is done in several, with other callers' in between; what is little may be written
//! by a neighbour, with its own (see `queue`).
//!
//! A batch claims its message ids first. Only then does it apply the events, one after the other,
//! to the state of their people, so a duplicate has no effect to be taken back, and no provisional
//! state outlives its transaction: the state is published to the caches after the commit, and only
//! then are the waiting requests answered.
//!
//! Ownership gives order and spares locks; it is not what makes the result right. Whoever changes a
//! person holds the row's lock (see [`people`](crate::targeting::people)), so a second node, or a
//! link that reaches into another shard's people, is safe as well.
//!
//! # Promises
//!
//! - An answer says *stored* only after a synchronous commit.
//! - Every queue is bounded in rows, bytes and time, and no project can fill it for the others; who
//!   finds no place hears so at once.
//! - A caller waits no longer than its deadline, whatever the database does. Work whose caller has
//!   given up before it began is dropped; work that had begun may still commit, and the caller's
//!   repetition is then a duplicate.

mod admission;
mod apply;
mod batch;
mod batch_work;
mod claim;
mod decide;
pub mod decode;
mod failure;
mod held;
mod ledger;
mod load;
mod metrics;
mod people_of_batch;
mod plain;
mod queue;
mod read_back;
mod record;
pub mod replay;
mod room;
mod route;
mod seen;
mod shard;
mod statements;
mod traits;
mod turn;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::model::{Event, EventId, ProjectId};
use crate::targeting::people::Remembered;
use crate::targeting::{Matches, Targeting};
use admission::{Bounds, Load};
use decide::{Ahead, Undecided, decide_apart};
use decode::{Item, Rejection};
use held::Room;
use metrics::ShardMetrics;
use queue::{Entrance, Permit};
use route::{Known, Split, split};

pub use metrics::{IngestMetrics, Received};
pub use room::IDENTITIES_MAX;
pub use seen::LAST_SEEN_GRAIN;

/// How ingest behaves. Every figure but `identities_max` is a setting.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The database that the shards connect to.
    pub url: String,
    /// How many shards, each a thread with a connection.
    pub shards: usize,
    /// The most events of one transaction.
    pub batch_rows_max: usize,
    /// The most bytes of events, as received, of one transaction.
    pub batch_bytes_max: usize,
    /// The most events waiting for one shard.
    pub queue_rows_max: usize,
    /// The most bytes of events waiting for one shard.
    pub queue_bytes_max: usize,
    /// How long a caller waits for the commit.
    pub deadline: Duration,
    /// The most bytes of one person's merged traits, as JSON.
    pub traits_bytes_max: usize,
    /// The most identities of one person.
    pub identities_max: usize,
    /// What counts.
    pub metrics: IngestMetrics,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            shards: 2,
            batch_rows_max: 2_500,
            batch_bytes_max: 8 * 1024 * 1024,
            queue_rows_max: 20_000,
            queue_bytes_max: 64 * 1024 * 1024,
            deadline: Duration::from_secs(2),
            traits_bytes_max: 256 * 1024,
            identities_max: IDENTITIES_MAX,
            metrics: IngestMetrics::default(),
        }
    }
}

impl IngestOptions {
    /// The most of one transaction.
    fn batch_max(&self) -> Load {
        Load {
            rows: self.batch_rows_max,
            bytes: self.batch_bytes_max,
        }
    }
}

/// What became of one item of a request, in the request's order.
#[derive(Debug)]
pub enum Outcome {
    /// The event is committed, now or by an earlier call with the same message id.
    Stored(Box<Stored>),
    /// The event can never become valid; the ledger has it.
    Rejected(Rejection),
}

/// A committed event and what it led to.
#[derive(Debug)]
pub struct Stored {
    /// The event as it was decoded.
    pub event: Event,
    /// The stored event's id; a duplicate's is the first one's.
    pub id: EventId,
    /// True when an earlier call with this message id was stored before.
    pub duplicate: bool,
    /// The campaigns this person should see now, best first; none if nobody wanted them.
    pub matched: Matches,
    /// The person's traits after the event, the text of a JSON object, if somebody wanted them.
    pub traits: Option<Arc<str>>,
}

/// A request, decoded.
#[derive(Debug)]
pub struct Submission {
    /// Whose it is.
    pub project: ProjectId,
    /// What it holds, in its order.
    pub items: Vec<Item>,
    /// How many events the decoder counted, for the ledger.
    pub received: usize,
    /// What somebody reads of what each event led to.
    pub wants: Wanted,
}

/// What a caller reads of what its events led to, beside whether they are stored. Nothing is decided or
/// kept that nobody reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The campaigns.
    pub matches: bool,
    /// The person's traits.
    pub traits: bool,
}

/// Part of a request on its way to one shard.
#[derive(Debug)]
struct Job {
    project: ProjectId,
    wants: Wanted,
    /// The items with their places in the request, but for those that were done in turns before.
    items: Vec<(usize, Item)>,
    /// How many of them are done in one turn, if all were too many.
    portion: Option<usize>,
    /// What became of those that were done.
    answered: Vec<Answer>,
    /// Which of the identities in them somebody had when the request was split.
    known: Known,
    /// How many events the decoder says these are, for the ledger.
    received: i64,
    /// Whom the one event of a request is about, if that was remembered when it was split.
    remembered: Option<Remembered>,
    /// What was decided on that event before it was queued.
    ahead: Option<Ahead>,
    reply: oneshot::Sender<Result<Vec<Answer>, Error>>,
    queued_at: Instant,
    give_up_at: Instant,
    permit: Permit,
}

impl Job {
    /// How many items are done in its next turn.
    fn rows_now(&self) -> usize {
        let rows = self.items.len();
        self.portion.map_or(rows, |portion| portion.min(rows))
    }

    /// What these are of what it holds.
    fn load_now(&self) -> Load {
        self.load_of(self.rows_now())
    }

    /// What all of them are of what it holds.
    fn load_left(&self) -> Load {
        self.load_of(self.items.len())
    }

    fn load_of(&self, rows: usize) -> Load {
        let held = self.permit.load();
        Load {
            rows,
            bytes: held.bytes.saturating_mul(rows) / held.rows.max(1),
        }
    }
}

/// What a shard says of one item.
#[derive(Debug)]
struct Answer {
    place: usize,
    outcome: Outcome,
    /// What is still to be decided of it.
    undecided: Option<Box<Undecided>>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    targeting: Targeting,
    options: IngestOptions,
    queues: ArcSwapOption<Vec<Entrance>>,
    /// What counts, for each of the queues.
    shards: Vec<ShardMetrics>,
    /// Which shards lost their connection and have no other yet.
    cut_off: Vec<Arc<AtomicBool>>,
    /// Every shard holds a sender for as long as it works; nothing is ever sent.
    working: std::sync::Mutex<Receiver<()>>,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest")
            .field("shards", &self.0.options.shards)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    /// Starts the shards. They connect when there is work, so the database may come later.
    pub fn start(targeting: Targeting, options: IngestOptions) -> std::io::Result<Self> {
        let mut queues = Vec::with_capacity(options.shards);
        let mut shards = Vec::with_capacity(options.shards);
        let mut cut_off = Vec::with_capacity(options.shards);
        options
            .metrics
            .bounds(options.queue_rows_max, options.queue_bytes_max);
        let (works, working) = std::sync::mpsc::channel::<()>();
        let room = Room::new();
        let bounds = Bounds {
            most: Load {
                rows: options.queue_rows_max,
                bytes: options.queue_bytes_max,
            },
            deadline: options.deadline,
        };
        let pairs = queue::queues(options.shards.max(1), bounds, options.batch_max());
        for (number, (entrance, waiting)) in pairs.into_iter().enumerate() {
            let metrics = options.metrics.shard(number);
            let is_cut_off = Arc::new(AtomicBool::new(false));
            let shard = shard::Shard::new(
                targeting.clone(),
                options.clone(),
                waiting,
                metrics.clone(),
                room.clone(),
                Arc::clone(&is_cut_off),
            );
            let works = works.clone();
            std::thread::Builder::new()
                .name(format!("beckon-shard-{number}"))
                .spawn(move || {
                    let _until_it_ends = works;
                    shard.run();
                })?;
            queues.push(entrance);
            shards.push(metrics);
            cut_off.push(is_cut_off);
        }
        Ok(Self(Arc::new(Inner {
            targeting,
            options,
            queues: ArcSwapOption::from_pointee(queues),
            shards,
            cut_off,
            working: std::sync::Mutex::new(working),
        })))
    }

    /// Stores the items and decides for each; returns after the commit. Items of one person keep
    /// their order. On an error nothing was acknowledged and the caller may try again.
    pub async fn submit(&self, request: Submission) -> Result<Vec<Outcome>, Error> {
        self.submit_after(Duration::ZERO, request).await
    }

    /// As [`Self::submit`], for a caller who has waited for the database this long already.
    pub async fn submit_after(
        &self,
        waited: Duration,
        request: Submission,
    ) -> Result<Vec<Outcome>, Error> {
        if request.items.is_empty() {
            return Ok(Vec::new());
        }
        let give_up_at = Instant::now() + self.0.options.deadline.saturating_sub(waited);
        let project = request.project;
        let settled = self.settle(request, give_up_at);
        let settled = tokio::time::timeout_at(give_up_at.into(), settled).await;
        let (outcomes, undecided) = settled.unwrap_or(Err(Error::DatabaseUnavailable))?;
        // They are stored; what takes long now are rules, and not the database.
        let decided = decide_apart(&self.0.targeting, project, outcomes, undecided);
        let decided = tokio::time::timeout_at(give_up_at.into(), decided).await;
        decided.unwrap_or_else(|_too_late| Err(admission::overloaded()))
    }

    /// Stores the items. What is still to be decided comes with its place among the outcomes.
    async fn settle(
        &self,
        request: Submission,
        give_up_at: Instant,
    ) -> Result<(Vec<Outcome>, Vec<(usize, Box<Undecided>)>), Error> {
        if !self.0.targeting.is_ready_for(request.project) {
            return Err(Error::DatabaseUnavailable);
        }
        let queues = self.0.queues.load_full().ok_or(Error::ShuttingDown)?;
        let Submission {
            project,
            items,
            received,
            wants,
        } = request;
        let count = items.len();
        let split = split(&self.0.targeting, project, items, queues.len()).await?;
        let Split {
            parts,
            known,
            mut remembered,
        } = split;
        // Who these are about may have taken its time to find out.
        let queued_at = Instant::now();
        // Every permit is taken before anything is sent, so a full queue costs nothing.
        let mut admitted = Vec::with_capacity(parts.len());
        for (shard, items) in parts {
            let queue = queues.get(shard).ok_or(Error::ShuttingDown)?;
            let permit = queue.admit(project, &items, queued_at)?;
            admitted.push((queue, items, permit));
        }
        let mut replies = Vec::with_capacity(admitted.len());
        let mut remaining = i64::try_from(received).unwrap_or(i64::MAX);
        let parts = admitted.len();
        for (index, (queue, items, permit)) in admitted.into_iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            // The last part answers for whatever was received and is in none of them.
            let received = if index + 1 == parts {
                remaining
            } else {
                i64::try_from(items.len()).unwrap_or(i64::MAX)
            };
            remaining -= received;
            let remembered = remembered.take();
            let ahead = remembered
                .as_ref()
                .and_then(|it| Ahead::decide(&self.0.targeting, project, it, wants, &items));
            let job = Job {
                project,
                wants,
                items,
                portion: None,
                answered: Vec::new(),
                known: known.clone(),
                received,
                remembered,
                ahead,
                reply,
                queued_at,
                give_up_at,
                permit,
            };
            queue.push(job)?;
            replies.push(answer);
        }
        drop(queues);
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        outcomes.resize_with(count, || None);
        let mut undecided = Vec::new();
        for answer in replies {
            // A shard that lets go of a job without an answer was too late, or its batch died.
            let answered = answer.await.map_err(|_| Error::DatabaseUnavailable)??;
            for answer in answered {
                if let Some(slot) = outcomes.get_mut(answer.place) {
                    *slot = Some(answer.outcome);
                }
                undecided.extend(answer.undecided.map(|it| (answer.place, it)));
            }
        }
        let outcomes = outcomes
            .into_iter()
            .collect::<Option<Vec<Outcome>>>()
            .ok_or_else(|| Error::Internal("an item of the request has no outcome".to_owned()))?;
        Ok((outcomes, undecided))
    }

    /// Whether one event of this project would find a place anywhere now. Where none would, a
    /// request can be refused before it is decoded, which is the larger part of its cost.
    pub fn check_room(&self, project: ProjectId) -> Result<(), Error> {
        let queues = self.0.queues.load();
        let queues = queues.as_ref().ok_or(Error::ShuttingDown)?;
        let now = Instant::now();
        let mut outcome = Ok(());
        for queue in queues.iter() {
            outcome = queue.check(project, now);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Whether a shard does not get on: it lost its connection and has no other yet, or nothing moves
    /// there for longer than callers wait.
    pub fn is_stuck(&self) -> bool {
        let queues = self.0.queues.load();
        let mut queues = queues.iter().flat_map(|queues| queues.iter());
        let is_cut_off = |cut_off: &Arc<AtomicBool>| cut_off.load(Ordering::Relaxed);
        let is_late = |since: Instant| since.elapsed() >= self.0.options.deadline;
        self.0.cut_off.iter().any(is_cut_off)
            || queues.any(|queue| queue.stands_still_since().is_some_and(is_late))
    }

    /// How many events the fullest shard holds, waiting or being written.
    pub fn fullest_queue_rows(&self) -> usize {
        self.0.queues.load().as_ref().map_or(0, |queues| {
            queues.iter().map(Entrance::rows).max().unwrap_or_default()
        })
    }

    /// What counts.
    pub fn metrics(&self) -> &IngestMetrics {
        &self.0.options.metrics
    }

    /// Sets the gauges of the queues, from what is in memory.
    pub fn sample_metrics(&self) {
        if let Some(queues) = self.0.queues.load().as_ref() {
            for (queue, metrics) in queues.iter().zip(&self.0.shards) {
                let (held, waits_since) = queue.held();
                metrics.sample(held, waits_since);
            }
        }
    }

    /// How many events a shard may hold.
    pub fn queue_rows_max(&self) -> usize {
        self.0.options.queue_rows_max
    }

    /// Takes no more work, lets the shards finish what waits, and waits for them until the limit.
    /// Returns whether all of them finished. Blocks; for the end of the process.
    pub fn close(&self, limit: Duration) -> bool {
        self.0.queues.store(None);
        let working = match self.0.working.lock() {
            Ok(working) => working,
            Err(poisoned) => poisoned.into_inner(),
        };
        matches!(
            working.recv_timeout(limit),
            Err(RecvTimeoutError::Disconnected)
        )
    }
}
