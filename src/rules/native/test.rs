//! A test of one value against constants, with exactly the evaluator's conversions.

use datalogic_rs::DataValue;
use lean_string::LeanStr;
use semver::Version;

use super::{Missing, Outcomes, TextList};
use crate::rules::conversions::Conversions;
use crate::rules::expr::Operator;
use crate::rules::js_value::{Constant, compare_code_units};
use crate::rules::moment;

/// A constant that is neither a list nor an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Number(f64),
    Text(LeanStr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What is asked of a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    /// `!!`.
    Truthy,
    /// Not null.
    Exists,
    /// `==`.
    Loose(Literal),
    /// `===`.
    Strict(Literal),
    /// `in` a list of constants.
    In(Box<[Literal]>),
    /// The same, where all of them are texts.
    InTexts(TextList),
    /// `>` and its like, the value on the left.
    Ordered(Order, Literal),
    /// `in` a constant text.
    PartOf(LeanStr),
    /// `in` with the value on the right.
    Contains(Literal),
    StartsWith(LeanStr),
    EndsWith(LeanStr),
    /// The text in lower case.
    IContains(LeanStr),
    /// With the bounds.
    Between(Box<(Literal, Literal)>),
    /// `before` or `after` a moment, in microseconds.
    Moment(Order, i64),
    /// `within_last` so many seconds.
    WithinLast(i64),
    Semver(Operator, Box<Version>),
    /// The seed's `==`.
    SeedEqual(Box<Constant>),
    /// The seed's `!=`.
    SeedNotEqual(Box<Constant>),
    /// The seed's `>` and its like.
    SeedOrdered(Order, Box<Constant>),
    /// The seed's `contains`.
    SeedContains(LeanStr),
}

impl Order {
    /// The order seen from the other side.
    pub(super) fn flipped(self) -> Order {
        match self {
            Order::Greater => Order::Less,
            Order::GreaterOrEqual => Order::LessOrEqual,
            Order::Less => Order::Greater,
            Order::LessOrEqual => Order::GreaterOrEqual,
        }
    }

    pub(super) fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Order::Greater => left > right,
            Order::GreaterOrEqual => left >= right,
            Order::Less => left < right,
            Order::LessOrEqual => left <= right,
        }
    }

    pub(super) fn allows(self, order: std::cmp::Ordering) -> bool {
        match self {
            Order::Greater => order.is_gt(),
            Order::GreaterOrEqual => order.is_ge(),
            Order::Less => order.is_lt(),
            Order::LessOrEqual => order.is_le(),
        }
    }
}

impl Literal {
    /// The constant as a value.
    pub(super) fn value(&self) -> DataValue<'_> {
        match self {
            Literal::Null => DataValue::Null,
            Literal::Bool(value) => DataValue::Bool(*value),
            Literal::Number(number) => DataValue::from_f64(*number),
            Literal::Text(text) => DataValue::String(text),
        }
    }

    /// The constant as comparisons by order convert it.
    pub(super) fn ordered_number(&self) -> Option<f64> {
        coerce(&self.value(), &Conversions::default())
    }
}

impl Test {
    /// The answer for a value that is there, null included. `now` is the decision's time in
    /// microseconds.
    pub(crate) fn outcome(&self, value: &DataValue<'_>, now: i64) -> Outcomes {
        self.outcome_with(value, now, &Conversions::default())
    }

