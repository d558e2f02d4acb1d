//! The file: what is in it, checked record by record. Pure but for reading the bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::record::{
    DefinitionRecord, EventRecord, FlagRecord, PersonRecord, definition, does_not_compile, event,
    flag, is_odd_to_the_seed, person, word,
};
use super::report::{Section, Skipped, SkippedRecord};
use super::text::{Members, without_lone_surrogates};
use super::{FILE_BYTES_MAX, TransferError};

/// A file of the seed in memory.
#[derive(Debug)]
pub struct DataFile {
    path: String,
    name: String,
    text: String,
    sha256: [u8; 32],
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
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        Self::from_bytes(&shown, &name.unwrap_or_default(), bytes)
    }

    pub(super) fn from_bytes(
        path: &str,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<Self, TransferError> {
        let sha256 = Sha256::digest(&bytes).into();
        let mut text = String::from_utf8(bytes).map_err(|_| TransferError::Unreadable {
            path: path.to_owned(),
            reason: "it is not UTF-8".to_owned(),
        })?;
        // The text may be as large as half of the memory, so it is changed in its place.
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        if let Some(mended) = without_lone_surrogates(&text) {
            text = mended;
        }
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
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

/// A name as a token of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn taken(section: Section, first: usize) -> Skipped {
    let reason = format!("/{}/{first} has the same id", section.as_str());
    ("duplicate_id", reason)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_file_is_held_once() {
        for text in ["{\"events\": []}", "\u{feff}{\"events\": []}"] {
            let bytes = text.as_bytes().to_vec();
            let place = bytes.as_ptr();
            let file = DataFile::from_bytes("data.json", "data.json", bytes).expect("a text");
            assert_eq!(file.text, "{\"events\": []}");
            assert_eq!(file.text.as_ptr(), place, "it is not copied");
        }
    }
}
