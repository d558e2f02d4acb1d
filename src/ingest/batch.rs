//! One batch, one transaction: claim the message ids, find the people, apply the events one after
//! the other, write everything sorted by key, commit.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{Array, BigInt, Text};
use diesel::{PgConnection, QueryResult, RunQueryDsl, sql_query};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::decode::{Item, Rejection};
use super::people_of_batch::{Key, PeopleOfBatch};
use super::route::identities;
use super::shard::Shard;
use super::statements::{
    ClaimMessageIds, EventRows, FindMessageIds, InsertEvents, InsertIdentities, InsertPeople,
    MessageIds, ReleaseMessageIds, TouchPeople, UpdateTraits,
};
use crate::error::Code;
use crate::matcher::{Occurrence, Snapshot};
use crate::model::{Call, Event, EventId, Identity, PersonId, ProjectId, RawJson};
use crate::store::partitions::{self, MESSAGE_BUCKET_LOCK};
use crate::store::person_state::{LoadPeople, LockPeople, PersonRow};
use crate::store::{is_unavailable, schema};
use crate::targeting::people::Address;
use crate::targeting::{LiveCampaign, PersonState, load_addresses};

/// One item of a batch and where its outcome goes.
#[derive(Debug)]
pub(super) struct Unit {
    /// Which of the batch's callers sent it.
    pub(super) caller: usize,
    /// Its place in that caller's request.
    pub(super) place: usize,
    pub(super) project: ProjectId,
    pub(super) item: Item,
}

/// What became of a unit.
#[derive(Debug)]
pub(super) enum Verdict {
    Stored {
        id: EventId,
        duplicate: bool,
        matched: Vec<Arc<LiveCampaign>>,
        traits: Arc<Value>,
    },
    Rejected(Rejection),
    /// A rejection that is now in the ledger, or a call that is dropped on purpose.
    Kept,
}

/// Why a batch was not committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another writer was faster somewhere; the same batch can be tried again at once.
    Race,
    /// The database cannot hold the data of some event.
    Refused(String),
    /// The connection cannot be used any more, or the outcome is unknown.
    Unavailable(String),
}

