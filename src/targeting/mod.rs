//! Who sees what now: the state of people, the snapshot of each project's live campaigns, and the
//! writes that change what matches.
//!
//! Reads never wait: a snapshot is an `Arc` behind one atomic pointer, replaced whole by a newer
//! one. A change goes through [`Targeting::change`], which commits, bumps the project's revision,
//! notifies the other nodes and swaps this node's snapshot before it returns. Other nodes reload
//! when the hub wakes them or when they find a newer revision.
//!
//! Invariant: a snapshot is only ever replaced by one of a higher revision.

pub mod people;

mod check;
mod live;
mod metrics;
mod publish;
mod quarantine;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use serde_json::Value;

use crate::clock::Clock;
use crate::error::Error;
use crate::hub::{Hub, HubOptions, Signal};
use crate::matcher::{Decision, Snapshot};
use crate::model::{Identity, PersonId, ProjectId, parse_object};
use crate::rules::{EventFacts, FactsArena, Limits, Object, UserFacts};
use crate::store::nodes::NodeId;
use crate::store::person_state::{FindAddresses, LoadPeople, PersonRow};
use crate::store::{Store, is_unavailable, live as rows};
use people::{Address, People};

pub use crate::matcher::Matches;
pub use check::Warning;
pub use metrics::{CacheMetrics, TargetingMetrics};
pub use people::PersonState;

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
    failing: quarantine::Waiting,
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

/// A flag as one person sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagDecision {
    /// Whether the flag is on for this person; false for a flag that does not exist.
    pub enabled: bool,
    /// The flag's value when it is on and has one.
    pub value: Option<Value>,
}

