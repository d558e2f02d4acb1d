//! What this node remembers of people: which person an identity names, and each person's state.
//!
//! Both caches are bounded by bytes and may forget anything at any time; the database is the truth.
//! What they must never do is answer with a state that is older than one already acknowledged. The
//! protocol that keeps this, with any number of shards and readers:
//!
//! - Whoever changes a person holds the person's row lock from reading it until the commit, so
//!   changes of one person are one after the other. Before the commit it calls
//!   [`People::begin_change`], which counts the person's slot up and marks a change in progress;
//!   after it, [`Change::publish`].
//! - A state is published only if no other change of the slot began since; otherwise the entry is
//!   removed. The change that began last is the one whose row lock came last, so an older state
//!   can never replace a newer one.
//! - A reader notes the slot before it loads and inserts what it loaded only if the slot is
//!   unchanged, no change is in progress and nothing is there.
//! - A change whose outcome is unknown (the connection died during the commit) stays in progress
//!   until its rows were locked again, which waits for the lost session to end.
//!
//! Slots are shared by many people; a collision costs a cache miss, never an answer.
//!
//! Where an identity leads changes only when two people become one. A merge counts an epoch up
//! after its commit and then forgets every identity that moved; an address is remembered only if
//! the epoch is still the one from before it was read.
//!
//! While a second node is registered on the database nothing is cached, since its changes are not
//! seen here. While this node is cut off from the others ([`OtherNodes`]) what was cached is not
//! trusted either, but kept: should the database be gone, it is the last that is known of people,
//! and decisions go on from it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use quick_cache::{Equivalent, Weighter};

use super::TargetingMetrics;
pub use super::other_nodes::OtherNodes;
use super::person::PersonState;
use crate::model::{Identity, PersonId, ProjectId};

/// Where a person's identity leads: the person and its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The person.
    pub person: PersonId,
    /// The person's home hash.
    pub home: i64,
}

const SLOTS: usize = 1 << 14;
const IN_PROGRESS_BITS: u32 = 16;
const SEQUENCE_STEP: u64 = 1 << IN_PROGRESS_BITS;

/// What addresses are found by.
type Name = (ProjectId, Identity);

/// A [`Name`] that is only looked for.
#[derive(Hash)]
struct NameRef<'a>(ProjectId, &'a Identity);

impl Equivalent<Name> for NameRef<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        self.0 == name.0 && *self.1 == name.1
    }
}

/// About how many bytes entries take.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Name, Address> for Bytes {
    fn weight(&self, (_, identity): &Name, _: &Address) -> u64 {
        (ADDRESS_BYTES + identity.value().len()) as u64
    }
}

impl Weighter<PersonId, Arc<PersonState>> for Bytes {
    fn weight(&self, _: &PersonId, state: &Arc<PersonState>) -> u64 {
        state.weight() as u64
    }
}

/// The bytes of a cached address beside the identity's value.
const ADDRESS_BYTES: usize = 160;
/// What an entry is expected to take, with its texts; the caches lay out their tables by it.
const USUAL_ADDRESS_BYTES: u64 = 200;
const USUAL_STATE_BYTES: u64 = 1_024;

/// What becomes of an entry.
enum Op<V> {
    Put(V),
    Keep,
    Remove,
}

/// Changes one entry by what is there. Whoever else changes it meanwhile comes before the decision
/// or after it took effect: an entry that was removed or replaced after the decision stays so.
fn decide<K, V>(cache: &Cache<K, V, Bytes>, key: K, decision: impl Fn(Option<&V>) -> Op<V>)
where
    K: Eq + std::hash::Hash + Clone,
    V: Clone,
    Bytes: Weighter<K, V>,
{
    let changed = cache.entry(&key, None, |_, present| match decision(Some(present)) {
        Op::Put(value) => {
            *present = value;
            EntryAction::Retain(())
        }
        Op::Keep => EntryAction::Retain(()),
        Op::Remove => EntryAction::Remove,
    });
    if let EntryResult::Vacant(place) = changed
        && let Op::Put(value) = decision(None)
    {
        // It fails if the entry was removed since, which came later and so is right.
        drop(place.insert(value));
    }
}

/// The caches of one node.
#[derive(Debug)]
pub struct People {
    addresses: Cache<Name, Address, Bytes>,
    states: Cache<PersonId, Arc<PersonState>, Bytes>,
    slots: Box<[AtomicU64]>,
    merges: AtomicU64,
    others: OtherNodes,
    metrics: TargetingMetrics,
}

/// What a reader of addresses noted before it loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u64);

/// What a reader noted before it loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed(Option<u64>);