impl From<DieselError> for Failure {
    fn from(error: DieselError) -> Self {
        let text = error.to_string();
        if text.contains("deadlock detected") || text.contains("no partition of relation") {
            return Self::Race;
        }
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => Self::Race,
            DieselError::DatabaseError(
                DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::NotNullViolation
                // The only references are to projects: this one is gone.
                | DatabaseErrorKind::ForeignKeyViolation,
                _,
            ) => Self::Refused(text),
            DieselError::DatabaseError(DatabaseErrorKind::Unknown, _)
                if !is_unavailable(&error) && DATA_MESSAGES.iter().any(|m| text.contains(m)) =>
            {
                Self::Refused(text)
            }
            DieselError::SerializationError(_) => Self::Refused(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// How Postgres begins to say that it cannot hold a value (SQLSTATE classes 22 and 54). Anything
/// else that is unknown is the server's trouble, not the event's.
const DATA_MESSAGES: [&str; 10] = [
    "invalid input syntax",
    "unsupported Unicode escape",
    "invalid byte sequence",
    "out of range",
    "index row",
    "stack depth limit",
    "total size of jsonb",
    "string too long to represent",
    "overflows numeric format",
    "has no equivalent in encoding",
];

/// Where an event stands by its message id.
#[derive(Debug, Clone, Copy)]
enum Standing {
    New(EventId),
    Duplicate(EventId),
}

/// The batch's events by what is known of them, in the order of the units.
struct Work<'a> {
    people: PeopleOfBatch<'a>,
    standings: Vec<Option<Standing>>,
    verdicts: Vec<Verdict>,
    filed_under: Vec<Option<PersonId>>,
    /// The message ids of events that were refused, under the event ids they were claimed for.
    released: HashMap<EventId, (i64, [u8; 32])>,
}

impl Shard {
    /// Tries the batch once. `fresh` distrusts what is remembered of addresses, after a race.
    pub(super) fn attempt(
        &mut self,
        connection: &mut PgConnection,
        units: &[Unit],
        fresh: bool,
    ) -> Result<Vec<Verdict>, Failure> {
        // Holding the lock keeps the buckets of message ids from being rotated under the batch.
        AnsiTransactionManager::begin_transaction_sql(
            connection,
            &format!("BEGIN; SELECT pg_advisory_xact_lock_shared({MESSAGE_BUCKET_LOCK})"),
        )
        .map_err(unavailable)?;
        let work = match self.fill(connection, units, fresh) {
            Ok(work) => work,
            Err(error) => return Err(self.roll_back(connection, error)),
        };
        let people = self.targeting.people();
        let change = people.begin_change(work.people.changing());
        if let Err(error) = AnsiTransactionManager::commit_transaction(connection) {
            change.forget(people);
            self.unsettled.push(change);
            return Err(unavailable(error));
        }
        let states = work.people.publishable();
        change.publish(people, |person| states.get(&person));
        for (observed, state) in work.people.unchanged_loads() {
            people.remember_loaded(observed, &state);
        }
        for ((project, identity), person, home) in work.people.addresses() {
            people.remember_address(project, identity, Address { person, home });
        }
        Ok(work.verdicts)
    }

    fn roll_back(&self, connection: &mut PgConnection, error: FillError) -> Failure {
        let partition_is_missing = matches!(
            &error,
            FillError::Database(error) if error.to_string().contains("no partition of relation")
        );
        if let Err(error) = AnsiTransactionManager::rollback_transaction(connection) {
            return unavailable(error);
        }
        if partition_is_missing
            && let Err(error) = partitions::database_now(connection)
                .and_then(|now| partitions::ensure_day(connection, now.date_naive()))
        {
            return unavailable(error);
        }
        match error {
            FillError::Database(error) => Failure::from(error),
            FillError::Race => Failure::Race,
        }
    }

    /// Locks the people of changes whose outcome is unknown: whoever gets the locks knows that the
    /// session that made them has ended, so they may be remembered again. While that session lives
    /// on (the server may not know yet that it is lost) the shard works without waiting for it.
    pub(super) fn settle_unknown(&mut self, connection: &mut PgConnection) -> Result<(), Failure> {
        while let Some(change) = self.unsettled.last() {
            let ids: Vec<i64> = change.people().iter().map(|person| person.0).collect();
            let locked: QueryResult<Vec<i64>> = connection.build_transaction().run(|connection| {
                connection.batch_execute("SET LOCAL lock_timeout = '100ms'")?;
                LockPeople { ids: &ids }.load(connection)
            });
            match locked {
                Ok(_) => {}
                Err(error) if error.to_string().contains("lock timeout") => return Ok(()),
                Err(error) => return Err(unavailable(error)),
            }
            if let Some(change) = self.unsettled.pop() {
                change.abandon(self.targeting.people());
            }
        }
        Ok(())
    }

    fn fill<'a>(
        &mut self,
        connection: &mut PgConnection,
        units: &'a [Unit],
        fresh: bool,
    ) -> Result<Work<'a>, FillError> {
        let standings = self.claim(connection, units)?;
        let people = self.find_people(connection, units, &standings, fresh)?;
        let mut work = Work {
            people,
            standings,
            verdicts: Vec::with_capacity(units.len()),
            filed_under: Vec::with_capacity(units.len()),
            released: HashMap::new(),
        };
        for (index, unit) in units.iter().enumerate() {
            let (verdict, person) = match (&unit.item, work.standings.get(index).copied().flatten())
            {
                (Item::Event(event), Some(standing)) => {
                    self.apply(connection, &mut work, unit.project, event, standing)?
                }
                _ => (Verdict::Kept, None),
            };
            work.verdicts.push(verdict);
            work.filed_under.push(person);
        }
        write(connection, units, &work)?;
        Ok(work)
    }

