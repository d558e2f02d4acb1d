//! What somebody wants explained.

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Error, FieldError};
use crate::matcher::SHOWN_MAX;
use crate::model::{self, EventName, Identity, IdentityKind};

/// How many campaigns are shown in full unless it is said.
pub const SHOWN_DEFAULT: usize = 100;

/// Everything a question may name.
const MEMBERS: [&str; 7] = [
    "user_id",
    "anonymous_id",
    "event",
    "event_id",
    "campaign_id",
    "at",
    "limit",
];

/// A question: who, on what, when, which campaigns.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who and on what.
    pub subject: Subject,
    /// One campaign, live or not; all live ones without it.
    pub campaign: Option<String>,
    /// How many campaigns are shown in full.
    pub shown_max: usize,
}

/// Who and on what.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A stored event: its user, as of then.
    Stored(Uuid),
    /// Somebody, with an event or without one.
    Given {
        /// Who: the first of these that is known. None is a newcomer of whom nothing is known.
        identities: Vec<Identity>,
        /// The event; `None` is a fetch.
        event: Option<AskedEvent>,
        /// When.
        when: When,
    },
}

/// When the decision is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Now.
    Now,
    /// At this moment; one that has passed is decided as of then.
    At(DateTime<Utc>),
}

/// An event that need not be stored.
#[derive(Debug, Clone)]
pub struct AskedEvent {
    /// Its name.
    pub name: String,
    /// Its details.
    pub properties: Map<String, Value>,
    /// Its context.
    pub context: Map<String, Value>,
    /// When it happened; at the moment of the decision, if it is not said.
    pub timestamp: Option<DateTime<Utc>>,
}

impl Question {
    /// Reads a question. A member that is not known is refused: a misspelt one would be answered for
    /// somebody else.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, Error> {
        if let Some((name, value)) = body
            .iter()
            .find(|(name, _)| !MEMBERS.contains(&name.as_str()))
        {
            let known = MEMBERS.join(", ");
            return Err(refuse(
                name,
                Some(value),
                format!("unknown member; known are {known}"),
            ));
        }
        let subject = match text(body, "event_id")? {
            Some(id) => stored(body, id)?,
            None => Subject::Given {
                identities: identities(body)?,
                event: event(body)?,
                when: time(body, "at", "at")?.map_or(When::Now, When::At),
            },
        };
        Ok(Self {
            subject,
            campaign: text(body, "campaign_id")?.map(str::to_owned),
            shown_max: shown_max(body)?,
        })
    }
}

fn stored(body: &Map<String, Value>, id: &str) -> Result<Subject, Error> {
    let others = ["user_id", "anonymous_id", "event", "at"];
    let is_given = |name: &&str| body.get(*name).is_some_and(|value| !value.is_null());
    if let Some(name) = others.into_iter().find(is_given) {
        let reason = format!("event_id says which event, user and time; leave {name} out");
        return Err(refuse(name, body.get(name), reason));
    }
    // An id that cannot be one is as missing as one that is not there.
    let id = Uuid::parse_str(id).map_err(|_| Error::NotFound("Event"))?;
    Ok(Subject::Stored(id))
}

fn identities(body: &Map<String, Value>) -> Result<Vec<Identity>, Error> {
    for (name, kind) in [
        ("user_id", IdentityKind::User),
        ("anonymous_id", IdentityKind::Anonymous),
    ] {
        let id = text(body, name)?.unwrap_or_default();
        let readings = Identity::readings(kind, id)
            .map_err(|error| refuse(name, body.get(name), error.to_string()))?;
        if !readings.is_empty() {
            return Ok(readings);
        }
    }
    Ok(Vec::new())
}

