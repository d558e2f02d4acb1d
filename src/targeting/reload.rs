//! Keeps the snapshots current: what the hub's signals and this node's own changes lead to.
//!
//! Whoever reads a project's rows holds its lock until what was read is swapped in, so that an
//! earlier one never replaces a later one.
//!
//! All projects share the hub. One that cannot be loaded, or is too large for the time there is, keeps
//! what it had and is left alone for some time, so that the others get their changes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use diesel::connection::SimpleConnection;
use diesel::result::Error as DieselError;
use diesel::{PgConnection, QueryResult};

use super::{Targeting, live};
use crate::hub::Signal;
use crate::matcher::Snapshot;
use crate::model::ProjectId;
use crate::store::live as rows;
use crate::store::nodes::INTRODUCTION;

/// After how many times as long as it took a load that failed is tried again.
const PUT_OFF_FACTOR: u32 = 4;

/// Whether a connection is still of use after this error. The statement may have taken too long, and
/// the next project's does not.
fn is_answering(connection: &mut PgConnection, error: &DieselError) -> bool {
    !matches!(error, DieselError::BrokenTransactionManager)
        && connection.batch_execute("SELECT 1").is_ok()
}

impl Targeting {
    /// What the hub tells; called on its thread, with its connection.
    #[expect(
        clippy::disallowed_methods,
        reason = "runs on the hub's own thread, which may block"
    )]
    pub(super) fn on_signal(
        &self,
        signal: &Signal,
        connection: &mut PgConnection,
    ) -> QueryResult<()> {
        match signal {
            Signal::Connected {
                other_nodes,
                counted,
            } => {
                // What happened while nobody listened is unknown.
                self.0.people.forget_all();
                self.0.people.counted(*other_nodes > 0, counted.clone());
                self.0.people.others().set_cut_off(*other_nodes > 0);
                self.reload_all(connection)?;
                if *other_nodes > 0 {
                    std::thread::sleep(INTRODUCTION);
                    self.0.people.others().set_cut_off(false);
                }
                self.metrics().is_current(*other_nodes);
                self.0.is_ready.store(true, Ordering::Release);
                Ok(())
            }
            Signal::Changed(project) => self.follow(connection, ProjectId(*project)),
            Signal::PeopleChanged(project) => {
                self.0.people.forget_all();
                self.follow(connection, ProjectId(*project))
            }
            Signal::Poll {
                other_nodes,
                counted,
            } => {
                self.0.people.counted(*other_nodes > 0, counted.clone());
                self.quarantine_failing(connection)?;
                self.reload_changed(connection)?;
                self.metrics().is_current(*other_nodes);
                Ok(())
            }
        }
    }

    fn reload_changed(&self, connection: &mut PgConnection) -> QueryResult<()> {
        for (project, revision) in rows::revisions(connection)? {
            let project = ProjectId(project);
            let is_current = {
                let snapshots = self.0.snapshots.load();
                snapshots
                    .get(&project)
                    .is_some_and(|held| held.revision() >= revision)
                    && !self.unproven().contains_key(&project)
            };
            if !is_current {
                self.follow(connection, project)?;
            }
        }
        Ok(())
    }

    /// Brings a project up to date, unless that failed a short while ago.
    fn follow(&self, connection: &mut PgConnection, project: ProjectId) -> QueryResult<()> {
        let put_off = self.put_off().get(&project).copied();
        if put_off.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.reload_for_hub(connection, project)
    }

    /// Reads every project anew. The database that was connected to may be a standby that took over,
    /// or a backup: revisions, versions and transactions may have been used for something else.
    fn reload_all(&self, connection: &mut PgConnection) -> QueryResult<()> {
        let now = Instant::now();
        let revisions = rows::revisions(connection)?;
        let listed = revisions.iter().map(|(project, _)| ProjectId(*project));
        {
            // One that is not there any more may get its number back.
            let snapshots = self.0.snapshots.load();
            let all = listed.clone().chain(snapshots.keys().copied());
            self.unproven().extend(all.map(|project| (project, now)));
        }
        for project in listed {
            self.reload_for_hub(connection, project)?;
        }
        Ok(())
    }

    /// One project that cannot be read must not keep the others from their changes. It fails only
    /// where the connection does not answer any more.
    pub(super) fn reload_for_hub(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
    ) -> QueryResult<()> {
        let started = Instant::now();
        let outcome = self.reload(connection, project);
        match outcome {
            Ok(()) => {
                self.put_off().remove(&project);
                Ok(())
            }
            Err(error) if is_answering(connection, &error) => {
                let now = Instant::now();
                // A project that takes long to fail is tried less often.
                let until = now + (now - started) * PUT_OFF_FACTOR;
                self.put_off().insert(project, until);
                tracing::error!(project = project.0, %error, "a project cannot be loaded");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the project could not be loaded the last time that the hub tried.
    pub(super) fn is_put_off(&self, project: ProjectId) -> bool {
        self.put_off().contains_key(&project)
    }

    fn put_off(&self) -> MutexGuard<'_, HashMap<ProjectId, Instant>> {
        let put_off = self.0.put_off.lock();
        put_off.unwrap_or_else(PoisonError::into_inner)
    }

    fn unproven(&self) -> MutexGuard<'_, HashMap<ProjectId, Instant>> {
        let unproven = self.0.unproven.lock();
        unproven.unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a project's snapshot up to date: from the one that is held, unless that may be of
    /// another database.
    pub(super) fn reload(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
    ) -> QueryResult<()> {
        let ours = {
            let all = self.0.reloading.lock();
            let mut all = all.unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(project).or_default())
        };
        let _alone = ours.lock().unwrap_or_else(PoisonError::into_inner);
        let unproven = self.unproven().get(&project).copied();
        let held = match unproven {
            Some(_) => Arc::default(),
            None => self.snapshot(project),
        };
        let started = Instant::now();
        let loaded = live::load(connection, project, &held, &self.0.options.rules);
        self.metrics().reloaded(loaded.is_ok(), started.elapsed());
        if let Some(fresh) = loaded? {
            self.swap(project, fresh);
        }
        let mut all = self.unproven();
        // The hub may have connected once more meanwhile.
        if all.get(&project) == unproven.as_ref() {
            all.remove(&project);
        }
        Ok(())
    }

    fn swap(&self, project: ProjectId, fresh: Snapshot) {
        let fresh = Arc::new(fresh);
        self.0.snapshots.rcu(|snapshots| {
            let mut snapshots = HashMap::clone(snapshots);
            snapshots.insert(project, Arc::clone(&fresh));
            snapshots
        });
        self.metrics().swapped(project, &fresh, &self.0.clock);
    }
}
