//! Batches that change nobody who is known: events of people who stay as they are, and first events
//! of newcomers.
//!
//! That is nearly all of a busy server's work, and it takes one statement: claim the message ids,
//! insert the events whose ids were claimed, create who is new, count. Nothing has to be known
//! before it, since a duplicate has no effect that would have to be left out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use uuid::Uuid;

use super::batch::{Unit, Verdict, batch_id, create_missing_partition};
use super::claim::{self, MessageKey, Standing, within_batch};
use super::decode::Item;
use super::failure::Failure;
use super::ledger::{Fate, LedgerRows};
use super::load::load_people;
use super::people_of_batch::{Key, new_state};
use super::record::{EventRows, Newcomers, RecordEvents, RecordFresh};
use super::route::{Owner, identities};
use super::shard::Shard;
use super::statements::PersonRows;
use super::traits::{compare, set_by};
use crate::model::{Call, Event, PersonId, parse_traits};
use crate::targeting::PersonState;
use crate::targeting::people::{Address, Epoch, Observed};

/// How long more duplicates are expected after one came. Clients that repeat calls repeat several,
/// and each batch that turns out to have one costs an error in the database's log.
const DUPLICATES_EXPECTED: Duration = Duration::from_secs(1);

/// A batch that changes nobody who is known.
pub(super) struct Plain<'a> {
    /// Whom each unit is about.
    people: Vec<Option<Arc<PersonState>>>,
    newcomers: Vec<Newcomer<'a>>,
    /// From before anything was read.
    epoch: Epoch,
}

/// Somebody whose first event is in the batch.
struct Newcomer<'a> {
    key: Key<'a>,
    state: Arc<PersonState>,
    observed: Observed,
    event: Uuid,
}

/// What goes into the one statement.
struct Statement<'a> {
    rows: &'a EventRows<'a>,
    newcomers: Option<&'a Newcomers<'a>>,
    ledger: &'a LedgerRows,
}

/// Whom an event is about.
enum Whom {
    /// Somebody who was found when the event came, and is who they were.
    Found(Arc<PersonState>),
    Known(PersonId),
    New,
}

