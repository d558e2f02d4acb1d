//! The people that one transaction is about: their state as it is while the batch's events are
//! applied one after the other, and what has to be written in the end.
//!
//! Pure: it is filled by the batch with what the database says and knows no connection.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::statements::{IdentityRows, PersonRows};
use super::traits::Traits;
use crate::model::{Event, Identity, IdentityKind, PersonId, ProjectId};
use crate::targeting::PersonState;
use crate::targeting::people::Observed;

/// An identity within its project.
pub(super) type Key<'a> = (ProjectId, &'a Identity);

/// A person as first seen with this identity.
pub(super) fn new_state(key: Key<'_>, id: PersonId, event: &Event) -> PersonState {
    let (project, identity) = key;
    PersonState {
        id,
        home: identity.home(project),
        user_id: (identity.kind() == IdentityKind::User).then(|| identity.value().to_owned()),
        traits: Arc::from("{}"),
        created_at: event.received_at,
        last_seen: event.received_at.into(),
    }
}

/// One person while the batch is applied.
#[derive(Debug)]
pub(super) struct Working {
    state: Arc<PersonState>,
    /// The traits, once somebody looked into them.
    traits: OnceCell<Traits>,
    /// Whether the state has them as they were before.
    is_text_old: bool,
    /// The identity a new person was first seen with.
    born_as: Option<(ProjectId, Identity)>,
    /// How often they were changed.
    trait_changes: u32,
    /// The state changes though no column of the person does.
    user_id_changed: bool,
    /// Whether the row lock was held when the state was read, so that it may be published.
    is_locked: bool,
    /// There are several user ids now; which of them counts is for the next read to say.
    must_be_reread: bool,
    /// What was noted before the state was loaded, when it was loaded and not cached.
    loaded: Option<Observed>,
    /// How many identities it has, if they were counted.
    identities: Option<usize>,
}

impl Working {
    fn traits(&self) -> &Traits {
        self.traits.get_or_init(|| Traits::of(&self.state))
    }

    fn change_traits(&mut self, change: impl FnOnce(&mut Traits)) {
        let mut traits = self
            .traits
            .take()
            .unwrap_or_else(|| Traits::of(&self.state));
        change(&mut traits);
        self.traits = OnceCell::from(traits);
        self.is_text_old = true;
        self.trait_changes = self.trait_changes.saturating_add(1);
    }

    /// Writes the traits into the state.
    fn settle(&mut self) {
        if self.is_text_old {
            let text = self.traits().text();
            Arc::make_mut(&mut self.state).traits = text;
            self.is_text_old = false;
        }
    }

    fn traits_changed(&self) -> bool {
        self.trait_changes > 0
    }

    fn is_changed(&self) -> bool {
        self.traits_changed()
            || self.user_id_changed
            || self.must_be_reread
            || self.born_as.is_some()
    }
}

/// Where an identity leads, in the batch so far.
#[derive(Debug, Clone, Copy)]
struct Lead {
    person: PersonId,
    /// The node's cache says so already.
    is_remembered: bool,
}

/// The people of a batch, by number and by identity.
#[derive(Debug, Default)]
pub(super) struct PeopleOfBatch<'a> {
    people: HashMap<PersonId, Working>,
    by_identity: HashMap<Key<'a>, Lead>,
    new_identities: Vec<(Key<'a>, PersonId, DateTime<Utc>)>,
    merges: Vec<(PersonId, PersonId)>,
    /// Pairs that have too many traits to become one, and how often those of each had changed then.
    outgrowing: HashMap<(PersonId, PersonId), (u32, u32)>,
}

impl<'a> PeopleOfBatch<'a> {
    /// Notes whom an identity leads to.
    pub(super) fn set_address(&mut self, key: Key<'a>, person: PersonId) {
        self.lead(key, person, false);
    }

    /// Notes whom an identity leads to by the node's cache.
    pub(super) fn set_remembered_address(&mut self, key: Key<'a>, person: PersonId) {
        self.lead(key, person, true);
    }

    fn lead(&mut self, key: Key<'a>, person: PersonId, is_remembered: bool) {
        let lead = Lead {
            person,
            is_remembered,
        };
        self.by_identity.insert(key, lead);
    }

    /// Whom an identity leads to, in the batch so far.
    pub(super) fn address(&self, key: Key<'a>) -> Option<PersonId> {
        self.by_identity.get(&key).map(|lead| lead.person)
    }

    /// Every person an identity leads to.
    pub(super) fn addressed(&self) -> Vec<PersonId> {
        let mut people: Vec<PersonId> = self.by_identity.values().map(|lead| lead.person).collect();
        people.sort_unstable();
        people.dedup();
        people
    }

    /// Takes in a state from the cache. If the batch identifies the person, it sets nothing that the
    /// state does not have: whoever it changes is locked.
    pub(super) fn insert_cached(&mut self, state: Arc<PersonState>) {
        self.insert(state, false, None);
    }

    /// Takes in a state from the database, read under the row's lock or not.
    pub(super) fn insert_loaded(&mut self, state: PersonState, locked: bool, observed: Observed) {
        self.insert(Arc::new(state), locked, Some(observed));
    }

