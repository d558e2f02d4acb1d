//! The worlds' conditions as plain tests of fixed attributes, for the sides that do not read
//! JsonLogic.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::report::Outcome;
use crate::world::{self, ATTRIBUTES, Kind};

/// Every attribute's value as a number: a flag as 0 or 1, the text `v7` as 7.
pub type Record = [u32; ATTRIBUTES];

/// A test of one attribute, or of two; an attribute is its place in the record.
#[derive(Debug, Clone)]
pub enum Test {
    Is(usize, u32),
    IsNot(usize, u32),
    OneOf(usize, Vec<u32>),
    AtLeast(usize, u32),
    Below(usize, u32),
    /// From the first to the second, both included.
    Within(usize, u32, u32),
    /// The first is below the second.
    Less(usize, usize),
    /// The sum, divided by the first number, leaves the second.
    SumLeaves(usize, usize, u32, u32),
}

/// A test as machine code.
pub type Closure = Box<dyn Fn(&Record) -> bool>;

static PLACES: LazyLock<HashMap<String, usize>> = LazyLock::new(|| {
    let path = |place| (world::attribute(place).0, place);
    (0..ATTRIBUTES).map(path).collect()
});

/// The record of a person and an event.
pub fn record(traits: &Value, properties: &Value) -> Outcome<Record> {
    let mut record = [0; ATTRIBUTES];
    for (place, value) in record.iter_mut().enumerate() {
        let (path, _) = world::attribute(place);
        let name = path.rsplit('.').next().unwrap_or_default();
        let found = traits.get(name).or_else(|| properties.get(name));
        *value = number(found.ok_or("an attribute is missing")?)?;
    }
    Ok(record)
}

/// The tests of a condition, all of which must hold.
pub fn tests(condition: &Value) -> Outcome<Vec<Test>> {
    let parts = condition.get("and").and_then(Value::as_array);
    parts
        .ok_or("a condition is an `and`")?
        .iter()
        .map(|part| test(part).ok_or_else(|| format!("unknown test {part}").into()))
        .collect()
}

fn test(part: &Value) -> Option<Test> {
    let (operator, arguments) = single(part)?;
    let arguments = arguments.as_array()?.as_slice();
    let test = match (operator, arguments) {
        ("==", [sum, rest]) if sum.get("%").is_some() => {
            let [sum, divisor] = sum.get("%")?.as_array()?.as_slice() else {
                return None;
            };
            let [left, right] = sum.get("+")?.as_array()?.as_slice() else {
                return None;
            };
            let (divisor, rest) = (number(divisor).ok()?, number(rest).ok()?);
            Test::SumLeaves(place(left)?, place(right)?, divisor, rest)
        }
        ("<", [left, right]) if place(right).is_some() => Test::Less(place(left)?, place(right)?),
        ("==", [var, value]) => Test::Is(place(var)?, number(value).ok()?),
        ("!=", [var, value]) => Test::IsNot(place(var)?, number(value).ok()?),
        (">=", [var, value]) => Test::AtLeast(place(var)?, number(value).ok()?),
        ("<", [var, value]) => Test::Below(place(var)?, number(value).ok()?),
        ("<=", [low, var, high]) => {
            Test::Within(place(var)?, number(low).ok()?, number(high).ok()?)
        }
        ("in", [var, list]) => {
            let listed: Outcome<Vec<u32>> = list.as_array()?.iter().map(number).collect();
            Test::OneOf(place(var)?, listed.ok()?)
        }
        _ => return None,
    };
    Some(test)
}

fn single(value: &Value) -> Option<(&str, &Value)> {
    let object: &Map<String, Value> = value.as_object()?;
    object.iter().next().map(|(key, value)| (&**key, value))
}

fn place(var: &Value) -> Option<usize> {
    PLACES.get(var.get("var")?.as_str()?).copied()
}

fn number(value: &Value) -> Outcome<u32> {
    match value {
        Value::Bool(flag) => Ok(u32::from(*flag)),
        Value::String(text) => Ok(text.strip_prefix('v').ok_or("not of this world")?.parse()?),
        value => Ok(u32::try_from(value.as_u64().ok_or("not of this world")?)?),
    }
}

impl Test {
    /// The test as machine code.
    pub fn closure(&self) -> Closure {
        match self.clone() {
            Self::Is(at, value) => Box::new(move |record| record[at] == value),
            Self::IsNot(at, value) => Box::new(move |record| record[at] != value),
            Self::OneOf(at, listed) => {
                let listed = listed.into_boxed_slice();
                Box::new(move |record| listed.contains(&record[at]))
            }
            Self::AtLeast(at, low) => Box::new(move |record| record[at] >= low),
            Self::Below(at, high) => Box::new(move |record| record[at] < high),
            Self::Within(at, low, high) => {
                Box::new(move |record| (low..=high).contains(&record[at]))
            }
            Self::Less(left, right) => Box::new(move |record| record[left] < record[right]),
            Self::SumLeaves(left, right, divisor, rest) => {
                Box::new(move |record| (record[left] + record[right]) % divisor == rest)
            }
        }
    }

    /// The attribute that is tested, if it is only one, and the values at which the answer changes.
    pub fn single(&self) -> Option<(usize, Vec<u32>)> {
        Some(match self {
            Self::Is(at, value) | Self::IsNot(at, value) => (*at, vec![*value, value + 1]),
            Self::OneOf(at, listed) => {
                let changes = listed.iter().flat_map(|value| [*value, value + 1]);
                (*at, changes.collect())
            }
            Self::AtLeast(at, value) | Self::Below(at, value) => (*at, vec![*value]),
            Self::Within(at, low, high) => (*at, vec![*low, high + 1]),
            Self::Less(..) | Self::SumLeaves(..) => return None,
        })
    }

    /// The test in the language of `a-tree`, if that has it.
    fn expression(&self) -> Option<String> {
        Some(match self {
            Self::Is(at, value) => match world::attribute(*at).1.kind {
                Kind::Flag if *value == 0 => format!("not {}", name(*at)),
                Kind::Flag => name(*at),
                Kind::Text => format!("{} = \"v{value}\"", name(*at)),
                Kind::Number => format!("{} = {value}", name(*at)),
            },
            Self::IsNot(at, value) => format!("{} <> \"v{value}\"", name(*at)),
            Self::OneOf(at, listed) => {
                let mut text = format!("{} in [", name(*at));
                for (position, value) in listed.iter().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    // Writing to a String does not fail.
                    let _ = write!(text, "{comma}\"v{value}\"");
                }
                text + "]"
            }
            Self::AtLeast(at, low) => format!("{} >= {low}", name(*at)),
            Self::Below(at, high) => format!("{} < {high}", name(*at)),
            Self::Within(at, low, high) => {
                format!("{0} >= {low} and {0} <= {high}", name(*at))
            }
            Self::Less(..) | Self::SumLeaves(..) => return None,
        })
    }
}

/// The attribute's last name, which is its own.
pub fn name(place: usize) -> String {
    let (path, _) = world::attribute(place);
    path.rsplit('.').next().unwrap_or_default().to_owned()
}

/// All tests as one expression of `a-tree`, if it has all of them.
pub fn expression(tests: &[Test]) -> Option<String> {
    let parts: Option<Vec<String>> = tests.iter().map(Test::expression).collect();
    parts.map(|parts| parts.join(" and "))
}