impl Shard {
    /// Finds whom the batch is about; `None` if it changes somebody, or may, and so needs more than
    /// one statement.
    pub(super) fn plain<'a>(
        &mut self,
        connection: &mut PgConnection,
        units: &'a [Unit],
    ) -> Result<Option<Plain<'a>>, Failure> {
        let epoch = self.targeting.people().epoch();
        let whom: Option<Vec<Whom>> = units.iter().map(|unit| self.whom(unit)).collect();
        let Some(whom) = whom else { return Ok(None) };
        let Some(known) = self.states(connection, &whom)? else {
            return Ok(None);
        };
        if sets_traits(units, &whom, &known)? {
            return Ok(None);
        }
        let mut people = Vec::with_capacity(units.len());
        let mut newcomers: Vec<Newcomer<'a>> = Vec::new();
        let mut places: HashMap<Key<'a>, usize> = HashMap::new();
        for (unit, whom) in units.iter().zip(whom) {
            let (Item::Event(event), Some(own)) = (&unit.item, unit.own_identity()) else {
                people.push(None);
                continue;
            };
            let state = match whom {
                Whom::Found(state) => Some(state),
                Whom::Known(person) => known.get(&person).map(Arc::clone),
                Whom::New => {
                    let key = (unit.project, own);
                    let place = match places.get(&key) {
                        Some(place) => *place,
                        None => {
                            let id = self.next_person(connection)?;
                            places.insert(key, newcomers.len());
                            newcomers.push(Newcomer {
                                key,
                                state: Arc::new(new_state(key, id, event)),
                                observed: self.targeting.people().observe(id),
                                event: unit.id.0,
                            });
                            newcomers.len() - 1
                        }
                    };
                    newcomers.get(place).map(|it| Arc::clone(&it.state))
                }
            };
            let Some(state) = state else { return Ok(None) };
            people.push(Some(state));
        }
        Ok(Some(Plain {
            people,
            newcomers,
            epoch,
        }))
    }

    fn whom(&self, unit: &Unit) -> Option<Whom> {
        let event = match &unit.item {
            Item::Event(event) => event,
            Item::Rejected(_) => return None,
        };
        if matches!(event.call, Call::Alias { .. }) {
            // Only the transaction keeps its previous id, as the event's properties.
            return None;
        }
        let people = self.targeting.people();
        if let Some(found) = &unit.remembered
            // What those set is compared with one state for all of them.
            && set_by(&event.call).is_none()
            && people.still_holds(found)
        {
            return Some(Whom::Found(Arc::clone(found.state())));
        }
        let (own, linked) = identities(event);
        match (people.address(unit.project, own?), linked) {
            (Some(address), None) => Some(Whom::Known(address.person)),
            (Some(address), Some(linked)) => {
                let linked = people.address(unit.project, linked)?;
                (linked.person == address.person).then_some(Whom::Known(address.person))
            }
            (None, None) if unit.owner == Owner::Nobody => Some(Whom::New),
            (None, _) => None,
        }
    }

    /// The states of the known people, from the cache or the database; `None` if somebody was
    /// merged or taken out since.
    fn states(
        &self,
        connection: &mut PgConnection,
        whom: &[Whom],
    ) -> Result<Option<HashMap<PersonId, Arc<PersonState>>>, Failure> {
        let caches = self.targeting.people();
        let mut states = HashMap::with_capacity(whom.len());
        let mut missing = Vec::new();
        for whom in whom {
            let Whom::Known(person) = whom else { continue };
            if states.contains_key(person) {
                continue;
            }
            match caches.state(*person) {
                Some(state) => {
                    states.insert(*person, state);
                }
                None => missing.push(*person),
            }
        }
        if missing.is_empty() {
            return Ok(Some(states));
        }
        missing.sort_unstable();
        missing.dedup();
        let ids: Vec<i64> = missing.iter().map(|person| person.0).collect();
        let observed: Vec<Observed> = missing.iter().map(|&id| caches.observe(id)).collect();
        let loaded = load_people(connection, &ids)?;
        let rows = loaded.map_err(|people| Failure::TooMuch { people })?;
        if rows.len() < missing.len() || rows.iter().any(|row| row.merged_into.is_some()) {
            return Ok(None);
        }
        for row in rows {
            let state = Arc::new(PersonState::from(row));
            self.seen.catch_up(&state);
            if let Ok(place) = missing.binary_search(&state.id)
                && let Some(observed) = observed.get(place)
            {
                caches.remember_loaded(*observed, &state);
            }
            states.insert(state.id, state);
        }
        Ok(Some(states))
    }

    /// Tries a batch that changes nobody who is known.
    pub(super) fn attempt_plain(
        &mut self,
        connection: &mut PgConnection,
        units: &[Unit],
        plain: &Plain<'_>,
    ) -> Result<Vec<Verdict>, Failure> {
        let (standings, _) = within_batch(units);
        if plain.has_newcomer_by_duplicate(units, &standings) {
            return Err(Failure::Race);
        }
        let mut verdicts = self.decide_all(units, &plain.people, &standings);
        let mut ledger = LedgerRows::new(self.slot, batch_id(units));
        for (unit, standing) in units.iter().zip(&standings) {
            ledger.receive(unit.project, unit.received);
            match standing {
                Some(Standing::New(_)) => ledger.settle(unit.project, Fate::Stored),
                Some(Standing::Duplicate(_)) => ledger.settle(unit.project, Fate::Duplicate),
                None => {}
            }
        }
        let rows = rows(units, &plain.people, &standings);
        let newcomers = plain.newcomers();
        let batch = Statement {
            rows: &rows,
            newcomers: newcomers.as_ref(),
            ledger: &ledger,
        };
        let recorded = match self.record_fresh(connection, &batch) {
            Ok(true) => Ok(Some(HashSet::new())),
            Ok(false) => self.record(connection, &batch),
            Err(error) => Err(error),
        };
        let unstored = match recorded {
            Ok(Some(unstored)) => unstored,
            Ok(None) => {
                self.look_for_bucket(connection)?;
                return Err(Failure::Race);
            }
            Err(error) => return Err(after_failure(connection, error, verdicts)),
        };
        plain.remember(self);
        if !unstored.is_empty()
            && let Err(error) = name_duplicates(connection, units, &unstored, &mut verdicts)
        {
            // The batch is committed; only who is the first of an id is open.
            return Err(Failure::Unknown {
                reason: error.to_string(),
                verdicts,
            });
        }
        for ((unit, verdict), person) in units.iter().zip(&verdicts).zip(&plain.people) {
            if let (
                Item::Event(event),
                Verdict::Stored {
                    duplicate: false, ..
                },
                Some(person),
            ) = (&unit.item, verdict, person)
            {
                self.seen.note(person, event.received_at);
            }
        }
        Ok(verdicts)
    }

    /// Records a batch that has no duplicates; false if it has some after all, or if some are to be
    /// expected, since what fails was work for nothing.
    fn record_fresh(
        &mut self,
        connection: &mut PgConnection,
        batch: &Statement<'_>,
    ) -> QueryResult<bool> {
        let expected = self.expects_duplicates_until;
        if expected.is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        let statement = RecordFresh {
            bucket: self.bucket,
            rows: batch.rows,
            newcomers: batch.newcomers,
            ledger: batch.ledger,
        };
        match statement.execute(connection) {
            Ok(_) => Ok(true),
            Err(DieselError::DatabaseError(
                DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::SerializationFailure,
                _,
            )) => {
                self.expects_duplicates_until = Some(Instant::now() + DUPLICATES_EXPECTED);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Records a batch and returns the events that were not stored, as duplicates; `None` if nothing
    /// was done since the bucket is not current any more.
    fn record(
        &self,
        connection: &mut PgConnection,
        batch: &Statement<'_>,
    ) -> QueryResult<Option<HashSet<Uuid>>> {
        let statement = RecordEvents {
            bucket: self.bucket,
            rows: batch.rows,
            newcomers: batch.newcomers,
            ledger: batch.ledger,
        };
        let unstored: Vec<(Uuid, bool)> = statement.load(connection)?;
        let by_id = |(id, bucket_is_current): (Uuid, bool)| bucket_is_current.then_some(id);
        Ok(unstored.into_iter().map(by_id).collect())
    }

    fn decide_all(
        &mut self,
        units: &[Unit],
        people: &[Option<Arc<PersonState>>],
        standings: &[Option<Standing>],
    ) -> Vec<Verdict> {
        units
            .iter()
            .zip(people)
            .zip(standings)
            .map(|((unit, person), standing)| {
                let (Item::Event(event), Some(own), Some(person), Some(standing)) =
                    (&unit.item, unit.own_identity(), person, standing)
                else {
                    return Verdict::Kept;
                };
                let (id, duplicate) = match standing {
                    Standing::New(id) => (*id, false),
                    Standing::Duplicate(id) => (*id, true),
                };
                let matched = self.decide(unit, own, Some(person), event);
                if !duplicate {
                    self.seen.in_batch(person, event.received_at);
                }
                Verdict::Stored {
                    id,
                    duplicate,
                    matched,
                    traits: unit.traits(Some(person)),
                }
            })
            .collect()
    }
}

impl Plain<'_> {
    /// Whether somebody's first event repeats another one of the batch, and so creates nobody.
    fn has_newcomer_by_duplicate(&self, units: &[Unit], standings: &[Option<Standing>]) -> bool {
        !self.newcomers.is_empty()
            && units.iter().zip(standings).any(|(unit, standing)| {
                matches!(standing, Some(Standing::Duplicate(_)))
                    && self.newcomers.iter().any(|it| it.event == unit.id.0)
            })
    }

    /// What is to be written of those who are new, sorted by their names.
    fn newcomers(&self) -> Option<Newcomers<'_>> {
        if self.newcomers.is_empty() {
            return None;
        }
        let mut sorted: Vec<&Newcomer<'_>> = self.newcomers.iter().collect();
        sorted.sort_unstable_by_key(|newcomer| newcomer.key);
        let mut people = PersonRows::default();
        let mut events = Vec::with_capacity(sorted.len());
        for Newcomer {
            key: (project, identity),
            state,
            event,
            ..
        } in sorted
        {
            people.push(*project, identity, state);
            events.push(*event);
        }
        Some(Newcomers { people, events })
    }

    /// After the commit: remembers who is new.
    fn remember(&self, shard: &Shard) {
        let caches = shard.targeting.people();
        for newcomer in &self.newcomers {
            let (project, identity) = newcomer.key;
            let address = Address {
                person: newcomer.state.id,
                home: newcomer.state.home,
            };
            caches.remember_loaded(newcomer.observed, &newcomer.state);
            caches.remember_address(self.epoch, project, identity, address);
        }
    }
}

