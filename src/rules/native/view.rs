//! How native tests read facts.

use std::cell::OnceCell;
use std::cmp::Ordering;

use datalogic_rs::DataValue;
use lean_string::LeanStr;

use crate::rules::conversions::Conversions;
use crate::rules::data::{FactsArena, Object};
use crate::rules::facts::{self, Facts};

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// `user.traits`.
    Traits,
    /// `event.properties`.
    Properties,
    /// `event.context`.
    Context,
    /// `user.id`.
    UserId,
    /// `user.created_at`.
    CreatedAt,
    /// `user.last_seen_at`.
    LastSeenAt,
    /// `event.name`.
    EventName,
    /// `event.timestamp`.
    Timestamp,
    /// `now`.
    Now,
}

/// A value that rules can name: a member of one of the objects, or a member of that, and so on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attribute {
    /// Where the path begins.
    pub(crate) source: Source,
    path: Path,
}

/// The names on the way. There is one way to write each path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Path {
    /// The object itself, and what is no object.
    Whole,
    /// A member of the object, as most are.
    Member(LeanStr),
    Deeper(Box<Deeper>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Deeper {
    first: LeanStr,
    /// At least one.
    rest: Box<[LeanStr]>,
}

impl Attribute {
    /// A member of an object by its name, whatever characters that has.
    pub(crate) fn member(source: Source, name: &str) -> Attribute {
        Attribute {
            source,
            path: Path::Member(name.into()),
        }
    }

    /// The value a dotted path names; `None` where it leads elsewhere.
    pub(crate) fn of_path(path: &str) -> Option<Attribute> {
        let mut names = path.split('.');
        let (first, second) = (names.next()?, names.next());
        let (source, is_object) = match (first, second) {
            ("user", Some("traits")) => (Source::Traits, true),
            ("user", Some("id")) => (Source::UserId, false),
            ("user", Some("created_at")) => (Source::CreatedAt, false),
            ("user", Some("last_seen_at")) => (Source::LastSeenAt, false),
            ("event", Some("properties")) => (Source::Properties, true),
            ("event", Some("context")) => (Source::Context, true),
            ("event", Some("name")) => (Source::EventName, false),
            ("event", Some("timestamp")) => (Source::Timestamp, false),
            ("now", None) => (Source::Now, false),
            _ => return None,
        };
        let path = match (names.next().map(LeanStr::from), names.next()) {
            (None, _) => Path::Whole,
            (Some(name), None) => Path::Member(name),
            (Some(first), Some(second)) => Path::Deeper(Box::new(Deeper {
                first,
                rest: std::iter::once(second)
                    .chain(names)
                    .map(LeanStr::from)
                    .collect(),
            })),
        };
        (is_object || path == Path::Whole).then_some(Attribute { source, path })
    }

    /// The name of the object's member; `None` for the object itself, and for what is no object.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.path {
            Path::Whole => None,
            Path::Member(name) => Some(name),
            Path::Deeper(path) => Some(&path.first),
        }
    }

    /// The names that lead on from that member.
    pub(crate) fn rest(&self) -> &[LeanStr] {
        match &self.path {
            Path::Whole | Path::Member(_) => &[],
            Path::Deeper(path) => &path.rest,
        }
    }
}

/// By source, and then name by name.
impl Ord for Attribute {
    fn cmp(&self, other: &Self) -> Ordering {
        let source = self.source.cmp(&other.source);
        source
            .then_with(|| self.name().cmp(&other.name()))
            .then_with(|| self.rest().cmp(other.rest()))
    }
}

impl PartialOrd for Attribute {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Facts as native tests read them.
pub(crate) struct View<'a> {
    facts: Facts<'a>,
    arena: &'a FactsArena,
    now_micros: i64,
    /// Times as texts and objects as values, built when first asked for.
    built: [OnceCell<&'a DataValue<'a>>; 9],
    conversions: Conversions,
}

impl<'a> View<'a> {
    /// Nothing is built yet.
    pub(crate) fn new(facts: Facts<'a>, arena: &'a FactsArena) -> Self {
        View {
            facts,
            arena,
            // Rules see the time in milliseconds.
            now_micros: facts.now.timestamp_millis().saturating_mul(1_000),
            built: Default::default(),
            conversions: Conversions::default(),
        }
    }

    pub(super) fn now_micros(&self) -> i64 {
        self.now_micros
    }

    /// For values of the facts, which stay where they are for as long as the view does.
    pub(in crate::rules) fn conversions(&self) -> &Conversions {
        &self.conversions
    }

    pub(super) fn is_in_segment(&self, name: &str) -> bool {
        (self.facts.segments)(name)
    }

    /// The object that stands there; `None` where there is none.
    pub(crate) fn object(&self, source: Source) -> Option<Object<'a>> {
        let event = self.facts.event.as_ref();
        match source {
            Source::Traits => Some(self.facts.user.traits),
            Source::Properties => event.map(|event| event.properties),
            Source::Context => event.map(|event| event.context),
            _ => None,
        }
    }

    /// The value of an attribute; `None` where it is missing.
    pub(crate) fn value(&self, attribute: &Attribute) -> Option<&'a DataValue<'a>> {
        let Some(name) = attribute.name() else {
            return self.whole(attribute.source);
        };
        let value = self.object(attribute.source)?.get(name)?;
        descend(value, attribute.rest())
    }

    fn whole(&self, source: Source) -> Option<&'a DataValue<'a>> {
        let arena = &self.arena.facts;
        let (user, event) = (&self.facts.user, self.facts.event.as_ref());
        let cell = self.built.get(source as usize)?;
        if let Some(value) = cell.get() {
            return Some(value);
        }
        let value = match source {
            Source::Traits | Source::Properties | Source::Context => self.object(source)?.value(),
            Source::UserId => DataValue::String(user.id),
            Source::CreatedAt => facts::time(arena, user.created_at),
            Source::LastSeenAt => facts::time(arena, user.last_seen_at),
            Source::EventName => DataValue::String(event?.name),
            Source::Timestamp => facts::time(arena, event?.timestamp),
            Source::Now => facts::time(arena, self.facts.now),
        };
        Some(*cell.get_or_init(|| arena.alloc(value)))
    }
}

/// Follows names from a value of the facts, where members are in order, to what the evaluator finds: a
/// number is also a place in a list.
pub(crate) fn descend<'a>(
    mut value: &'a DataValue<'a>,
    path: &[LeanStr],
) -> Option<&'a DataValue<'a>> {
    for name in path {
        value = match value {
            DataValue::Object(members) => {
                let place = members.binary_search_by(|(member, _)| (*member).cmp(&**name));
                &members.get(place.ok()?)?.1
            }
            DataValue::Array(items) => items.get(name.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}
