//! The file: what is in it, checked record by record. Pure but for reading the bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::report::{Section, Skipped, SkippedRecord};
use super::text::{Members, has_nul, is_shallow, without_lone_surrogates};
use super::{FILE_BYTES_MAX, TransferError};
use crate::matcher::{Campaign, CampaignRow};
use crate::model::{CampaignId, EventName, Identity, SegmentId};
use crate::rules::Limits;
use crate::segments::Segment;

/// A file of the seed in memory.
#[derive(Debug)]
pub struct DataFile {
    path: String,
    name: String,
    text: String,
    sha256: [u8; 32],
}

/// A campaign or segment as it will be stored.
#[derive(Debug)]
pub(super) struct DefinitionRecord {
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
    pub(super) traits: Option<&'a str>,
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

/// The good records, and what is wrong with the others.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub(super) campaigns: Vec<DefinitionRecord>,
    pub(super) segments: Vec<DefinitionRecord>,
    pub(super) flags: Vec<FlagRecord<'a>>,
    pub(super) people: Vec<PersonRecord<'a>>,
    pub(super) events: Vec<EventRecord<'a>>,
    /// How many events there are in the file, skipped ones too.
    pub(super) event_places: usize,
    pub(super) in_file: BTreeMap<Section, usize>,
    pub(super) odd_event_names: usize,
    pub(super) skipped: Vec<SkippedRecord>,
    pub(super) notes: Vec<String>,
}

impl DataFile {
    pub(super) fn read(path: &Path) -> Result<Self, TransferError> {
        let shown = path.display().to_string();
        let unreadable = |reason: String| TransferError::Unreadable {
            path: shown.clone(),
            reason,
        };
        let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if size.len() > FILE_BYTES_MAX {
            return Err(unreadable("it is larger than 2 GiB".to_owned()));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        let sha256 = Sha256::digest(&bytes).into();
        let text =
            String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
        let text = text
            .strip_prefix('\u{feff}')
            .map_or(text.clone(), str::to_owned);
        let text = without_lone_surrogates(&text).unwrap_or(text);
        Ok(Self {
            name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            path: shown,
            text,
            sha256,
        })
    }

    /// The file's name without its folder.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the file is known by.
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    pub(super) fn sha256_hex(&self) -> String {
        self.sha256
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Checks every record.
    pub(super) fn plan(&self) -> Result<Plan<'_>, TransferError> {
        let not_ours = |reason: String| TransferError::NotTheSeeds {
            path: self.path.clone(),
            reason,
        };
        let whole: Members<'_> =
            serde_json::from_str(&self.text).map_err(|error| not_ours(error.to_string()))?;
        let mut plan = Plan::default();
        let mut known = 0;
        for (name, _) in &whole.0 {
            match name.as_str() {
                "campaigns" | "segments" | "featureFlags" | "users" | "events" => known += 1,
                other => plan.notes.push(format!(
                    "the file's `{}` is unknown and not imported",
                    other.escape_debug()
                )),
            }
        }
        if known == 0 {
            return Err(not_ours(
                "it has none of campaigns, users and events".to_owned(),
            ));
        }
        let wrong = |name: &'static str| move |kind| not_ours(format!("`{name}` is not {kind}"));
        let array = |name| array(&whole, name).map_err(wrong(name));
        let object = |name| object(&whole, name).map_err(wrong(name));
        plan.take_definitions(Section::Campaigns, &array("campaigns")?);
        plan.take_definitions(Section::Segments, &array("segments")?);
        plan.take_flags(object("featureFlags")?);
        plan.take_users(object("users")?);
        plan.take_events(&array("events")?);
        Ok(plan)
    }
}

fn array<'a>(whole: &Members<'a>, name: &str) -> Result<Vec<&'a RawValue>, &'static str> {
    match whole.get(name) {
        None | Some("null") => Ok(Vec::new()),
        Some(text) => serde_json::from_str(text).map_err(|_| "an array"),
    }
}