/// A segment a person is in.
#[derive(Debug, Clone)]
pub struct SegmentMembership {
    /// The segment's id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// How long a node that finds others waits until they have noticed it and stopped caching people:
/// longer than `people::LEASE`.
const INTRODUCTION: Duration = Duration::from_millis(1_500);

/// How long a node that is cut off waits for the database before it decides on the last it knew.
const CUT_OFF_WAIT: Duration = Duration::from_millis(250);

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
            failing: quarantine::Waiting::default(),
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
            hurry: self.0.people.hurry(),
        };
        let caching = self.clone();
        Hub::start(
            options,
            move |signal, connection| this.on_signal(&signal, connection),
            // Other nodes cannot see this one any more, nor this one them.
            move || {
                caching.0.people.set_cut_off(true);
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

    /// Whether every project's snapshot was loaded at least once.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready.load(Ordering::Acquire)
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
        let outcome = self
            .0
            .store
            .transact(move |connection| {
                rows::bump_revision(connection, project.0)?.ok_or(Error::NotFound("Project"))?;
                let outcome = work(connection)?;
                rows::notify_change(connection, project.0)?;
                Ok(outcome)
            })
            .await?;
        let this = self.clone();
        let reload = move |connection: &mut PgConnection| this.reload(connection, project);
        if let Err(error) = self.0.store.run(reload).await {
            tracing::warn!(project = project.0, %error, "a change is saved, but not live yet");
        }
        Ok(outcome)
    }

    /// The state of the person an identity names, from the cache or the database; `None` for
    /// somebody never seen.
    pub async fn person(
        &self,
        project: ProjectId,
        identity: &Identity,
    ) -> Result<Option<Arc<PersonState>>, Error> {
        if let Some(address) = self.0.people.address(project, identity)
            && let Some(state) = self.0.people.state(address.person)
        {
            return Ok(Some(state));
        }
        let (this, wanted) = (self.clone(), identity.clone());
        let loading = self
            .0
            .store
            .run(move |connection| this.load_person(connection, project, &wanted));
        if !self.0.people.is_cut_off() {
            return loading.await;
        }
        match tokio::time::timeout(CUT_OFF_WAIT, loading).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => match self.0.people.last_known(project, identity) {
                Some(state) => Ok(Some(state)),
                None => Err(Error::DatabaseUnavailable),
            },
        }
    }

    /// Where identities lead: remembered addresses, and the others from the database in one query.
    /// Identities nobody has seen are left out.
    pub async fn addresses(
        &self,
        project: ProjectId,
        identities: Vec<Identity>,
    ) -> Result<HashMap<Identity, Address>, Error> {
        let mut found = HashMap::with_capacity(identities.len());
        let mut unknown = Vec::new();
        for identity in identities {
            match self.0.people.address(project, &identity) {
                Some(address) => {
                    found.insert(identity, address);
                }
                None => unknown.push(identity),
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let epoch = self.0.people.epoch();
        let loaded = self
            .0
            .store
            .run(move |connection| load_addresses(connection, project, &unknown))
            .await?;
        for (identity, address) in loaded {
            self.0
                .people
                .remember_address(epoch, project, &identity, address);
            found.insert(identity, address);
        }
        Ok(found)
    }

    /// The live campaigns whose gates pass without an event, best first. `None` is somebody never
    /// seen or nobody: no traits.
    pub fn campaigns_on_fetch(
        &self,
        project: ProjectId,
        identity: Option<&Identity>,
        person: Option<&PersonState>,
        now: DateTime<Utc>,
    ) -> Matches {
        let arena = FactsArena::new();
        let subject = subject(identity, person, now, &arena);
        self.counted(self.snapshot(project).on_fetch(subject, now, &arena))
    }

    /// Counts what failed and passes on what matched.
    pub fn counted(&self, decision: Decision) -> Matches {
        self.metrics()
            .decided(decision.matched.len(), decision.errors);
        if !decision.failing.is_empty() {
            self.0.failing.note(decision.failing);
        }
        decision.matched
    }

    /// The live campaigns to show on an event, best first. The arena is the one that the event's
    /// facts are in.
    pub fn campaigns_on_event<'a>(
        &self,
        snapshot: &Snapshot,
        identity: &'a Identity,
        person: &'a PersonState,
        event: EventFacts<'a>,
        now: DateTime<Utc>,
        arena: &'a FactsArena,
    ) -> Matches {
        let subject = subject(Some(identity), Some(person), now, arena);
        self.counted(snapshot.on_event(subject, event, now, arena))
    }

    /// The flag for this person: whether it is on, and its value.
    pub fn flag(
        &self,
        project: ProjectId,
        key: &str,
        identity: Option<&Identity>,
        person: Option<&PersonState>,
        now: DateTime<Utc>,
    ) -> FlagDecision {
        let arena = FactsArena::new();
        let snapshot = self.snapshot(project);
        match snapshot.flag(key, subject(identity, person, now, &arena), now, &arena) {
            Some((true, flag)) => FlagDecision {
                enabled: true,
                value: flag.value.clone(),
            },
            _ => FlagDecision {
                enabled: false,
                value: None,
            },
        }
    }

    /// The segments this person is in now.
    pub fn segments_of(
        &self,
        project: ProjectId,
        identity: &Identity,
        person: &PersonState,
        now: DateTime<Utc>,
    ) -> Vec<SegmentMembership> {
        let arena = FactsArena::new();
        let snapshot = self.snapshot(project);
        let subject = subject(Some(identity), Some(person), now, &arena);
        snapshot
            .segments_of(subject, now, &arena)
            .into_iter()
            .map(|segment| SegmentMembership {
                id: segment.id.clone(),
                name: segment.name.clone(),
            })
            .collect()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "runs on the hub's own thread, which may block"
    )]
    fn on_signal(&self, signal: &Signal, connection: &mut PgConnection) -> QueryResult<()> {
        match *signal {
            Signal::Connected {
                other_nodes,
                counted_at,
            } => {
                // What happened while nobody listened is unknown.
                self.0.people.forget_all();
                self.0.people.counted(other_nodes > 0, counted_at);
                self.0.people.set_cut_off(other_nodes > 0);
                self.reload_all(connection)?;
                if other_nodes > 0 {
                    std::thread::sleep(INTRODUCTION);
                    self.0.people.set_cut_off(false);
                }
                self.metrics().is_current(other_nodes);
                self.0.is_ready.store(true, Ordering::Release);
                Ok(())
            }
            Signal::Changed(project) => self.reload(connection, ProjectId(project)),
            Signal::PeopleChanged(project) => {
                self.0.people.forget_all();
                self.reload(connection, ProjectId(project))
            }
            Signal::Poll {
                other_nodes,
                counted_at,
            } => {
                self.0.people.counted(other_nodes > 0, counted_at);
                self.quarantine_failing(connection)?;
                self.reload_changed(connection)?;
                self.metrics().is_current(other_nodes);
                Ok(())
            }
        }
    }

    fn reload_changed(&self, connection: &mut PgConnection) -> QueryResult<()> {
        for (project, revision) in rows::revisions(connection)? {
            let project = ProjectId(project);
            let is_current = {
                let snapshots = self.0.snapshots.load();
                snapshots
                    .get(&project)
                    .is_some_and(|held| held.revision() >= revision)
            };
            if !is_current {
                self.tolerate(project, self.reload(connection, project))?;
            }
        }
        Ok(())
    }

    /// Reads every project anew. The database that was connected to may be a standby that took over,
    /// or a backup: revisions, versions and transactions may have been used for something else.
    fn reload_all(&self, connection: &mut PgConnection) -> QueryResult<()> {
        for (project, _) in rows::revisions(connection)? {
            let project = ProjectId(project);
            let nothing = Arc::default();
            self.tolerate(project, self.reload_from(connection, project, |_| nothing))?;
        }
        Ok(())
    }

    /// One project whose rows cannot be read must not keep the others from their changes.
    fn tolerate(&self, project: ProjectId, outcome: QueryResult<()>) -> QueryResult<()> {
        match outcome {
            Err(error) if !is_unavailable(&error) => {
                tracing::error!(project = project.0, %error, "a project cannot be loaded");
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn reload(&self, connection: &mut PgConnection, project: ProjectId) -> QueryResult<()> {
        self.reload_from(connection, project, |held| held)
    }

    /// Brings a project's snapshot up to date, from what `base` makes of the one that is held.
    fn reload_from(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
        base: impl FnOnce(Arc<Snapshot>) -> Arc<Snapshot>,
    ) -> QueryResult<()> {
        let ours = {
            let all = self.0.reloading.lock();
            let mut all = all.unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(project).or_default())
        };
        let _alone = ours.lock().unwrap_or_else(PoisonError::into_inner);
        let held = base(self.snapshot(project));
        let started = Instant::now();
        let loaded = live::load(connection, project, &held, &self.0.options.rules);
        self.metrics().reloaded(loaded.is_ok(), started.elapsed());
        let Some(fresh) = loaded? else {
            return Ok(());
        };
        let fresh = Arc::new(fresh);
        self.0.snapshots.rcu(|snapshots| {
            let mut snapshots = HashMap::clone(snapshots);
            snapshots.insert(project, Arc::clone(&fresh));
            snapshots
        });
        self.metrics()
            .swapped(project, &self.snapshot(project), &self.0.clock);
        Ok(())
    }

    fn load_person(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
        identity: &Identity,
    ) -> QueryResult<Option<Arc<PersonState>>> {
        // A merge between the two reads repoints the identity, so a second look finds the survivor.
        for _ in 0..3 {
            let epoch = self.0.people.epoch();
            let wanted = std::slice::from_ref(identity);
            let Some((_, address)) = load_addresses(connection, project, wanted)?.pop() else {
                return Ok(None);
            };
            let observed = self.0.people.observe(address.person);
            let row: Option<PersonRow> = LoadPeople {
                ids: &[address.person.0],
            }
            .load(connection)?
            .pop();
            match row {
                Some(row) if row.merged_into.is_none() => {
                    let state = Arc::new(PersonState::from(row));
                    self.0
                        .people
                        .remember_address(epoch, project, identity, address);
                    self.0.people.remember_loaded(observed, &state);
                    return Ok(Some(state));
                }
                _ => {}
            }
        }
        Ok(None)
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

/// Looks identities of one project up.
pub(crate) fn load_addresses(
    connection: &mut PgConnection,
    project: ProjectId,
    identities: &[Identity],
) -> QueryResult<Vec<(Identity, Address)>> {
    let projects = vec![project.0; identities.len()];
    let kinds: Vec<i16> = identities
        .iter()
        .map(|identity| identity.kind().as_i16())
        .collect();
    let values: Vec<&str> = identities.iter().map(Identity::value).collect();
    let query = FindAddresses {
        projects: &projects,
        kinds: &kinds,
        values: &values,
    };
    let found: Vec<crate::store::person_state::AddressRow> = query.load(connection)?;
    let by_key: HashMap<(i16, &str), &Identity> = identities
        .iter()
        .map(|identity| ((identity.kind().as_i16(), identity.value()), identity))
        .collect();
    Ok(found
        .iter()
        .filter_map(|row| {
            let identity = by_key.get(&(row.kind, row.value.as_str()))?;
            let address = Address {
                person: PersonId(row.person_id),
                home: row.home,
            };
            Some(((*identity).clone(), address))
        })
        .collect())
}

impl From<PersonRow> for PersonState {
    fn from(row: PersonRow) -> Self {
        Self {
            id: PersonId(row.id),
            home: row.home,
            user_id: row.user_id,
            // The database writes members in an order of its own and with spaces between them.
            traits: Arc::from(Value::Object(parse_object(&row.traits)).to_string()),
            created_at: row.created_at,
            last_seen: row.last_seen_at.into(),
        }
    }
}

fn subject<'a>(
    identity: Option<&'a Identity>,
    person: Option<&'a PersonState>,
    now: DateTime<Utc>,
    arena: &'a FactsArena,
) -> UserFacts<'a> {
    let id = person.and_then(|person| person.user_id.as_deref());
    UserFacts {
        id: id.or(identity.map(Identity::value)).unwrap_or_default(),
        traits: person.map_or(Object::EMPTY, |person| arena.parse(&person.traits)),
        created_at: person.map_or(now, |person| person.created_at),
        last_seen_at: person.map_or(now, |person| person.last_seen.at()),
    }
}
