//! `beckon import`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::config::Config;
use crate::transfer::{self, Mode, Report, RollbackReport};

use super::database::Database;
use super::settings::CommandSettings;
use super::{Exit, Failure, Outcome, keys, output};

/// How many lines of each list are printed; all of them are in `--json` and `--report`.
const LISTED_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  beckon import data.json --dry-run
  beckon import data.json --report report.json
  beckon import --rollback 1

Importing a file twice gives the same rows, and so does running an import again that was killed.
Nothing that exists is overwritten: what differs is listed as a conflict. What cannot be kept is
skipped and listed, and so are the events of a skipped user: both come with the corrected file. The
exit code is 3 when the verification at the end finds that the database does not hold what the file
says. A file whose import is older than the project keeps events is refused until that import is
rolled back.

A rollback takes out the rows a run created. It keeps and lists those that were changed since
(unless --force is given) and people with later events.")]
pub(super) struct ImportArgs {
    /// The file.
    #[arg(required_unless_present = "rollback", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tell what would be imported and change nothing.
    #[arg(long, conflicts_with = "rollback")]
    dry_run: bool,
    /// Take an import out again, by its number.
    #[arg(long, value_name = "RUN", conflicts_with = "file")]
    rollback: Option<i64>,
    /// With --rollback: also take out rows that were changed since.
    #[arg(long, requires = "rollback")]
    force: bool,
    /// The project, by name.
    #[arg(long, default_value = "default", value_name = "NAME")]
    project: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Also write the whole report, as JSON, to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: CommandSettings,
}

pub(super) fn run(config: &Config, arguments: &ImportArgs) -> Outcome {
    match (&arguments.file, arguments.rollback) {
        (_, Some(run)) => roll_back(config, arguments, run),
        (Some(file), None) => import(config, arguments, file),
        (None, None) => Err(Failure::usage("a file or --rollback is needed")),
    }
}

fn import(config: &Config, arguments: &ImportArgs, path: &Path) -> Outcome {
    let mode = if arguments.dry_run {
        Mode::DryRun
    } else {
        Mode::Import
    };
    let file = transfer::read(path)?.with_traits_bytes_max(config.limit_traits_bytes);
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = keys::find_project(&mut connection, &arguments.project)?;
    let bar = progress_bar();
    let mut progress = |done: usize, total: usize| {
        bar.set_length(total.try_into().unwrap_or_default());
        bar.set_position(done.try_into().unwrap_or_default());
    };
    let outcome = transfer::import(&mut connection, project, &file, mode, &mut progress);
    bar.finish_and_clear();
    let report = outcome?;
    drop(connection);
    database.stop()?;
    tell(arguments, &report, print)?;
    Ok(if report.verified() {
        Exit::Done
    } else {
        Exit::NotVerified
    })
}

/// A bar on a terminal; nothing anywhere else.
fn progress_bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    // The template is a constant; were it wrong, the default look would do.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} records, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Prints the report and writes it where it was asked for. What is done is done, so it is told even
/// if the file cannot be written.
fn tell<R: Serialize>(
    arguments: &ImportArgs,
    report: &R,
    print: impl FnOnce(&R),
) -> Result<(), Failure> {
    if arguments.json {
        output::json(report);
    } else {
        print(report);
    }
    match &arguments.report {
        Some(path) => write_report(path, report),
        None => Ok(()),
    }
}

fn write_report(path: &Path, report: &impl Serialize) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("{} cannot be written: {error}", path.display()))
    };
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(&error))?;
    std::fs::write(path, text + "\n").map_err(|error| failed(&error))
}