    /// Claims the message ids of the batch and tells for each event whether it is the first.
    fn claim(
        &mut self,
        connection: &mut PgConnection,
        units: &[Unit],
    ) -> Result<Vec<Option<Standing>>, FillError> {
        let mut first_of: HashMap<(i64, [u8; 32]), EventId> = HashMap::new();
        let mut standings: Vec<Option<Standing>> = Vec::with_capacity(units.len());
        let mut keys: Vec<Option<(i64, [u8; 32])>> = Vec::with_capacity(units.len());
        for unit in units {
            let Item::Event(event) = &unit.item else {
                standings.push(None);
                keys.push(None);
                continue;
            };
            let fresh_id = EventId(Uuid::now_v7());
            let key = event
                .message_id
                .as_ref()
                .map(|id| (unit.project.0, digest(id.as_str())));
            let standing = match key.and_then(|key| first_of.get(&key)) {
                Some(first) => Standing::Duplicate(*first),
                None => Standing::New(fresh_id),
            };
            if let Some(key) = key {
                first_of.entry(key).or_insert(fresh_id);
            }
            standings.push(Some(standing));
            keys.push(key);
        }
        let stored = self.claim_keys(connection, &first_of)?;
        if !stored.is_empty() {
            for (standing, key) in standings.iter_mut().zip(&keys) {
                if let Some(id) = key.as_ref().and_then(|key| stored.get(key)) {
                    *standing = Some(Standing::Duplicate(*id));
                }
            }
        }
        Ok(standings)
    }

    /// Claims the keys and returns those that belong to an earlier event, with its id.
    fn claim_keys(
        &mut self,
        connection: &mut PgConnection,
        first_of: &HashMap<(i64, [u8; 32]), EventId>,
    ) -> Result<HashMap<(i64, [u8; 32]), EventId>, FillError> {
        if first_of.is_empty() {
            return Ok(HashMap::new());
        }
        let mut sorted: Vec<_> = first_of.iter().collect();
        sorted.sort_unstable();
        let mut ids = MessageIds::default();
        for ((project, digest), event) in sorted {
            ids.projects.push(*project);
            ids.digests.push(digest.to_vec());
            ids.event_ids.push(event.0);
        }
        let unclaimed: Vec<(i64, Vec<u8>)> = if self.bucket == 0 {
            ClaimMessageIds::<0> { ids: &ids }.load(connection)?
        } else {
            ClaimMessageIds::<1> { ids: &ids }.load(connection)?
        };
        if unclaimed.is_empty() {
            return Ok(HashMap::new());
        }
        let count = unclaimed.len();
        let (projects, digests): (Vec<i64>, Vec<Vec<u8>>) = unclaimed.into_iter().unzip();
        let found: Vec<(i64, Vec<u8>, Uuid)> = FindMessageIds {
            projects: &projects,
            digests: &digests,
        }
        .load(connection)?;
        let stored: HashMap<(i64, [u8; 32]), EventId> = found
            .into_iter()
            .filter_map(|(project, digest, id)| {
                Some(((project, <[u8; 32]>::try_from(digest).ok()?), EventId(id)))
            })
            .collect();
        if stored.len() < count {
            // The buckets were rotated since this shard looked.
            use diesel::QueryDsl;
            use schema::message_buckets::dsl::{current_bucket, message_buckets};
            self.bucket = message_buckets.select(current_bucket).first(connection)?;
            return Err(FillError::Race);
        }
        Ok(stored)
    }

