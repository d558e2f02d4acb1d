//! Campaigns and their history.

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use serde_json::Value;

use super::audit::Change;
use super::schema::{campaign_history, campaigns};
use crate::model::ProjectId;

/// A campaign as stored. `body` holds every top-level field as the admin wrote it.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = campaigns)]
pub struct StoredCampaign {
    /// Its id within the project.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active`, `paused`, `draft` or none.
    pub status: Option<String>,
    /// The event that makes it a candidate.
    pub trigger: Option<String>,
    /// The whole campaign.
    pub body: Value,
    /// Counts its changes.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
    /// Since when it is in quarantine.
    pub quarantined_at: Option<DateTime<Utc>>,
    /// How its targeting failed.
    pub quarantine_reason: Option<String>,
    /// How often in a row.
    pub quarantine_failures: Option<i32>,
}

/// Why a campaign is taken out of service.
#[derive(Debug, Clone)]
pub struct Quarantine<'a> {
    /// The (seq, version) that failed.
    pub stored: (i64, i64),
    /// How it failed: a kind of failure.
    pub reason: &'a str,
    /// How often in a row.
    pub failures: u32,
}

/// What of a campaign is written besides its id.
#[derive(Debug, Clone)]
pub struct CampaignFields<'a> {
    /// Its name.
    pub name: &'a str,
    /// `active`, `paused`, `draft` or none.
    pub status: Option<&'a str>,
    /// The event that makes it a candidate.
    pub trigger: Option<&'a str>,
    /// The whole campaign.
    pub body: &'a Value,
}

/// Which campaigns a list holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CampaignFilter {
    /// Those of this status.
    pub status: Option<String>,
    /// Those of this trigger.
    pub trigger: Option<String>,
    /// Those whose name or trigger has these words.
    pub words: Option<String>,
    /// Only those in quarantine.
    pub quarantined: bool,
}

type Boxed<'a> = campaigns::BoxedQuery<'a, Pg>;

fn filtered<'a>(project: ProjectId, filter: &'a CampaignFilter) -> Boxed<'a> {
    let mut query = campaigns::table
        .filter(campaigns::project_id.eq(project.0))
        .into_boxed();
    if let Some(status) = &filter.status {
        query = query.filter(campaigns::status.eq(status));
    }
    if let Some(trigger) = &filter.trigger {
        query = query.filter(campaigns::trigger.eq(trigger));
    }
    if filter.quarantined {
        query = query.filter(campaigns::quarantined_at.is_not_null());
    }
    if let Some(words) = &filter.words {
        query = query.filter(
            sql::<Bool>("campaigns.search @@ websearch_to_tsquery('simple', ")
                .bind::<Text, _>(words)
                .sql(")"),
        );
    }
    query
}

/// A page of campaigns, newest first, and how many the filter holds.
pub fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    filter: &CampaignFilter,
    limit: i64,
    offset: i64,
) -> QueryResult<(Vec<StoredCampaign>, i64)> {
    let page = filtered(project, filter)
        .order((campaigns::created_at.desc(), campaigns::seq.desc()))
        .limit(limit)
        .offset(offset)
        .select(StoredCampaign::as_select())
        .load(connection)?;
    let total = filtered(project, filter).count().get_result(connection)?;
    Ok((page, total))
}

/// One campaign.
pub fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
) -> QueryResult<Option<StoredCampaign>> {
    campaigns::table
        .find((project.0, id))
        .select(StoredCampaign::as_select())
        .first(connection)
        .optional()
}

/// One campaign, locked until the transaction ends.
pub fn find_for_update(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
) -> QueryResult<Option<StoredCampaign>> {
    campaigns::table
        .find((project.0, id))
        .select(StoredCampaign::as_select())
        .for_update()
        .first(connection)
        .optional()
}

