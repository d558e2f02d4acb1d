//! The campaigns that were in force at a moment.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::PgConnection;
use serde_json::Value;

use super::as_of::{DefinitionsAsOf, Source};
use crate::error::Error;
use crate::matcher::{Campaign, CampaignRow, Snapshot};
use crate::model::ProjectId;
use crate::rules::{Limits, RuleErrorCode};
use crate::store::history::{self, PastVersion};
use crate::store::{campaigns, live};

/// How many campaigns are read in one query.
const CHUNK: usize = 5_000;

/// The most bytes of theirs in one query, as the table keeps them, which is compressed where they are
/// large; one is always read.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// One campaign as it is now, live or not.
pub(super) fn current(
    connection: &mut PgConnection,
    project: ProjectId,
    snapshot: &Snapshot,
    id: &str,
    limits: &Limits,
) -> Result<Arc<Campaign>, Error> {
    if let Some(live) = snapshot.campaigns().get(id) {
        return Ok(Arc::clone(live));
    }
    let stored = campaigns::find(connection, project, id)?;
    let stored = stored.ok_or(Error::NotFound("Campaign"))?;
    let row = CampaignRow {
        id: stored.id,
        seq: 0,
        version: stored.version,
        body: live::object(stored.body),
        created_at: stored.created_at,
        updated_at: stored.updated_at,
    };
    let compiled = Campaign::compile(&row, limits).map(|campaign| {
        if stored.quarantined_at.is_some() {
            campaign.out_of_service()
        } else {
            campaign
        }
    });
    compiled
        .map(Arc::new)
        .map_err(|refusal| Error::InvalidRule {
            pointer: String::new(),
            code: RuleErrorCode::NotCompilable.as_str(),
            message: format!("the campaign cannot be compiled: {refusal}"),
        })
}

/// All campaigns that are active now, with those in quarantine.
pub(super) fn all_current(
    connection: &mut PgConnection,
    project: ProjectId,
    snapshot: &Snapshot,
    limits: &Limits,
) -> Result<(Vec<Arc<Campaign>>, DefinitionsAsOf), Error> {
    let mut as_of = DefinitionsAsOf::CURRENT;
    let mut campaigns: Vec<_> = snapshot.campaigns().iter().cloned().collect();
    for stored in live::quarantined_campaigns(connection, project.0)? {
        // It may have gone out of service just now.
        if snapshot.campaigns().get(&stored.id).is_some() {
            continue;
        }
        match Campaign::compile(&stored.into(), limits) {
            Ok(campaign) => campaigns.push(Arc::new(campaign.out_of_service())),
            Err(_) => as_of.left_out += 1,
        }
    }
    Ok((campaigns, as_of))
}

/// The campaigns that were active at a moment, or one of them whatever its status was.
pub(super) fn as_of(
    connection: &mut PgConnection,
    project: ProjectId,
    snapshot: &Snapshot,
    at: DateTime<Utc>,
    only: Option<&str>,
    limits: &Limits,
) -> Result<(Vec<Arc<Campaign>>, DefinitionsAsOf), Error> {
    let mut as_of = DefinitionsAsOf {
        source: Source::History,
        without_history: 0,
        left_out: 0,
    };
    let held: HashMap<(i64, i64), &Arc<Campaign>> = snapshot
        .campaigns()
        .iter()
        .map(|campaign| (campaign.stored(), campaign))
        .collect();
    let mut campaigns = Vec::new();
    let mut past: HashMap<i64, PastVersion> = HashMap::new();
    let mut present: HashMap<i64, PastVersion> = HashMap::new();
    for version in history::campaign_versions(connection, project, at, only)? {
        as_of.without_history += usize::from(version.entry.is_none());
        let held = version
            .seq
            .and_then(|seq| held.get(&(seq, version.version)));
        match (
            held.filter(|_| version.is_current),
            version.entry,
            version.seq,
        ) {
            (Some(held), _, _) => campaigns.push(Arc::clone(held)),
            (None, Some(entry), _) => {
                past.insert(entry, version);
            }
            (None, None, Some(seq)) => {
                present.insert(seq, version);
            }
            (None, None, None) => {}
        }
    }
    let mut compile = |version: &PastVersion, body: Value| {
        let body = live::object(body);
        let is_live = body.get("status").and_then(Value::as_str) == Some("active");
        if only.is_none() && !is_live {
            return;
        }
        let row = CampaignRow {
            id: version.campaign_id.clone(),
            seq: version.seq.unwrap_or_default(),
            version: version.version,
            body,
            created_at: version.created_at,
            updated_at: None,
        };
        match Campaign::compile(&row, limits) {
            Ok(campaign) if version.is_quarantined => {
                campaigns.push(Arc::new(campaign.out_of_service()));
            }
            Ok(campaign) => campaigns.push(Arc::new(campaign)),
            Err(_) => as_of.left_out += 1,
        }
    };
    for chunk in chunks(&past) {
        for (entry, body) in history::campaign_bodies(connection, project, &chunk)? {
            if let Some(version) = past.get(&entry) {
                compile(version, body);
            }
        }
    }
    for chunk in chunks(&present) {
        for row in live::campaign_rows(connection, project.0, &chunk)? {
            if let Some(version) = present.get(&row.seq) {
                compile(version, row.body);
            }
        }
    }
    if only.is_some() && campaigns.is_empty() {
        return Err(Error::NotFound("Campaign"));
    }
    Ok((campaigns, as_of))
}

/// Cuts the numbers of campaigns into parts for one query each.
fn chunks(campaigns: &HashMap<i64, PastVersion>) -> Vec<Vec<i64>> {
    let mut chunks: Vec<Vec<i64>> = Vec::new();
    let mut held = 0_usize;
    for (number, version) in campaigns {
        let bytes = usize::try_from(version.bytes).unwrap_or(0);
        held = held.saturating_add(bytes);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK && held <= CHUNK_BYTES => chunk.push(*number),
            _ => {
                held = bytes;
                chunks.push(vec![*number]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn large_campaigns_are_read_a_few_at_a_time() {
        let chunks_of = |count: usize, bytes: usize| {
            let version = PastVersion {
                campaign_id: String::new(),
                version: 1,
                entry: None,
                is_current: false,
                is_quarantined: false,
                seq: None,
                created_at: DateTime::UNIX_EPOCH,
                bytes: i32::try_from(bytes).unwrap(),
            };
            let campaigns = (0..).take(count).map(|number| (number, version.clone()));
            let chunks = chunks(&campaigns.collect());
            chunks.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(chunks_of(0, 1), [0; 0]);
        assert_eq!(chunks_of(12_000, 1), [CHUNK, CHUNK, 2_000]);
        assert_eq!(chunks_of(5, CHUNK_BYTES / 2), [2, 2, 1]);
        assert_eq!(chunks_of(2, 3 * CHUNK_BYTES), [1, 1]);
    }
}