fn object<'a>(whole: &Members<'a>, name: &str) -> Result<Members<'a>, &'static str> {
    match whole.get(name) {
        None | Some("null") => Ok(Members(Vec::new())),
        Some(text) => Members::of(text).ok_or("an object"),
    }
}

impl<'a> Plan<'a> {
    /// How many records there are to load.
    pub(super) fn records(&self) -> usize {
        self.campaigns.len()
            + self.segments.len()
            + self.flags.len()
            + self.people.len()
            + self.events.len()
    }

    fn skip(&mut self, section: Section, pointer: &str, id: Option<String>, why: Skipped) {
        self.skipped.push(SkippedRecord {
            section,
            pointer: format!("/{}/{pointer}", section.as_str()),
            id,
            code: why.0,
            reason: why.1,
        });
    }

    fn take_definitions(&mut self, section: Section, records: &[&'a RawValue]) {
        self.in_file.insert(section, records.len());
        let mut places: HashMap<String, usize> = HashMap::new();
        for (place, raw) in records.iter().enumerate() {
            let pointer = place.to_string();
            let record = match definition(section, raw.get()) {
                Ok(record) => record,
                Err(why) => {
                    let id = Members::of(raw.get()).and_then(|members| word(members.get("id")?));
                    self.skip(section, &pointer, id.map(Cow::into_owned), why);
                    continue;
                }
            };
            if let Some(first) = places.insert(record.id.clone(), place) {
                places.insert(record.id.clone(), first);
                self.skip(section, &pointer, Some(record.id), taken(section, first));
                continue;
            }
            if let Some(note) = does_not_compile(section, &record) {
                self.notes.push(note);
            }
            match section {
                Section::Campaigns => self.campaigns.push(record),
                _ => self.segments.push(record),
            }
        }
    }

    fn take_flags(&mut self, flags: Members<'a>) {
        self.in_file.insert(Section::FeatureFlags, flags.0.len());
        for (place, (key, raw)) in flags.0.iter().enumerate() {
            let named_again = flags
                .0
                .iter()
                .skip(place + 1)
                .any(|(later, _)| later == key);
            match flag(key, raw.get()) {
                _ if named_again => {
                    let why = ("named_again", "a later member has the same name".to_owned());
                    self.skip(Section::FeatureFlags, &escaped(key), Some(key.clone()), why);
                }
                Ok(record) => self.flags.push(record),
                Err(why) => {
                    self.skip(Section::FeatureFlags, &escaped(key), Some(key.clone()), why);
                }
            }
        }
    }

    fn take_users(&mut self, users: Members<'a>) {
        self.in_file.insert(Section::Users, users.0.len());
        let last: HashMap<&str, usize> = users
            .0
            .iter()
            .enumerate()
            .map(|(place, (id, _))| (id.as_str(), place))
            .collect();
        for (place, (id, raw)) in users.0.iter().enumerate() {
            let outcome = if last.get(id.as_str()) == Some(&place) {
                person(id, raw.get())
            } else {
                Err(("named_again", "a later member has the same name".to_owned()))
            };
            match outcome {
                Ok(record) => self.people.push(record),
                Err(why) => self.skip(Section::Users, &escaped(id), Some(id.clone()), why),
            }
        }
    }

    /// Takes the events, and with them the people whom only events mention.
    fn take_events(&mut self, records: &[&'a RawValue]) {
        self.in_file.insert(Section::Events, records.len());
        self.event_places = records.len();
        let mut people: HashMap<String, usize> = self
            .people
            .iter()
            .enumerate()
            .map(|(place, person)| (person.identity.value().to_owned(), place))
            .collect();
        let mut places: HashMap<String, usize> = HashMap::with_capacity(records.len());
        for (place, raw) in records.iter().enumerate() {
            let pointer = place.to_string();
            let (record, identity) = match event(place, raw.get()) {
                Ok(event) => event,
                Err(why) => {
                    let id = Members::of(raw.get()).and_then(|members| word(members.get("id")?));
                    self.skip(Section::Events, &pointer, id.map(Cow::into_owned), why);
                    continue;
                }
            };
            if let Some(first) = places.get(record.id.as_ref()) {
                let id = record.id.clone().into_owned();
                self.skip(
                    Section::Events,
                    &pointer,
                    Some(id),
                    taken(Section::Events, *first),
                );
                continue;
            }
            places.insert(record.id.clone().into_owned(), place);
            if is_odd_to_the_seed(&record.name) {
                self.odd_event_names += 1;
            }
            let known = people.get(identity.value()).copied();
            let at = known.unwrap_or(self.people.len());
            if known.is_none() {
                *self.in_file.entry(Section::Users).or_default() += 1;
                people.insert(identity.value().to_owned(), at);
                self.people.push(PersonRecord {
                    identity,
                    traits: None,
                    seen: None,
                });
            }
            if let Some(person) = self.people.get_mut(at) {
                person.see(record.timestamp);
            }
            self.events.push(record);
        }
    }
}

impl PersonRecord<'_> {
    fn see(&mut self, at: DateTime<Utc>) {
        self.seen = Some(match self.seen {
            None => (at, at),
            Some((first, last)) => (first.min(at), last.max(at)),
        });
    }
}

/// A name as a token of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn taken(section: Section, first: usize) -> Skipped {
    let reason = format!("/{}/{first} has the same id", section.as_str());
    ("duplicate_id", reason)
}

