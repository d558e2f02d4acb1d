//! What a batch leaves in the database, each table in one statement with sorted arrays.

use std::collections::BTreeMap;

use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text, Timestamptz};
use diesel::{PgConnection, QueryResult, QueryableByName, RunQueryDsl, sql_query};
use serde_json::json;
use uuid::Uuid;

use super::batch::{Unit, Verdict, Work, batch_id};
use super::decode::{Item, Rejection};
use super::failure::FillError;
use super::ledger::{Fate, LedgerRows};
use super::record::{EventRows, InsertEvents};
use super::statements::{InsertIdentities, InsertPeople, ReleaseMessageIds, UpdateTraits};
use crate::model::{Call, Identity, IdentityKind, PersonId, ProjectId};

/// Writes everything; returns the identities that merges gave to somebody else.
pub(super) fn write(
    connection: &mut PgConnection,
    units: &[Unit],
    work: &Work<'_>,
    slot: i32,
) -> Result<Vec<(ProjectId, Identity)>, FillError> {
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
    let moved = write_merges(connection, &work.people.heirs())?;
    let mut ledger = LedgerRows::new(slot, batch_id(units));
    write_events(connection, units, work, &mut ledger)?;
    write_rejections(connection, units, work, &mut ledger)?;
    for (unit, verdict) in units.iter().zip(&work.verdicts) {
        ledger.receive(unit.project, unit.received);
        if let Verdict::Stored {
            duplicate: true, ..
        } = verdict
        {
            ledger.settle(unit.project, Fate::Duplicate);
        }
    }
    ledger.write(connection)?;
    if !work.released.is_empty() {
        let (projects, digests): (Vec<i64>, Vec<Uuid>) = work.released.values().copied().unzip();
        ReleaseMessageIds {
            projects: &projects,
            digests: &digests,
        }
        .execute(connection)?;
    }
    Ok(moved)
}

/// Gives the identities of those who were merged to whom they became in the end, and returns them.
/// Each row is written once: a list of links in which one survivor after the other is merged would
/// otherwise move everything it has gathered with every step.
fn write_merges(
    connection: &mut PgConnection,
    heirs: &BTreeMap<PersonId, PersonId>,
) -> QueryResult<Vec<(ProjectId, Identity)>> {
    if heirs.is_empty() {
        return Ok(Vec::new());
    }
    let (losers, survivors): (Vec<i64>, Vec<i64>) =
        heirs.iter().map(|(loser, heir)| (loser.0, heir.0)).unzip();
    let moved: Vec<MovedRow> = sql_query(
        "UPDATE identities i SET person_id = t.survivor \
         FROM unnest($1, $2) AS t (loser, survivor) WHERE i.person_id = t.loser \
         RETURNING i.project_id, i.kind, i.value",
    )
    .bind::<Array<BigInt>, _>(&losers)
    .bind::<Array<BigInt>, _>(&survivors)
    .load(connection)?;
    sql_query(
        "UPDATE persons p SET merged_into = t.survivor \
         FROM unnest($1, $2) AS t (loser, survivor) WHERE p.id = t.loser OR p.merged_into = t.loser",
    )
    .bind::<Array<BigInt>, _>(&losers)
    .bind::<Array<BigInt>, _>(&survivors)
    .execute(connection)?;
    Ok(moved.into_iter().filter_map(MovedRow::key).collect())
}

#[derive(QueryableByName)]
struct MovedRow {
    #[diesel(sql_type = BigInt)]
    project_id: i64,
    #[diesel(sql_type = SmallInt)]
    kind: i16,
    #[diesel(sql_type = Text)]
    value: String,
}

impl MovedRow {
    fn key(self) -> Option<(ProjectId, Identity)> {
        let kind = IdentityKind::from_i16(self.kind)?;
        let identity = Identity::parse(kind, &self.value).ok()?;
        Some((ProjectId(self.project_id), identity))
    }
}

fn write_events(
    connection: &mut PgConnection,
    units: &[Unit],
    work: &Work<'_>,
    ledger: &mut LedgerRows,
) -> Result<(), FillError> {
    let aliases: Vec<Option<String>> = units.iter().map(alias_properties).collect();
    let mut rows = EventRows::with_capacity(units.len());
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
        rows.push(unit.project, *id, unit.digest, person, event, alias);
        ledger.settle(unit.project, Fate::Stored);
    }
    if rows.ids.is_empty() {
        return Ok(());
    }
    let inserted = InsertEvents { rows: &rows }.execute(connection)?;
    if inserted < rows.ids.len() {
        return Err(FillError::Race);
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
    ledger: &mut LedgerRows,
) -> QueryResult<()> {
    let mut rows: Vec<(ProjectId, &Rejection)> = Vec::new();
    for (unit, verdict) in units.iter().zip(&work.verdicts) {
        match (&unit.item, verdict) {
            (Item::Rejected(rejection), _) | (_, Verdict::Rejected(rejection)) => {
                rows.push((unit.project, rejection));
                ledger.settle(unit.project, Fate::Rejected);
            }
            _ => {}
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let projects: Vec<i64> = rows.iter().map(|(project, _)| project.0).collect();
    let rejections: Vec<&Rejection> = rows.iter().map(|(_, rejection)| *rejection).collect();
    let each = |read: fn(&Rejection) -> String| -> Vec<String> {
        rejections.iter().map(|r| read(r)).collect()
    };
    let ids: Vec<Option<String>> = rejections
        .iter()
        .map(|r| r.message_id.as_deref().map(without_nul))
        .collect();
    let origins = || rejections.iter().map(|r| &r.origin);
    let contexts: Vec<Option<&str>> = origins().map(|o| o.context.as_deref()).collect();
    sql_query(
        "INSERT INTO rejected_events (project_id, code, message, message_id, payload, fields, \
                                      route, received_at, \"timestamp\", context, is_cut, replay_of) \
         SELECT project_id, code, message, message_id, payload, fields::json, route, received_at, \
                \"timestamp\", context, is_cut, replay_of \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
           AS t (project_id, code, message, message_id, payload, fields, route, received_at, \
                 \"timestamp\", context, is_cut, replay_of)",
    )
    .bind::<Array<BigInt>, _>(projects)
    .bind::<Array<Text>, _>(each(|r| r.code.as_str().to_owned()))
    .bind::<Array<Text>, _>(each(|r| without_nul(&r.message)))
    .bind::<Array<Nullable<Text>>, _>(ids)
    .bind::<Array<Text>, _>(each(|r| without_nul(&r.payload)))
    .bind::<Array<Text>, _>(each(|r| json!(r.fields).to_string()))
    .bind::<Array<Text>, _>(each(|r| r.origin.route.as_str().to_owned()))
    .bind::<Array<Timestamptz>, _>(origins().map(|o| o.received_at).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(origins().map(|o| o.timestamp).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(contexts)
    .bind::<Array<Bool>, _>(origins().map(|o| o.is_cut).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(origins().map(|o| o.replay_of).collect::<Vec<_>>())
    .execute(connection)
    .map(|_| ())
}

/// Text columns cannot hold `\0`; JSON text writes it as an escape, so only a raw one is replaced.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
