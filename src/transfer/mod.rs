//! Import of the seed's `data.json`, its verification, and its rollback.
//!
//! A file is known by its SHA-256. Its first import begins a *run*, whose start counts as the time
//! its events were received (each one microsecond after the one before, so that newest-first keeps
//! the file's order). Importing the file again meets the rows of that run, so twice gives the same
//! rows, as does a rerun of one that was killed.
//!
//! # What becomes of the records
//! - Nothing that exists is overwritten. A row of the same id with the same content counts as
//!   present; with other content it is a *conflict*, which is listed.
//! - A record that cannot be kept is *skipped* and listed with its reason. The events of a skipped
//!   user are skipped, too: user and events come with the corrected file.
//! - Events keep their ids as row ids where these are UUIDs; otherwise, and where another project
//!   has the id, the row id is a UUIDv5 of project and id, and the original is kept as message id.
//! - The id of an event is claimed as a message id, so a client that sends it again within the
//!   window gets a duplicate, and an event that a client has already sent is skipped.
//! - The rows a run created are noted, so its rollback takes out those and no others.
//!
//! This module knows no HTTP, no services and no terminal; progress is told to a callback.

mod definitions;
mod events;
mod file;
mod people;
mod record;
mod report;
mod rollback;
mod runs;
mod strays;
mod text;
mod verify;

use std::collections::HashSet;
use std::path::Path;

use diesel::PgConnection;

use crate::model::ProjectId;
use crate::store::{is_refused_data, partitions};

use record::{EventRecord, PersonRecord};

pub use file::DataFile;
pub use report::{Conflict, Report, Section, Skipped, SkippedRecord, Tally, Verification};
pub use rollback::{RollbackReport, rollback};

/// How many records one transaction writes.
const BATCH_RECORDS: usize = 1_000;

/// How many bytes of records, unless a single one has more.
const BATCH_BYTES: usize = 16 << 20;

/// The largest file, in bytes. It is held in memory.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// Why an import or a rollback ended early. What is committed stays; running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file is something else.
    #[error("{path} is no data.json of the seed: {reason}")]
    NotTheSeeds {
        /// Its path.
        path: String,
        /// What was found.
        reason: String,
    },
    /// Another import or rollback holds the lock.
    #[error("another import or rollback is going on")]
    Busy,
    /// There is no such run.
    #[error("this project has no import run {0}")]
    NoSuchRun(i64),
    /// A batch met somebody else's writes again and again.
    #[error("other writers kept changing the same rows; run it again")]
    Contended,
    /// Transactions of others that may concern a removed person are open for long.
    #[error(
        "a transaction that is older than the rollback is still open; run it again once that has \
         ended"
    )]
    OlderTransactions,
    /// The file was imported so long ago that its events are past their retention.
    #[error(
        "run {run} imported this file on {day}, and the project keeps events for {retention_days} \
         day(s): its events would come back and be dropped again; roll the run back \
         (--rollback {run}) and import the file anew"
    )]
    PastRetention {
        /// The run.
        run: i64,
        /// The day on which its events count as received.
        day: chrono::NaiveDate,
        /// How long the project keeps events.
        retention_days: i32,
    },
    /// A query failed.
    #[error("the database refused: {0}")]
    Database(#[from] diesel::result::Error),
}

/// Whether to import or to tell what an import would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Import and verify.
    Import,
    /// Change nothing.
    DryRun,
}

/// Told after each batch: how many records of the file are done, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Reads a file of the seed and checks every record, without a database.
///
/// # Errors
/// The file cannot be read or is something else. Odd records are no errors; they are skipped.
pub fn read(path: &Path) -> Result<DataFile, TransferError> {
    DataFile::read(path)
}

/// A file that comes with the program instead of from a folder.
///
/// # Errors
/// The bytes are not UTF-8.
pub fn built_in(name: &str, bytes: &[u8]) -> Result<DataFile, TransferError> {
    DataFile::from_bytes(name, name, bytes.to_vec())
}

/// Whether a file was ever imported into a project to its end, rolled back since or not.
///
/// # Errors
/// The query fails.
pub fn was_imported(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
) -> Result<bool, TransferError> {
    Ok(runs::was_finished(connection, project, file)?)
}

/// Imports a file into a project, on a connection of its own and outside any transaction.
///
/// # Errors
/// See [`TransferError`]. A failed verification is no error but [`Report::verified`] being false.
pub fn import(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
    mode: Mode,
    progress: Progress<'_>,
) -> Result<Report, TransferError> {
    runs::locked(connection, |connection| {
        import_locked(connection, project, file, mode, progress)
    })
}

