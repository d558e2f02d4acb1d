//! Campaigns whose targeting fails again and again are taken out of service, on every node, until
//! somebody saves them again.
//!
//! Each node counts for itself, in memory, and whoever comes to the bound first makes it known: the
//! decision only notes the campaign, and the hub's thread, which has a connection, writes it down at
//! its next turn. From then on it is a change like any other. A campaign that was changed meanwhile
//! is another one and is left alone.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::result::Error as DieselError;
use diesel::{Connection, PgConnection, QueryResult};

use super::Targeting;
use crate::matcher::Failing;
use crate::model::ProjectId;
use crate::store::partitions::is_lock_timeout;
use crate::store::{audit, campaigns, is_unavailable, live as rows};

/// How many campaigns may wait to be taken out of service. The next ones come again when they have
/// failed as often once more.
const WAITING_MAX: usize = 256;

/// How long a turn may take, about. The hub counts the other nodes between turns, and without a recent
/// count nothing that is remembered of people is trusted. What is left comes with the next turn.
const TURN: Duration = Duration::from_millis(300);

/// What is noted and not written down yet.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Vec<Failing>>);

impl Waiting {
    pub(super) fn note(&self, failing: Vec<Failing>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for failing in failing {
            let is_new = !waiting
                .iter()
                .any(|held| Arc::ptr_eq(&held.campaign, &failing.campaign));
            if is_new && waiting.len() < WAITING_MAX {
                waiting.push(failing);
            }
        }
    }

    /// Notes again what was taken and not got to, before all that was noted meanwhile.
    fn put_back(&self, left: Vec<Failing>) {
        let waiting = self.0.lock();
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let meanwhile = std::mem::replace(&mut *waiting, left);
        drop(waiting);
        self.note(meanwhile);
    }

    fn take(&self) -> Vec<Failing> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What became of a campaign that was noted.
enum Outcome {
    TakenOut,
    /// Nothing: another node was faster, somebody changed it, or it cannot be written.
    LeftAlone,
    /// Somebody holds the project's row or the campaign's, as an import does for as long as it takes.
    Locked,
}

impl Targeting {
    /// Takes out of service what was noted. Fails only without a database; what is left then comes
    /// again when it has failed as often once more.
    pub(super) fn quarantine_failing(&self, connection: &mut PgConnection) -> QueryResult<()> {
        let started = Instant::now();
        let (mut later, mut locked) = (Vec::new(), Vec::new());
        let mut locked_projects = HashSet::new();
        for failing in self.0.failing.take() {
            let Some(project) = self.project_of(&failing) else {
                continue;
            };
            if locked_projects.contains(&project) {
                locked.push(failing);
                continue;
            }
            if started.elapsed() >= TURN {
                later.push(failing);
                continue;
            }
            match self.quarantine(connection, project, &failing)? {
                Outcome::TakenOut => self.reload_for_hub(connection, project)?,
                Outcome::LeftAlone => {}
                Outcome::Locked => {
                    locked_projects.insert(project);
                    locked.push(failing);
                }
            }
        }
        // Those that there was no time for are the next turn's first.
        self.0.failing.put_back(later);
        self.0.failing.note(locked);
        Ok(())
    }

    /// Writes the quarantine of one campaign down.
    fn quarantine(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
        failing: &Failing,
    ) -> QueryResult<Outcome> {
        let at = self.0.clock.now();
        let change = audit::Change {
            project,
            at,
            actor: "beckon",
            action: "quarantine",
            object_kind: "campaign",
            object_id: &failing.campaign.id,
            request_id: None,
        };
        let written = connection.transaction(|connection| {
            // All projects share the hub, so it cannot wait for one of them.
            connection.batch_execute("SET LOCAL lock_timeout = '100ms'")?;
            // In the order of every change, so that none waits for another in a circle.
            rows::bump_revision(connection, project.0)?;
            let quarantine = campaigns::Quarantine {
                stored: failing.campaign.stored(),
                reason: failing.kind.as_str(),
                failures: failing.count,
            };
            let stored = campaigns::quarantine(connection, &change, &quarantine)?;
            let stored = stored.ok_or(DieselError::RollbackTransaction)?;
            if campaigns::has_history(connection, project, &stored.id)? {
                let (action, actor) = (change.action, change.actor);
                campaigns::record_history(connection, project, &stored, action, actor, at)?;
            }
            audit::record(connection, &change)?;
            rows::notify_change(connection, project.0)
        });
        match written {
            Ok(()) => {
                tracing::warn!(
                    project = project.0,
                    campaign = failing.campaign.id,
                    failures = failing.count,
                    reason = failing.kind.as_str(),
                    "a campaign fails again and again and was taken out of service"
                );
                Ok(Outcome::TakenOut)
            }
            Err(DieselError::RollbackTransaction) => Ok(Outcome::LeftAlone),
            Err(error) if is_lock_timeout(&error) => Ok(Outcome::Locked),
            Err(error) if is_unavailable(&error) => Err(error),
            Err(error) => {
                tracing::error!(project = project.0, %error, "a campaign cannot be taken out");
                Ok(Outcome::LeftAlone)
            }
        }
    }

    /// The project in which this state of the campaign is live.
    fn project_of(&self, failing: &Failing) -> Option<ProjectId> {
        let snapshots = self.0.snapshots.load();
        let found = snapshots.iter().find(|(_, snapshot)| {
            let live = snapshot.campaigns().get(&failing.campaign.id);
            live.is_some_and(|campaign| Arc::ptr_eq(campaign, &failing.campaign))
        });
        found.map(|(project, _)| *project)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;
    use crate::matcher::{Campaign, CampaignRow};
    use crate::rules::{EvalErrorKind, Limits};

    #[test]
    fn those_that_there_was_no_time_for_come_before_those_noted_meanwhile() {
        let failing = |id| {
            let campaign = Campaign::compile(&CampaignRow::of(id, &json!({})), &Limits::default());
            Failing {
                campaign: Arc::new(campaign.unwrap()),
                kind: EvalErrorKind::Type,
                count: 1,
            }
        };
        let waiting = Waiting::default();
        let (first, second, third) = (failing("first"), failing("second"), failing("third"));
        waiting.note(vec![first.clone(), second.clone()]);
        let left = waiting.take();
        waiting.note(vec![third, first]);
        waiting.put_back(left);
        let taken = waiting.take();
        let ids = taken.iter().map(|it| it.campaign.id.as_str());
        assert_eq!(ids.collect::<Vec<_>>(), ["first", "second", "third"]);
    }
}
