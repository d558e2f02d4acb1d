//! One batch, one transaction: claim the message ids, find the people, apply the events one after
//! the other, write everything sorted by key, commit.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use serde_json::Value;

use super::claim::Standing;
use super::decode::{Item, Rejection};
use super::failure::{Failure, FillError, unavailable};
use super::people_of_batch::PeopleOfBatch;
use super::shard::Shard;
use super::write::write;
use crate::model::{EventId, Identity, PersonId, ProjectId};
use crate::store::partitions::{self, MESSAGE_BUCKET_LOCK};
use crate::store::person_state::LockPeople;
use crate::targeting::LiveCampaign;
use crate::targeting::people::Address;

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

/// The batch's events by what is known of them, in the order of the units.
pub(super) struct Work<'a> {
    pub(super) people: PeopleOfBatch<'a>,
    pub(super) standings: Vec<Option<Standing>>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) filed_under: Vec<Option<PersonId>>,
    /// The message ids of events that were refused, under the event ids they were claimed for.
    pub(super) released: HashMap<EventId, (i64, [u8; 32])>,
    /// The identities that merges gave to somebody else.
    moved: Vec<(ProjectId, Identity)>,
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
        let epoch = self.targeting.people().epoch();
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
        let epoch = if work.moved.is_empty() {
            Some(epoch)
        } else {
            people.merged(epoch, work.moved)
        };
        if let Some(epoch) = epoch {
            for ((project, identity), person, home) in work.people.new_addresses() {
                people.remember_address(epoch, project, identity, Address { person, home });
            }
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
            moved: Vec::new(),
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
        work.moved = write(connection, units, &work)?;
        Ok(work)
    }
}
