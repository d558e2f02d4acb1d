//! The decision: which of a project's live campaigns a user should see, now or on an event.
//!
//! [`Snapshot`] is an immutable picture of a project's live campaigns, segments and flags. It does
//! no I/O, reads no clock and holds no lock; a change builds a new snapshot that replaces it.
//! Campaigns are found by trigger first, then through an index of their conditions. The
//! answer is that of the [`Gate`]s, passed in order by each candidate; the first that fails is the
//! reason it is not shown. [`explain()`] goes through the same gates and tells of all of them.
//!
//! Invariants: campaigns are ranked by priority (higher first), then creation (newer first), and a
//! decision's matches come in that order. A condition that fails at run time does not match and is
//! counted.

mod campaign;
mod explain;
mod failures;
mod findings;
mod gates;
mod index;
mod matches;
mod roster;
mod row;
mod snapshot;

pub use campaign::{Campaign, Refusal, Schedule};
pub use explain::{
    Asked, Effort, ExplainedCampaign, Explanation, GateCounts, GateReport, NearMiss, SHOWN_MAX,
    Summary, explain, first_closed_gate,
};
pub use failures::Failing;
pub use findings::{Finding, FindingKind};
pub use gates::Gate;
pub use matches::Matches;
pub use roster::Roster;
pub use row::{CampaignRow, refused_fields};
pub use snapshot::{Decision, Flag, Snapshot};

pub use crate::rules::Allowance;
