//! The people of replayed events, as they were at each event.
//!
//! Their newest identify calls are read once and kept for the events to come; what is kept is bounded,
//! and forgotten as a whole when it is full. A trait that none of the calls that were read sets has not
//! changed since the oldest of them, so its value now is its value then, unless an import or a merge
//! wrote it. One that only later calls set was absent, unless an import or calls that were not read set
//! it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{PgConnection, QueryResult};
use serde_json::{Map, Value};

use crate::model::{ProjectId, parse_object, parse_traits};
use crate::store::history::{self, CallSpan, PastEvent, PastPerson, PersonsCall, Place, Sighting};

/// The most identify calls of one person since the first replayed day that are kept: the newest.
const CALLS_MAX: u32 = 100;

/// How many events of one person before that day are looked through for identify calls.
const EARLIER_MAX: u32 = 200;

/// The most bytes of traits that are kept.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How one event's traits are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// They have not changed since.
    Unchanged,
    /// From stored identify calls.
    Rebuilt,
    /// From identify calls of which old ones were not read, or of people who were merged.
    Uncertain,
}

/// An identify call.
#[derive(Debug)]
struct Call {
    place: Place,
    traits: Map<String, Value>,
    /// Of the traits as JSON.
    bytes: usize,
}

/// A person over time.
#[derive(Debug)]
pub(super) struct Timeline {
    person: PastPerson,
    /// Traits that no call sets.
    base: Map<String, Value>,
    calls: Calls,
}

/// What was read of somebody's identify calls.
#[derive(Debug, Default)]
struct Calls {
    /// Oldest first.
    read: Vec<Call>,
    /// Whether calls since the first replayed day were left out.
    is_cut: bool,
    /// Whether there may be older ones than those that were read, or an import that did the same.
    has_older: bool,
}

impl Timeline {
    fn new(person: PastPerson, mut calls: Calls) -> Self {
        calls.read.sort_by_key(|call| call.place);
        let mut base = parse_object(&person.traits);
        for call in &calls.read {
            for name in call.traits.keys() {
                base.remove(name);
            }
        }
        Self {
            person,
            base,
            calls,
        }
    }

    /// The person's number now.
    pub(super) fn id(&self) -> i64 {
        self.person.id
    }

    pub(super) fn created_at(&self) -> DateTime<Utc> {
        self.person.created_at
    }

    /// The id that rules saw.
    pub(super) fn user_id<'t>(&'t self, event: &'t PastEvent) -> &'t str {
        let since = self.person.user_id_since;
        let known = since.is_some_and(|since| since <= event.received_at);
        let known = self.person.user_id.as_deref().filter(|_| known);
        let own = event.user_id.as_deref().or(event.anonymous_id.as_deref());
        known.or(own).unwrap_or_default()
    }

    /// The traits at a place, as JSON text, and how they are known.
    pub(super) fn traits_at(&self, place: Place) -> (String, Knowledge) {
        let Calls {
            read,
            is_cut,
            has_older,
        } = &self.calls;
        let (earlier, later) = read.split_at(read.partition_point(|call| call.place <= place));
        if later.is_empty() {
            return (
                self.person.traits.clone(),
                self.knowledge(Knowledge::Unchanged),
            );
        }
        let mut traits = self.base.clone();
        for call in earlier {
            traits.extend(call.traits.clone());
        }
        let mut set_later = later.iter().flat_map(|call| call.traits.keys());
        let may_be_wrong = (*is_cut && earlier.is_empty())
            || (*has_older && set_later.any(|name| !traits.contains_key(name)));
        let knowledge = match may_be_wrong {
            true => Knowledge::Uncertain,
            false => self.knowledge(Knowledge::Rebuilt),
        };
        (Value::Object(traits).to_string(), knowledge)
    }

    fn knowledge(&self, knowledge: Knowledge) -> Knowledge {
        let is_merged = self.person.family.len() > 1;
        if is_merged {
            Knowledge::Uncertain
        } else {
            knowledge
        }
    }

    fn bytes(&self) -> usize {
        // Parsed, text takes several times its length.
        let parsed = |bytes: usize, names: usize| 64 + 4 * bytes + 100 * names;
        let calls = self.calls.read.iter();
        let calls: usize = calls
            .map(|call| parsed(call.bytes, call.traits.len()))
            .sum();
        256 + parsed(2 * self.person.traits.len(), self.base.len()) + calls
    }
}

/// Everybody whose events were replayed lately.
#[derive(Debug)]
pub(super) struct Timelines {
    project: ProjectId,
    /// The first day that is replayed.
    since: NaiveDate,
    /// The first day of which everything is still there.
    horizon: NaiveDate,
    heirs: HashMap<i64, i64>,
    known: HashMap<i64, Timeline>,
    kept_bytes: usize,
}

impl Timelines {
    /// Nobody yet, for events received since a day.
    pub(super) fn new(
        connection: &mut PgConnection,
        project: ProjectId,
        since: NaiveDate,
    ) -> QueryResult<Self> {
        Ok(Self {
            project,
            since,
            horizon: history::horizon(connection, project)?,
            heirs: HashMap::new(),
            known: HashMap::new(),
            kept_bytes: 0,
        })
    }

