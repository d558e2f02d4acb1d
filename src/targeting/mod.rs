//! Who sees what now: the state of people, the snapshot of each project's live campaigns, and the
//! writes that change what matches.
//!
//! Reads never wait: a snapshot is an `Arc` behind one atomic pointer, replaced whole by a newer
//! one. A change goes through [`Targeting::change`], which commits, bumps the project's revision,
//! notifies the other nodes and swaps this node's snapshot before it returns. Other nodes reload
//! when the hub wakes them or when they find a newer revision.
//!
//! Invariant: a snapshot is only ever replaced by one that was read later.

pub mod people;

mod apart;
mod check;
mod decisions;
mod live;
mod lookup;
mod metrics;
mod other_nodes;
mod person;
mod publish;
mod quarantine;
mod reload;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use diesel::{PgConnection, QueryResult};

use crate::clock::Clock;
use crate::error::Error;
use crate::hub::{Hub, HubOptions};
use crate::matcher::Snapshot;
use crate::model::ProjectId;
use crate::rules::Limits;
use crate::store::nodes::NodeId;
use crate::store::{Shares, Store, live as rows};
use people::People;

pub use crate::matcher::Matches;
pub use apart::awaited;
pub use check::Warning;
pub(crate) use decisions::{DecisionAbout, facts};
pub use decisions::{FlagDecision, INLINE_WORK_MAX, SegmentMembership, Subject};
pub(crate) use lookup::load_addresses;
pub use metrics::{CacheMetrics, TargetingMetrics};
pub use person::{LastSeen, PersonState};

/// How targeting behaves. Every figure is a setting.
#[derive(Debug, Clone)]
pub struct TargetingOptions {
    /// The most memory that remembered people take, in bytes.
    pub people_cache_bytes: u64,
    /// How often other nodes' changes are looked for without a notification.
    pub poll: Duration,
    /// The bounds of rules.
    pub rules: Limits,
    /// What counts.
    pub metrics: TargetingMetrics,
}

impl Default for TargetingOptions {
    fn default() -> Self {
        Self {
            people_cache_bytes: 256 * 1024 * 1024,
            poll: Duration::from_millis(500),
            rules: Limits::default(),
            metrics: TargetingMetrics::default(),
        }
    }
}

/// How many changes of one project have a connection at once. They are made one after the other anyway;
/// the next one's waits meanwhile, and no more than that.
const CHANGES_OF_A_PROJECT: usize = 2;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Targeting(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    options: TargetingOptions,
    people: People,
    snapshots: ArcSwap<HashMap<ProjectId, Arc<Snapshot>>>,
    /// One for each project, held from reading a snapshot's rows until it is swapped in, so that a
    /// later one is never replaced by an earlier one.
    reloading: Mutex<HashMap<ProjectId, Arc<Mutex<()>>>>,
    /// Projects that could not be loaded, and until when the hub leaves them alone.
    put_off: Mutex<HashMap<ProjectId, Instant>>,
    /// Projects that were not read yet from the database that the hub is connected to, and since when
    /// it is. What is held of them is no base to go on from, whatever its revision.
    unproven: Mutex<HashMap<ProjectId, Instant>>,
    /// For the changes of each project.
    changing: Shares,
    failing: quarantine::Waiting,
    apart: apart::Apart,
    node: NodeId,
    is_ready: AtomicBool,
}

impl std::fmt::Debug for Targeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Targeting")
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

impl Targeting {
    /// Makes the service without touching the database; [`Targeting::start`] connects it.
    pub fn new(store: Store, clock: Clock, options: TargetingOptions) -> Self {
        let people = People::new(options.people_cache_bytes).with_metrics(&options.metrics);
        Self(Arc::new(Inner {
            store,
            clock,
            options,
            people,
            snapshots: ArcSwap::default(),
            reloading: Mutex::default(),
            put_off: Mutex::default(),
            unproven: Mutex::default(),
            changing: Shares::of_each(CHANGES_OF_A_PROJECT),
            failing: quarantine::Waiting::default(),
            apart: apart::Apart::new(),
            node: NodeId::draw(),
            is_ready: AtomicBool::new(false),
        }))
    }

