//! Campaigns whose targeting fails again and again are taken out of service, on every node, until
//! somebody saves them again.
//!
//! Each node counts for itself, in memory, and whoever comes to the bound first makes it known: the
//! decision only notes the campaign, and the hub's thread, which has a connection, writes it down at
//! its next turn. From then on it is a change like any other. A campaign that was changed meanwhile
//! is another one and is left alone.

use std::sync::{Arc, Mutex, PoisonError};

use diesel::result::Error as DieselError;
use diesel::{Connection, PgConnection, QueryResult};

use super::Targeting;
use crate::matcher::Failing;
use crate::model::ProjectId;
use crate::store::{audit, campaigns, is_unavailable, live as rows};

/// How many campaigns may wait to be taken out of service. The next ones come again when they have
/// failed as often once more.
const WAITING_MAX: usize = 256;

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

    fn take(&self) -> Vec<Failing> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Targeting {
    /// Takes out of service what was noted. Fails only without a database; what is left then comes
    /// again when it has failed as often once more.
    pub(super) fn quarantine_failing(&self, connection: &mut PgConnection) -> QueryResult<()> {
        for failing in self.0.failing.take() {
            let Some(project) = self.project_of(&failing) else {
                continue;
            };
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
                    self.reload(connection, project)?;
                }
                // Another node was faster, or somebody changed it.
                Err(DieselError::RollbackTransaction) => {}
                Err(error) if is_unavailable(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(project = project.0, %error, "a campaign cannot be taken out");
                }
            }
        }
        Ok(())
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