    /// Loads whoever of these events is not known yet. They are few: how much of somebody is read is
    /// bounded, and nothing is forgotten before all of them are there.
    pub(super) fn load(
        &mut self,
        connection: &mut PgConnection,
        events: &[PastEvent],
    ) -> QueryResult<()> {
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.heirs.clear();
            self.known.clear();
            self.kept_bytes = 0;
        }
        let met: HashSet<i64> = events.iter().map(|event| event.person_id).collect();
        let unknown = met
            .into_iter()
            .filter(|person| !self.heirs.contains_key(person));
        let unknown: Vec<i64> = unknown.collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut missing = HashSet::new();
        for heir in history::heirs(connection, self.project, &unknown)? {
            self.heirs.insert(heir.person_id, heir.heir_id);
            if !self.known.contains_key(&heir.heir_id) {
                missing.insert(heir.heir_id);
            }
        }
        let missing: Vec<i64> = missing.into_iter().collect();
        let people = history::people(connection, self.project, &missing)?;
        let mut calls = self.calls(connection, &people)?;
        for person in people {
            let calls = calls.remove(&person.id).unwrap_or_default();
            let timeline = Timeline::new(person, calls);
            self.kept_bytes = self.kept_bytes.saturating_add(timeline.bytes());
            self.known.insert(timeline.id(), timeline);
        }
        Ok(())
    }

    /// Of those who made calls since the first replayed day, also what they said before it: their
    /// traits have changed since, and were not all set since.
    fn calls(
        &self,
        connection: &mut PgConnection,
        people: &[PastPerson],
    ) -> QueryResult<HashMap<i64, Calls>> {
        let members = |people: &mut dyn Iterator<Item = &PastPerson>| -> Vec<i64> {
            people.flat_map(|it| it.family.clone()).collect()
        };
        let of = |person: i64| {
            let is_of = move |it: &&PastPerson| it.family.contains(&person);
            people.iter().find(is_of).map(|it| it.id)
        };
        let mut calls: HashMap<i64, Calls> = HashMap::new();
        let since = CallSpan::Since(self.since, CALLS_MAX);
        let everybody = members(&mut people.iter());
        for call in history::newest_identify_calls(connection, self.project, &everybody, since)? {
            if let Some(person) = of(call.person_id) {
                let calls = calls.entry(person).or_default();
                calls.is_cut |= call.is_cut;
                calls.read.extend(Call::read(call));
            }
        }
        for person in people {
            if let Some(calls) = calls.get_mut(&person.id) {
                let is_past_retention = person.created_at.date_naive() < self.horizon;
                calls.has_older = calls.is_cut || is_past_retention || person.is_imported;
            }
        }
        let is_older = |it: &&PastPerson| it.created_at.date_naive() < self.since;
        let go_back = |it: &&PastPerson| {
            let calls = calls.get(&it.id);
            is_older(it) && calls.is_some_and(|calls| !calls.is_cut)
        };
        let go_back = members(&mut people.iter().filter(go_back));
        let before = CallSpan::Before(self.since, EARLIER_MAX);
        for call in history::newest_identify_calls(connection, self.project, &go_back, before)? {
            let calls = of(call.person_id).and_then(|person| calls.get_mut(&person));
            if let Some(calls) = calls {
                calls.has_older |= call.is_cut;
                calls.read.extend(Call::read(call));
            }
        }
        Ok(calls)
    }

    /// When the last event of each of these events' people before it was received, if there was one.
    pub(super) fn last_seen(
        &self,
        connection: &mut PgConnection,
        events: &[PastEvent],
    ) -> QueryResult<Vec<Option<DateTime<Utc>>>> {
        let mut sightings = Vec::with_capacity(events.len());
        for (event, number) in events.iter().zip(0..) {
            let family = self.of(event).map(|it| it.person.family.as_slice());
            let family = family.unwrap_or(std::slice::from_ref(&event.person_id));
            sightings.extend(family.iter().map(|person| Sighting {
                number,
                person: *person,
                place: (event.received_at, event.id),
            }));
        }
        let mut seen = vec![None; events.len()];
        for (number, at) in history::last_seen_before_each(connection, self.project, &sightings)? {
            let of_event = usize::try_from(number).ok();
            if let Some(of_event) = of_event.and_then(|number| seen.get_mut(number)) {
                *of_event = Some(at);
            }
        }
        Ok(seen)
    }

    /// Who an event's person is now; nobody if they are gone.
    pub(super) fn of(&self, event: &PastEvent) -> Option<&Timeline> {
        let heir = self.heirs.get(&event.person_id)?;
        self.known.get(heir)
    }
}

impl Call {
    /// `None` for one that was left out.
    fn read(call: PersonsCall) -> Option<Self> {
        let text = call.traits?;
        Some(Self {
            place: (call.received_at, call.id),
            traits: parse_traits(&text),
            bytes: text.len(),
        })
    }
}