fn invalid(field: &str, reason: impl std::fmt::Display) -> Skipped {
    ("invalid_field", format!("{field}: {reason}"))
}

/// A text or a number, as text.
fn word(json: &str) -> Option<Cow<'_, str>> {
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

fn definition(section: Section, json: &str) -> Result<DefinitionRecord, Skipped> {
    let members =
        Members::of(json).ok_or(("not_an_object", "the record is not an object".to_owned()))?;
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
fn does_not_compile(section: Section, record: &DefinitionRecord) -> Option<String> {
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

fn flag<'a>(key: &str, json: &'a str) -> Result<FlagRecord<'a>, Skipped> {
    let count = key.chars().count();
    if !(1..=255).contains(&count) || key.contains('\0') {
        return Err(invalid("key", "it must have 1 to 255 characters"));
    }
    let members =
        Members::of(json).ok_or(("not_an_object", "the record is not an object".to_owned()))?;
    let enabled = match members.get("enabled") {
        None => true,
        Some(json) => serde_json::from_str::<bool>(json)
            .map_err(|_| invalid("enabled", "it is neither true nor false"))?,
    };
    let value = members.get("value");
    if value.is_some_and(|value| !is_shallow(value)) {
        return Err(invalid("value", "it is nested too deep"));
    }
    Ok(FlagRecord {
        key: key.to_owned(),
        enabled,
        value,
    })
}

fn person<'a>(id: &str, json: &'a str) -> Result<PersonRecord<'a>, Skipped> {
    let identity = Identity::user(id).map_err(|reason| invalid("id", reason))?;
    let members =
        Members::of(json).ok_or(("not_an_object", "the traits are not an object".to_owned()))?;
    serde_json::from_str::<Value>(json).map_err(|reason| ("unreadable", reason.to_string()))?;
    if has_nul(json) {
        let reason = "the traits hold \\u0000, which the database cannot keep";
        return Err(("holds_nul", reason.to_owned()));
    }
    let mut record = PersonRecord {
        identity,
        traits: Some(json),
        seen: None,
    };
    // The seed notes there when it heard of the user last.
    if let Some(seen) = members.get("last_seen").and_then(time) {
        record.see(seen);
    }
    Ok(record)
}

fn event(place: usize, json: &str) -> Result<(EventRecord<'_>, Identity), Skipped> {
    let members =
        Members::of(json).ok_or(("not_an_object", "the record is not an object".to_owned()))?;
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
fn is_odd_to_the_seed(name: &str) -> bool {
    name.len() > 100
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
