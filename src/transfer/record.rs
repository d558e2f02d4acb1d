//! One record of the file at a time: from JSON text to what will be stored, or why it is skipped.
//! Pure.

use std::borrow::Cow;

use chrono::{DateTime, SubsecRound, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::report::{Section, Skipped};
use super::text::{Members, is_shallow, without_nul};
use crate::matcher::{Campaign, CampaignRow};
use crate::model::{CampaignId, EventName, Identity, SegmentId};
use crate::rules::Limits;
use crate::segments::Segment;

/// The largest record, in bytes. Postgres takes no message of more than 1 GiB.
const RECORD_BYTES_MAX: usize = 128 << 20;

/// How a record is called where something is wrong with all of it.
const THE_RECORD: &str = "the record is";

/// A campaign or segment as it will be stored.
#[derive(Debug)]
pub(super) struct DefinitionRecord {
    /// Its place among all of its kind in the file.
    pub(super) place: usize,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) status: Option<String>,
    pub(super) trigger: Option<String>,
    /// The object without id and times.
    pub(super) body: String,
    pub(super) created_at: Option<DateTime<Utc>>,
    pub(super) updated_at: Option<DateTime<Utc>>,
}

/// A flag as it will be stored.
#[derive(Debug)]
pub(super) struct FlagRecord<'a> {
    pub(super) key: String,
    pub(super) enabled: bool,
    pub(super) value: Option<&'a str>,
}

/// Somebody the file mentions.
#[derive(Debug)]
pub(super) struct PersonRecord<'a> {
    pub(super) identity: Identity,
    /// An object; nothing for somebody whom only events mention.
    pub(super) traits: Option<Cow<'a, str>>,
    /// The span of time the file knows of.
    pub(super) seen: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// An event as it will be stored.
#[derive(Debug)]
pub(super) struct EventRecord<'a> {
    /// Its place among all events of the file.
    pub(super) place: usize,
    pub(super) id: Cow<'a, str>,
    pub(super) user: Cow<'a, str>,
    pub(super) name: Cow<'a, str>,
    pub(super) properties: Option<&'a str>,
    pub(super) timestamp: DateTime<Utc>,
}

impl PersonRecord<'_> {
    /// How much of it goes to the database, about.
    pub(super) fn bytes(&self) -> usize {
        self.identity.value().len() + self.traits.as_deref().map_or(0, str::len)
    }

    /// Widens the span of time the file knows of.
    pub(super) fn see(&mut self, at: DateTime<Utc>) {
        self.seen = Some(match self.seen {
            None => (at, at),
            Some((first, last)) => (first.min(at), last.max(at)),
        });
    }
}

impl EventRecord<'_> {
    /// How much of it goes to the database, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.id.len() + self.user.len() + self.name.len();
        texts + self.properties.map_or(0, str::len)
    }
}

/// The members of a record, or of what is called otherwise.
fn object<'a>(json: &'a str, what: &str) -> Result<Members<'a>, Skipped> {
    if json.len() > RECORD_BYTES_MAX {
        return Err(("too_large", format!("{what} larger than 128 MiB")));
    }
    Members::of(json).ok_or_else(|| ("not_an_object", format!("{what} not an object")))
}

/// Checks that JSON of bounded depth can be read again.
fn readable(json: &str) -> Result<(), Skipped> {
    let mut parser = serde_json::Deserializer::from_str(json);
    parser.disable_recursion_limit();
    Value::deserialize(&mut parser)
        .map(drop)
        .map_err(|reason| ("unreadable", reason.to_string()))
}

fn invalid(field: &str, reason: impl std::fmt::Display) -> Skipped {
    ("invalid_field", format!("{field}: {reason}"))
}

/// A text or a number, as text.
pub(super) fn word(json: &str) -> Option<Cow<'_, str>> {
    let first = json.bytes().next()?;
    if first == b'-' || first.is_ascii_digit() {
        return Some(Cow::Borrowed(json));
    }
    // Borrowing works where nothing is escaped.
    serde_json::from_str::<&str>(json)
        .map(Cow::Borrowed)
        .or_else(|_| serde_json::from_str::<String>(json).map(Cow::Owned))
        .ok()
}

/// A text; nothing for null and absence.
fn optional_text(members: &Members<'_>, name: &str) -> Result<Option<String>, Skipped> {
    match members.get(name) {
        None | Some("null") => Ok(None),
        Some(json) => serde_json::from_str::<String>(json)
            .map(Some)
            .map_err(|_| invalid(name, "it is not a text"))
            .and_then(
                |text| match text.as_deref().is_some_and(|text| text.contains('\0')) {
                    true => Err(invalid(name, "it holds \\u0000")),
                    false => Ok(text),
                },
            ),
    }
}

/// A time as the seed writes it: milliseconds, or RFC 3339.
fn time(json: &str) -> Option<DateTime<Utc>> {
    let time = match word(json)? {
        Cow::Borrowed(text) if !json.starts_with('"') => {
            let millis = text.parse::<i64>().ok().or_else(|| {
                let float = text.parse::<f64>().ok()?;
                let in_range = float.abs() < 1e15;
                #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
                in_range.then_some(float as i64)
            })?;
            DateTime::from_timestamp_millis(millis)?
        }
        text => DateTime::parse_from_rfc3339(&text).ok()?.to_utc(),
    };
    let time = time.trunc_subsecs(6);
    let years = chrono::Datelike::year(&time);
    (1..=9_999).contains(&years).then_some(time)
}

