//! Whom a batch is about: addresses, row locks, states.

use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::pg::PgRowByRowLoadingMode;
use diesel::{PgConnection, QueryResult, RunQueryDsl};

use super::batch::Unit;
use super::claim::Standing;
use super::decode::Item;
use super::failure::FillError;
use super::people_of_batch::{Key, PeopleOfBatch};
use super::route::{Owner, identities};
use super::shard::Shard;
use super::traits::{compare, set_by};
use crate::model::{Identity, PersonId, ProjectId};
use crate::store::person_state::{LoadPeople, LockPeople, PersonRow};
use crate::targeting::people::Address;
use crate::targeting::{PersonState, load_addresses};

impl Shard {
    /// Finds out who has the identities that nobody has looked up yet, those of a project in one
    /// query.
    pub(super) fn look_up(
        &self,
        connection: &mut PgConnection,
        units: &mut [Unit],
    ) -> QueryResult<()> {
        let is_unasked = |unit: &Unit| unit.owner == Owner::Unasked;
        let mut unknown: BTreeMap<ProjectId, Vec<Identity>> = BTreeMap::new();
        for unit in units.iter().filter(|unit| is_unasked(unit)) {
            if let Some(own) = unit.own_identity() {
                unknown.entry(unit.project).or_default().push(own.clone());
            }
        }
        let people = self.targeting.people();
        let mut known: HashMap<ProjectId, HashSet<Identity>> = HashMap::new();
        for (project, mut identities) in unknown {
            identities.sort_unstable();
            identities.dedup();
            let epoch = people.epoch();
            for (identity, address) in load_addresses(connection, project, &identities)? {
                people.remember_address(epoch, project, &identity, address);
                known.entry(project).or_default().insert(identity);
            }
        }
        for unit in units.iter_mut().filter(|unit| is_unasked(unit)) {
            let known = known.get(&unit.project);
            let is_known = |own: &Identity| known.is_some_and(|known| known.contains(own));
            unit.owner = match unit.own_identity().is_none_or(is_known) {
                true => Owner::Somebody,
                false => Owner::Nobody,
            };
        }
        Ok(())
    }