    fn insert(&mut self, state: Arc<PersonState>, is_locked: bool, loaded: Option<Observed>) {
        let working = Working {
            traits: OnceCell::new(),
            is_text_old: false,
            born_as: None,
            trait_changes: 0,
            user_id_changed: false,
            is_locked,
            must_be_reread: false,
            loaded,
            identities: None,
            state,
        };
        self.people.insert(working.state.id, working);
    }

    /// A person's state, in the batch so far; the traits in it are of when they were settled last.
    pub(super) fn state(&self, person: PersonId) -> Option<&Arc<PersonState>> {
        self.people.get(&person).map(|working| &working.state)
    }

    /// A person's traits, in the batch so far.
    pub(super) fn traits(&self, person: PersonId) -> Option<&Traits> {
        self.people.get(&person).map(Working::traits)
    }

    /// Whether the traits of two people would be longer than this if they became one and these were set,
    /// of which those of the first count. A list may ask about the same two again and again.
    pub(super) fn outgrow(
        &mut self,
        pair: (PersonId, PersonId),
        bytes_max: usize,
        patch: &Map<String, Value>,
    ) -> bool {
        let (Some(one), Some(other)) = (self.people.get(&pair.0), self.people.get(&pair.1)) else {
            return false;
        };
        let changes = (one.trait_changes, other.trait_changes);
        if patch.is_empty() && self.outgrowing.get(&pair) == Some(&changes) {
            return true;
        }
        let outgrow = one.traits().outgrows(bytes_max, patch, other.traits());
        if patch.is_empty() && outgrow {
            self.outgrowing.insert(pair, changes);
        }
        outgrow
    }

    /// Reads the traits of those who may be changed.
    pub(super) fn read_traits(&self) {
        for working in self.people.values().filter(|working| working.is_locked) {
            working.traits();
        }
    }

    /// Writes a person's traits into the state; returns it.
    pub(super) fn settled(&mut self, person: PersonId) -> Option<&Arc<PersonState>> {
        let working = self.people.get_mut(&person)?;
        working.settle();
        Some(&working.state)
    }

    /// Writes everybody's traits into their states, and keeps nothing else of them. To be done before
    /// they are stored.
    pub(super) fn settle(&mut self) {
        for working in self.people.values_mut() {
            working.settle();
            working.traits.take();
        }
    }

    /// Whether a person may be changed: the row lock is held, or nobody else can know the person.
    pub(super) fn is_locked(&self, person: PersonId) -> bool {
        self.people
            .get(&person)
            .is_some_and(|working| working.is_locked)
    }

    /// Notes how many identities a person has before the batch.
    pub(super) fn set_identities(&mut self, person: PersonId, count: usize) {
        if let Some(working) = self.people.get_mut(&person) {
            working.identities = Some(count);
        }
    }

    /// How many identities a person has, in the batch so far, if they were counted.
    pub(super) fn identities(&self, person: PersonId) -> Option<usize> {
        self.people.get(&person)?.identities
    }

    /// Makes a person, first seen with this identity.
    pub(super) fn create(&mut self, key: Key<'a>, id: PersonId, event: &Event) -> PersonId {
        let (project, identity) = key;
        let mut state = new_state(key, id, event);
        // It is given with the identity.
        state.user_id = None;
        self.insert(Arc::new(state), true, None);
        if let Some(working) = self.people.get_mut(&id) {
            working.born_as = Some((project, identity.clone()));
            working.identities = Some(0);
        }
        self.add_identity(key, id, event.received_at);
        id
    }

    /// Gives a person one more identity.
    pub(super) fn add_identity(&mut self, key: Key<'a>, person: PersonId, at: DateTime<Utc>) {
        self.lead(key, person, false);
        self.new_identities.push((key, person, at));
        let Some(working) = self.people.get_mut(&person) else {
            return;
        };
        working.identities = working.identities.map(|count| count.saturating_add(1));
        if key.1.kind() == IdentityKind::User {
            if working.state.user_id.is_some() {
                working.must_be_reread = true;
            } else {
                Arc::make_mut(&mut working.state).user_id = Some(key.1.value().to_owned());
                working.user_id_changed = true;
            }
        }
    }