    /// Finds whom the batch is about and reads their state, under their row locks where an event
    /// may change it.
    fn find_people<'a>(
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
                Some(address) => people.set_address((project, identity), address.person),
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
        let locked = self.people_to_lock(units, standings, &people, fresh);
        self.read_states(connection, &mut people, &locked)?;
        Ok(people)
    }

    /// The people whose state an event of the batch may change: those it links, and those it
    /// identifies with traits they do not have yet. A duplicate changes nobody unless the event it
    /// repeats is refused; that is rare enough for the second attempt.
    fn people_to_lock(
        &self,
        units: &[Unit],
        standings: &[Option<Standing>],
        people: &PeopleOfBatch<'_>,
        fresh: bool,
    ) -> Vec<PersonId> {
        let caches = self.targeting.people();
        let mut locked = Vec::new();
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
                locked.extend(own.into_iter().chain(linked_person));
            }
            if let (
                Some(own),
                Call::Identify {
                    traits: Some(traits),
                },
            ) = (own, &event.call)
            {
                let patch = parse_traits(traits);
                let changes_nothing = !fresh
                    && caches.state(own).is_some_and(|state| {
                        let held = state.traits_object();
                        patch
                            .iter()
                            .all(|(name, value)| held.get(name) == Some(value))
                    });
                if !changes_nothing {
                    locked.push(own);
                }
            }
        }
        locked.sort_unstable();
        locked.dedup();
        locked
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
            let cached = if locked.binary_search(&person).is_ok() {
                None
            } else {
                caches.state(person)
            };
            match cached {
                Some(state) => people.insert_cached(&state),
                None => {
                    observed.insert(person, caches.observe(person));
                    wanted.push(person.0);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let rows: Vec<PersonRow> = LoadPeople { ids: &wanted }.load(connection)?;
        if rows.len() < wanted.len() || rows.iter().any(|row| row.merged_into.is_some()) {
            // A remembered address leads to somebody who was merged or taken out since.
            return Err(FillError::Race);
        }
        for row in rows {
            let state = PersonState::from(row);
            if let Some(observed) = observed.get(&state.id) {
                let is_locked = locked.binary_search(&state.id).is_ok();
                people.insert_loaded(state, is_locked, *observed);
            }
        }
        Ok(())
    }

    /// Applies one event to the people of the batch and decides what to show.
    fn apply<'a>(
        &mut self,
        connection: &mut PgConnection,
        work: &mut Work<'a>,
        project: ProjectId,
        event: &'a Event,
        standing: Standing,
    ) -> Result<(Verdict, Option<PersonId>), FillError> {
        let (Some(own), linked) = identities(event) else {
            return Ok((Verdict::Kept, None));
        };
        let key = (project, own);
        let (id, is_new) = match standing {
            Standing::New(id) => (id, true),
            // The event it would repeat was refused, so this one takes that one's place.
            Standing::Duplicate(id) => (id, work.released.remove(&id).is_some()),
        };
        let mut person = work.people.address(key);
        if is_new {
            let patch = match &event.call {
                Call::Identify {
                    traits: Some(traits),
                } => parse_traits(traits),
                _ => Map::new(),
            };
            if self.would_outgrow(&work.people, key, linked.map(|it| (project, it)), &patch) {
                return Ok(self.refuse_traits(work, project, event, id));
            }
            let target = match (linked, person) {
                (Some(linked), _) => {
                    self.link(connection, &mut work.people, event, key, (project, linked))?
                }
                (None, Some(person)) => person,
                (None, None) => work
                    .people
                    .create(key, self.next_person(connection)?, event),
            };
            set_traits(&mut work.people, target, patch)?;
            person = Some(target);
        }
        let snapshot = self.targeting.snapshot(project);
        let state = person.and_then(|person| work.people.state(person));
        let matched = self.decide(&snapshot, own, state, event);
        let traits = state.map_or_else(
            || Arc::new(Value::Object(Map::new())),
            |state| Arc::clone(&state.traits),
        );
        if let (true, Some(person)) = (is_new, person) {
            work.people.see(person, event.received_at);
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

    /// Makes the event's own identity and the linked one the same person, and returns it.
    ///
    /// An alias says so explicitly. An identify does not merge two people who both have a user id:
    /// its anonymous id may come from a device that two users share.
    fn link<'a>(
        &mut self,
        connection: &mut PgConnection,
        people: &mut PeopleOfBatch<'a>,
        event: &'a Event,
        own: Key<'a>,
        linked: Key<'a>,
    ) -> Result<PersonId, FillError> {
        let is_alias = matches!(event.call, Call::Alias { .. });
        let has_user = |people: &PeopleOfBatch<'_>, person: PersonId| {
            people
                .state(person)
                .is_some_and(|state| state.user_id.is_some())
        };
        let (own_person, linked_person) = (people.address(own), people.address(linked));
        if let (Some(one), Some(other)) = (own_person, linked_person)
            && one == other
        {
            return Ok(one);
        }
        if own_person
            .into_iter()
            .chain(linked_person)
            .any(|person| !people.is_locked(person))
        {
            return Err(FillError::Race);
        }
        match (own_person, linked_person) {
            (Some(one), Some(other)) => {
                if !is_alias && has_user(people, one) && has_user(people, other) {
                    return Ok(one);
                }
                Ok(people.merge(one, other))
            }
            (Some(one), None) => {
                people.add_identity(linked, one, event.received_at);
                Ok(one)
            }
            (None, Some(other)) if is_alias || !has_user(people, other) => {
                people.add_identity(own, other, event.received_at);
                Ok(other)
            }
            (None, Some(_)) => Ok(people.create(own, self.next_person(connection)?, event)),
            (None, None) => {
                let person = people.create(own, self.next_person(connection)?, event);
                people.add_identity(linked, person, event.received_at);
                Ok(person)
            }
        }
    }

    fn decide(
        &self,
        snapshot: &Snapshot,
        own: &Identity,
        state: Option<&PersonState>,
        event: &Event,
    ) -> Vec<Arc<LiveCampaign>> {
        let name = event.call.name();
        let Some(state) = state.filter(|_| snapshot.has_trigger(name)) else {
            return Vec::new();
        };
        let object = |raw: Option<&RawJson>| {
            raw.map_or_else(
                || Value::Object(Map::new()),
                |raw| Value::Object(raw.to_object()),
            )
        };
        let (properties, context) = (
            object(event.call.properties()),
            object(event.context.as_ref()),
        );
        let occurrence = Occurrence {
            name,
            properties: &properties,
            context: &context,
            timestamp: event.timestamp,
        };
        self.targeting
            .campaigns_on_event(snapshot, own, state, occurrence, event.received_at)
    }

    /// Whether the traits, after linking and merging, could be over the limit. Both people's count,
    /// even where the link is then not made.
    fn would_outgrow(
        &self,
        people: &PeopleOfBatch<'_>,
        own: Key<'_>,
        linked: Option<Key<'_>>,
        patch: &Map<String, Value>,
    ) -> bool {
        let held = |key: Key<'_>| {
            let state = people.state(people.address(key)?)?;
            Some(state.traits_object())
        };
        let (own, linked) = (held(own), linked.and_then(held));
        if patch.is_empty() && (own.is_none() || linked.is_none()) {
            return false;
        }
        let mut merged = linked.cloned().unwrap_or_default();
        merged.extend(own.cloned().unwrap_or_default());
        merged.extend(patch.clone());
        size_of_traits(&merged) > self.options.traits_bytes_max
    }

    fn refuse_traits(
        &self,
        work: &mut Work<'_>,
        project: ProjectId,
        event: &Event,
        id: EventId,
    ) -> (Verdict, Option<PersonId>) {
        if let Some(message) = &event.message_id {
            work.released
                .insert(id, (project.0, digest(message.as_str())));
        }
        let rejection = Rejection {
            code: Code::TraitsTooLarge,
            message: format!(
                "the user's traits would be larger than {} bytes",
                self.options.traits_bytes_max
            ),
            fields: Vec::new(),
            payload: describe(event),
            message_id: event.message_id.as_ref().map(|id| id.as_str().to_owned()),
        };
        (Verdict::Rejected(rejection), None)
    }

    fn next_person(&mut self, connection: &mut PgConnection) -> QueryResult<PersonId> {
        if self.person_ids.is_empty() {
            let first: i64 =
                diesel::select(diesel::dsl::sql::<BigInt>("nextval('persons_id_seq')"))
                    .get_result(connection)?;
            self.person_ids = first..first + PERSON_ID_BLOCK;
        }
        Ok(PersonId(self.person_ids.next().unwrap_or_default()))
    }
}

