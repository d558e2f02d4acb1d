//! What one test says of all numbers, and of all texts.

use smallvec::{SmallVec, smallvec};

use super::domain::Texts;
use super::ranges::Ranges;
use super::test::between_number;
use super::{Literal, Test};
use crate::rules::js_value::Kind;

/// What a test says of numbers.
pub(super) enum NumbersOf {
    /// Yes to these and no to the others.
    Yes(Ranges),
    /// It fails on every number.
    Fails,
    Open,
}

pub(super) fn numbers_of(test: &Test) -> NumbersOf {
    let no = || NumbersOf::Yes(Ranges::none());
    NumbersOf::Yes(match test {
        Test::Truthy => Ranges::only(0.0).combine(&Ranges::none(), |is_zero, _| !is_zero),
        Test::Exists => Ranges::all(),
        Test::Loose(literal) => match literal {
            Literal::Null => Ranges::only(0.0),
            Literal::Bool(value) => Ranges::only(f64::from(u8::from(*value))),
            Literal::Number(number) => Ranges::only(*number),
            Literal::Text(text) => match text.parse() {
                Ok(number) => Ranges::only(number),
                Err(_) => return NumbersOf::Fails,
            },
        },
        Test::Strict(literal) => strict_numbers(std::slice::from_ref(literal)),
        Test::In(list) => strict_numbers(list),
        Test::InTexts(_) => return no(),
        Test::Ordered(order, literal) => match literal.ordered_number() {
            Some(bound) => Ranges::ordered(*order, bound),
            None => return NumbersOf::Fails,
        },
        Test::Between(bounds) => match &**bounds {
            (Literal::Null, _) | (_, Literal::Null) => return no(),
            (low, high) => match (between_number(&low.value()), between_number(&high.value())) {
                (Some(low), Some(high)) => Ranges::between(low, high),
                _ => return NumbersOf::Fails,
            },
        },
        Test::PartOf(_) | Test::Contains(_) => return no(),
        Test::StartsWith(_) | Test::EndsWith(_) | Test::IContains(_) | Test::Semver(..) => {
            return NumbersOf::Fails;
        }
        Test::SeedEqual(constant) if constant.kind == Kind::Nothing => return no(),
        Test::SeedEqual(constant) => Ranges::only(constant.number),
        Test::SeedNotEqual(constant) if constant.kind == Kind::Nothing => Ranges::all(),
        Test::SeedNotEqual(constant) => {
            Ranges::only(constant.number).combine(&Ranges::none(), |is_equal, _| !is_equal)
        }
        Test::SeedOrdered(order, constant) if !constant.number.is_nan() => {
            Ranges::ordered(*order, constant.number)
        }
        Test::SeedOrdered(..) | Test::SeedContains(_) | Test::Moment(..) | Test::WithinLast(_) => {
            return NumbersOf::Open;
        }
    })
}

fn strict_numbers(list: &[Literal]) -> Ranges {
    let numbers = list.iter().filter_map(|literal| match literal {
        Literal::Number(number) => Some(*number),
        _ => None,
    });
    Ranges::of(numbers.collect())
}

/// What a test says of texts.
pub(super) enum TextsOf<'n> {
    /// Yes to these and no to the others.
    Yes(Texts<'n>),
    /// It depends on the number that the text can be read as.
    Numeric {
        /// Whether it fails on the others; otherwise it says no to them.
        words_fail: bool,
    },
    Open,
}

pub(super) fn texts_of(test: &Test) -> TextsOf<'_> {
    let only = |text| TextsOf::Yes(Texts::only(smallvec![text]));
    let no = || TextsOf::Yes(Texts::only(SmallVec::new()));
    let others_than = |text| {
        TextsOf::Yes(Texts {
            others: true,
            listed: smallvec![text],
        })
    };
    match test {
        Test::Truthy => others_than(""),
        Test::Exists => TextsOf::Yes(Texts::all()),
        Test::Loose(literal) => match literal {
            Literal::Null => only(""),
            Literal::Bool(true) => only("true"),
            Literal::Bool(false) => only("false"),
            Literal::Number(_) => TextsOf::Numeric { words_fail: true },
            Literal::Text(text) => only(text),
        },
        Test::Strict(literal) => TextsOf::Yes(strict_texts(std::slice::from_ref(literal))),
        Test::In(list) => TextsOf::Yes(strict_texts(list)),
        Test::InTexts(list) => TextsOf::Yes(Texts::only(list.iter().collect())),
        Test::Ordered(_, Literal::Text(_)) => TextsOf::Open,
        Test::Ordered(_, literal) => TextsOf::Numeric {
            words_fail: matches!(literal, Literal::Number(_)),
        },
        Test::Between(bounds) => match &**bounds {
            (Literal::Null, _) | (_, Literal::Null) => no(),
            (Literal::Text(_), Literal::Text(_)) => TextsOf::Open,
            _ => TextsOf::Numeric { words_fail: true },
        },
        Test::Contains(Literal::Text(_)) => TextsOf::Open,
        Test::Contains(_) => no(),
        Test::SeedEqual(constant) => match constant.kind {
            Kind::Nothing => no(),
            Kind::Text | Kind::Collection => only(&constant.text),
            Kind::Scalar => TextsOf::Open,
        },
        Test::SeedNotEqual(constant) => match constant.kind {
            Kind::Nothing => TextsOf::Yes(Texts::all()),
            Kind::Text | Kind::Collection => others_than(&constant.text),
            Kind::Scalar => TextsOf::Open,
        },
        Test::PartOf(_)
        | Test::StartsWith(_)
        | Test::EndsWith(_)
        | Test::IContains(_)
        | Test::Semver(..)
        | Test::Moment(..)
        | Test::WithinLast(_)
        | Test::SeedOrdered(..)
        | Test::SeedContains(_) => TextsOf::Open,
    }
}

fn strict_texts(list: &[Literal]) -> Texts<'_> {
    let texts = list.iter().filter_map(|literal| match literal {
        Literal::Text(text) => Some(&**text),
        _ => None,
    });
    Texts::only(texts.collect())
}