/// Stores a new campaign. Fails with a violation of `campaigns_pkey` when the id is taken.
pub fn insert(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
    fields: &CampaignFields<'_>,
    at: DateTime<Utc>,
) -> QueryResult<StoredCampaign> {
    diesel::insert_into(campaigns::table)
        .values((
            campaigns::project_id.eq(project.0),
            campaigns::id.eq(id),
            campaigns::name.eq(fields.name),
            campaigns::status.eq(fields.status),
            campaigns::trigger.eq(fields.trigger),
            campaigns::body.eq(fields.body),
            campaigns::created_at.eq(at),
        ))
        .returning(StoredCampaign::as_returning())
        .get_result(connection)
}

/// Those of these ids that there are, in no order.
pub fn find_many(
    connection: &mut PgConnection,
    project: ProjectId,
    ids: &[String],
) -> QueryResult<Vec<StoredCampaign>> {
    campaigns::table
        .filter(campaigns::project_id.eq(project.0))
        .filter(campaigns::id.eq_any(ids))
        .select(StoredCampaign::as_select())
        .load(connection)
}

/// Takes a campaign out of service that is live in this version, and returns it if there is one.
pub fn quarantine(
    connection: &mut PgConnection,
    change: &Change<'_>,
    quarantine: &Quarantine<'_>,
) -> QueryResult<Option<StoredCampaign>> {
    let live = campaigns::table
        .find((change.project.0, change.object_id))
        .filter(campaigns::seq.eq(quarantine.stored.0))
        .filter(campaigns::version.eq(quarantine.stored.1))
        .filter(campaigns::status.eq("active"))
        .filter(campaigns::quarantined_at.is_null());
    let failures = i32::try_from(quarantine.failures).unwrap_or(i32::MAX);
    diesel::update(live)
        .set((
            campaigns::quarantined_at.eq(change.at),
            campaigns::quarantine_reason.eq(quarantine.reason),
            campaigns::quarantine_failures.eq(failures),
        ))
        .returning(StoredCampaign::as_returning())
        .get_result(connection)
        .optional()
}

/// Whether the history has anything of a campaign. One without any is taken to have been always as it
/// is.
pub fn has_history(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
) -> QueryResult<bool> {
    let of_it = campaign_history::table
        .filter(campaign_history::project_id.eq(project.0))
        .filter(campaign_history::campaign_id.eq(id));
    diesel::select(diesel::dsl::exists(of_it)).get_result(connection)
}

/// Replaces a campaign that the transaction has locked, and ends its quarantine.
pub fn update(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
    fields: &CampaignFields<'_>,
    at: DateTime<Utc>,
) -> QueryResult<StoredCampaign> {
    diesel::update(campaigns::table.find((project.0, id)))
        .set((
            campaigns::name.eq(fields.name),
            campaigns::status.eq(fields.status),
            campaigns::trigger.eq(fields.trigger),
            campaigns::body.eq(fields.body),
            campaigns::version.eq(campaigns::version + 1),
            campaigns::updated_at.eq(at),
            campaigns::quarantined_at.eq(None::<DateTime<Utc>>),
            campaigns::quarantine_reason.eq(None::<&str>),
            campaigns::quarantine_failures.eq(None::<i32>),
        ))
        .returning(StoredCampaign::as_returning())
        .get_result(connection)
}

/// Deletes a campaign and returns what it was.
pub fn delete(
    connection: &mut PgConnection,
    project: ProjectId,
    id: &str,
) -> QueryResult<Option<StoredCampaign>> {
    diesel::delete(campaigns::table.find((project.0, id)))
        .returning(StoredCampaign::as_returning())
        .get_result(connection)
        .optional()
}

/// Keeps what a campaign was after a change (`create`, `update`, `quarantine`), or before a `delete`.
pub fn record_history(
    connection: &mut PgConnection,
    project: ProjectId,
    campaign: &StoredCampaign,
    action: &str,
    actor: &str,
    at: DateTime<Utc>,
) -> QueryResult<()> {
    diesel::insert_into(campaign_history::table)
        .values((
            campaign_history::project_id.eq(project.0),
            campaign_history::campaign_id.eq(&campaign.id),
            campaign_history::version.eq(campaign.version),
            campaign_history::action.eq(action),
            campaign_history::body.eq(&campaign.body),
            campaign_history::actor.eq(actor),
            campaign_history::at.eq(at),
        ))
        .execute(connection)
        .map(|_| ())
}
