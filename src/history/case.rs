//! A question with the facts that its decision is made on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};
use diesel::{PgConnection, QueryResult, RunQueryDsl};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::as_of::{self, AsOf, DefinitionsAsOf, Known, Source, TraitsAsOf};
use super::definitions;
use super::question::{AskedEvent, Question, Subject, When};
use crate::error::Error;
use crate::matcher::{Asked, Campaign, Explanation, Snapshot, explain};
use crate::model::{Identity, IdentityKind, PersonId, ProjectId, parse_object};
use crate::rules::{EventFacts, FactsArena, Limits, UserFacts};
use crate::store::history::{self, PastEvent, Place};
use crate::store::people;
use crate::store::person_state::{LoadPeople, PersonRow};

/// How many names of a person are looked at.
const NAMES_MAX: i64 = 1_000;

/// How many people a chain of merges is followed through.
const MERGES_MAX: usize = 100;

/// The facts of a decision, loaded.
#[derive(Debug)]
pub struct Case {
    user: User,
    event: Option<CaseEvent>,
    as_of: AsOf,
    campaigns: Vec<Arc<Campaign>>,
    snapshot: Arc<Snapshot>,
    shown_max: usize,
}

#[derive(Debug)]
struct User {
    id: String,
    is_known: bool,
    /// JSON text.
    traits: String,
    created_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
}

#[derive(Debug)]
struct CaseEvent {
    id: Option<Uuid>,
    name: String,
    /// JSON text.
    properties: String,
    context: String,
    timestamp: DateTime<Utc>,
}

/// The answer to a question.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Answer {
    /// Whom the decision is about.
    pub user: AnsweredUser,
    /// The event it is made on; absent for a fetch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<AnsweredEvent>,
    /// When it is made, and what its facts rest on.
    pub as_of: AsOf,
    /// What came out of it.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// Whom a decision is about.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AnsweredUser {
    /// The id that rules see; empty for a newcomer without one.
    pub id: String,
    /// False for a newcomer, of whom nothing is known.
    pub known: bool,
}

/// The event a decision is made on.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AnsweredEvent {
    /// Its id, if it is a stored one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Its name.
    pub name: String,
    /// When it happened.
    pub timestamp: DateTime<Utc>,
}

/// What loading needs besides the question.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Whose data.
    pub project: ProjectId,
    /// The live campaigns and the segments.
    pub snapshot: Arc<Snapshot>,
    /// The bounds of rules.
    pub limits: Limits,
    /// The time.
    pub now: DateTime<Utc>,
}

impl Case {
    /// Loads what the question is about.
    ///
    /// # Errors
    /// A user, event or campaign that is named and not in the project.
    pub fn load(
        connection: &mut PgConnection,
        ground: &Ground,
        question: &Question,
    ) -> Result<Self, Error> {
        let (user, event, at, traits, is_past) = match &question.subject {
            Subject::Stored(id) => {
                let event = history::event(connection, ground.project, *id)?;
                let event = event.ok_or(Error::NotFound("Event"))?;
                let (user, traits) = user_of_event(connection, ground.project, &event)?;
                let at = event.received_at;
                (user, Some(CaseEvent::from(event)), at, traits, true)
            }
            Subject::Given {
                identities,
                event,
                when,
            } => {
                let at = match when {
                    When::Now => ground.now,
                    When::At(at) => *at,
                };
                let is_past = at < ground.now;
                let (user, traits) = match identities.is_empty() {
                    true => (User::newcomer("", at), TraitsAsOf::CURRENT),
                    false => given_user(connection, ground.project, identities, at, is_past)?,
                };
                let event = event.as_ref().map(|event| CaseEvent::given(event, at));
                (user, event, at, traits, is_past)
            }
        };
        let (campaigns, definitions) = load_campaigns(
            connection,
            ground,
            question.campaign.as_deref(),
            is_past.then_some(at),
        )?;
        Ok(Self {
            user,
            event,
            as_of: AsOf {
                at,
                traits,
                campaigns: definitions,
                segments: Source::Current,
            },
            campaigns,
            snapshot: Arc::clone(&ground.snapshot),
            shown_max: question.shown_max,
        })
    }

    /// Decides and explains. Takes a while where there are many campaigns; once it is abandoned, what it
    /// returns is of no use.
    pub fn explain(self, limits: &Limits, abandoned: Option<&AtomicBool>) -> Answer {
        let arena = FactsArena::new();
        let user = UserFacts {
            id: &self.user.id,
            traits: arena.parse(&self.user.traits),
            created_at: self.user.created_at,
            last_seen_at: self.user.last_seen_at,
        };
        let event = self.event.as_ref().map(|event| EventFacts {
            name: &event.name,
            properties: arena.parse(&event.properties),
            context: arena.parse(&event.context),
            timestamp: event.timestamp,
        });
        let asked = Asked {
            user,
            event,
            now: self.as_of.at,
        };
        let segments = self.snapshot.segments();
        let explanation = explain(
            &self.campaigns,
            segments,
            asked,
            limits,
            self.shown_max,
            &arena,
            abandoned,
        );
        Answer {
            user: AnsweredUser {
                id: self.user.id.clone(),
                known: self.user.is_known,
            },
            event: self.event.as_ref().map(|event| AnsweredEvent {
                id: event.id,
                name: event.name.clone(),
                timestamp: event.timestamp,
            }),
            as_of: self.as_of.clone(),
            explanation,
        }
    }
}