/// How many numbers one step of `persons_id_seq` stands for, as its migration says.
const PERSON_ID_BLOCK: i64 = 100;

/// Why a transaction could not be filled.
#[derive(Debug)]
enum FillError {
    Race,
    Database(DieselError),
}

impl From<DieselError> for FillError {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

fn unavailable(error: DieselError) -> Failure {
    Failure::Unavailable(error.to_string())
}

fn write(connection: &mut PgConnection, units: &[Unit], work: &Work<'_>) -> Result<(), FillError> {
    let identities = work.people.identity_rows();
    if !identities.projects.is_empty() {
        let inserted = InsertIdentities { rows: &identities }.execute(connection)?;
        if inserted < identities.projects.len() {
            return Err(FillError::Race);
        }
    }
    let born = work.people.person_rows();
    if !born.ids.is_empty() {
        InsertPeople { rows: &born }.execute(connection)?;
    }
    let (ids, traits, seen_at) = work.people.changed();
    if !ids.is_empty() {
        UpdateTraits {
            ids: &ids,
            traits: &traits,
            seen_at: &seen_at,
        }
        .execute(connection)?;
    }
    for (loser, survivor) in work.people.merges() {
        write_merge(connection, *loser, *survivor)?;
    }
    let (ids, seen_at) = work.people.touched();
    if !ids.is_empty() {
        TouchPeople {
            ids: &ids,
            seen_at: &seen_at,
        }
        .execute(connection)?;
    }
    write_events(connection, units, work)?;
    write_rejections(connection, units, work)?;
    if !work.released.is_empty() {
        let released = work.released.values();
        let (projects, digests): (Vec<i64>, Vec<Vec<u8>>) = released
            .map(|(project, digest)| (*project, digest.to_vec()))
            .unzip();
        ReleaseMessageIds {
            projects: &projects,
            digests: &digests,
        }
        .execute(connection)?;
    }
    Ok(())
}

fn write_merge(
    connection: &mut PgConnection,
    loser: PersonId,
    survivor: PersonId,
) -> QueryResult<()> {
    sql_query("UPDATE identities SET person_id = $2 WHERE person_id = $1")
        .bind::<BigInt, _>(loser.0)
        .bind::<BigInt, _>(survivor.0)
        .execute(connection)?;
    sql_query("UPDATE persons SET merged_into = $2 WHERE id = $1 OR merged_into = $1")
        .bind::<BigInt, _>(loser.0)
        .bind::<BigInt, _>(survivor.0)
        .execute(connection)?;
    Ok(())
}

fn write_events(connection: &mut PgConnection, units: &[Unit], work: &Work<'_>) -> QueryResult<()> {
    let aliases: Vec<Option<String>> = units.iter().map(alias_properties).collect();
    let mut rows = EventRows::default();
    for (index, unit) in units.iter().enumerate() {
        let (
            Item::Event(event),
            Some(Verdict::Stored {
                id,
                duplicate: false,
                ..
            }),
        ) = (&unit.item, work.verdicts.get(index))
        else {
            continue;
        };
        let Some(person) = work.filed_under.get(index).copied().flatten() else {
            continue;
        };
        let alias = aliases.get(index).and_then(Option::as_deref);
        rows.ids.push(id.0);
        rows.projects.push(unit.project.0);
        rows.people.push(person.0);
        rows.kinds.push(event.call.kind().as_i16());
        rows.names.push(event.call.name());
        rows.user_ids.push(event.user.as_ref().map(Identity::value));
        rows.anonymous_ids
            .push(event.anonymous.as_ref().map(Identity::value));
        rows.message_ids
            .push(event.message_id.as_ref().map(|id| id.as_str()));
        rows.properties
            .push(event.call.properties().map(RawJson::as_str).or(alias));
        rows.contexts
            .push(event.context.as_ref().map(RawJson::as_str));
        rows.timestamps.push(event.timestamp);
        rows.received_at.push(event.received_at);
    }
    if !rows.ids.is_empty() {
        InsertEvents { rows: &rows }.execute(connection)?;
    }
    Ok(())
}

fn alias_properties(unit: &Unit) -> Option<String> {
    match &unit.item {
        Item::Event(event) => match &event.call {
            Call::Alias { previous } => Some(json!({ "previousId": previous.value() }).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn write_rejections(
    connection: &mut PgConnection,
    units: &[Unit],
    work: &Work<'_>,
) -> QueryResult<()> {
    let received_at = units.iter().find_map(|unit| match &unit.item {
        Item::Event(event) => Some(event.received_at),
        _ => None,
    });
    let mut rows: Vec<(ProjectId, &Rejection)> = Vec::new();
    for (unit, verdict) in units.iter().zip(&work.verdicts) {
        match (&unit.item, verdict) {
            (Item::Rejected(rejection), _) | (_, Verdict::Rejected(rejection)) => {
                rows.push((unit.project, rejection));
            }
            _ => {}
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let projects: Vec<i64> = rows.iter().map(|(project, _)| project.0).collect();
    let codes: Vec<&str> = rows
        .iter()
        .map(|(_, rejection)| rejection.code.as_str())
        .collect();
    let messages: Vec<String> = rows.iter().map(|(_, r)| without_nul(&r.message)).collect();
    let ids: Vec<Option<String>> = rows
        .iter()
        .map(|(_, r)| r.message_id.as_deref().map(without_nul))
        .collect();
    let payloads: Vec<String> = rows.iter().map(|(_, r)| without_nul(&r.payload)).collect();
    sql_query(
        "INSERT INTO rejected_events (project_id, received_at, code, message, message_id, payload) \
         SELECT project_id, coalesce($6, now()), code, message, message_id, payload \
         FROM unnest($1, $2, $3, $4, $5) AS t (project_id, code, message, message_id, payload)",
    )
    .bind::<Array<BigInt>, _>(projects)
    .bind::<Array<Text>, _>(codes)
    .bind::<Array<Text>, _>(messages)
    .bind::<Array<diesel::sql_types::Nullable<Text>>, _>(ids)
    .bind::<Array<Text>, _>(payloads)
    .bind::<diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>, Option<DateTime<Utc>>>(
        received_at,
    )
    .execute(connection)
    .map(|_| ())
}

/// Text columns cannot hold `\0`; JSON text writes it as an escape, so only a raw one is replaced.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn digest(id: &str) -> [u8; 32] {
    Sha256::digest(id.as_bytes()).into()
}

/// The traits of an identify as they are kept: `\0`, which JSONB cannot hold, becomes U+FFFD. The
/// event itself keeps what was sent.
fn parse_traits(raw: &RawJson) -> Map<String, Value> {
    let traits = raw.to_object();
    if !raw.as_str().contains("\\u0000") {
        return traits;
    }
    match without_nul_in(Value::Object(traits)) {
        Value::Object(traits) => traits,
        _ => Map::new(),
    }
}

/// The depth of the value is bounded by the decoder.
fn without_nul_in(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(&text)),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nul_in).collect()),
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, item)| (without_nul(&key), without_nul_in(item)))
                .collect(),
        ),
        other => other,
    }
}