    /// Finds whom the batch is about and reads their state, under their row locks where an event
    /// may change it.
    pub(super) fn find_people<'a>(
        &self,
        connection: &mut PgConnection,
        units: &'a [Unit],
        standings: &[Option<Standing>],
        fresh: bool,
    ) -> Result<PeopleOfBatch<'a>, FillError> {
        let caches = self.targeting.people();
        let mut people = PeopleOfBatch::default();
        let mut unknown: HashMap<ProjectId, Vec<Identity>> = HashMap::new();
        let mut keys: Vec<Key<'a>> = Vec::new();
        for unit in units {
            let Item::Event(event) = &unit.item else {
                continue;
            };
            let (own, linked) = identities(event);
            keys.extend(
                own.into_iter()
                    .chain(linked)
                    .map(|identity| (unit.project, identity)),
            );
        }
        keys.sort_unstable();
        keys.dedup();
        for &(project, identity) in &keys {
            let remembered = if fresh {
                None
            } else {
                caches.address(project, identity)
            };
            match remembered {
                Some(address) => {
                    people.set_remembered_address((project, identity), address.person);
                }
                None => unknown.entry(project).or_default().push(identity.clone()),
            }
        }
        for (project, identities) in unknown {
            let found = load_addresses(connection, project, &identities)?;
            let found: HashMap<Identity, Address> = found.into_iter().collect();
            for &(owner, identity) in keys.iter().filter(|(owner, _)| *owner == project) {
                if let Some(address) = found.get(identity) {
                    people.set_address((owner, identity), address.person);
                }
            }
        }
        let (locked, linked) = self.people_to_lock(units, standings, &mut people, fresh)?;
        self.read_states(connection, &mut people, &locked)?;
        self.count_identities(connection, &mut people, &linked)?;
        Ok(people)
    }

    /// The people whose state an event of the batch may change: those it links, and those it
    /// identifies with traits they do not have yet; and apart, those it links. A duplicate changes
    /// nobody unless the event it repeats is refused; that is rare enough for the second attempt.
    /// Takes in the states of those who have their traits, so that they are decided on as they were
    /// compared.
    fn people_to_lock(
        &self,
        units: &[Unit],
        standings: &[Option<Standing>],
        people: &mut PeopleOfBatch<'_>,
        fresh: bool,
    ) -> Result<(Vec<PersonId>, Vec<PersonId>), FillError> {
        let caches = self.targeting.people();
        let (mut locked, mut to_link) = (Vec::new(), Vec::new());
        let mut calls = Vec::new();
        for (unit, standing) in units.iter().zip(standings) {
            let Item::Event(event) = &unit.item else {
                continue;
            };
            if !fresh && matches!(standing, Some(Standing::Duplicate(_))) {
                continue;
            }
            let (own, linked) = identities(event);
            let own = own.and_then(|identity| people.address((unit.project, identity)));
            let linked_person =
                linked.and_then(|identity| people.address((unit.project, identity)));
            if linked.is_some() && (own.is_none() || own != linked_person) {
                to_link.extend(own.into_iter().chain(linked_person));
            }
            if let (Some(own), Some(traits)) = (own, set_by(&event.call)) {
                calls.push((own, traits));
            }
        }
        let state = |person| caches.state(person).filter(|_| !fresh);
        for compared in compare(&mut calls, state) {
            let (person, unchanged) = compared.map_err(|people| FillError::TooMuch { people })?;
            match unchanged {
                Some(state) => people.insert_cached(state),
                None => locked.push(person),
            }
        }
        to_link.sort_unstable();
        to_link.dedup();
        locked.extend_from_slice(&to_link);
        locked.sort_unstable();
        locked.dedup();
        Ok((locked, to_link))
    }

    fn read_states(
        &self,
        connection: &mut PgConnection,
        people: &mut PeopleOfBatch<'_>,
        locked: &[PersonId],
    ) -> Result<(), FillError> {
        let caches = self.targeting.people();
        if !locked.is_empty() {
            let ids: Vec<i64> = locked.iter().map(|person| person.0).collect();
            let _: Vec<i64> = LockPeople { ids: &ids }.load(connection)?;
        }
        let mut wanted = Vec::new();
        let mut observed = HashMap::new();
        for person in people.addressed() {
            let is_locked = locked.binary_search(&person).is_ok();
            if !is_locked && people.state(person).is_some() {
                continue;
            }
            match caches.state(person).filter(|_| !is_locked) {
                Some(state) => people.insert_cached(state),
                None => {
                    observed.insert(person, caches.observe(person));
                    wanted.push(person.0);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let loaded = load_people(connection, &wanted)?;
        let rows = loaded.map_err(|people| FillError::TooMuch { people })?;
        if rows.len() < wanted.len() || rows.iter().any(|row| row.merged_into.is_some()) {
            // A remembered address leads to somebody who was merged or taken out since.
            return Err(FillError::Race);
        }
        for row in rows {
            let state = PersonState::from(row);
            self.seen.catch_up(&state);
            if let Some(observed) = observed.get(&state.id) {
                let is_locked = locked.binary_search(&state.id).is_ok();
                people.insert_loaded(state, is_locked, *observed);
            }
        }
        Ok(())
    }
}

/// How much text the traits of the people of one transaction may have, in bytes. One event's are always
/// read.
const PEOPLE_BYTES_MAX: usize = 16 << 20;

/// How many people are always loaded together, however large they are. One event is about two at most.
const PEOPLE_FEW: usize = 2;

/// How many are asked for at once. All of them are sent, however many of them are then read.
const PEOPLE_AT_ONCE: usize = 128;

/// Loads people. An error says how many were read of those who are more than can be held at once,
/// however small the events that name them are. How large somebody is says nothing of who comes next,
/// so one row is read after the other.
pub(super) fn load_people(
    connection: &mut PgConnection,
    ids: &[i64],
) -> QueryResult<Result<Vec<PersonRow>, usize>> {
    let mut rows: Vec<PersonRow> = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    for now in ids.chunks(PEOPLE_AT_ONCE) {
        let query = LoadPeople { ids: now };
        for row in query.load_iter::<PersonRow, PgRowByRowLoadingMode>(connection)? {
            let row = row?;
            bytes += row.traits.len();
            rows.push(row);
            if bytes > PEOPLE_BYTES_MAX && ids.len() > PEOPLE_FEW {
                return Ok(Err(rows.len()));
            }
        }
    }
    Ok(Ok(rows))
}