    /// Makes two people one: the older survives, and where both have a trait, that of `preferred`
    /// counts. Returns the survivor.
    pub(super) fn merge(&mut self, preferred: PersonId, other: PersonId) -> PersonId {
        let age = |id: PersonId| self.state(id).map(|state| (state.created_at, state.id));
        let (survivor, loser) = if age(preferred) <= age(other) {
            (preferred, other)
        } else {
            (other, preferred)
        };
        let Some(mut gone) = self.people.remove(&loser) else {
            return survivor;
        };
        if gone.born_as.is_some() {
            gone.settle();
        }
        let traits = gone
            .traits
            .take()
            .unwrap_or_else(|| Traits::of(&gone.state));
        if let Some(working) = self.people.get_mut(&survivor) {
            working.change_traits(|held| match survivor == preferred {
                true => held.fill_up(traits),
                false => held.overwrite(traits),
            });
            let state = Arc::make_mut(&mut working.state);
            state.user_id = state.user_id.take().or(gone.state.user_id.clone());
            state.last_seen.advance(gone.state.last_seen.at());
            let both = working.identities.zip(gone.identities);
            working.identities = both.map(|(held, taken)| held.saturating_add(taken));
            working.must_be_reread = true;
        }
        for lead in self.by_identity.values_mut() {
            if lead.person == loser {
                *lead = Lead {
                    person: survivor,
                    is_remembered: false,
                };
            }
        }
        self.merges.push((loser, survivor));
        // Somebody born in this batch is written first and merged then, since earlier events of
        // the batch are filed under that number.
        if gone.born_as.is_some() {
            self.people.insert(
                loser,
                Working {
                    must_be_reread: true,
                    ..gone
                },
            );
        }
        survivor
    }

    /// Sets traits of a person.
    pub(super) fn set_traits(&mut self, person: PersonId, patch: Map<String, Value>) {
        if let Some(working) = self.people.get_mut(&person) {
            working.change_traits(|traits| traits.set(patch));
        }
    }

    /// New identities, sorted by key so that two writers meet them in one order.
    pub(super) fn identity_rows(&self) -> IdentityRows<'a> {
        let mut sorted: Vec<_> = self.new_identities.iter().collect();
        sorted.sort_unstable_by_key(|(key, _, _)| *key);
        let mut rows = IdentityRows::default();
        for ((project, identity), person, at) in sorted {
            rows.projects.push(project.0);
            rows.kinds.push(identity.kind().as_i16());
            rows.values.push(identity.value());
            rows.people.push(person.0);
            rows.created_at.push(*at);
        }
        rows
    }

    /// People who were born in this batch.
    pub(super) fn person_rows(&self) -> PersonRows<'_> {
        let mut born: Vec<&Working> = self
            .people
            .values()
            .filter(|working| working.born_as.is_some())
            .collect();
        born.sort_unstable_by_key(|working| working.state.id);
        let mut rows = PersonRows::default();
        for working in born {
            if let Some((project, identity)) = &working.born_as {
                rows.push(*project, identity, &working.state);
            }
        }
        rows
    }

    /// People whose traits changed: numbers, traits and last-seen times, sorted by number.
    pub(super) fn changed(&self) -> (Vec<i64>, Vec<&str>, Vec<DateTime<Utc>>) {
        let mut changed: Vec<&Working> = self
            .people
            .values()
            .filter(|working| working.traits_changed() && working.born_as.is_none())
            .collect();
        changed.sort_unstable_by_key(|working| working.state.id);
        let ids = changed.iter().map(|working| working.state.id.0).collect();
        let traits = changed
            .iter()
            .map(|working| &*working.state.traits)
            .collect();
        let seen_at = changed
            .iter()
            .map(|working| working.state.last_seen.at())
            .collect();
        (ids, traits, seen_at)
    }

    /// Whom each of those who were merged became in the end, sorted by number so that two writers
    /// meet them in one order. Nobody is merged twice, but a survivor may be merged later.
    pub(super) fn heirs(&self) -> BTreeMap<PersonId, PersonId> {
        let mut heirs = BTreeMap::new();
        for &(loser, survivor) in self.merges.iter().rev() {
            let heir = heirs.get(&survivor).copied().unwrap_or(survivor);
            heirs.insert(loser, heir);
        }
        heirs
    }

    /// Everybody whose state changes with the commit.
    pub(super) fn changing(&self) -> Vec<PersonId> {
        let merged = self
            .merges
            .iter()
            .flat_map(|(loser, survivor)| [*loser, *survivor]);
        self.people
            .values()
            .filter(|working| working.is_changed())
            .map(|working| working.state.id)
            .chain(merged)
            .collect()
    }

    /// After the commit: the states that may be remembered as they are, by person.
    pub(super) fn publishable(&self) -> HashMap<PersonId, Arc<PersonState>> {
        self.people
            .values()
            .filter(|working| working.is_locked && !working.must_be_reread)
            .map(|working| (working.state.id, Arc::clone(&working.state)))
            .collect()
    }

    /// After the commit: states that were loaded and did not change, with what was noted before.
    pub(super) fn unchanged_loads(&self) -> impl Iterator<Item = (Observed, Arc<PersonState>)> {
        self.people.values().filter_map(|working| {
            let observed = working.loaded?;
            (!working.is_changed()).then(|| (observed, Arc::clone(&working.state)))
        })
    }

    /// Where those identities of the batch lead now of which the node's cache does not say so yet.
    /// Writing what it holds already would cost more than looking it up did.
    pub(super) fn new_addresses(&self) -> impl Iterator<Item = (Key<'a>, PersonId, i64)> {
        let new = self.by_identity.iter().filter(|it| !it.1.is_remembered);
        new.filter_map(|(key, lead)| {
            Some((*key, lead.person, self.people.get(&lead.person)?.state.home))
        })
    }
}
