//! `beckon ledger`.

use chrono::{Days, NaiveDate};
use clap::Args;

use crate::config::Config;
use crate::store::ledger::{self, DaySums};
use crate::store::partitions;

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Outcome, keys, output};

/// How many days are shown unless it is said from when.
const DAYS_DEFAULT: u64 = 30;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon ledger
  beckon ledger --from 2026-03-01 --to 2026-03-31 --json

Every received event is stored, a duplicate or rejected; the difference is 0, or something was lost
or counted twice. `beckon doctor` compares the ledger with the tables.")]
pub(super) struct LedgerArgs {
    /// The first day, as 2026-01-31; 29 days before the last, if left out.
    #[arg(long, value_name = "DAY")]
    from: Option<NaiveDate>,
    /// The last day; today, if left out.
    #[arg(long, value_name = "DAY")]
    to: Option<NaiveDate>,
    /// The project, by name.
    #[arg(long, default_value = "default", value_name = "NAME")]
    project: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

pub(super) fn run(config: &Config, arguments: &LedgerArgs) -> Outcome {
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = keys::find_project(&mut connection, &arguments.project)?;
    let last = match arguments.to {
        Some(day) => day,
        None => partitions::database_now(&mut connection)?.date_naive(),
    };
    let before = || last.checked_sub_days(Days::new(DAYS_DEFAULT - 1));
    let first = arguments.from.or_else(before).unwrap_or(last);
    let days = ledger::days(&mut connection, project, first, last)?;
    drop(connection);
    database.stop()?;
    if arguments.json {
        output::json(&days);
    } else {
        print(&days);
    }
    Ok(Exit::Done)
}

fn print(days: &[DaySums]) {
    let cells: Vec<Vec<String>> = days
        .iter()
        .map(|sums| {
            let figures = [
                sums.received,
                sums.stored,
                sums.duplicate,
                sums.rejected,
                sums.difference(),
            ];
            let mut cells = vec![sums.day.to_string()];
            cells.extend(figures.map(|figure| figure.to_string()));
            cells
        })
        .collect();
    let headings = [
        "DAY",
        "RECEIVED",
        "STORED",
        "DUPLICATE",
        "REJECTED",
        "DIFFERENCE",
    ];
    output::table(&headings, &cells);
}
