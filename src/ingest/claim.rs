//! Message ids: who is the first.

use std::collections::HashMap;

use diesel::{PgConnection, QueryDsl, QueryResult, RunQueryDsl};
use uuid::Uuid;

use super::batch::{Unit, Verdict};
use super::decode::Item;
use super::failure::FillError;
use super::shard::Shard;
use super::statements::{ClaimMessageIds, FindMessageIds, MessageIds};
use crate::model::EventId;
use crate::store::schema::message_buckets::dsl::{current_bucket, message_buckets};

/// A message id within its project, as it is stored: the digest of its text.
pub(super) type MessageKey = (i64, Uuid);

/// Where an event stands by its message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    New(EventId),
    Duplicate(EventId),
}

/// Where each event stands among those of its batch, and the first event of each message id.
pub(super) fn within_batch(
    units: &[Unit],
) -> (Vec<Option<Standing>>, HashMap<MessageKey, EventId>) {
    let mut first_of = HashMap::with_capacity(units.len());
    let standings = units
        .iter()
        .map(|unit| {
            let Item::Event(_) = &unit.item else {
                return None;
            };
            let Some(key) = unit.key() else {
                return Some(Standing::New(unit.id));
            };
            let first = *first_of.entry(key).or_insert(unit.id);
            Some(if first == unit.id {
                Standing::New(unit.id)
            } else {
                Standing::Duplicate(first)
            })
        })
        .collect();
    (standings, first_of)
}

impl Shard {
    /// Claims the message ids of the batch and tells for each event whether it is the first.
    pub(super) fn claim(
        &mut self,
        connection: &mut PgConnection,
        units: &[Unit],
    ) -> Result<Vec<Option<Standing>>, FillError> {
        let (mut standings, first_of) = within_batch(units);
        let stored = self.claim_keys(connection, &first_of)?;
        if !stored.is_empty() {
            for (standing, unit) in standings.iter_mut().zip(units) {
                if let (Some(_), Some(id)) =
                    (&standing, unit.key().and_then(|key| stored.get(&key)))
                {
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
        first_of: &HashMap<MessageKey, EventId>,
    ) -> Result<HashMap<MessageKey, EventId>, FillError> {
        if first_of.is_empty() {
            return Ok(HashMap::new());
        }
        let mut sorted: Vec<_> = first_of.iter().collect();
        sorted.sort_unstable();
        let mut ids = MessageIds::default();
        for ((project, digest), event) in sorted {
            ids.projects.push(*project);
            ids.digests.push(*digest);
            ids.event_ids.push(event.0);
        }
        let unclaimed: Vec<MessageKey> = if self.bucket == 0 {
            ClaimMessageIds::<0> { ids: &ids }.load(connection)?
        } else {
            ClaimMessageIds::<1> { ids: &ids }.load(connection)?
        };
        let stored = find(connection, unclaimed.iter())?;
        if stored.len() < unclaimed.len() {
            self.look_for_bucket(connection)?;
            return Err(FillError::Race);
        }
        Ok(stored)
    }

    /// Asks which bucket is current, after a rotation.
    pub(super) fn look_for_bucket(&mut self, connection: &mut PgConnection) -> QueryResult<()> {
        self.bucket = message_buckets.select(current_bucket).first(connection)?;
        Ok(())
    }
}

/// The events that message ids were claimed for; ids that nobody claimed are left out.
pub(super) fn find<'a>(
    connection: &mut PgConnection,
    keys: impl Iterator<Item = &'a MessageKey>,
) -> QueryResult<HashMap<MessageKey, EventId>> {
    let (projects, digests): (Vec<i64>, Vec<Uuid>) = keys.copied().unzip();
    if projects.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<(i64, Uuid, Uuid)> = FindMessageIds {
        projects: &projects,
        digests: &digests,
    }
    .load(connection)?;
    Ok(found
        .into_iter()
        .map(|(project, digest, id)| ((project, digest), EventId(id)))
        .collect())
}

/// Corrects verdicts by what the database says of their message ids: the event under which a
/// message id was claimed is the first one.
pub(super) fn correct(
    units: &[Unit],
    verdicts: &mut [Verdict],
    claimed: &HashMap<MessageKey, EventId>,
    is_asked: impl Fn(&MessageKey) -> bool,
) {
    for (unit, verdict) in units.iter().zip(verdicts) {
        let Some(key) = unit.key().filter(|key| is_asked(key)) else {
            continue;
        };
        if let Verdict::Stored { id, duplicate, .. } = verdict {
            match claimed.get(&key) {
                Some(first) if first == id => {}
                Some(first) => {
                    *duplicate = true;
                    *id = *first;
                }
                // The claim was there a moment ago; it was given up or has left the window since.
                None => *verdict = Verdict::Unsettled,
            }
        }
    }
}
