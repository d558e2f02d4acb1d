//! The ledger: what a transaction did with the events it received, by project.
//!
//! `received` comes from the decoder, `stored`, `duplicate` and `rejected` from what the
//! transaction does, and all four are written in it. The first equals the sum of the others unless
//! an event was lost on the way, which is what the ledger is for.

use diesel::{PgConnection, QueryResult, RunQueryDsl};
use uuid::Uuid;

use super::statements::AddToLedger;
use crate::model::ProjectId;

/// Counts of one transaction in columns, a project a row.
#[derive(Debug)]
pub(super) struct LedgerRows {
    /// Which rows of the ledger they are added to: the writer's own, so that writers neither wait for
    /// each other nor take each other's marks.
    pub(super) slot: i32,
    /// Which batch it is. The rows keep it until the next one, so that somebody who heard no answer
    /// can ask whether it was committed.
    pub(super) batch: Uuid,
    pub(super) projects: Vec<i64>,
    pub(super) received: Vec<i64>,
    pub(super) stored: Vec<i64>,
    pub(super) duplicate: Vec<i64>,
    pub(super) rejected: Vec<i64>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    Duplicate,
    Rejected,
}

impl LedgerRows {
    /// Nothing counted yet.
    pub(super) fn new(slot: i32, batch: Uuid) -> Self {
        Self {
            slot,
            batch,
            projects: Vec::new(),
            received: Vec::new(),
            stored: Vec::new(),
            duplicate: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Counts what the decoder received of a project.
    pub(super) fn receive(&mut self, project: ProjectId, events: i64) {
        if events != 0 {
            let row = self.row(project);
            self.received[row] += events;
        }
    }

    /// Counts what became of one event of a project.
    pub(super) fn settle(&mut self, project: ProjectId, fate: Fate) {
        let row = self.row(project);
        let column = match fate {
            Fate::Stored => &mut self.stored,
            Fate::Duplicate => &mut self.duplicate,
            Fate::Rejected => &mut self.rejected,
        };
        column[row] += 1;
    }

    fn row(&mut self, project: ProjectId) -> usize {
        if let Some(row) = self.projects.iter().position(|&it| it == project.0) {
            return row;
        }
        self.projects.push(project.0);
        for column in [
            &mut self.received,
            &mut self.stored,
            &mut self.duplicate,
            &mut self.rejected,
        ] {
            column.push(0);
        }
        self.projects.len() - 1
    }

    /// Adds the counts to the ledger, as part of the transaction.
    pub(super) fn write(&self, connection: &mut PgConnection) -> QueryResult<()> {
        if self.projects.is_empty() {
            return Ok(());
        }
        AddToLedger { rows: self }.execute(connection).map(|_| ())
    }
}
