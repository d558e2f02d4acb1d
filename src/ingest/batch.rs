//! One batch, one transaction: claim the message ids, find the people, apply the events one after
//! the other, write everything sorted by key, commit.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::result::Error as DieselError;
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use uuid::Uuid;

use super::Wanted;
use super::claim::{MessageKey, Standing};
use super::decide::{Ahead, Decided};
use super::decode::{Item, Rejection};
use super::failure::{Failure, FillError, unavailable};
use super::people_of_batch::PeopleOfBatch;
use super::route::{Known, Owner};
use super::shard::Shard;
use super::write::write;
use crate::model::{EventId, Identity, MessageId, PersonId, ProjectId};
use crate::store::person_state::LockPeople;
use crate::store::{is_missing_partition, partitions};
use crate::targeting::PersonState;
use crate::targeting::people::{Address, Remembered};

/// One item of a batch and where its outcome goes.
pub(super) struct Unit {
    /// Which of the batch's callers sent it.
    pub(super) caller: usize,
    /// Its place in that caller's request.
    pub(super) place: usize,
    pub(super) project: ProjectId,
    pub(super) item: Item,
    /// The event's id, the same in every attempt to store it.
    pub(super) id: EventId,
    /// The digest of its message id.
    pub(super) digest: Option<Uuid>,
    /// Whether somebody has its identity.
    pub(super) owner: Owner,
    /// What somebody reads of what it led to.
    pub(super) wants: Wanted,
    /// How many received events it stands for in the ledger: one, if none was lost before it got
    /// here.
    pub(super) received: i64,
    /// Whom it is about, if that was remembered before it was queued.
    pub(super) remembered: Option<Remembered>,
    /// What was decided on it before it was queued, until that is used.
    pub(super) ahead: Cell<Option<Ahead>>,
}

impl Unit {
    pub(super) fn new(
        caller: usize,
        place: usize,
        project: ProjectId,
        item: Item,
        known: &Known,
        wants: Wanted,
    ) -> Self {
        let (message_id, own) = match &item {
            Item::Event(event) => (event.message_id.as_ref(), event.identity()),
            Item::Rejected(_) => (None, None),
        };
        Self {
            caller,
            place,
            project,
            id: EventId(Uuid::now_v7()),
            digest: message_id.map(MessageId::digest),
            wants,
            owner: own.map_or(Owner::Somebody, |own| known.owner(own)),
            received: 1,
            remembered: None,
            ahead: Cell::default(),
            item,
        }
    }

    /// The identity that it is about.
    pub(super) fn own_identity(&self) -> Option<&Identity> {
        match &self.item {
            Item::Event(event) => event.identity(),
            Item::Rejected(_) => None,
        }
    }

    /// The traits that the caller reads.
    pub(super) fn traits(&self, person: Option<&PersonState>) -> Option<Arc<str>> {
        let wanted = person.filter(|_| self.wants.traits);
        wanted.map(|person| Arc::clone(&person.traits))
    }

    /// What it claims.
    pub(super) fn key(&self) -> Option<MessageKey> {
        self.digest.map(|digest| (self.project.0, digest))
    }
}

/// What the ledger knows a batch by: the id of its first unit, whether or not that is an event.
pub(super) fn batch_id(units: &[Unit]) -> Uuid {
    units.first().map_or(Uuid::nil(), |unit| unit.id.0)
}

/// What became of a unit.
#[derive(Debug)]
pub(super) enum Verdict {
    Stored {
        id: EventId,
        duplicate: bool,
        matched: Decided,
        traits: Option<Arc<str>>,
    },
    Rejected(Rejection),
    /// A rejection that is now in the ledger.
    Kept,
    /// Whether the event is new could not be told; the caller tries again.
    Unsettled,
}

/// How long a transaction applies events before it is committed as far as it has come. They are usually
/// applied in a few milliseconds; what may take longer are changes of people with much. Everybody with
/// an event on the shard waits meanwhile, and so does who wants one of these people's rows.
const APPLY_TIME_MAX: Duration = Duration::from_millis(50);

/// The batch's events by what is known of them, in the order of the units. Those that there was no time
/// for have no verdict.
pub(super) struct Work<'a> {
    pub(super) people: PeopleOfBatch<'a>,
    pub(super) standings: Vec<Option<Standing>>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) filed_under: Vec<Option<PersonId>>,
    /// The message ids of events that were refused or left, under the event ids they were claimed for.
    pub(super) released: HashMap<EventId, MessageKey>,
    /// The identities that merges gave to somebody else.
    moved: Vec<(ProjectId, Identity)>,
}

