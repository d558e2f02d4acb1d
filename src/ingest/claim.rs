//! Message ids: who is the first.

use std::collections::HashMap;

use diesel::{PgConnection, QueryDsl, RunQueryDsl};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::batch::Unit;
use super::decode::Item;
use super::failure::FillError;
use super::shard::Shard;
use super::statements::{ClaimMessageIds, FindMessageIds, MessageIds};
use crate::model::EventId;
use crate::store::schema::message_buckets::dsl::{current_bucket, message_buckets};

/// Where an event stands by its message id.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    New(EventId),
    Duplicate(EventId),
}

impl Shard {
    /// Claims the message ids of the batch and tells for each event whether it is the first.
    pub(super) fn claim(
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
            self.bucket = message_buckets.select(current_bucket).first(connection)?;
            return Err(FillError::Race);
        }
        Ok(stored)
    }
}

pub(super) fn digest(id: &str) -> [u8; 32] {
    Sha256::digest(id.as_bytes()).into()
}