    /// The same, where the value may have been converted before.
    pub(super) fn outcome_with(
        &self,
        value: &DataValue<'_>,
        now: i64,
        conversions: &Conversions,
    ) -> Outcomes {
        let certain = Outcomes::certain;
        match self {
            Test::Truthy => certain(truthy(value)),
            Test::Exists => certain(!value.is_null()),
            Test::Loose(literal) => loose(value, literal, conversions),
            Test::Strict(literal) => certain(strict(value, literal)),
            Test::In(list) => certain(list.iter().any(|literal| strict(value, literal))),
            Test::InTexts(list) => certain(
                value
                    .as_str()
                    .is_some_and(|value| list.iter().any(|text| text == value)),
            ),
            Test::Ordered(order, literal) => ordered(value, *order, literal, conversions),
            Test::PartOf(whole) => certain(value.as_str().is_some_and(|part| whole.contains(part))),
            Test::Contains(literal) => certain(match (value, literal) {
                (DataValue::String(whole), Literal::Text(part)) => whole.contains(&**part),
                (DataValue::Array(items), _) => items.iter().any(|item| strict(item, literal)),
                _ => false,
            }),
            Test::StartsWith(part) => text_test(value, |text| text.starts_with(&**part)),
            Test::EndsWith(part) => text_test(value, |text| text.ends_with(&**part)),
            Test::IContains(part) => text_test(value, |text| {
                conversions.lower(text, |lower| lower.contains(&**part))
            }),
            Test::Between(bounds) => between(value, &bounds.0, &bounds.1, conversions),
            Test::Moment(order, moment) => match micros_of(value, conversions) {
                _ if value.is_null() => Outcomes::NO,
                Some(micros) => certain(order.holds(&micros, moment)),
                None => Outcomes::FAILS,
            },
            Test::WithinLast(seconds) => match micros_of(value, conversions) {
                _ if value.is_null() => Outcomes::NO,
                Some(micros) => {
                    let window = seconds.saturating_mul(1_000_000);
                    certain(micros <= now && micros >= now.saturating_sub(window))
                }
                None => Outcomes::FAILS,
            },
            Test::Semver(operator, literal) => match value.as_str().and_then(moment::version) {
                _ if value.is_null() => Outcomes::NO,
                Some(version) => {
                    let order = version.cmp_precedence(literal);
                    certain(match operator {
                        Operator::SemverGt => order.is_gt(),
                        Operator::SemverGte => order.is_ge(),
                        Operator::SemverLt => order.is_lt(),
                        Operator::SemverLte => order.is_le(),
                        _ => order.is_eq(),
                    })
                }
                None => Outcomes::FAILS,
            },
            Test::SeedEqual(constant) => certain(constant.loosely_equals(value, conversions)),
            Test::SeedNotEqual(constant) => certain(!constant.loosely_equals(value, conversions)),
            Test::SeedOrdered(order, constant) => {
                certain(seed_ordered(value, *order, constant, conversions))
            }
            Test::SeedContains(part) => {
                certain(conversions.js_text(value, |text| text.contains(&**part)))
            }
        }
    }

    /// Whether lists and objects can be told apart by it; otherwise all get the same answer.
    pub(super) fn looks_into_collections(&self) -> bool {
        matches!(
            self,
            Test::Truthy
                | Test::Contains(_)
                | Test::SeedEqual(_)
                | Test::SeedNotEqual(_)
                | Test::SeedOrdered(..)
                | Test::SeedContains(_)
        )
    }

    /// What it sees where there is no value and the rule names no other.
    pub(super) fn missing(&self) -> Missing<'static> {
        match self {
            Test::SeedEqual(_)
            | Test::SeedNotEqual(_)
            | Test::SeedOrdered(..)
            | Test::SeedContains(_) => Missing::No,
            _ => Missing::Value(&Literal::Null),
        }
    }

    /// Whether the answer for a value depends on when it is asked.
    pub(super) fn depends_on_time(&self) -> bool {
        matches!(self, Test::WithinLast(_))
    }
}

pub(super) fn truthy(value: &DataValue<'_>) -> bool {
    match value {
        DataValue::Null => false,
        DataValue::Bool(value) => *value,
        DataValue::Number(number) => !number.is_zero() && !number.is_nan(),
        DataValue::String(text) => !text.is_empty(),
        DataValue::Array(items) => !items.is_empty(),
        DataValue::Object(members) => !members.is_empty(),
    }
}