/// Whom an identity named when somebody looked, and how to tell whether it still does.
#[derive(Debug, Clone)]
pub struct Remembered {
    state: Arc<PersonState>,
    epoch: Epoch,
    observed: Observed,
}

impl Remembered {
    /// The person's state at that time.
    pub fn state(&self) -> &Arc<PersonState> {
        &self.state
    }
}

impl People {
    /// Makes empty caches; three quarters of the bytes go to states, one to addresses. They stay
    /// empty until [`People::counted`] says that no other node works on the database.
    pub fn new(cache_bytes: u64) -> Self {
        let of_addresses = cache_bytes / 4;
        let of_states = cache_bytes - of_addresses;
        let entries = |bytes: u64, usual| usize::try_from(bytes / usual).unwrap_or(usize::MAX);
        let expected = entries(of_addresses, USUAL_ADDRESS_BYTES);
        let addresses = Cache::with_weighter(expected, of_addresses, Bytes);
        let expected = entries(of_states, USUAL_STATE_BYTES);
        let states = Cache::with_weighter(expected, of_states, Bytes);
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self {
            addresses,
            states,
            slots,
            merges: AtomicU64::new(0),
            others: OtherNodes::new(),
            metrics: TargetingMetrics::default(),
        }
    }

    /// The same caches, counting with these handles.
    pub(super) fn with_metrics(self, metrics: &TargetingMetrics) -> Self {
        Self {
            metrics: metrics.clone(),
            ..self
        }
    }

    pub(super) fn sample_metrics(&self) {
        let addresses = (self.addresses.len() as u64, self.addresses.weight());
        self.metrics.addresses().sample(addresses.0, addresses.1);
        let states = (self.states.len() as u64, self.states.weight());
        self.metrics.states().sample(states.0, states.1);
    }

    /// What is known of the other nodes.
    pub fn others(&self) -> &OtherNodes {
        &self.others
    }

    /// Says whether another node works, or may work, on the same database, as counted in this span;
    /// while one does, nothing is cached.
    pub fn counted(&self, shared: bool, span: Range<Instant>) {
        self.others.counted(shared, span, || self.forget_all());
    }

    /// Drops everything, as after an import that wrote behind this node's back.
    pub fn forget_all(&self) {
        for slot in &self.slots {
            slot.fetch_add(SEQUENCE_STEP, Ordering::SeqCst);
        }
        self.merges.fetch_add(1, Ordering::SeqCst);
        self.addresses.clear();
        self.states.clear();
    }

    /// The person an identity names, if remembered.
    pub fn address(&self, project: ProjectId, identity: &Identity) -> Option<Address> {
        let found = if self.others.let_trust() {
            self.addresses.get(&NameRef(project, identity))
        } else {
            None
        };
        self.metrics.addresses().counted(found)
    }

