//! One event after the other: what it does to its people, and what they should see now.

use std::sync::Arc;

use diesel::sql_types::BigInt;
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use serde_json::{Map, Value};

use super::batch::{Unit, Verdict, Work};
use super::claim::Standing;
use super::decode::Rejection;
use super::failure::FillError;
use super::people_of_batch::{Key, PeopleOfBatch};
use super::route::identities;
use super::shard::Shard;
use super::traits::{Traits, set_by};
use crate::error::Code;
use crate::model::{Call, Event, EventId, PersonId, RawJson, parse_traits};

impl Shard {
    /// Applies one event to the people of the batch and decides what to show.
    pub(super) fn apply<'a>(
        &mut self,
        connection: &mut PgConnection,
        work: &mut Work<'a>,
        unit: &'a Unit,
        event: &'a Event,
        standing: Standing,
    ) -> Result<(Verdict, Option<PersonId>), FillError> {
        let (Some(own), linked) = identities(event) else {
            return Ok((Verdict::Kept, None));
        };
        let project = unit.project;
        let key = (project, own);
        let (id, is_new) = match standing {
            Standing::New(id) => (id, true),
            // The event it would repeat was refused, so this one takes that one's place.
            Standing::Duplicate(id) => (id, work.released.remove(&id).is_some()),
        };
        let mut person = work.people.address(key);
        if is_new {
            let patch = set_by(&event.call).map(RawJson::as_str);
            let patch = patch.map(parse_traits).unwrap_or_default();
            let other = linked.map(|linked| (project, linked));
            if self.would_outgrow(&mut work.people, event, key, other, &patch) {
                return Ok(self.refuse_traits(work, unit, event, id));
            }
            let target = match (linked, person) {
                (Some(linked), _) => {
                    let linked = (project, linked);
                    match self.link(connection, &mut work.people, event, key, linked)? {
                        Some(person) => person,
                        None => return Ok(self.refuse_identities(work, unit, event, id)),
                    }
                }
                (None, Some(person)) => person,
                (None, None) => work
                    .people
                    .create(key, self.next_person(connection)?, event),
            };
            set_traits(&mut work.people, target, patch, standing)?;
            person = Some(target);
        }
        let is_read = unit.wants.traits || self.to_decide_on(unit, event).is_some();
        let wanted = person.filter(|_| is_read);
        let state = wanted.and_then(|person| work.people.settled(person));
        let matched = self.decide(unit, own, state, event);
        let traits = unit.traits(state.map(Arc::as_ref));
        if let Some(state) = person.and_then(|person| work.people.state(person))
            && is_new
        {
            self.seen.in_batch(state, event.received_at);
        }
        Ok((
            Verdict::Stored {
                id,
                duplicate: !is_new,
                matched,
                traits,
            },
            person,
        ))
    }

    /// Makes the event's own identity and the linked one the same person, and returns it; nobody if
    /// that person would have more identities than are allowed.
    fn link<'a>(
        &mut self,
        connection: &mut PgConnection,
        people: &mut PeopleOfBatch<'a>,
        event: &'a Event,
        own: Key<'a>,
        linked: Key<'a>,
    ) -> Result<Option<PersonId>, FillError> {
        let (own_person, linked_person) = (people.address(own), people.address(linked));
        if let (Some(one), Some(other)) = (own_person, linked_person)
            && one == other
        {
            return Ok(Some(one));
        }
        if own_person
            .into_iter()
            .chain(linked_person)
            .any(|person| !people.is_locked(person))
        {
            return Err(FillError::Race);
        }
        let person = match (own_person, linked_person) {
            (Some(one), Some(other)) => {
                if !is_joined(people, event, Some(one), other) {
                    return Ok(Some(one));
                }
                if !self.has_room(people, &[one, other], 0)? {
                    return Ok(None);
                }
                people.merge(one, other)
            }
            (Some(one), None) => {
                if !self.has_room(people, &[one], 1)? {
                    return Ok(None);
                }
                people.add_identity(linked, one, event.received_at);
                one
            }
            (None, Some(other)) if is_joined(people, event, None, other) => {
                if !self.has_room(people, &[other], 1)? {
                    return Ok(None);
                }
                people.add_identity(own, other, event.received_at);
                other
            }
            (None, Some(_)) => people.create(own, self.next_person(connection)?, event),
            (None, None) => {
                let person = people.create(own, self.next_person(connection)?, event);
                people.add_identity(linked, person, event.received_at);
                person
            }
        };
        Ok(Some(person))
    }

    /// Whether the traits, after linking and merging, could be over the limit. Both people's count
    /// if they become one. Traits that stay as they are may be of any size: a batch
    /// that changes nobody is one statement, which does not measure them.
    fn would_outgrow(
        &self,
        people: &mut PeopleOfBatch<'_>,
        event: &Event,
        own: Key<'_>,
        linked: Option<Key<'_>>,
        patch: &Map<String, Value>,
    ) -> bool {
        let own = people.address(own);
        let linked = linked.and_then(|linked| people.address(linked));
        let linked = linked.filter(|linked| own != Some(*linked));
        let linked = linked.filter(|linked| is_joined(people, event, own, *linked));
        if patch.is_empty() && (own.is_none() || linked.is_none()) {
            return false;
        }
        let is_locked = |person: &PersonId| people.is_locked(*person);
        if own.iter().chain(&linked).any(|person| !is_locked(person)) {
            // Nothing of theirs changes: they have the traits, or else the batch is tried again.
            return false;
        }
        let bytes_max = self.options.traits_bytes_max;
        if let (Some(own), Some(linked)) = (own, linked) {
            return people.outgrow((own, linked), bytes_max, patch);
        }
        match own.or(linked).and_then(|person| people.traits(person)) {
            // Where nothing changes it may be any size.
            Some(held) => held.bytes_with(patch) > bytes_max && !held.has(patch),
            None => Traits::default().bytes_with(patch) > bytes_max,
        }
    }

    fn refuse_traits(
        &self,
        work: &mut Work<'_>,
        unit: &Unit,
        event: &Event,
        id: EventId,
    ) -> (Verdict, Option<PersonId>) {
        let message = format!(
            "the user's traits would be larger than {} bytes",
            self.options.traits_bytes_max
        );
        refuse(work, unit, event, id, Code::TraitsTooLarge, message)
    }

    /// A number for somebody new.
    pub(super) fn next_person(&mut self, connection: &mut PgConnection) -> QueryResult<PersonId> {
        if self.person_ids.is_empty() {
            let first: i64 =
                diesel::select(diesel::dsl::sql::<BigInt>("nextval('persons_id_seq')"))
                    .get_result(connection)?;
            self.person_ids = first..first + PERSON_ID_BLOCK;
        }
        Ok(PersonId(self.person_ids.next().unwrap_or_default()))
    }
}

