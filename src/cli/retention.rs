//! `beckon retention`.

use clap::{Args, Subcommand};

use crate::clock::Clock;
use crate::config::Config;
use crate::retention::{self, Mode, Report, RetentionOptions};
use crate::store::ledger::LEDGER_DAYS;

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Outcome, output};

#[derive(Debug, Args)]
pub(super) struct RetentionArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Do now what the server does on its schedule.
    #[command(after_help = "Examples:
  beckon retention run --dry-run
  beckon retention run --json | jq .events_dropped

It creates partitions ahead, drops days past the retention of every project, deletes the events of
projects that keep less, rejected events and old days of the ledger, and forgets message ids past
their window. Nothing received after a
project's cutoff is removed. It can run beside a server; a second run at once is refused, a dry one
is not.")]
    Run {
        /// Tell what would be removed and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(config: &Config, arguments: &RetentionArgs) -> Outcome {
    let Action::Run { dry_run, json } = arguments.action;
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let mode = if dry_run { Mode::DryRun } else { Mode::Run };
    let report = retention::run(&mut connection, &Clock::system(), &options(config), mode)?;
    drop(connection);
    database.stop()?;
    if json {
        output::json(&report);
    } else {
        print(&report);
    }
    Ok(Exit::Done)
}

/// How retention goes about it with these settings.
pub(super) fn options(config: &Config) -> RetentionOptions {
    RetentionOptions {
        partitions_ahead_days: config.partitions_ahead_days,
        dedupe_window_days: config.dedupe_window_days,
        rejected_retention_days: config.rejected_retention_days,
    }
}

fn print(report: &Report) {
    let (dropped, deleted, emptied) = if report.dry_run {
        ("would drop", "would delete", "would empty")
    } else {
        ("dropped", "deleted", "emptied")
    };
    for day in &report.created {
        output::line(format_args!("created the partition of {day}"));
    }
    for partition in &report.dropped {
        output::line(format_args!(
            "{dropped} {} with {} event(s)",
            partition.day, partition.events
        ));
    }
    for day in &report.kept {
        output::line(format_args!(
            "kept {day}: it holds events received later than its date says"
        ));
    }
    for project in &report.projects {
        let id = project.project_id;
        if project.events > 0 {
            output::line(format_args!(
                "{deleted} {} event(s) of project {id} ({} days)",
                project.events, project.retention_days
            ));
        }
        if project.rejected_events > 0 {
            output::line(format_args!(
                "{deleted} {} rejected event(s) of project {id} ({} days)",
                project.rejected_events, project.rejected_retention_days
            ));
        }
    }
    if report.ledger_rows > 0 {
        output::line(format_args!(
            "{deleted} {} row(s) of the ledger ({LEDGER_DAYS} days)",
            report.ledger_rows
        ));
    }
    if report.message_ids_rotated {
        output::line(format_args!("{emptied} the older half of the message ids"));
    }
    output::line(match report.cutoff {
        Some(cutoff) => format!(
            "{} event(s) before {cutoff} {dropped} in whole days",
            report.events_dropped
        ),
        None => "there is no project".to_owned(),
    });
}
