//! So many places for each project, so that none takes those of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::model::ProjectId;

/// The places of each project.
#[derive(Debug)]
pub struct Shares {
    of_each: usize,
    /// Of the projects that have asked so far.
    places: Mutex<HashMap<ProjectId, Arc<Semaphore>>>,
}

impl Shares {
    /// So many places for each.
    pub fn of_each(of_each: usize) -> Self {
        Self {
            of_each,
            places: Mutex::default(),
        }
    }

    /// The places of a project.
    pub fn of(&self, project: ProjectId) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let own = places.entry(project);
        Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(self.of_each))))
    }
}

/// The connections that read what admins asked for.
#[derive(Debug)]
pub(super) struct Browsing {
    all: Arc<Semaphore>,
    shares: Shares,
}

impl Browsing {
    /// Half of so many connections, and a quarter for each project.
    pub(super) fn of(connections: usize) -> Self {
        let all = (connections / 2).max(1);
        Self {
            all: Arc::new(Semaphore::new(all)),
            shares: Shares::of_each((all / 2).max(1)),
        }
    }

    /// Waits for a connection of the project's.
    pub(super) async fn begin(
        &self,
        project: ProjectId,
    ) -> Result<[OwnedSemaphorePermit; 2], AcquireError> {
        // Its own first, so that who waits for it holds nothing of the others'.
        let own = self.shares.of(project).acquire_owned().await?;
        Ok([own, Arc::clone(&self.all).acquire_owned().await?])
    }
}
