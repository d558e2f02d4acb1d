//! Builds a project's snapshot from its rows, compiling only what changed.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::{PgConnection, QueryResult};
use serde_json::Value;

use crate::matcher::{Campaign, CampaignRow, Flag, Snapshot};
use crate::model::ProjectId;
use crate::rules::{Condition, Limits};
use crate::segments::{Segment, Segments};
use crate::store::live as rows;

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
            let segments = segments(connection, project, held, limits)?;
            let flags = rows::flag_rows(connection, project.0)?
                .into_iter()
                .filter_map(|row| compile_flag(project, held, row, limits))
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
    held: &Snapshot,
    limits: &Limits,
) -> QueryResult<Segments> {
    let rows = rows::segment_rows(connection, project.0)?.into_iter();
    let list = rows.filter_map(|(id, body)| compile_segment(project, held, &id, body, limits));
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
    for (seq, version, bytes) in rows::active_campaigns(connection, project.0)? {
        match known.get(&(seq, version)) {
            Some(campaign) => campaigns.push(Arc::clone(campaign)),
            None => missing.push((seq, bytes)),
        }
    }
    for chunk in rows::chunks(missing) {
        for row in rows::campaign_rows(connection, project.0, &chunk)? {
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
    let row = CampaignRow::from(row);
    match Campaign::compile(&row, limits) {
        Ok(campaign) => Some(Arc::new(campaign)),
        Err(error) => {
            tracing::warn!(project = project.0, campaign = row.id, %error, "campaign left out");
            None
        }
    }
}

/// What is held is taken over where it is still the same.
fn compile_segment(
    project: ProjectId,
    held: &Snapshot,
    id: &str,
    body: Value,
    limits: &Limits,
) -> Option<Arc<Segment>> {
    let body = rows::object(body);
    let known = held.segments().find(id);
    if let Some(known) = known.filter(|known| known.is_of(id, &body)) {
        return Some(Arc::clone(known));
    }
    match Segment::compile(id, &body, limits) {
        Ok(segment) => Some(Arc::new(segment)),
        Err(error) => {
            tracing::warn!(project = project.0, segment = id, %error, "segment left out");
            None
        }
    }
}

/// As with segments.
fn compile_flag(
    project: ProjectId,
    held: &Snapshot,
    row: rows::FlagRow,
    limits: &Limits,
) -> Option<(String, Flag)> {
    let (key, enabled, value, targeting) = row;
    let targeting = targeting.filter(|json| !json.is_null());
    let known = held.flag_targeting(&key);
    let known = known.filter(|known| targeting.as_ref().is_some_and(|json| known.is_of(json)));
    let targeting = match (known, targeting) {
        (_, None) => None,
        (Some(known), _) => Some(Arc::clone(known)),
        (None, Some(json)) => match Condition::parse(&json, limits) {
            Ok(condition) => Some(Arc::new(condition)),
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_did_not_change_is_taken_over() {
        let (project, limits) = (ProjectId(1), Limits::default());
        let body = |n: u32| {
            json!({
                "name": "vip", "rules": [{"type": "attribute", "field": "a", "operator": "==", "value": n}],
                "targeting": {"==": [{"var": "user.traits.plan"}, "pro"]},
            })
        };
        let segment =
            |held: &Snapshot, body| compile_segment(project, held, "s", body, &limits).unwrap();
        let targeting = |n: u32| Some(json!({"==": [{"var": "user.traits.n"}, n]}));
        let flag = |held: &Snapshot, on, targeting| {
            compile_flag(
                project,
                held,
                ("f".to_owned(), on, None, targeting),
                &limits,
            )
            .unwrap()
        };
        let empty = Snapshot::default();
        let first = segment(&empty, body(1));
        let flags = [flag(&empty, true, targeting(1))].into_iter().collect();
        let held = Snapshot::new(
            1,
            Vec::new(),
            Segments::new(vec![Arc::clone(&first)]),
            flags,
        );
        assert!(Arc::ptr_eq(&first, &segment(&held, body(1))));
        assert!(!Arc::ptr_eq(&first, &segment(&held, body(2))));
        let mut other = body(1);
        other["targeting"] = json!(true);
        assert!(!Arc::ptr_eq(&first, &segment(&held, other)));
        let known = held.flag_targeting("f").unwrap();
        let (_, same) = flag(&held, false, targeting(1));
        assert!(!same.enabled && Arc::ptr_eq(known, &same.targeting.unwrap()));
        let (_, other) = flag(&held, true, targeting(2));
        assert!(!Arc::ptr_eq(known, &other.targeting.unwrap()));
        assert!(flag(&held, true, None).1.targeting.is_none());
    }
}