    /// To be called before addresses are read that may be remembered.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.merges.load(Ordering::SeqCst))
    }

    /// Remembers where an identity leads, unless people were merged since the epoch.
    pub fn remember_address(
        &self,
        epoch: Epoch,
        project: ProjectId,
        identity: &Identity,
        address: Address,
    ) {
        let key = (project, identity.clone());
        decide(&self.addresses, key, |_| {
            if self.epoch() == epoch && self.others.let_trust() {
                Op::Put(address)
            } else {
                Op::Keep
            }
        });
    }

    /// After a commit that merged people: forgets the identities that moved. Returns the epoch from
    /// which on the batch's own addresses hold, if nobody else merged meanwhile.
    pub fn merged(&self, before: Epoch, moved: Vec<(ProjectId, Identity)>) -> Option<Epoch> {
        let previous = self.merges.fetch_add(1, Ordering::SeqCst);
        for key in moved {
            // Whoever is about to insert it does so in vain.
            self.addresses.remove(&key);
        }
        (previous == before.0).then_some(Epoch(previous + 1))
    }

    /// The person's state, if remembered.
    pub fn state(&self, person: PersonId) -> Option<Arc<PersonState>> {
        let found = if self.others.let_trust() {
            self.states.get(&person)
        } else {
            None
        };
        self.metrics.states().counted(found)
    }

    /// The person at an address that was remembered in this epoch, if the state is remembered too and
    /// nobody is about to change it.
    pub fn remembered(&self, epoch: Epoch, address: Address) -> Option<Remembered> {
        let observed = self.observe(address.person);
        let state = self.state(address.person)?;
        observed.0.is_some().then_some(Remembered {
            state,
            epoch,
            observed,
        })
    }

    /// Whether that is what both caches would say now, had they forgotten nothing: nobody was merged,
    /// and nobody changed the person or is about to.
    pub fn still_holds(&self, remembered: &Remembered) -> bool {
        self.epoch() == remembered.epoch
            && self.observe(remembered.state.id) == remembered.observed
            && self.others.let_trust()
    }

    /// The last that is known of somebody, for when the database is gone: it may be out of date
    /// since this node was cut off.
    pub fn last_known(&self, project: ProjectId, identity: &Identity) -> Option<Arc<PersonState>> {
        let address = self.addresses.get(&NameRef(project, identity))?;
        self.states.get(&address.person)
    }

    /// To be called before a state is loaded that may be remembered.
    pub fn observe(&self, person: PersonId) -> Observed {
        let slot = self.slot(person).load(Ordering::SeqCst);
        Observed((in_progress(slot) == 0).then_some(slot))
    }

    /// Remembers a loaded state unless it may be out of date.
    pub fn remember_loaded(&self, observed: Observed, state: &Arc<PersonState>) {
        let Some(observed) = observed.0 else { return };
        decide(&self.states, state.id, |present| {
            let unchanged = self.slot(state.id).load(Ordering::SeqCst) == observed;
            if present.is_none() && unchanged && self.others.let_trust() {
                Op::Put(Arc::clone(state))
            } else {
                Op::Keep
            }
        });
    }

    /// To be called with the row lock of every person held, before the commit that changes them.
    pub fn begin_change(&self, people: impl IntoIterator<Item = PersonId>) -> Change {
        let mut people: Vec<PersonId> = people.into_iter().collect();
        people.sort_unstable();
        people.dedup();
        let mut slots: Vec<usize> = people.iter().map(|&person| self.index(person)).collect();
        slots.sort_unstable();
        slots.dedup();
        let slots = slots
            .into_iter()
            .filter_map(|index| {
                let slot = self.slots.get(index)?;
                let before = slot.fetch_add(SEQUENCE_STEP + 1, Ordering::SeqCst);
                Some((index, sequence(before.wrapping_add(SEQUENCE_STEP))))
            })
            .collect();
        Change { people, slots }
    }

    fn index(&self, person: PersonId) -> usize {
        // Ids of neighbours differ in their low bits, so they spread without hashing.
        usize::try_from(person.0.unsigned_abs()).unwrap_or(0) % SLOTS
    }

    fn slot(&self, person: PersonId) -> &AtomicU64 {
        &self.slots[self.index(person)]
    }
}

fn sequence(slot: u64) -> u64 {
    slot >> IN_PROGRESS_BITS
}

fn in_progress(slot: u64) -> u64 {
    slot & (SEQUENCE_STEP - 1)
}

/// A change of people's state that is under way; it ends with [`Change::publish`] or
/// [`Change::abandon`].
#[derive(Debug)]
#[must_use = "a change that is not ended keeps its people out of the cache"]
pub struct Change {
    people: Vec<PersonId>,
    /// In order, since a batch may change thousands of people.
    slots: Vec<(usize, u64)>,
}

impl Change {
    /// The people that change.
    pub fn people(&self) -> &[PersonId] {
        &self.people
    }

    /// After the commit: remembers the new states, and forgets the people that have none (merged
    /// into somebody else) or that somebody changed again meanwhile.
    pub fn publish<'a>(
        self,
        caches: &People,
        new_state: impl Fn(PersonId) -> Option<&'a Arc<PersonState>>,
    ) {
        for &person in &self.people {
            let index = caches.index(person);
            let mine = self.slots.binary_search_by_key(&index, |(slot, _)| *slot);
            let mine = mine.ok().and_then(|place| self.slots.get(place));
            let mine = mine.map(|(_, mine)| *mine);
            decide(&caches.states, person, |_| {
                let now = sequence(caches.slot(person).load(Ordering::SeqCst));
                match new_state(person) {
                    Some(state) if mine == Some(now) && !caches.others.are_there() => {
                        Op::Put(Arc::clone(state))
                    }
                    _ => Op::Remove,
                }
            });
        }
        // Not before: who finds no change in progress takes what is remembered for the newest.
        self.end(caches);
    }

    /// When the outcome is unknown: forgets the people. The change stays in progress, so nobody
    /// remembers them before [`Change::abandon`].
    pub fn forget(&self, caches: &People) {
        for &person in &self.people {
            // Whoever is about to insert it does so in vain.
            caches.states.remove(&person);
        }
    }

    /// Once an unknown outcome has settled: forgets the people, and every address, since the change
    /// may have been a merge.
    pub fn abandon(self, caches: &People) {
        self.forget(caches);
        caches.merges.fetch_add(1, Ordering::SeqCst);
        caches.addresses.clear();
        self.end(caches);
    }

    fn end(&self, caches: &People) {
        for (index, _) in &self.slots {
            if let Some(slot) = caches.slots.get(*index) {
                slot.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests;
