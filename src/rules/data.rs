//! JSON data as conditions read it: built in an arena, so that a decision allocates nothing once
//! the arena has grown to its size.
//!
//! [`FactsArena::parse`] reads a JSON text straight into the evaluator's form. Texts without
//! escapes are borrowed; of members with the same name the last one counts, as everywhere else.
//! Members are kept in the order of their names; a text that has them so already is read faster.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;

use datalogic_rs::DataValue;
use datalogic_rs::bumpalo::Bump;
use datalogic_rs::bumpalo::collections::Vec as ArenaVec;
use datalogic_rs::datavalue::NumberValue;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Nesting of traits, properties and context that conditions can look at.
pub(super) const DATA_DEPTH_MAX: usize = 256;

/// The memory that a decision's facts are built in, and that conditions are evaluated in.
///
/// Reset between decisions it keeps its largest block, so that later ones take no more memory
/// from the system; what an evaluation took beyond the usual is given back.
#[derive(Debug, Default)]
pub struct FactsArena {
    pub(super) facts: Bump,
    scratch: RefCell<Bump>,
}

/// What an evaluation starts with, in bytes. What one may take is bounded by what is allocated for it, so
/// all of them start with the same: else what a rule evaluates to would depend on those before it.
const SCRATCH_BYTES: usize = 64 << 10;

impl FactsArena {
    /// Takes no memory until it is used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything that was built, and keeps the memory.
    pub fn reset(&mut self) {
        self.facts.reset();
        // The next evaluation does not keep it either.
        if self.scratch.get_mut().allocated_bytes() > SCRATCH_BYTES * 3 / 2 {
            self.scratch = RefCell::default();
        }
    }

    /// Memory for one evaluation. Only one can have it at a time.
    pub(super) fn scratch(&self) -> RefMut<'_, Bump> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.reset();
        // Reset, it keeps its last chunk, which is at least twice as large as the one before.
        let is_as_new = SCRATCH_BYTES..SCRATCH_BYTES * 3 / 2;
        if !is_as_new.contains(&scratch.allocated_bytes()) {
            *scratch = Bump::with_capacity(SCRATCH_BYTES);
        }
        scratch
    }

    /// What was built since the last reset, and the memory kept for it, in bytes.
    #[cfg(test)]
    pub(crate) fn facts_bytes(&self) -> usize {
        self.facts.allocated_bytes()
    }

    /// Reads a JSON object. Text that is no JSON, or another value, is null.
    pub fn parse<'a>(&'a self, text: &'a str) -> Object<'a> {
        let too_deep = Cell::new(false);
        let seed = Seed {
            arena: &self.facts,
            depth: 0,
            too_deep: &too_deep,
        };
        let mut parser = serde_json::Deserializer::from_str(text);
        // The seed counts itself, and skips without recursion what is nested too deep.
        parser.disable_recursion_limit();
        let value = seed
            .deserialize(&mut parser)
            .and_then(|value| parser.end().map(|()| value));
        Object::new(value.unwrap_or(DataValue::Null), too_deep.get())
    }

    /// The object of a parsed value; another value is null. Texts are borrowed.
    pub fn from_value<'a>(&'a self, value: &'a Value) -> Object<'a> {
        let mut too_deep = false;
        let value = to_arena(value, &self.facts, 0, &mut too_deep);
        Object::new(value, too_deep)
    }

    /// So many words of zeros.
    pub(crate) fn words(&self, count: usize) -> &mut [u64] {
        self.facts.alloc_slice_fill_copy(count, 0)
    }

    /// So many values. They are never dropped.
    pub(crate) fn slice<T>(&self, count: usize, fill: impl FnMut(usize) -> T) -> &mut [T] {
        self.facts.alloc_slice_fill_with(count, fill)
    }

    /// Any value, as far down as conditions look.
    pub(super) fn value<'a>(&'a self, value: &'a Value) -> DataValue<'a> {
        to_arena(value, &self.facts, 0, &mut false)
    }
}

/// A JSON object in a [`FactsArena`], or null. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    value: DataValue<'a>,
    too_deep: bool,
}

impl<'a> Object<'a> {
    /// No object at all: conditions see null.
    pub const NULL: Object<'static> = Object {
        value: DataValue::Null,
        too_deep: false,
    };

    /// The object without members.
    pub const EMPTY: Object<'static> = Object {
        value: DataValue::Object(&[]),
        too_deep: false,
    };

    fn new(value: DataValue<'a>, too_deep: bool) -> Self {
        match value {
            DataValue::Object(_) => Object { value, too_deep },
            _ => Object::NULL,
        }
    }

    /// Whether something in it is nested deeper than conditions look. It was left out.
    pub(super) fn is_too_deep(&self) -> bool {
        self.too_deep
    }

    pub(super) fn value(&self) -> DataValue<'a> {
        self.value
    }

    /// The members, in the order of their names, each name once.
    pub(crate) fn members(&self) -> &'a [(&'a str, DataValue<'a>)] {
        match self.value {
            DataValue::Object(members) => members,
            _ => &[],
        }
    }

    /// The member of this very name; dots in it mean nothing.
    pub(crate) fn get(&self, name: &str) -> Option<&'a DataValue<'a>> {
        let members = self.members();
        let place = members.binary_search_by(|(member, _)| (*member).cmp(name));
        place
            .ok()
            .and_then(|place| members.get(place))
            .map(|(_, value)| value)
    }
}