impl User {
    /// Somebody of whom nothing is known, as ingest would make them.
    fn newcomer(id: &str, at: DateTime<Utc>) -> Self {
        Self {
            id: id.to_owned(),
            is_known: false,
            traits: "{}".to_owned(),
            created_at: at,
            last_seen_at: at,
        }
    }
}

impl From<PastEvent> for CaseEvent {
    fn from(event: PastEvent) -> Self {
        let empty = || "{}".to_owned();
        Self {
            id: Some(event.id),
            name: event.name,
            properties: event.properties.unwrap_or_else(empty),
            context: event.context.unwrap_or_else(empty),
            timestamp: event.timestamp,
        }
    }
}

impl CaseEvent {
    fn given(event: &AskedEvent, at: DateTime<Utc>) -> Self {
        let text = |members: &Map<String, Value>| Value::Object(members.clone()).to_string();
        Self {
            id: None,
            name: event.name.clone(),
            properties: text(&event.properties),
            context: text(&event.context),
            timestamp: event.timestamp.unwrap_or(at),
        }
    }
}

/// Who sent a stored event, as they were when it was decided: with the traits that it brought, and
/// last seen before it.
fn user_of_event(
    connection: &mut PgConnection,
    project: ProjectId,
    event: &PastEvent,
) -> Result<(User, TraitsAsOf), Error> {
    let own = event.user_id.as_deref().or(event.anonymous_id.as_deref());
    let own = own.unwrap_or_default();
    match survivor(connection, PersonId(event.person_id))? {
        Some(row) if row.project_id == project.0 => {
            let place = (event.received_at, event.id);
            past_user(connection, project, row, own, place)
        }
        // The person is gone, the event is still there.
        _ => Ok((User::newcomer(own, event.received_at), TraitsAsOf::CURRENT)),
    }
}

fn given_user(
    connection: &mut PgConnection,
    project: ProjectId,
    identities: &[Identity],
    at: DateTime<Utc>,
    is_past: bool,
) -> Result<(User, TraitsAsOf), Error> {
    let mut found = None;
    for identity in identities {
        if let Some(person) = people::find(connection, project, identity)? {
            found = survivor(connection, person)?.map(|row| (identity, row));
            break;
        }
    }
    let (identity, row) = found.ok_or(Error::NotFound("User"))?;
    if row.created_at > at {
        // Nobody had seen them yet.
        return Ok((User::newcomer(identity.value(), at), TraitsAsOf::CURRENT));
    }
    if is_past {
        // Everything received by then, whatever its id.
        let place = (at, Uuid::max());
        return past_user(connection, project, row, identity.value(), place);
    }
    let user = User {
        id: row.user_id.unwrap_or_else(|| identity.value().to_owned()),
        is_known: true,
        traits: row.traits,
        created_at: row.created_at,
        last_seen_at: row.last_seen_at,
    };
    Ok((user, TraitsAsOf::CURRENT))
}

/// A person as of a place in history.
fn past_user(
    connection: &mut PgConnection,
    project: ProjectId,
    row: PersonRow,
    own: &str,
    place: Place,
) -> Result<(User, TraitsAsOf), Error> {
    let person = PersonId(row.id);
    let family = people::family(connection, project, person)?;
    let known = Known {
        project,
        family: &family,
        traits: parse_object(&row.traits),
        created_at: row.created_at,
    };
    let (traits, as_of) = as_of::traits(connection, known, place)?;
    let names = people::identities_of(connection, project, person, NAMES_MAX)?;
    let mut users = names
        .iter()
        .filter(|name| name.kind == IdentityKind::User.as_i16() && name.created_at <= place.0);
    let seen = history::last_seen_before(connection, project, &family, place)?;
    let user = User {
        id: users.next().map_or(own, |name| &name.value).to_owned(),
        is_known: true,
        traits: Value::Object(traits).to_string(),
        created_at: row.created_at,
        last_seen_at: seen.unwrap_or(row.created_at),
    };
    Ok((user, as_of))
}

/// The person, or who they were merged into.
fn survivor(connection: &mut PgConnection, person: PersonId) -> QueryResult<Option<PersonRow>> {
    let mut person = person;
    for _ in 0..MERGES_MAX {
        let ids = [person.0];
        let row: Option<PersonRow> = LoadPeople { ids: &ids }.load(connection)?.pop();
        match row.as_ref().and_then(|row| row.merged_into) {
            Some(heir) => person = PersonId(heir),
            None => return Ok(row),
        }
    }
    Ok(None)
}

fn load_campaigns(
    connection: &mut PgConnection,
    ground: &Ground,
    only: Option<&str>,
    past: Option<DateTime<Utc>>,
) -> Result<(Vec<Arc<Campaign>>, DefinitionsAsOf), Error> {
    let Ground {
        project,
        snapshot,
        limits,
        ..
    } = ground;
    match (past, only) {
        (Some(at), only) => definitions::as_of(connection, *project, snapshot, at, only, limits),
        (None, Some(id)) => {
            let campaign = definitions::current(connection, *project, snapshot, id, limits)?;
            Ok((vec![campaign], DefinitionsAsOf::CURRENT))
        }
        (None, None) => definitions::all_current(connection, *project, snapshot, limits),
    }
}
