//! What ingest counted against what is there.
//!
//! Each comparison is one statement, so it sees one moment of a database that is being written.

use std::time::{Duration, Instant};

use chrono::{Days, NaiveDate};
use diesel::result::Error as DieselError;
use diesel::{PgConnection, QueryResult};

use super::{Check, Verdict, unanswered};
use crate::cli::output;
use crate::config::Config;
use crate::store::ledger::{self, Difference};
use crate::store::partitions;

/// How long events may be counted. One day's count is bounded by the session's own timeout.
const COUNTING: Duration = Duration::from_secs(60);

const SUM: &str = "ledger";
const STORED: &str = "stored events";
const REJECTED: &str = "rejected events";

/// Compares the last days, today among them, of every project.
pub(super) fn examine(
    connection: &mut PgConnection,
    config: &Config,
    days: u32,
    checks: &mut Vec<Check>,
) {
    let first = match first_day(connection, days) {
        Ok(first) => first,
        Err(error) => return checks.push(unanswered(SUM, &error)),
    };
    let sums = ledger::sum_differences(connection, first).map(|found| {
        let words = format!("every event received since {first} was settled once");
        let said =
            |d: &Difference| format!("of {} event(s) received {} were settled", d.ledger, d.found);
        let advice = "an event was lost or counted twice between decoding and its commit; keep the \
                      server's log of that day and report it";
        compared(SUM, words, &found, said, advice)
    });
    checks.push(sums.unwrap_or_else(|error| unanswered(SUM, &error)));
    let stored = stored(connection, first);
    checks.push(stored.unwrap_or_else(|error| unanswered(STORED, &error)));
    let retention = config.rejected_retention_days;
    let rejected = ledger::rejected_differences(connection, first, retention).map(|found| {
        let words = format!("those of the ledger since {first}");
        let advice = "rejected events were removed or added past Beckon; if a project's \
                      retention_days or rejected_retention_days was raised, the days that were \
                      removed before differ until they are past it";
        compared(REJECTED, words, &found, said_of_table, advice)
    });
    checks.push(rejected.unwrap_or_else(|error| unanswered(REJECTED, &error)));
}

/// The first of the last days on which there is a ledger.
fn first_day(connection: &mut PgConnection, days: u32) -> QueryResult<NaiveDate> {
    let today = partitions::database_now(connection)?.date_naive();
    let back = Days::new(u64::from(days.saturating_sub(1)));
    let first = today.checked_sub_days(back).unwrap_or(today);
    Ok(match ledger::began(connection)? {
        Some(began) => first.max(began),
        None => first,
    })
}

fn stored(connection: &mut PgConnection, first: NaiveDate) -> QueryResult<Check> {
    let started = Instant::now();
    let today = partitions::database_now(connection)?.date_naive();
    // Not only those that have a partition: a day may be gone with all its events.
    let mut days: Vec<NaiveDate> = first.iter_days().take_while(|day| *day <= today).collect();
    let wanted = days.len();
    let mut found = Vec::new();
    let mut counted = 0;
    while let Some(day) = days.pop() {
        match ledger::stored_differences(connection, day) {
            Ok(differences) => found.extend(differences),
            Err(error) if took_too_long(&error) => break,
            Err(error) => return Err(error),
        }
        counted += 1;
        if started.elapsed() > COUNTING {
            break;
        }
    }
    if found.is_empty() && counted < wanted {
        let words = format!("those of the ledger on {counted} of {wanted} day(s)");
        let advice = "counting took too long; ask for fewer --days, or when the database is idle";
        return Ok(Check::new(STORED, Verdict::Warn, words, advice));
    }
    let words = format!("those of the ledger since {first}");
    let advice = "events were removed or added past Beckon, or were lost: attach that day's table \
                  (events_pYYYYMMDD) to events again if it was detached, else compare with a \
                  backup; if a project's retention_days was raised, the days that were dropped \
                  before differ until they are past it";
    Ok(compared(STORED, words, &found, said_of_table, advice))
}

fn took_too_long(error: &DieselError) -> bool {
    error.to_string().contains("statement timeout")
}

fn said_of_table(difference: &Difference) -> String {
    format!(
        "the ledger says {}, the table holds {}",
        difference.ledger, difference.found
    )
}

fn compared(
    name: &'static str,
    fine: String,
    found: &[Difference],
    said: impl Fn(&Difference) -> String,
    advice: &str,
) -> Check {
    let Some(first) = found.first() else {
        return Check::ok(name, fine);
    };
    let project = output::printable(&first.project);
    let mut words = format!("project {project} on {}: {}", first.day, said(first));
    let others = found.len() - 1;
    if others > 0 {
        words.push_str(&format!("; {others} more day(s) differ"));
    }
    Check::new(name, Verdict::Fail, words, advice)
}