/// Merges traits into a person's, shallowly; traits the person has already change nothing.
fn set_traits(
    people: &mut PeopleOfBatch<'_>,
    person: PersonId,
    patch: Map<String, Value>,
) -> Result<(), FillError> {
    let Some(state) = people.state(person) else {
        return Ok(());
    };
    let held = state.traits_object();
    if patch
        .iter()
        .all(|(name, value)| held.get(name) == Some(value))
    {
        return Ok(());
    }
    if !people.is_locked(person) {
        return Err(FillError::Race);
    }
    let mut merged = held.clone();
    merged.extend(patch);
    people.set_traits(person, merged);
    Ok(())
}

fn size_of_traits(traits: &Map<String, Value>) -> usize {
    serde_json::to_vec(traits).map_or(usize::MAX, |bytes| bytes.len())
}

/// An event as JSON, for the ledger.
pub(super) fn describe(event: &Event) -> String {
    let raw = |raw: Option<&RawJson>| raw.map(|raw| Value::Object(raw.to_object()));
    json!({
        "type": event.call.kind().as_str(),
        "event": event.call.name(),
        "userId": event.user.as_ref().map(Identity::value),
        "anonymousId": event.anonymous.as_ref().map(Identity::value),
        "messageId": event.message_id.as_ref().map(|id| id.as_str()),
        "timestamp": event.timestamp,
        "properties": raw(event.call.properties()),
        "context": raw(event.context.as_ref()),
    })
    .to_string()
}
