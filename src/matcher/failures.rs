//! At how many calls in a row a campaign's targeting has failed.
//!
//! The count is kept beside the campaign, for whoever wants to take it out of service; no decision
//! rests on it. A run ends with an evaluation that does not fail and with a match. What the index
//! rules out is not evaluated and counts neither way, nor do facts that are nested too deep, which
//! fail every condition there is.
//!
//! All events of a call are decided on at one moment, that at which it was received. A failure counts
//! if its moment is later than that of the one counted before, so that one call, however many events
//! it has, counts once. A clock that was set back counts nothing until it has caught up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use chrono::{DateTime, Utc};

use super::Campaign;
use super::index::Found;
use crate::rules::EvalErrorKind;

/// A campaign that has failed too often in a row.
#[derive(Debug, Clone)]
pub struct Failing {
    /// The campaign, in the state in which it failed.
    pub campaign: Arc<Campaign>,
    /// How it failed the last time.
    pub kind: EvalErrorKind,
    /// At how many calls in a row.
    pub count: u32,
}

/// How many of a project's campaigns have failed since they last did not, or a few more: one that
/// goes may fail once more in a decision that began before. It tells a decision whether there is a run
/// that a match could end.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs(Arc<AtomicU32>);

impl Runs {
    /// Those of these campaigns.
    pub(super) fn of(campaigns: &[Arc<Campaign>]) -> Self {
        let runs = Runs::default();
        let counts = campaigns.iter().map(|it| &it.failures.in_a_row);
        let count = counts.filter(|it| it.load(Ordering::Relaxed) != 0).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        runs.0.store(count, Ordering::Relaxed);
        runs
    }

    /// Whether there may be one.
    pub(super) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// The count of one campaign.
#[derive(Debug)]
pub(super) struct Failures {
    /// How many are too many; 0 is never.
    max: u32,
    in_a_row: AtomicU32,
}

impl Failures {
    pub(super) fn new(max: u32) -> Self {
        Failures {
            max,
            in_a_row: AtomicU32::new(0),
        }
    }

    /// Ends a run. Writes only if there is one, since every thread that decides comes by here.
    pub(super) fn end(&self, runs: &Runs) {
        if self.in_a_row.load(Ordering::Relaxed) != 0
            && self.in_a_row.swap(0, Ordering::Relaxed) != 0
        {
            runs.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// When the failure that was counted last was, in microseconds. It stands apart from the count, which is
/// looked at whenever the campaign matches.
#[derive(Debug)]
pub(super) struct LastFailure(AtomicI64);

impl LastFailure {
    pub(super) fn never() -> Self {
        LastFailure(AtomicI64::new(i64::MIN))
    }

    /// Whether a failure at this moment is a later one, which is then the last.
    fn is_before(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp_micros();
        self.0.load(Ordering::Relaxed) < now && self.0.fetch_max(now, Ordering::Relaxed) < now
    }
}

/// What a decision has to count once it is used: those made ahead may be thrown away.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    failed: Vec<(Arc<Campaign>, EvalErrorKind, DateTime<Utc>)>,
    /// Those whose runs have ended.
    ended: Vec<Arc<Campaign>>,
}

impl Notes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.failed.len() + self.ended.len()
    }

    /// Counts them, but for failures of a call that was counted. A failure is reported each time the
    /// count has grown by the bound, so that a report that leads to nothing is followed by another.
    pub(super) fn count(self, runs: &Runs) -> Vec<Failing> {
        for campaign in &self.ended {
            campaign.failures.end(runs);
        }
        let failed = self.failed.into_iter();
        failed
            .filter(|(campaign, _, now)| campaign.last_failure.is_before(*now))
            .filter_map(|(campaign, kind, _)| {
                let count = campaign.failures.add(runs)?;
                Some(Failing {
                    campaign,
                    kind,
                    count,
                })
            })
            .collect()
    }
}

impl Failures {
    /// Counts a failure; how many these are in a row, if that is to be reported.
    fn add(&self, runs: &Runs) -> Option<u32> {
        let before = self.in_a_row.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            runs.0.fetch_add(1, Ordering::Relaxed);
        }
        let count = before.wrapping_add(1);
        (self.max > 0 && count.is_multiple_of(self.max)).then_some(count)
    }
}

impl Campaign {
    /// Notes a failure, if runs are counted.
    pub(super) fn failed(
        self: &Arc<Self>,
        kind: EvalErrorKind,
        now: DateTime<Utc>,
        found: &mut Found<'_>,
    ) {
        found.errors += 1;
        if found.runs.is_some() {
            found.notes.failed.push((Arc::clone(self), kind, now));
        }
    }

    /// Notes an evaluation that did not fail, if there is a run that it ends.
    pub(super) fn not_failed(self: &Arc<Self>, found: &mut Found<'_>) {
        if found.runs.is_some() && self.failures.in_a_row.load(Ordering::Relaxed) != 0 {
            found.notes.ended.push(Arc::clone(self));
        }
    }
}