/// Whether a call makes its own person and the linked one the same. An alias says so explicitly. An
/// identify does not merge two people who both have a user id: its anonymous id may come from a device
/// that two users share.
fn is_joined(
    people: &PeopleOfBatch<'_>,
    event: &Event,
    own: Option<PersonId>,
    linked: PersonId,
) -> bool {
    let has_user = |person: PersonId| {
        let state = people.state(person);
        state.is_some_and(|state| state.user_id.is_some())
    };
    matches!(event.call, Call::Alias { .. })
        || !has_user(linked)
        || own.is_some_and(|own| !has_user(own))
}

/// How many numbers one step of `persons_id_seq` stands for, as its migration says.
const PERSON_ID_BLOCK: i64 = 100;

/// Keeps an event in the ledger as rejected, and leaves its message id to another one.
pub(super) fn refuse(
    work: &mut Work<'_>,
    unit: &Unit,
    event: &Event,
    id: EventId,
    code: Code,
    message: String,
) -> (Verdict, Option<PersonId>) {
    if let Some(key) = unit.key() {
        work.released.insert(id, key);
    }
    let rejection = Rejection::of_event(event, code, message);
    (Verdict::Rejected(rejection), None)
}

/// Merges traits into a person's, shallowly; traits the person has already change nothing. Who is not
/// locked has those of every event that was taken for new when the people were chosen.
fn set_traits(
    people: &mut PeopleOfBatch<'_>,
    person: PersonId,
    patch: Map<String, Value>,
    standing: Standing,
) -> Result<(), FillError> {
    if patch.is_empty() {
        return Ok(());
    }
    if !people.is_locked(person) {
        return match standing {
            Standing::New(_) => Ok(()),
            Standing::Duplicate(_) => Err(FillError::Race),
        };
    }
    let held = people.traits(person);
    if held.is_some_and(|traits| !traits.has(&patch)) {
        people.set_traits(person, patch);
    }
    Ok(())
}
