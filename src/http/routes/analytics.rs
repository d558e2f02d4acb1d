//! How campaigns do, counted from interaction events.
//!
//! The seed's members keep the seed's form (`ctr` is a text such as `"12.34"`, or the number 0).
//! Beside them stand numbers and a daily series, under other names.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, get, web};
use chrono::{NaiveDate, TimeDelta};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::events::TOTAL_MAX;
use crate::error::Error;
use crate::http::auth::{Authorized, Read};
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::model::unfit;
use crate::store::analytics::{self, DailyCount, Interactions};
use crate::store::events::{self, EventFilter};
use crate::store::{campaigns, people};

const NOT_FOUND: Error = Error::NotFound("Campaign");

/// How many interactions are counted at most.
const INTERACTIONS_MAX: i64 = 1_000_000;

/// How many days of the series are answered at most, the last ones.
const SERIES_DAYS_MAX: usize = 400;

/// The names of interactions, by what they mean: the seed's analytics count the first of each, its
/// Flutter SDK sends the second.
const NAMES: [(&str, Kind); 8] = [
    ("nudge_impression", Kind::Impression),
    ("campaign_viewed", Kind::Impression),
    ("nudge_click", Kind::Click),
    ("campaign_clicked", Kind::Click),
    ("nudge_dismiss", Kind::Dismissal),
    ("campaign_dismissed", Kind::Dismissal),
    ("nudge_conversion", Kind::Conversion),
    ("campaign_converted", Kind::Conversion),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Impression,
    Click,
    Dismissal,
    Conversion,
}

/// Counts of interactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
struct Counts {
    /// Times a campaign was seen.
    impressions: i64,
    /// Times it was clicked.
    clicks: i64,
    /// Times it was closed.
    dismissals: i64,
    /// Times it succeeded.
    conversions: i64,
}

impl Counts {
    fn add(&mut self, kind: Kind, count: i64) {
        match kind {
            Kind::Impression => self.impressions += count,
            Kind::Click => self.clicks += count,
            Kind::Dismissal => self.dismissals += count,
            Kind::Conversion => self.conversions += count,
        }
    }
}

/// The interactions of one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct Day {
    /// The day they happened, in UTC.
    date: NaiveDate,
    #[serde(flatten)]
    counts: Counts,
}

/// The whole project.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Overview {
    /// Campaigns of any status.
    total_campaigns: i64,
    /// Campaigns that are active.
    active_campaigns: i64,
    /// Stored events, counted up to 100,000.
    total_events: i64,
    /// People, counted up to 100,000.
    total_users: i64,
    /// Times a campaign was seen.
    impressions: i64,
    /// Times one was clicked.
    clicks: i64,
    /// Times one succeeded.
    conversions: i64,
    /// Clicks an impression, in percent: a text with two digits, or 0.
    ctr: Value,
    /// Conversions a click, in percent: a text with two digits, or 0.
    conversion_rate: Value,
    /// Times one was closed.
    dismissals: i64,
    /// Clicks an impression.
    #[serde(rename = "click_through_ratio")]
    click_through_ratio: Option<f64>,
    /// Conversions a click.
    #[serde(rename = "conversion_ratio")]
    conversion_ratio: Option<f64>,
    /// True when a number is a lower bound: more is stored than is counted. Beyond 1,000,000
    /// interactions any of their counts may be too low, and days may be missing from `daily`.
    #[serde(rename = "totals_capped", skip_serializing_if = "std::ops::Not::not")]
    totals_capped: bool,
    /// The days with interactions, oldest first.
    daily: Vec<Day>,
}

