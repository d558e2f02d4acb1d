//! How campaigns do, counted from events.
//!
//! The cost is bounded: only so many days are looked at and only so many interactions are counted,
//! the newest days first being nobody's promise. Counters that are kept as events come belong to a
//! later design.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Date, Nullable, Text, Timestamptz};

use super::schema::campaigns;
use crate::model::ProjectId;

/// So many interactions with one name on one day.
#[derive(Debug, Clone, QueryableByName)]
pub struct DailyCount {
    /// The day it happened, in UTC.
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    /// The event's name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
}

/// What was counted.
#[derive(Debug, Clone)]
pub struct Interactions {
    /// By day and name, in order.
    pub by_day: Vec<DailyCount>,
    /// There are more than were to be counted. Which ones were is left to the database, so any of
    /// the counts may be too low and any day may be missing.
    pub is_capped: bool,
}

/// Counts the events of these names that were received since, by day and name; with a campaign,
/// only those whose `properties.campaign_id` names it. More than `cap` events are not counted, but
/// for the one that tells that there are more.
///
/// Properties that hold `\u0000` cannot be opened by Postgres and count for no campaign.
pub fn interactions(
    connection: &mut PgConnection,
    project: ProjectId,
    names: &[&str],
    campaign: Option<&str>,
    since: DateTime<Utc>,
    cap: i64,
) -> QueryResult<Interactions> {
    let by_day: Vec<DailyCount> = sql_query(
        "SELECT (\"timestamp\" AT TIME ZONE 'UTC')::date AS day, name, count(*) AS count FROM ( \
             SELECT \"timestamp\", name FROM events \
             WHERE project_id = $1 AND name = ANY($2) AND kind = 0 \
               AND received_at >= $3 AND received_on >= $4 \
               AND ($5 OR CASE WHEN position('\\u0000' IN properties::text) > 0 THEN NULL \
                               ELSE properties->>'campaign_id' END = $6) \
             LIMIT $7) counted \
         GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .bind::<BigInt, _>(project.0)
    .bind::<Array<Text>, _>(names)
    .bind::<Timestamptz, _>(since)
    .bind::<Date, _>((since - TimeDelta::days(1)).date_naive())
    .bind::<Bool, _>(campaign.is_none())
    .bind::<Nullable<Text>, _>(campaign)
    .bind::<BigInt, _>(cap.saturating_add(1))
    .load(connection)?;
    let counted: i64 = by_day.iter().map(|row| row.count).sum();
    Ok(Interactions {
        by_day,
        is_capped: counted > cap,
    })
}

/// How many campaigns there are, and how many of them are active.
pub fn campaign_counts(
    connection: &mut PgConnection,
    project: ProjectId,
) -> QueryResult<(i64, i64)> {
    let of_project = || campaigns::table.filter(campaigns::project_id.eq(project.0));
    let total = of_project().count().get_result(connection)?;
    let active = of_project()
        .filter(campaigns::status.eq("active"))
        .count()
        .get_result(connection)?;
    Ok((total, active))
}