fn import_locked(
    connection: &mut PgConnection,
    project: ProjectId,
    file: &DataFile,
    mode: Mode,
    progress: Progress<'_>,
) -> Result<Report, TransferError> {
    let mut plan = file.plan()?;
    let run = match mode {
        Mode::Import => runs::begin(connection, project, file)?,
        Mode::DryRun => runs::peek(connection, project, file)?,
    };
    if !plan.events.is_empty() {
        runs::refuse_past(connection, &run)?;
    }
    let mut report = Report::new(file, &plan, &run, mode);
    if mode == Mode::Import {
        for day in run.days(plan.event_places) {
            partitions::ensure_day(connection, day)?;
        }
    }
    let total = plan.records();
    let mut done = 0;
    definitions::load(connection, &run, &plan, mode, &mut report)?;
    done += plan.campaigns.len() + plan.segments.len() + plan.flags.len();
    progress(done, total);
    let mut refused = HashSet::new();
    for batch in batches(&plan.people, PersonRecord::bytes) {
        let mut load =
            |report: &mut Report, part: &[_]| people::load(connection, &run, part, mode, report);
        by_halves(
            batch,
            &mut report,
            &mut load,
            &mut |report, person, error| {
                let id = person.identity.value();
                report.refuse(Section::Users, id, id, error);
                refused.insert(id.to_owned());
            },
        )?;
        done += batch.len();
        progress(done, total);
    }
    plan.events.retain(|event| {
        let is_kept = !refused.contains(event.user.as_ref());
        if !is_kept {
            let why = file::of_skipped(&event.user);
            report.skip(Section::Events, &event.place.to_string(), &event.id, why);
            done += 1;
        }
        is_kept
    });
    for batch in batches(&plan.events, EventRecord::bytes) {
        let mut load =
            |report: &mut Report, part: &[_]| events::load(connection, &run, part, mode, report);
        by_halves(
            batch,
            &mut report,
            &mut load,
            &mut |report, event, error| {
                report.refuse(Section::Events, &event.place.to_string(), &event.id, error);
            },
        )?;
        done += batch.len();
        progress(done, total);
    }
    if mode == Mode::Import {
        verify::verify(connection, &run, &plan, &mut report)?;
        runs::finish(connection, &run, report.verified())?;
        if report.created() > 0 {
            runs::announce_people(connection, project)?;
        }
        tracing::info!(
            run = run.id,
            created = report.created(),
            verified = report.verified(),
            "import finished"
        );
    }
    Ok(report)
}

/// The records in parts that one transaction writes each.
fn batches<T>(records: &[T], bytes_of: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fits = |record: &&T| {
            bytes = bytes.saturating_add(bytes_of(record));
            bytes <= BATCH_BYTES
        };
        let count = rest.iter().take(BATCH_RECORDS).take_while(fits).count();
        let (batch, others) = rest.split_at_checked(count.max(1))?;
        rest = others;
        Some(batch)
    })
}

/// Does the work on a batch. Where the database cannot hold some of it, on its halves, until what it
/// refuses stands alone. Work that fails leaves the report as it was.
fn by_halves<T>(
    batch: &[T],
    report: &mut Report,
    work: &mut impl FnMut(&mut Report, &[T]) -> Result<(), TransferError>,
    refuse: &mut impl FnMut(&mut Report, &T, &diesel::result::Error),
) -> Result<(), TransferError> {
    match (work(report, batch), batch) {
        (Err(TransferError::Database(error)), [record]) if is_refused_data(&error) => {
            refuse(report, record, &error);
            Ok(())
        }
        (Err(TransferError::Database(error)), _) if is_refused_data(&error) => {
            let (first, second) = batch.split_at(batch.len() / 2);
            by_halves(first, report, work, refuse)?;
            by_halves(second, report, work, refuse)
        }
        (outcome, _) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_records_and_by_bytes() {
        let sizes = |records: &[usize]| -> Vec<usize> {
            batches(records, |bytes| *bytes).map(<[_]>::len).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 2_500]), [1_000, 1_000, 500]);
        let half = BATCH_BYTES / 2;
        assert_eq!(sizes(&[half, half, 1, usize::MAX, 1, 1]), [2, 1, 1, 2]);
    }
}
