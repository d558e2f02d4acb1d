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
    for chunk in live::chunks(sizes(&past)) {
        for (entry, body) in history::campaign_bodies(connection, project, &chunk)? {
            if let Some(version) = past.get(&entry) {
                compile(version, body);
            }
        }
    }
    for chunk in live::chunks(sizes(&present)) {
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

/// Each number with the bytes of its campaign.
fn sizes(versions: &HashMap<i64, PastVersion>) -> impl Iterator<Item = (i64, i32)> {
    versions
        .iter()
        .map(|(number, version)| (*number, version.bytes))
}
