//! Origins that may call without a key, as one list that is read at most once a second.
//!
//! The whole list is cached rather than each answer, so that no stream of made-up origins can turn
//! into a stream of queries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::error::Error;
use crate::model::ProjectId;
use crate::store::{Store, keys};

const FRESH: Duration = Duration::from_secs(1);
const ORIGINS_MAX: i64 = 10_000;

#[derive(Debug)]
struct Snapshot {
    read_at: Instant,
    projects: HashMap<String, ProjectId>,
    default_project: Option<ProjectId>,
}

/// The cached list. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Origins {
    store: Store,
    keyless_localhost: bool,
    current: Arc<ArcSwapOption<Snapshot>>,
    reading: Arc<AtomicBool>,
}

impl Origins {
    pub(super) fn new(store: Store, keyless_localhost: bool) -> Self {
        Self {
            store,
            keyless_localhost,
            current: Arc::default(),
            reading: Arc::default(),
        }
    }

    /// Forgets the list, after a change.
    pub(super) fn invalidate(&self) {
        self.current.store(None);
    }

    /// The project that pages of this origin may use without a key.
    pub(super) async fn project_of(&self, origin: &str) -> Result<Option<ProjectId>, Error> {
        let snapshot = self.snapshot().await?;
        if let Some(project) = snapshot.projects.get(origin) {
            return Ok(Some(*project));
        }
        Ok(match snapshot.default_project {
            Some(project) if self.keyless_localhost && is_localhost(origin) => Some(project),
            _ => None,
        })
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let known = self.current.load_full();
        if let Some(snapshot) = &known
            && (snapshot.read_at.elapsed() < FRESH || self.reading.swap(true, Ordering::AcqRel))
        {
            return Ok(Arc::clone(snapshot));
        }
        let read = self.store.run(|connection| {
            let projects = keys::keyless_origins(connection, ORIGINS_MAX)?;
            Ok((projects, keys::default_project(connection)?))
        });
        let outcome = read.await;
        self.reading.store(false, Ordering::Release);
        let snapshot = match (outcome, known) {
            (Ok((projects, default_project)), _) => Arc::new(Snapshot {
                read_at: Instant::now(),
                projects: projects
                    .into_iter()
                    .map(|(origin, project)| (origin, ProjectId(project)))
                    .collect(),
                default_project,
            }),
            // The last list is good enough while the database is away.
            (Err(Error::DatabaseUnavailable), Some(last)) => Arc::new(Snapshot {
                read_at: Instant::now(),
                projects: last.projects.clone(),
                default_project: last.default_project,
            }),
            (Err(error), _) => return Err(error),
        };
        self.current.store(Some(Arc::clone(&snapshot)));
        Ok(snapshot)
    }
}

/// True for an origin that is a page on this machine, on any port.
fn is_localhost(origin: &str) -> bool {
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let Some(host) = host else {
        return false;
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| {
        host.strip_prefix(local).is_some_and(|port| {
            port.is_empty()
                || port
                    .strip_prefix(':')
                    .is_some_and(|digits| digits.parse::<u16>().is_ok())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_only_localhost() {
        assert!(is_localhost("http://localhost:5173"));
        assert!(is_localhost("https://localhost"));
        assert!(is_localhost("http://127.0.0.1:80"));
        assert!(is_localhost("http://[::1]:3000"));
        assert!(!is_localhost("http://localhost.evil.example"));
        assert!(!is_localhost("http://localhost:5173.evil.example"));
        assert!(!is_localhost("http://localhost@evil.example"));
        assert!(!is_localhost("null"));
    }
}
