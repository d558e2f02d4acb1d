//! Builds a project's snapshot from its rows, compiling only what changed.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::{PgConnection, QueryResult};
use serde_json::{Map, Value};

use crate::matcher::{Campaign, CampaignRow, Flag, Snapshot};
use crate::model::ProjectId;
use crate::rules::{Condition, Limits};
use crate::segments::{Segment, Segments};
use crate::store::live as rows;

/// How many campaigns are read in one query.
const CHUNK: usize = 5_000;

/// With more changes than this at once a snapshot is built anew.
const CHANGES_MAX: i64 = 500;

/// Loads the project at its current revision in one consistent read; `None` when there is no such
/// project, or it is held already. What cannot be compiled (it can only have come by import) is left
/// out and logged.
pub(super) fn load(
    connection: &mut PgConnection,
    project: ProjectId,
    held: &Snapshot,
    limits: &Limits,
) -> QueryResult<Option<Snapshot>> {
    connection
        .build_transaction()
        .read_only()
        .repeatable_read()
        .run(|connection| {
            let Some(revision) = rows::revision(connection, project.0)? else {
                return Ok(None);
            };
            if held.moment().is_some() && held.revision() == revision {
                return Ok(None);
            }
            let moment = rows::moment(connection)?;
            let segments = segments(connection, project, limits)?;
            let flags = rows::flag_rows(connection, project.0)?
                .into_iter()
                .filter_map(|row| compile_flag(project, row, limits))
                .collect();
            let changed = changed_campaigns(connection, project, held, revision)?;
            let fresh = match changed {
                Some(ids) => {
                    let mut came = Vec::new();
                    for row in rows::active_among(connection, project.0, &ids)? {
                        came.extend(compile_campaign(project, row, limits));
                    }
                    held.changed(revision, &ids, came, segments, flags)
                }
                None => {
                    let campaigns = load_campaigns(connection, project, held, limits)?;
                    held.replaced(revision, campaigns, segments, flags)
                }
            };
            let quarantined = rows::quarantined(connection, project.0)?;
            Ok(Some(fresh.read_at(moment).with_quarantined(quarantined)))
        })
}

/// The project's segments, as a transaction sees them.
pub(super) fn segments(
    connection: &mut PgConnection,
    project: ProjectId,
    limits: &Limits,
) -> QueryResult<Segments> {
    let rows = rows::segment_rows(connection, project.0)?.into_iter();
    let list = rows.filter_map(
        |(id, body)| match Segment::compile(&id, &object(body), limits) {
            Ok(segment) => Some(Arc::new(segment)),
            Err(error) => {
                tracing::warn!(project = project.0, segment = id, %error, "segment left out");
                None
            }
        },
    );
    Ok(Segments::new(list.collect()))
}

/// The campaigns that changed since the snapshot was read; `None` if it has to be read anew, since
/// there are too many of them, or the database is not the one that it was read from.
fn changed_campaigns(
    connection: &mut PgConnection,
    project: ProjectId,
    held: &Snapshot,
    revision: i64,
) -> QueryResult<Option<Vec<String>>> {
    let Some(moment) = held.moment().filter(|_| held.revision() <= revision) else {
        return Ok(None);
    };
    let ids = rows::changed_since(connection, project.0, moment, CHANGES_MAX + 1)?;
    let is_few = i64::try_from(ids.len()).is_ok_and(|count| count <= CHANGES_MAX);
    Ok(is_few.then_some(ids))
}

fn load_campaigns(
    connection: &mut PgConnection,
    project: ProjectId,
    held: &Snapshot,
    limits: &Limits,
) -> QueryResult<Vec<Arc<Campaign>>> {
    let known: HashMap<(i64, i64), &Arc<Campaign>> = held
        .campaigns()
        .iter()
        .map(|campaign| (campaign.stored(), campaign))
        .collect();
    let mut campaigns = Vec::new();
    let mut missing = Vec::new();
    for stored in rows::active_campaigns(connection, project.0)? {
        match known.get(&stored) {
            Some(campaign) => campaigns.push(Arc::clone(campaign)),
            None => missing.push(stored.0),
        }
    }
    for chunk in missing.chunks(CHUNK) {
        for row in rows::campaign_rows(connection, project.0, chunk)? {
            campaigns.extend(compile_campaign(project, row, limits));
        }
    }
    Ok(campaigns)
}

fn compile_campaign(
    project: ProjectId,
    row: rows::LiveRow,
    limits: &Limits,
) -> Option<Arc<Campaign>> {
    let row = CampaignRow {
        id: row.id,
        seq: row.seq,
        version: row.version,
        body: object(row.body),
        created_at: row.created_at,
        updated_at: row.updated_at,
    };
    match Campaign::compile(&row, limits) {
        Ok(campaign) => Some(Arc::new(campaign)),
        Err(error) => {
            tracing::warn!(project = project.0, campaign = row.id, %error, "campaign left out");
            None
        }
    }
}

fn compile_flag(project: ProjectId, row: rows::FlagRow, limits: &Limits) -> Option<(String, Flag)> {
    let (key, enabled, value, targeting) = row;
    let targeting = match targeting.filter(|json| !json.is_null()) {
        None => None,
        Some(json) => match Condition::parse(&json, limits) {
            Ok(condition) => Some(condition),
            Err(error) => {
                tracing::warn!(project = project.0, flag = key, %error, "flag left out");
                return None;
            }
        },
    };
    Some((
        key,
        Flag {
            enabled,
            value,
            targeting,
        },
    ))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