fn event(body: &Map<String, Value>) -> Result<Option<AskedEvent>, Error> {
    let (name, members) = match body.get("event") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) => (Some(name.as_str()), None),
        Some(Value::Object(members)) => {
            let known = ["name", "properties", "context", "timestamp"];
            if let Some((name, value)) = members
                .iter()
                .find(|(name, _)| !known.contains(&name.as_str()))
            {
                let reason = format!("unknown member; known are {}", known.join(", "));
                return Err(refuse(&format!("event/{name}"), Some(value), reason));
            }
            (members.get("name").and_then(Value::as_str), Some(members))
        }
        Some(other) => {
            let reason = "event must be a name or an object with a name";
            return Err(refuse("event", Some(other), reason));
        }
    };
    let name = EventName::parse(model::trim(name.unwrap_or_default()))
        .map_err(|error| refuse("event/name", body.get("event"), error.to_string()))?;
    let nothing = Map::new();
    let members = members.unwrap_or(&nothing);
    let object = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object.clone()),
        Some(other) => {
            let reason = format!("{name} must be an object");
            Err(refuse(&format!("event/{name}"), Some(other), reason))
        }
    };
    Ok(Some(AskedEvent {
        name: name.as_str().to_owned(),
        properties: object("properties")?,
        context: object("context")?,
        timestamp: time(members, "timestamp", "event/timestamp")?,
    }))
}

fn shown_max(body: &Map<String, Value>) -> Result<usize, Error> {
    match body.get("limit") {
        None | Some(Value::Null) => Ok(SHOWN_DEFAULT),
        Some(value) => {
            let number = value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok());
            number
                .filter(|number| (1..=SHOWN_MAX).contains(number))
                .ok_or_else(|| {
                    let reason = format!("limit must be a whole number from 1 to {SHOWN_MAX}");
                    refuse("limit", Some(value), reason)
                })
        }
    }
}

fn text<'b>(body: &'b Map<String, Value>, name: &str) -> Result<Option<&'b str>, Error> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text)),
        Some(other) => {
            let reason = format!("{name} must be a text without \\u0000");
            Err(refuse(name, Some(other), reason))
        }
    }
}

pub(super) fn time(
    body: &Map<String, Value>,
    name: &str,
    path: &str,
) -> Result<Option<DateTime<Utc>>, Error> {
    let Some(value) = body.get(name).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let text = value.as_str().unwrap_or_default();
    let parsed = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    // Years that the database keeps.
    let parsed = parsed
        .ok()
        .filter(|time| (1..=9_999).contains(&time.year()));
    let reason = || format!("{name} must be an RFC 3339 time, such as 2026-01-31T09:00:00Z");
    parsed
        .map(Some)
        .ok_or_else(|| refuse(path, Some(value), reason()))
}

pub(super) fn refuse(path: &str, value: Option<&Value>, reason: impl Into<String>) -> Error {
    Error::field(FieldError::body(path, value, reason))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<Question, Error> {
        Question::parse(body.as_object().unwrap())
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for odd in [
            json!({"userId": "u"}),
            json!({"user_id": 7}),
            json!({"user_id": "u".repeat(256)}),
            json!({"event": {}}),
            json!({"event": {"name": "e", "props": {}}}),
            json!({"event": {"name": "e", "properties": []}}),
            json!({"event": ["e"]}),
            json!({"at": "yesterday"}),
            json!({"at": 5}),
            json!({"limit": 0}),
            json!({"limit": 1_001}),
            json!({"limit": "5"}),
            json!({"campaign_id": {}}),
            json!({"event_id": "018f0000-0000-7000-8000-000000000000", "user_id": "u"}),
        ] {
            assert!(
                matches!(parse(odd.clone()), Err(Error::Validation { .. })),
                "{odd}"
            );
        }
        let missing = parse(json!({"event_id": "e-1"}));
        assert!(matches!(missing, Err(Error::NotFound("Event"))));
    }

    #[test]
    fn an_event_may_be_given_by_its_name() {
        let question = parse(json!({"user_id": " u ", "event": "Ordered", "limit": 7})).unwrap();
        assert_eq!(question.shown_max, 7);
        let Subject::Given {
            identities,
            event,
            when,
        } = question.subject
        else {
            unreachable!("no event_id was given");
        };
        assert_eq!(
            identities,
            [" u ", "u"].map(|id| Identity::user(id).unwrap())
        );
        assert_eq!(event.unwrap().name, "Ordered");
        assert_eq!(when, When::Now);
    }
}
