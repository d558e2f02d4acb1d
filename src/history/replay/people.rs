//! The people of replayed events, as they were at each event.
//!
//! Their identify calls since the first replayed day are read once and kept for the events to come;
//! what is kept is bounded, and forgotten as a whole when it is full. A trait that none of these
//! calls sets has not changed since that day, so its value now is its value then, unless an import
//! or a merge wrote it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{PgConnection, QueryResult};
use serde_json::{Map, Value};

use crate::model::{ProjectId, parse_object, parse_traits};
use crate::store::history::{self, PastEvent, PastPerson, Place};

/// The most identify calls of one person that are kept: the newest.
const CALLS_MAX: i64 = 100;

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

/// The traits of an identify call, and its place.
type Call = (Place, Map<String, Value>);

/// A person over time.
#[derive(Debug)]
pub(super) struct Timeline {
    person: PastPerson,
    /// Traits that no call sets.
    base: Map<String, Value>,
    /// Oldest first.
    calls: Vec<Call>,
    is_cut: bool,
    /// When the last replayed event before was received.
    pub(super) last_seen: Option<DateTime<Utc>>,
}

impl Timeline {
    fn new(person: PastPerson, mut calls: Vec<Call>, is_cut: bool) -> Self {
        calls.sort_by_key(|(place, _)| *place);
        let mut base = parse_object(&person.traits);
        for (_, traits) in &calls {
            for name in traits.keys() {
                base.remove(name);
            }
        }
        Self {
            person,
            base,
            calls,
            is_cut,
            last_seen: None,
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
        let later = self.calls.partition_point(|(call, _)| *call <= place);
        if later == self.calls.len() {
            return (
                self.person.traits.clone(),
                self.knowledge(Knowledge::Unchanged),
            );
        }
        let mut traits = self.base.clone();
        for (_, patch) in self.calls.iter().take(later) {
            traits.extend(patch.clone());
        }
        let knowledge = match later {
            0 if self.is_cut => Knowledge::Uncertain,
            _ => self.knowledge(Knowledge::Rebuilt),
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
        // A parsed call takes several times its text.
        let calls = self.calls.iter();
        let calls: usize = calls.map(|(_, traits)| 64 + 100 * traits.len()).sum();
        256 + 4 * self.person.traits.len() + calls
    }
}

/// Everybody whose events were replayed lately.
#[derive(Debug)]
pub(super) struct Timelines {
    project: ProjectId,
    /// The first day that is replayed.
    since: NaiveDate,
    heirs: HashMap<i64, i64>,
    known: HashMap<i64, Timeline>,
    kept_bytes: usize,
}

impl Timelines {
    pub(super) fn new(project: ProjectId, since: NaiveDate) -> Self {
        Self {
            project,
            since,
            heirs: HashMap::new(),
            known: HashMap::new(),
            kept_bytes: 0,
        }
    }

    /// Loads whoever of the page is not known yet.
    pub(super) fn load(
        &mut self,
        connection: &mut PgConnection,
        page: &[PastEvent],
    ) -> QueryResult<()> {
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.heirs.clear();
            self.known.clear();
            self.kept_bytes = 0;
        }
        let met: HashSet<i64> = page.iter().map(|event| event.person_id).collect();
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
        let members: Vec<i64> = people.iter().flat_map(|it| it.family.clone()).collect();
        let calls = history::newest_identify_calls(
            connection,
            self.project,
            &members,
            self.since,
            CALLS_MAX,
        )?;
        let mut by_person: HashMap<i64, Vec<Call>> = HashMap::new();
        for call in calls {
            let traits = call.traits.as_deref().map(parse_traits).unwrap_or_default();
            let place = (call.received_at, call.id);
            by_person
                .entry(call.person_id)
                .or_default()
                .push((place, traits));
        }
        let cap = usize::try_from(CALLS_MAX).unwrap_or(usize::MAX);
        for person in people {
            let of_family = person
                .family
                .iter()
                .filter_map(|member| by_person.remove(member));
            let of_family: Vec<Vec<_>> = of_family.collect();
            let is_cut = of_family.iter().any(|calls| calls.len() >= cap);
            let timeline = Timeline::new(person, of_family.concat(), is_cut);
            self.kept_bytes = self.kept_bytes.saturating_add(timeline.bytes());
            self.known.insert(timeline.id(), timeline);
        }
        Ok(())
    }

    /// Who an event's person is now; nobody if they are gone.
    pub(super) fn of(&mut self, event: &PastEvent) -> Option<&mut Timeline> {
        let heir = self.heirs.get(&event.person_id)?;
        self.known.get_mut(heir)
    }
}
