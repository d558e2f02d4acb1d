//! `beckon migrate`.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::Config;
use crate::store::migrate as schema;

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon migrate           run what is pending (the server does this at its start)
  beckon migrate status    list what is pending; exit code 1 if anything is
  beckon migrate down --yes")]
pub(super) struct MigrateArgs {
    /// What to do.
    #[arg(value_enum, default_value_t = Action::Up)]
    action: Action,
    /// Go down although it deletes data.
    #[arg(long)]
    yes: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Run every pending migration.
    Up,
    /// Undo the newest migration, with the data of its tables.
    Down,
    /// List what is pending.
    Status,
}

#[derive(Debug, Serialize)]
struct Report {
    ran: Vec<String>,
    undone: Vec<String>,
    pending: Vec<String>,
}

pub(super) fn run(config: &Config, arguments: &MigrateArgs) -> Outcome {
    if arguments.action == Action::Down && !arguments.yes {
        return Err(Failure::usage(
            "going down deletes the data of the newest migration's tables; say --yes to do it",
        ));
    }
    let database = Database::for_command(config)?;
    let mut connection = database.connect()?;
    let mut report = Report {
        ran: Vec::new(),
        undone: Vec::new(),
        pending: Vec::new(),
    };
    match arguments.action {
        Action::Up => report.ran = schema::migrate(&mut connection)?,
        Action::Down => report
            .undone
            .extend(schema::revert_newest(&mut connection)?),
        Action::Status => {}
    }
    report.pending = schema::pending(&mut connection)?;
    drop(connection);
    database.stop()?;
    if arguments.json {
        output::json(&report);
    } else {
        print(&report);
    }
    let is_behind = arguments.action == Action::Status && !report.pending.is_empty();
    Ok(if is_behind { Exit::Failed } else { Exit::Done })
}

fn print(report: &Report) {
    for (what, versions) in [
        ("ran", &report.ran),
        ("undone", &report.undone),
        ("pending", &report.pending),
    ] {
        for version in versions {
            output::line(format_args!("{what}: {version}"));
        }
    }
    if report.pending.is_empty() {
        output::line("the schema is up to date");
    }
}