    /// Starts the thread that loads every project's snapshot and keeps them current. The service is
    /// ready once the first load is done; a database that is absent is waited for.
    pub fn start(&self) -> std::io::Result<Hub> {
        let this = self.clone();
        let options = HubOptions {
            url: self.0.store.url().to_owned(),
            poll: self.0.options.poll,
            node: self.0.node,
            hurry: self.0.people.others().hurry(),
        };
        let caching = self.clone();
        Hub::start(
            options,
            move |signal, connection| this.on_signal(&signal, connection),
            // Other nodes cannot see this one any more, nor this one them.
            move || {
                caching.0.people.others().set_cut_off(true);
                caching.metrics().is_cut_off();
            },
        )
    }

    /// This node's number.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// The bounds of rules.
    pub fn rule_limits(&self) -> &Limits {
        &self.0.options.rules
    }

    /// Whether there was a connection and each project was loaded that could be.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready.load(Ordering::Acquire)
    }

    /// Whether decisions can be made for this project: it was loaded, or is too new to have campaigns.
    pub fn is_ready_for(&self, project: ProjectId) -> bool {
        self.is_ready()
            && (self.0.snapshots.load().contains_key(&project) || !self.is_put_off(project))
    }

    /// How many conditions have failed at run time since the start.
    pub fn rule_errors(&self) -> u64 {
        self.metrics().rule_errors()
    }

    fn metrics(&self) -> &TargetingMetrics {
        &self.0.options.metrics
    }

    /// Sets the gauges, from what is in memory.
    pub fn sample_metrics(&self) {
        self.metrics().sample();
        self.0.people.sample_metrics();
    }

    /// The caches of people, for the shards that change people's state.
    pub fn people(&self) -> &People {
        &self.0.people
    }

    /// The project's current snapshot; an empty one for a project that has none yet.
    pub fn snapshot(&self, project: ProjectId) -> Arc<Snapshot> {
        self.0
            .snapshots
            .load()
            .get(&project)
            .map(Arc::clone)
            .unwrap_or_default()
    }

    /// Runs a change of campaigns, segments, flags, keys or origins in one transaction, bumps the
    /// project's revision, notifies the other nodes, and returns after this node's snapshot holds
    /// the change. Any error rolls back. Changes of one project are made one after the other.
    ///
    /// A change that is committed is a success: where the snapshot cannot be read anew in time, the
    /// hub does so with its next poll. Told of a failure a client would make the change again.
    pub async fn change<T, F>(&self, project: ProjectId, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        self.commit(project, work).await.map(|(outcome, _)| outcome)
    }

    /// As [`Self::change`], of what has warnings; one of them says so where it is not live yet.
    pub async fn save<T, F>(&self, project: ProjectId, work: F) -> Result<(T, Vec<Warning>), Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<(T, Vec<Warning>), Error> + Send + 'static,
    {
        let ((outcome, mut warnings), is_live) = self.commit(project, work).await?;
        if !is_live {
            warnings.push(Warning::not_live_yet());
        }
        Ok((outcome, warnings))
    }

    /// Runs a change, and says whether it is live.
    async fn commit<T, F>(&self, project: ProjectId, work: F) -> Result<(T, bool), Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        // It and its reload wait for those before them with a connection in their hands.
        let places = self.0.changing.of(project);
        let (outcome, place) = self
            .0
            .store
            .transact_in_turn(places, move |connection| {
                rows::bump_revision(connection, project.0)?.ok_or(Error::NotFound("Project"))?;
                let outcome = work(connection)?;
                rows::notify_change(connection, project.0)?;
                Ok(outcome)
            })
            .await?;
        let this = self.clone();
        let reload = move |connection: &mut PgConnection| {
            let _until_it_is_done = place;
            this.reload(connection, project)
        };
        let reloaded = self.0.store.run(reload).await;
        if let Err(error) = &reloaded {
            tracing::warn!(project = project.0, %error, "a change is saved, but not live yet");
        }
        Ok((outcome, reloaded.is_ok()))
    }

    /// The clock decisions are made by.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }
}

/// A project's snapshot for somebody who runs no server; `None` when there is no such project.
pub fn load_snapshot(
    connection: &mut PgConnection,
    project: ProjectId,
    limits: &Limits,
) -> QueryResult<Option<Snapshot>> {
    live::load(connection, project, &Snapshot::default(), limits)
}