fn bool_number(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn loose(value: &DataValue<'_>, literal: &Literal, conversions: &Conversions) -> Outcomes {
    let against = |number: f64, parsed: Option<f64>| match parsed {
        Some(parsed) => Outcomes::certain(number == parsed),
        None => Outcomes::FAILS,
    };
    Outcomes::certain(match (value, literal) {
        (DataValue::Array(_) | DataValue::Object(_), _) => return Outcomes::FAILS,
        (DataValue::Null, Literal::Null) => true,
        (DataValue::Null, Literal::Bool(value)) | (DataValue::Bool(value), Literal::Null) => !value,
        (DataValue::Null, Literal::Number(number)) => *number == 0.0,
        (DataValue::Null, Literal::Text(text)) => text.is_empty(),
        (DataValue::Bool(left), Literal::Bool(right)) => left == right,
        (DataValue::Bool(value), Literal::Number(number)) => bool_number(*value) == *number,
        (DataValue::Bool(value), Literal::Text(text)) => bool_text(*value) == &**text,
        (DataValue::Number(number), Literal::Null) => number.as_f64() == 0.0,
        (DataValue::Number(number), Literal::Bool(value)) => number.as_f64() == bool_number(*value),
        (DataValue::Number(left), Literal::Number(right)) => left.as_f64() == *right,
        (DataValue::Number(number), Literal::Text(text)) => {
            return against(number.as_f64(), text.parse().ok());
        }
        (DataValue::String(text), Literal::Null) => text.is_empty(),
        (DataValue::String(text), Literal::Bool(value)) => *text == bool_text(*value),
        (DataValue::String(text), Literal::Number(number)) => {
            return against(*number, conversions.number(text));
        }
        (DataValue::String(left), Literal::Text(right)) => *left == &**right,
    })
}

fn strict(value: &DataValue<'_>, literal: &Literal) -> bool {
    match (value, literal) {
        (DataValue::Null, Literal::Null) => true,
        (DataValue::Bool(left), Literal::Bool(right)) => left == right,
        (DataValue::Number(left), Literal::Number(right)) => left.as_f64() == *right,
        (DataValue::String(left), Literal::Text(right)) => *left == &**right,
        _ => false,
    }
}

/// A value as comparisons by order convert it.
fn coerce(value: &DataValue<'_>, conversions: &Conversions) -> Option<f64> {
    match value {
        DataValue::Null => Some(0.0),
        DataValue::Bool(value) => Some(bool_number(*value)),
        DataValue::Number(number) => Some(number.as_f64()),
        DataValue::String("") => Some(0.0),
        DataValue::String(text) => conversions.number(text),
        DataValue::Array(_) | DataValue::Object(_) => None,
    }
}

fn ordered(
    value: &DataValue<'_>,
    order: Order,
    literal: &Literal,
    conversions: &Conversions,
) -> Outcomes {
    match (value, literal) {
        (DataValue::Array(_) | DataValue::Object(_), _) => Outcomes::FAILS,
        (DataValue::String(left), Literal::Text(right)) => {
            Outcomes::certain(order.holds(left, &&**right))
        }
        _ => match (coerce(value, conversions), literal.ordered_number()) {
            (Some(left), Some(right)) => Outcomes::certain(order.holds(&left, &right)),
            _ => match (value, literal) {
                (DataValue::Number(_), Literal::Text(_))
                | (DataValue::String(_), Literal::Number(_)) => Outcomes::FAILS,
                _ => Outcomes::NO,
            },
        },
    }
}

fn text_test(value: &DataValue<'_>, test: impl FnOnce(&str) -> bool) -> Outcomes {
    match value {
        DataValue::Null => Outcomes::NO,
        DataValue::String(text) => Outcomes::certain(test(text)),
        _ => Outcomes::FAILS,
    }
}

fn between(
    value: &DataValue<'_>,
    low: &Literal,
    high: &Literal,
    conversions: &Conversions,
) -> Outcomes {
    if value.is_null() || *low == Literal::Null || *high == Literal::Null {
        return Outcomes::NO;
    }
    if let (DataValue::String(value), Literal::Text(low), Literal::Text(high)) = (value, low, high)
    {
        return Outcomes::certain(&**low <= *value && *value <= &**high);
    }
    let bounds = (between_number(&low.value()), between_number(&high.value()));
    let number = match value {
        DataValue::String(text) => conversions.finite(text),
        value => between_number(value),
    };
    match (number, bounds) {
        (Some(value), (Some(low), Some(high))) => Outcomes::certain(low <= value && value <= high),
        _ => Outcomes::FAILS,
    }
}

pub(super) fn between_number(value: &DataValue<'_>) -> Option<f64> {
    match value {
        DataValue::Number(number) => Some(number.as_f64()),
        DataValue::String(text) => text.trim().parse().ok().filter(|it: &f64| it.is_finite()),
        _ => None,
    }
}

fn micros_of(value: &DataValue<'_>, conversions: &Conversions) -> Option<i64> {
    match value {
        DataValue::String(text) => conversions.micros(text),
        value => micros(value),
    }
}

/// The time that a value is, in microseconds.
pub(crate) fn micros(value: &DataValue<'_>) -> Option<i64> {
    match value {
        DataValue::String(text) => moment::text_micros(text),
        DataValue::Number(number) => Some(moment::number_micros(number.as_f64())),
        _ => None,
    }
}

fn seed_ordered(
    value: &DataValue<'_>,
    order: Order,
    constant: &Constant,
    conversions: &Conversions,
) -> bool {
    let number = conversions.js_number(value);
    let ordering = match number.partial_cmp(&constant.number) {
        Some(ordering) => ordering,
        // One side has no number.
        None => conversions.js_text(value, |text| compare_code_units(text, &constant.text)),
    };
    order.allows(ordering)
}