impl Work<'_> {
    /// Leaves the last units to another transaction, which claims their message ids anew.
    fn leave(&mut self, last: &[Unit]) {
        let standings = self.standings.iter().skip(self.verdicts.len());
        for (unit, standing) in last.iter().zip(standings) {
            if let (Some(Standing::New(id)), Some(key)) = (standing, unit.key()) {
                self.released.insert(*id, key);
            }
        }
    }
}

impl Shard {
    /// Tries the batch once, and returns the verdicts of the units that there was time for. `fresh`
    /// distrusts what is remembered of addresses, after a race.
    pub(super) fn attempt(
        &mut self,
        connection: &mut PgConnection,
        units: &[Unit],
        fresh: bool,
    ) -> Result<Vec<Verdict>, Failure> {
        AnsiTransactionManager::begin_transaction(connection).map_err(unavailable)?;
        let epoch = self.targeting.people().epoch();
        let mut work = match self.fill(connection, units, fresh) {
            Ok(work) => work,
            Err(error) => return Err(Self::roll_back(connection, error)),
        };
        let people = self.targeting.people();
        let change = people.begin_change(work.people.changing());
        if let Err(error) = AnsiTransactionManager::commit_transaction(connection) {
            change.forget(people);
            self.unsettled.push(change);
            return Err(Failure::Unknown {
                reason: error.to_string(),
                verdicts: work.verdicts,
            });
        }
        let states = work.people.publishable();
        change.publish(people, |person| states.get(&person));
        for (observed, state) in work.people.unchanged_loads() {
            people.remember_loaded(observed, &state);
        }
        let moved = std::mem::take(&mut work.moved);
        let epoch = if moved.is_empty() {
            Some(epoch)
        } else {
            people.merged(epoch, moved)
        };
        if let Some(epoch) = epoch {
            for ((project, identity), person, home) in work.people.new_addresses() {
                people.remember_address(epoch, project, identity, Address { person, home });
            }
        }
        self.note_seen(units, &work);
        Ok(work.verdicts)
    }

    /// A repetition is older than its arrival says, so it moves nobody's time.
    fn note_seen(&mut self, units: &[Unit], work: &Work<'_>) {
        let settled = work.verdicts.iter().zip(&work.filed_under);
        for (unit, (verdict, person)) in units.iter().zip(settled) {
            if let (
                Item::Event(event),
                Verdict::Stored {
                    duplicate: false, ..
                },
                Some(state),
            ) = (
                &unit.item,
                verdict,
                person.and_then(|person| work.people.state(person)),
            ) {
                self.seen.note(state, event.received_at);
            }
        }
    }

    fn roll_back(connection: &mut PgConnection, error: FillError) -> Failure {
        if let Err(error) = AnsiTransactionManager::rollback_transaction(connection) {
            return unavailable(error);
        }
        match error {
            FillError::Database(error) => match create_missing_partition(connection, &error) {
                Ok(()) => Failure::from(error),
                Err(failure) => failure,
            },
            FillError::Race => Failure::Race,
            FillError::TooMuch { people } => Failure::TooMuch { people },
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
            moved: Vec::new(),
        };
        // How long that takes is bounded by what is read of people. If it took its time from the events,
        // there would be none left, again and again.
        work.people.read_traits();
        let until = Instant::now() + APPLY_TIME_MAX;
        for (index, unit) in units.iter().enumerate() {
            if index > 0 && Instant::now() >= until {
                work.leave(units.get(index..).unwrap_or_default());
                break;
            }
            let (verdict, person) = match (&unit.item, work.standings.get(index).copied().flatten())
            {
                (Item::Event(event), Some(standing)) => {
                    self.apply(connection, &mut work, unit, event, standing)?
                }
                _ => (Verdict::Kept, None),
            };
            work.verdicts.push(verdict);
            work.filed_under.push(person);
        }
        work.people.settle();
        work.moved = write(connection, units, &work, self.slot)?;
        Ok(work)
    }
}

/// Creates today's partition if it was missing, so that the next attempt finds it. To be called
/// outside a transaction.
pub(super) fn create_missing_partition(
    connection: &mut PgConnection,
    error: &DieselError,
) -> Result<(), Failure> {
    if !is_missing_partition(error) {
        return Ok(());
    }
    partitions::database_now(connection)
        .and_then(|now| partitions::ensure_day(connection, now.date_naive()))
        .map(|_| ())
        .map_err(unavailable)
}