fn print(report: &Report) {
    match (report.dry_run, report.run) {
        (true, Some(run)) => {
            output::line(format_args!("dry run; the file was imported as run {run}"))
        }
        (true, None) => output::line("dry run; the file is new"),
        (false, run) => output::line(format_args!(
            "run {}; its events count as received at {}",
            run.unwrap_or_default(),
            report.received_at.format("%F %T UTC")
        )),
    }
    print_tallies(report);
    if report.odd_event_names > 0 {
        output::line(format_args!(
            "{} event(s) have names that the seed's own server would refuse; they are imported",
            report.odd_event_names
        ));
    }
    let notes: Vec<String> = report
        .notes
        .iter()
        .map(|note| format!("note: {note}"))
        .collect();
    list(&notes);
    let skipped: Vec<String> = report
        .skipped
        .iter()
        .map(|record| {
            let id = record.id.as_deref().unwrap_or("-");
            format!("skipped {} (id {id}): {}", record.pointer, record.reason)
        })
        .collect();
    list(&skipped);
    let unlisted = report.skipped_by_code.values().sum::<usize>();
    let unlisted = unlisted.saturating_sub(skipped.len());
    if unlisted > 0 {
        output::line(format_args!(
            "{unlisted} more record(s) were skipped for the same reasons; they are nowhere listed"
        ));
    }
    let conflicts: Vec<String> = report
        .conflicts
        .iter()
        .map(|conflict| {
            let section = conflict.section.as_str();
            format!(
                "conflict in {section}: {} exists with other content",
                conflict.id
            )
        })
        .collect();
    list(&conflicts);
    print_verification(report);
}

fn print_tallies(report: &Report) {
    let created = if report.dry_run {
        "TO CREATE"
    } else {
        "CREATED"
    };
    let rows: Vec<Vec<String>> = report
        .tallies
        .iter()
        .map(|(section, tally)| {
            let mut row = vec![section.as_str().to_owned()];
            let counts = [
                tally.in_file,
                tally.created,
                tally.present,
                tally.conflicts,
                tally.skipped,
            ];
            row.extend(counts.map(|count| count.to_string()));
            row
        })
        .collect();
    output::table(
        &["", "IN FILE", created, "PRESENT", "CONFLICTS", "SKIPPED"],
        &rows,
    );
}

fn print_verification(report: &Report) {
    for table in &report.verification {
        output::line(format_args!(
            "{} {}: {} of {} row(s), checksum {}",
            if table.is_good() {
                "verified"
            } else {
                "NOT VERIFIED"
            },
            table.section.as_str(),
            table.rows_found,
            table.rows_expected,
            if table.checksum_expected == table.checksum_found {
                table.checksum_found.clone()
            } else {
                format!(
                    "{} instead of {}",
                    table.checksum_found, table.checksum_expected
                )
            }
        ));
    }
    if !report.verified() {
        output::line(
            "what is not verified may have been changed by others during the import: run it again to \
             see",
        );
    }
}

/// Prints the first lines.
fn list(lines: &[String]) {
    for line in lines.iter().take(LISTED_MAX) {
        output::line(output::printable(line));
    }
    if lines.len() > LISTED_MAX {
        output::line(format_args!(
            "… and {} more; --json or --report list them all",
            lines.len() - LISTED_MAX
        ));
    }
}

fn roll_back(config: &Config, arguments: &ImportArgs, run: i64) -> Outcome {
    let database = Database::for_command(config)?;
    let mut connection = database.connect_migrated()?;
    let project = keys::find_project(&mut connection, &arguments.project)?;
    let report = transfer::rollback(&mut connection, project, run, arguments.force)?;
    drop(connection);
    database.stop()?;
    tell(arguments, &report, print_rollback)?;
    Ok(Exit::Done)
}

fn print_rollback(report: &RollbackReport) {
    output::line(format_args!(
        "run {}: took out {} campaign(s), {} segment(s), {} flag(s), {} user(s), {} event(s)",
        report.run, report.campaigns, report.segments, report.flags, report.people, report.events
    ));
    let kept: Vec<String> = report
        .kept
        .iter()
        .map(|kept| format!("kept {} {}: {}", kept.kind, kept.id, kept.reason))
        .collect();
    list(&kept);
}