fn optional_time(members: &Members<'_>, name: &str) -> Result<Option<DateTime<Utc>>, Skipped> {
    match members.get(name) {
        None | Some("null") => Ok(None),
        Some(json) => time(json)
            .map(Some)
            .ok_or_else(|| invalid(name, "it is no time")),
    }
}

pub(super) fn definition(
    section: Section,
    place: usize,
    json: &str,
) -> Result<DefinitionRecord, Skipped> {
    let members = object(json, THE_RECORD)?;
    let id = members
        .get("id")
        .and_then(word)
        .ok_or_else(|| invalid("id", "it is missing or neither a text nor a number"))?;
    match section {
        Section::Campaigns => CampaignId::parse(&id).map(drop),
        _ => SegmentId::parse(&id).map(drop),
    }
    .map_err(|reason| invalid("id", reason))?;
    // Reading it whole bounds its depth and finds numbers that nobody can compute with.
    serde_json::from_str::<Value>(json).map_err(|reason| ("unreadable", reason.to_string()))?;
    let name = optional_text(&members, "name")?.filter(|name| !name.trim().is_empty());
    let mut record = DefinitionRecord {
        place,
        name: name.ok_or_else(|| invalid("name", "it is missing"))?,
        status: None,
        trigger: None,
        body: members.without(&["id", "createdAt", "updatedAt"]),
        created_at: optional_time(&members, "createdAt")?,
        updated_at: optional_time(&members, "updatedAt")?,
        id: id.into_owned(),
    };
    if section == Section::Campaigns {
        record.status = optional_text(&members, "status")?;
        record.trigger = optional_text(&members, "trigger")?;
        if let Some(status) = &record.status
            && !["active", "paused", "draft"].contains(&status.as_str())
        {
            return Err(invalid("status", "it is none of active, paused and draft"));
        }
    }
    Ok(record)
}

/// What is said of a definition that is stored as it is but cannot take effect.
pub(super) fn does_not_compile(section: Section, record: &DefinitionRecord) -> Option<String> {
    let Ok(Value::Object(body)) = serde_json::from_str(&record.body) else {
        return None;
    };
    let limits = Limits::default();
    let reason = match section {
        Section::Campaigns => {
            let row = CampaignRow {
                id: record.id.clone(),
                seq: 0,
                version: 0,
                body,
                created_at: DateTime::UNIX_EPOCH,
                updated_at: None,
            };
            Campaign::compile(&row, &limits).err()?.to_string()
        }
        _ => Segment::compile(&record.id, &body, &limits)
            .err()?
            .to_string(),
    };
    Some(format!(
        "{} {} is imported but matches nobody until it is corrected: {reason}",
        section.as_str(),
        record.id
    ))
}

pub(super) fn flag<'a>(key: &str, json: &'a str) -> Result<FlagRecord<'a>, Skipped> {
    let count = key.chars().count();
    if !(1..=255).contains(&count) || key.contains('\0') {
        return Err(invalid("key", "it must have 1 to 255 characters"));
    }
    let members = object(json, THE_RECORD)?;
    let enabled = match members.get("enabled") {
        None => true,
        Some(json) => serde_json::from_str::<bool>(json)
            .map_err(|_| invalid("enabled", "it is neither true nor false"))?,
    };
    let value = members.get("value");
    if let Some(value) = value {
        if !is_shallow(value) {
            return Err(invalid("value", "it is nested too deep"));
        }
        // What is stored is read again with all flags of the project, so it has to be readable.
        readable(value)?;
    }
    Ok(FlagRecord {
        key: key.to_owned(),
        enabled,
        value,
    })
}

pub(super) fn person<'a>(id: &str, json: &'a str) -> Result<PersonRecord<'a>, Skipped> {
    let identity = Identity::user(id).map_err(|reason| invalid("id", reason))?;
    let members = object(json, "the traits are")?;
    if !is_shallow(json) {
        return Err(invalid("traits", "they are nested too deep"));
    }
    readable(json)?;
    let mut record = PersonRecord {
        identity,
        traits: Some(without_nul(json).map_or(Cow::Borrowed(json), Cow::Owned)),
        seen: None,
    };
    // The seed notes there when it heard of the user last.
    if let Some(seen) = members.get("last_seen").and_then(time) {
        record.see(seen);
    }
    Ok(record)
}

pub(super) fn event(place: usize, json: &str) -> Result<(EventRecord<'_>, Identity), Skipped> {
    let members = object(json, THE_RECORD)?;
    let field = |name| {
        members
            .get(name)
            .and_then(word)
            .ok_or_else(|| invalid(name, "it is missing or neither a text nor a number"))
    };
    let id = field("id")?;
    crate::model::MessageId::parse(&id).map_err(|reason| invalid("id", reason))?;
    let user = field("user_id")?;
    let identity = Identity::user(&user).map_err(|reason| invalid("user_id", reason))?;
    let name = field("event")?;
    EventName::parse(&name).map_err(|reason| invalid("event", reason))?;
    let properties = match members.get("properties") {
        None | Some("null") => None,
        Some(json) if !json.starts_with('{') => {
            return Err(invalid("properties", "they are not an object"));
        }
        Some(json) if !is_shallow(json) => {
            return Err(invalid("properties", "they are nested too deep"));
        }
        Some(json) => Some(json),
    };
    let timestamp = members
        .get("ts")
        .and_then(time)
        .ok_or_else(|| invalid("ts", "it is missing or no time"))?;
    let record = EventRecord {
        place,
        id,
        user,
        name,
        properties,
        timestamp,
    };
    Ok((record, identity))
}

/// Whether the seed's own server would refuse the name.
pub(super) fn is_odd_to_the_seed(name: &str) -> bool {
    name.len() > 100
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