impl Overview {
    /// Of campaigns, all and active ones, and of events and people counted one further than their
    /// bound.
    fn new(campaigns: (i64, i64), events: i64, users: i64, counted: Interactions) -> Self {
        let (counts, daily) = sum(counted.by_day);
        Overview {
            total_campaigns: campaigns.0,
            active_campaigns: campaigns.1,
            total_events: events.min(TOTAL_MAX),
            total_users: users.min(TOTAL_MAX),
            impressions: counts.impressions,
            clicks: counts.clicks,
            conversions: counts.conversions,
            ctr: seed_percent(counts.clicks, counts.impressions),
            conversion_rate: seed_percent(counts.conversions, counts.clicks),
            dismissals: counts.dismissals,
            click_through_ratio: ratio(counts.clicks, counts.impressions),
            conversion_ratio: ratio(counts.conversions, counts.clicks),
            totals_capped: events.max(users) > TOTAL_MAX || counted.is_capped,
            daily,
        }
    }
}

/// One campaign.
#[derive(Debug, Serialize, ToSchema)]
struct CampaignReport {
    /// The campaign's id.
    campaign_id: String,
    /// Its name.
    campaign_name: String,
    #[serde(flatten)]
    counts: Counts,
    /// Clicks an impression, in percent: a text with two digits, or 0.
    ctr: Value,
    /// Conversions a click, in percent: a text with two digits, or 0.
    #[serde(rename = "conversionRate")]
    conversion_rate: Value,
    /// Clicks an impression.
    click_through_ratio: Option<f64>,
    /// Conversions a click.
    conversion_ratio: Option<f64>,
    /// True when there are more than the 1,000,000 interactions that are counted: any count may be
    /// too low, and days may be missing from `daily`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    totals_capped: bool,
    /// The days with interactions, oldest first.
    daily: Vec<Day>,
}

impl CampaignReport {
    fn new(campaign_id: String, campaign_name: String, counted: Interactions) -> Self {
        let (counts, daily) = sum(counted.by_day);
        CampaignReport {
            campaign_id,
            campaign_name,
            counts,
            ctr: seed_percent(counts.clicks, counts.impressions),
            conversion_rate: seed_percent(counts.conversions, counts.clicks),
            click_through_ratio: ratio(counts.clicks, counts.impressions),
            conversion_ratio: ratio(counts.conversions, counts.clicks),
            totals_capped: counted.is_capped,
            daily,
        }
    }
}

/// Sums up the whole project.
#[utoipa::path(tag = "analytics", operation_id = "get_overview", security(("api_key" = ["read"])),
    params(("days" = Option<i64>, Query,
        description = "How far back interactions are counted, by receipt: 1 to 3650, default 90.")),
    responses((status = 200, description = "The project.", body = Overview)))]
#[get("/v1/analytics/overview")]
pub(super) async fn get_overview(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let since = state.clock.now() - TimeDelta::days(days(&params)?);
    let names = NAMES.map(|(name, _)| name);
    let overview = state
        .store
        .browse(project, move |connection| {
            let counted = analytics::interactions(
                connection,
                project,
                &names,
                None,
                since,
                INTERACTIONS_MAX,
            )?;
            let campaigns = analytics::campaign_counts(connection, project)?;
            let all = EventFilter::default();
            let total_events = events::count(connection, project, &all, TOTAL_MAX + 1)?;
            let total_users = people::count(connection, project, TOTAL_MAX + 1)?;
            Ok(Overview::new(campaigns, total_events, total_users, counted))
        })
        .await?;
    Ok(HttpResponse::Ok().json(overview))
}

/// Sums up one campaign.
#[utoipa::path(tag = "analytics", operation_id = "get_campaign_report",
    security(("api_key" = ["read"])),
    params(
        ("id" = String, Path, description = "The campaign's id."),
        ("days" = Option<i64>, Query,
            description = "How far back interactions are counted, by receipt: 1 to 3650, default 90."),
    ),
    responses((status = 200, description = "The campaign.", body = CampaignReport)))]
