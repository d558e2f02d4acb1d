//! The ledger of ingest, as admins read it.

use actix_web::{HttpResponse, get, web};
use chrono::{DateTime, Datelike, Days, NaiveDate};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::error::{Error, FieldError};
use crate::http::auth::{Authorized, Read};
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::store::ledger::{self, DaySums, LEDGER_DAYS};

/// How many days are answered unless the query says from when.
const DAYS_DEFAULT: u64 = 30;

/// What became of the events of one day.
#[derive(Debug, Serialize, ToSchema)]
struct LedgerDay {
    /// The day, in UTC.
    #[schema(value_type = String, format = Date)]
    day: NaiveDate,
    /// Events that were received.
    received: i64,
    /// Those that were stored.
    stored: i64,
    /// Those that had been stored before, by their message id.
    duplicate: i64,
    /// Those that can never become valid.
    rejected: i64,
    /// `received` less the other three. Always 0, or something was lost or counted twice.
    difference: i64,
}

/// A project's days.
#[derive(Debug, Serialize, ToSchema)]
struct Ledger {
    /// The first day that was asked for.
    #[schema(value_type = String, format = Date)]
    from: NaiveDate,
    /// The last one.
    #[schema(value_type = String, format = Date)]
    to: NaiveDate,
    /// The days with events, newest first.
    days: Vec<LedgerDay>,
}

impl From<DaySums> for LedgerDay {
    fn from(sums: DaySums) -> Self {
        Self {
            day: sums.day,
            received: sums.received,
            stored: sums.stored,
            duplicate: sums.duplicate,
            rejected: sums.rejected,
            difference: sums.difference(),
        }
    }
}

/// Tells what became of the events that were received, by day.
///
/// A replay of a rejected event counts as a call of its own, on its own day. Imports are not in it.
#[utoipa::path(tag = "admin", operation_id = "get_ledger", security(("api_key" = ["read"])),
    params(
        ("from" = Option<String>, Query, description = "The first day, as 2026-01-31; default 29 days before `to`."),
        ("to" = Option<String>, Query, description = "The last day; default today. Days are kept for 400 days."),
    ),
    responses((status = 200, description = "The days.", body = Ledger)))]
#[get("/v1/admin/ledger")]
pub(super) async fn get_ledger(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let last = match day(&params, "to")? {
        Some(day) => day,
        None => state.clock.now().date_naive(),
    };
    let before = |days: u64| last.checked_sub_days(Days::new(days)).unwrap_or(last);
    let first = day(&params, "from")?.unwrap_or_else(|| before(DAYS_DEFAULT - 1));
    // More days than are kept cannot be found.
    let first = first.max(before(u64::from(LEDGER_DAYS)));
    let sums = state
        .store
        .browse(project, move |connection| {
            ledger::days(connection, project, first, last)
        })
        .await?;
    Ok(HttpResponse::Ok().json(Ledger {
        from: first,
        to: last,
        days: sums.into_iter().map(LedgerDay::from).collect(),
    }))
}

/// A day, or a time whose day in UTC is meant.
fn day(params: &Params, name: &str) -> Result<Option<NaiveDate>, Error> {
    let Some(text) = params.get(name) else {
        return Ok(None);
    };
    let of_time = || DateTime::parse_from_rfc3339(text).map(|time| time.to_utc().date_naive());
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").or_else(|_| of_time());
    match day.ok().filter(|day| (1970..=9_999).contains(&day.year())) {
        Some(day) => Ok(Some(day)),
        None => {
            let reason = format!("{name} must be a day, as 2026-01-31");
            let refused = FieldError::query(name, Some(&json!(text)), reason);
            Err(Error::field(refused))
        }
    }
}