/// Whether an event of the batch sets a trait that its person does not have.
fn sets_traits(
    units: &[Unit],
    whom: &[Whom],
    known: &HashMap<PersonId, Arc<PersonState>>,
) -> Result<bool, Failure> {
    let mut calls = Vec::new();
    for (unit, whom) in units.iter().zip(whom) {
        let Item::Event(event) = &unit.item else {
            continue;
        };
        match (whom, set_by(&event.call)) {
            (_, None) => {}
            (Whom::Known(person), Some(traits)) => calls.push((*person, traits)),
            (Whom::New, Some(traits)) if parse_traits(traits.as_str()).is_empty() => {}
            (Whom::New | Whom::Found(_), Some(_)) => return Ok(true),
        }
    }
    let state = |person| known.get(&person).cloned();
    for compared in compare(&mut calls, state) {
        let (_, unchanged) = compared.map_err(|people| Failure::TooMuch { people })?;
        if unchanged.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The events that are the first of their ids in the batch, in the order of the claims' index.
fn rows<'a>(
    units: &'a [Unit],
    people: &[Option<Arc<PersonState>>],
    standings: &[Option<Standing>],
) -> EventRows<'a> {
    let mut first: Vec<(&Unit, &Event, PersonId)> = units
        .iter()
        .zip(people)
        .zip(standings)
        .filter_map(|((unit, person), standing)| {
            let Item::Event(event) = &unit.item else {
                return None;
            };
            matches!(standing, Some(Standing::New(_))).then_some((
                unit,
                event.as_ref(),
                person.as_ref()?.id,
            ))
        })
        .collect();
    first.sort_unstable_by_key(|(unit, _, _)| (unit.project, unit.digest));
    let mut rows = EventRows::with_capacity(first.len());
    for (unit, event, person) in first {
        rows.push(unit.project, unit.id, unit.digest, person, event, None);
    }
    rows
}

/// Turns the verdicts of events that were not stored into those of duplicates.
fn name_duplicates(
    connection: &mut PgConnection,
    units: &[Unit],
    unstored: &HashSet<Uuid>,
    verdicts: &mut [Verdict],
) -> QueryResult<()> {
    let keys: HashSet<MessageKey> = units
        .iter()
        .filter(|unit| unstored.contains(&unit.id.0))
        .filter_map(Unit::key)
        .collect();
    let stored = claim::find(connection, keys.iter())?;
    claim::correct(units, verdicts, &stored, |key| keys.contains(key));
    Ok(())
}

/// What a failure of the one statement means. A connection that was lost may have committed.
fn after_failure(
    connection: &mut PgConnection,
    error: DieselError,
    verdicts: Vec<Verdict>,
) -> Failure {
    if let Err(failure) = create_missing_partition(connection, &error) {
        return failure;
    }
    match Failure::from(error) {
        Failure::Unavailable(reason) => Failure::Unknown { reason, verdicts },
        other => other,
    }
}