#[get("/v1/analytics/campaigns/{id}")]
pub(super) async fn get_campaign_report(
    reader: Authorized<Read>,
    id: web::Path<String>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let id = id.into_inner();
    if unfit(&id, 255).is_some() {
        return Err(NOT_FOUND.into());
    }
    let project = reader.access.project;
    let since = state.clock.now() - TimeDelta::days(days(&params)?);
    let names = NAMES.map(|(name, _)| name);
    let found = state
        .store
        .browse(project, move |connection| {
            let Some(campaign) = campaigns::find(connection, project, &id)? else {
                return Ok(None);
            };
            let counted = analytics::interactions(
                connection,
                project,
                &names,
                Some(&id),
                since,
                INTERACTIONS_MAX,
            )?;
            Ok(Some((campaign, counted)))
        })
        .await?;
    let (campaign, counted) = found.ok_or(NOT_FOUND)?;
    let report = CampaignReport::new(campaign.id, campaign.name, counted);
    Ok(HttpResponse::Ok().json(report))
}

/// The default is the default retention, so that everything that is stored counts.
fn days(params: &Params) -> Result<i64, Error> {
    params.number("days", 90, 1, 3_650)
}

fn sum(counted: Vec<DailyCount>) -> (Counts, Vec<Day>) {
    let mut total = Counts::default();
    let mut by_day = BTreeMap::<NaiveDate, Counts>::new();
    for row in counted {
        let named = NAMES.iter().find(|(name, _)| *name == row.name);
        let Some((_, kind)) = named else {
            continue;
        };
        total.add(*kind, row.count);
        by_day.entry(row.day).or_default().add(*kind, row.count);
    }
    let too_many = by_day.len().saturating_sub(SERIES_DAYS_MAX);
    let days = by_day
        .into_iter()
        .skip(too_many)
        .map(|(date, counts)| Day { date, counts });
    (total, days.collect())
}

/// The seed's form of a percentage: a text with two digits, or the number 0 when there is nothing
/// to divide by.
fn seed_percent(part: i64, whole: i64) -> Value {
    match ratio(part, whole) {
        Some(ratio) => json!(format!("{:.2}", ratio * 100.0)),
        None => json!(0),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2^53, where a float is exact"
)]
fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn percentages_are_written_as_the_seed_does() {
        assert_eq!(seed_percent(0, 0), json!(0));
        assert_eq!(seed_percent(0, 4), json!("0.00"));
        assert_eq!(seed_percent(1, 3), json!("33.33"));
        assert_eq!(seed_percent(5, 4), json!("125.00"));
    }

    #[test]
    fn both_families_of_names_count() {
        let row = |day: &str, name: &str, count| DailyCount {
            day: day.parse().unwrap(),
            name: name.to_owned(),
            count,
        };
        let (total, days) = sum(vec![
            row("2026-01-02", "nudge_impression", 2),
            row("2026-01-01", "campaign_viewed", 3),
            row("2026-01-01", "campaign_clicked", 1),
            row("2026-01-01", "other", 9),
        ]);
        assert_eq!((total.impressions, total.clicks), (5, 1));
        assert_eq!(days[0].date.to_string(), "2026-01-01");
        assert_eq!(days[0].counts.impressions, 3);
        assert_eq!(days.len(), 2);
    }

    #[test]
    fn both_answers_say_when_not_all_interactions_were_counted() {
        let counted = |is_capped| Interactions {
            by_day: Vec::new(),
            is_capped,
        };
        let capped = |is_capped, events, users| {
            let report = CampaignReport::new("c".to_owned(), "c".to_owned(), counted(is_capped));
            let overview = Overview::new((1, 1), events, users, counted(is_capped));
            [json!(overview), json!(report)].map(|answer| answer.get("totals_capped").cloned())
        };
        let yes = || Some(json!(true));
        assert_eq!(capped(false, TOTAL_MAX, TOTAL_MAX), [None, None]);
        assert_eq!(capped(true, 3, 3), [yes(), yes()]);
        assert_eq!(capped(false, TOTAL_MAX + 1, 3), [yes(), None]);
        assert_eq!(capped(false, 3, TOTAL_MAX + 1), [yes(), None]);
    }
}
