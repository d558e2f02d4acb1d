//! Batches that change nobody: events of people who are known and stay as they are.
//!
//! That is nearly all of a busy server's work, and it takes one statement: claim the message ids,
//! insert the events whose ids were claimed, count. Nothing has to be known before it, since a
//! duplicate has no effect that would have to be left out, and there is nothing to publish after it.

use std::collections::HashSet;
use std::sync::Arc;

use diesel::{PgConnection, QueryResult, RunQueryDsl};
use uuid::Uuid;

use super::apply::{has_traits, parse_traits};
use super::batch::{Unit, Verdict, create_missing_partition};
use super::claim::{self, MessageKey, Standing, within_batch};
use super::decode::Item;
use super::failure::Failure;
use super::ledger::{Fate, LedgerRows};
use super::route::identities;
use super::shard::Shard;
use super::statements::{EventRows, RecordEvents};
use crate::model::{Call, Event, ProjectId};
use crate::targeting::PersonState;

impl Shard {
    /// Whom each event of the batch is about, if this node remembers all of them and no event
    /// changes anybody; `None` if the batch needs more than one statement.
    pub(super) fn unchanging(&self, units: &[Unit]) -> Option<Vec<Option<Arc<PersonState>>>> {
        units
            .iter()
            .map(|unit| match &unit.item {
                Item::Event(event) => self.unchanged_by(unit.project, event).map(Some),
                Item::Ignored => Some(None),
                Item::Rejected(_) => None,
            })
            .collect()
    }

    fn unchanged_by(&self, project: ProjectId, event: &Event) -> Option<Arc<PersonState>> {
        let people = self.targeting.people();
        let (own, linked) = identities(event);
        let address = people.address(project, own?)?;
        if let Some(linked) = linked
            && people.address(project, linked)?.person != address.person
        {
            return None;
        }
        let state = people.state(address.person)?;
        let is_unchanged = match &event.call {
            Call::Identify {
                traits: Some(traits),
            } => has_traits(&state, &parse_traits(traits)),
            _ => true,
        };
        is_unchanged.then_some(state)
    }

    /// Tries a batch that changes nobody.
    pub(super) fn attempt_plain(
        &mut self,
        connection: &mut PgConnection,
        units: &[Unit],
        people: &[Option<Arc<PersonState>>],
    ) -> Result<Vec<Verdict>, Failure> {
        let (standings, _) = within_batch(units);
        let mut verdicts = self.decide_all(units, people, &standings);
        let mut ledger = LedgerRows::default();
        for (unit, standing) in units.iter().zip(&standings) {
            ledger.receive(unit.project, unit.received);
            if matches!(standing, Some(Standing::Duplicate(_))) {
                ledger.settle(unit.project, Fate::Duplicate);
            }
        }
        let mut order: Vec<usize> = (0..units.len())
            .filter(|&index| matches!(standings.get(index), Some(Some(Standing::New(_)))))
            .collect();
        order.sort_unstable_by_key(|&index| (units[index].project, units[index].digest));
        let mut rows = EventRows::default();
        let mut digests = Vec::with_capacity(order.len());
        for index in order {
            let unit = &units[index];
            if let (Item::Event(event), Some(Some(person))) = (&unit.item, people.get(index)) {
                rows.push(unit.project, unit.id, person.id, event, None);
                digests.push(unit.digest.as_ref().map(<[u8; 32]>::as_slice));
            }
        }
        let unstored = match self.record(connection, &rows, &digests, &ledger) {
            Ok(unstored) => unstored,
            Err(error) => return Err(after_failure(connection, error, verdicts)),
        };
        if unstored
            .iter()
            .any(|(_, bucket_is_current)| !bucket_is_current)
        {
            self.look_for_bucket(connection)?;
            return Err(Failure::Race);
        }
        if !unstored.is_empty() {
            let unstored = unstored.into_iter().map(|(id, _)| id).collect();
            Self::name_duplicates(connection, units, &unstored, &mut verdicts)?;
        }
        for ((unit, verdict), person) in units.iter().zip(&verdicts).zip(people) {
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
                let (Item::Event(event), Some(person), Some(standing)) =
                    (&unit.item, person, standing)
                else {
                    return Verdict::Kept;
                };
                let Some(own) = event.identity() else {
                    return Verdict::Kept;
                };
                let snapshot = self.targeting.snapshot(unit.project);
                let (id, duplicate) = match standing {
                    Standing::New(id) => (*id, false),
                    Standing::Duplicate(id) => (*id, true),
                };
                Verdict::Stored {
                    id,
                    duplicate,
                    matched: self.decide(&snapshot, own, Some(person), event),
                    traits: Arc::clone(&person.traits),
                }
            })
            .collect()
    }

    fn record(
        &self,
        connection: &mut PgConnection,
        rows: &EventRows<'_>,
        digests: &[Option<&[u8]>],
        ledger: &LedgerRows,
    ) -> QueryResult<Vec<(Uuid, bool)>> {
        let slot = self.slot;
        if self.bucket == 0 {
            RecordEvents::<0> {
                rows,
                digests,
                ledger,
                slot,
            }
            .load(connection)
        } else {
            RecordEvents::<1> {
                rows,
                digests,
                ledger,
                slot,
            }
            .load(connection)
        }
    }

    /// Turns the verdicts of events that were not stored into those of duplicates.
    fn name_duplicates(
        connection: &mut PgConnection,
        units: &[Unit],
        unstored: &HashSet<Uuid>,
        verdicts: &mut [Verdict],
    ) -> Result<(), Failure> {
        let keys: HashSet<MessageKey> = units
            .iter()
            .filter(|unit| unstored.contains(&unit.id.0))
            .filter_map(Unit::key)
            .collect();
        let stored = claim::find(connection, keys.iter())?;
        claim::correct(units, verdicts, &stored, |key| keys.contains(key));
        Ok(())
    }
}

/// What a failure of the one statement means. A connection that was lost may have committed.
fn after_failure(
    connection: &mut PgConnection,
    error: diesel::result::Error,
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
