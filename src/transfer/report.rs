//! What an import did, or would do.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Mode;
use super::file::{DataFile, Plan};
use super::runs::Run;

/// How many skipped records of one reason are listed. The others are counted.
const LISTED_OF_A_CODE_MAX: usize = 10_000;

/// A part of the file, and the table it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// `campaigns`.
    Campaigns,
    /// `segments`.
    Segments,
    /// `featureFlags`.
    FeatureFlags,
    /// `users`, and those that only events mention.
    Users,
    /// `events`.
    Events,
}

impl Section {
    /// The name of the part in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Campaigns => "campaigns",
            Self::Segments => "segments",
            Self::FeatureFlags => "featureFlags",
            Self::Users => "users",
            Self::Events => "events",
        }
    }
}

impl Section {
    /// JSON pointer to one of its records, by its place or its name.
    pub(super) fn pointer(self, record: &str) -> String {
        let token = record.replace('~', "~0").replace('/', "~1");
        format!("/{}/{token}", self.as_str())
    }
}

/// What became of the records of one part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Records in the file; for users, also those that only events mention.
    pub in_file: usize,
    /// Created by this import, or to be created.
    pub created: usize,
    /// There already, with the same content.
    pub present: usize,
    /// There already, with other content; left as they were.
    pub conflicts: usize,
    /// Not imported, each for its reason.
    pub skipped: usize,
}

/// Why a record was not imported, as a stable word and in words.
pub type Skipped = (&'static str, String);

/// A record that was not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedRecord {
    /// The part of the file.
    pub section: Section,
    /// JSON pointer to the record.
    pub pointer: String,
    /// Its id, as far as it has one.
    pub id: Option<String>,
    /// Why, as a stable word.
    pub code: &'static str,
    /// Why, in words.
    pub reason: String,
}

/// The records that were not imported: the first of each reason, and how many there are of it.
#[derive(Debug, Clone, Default)]
pub(super) struct SkippedRecords {
    pub(super) listed: Vec<SkippedRecord>,
    pub(super) by_code: BTreeMap<&'static str, usize>,
    pub(super) by_section: BTreeMap<Section, usize>,
}

impl SkippedRecords {
    pub(super) fn add(&mut self, record: SkippedRecord) {
        *self.by_section.entry(record.section).or_default() += 1;
        add_skipped(&mut self.listed, &mut self.by_code, record);
    }
}

/// Counts a record, and lists it if it is among the first of its reason.
fn add_skipped(
    listed: &mut Vec<SkippedRecord>,
    by_code: &mut BTreeMap<&'static str, usize>,
    record: SkippedRecord,
) {
    let count = by_code.entry(record.code).or_default();
    *count += 1;
    if *count <= LISTED_OF_A_CODE_MAX {
        listed.push(record);
    }
}

/// A record whose id exists with other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The part of the file.
    pub section: Section,
    /// The id.
    pub id: String,
}

/// One table's comparison between the file and the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// The part of the file.
    pub section: Section,
    /// Rows the file says there must be.
    pub rows_expected: i64,
    /// Rows there are.
    pub rows_found: i64,
    /// The checksum of what the file says.
    pub checksum_expected: String,
    /// The checksum of what the database holds.
    pub checksum_found: String,
}

impl Verification {
    /// Whether both agree.
    pub fn is_good(&self) -> bool {
        self.rows_expected == self.rows_found && self.checksum_expected == self.checksum_found
    }
}

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// The run's number, for its rollback; absent in a dry run of a new file.
    pub run: Option<i64>,
    /// The file's SHA-256.
    pub file_sha256: String,
    /// When the file's first event counts as received.
    pub received_at: DateTime<Utc>,
    /// What became of each part's records.
    pub tallies: BTreeMap<Section, Tally>,
    /// Events with names that the seed's own server would refuse, which are imported all the same.
    pub odd_event_names: usize,
    /// Things worth knowing that keep no record out.
    pub notes: Vec<String>,
    /// Records that were not imported; of each reason the first 10,000.
    pub skipped: Vec<SkippedRecord>,
    /// How many records were not imported for each reason, listed or not.
    pub skipped_by_code: BTreeMap<&'static str, usize>,
    /// Records whose id exists with other content.
    pub conflicts: Vec<Conflict>,
    /// The comparison at the end; empty in a dry run.
    pub verification: Vec<Verification>,
    /// Of what the file says of these the database rightly holds something else, or nothing.
    #[serde(skip)]
    pub(super) left_out: HashSet<(Section, String)>,
}

impl Report {
    pub(super) fn new(file: &DataFile, plan: &Plan<'_>, run: &Run, mode: Mode) -> Self {
        let mut tallies: BTreeMap<Section, Tally> = plan
            .in_file
            .iter()
            .map(|(section, in_file)| {
                let tally = Tally {
                    in_file: *in_file,
                    ..Tally::default()
                };
                (*section, tally)
            })
            .collect();
        for (section, skipped) in &plan.skipped.by_section {
            tallies.entry(*section).or_default().skipped = *skipped;
        }
        Self {
            dry_run: mode == Mode::DryRun,
            run: run.number(),
            file_sha256: file.sha256_hex(),
            received_at: run.started_at,
            tallies,
            odd_event_names: plan.odd_event_names,
            notes: plan.notes.clone(),
            skipped: plan.skipped.listed.clone(),
            skipped_by_code: plan.skipped.by_code.clone(),
            conflicts: Vec::new(),
            verification: Vec::new(),
            left_out: HashSet::new(),
        }
    }

    /// Whether the database holds what the file says. True in a dry run, which verifies nothing.
    pub fn verified(&self) -> bool {
        self.verification.iter().all(Verification::is_good)
    }

    /// Rows created, all parts together.
    pub fn created(&self) -> usize {
        self.tallies.values().map(|tally| tally.created).sum()
    }

    pub(super) fn count_created(&mut self, section: Section, count: usize) {
        self.tallies.entry(section).or_default().created += count;
    }

    pub(super) fn count_present(&mut self, section: Section, count: usize) {
        self.tallies.entry(section).or_default().present += count;
    }

    pub(super) fn conflict(&mut self, section: Section, id: &str) {
        self.tallies.entry(section).or_default().conflicts += 1;
        self.left_out.insert((section, id.to_owned()));
        self.conflicts.push(Conflict {
            section,
            id: id.to_owned(),
        });
    }

    /// Skips a record that looked good.
    pub(super) fn skip(&mut self, section: Section, pointer: &str, id: &str, why: Skipped) {
        self.tallies.entry(section).or_default().skipped += 1;
        self.left_out.insert((section, id.to_owned()));
        let record = SkippedRecord {
            section,
            pointer: section.pointer(pointer),
            id: Some(id.to_owned()),
            code: why.0,
            reason: why.1,
        };
        add_skipped(&mut self.skipped, &mut self.skipped_by_code, record);
    }

    /// Skips a record that the database cannot hold.
    pub(super) fn refuse(
        &mut self,
        section: Section,
        pointer: &str,
        id: &str,
        error: &diesel::result::Error,
    ) {
        let why = ("refused", format!("the database refuses it: {error}"));
        self.skip(section, pointer, id, why);
    }
}
