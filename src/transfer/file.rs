//! The file: what is in it, checked record by record. Pure but for reading the bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::record::{
    DefinitionRecord, EventRecord, FlagRecord, PersonRecord, definition, does_not_compile, event,
    flag, is_odd_to_the_seed, person, word,
};
use super::report::{Section, Skipped, SkippedRecord, SkippedRecords};
use super::text::{Members, without_lone_surrogates};
use super::{FILE_BYTES_MAX, TransferError};
use crate::model::parse_object;

/// How many notes there are of a file.
const NOTES_MAX: usize = 1_000;

/// A file of the seed in memory.
#[derive(Debug)]
pub struct DataFile {
    path: String,
    name: String,
    text: String,
    sha256: [u8; 32],
    traits_bytes_max: usize,
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
    pub(super) skipped: SkippedRecords,
    pub(super) notes: Vec<String>,
    /// Users who were skipped.
    skipped_users: HashSet<String>,
}

impl DataFile {
    pub(super) fn read(path: &Path) -> Result<Self, TransferError> {
        let shown = path.display().to_string();
        let unreadable = |reason: String| TransferError::Unreadable {
            path: shown.clone(),
            reason,
        };
        let failed = |error: std::io::Error| unreadable(error.to_string());
        let file = std::fs::File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let bytes = read_bounded(file, size, FILE_BYTES_MAX)
            .map_err(failed)?
            .ok_or_else(|| unreadable("it is larger than 2 GiB".to_owned()))?;
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
            traits_bytes_max: usize::MAX,
        })
    }

    /// The file for a server that lets somebody have so many bytes of traits: those with more are
    /// imported and noted.
    pub fn with_traits_bytes_max(self, traits_bytes_max: usize) -> Self {
        Self {
            traits_bytes_max,
            ..self
        }
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
                other => plan.note(format!(
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
        plan.note_outgrown(self.traits_bytes_max);
        Ok(plan)
    }
}

/// The bytes of a file that says to be of this size; nothing when there are more than the most. A
/// pipe says nothing of its size.
fn read_bounded(file: impl Read, size: u64, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    if size > most {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size + 1).unwrap_or_default());
    let read = file.take(most + 1).read_to_end(&mut bytes)?;
    Ok((u64::try_from(read).is_ok_and(|read| read <= most)).then_some(bytes))
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
        self.skipped.add(SkippedRecord {
            section,
            pointer: section.pointer(pointer),
            id,
            code: why.0,
            reason: why.1,
        });
    }

    /// Notes something, unless there are more notes than anybody reads.
    fn note(&mut self, note: String) {
        match self.notes.len() {
            NOTES_MAX => self
                .notes
                .push("there are more notes than these".to_owned()),
            count if count > NOTES_MAX => {}
            _ => self.notes.push(note),
        }
    }

    fn take_definitions(&mut self, section: Section, records: &[&'a RawValue]) {
        self.in_file.insert(section, records.len());
        let mut places: HashMap<String, usize> = HashMap::new();
        for (place, raw) in records.iter().enumerate() {
            let pointer = place.to_string();
            let record = match definition(section, place, raw.get()) {
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
                self.note(note);
            }
            match section {
                Section::Campaigns => self.campaigns.push(record),
                _ => self.segments.push(record),
            }
        }
    }

    fn take_flags(&mut self, flags: Members<'a>) {
        self.in_file.insert(Section::FeatureFlags, flags.0.len());
        let last = flags.last_places();
        for (place, (key, raw)) in flags.0.iter().enumerate() {
            let outcome = if last.get(key.as_str()) == Some(&place) {
                flag(key, raw.get())
            } else {
                Err(named_again())
            };
            match outcome {
                Ok(record) => self.flags.push(record),
                Err(why) => self.skip(Section::FeatureFlags, key, Some(key.clone()), why),
            }
        }
    }

    fn take_users(&mut self, users: Members<'a>) {
        self.in_file.insert(Section::Users, users.0.len());
        let last = users.last_places();
        for (place, (id, raw)) in users.0.iter().enumerate() {
            if last.get(id.as_str()) != Some(&place) {
                self.skip(Section::Users, id, Some(id.clone()), named_again());
                continue;
            }
            match person(id, raw.get()) {
                Ok(record) => self.people.push(record),
                Err(why) => {
                    self.skipped_users.insert(id.clone());
                    self.skip(Section::Users, id, Some(id.clone()), why);
                }
            }
        }
    }

    /// Notes who has more traits than a server lets somebody have.
    fn note_outgrown(&mut self, bytes_max: usize) {
        let mut outgrown = self.people.iter().filter(|person| {
            let traits = person.traits.as_deref().unwrap_or_default();
            // A server counts without the spaces between.
            traits.len() > bytes_max && compact_bytes(traits) > bytes_max
        });
        let Some(first) = outgrown.next() else {
            return;
        };
        let note = format!(
            "{} user(s), of whom {} is the first, have more than {bytes_max} bytes of traits \
             (limit_traits_bytes): they are imported, but a server refuses each change of these traits",
            1 + outgrown.count(),
            first.identity.value().escape_debug()
        );
        self.note(note);
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
            if self.skipped_users.contains(record.user.as_ref()) {
                let id = record.id.clone().into_owned();
                let why = of_skipped(&record.user);
                self.skip(Section::Events, &pointer, Some(id), why);
                continue;
            }
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

/// How long the text of an object of bounded depth is without the spaces between.
fn compact_bytes(json: &str) -> usize {
    Value::Object(parse_object(json)).to_string().len()
}

fn named_again() -> Skipped {
    ("named_again", "a later member has the same name".to_owned())
}

/// Why an event of a skipped user is skipped, too: with it the user would be created without
/// traits, and the corrected file would then conflict with that.
pub(super) fn of_skipped(user: &str) -> Skipped {
    let reason = format!("{} is skipped", Section::Users.pointer(user));
    ("user_skipped", reason)
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
    #[test]
    fn what_does_not_tell_its_size_is_read_up_to_the_most() {
        let read = |size, most| read_bounded(std::io::repeat(b' ').take(8), size, most);
        assert_eq!(read(0, 8).expect("spaces"), Some(vec![b' '; 8]));
        assert_eq!(read(0, 7).expect("spaces"), None);
        assert_eq!(read(9, 8).expect("spaces"), None);
    }

    #[test]
    fn of_many_skipped_records_the_first_are_listed_and_all_are_counted() {
        let flags: Vec<String> = (0..12_000).map(|n| format!("\"f{n}\": 1")).collect();
        let text = format!("{{\"featureFlags\": {{{}}}}}", flags.join(","));
        let file = DataFile::from_bytes("x", "x", text.into_bytes()).expect("a text");
        let plan = file.plan().expect("an object");
        assert_eq!(plan.skipped.listed.len(), 10_000);
        assert_eq!(plan.skipped.by_code.get("not_an_object"), Some(&12_000));
        assert_eq!(
            plan.skipped.by_section.get(&Section::FeatureFlags),
            Some(&12_000)
        );
    }

    #[test]
    fn who_has_more_traits_than_a_server_lets_them_is_noted() {
        let text = r#"{"users": {"big": {"a": "0123456789"}, "spaced": {"a":           1}}}"#;
        let file = DataFile::from_bytes("x", "x", text.into()).expect("a text");
        assert!(file.plan().expect("an object").notes.is_empty());
        let file = file.with_traits_bytes_max(16);
        let notes = file.plan().expect("an object").notes;
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(
            notes
                .concat()
                .starts_with("1 user(s), of whom big is the first")
        );
    }
}
