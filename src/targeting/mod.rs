//! Who sees what now: the state of people, the snapshot of each project's live campaigns, and the
//! writes that change either.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::PgConnection;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::model::{Identity, PersonId, ProjectId};

/// What decisions know of a person.
#[derive(Debug, Clone)]
pub struct PersonState {
    /// The internal number.
    pub id: PersonId,
    /// The application's own id, once one is linked.
    pub user_id: Option<String>,
    /// Traits, merged over all identifies.
    pub traits: Map<String, Value>,
    /// When the person was first seen.
    pub created_at: DateTime<Utc>,
    /// When the person was last seen, as stored (coalesced).
    pub last_seen_at: DateTime<Utc>,
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Targeting {}

/// A live campaign as clients receive it.
#[derive(Debug)]
pub struct LiveCampaign {
    /// The campaign as one JSON object, ready to be sent.
    pub json: String,
}

impl Targeting {
    /// Runs a change of campaigns, segments, flags, keys or origins in one transaction, bumps the
    /// project's revision, notifies the other nodes, and returns after this node's snapshot holds
    /// the change. Any error rolls back.
    pub async fn change<T, F>(&self, _project: ProjectId, _work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        Err(Error::ShuttingDown)
    }

    /// The state of the person an identity names, from the cache or the database; `None` for
    /// somebody never seen.
    pub async fn person(
        &self,
        _project: ProjectId,
        _identity: &Identity,
    ) -> Result<Option<Arc<PersonState>>, Error> {
        Err(Error::ShuttingDown)
    }

    /// The live campaigns whose gates pass without an event, best first. `None` is somebody never
    /// seen or nobody: no traits.
    pub fn campaigns_on_fetch(
        &self,
        _project: ProjectId,
        _identity: Option<&Identity>,
        _person: Option<&PersonState>,
        _now: DateTime<Utc>,
    ) -> Vec<Arc<LiveCampaign>> {
        Vec::new()
    }

    /// The flag for this person: whether it is on, and its value.
    pub fn flag(
        &self,
        _project: ProjectId,
        _key: &str,
        _identity: Option<&Identity>,
        _person: Option<&PersonState>,
        _now: DateTime<Utc>,
    ) -> FlagDecision {
        FlagDecision {
            enabled: false,
            value: None,
        }
    }

    /// The names and ids of the segments this person is in now.
    pub fn segments_of(
        &self,
        _project: ProjectId,
        _identity: &Identity,
        _person: &PersonState,
        _now: DateTime<Utc>,
    ) -> Vec<SegmentMembership> {
        Vec::new()
    }

    /// Checks what an admin wants to save, without saving it: status, schedule, segments, rules and
    /// targeting. `project` matters for the segments it names.
    pub fn check_campaign(
        &self,
        _project: ProjectId,
        _body: &Map<String, Value>,
    ) -> Result<Vec<Warning>, Error> {
        Ok(Vec::new())
    }

    /// Checks a segment before it is saved under `id` (`None` for a new one): rules, targeting, and
    /// that no segment would contain itself.
    pub fn check_segment(
        &self,
        _project: ProjectId,
        _id: Option<&str>,
        _body: &Map<String, Value>,
    ) -> Result<Vec<Warning>, Error> {
        Ok(Vec::new())
    }

    /// Checks a flag's targeting before it is saved.
    pub fn check_flag(
        &self,
        _project: ProjectId,
        _targeting: Option<&Value>,
    ) -> Result<Vec<Warning>, Error> {
        Ok(Vec::new())
    }
}

/// A flag as one person sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagDecision {
    /// Whether the flag is on for this person; false for a flag that does not exist.
    pub enabled: bool,
    /// The flag's value when it is on and has one.
    pub value: Option<Value>,
}

/// A segment a person is in.
#[derive(Debug, Clone)]
pub struct SegmentMembership {
    /// The segment's id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// Something an admin may want to know about what was saved.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Warning {
    /// A stable code.
    pub code: &'static str,
    /// JSON pointer into the saved object.
    pub pointer: String,
    /// What may surprise.
    pub message: String,
}