/// Builds a value in the arena and counts how deep it is.
#[derive(Clone, Copy)]
struct Seed<'s, 'a> {
    arena: &'a Bump,
    depth: usize,
    too_deep: &'s Cell<bool>,
}

impl Seed<'_, '_> {
    fn inner(self) -> Self {
        Seed {
            depth: self.depth + 1,
            ..self
        }
    }
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for Seed<'_, 'a> {
    type Value = DataValue<'a>;

    fn deserialize<D: serde::Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        if self.depth > DATA_DEPTH_MAX {
            self.too_deep.set(true);
            source.deserialize_ignored_any(IgnoredAny)?;
            return Ok(DataValue::Null);
        }
        source.deserialize_any(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Seed<'_, 'a> {
    type Value = DataValue<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(DataValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(DataValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(DataValue::from_i64(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => DataValue::from_i64(value),
            Err(_) => float(value as f64),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(DataValue::String(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(DataValue::String(self.arena.alloc_str(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let mut items = ArenaVec::new_in(self.arena);
        while let Some(item) = source.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(DataValue::Array(items.into_bump_slice()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let mut members = ArenaVec::with_capacity_in(8, self.arena);
        while let Some(name) = source.next_key_seed(Name(self.arena))? {
            members.push((name, source.next_value_seed(self.inner())?));
        }
        let members = in_order(members.into_bump_slice_mut(), self.arena);
        Ok(DataValue::Object(members))
    }
}

/// A member's name.
struct Name<'a>(&'a Bump);

impl<'de: 'a, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = &'a str;

    fn deserialize<D: serde::Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Name<'a> {
    type Value = &'a str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(name)
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.alloc_str(name))
    }
}

type Member<'a> = (&'a str, DataValue<'a>);

/// Orders members by name and keeps the last of each name.
fn in_order<'a>(members: &'a mut [Member<'a>], arena: &'a Bump) -> &'a [Member<'a>] {
    let rises = |(left, right): (&Member<'a>, &Member<'a>)| left.0 < right.0;
    if members.iter().zip(members.iter().skip(1)).all(rises) {
        return members;
    }
    let as_written = arena.alloc_slice_copy(members);
    members.sort_unstable_by_key(|(name, _)| *name);
    let is_repeated = |(left, right): (&Member<'a>, &Member<'a>)| left.0 == right.0;
    if !members.iter().zip(members.iter().skip(1)).any(is_repeated) {
        return members;
    }
    // Only here does it matter which came first, and a stable sort may allocate.
    members.copy_from_slice(as_written);
    members.sort_by_key(|(name, _)| *name);
    let mut kept = ArenaVec::with_capacity_in(members.len(), arena);
    let runs = members.chunk_by(|left, right| left.0 == right.0);
    kept.extend(runs.filter_map(<[Member<'a>]>::last).copied());
    kept.into_bump_slice()
}

/// Kept as it is: the library's own constructor would make an integer of a whole number.
fn float<'a>(value: f64) -> DataValue<'a> {
    DataValue::Number(NumberValue::Float(value))
}

/// Borrows texts and names from `value`; only the structure is built anew.
pub(super) fn to_arena<'a>(
    value: &'a Value,
    arena: &'a Bump,
    depth: usize,
    too_deep: &mut bool,
) -> DataValue<'a> {
    if depth > DATA_DEPTH_MAX {
        *too_deep = true;
        return DataValue::Null;
    }
    match value {
        Value::Null => DataValue::Null,
        Value::Bool(value) => DataValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => DataValue::from_i64(integer),
            None => float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => DataValue::String(text),
        Value::Array(items) => {
            let mut built = ArenaVec::with_capacity_in(items.len(), arena);
            for item in items {
                built.push(to_arena(item, arena, depth + 1, too_deep));
            }
            DataValue::Array(built.into_bump_slice())
        }
        // The map has its members in order.
        Value::Object(members) => {
            let mut built = ArenaVec::with_capacity_in(members.len(), arena);
            for (name, member) in members {
                let member = to_arena(member, arena, depth + 1, too_deep);
                built.push((name.as_str(), member));
            }
            DataValue::Object(built.into_bump_slice())
        }
    }
}
