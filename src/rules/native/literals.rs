//! Whether one attribute can have a value on which several tests come out as wanted.
//!
//! Kinds of values are looked at one after the other. Numbers are sets of ranges. Of texts either a
//! list is known, because a test names the only ones it can hold for, and these are tried one by
//! one; or there are endlessly many, and then the claims are compared in three ways in which texts
//! can be seen: as numbers, as times, and in their order.

use datalogic_rs::DataValue;

use super::by_kind::{NumbersOf, TextsOf, numbers_of, texts_of};
use super::{Attribute, Class, Literal, Missing, Order, Outcomes, Ranges, Source, Test};
use crate::rules::js_value::Kind;

/// A test, and how it is to come out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'n> {
    pub(super) attribute: &'n Attribute,
    pub(super) missing: Missing<'n>,
    pub(super) test: &'n Test,
    /// Exactly one of yes, no and failure.
    pub(super) wanted: Outcomes,
}

/// About how long [`possible`] takes.
pub(super) fn work(claims: &[&Claim<'_>]) -> usize {
    let sizes = claims.iter().map(|claim| match claim.test {
        Test::In(list) => 1 + list.len(),
        Test::InTexts(list) => 1 + list.iter().count(),
        _ => 1,
    });
    let whole: usize = sizes.sum();
    // Each listed text is tried on each test.
    whole + whole * whole / 64
}

/// Whether there may be a value for which all claims about one attribute come true.
pub(super) fn possible(claims: &[&Claim<'_>], event_name: Option<&str>) -> bool {
    let Some(first) = claims.first() else {
        return true;
    };
    let contradicts = |claim: &&&Claim<'_>| {
        let twin = |other: &&Claim<'_>| {
            other.wanted != claim.wanted
                && other.test == claim.test
                && other.missing == claim.missing
        };
        claims.iter().any(twin)
    };
    if claims.iter().find(contradicts).is_some() {
        return false;
    }
    match (first.attribute.source, event_name) {
        (Source::EventName, Some(name)) => return text_possible(claims, name),
        // These are always there, as texts.
        (
            Source::UserId
            | Source::CreatedAt
            | Source::LastSeenAt
            | Source::EventName
            | Source::Timestamp
            | Source::Now,
            _,
        ) => return texts_possible(claims),
        (Source::Traits | Source::Properties | Source::Context, _) => {}
    }
    Class::ALL
        .iter()
        .any(|class| class_possible(claims, *class) && written_alike(claims, *class))
        || (numbers_possible(claims) && times_possible(claims))
        || texts_possible(claims)
}

fn class_possible(claims: &[&Claim<'_>], class: Class) -> bool {
    claims.iter().all(|claim| {
        let outcomes = match class {
            Class::Missing => match claim.missing {
                Missing::No => Outcomes::NO,
                Missing::Value(literal) => outcomes(claim.test, &literal.value()),
            },
            Class::Null => outcomes(claim.test, &DataValue::Null),
            Class::False => outcomes(claim.test, &DataValue::Bool(false)),
            Class::True => outcomes(claim.test, &DataValue::Bool(true)),
            Class::Collection if claim.test.looks_into_collections() => Outcomes::ASK,
            Class::Collection => outcomes(claim.test, &DataValue::Array(&[])),
        };
        outcomes.meets(claim.wanted)
    })
}

/// Whether a list or an object could be written as every text that it is to equal.
fn written_alike(claims: &[&Claim<'_>], class: Class) -> bool {
    let mut texts = claims
        .iter()
        .filter_map(|claim| match (claim.test, claim.wanted) {
            (Test::SeedEqual(constant), Outcomes::YES) if constant.kind == Kind::Text => {
                Some(&constant.text)
            }
            _ => None,
        });
    let first = texts.next();
    class != Class::Collection || texts.all(|text| Some(text) == first)
}

/// The answers of a test for a value, whatever the time.
fn outcomes(test: &Test, value: &DataValue<'_>) -> Outcomes {
    let now = test.outcome(value, 0);
    if test.depends_on_time() && !value.is_null() && now != Outcomes::FAILS {
        return Outcomes::YES_OR_NO;
    }
    now
}

fn numbers_possible(claims: &[&Claim<'_>]) -> bool {
    let mut left = Ranges::all();
    for claim in claims {
        let allowed = match (numbers_of(claim.test), claim.wanted) {
            (NumbersOf::Yes(yes), Outcomes::YES) => yes,
            (NumbersOf::Yes(yes), Outcomes::NO) => complement(&yes),
            (NumbersOf::Fails, Outcomes::FAILS) => continue,
            (NumbersOf::Open, wanted) if wanted != Outcomes::FAILS => continue,
            _ => return false,
        };
        left = left.combine(&allowed, |left, right| left && right);
    }
    !left.cuts().is_empty()
}

fn complement(ranges: &Ranges) -> Ranges {
    ranges.combine(ranges, |is_in, _| !is_in)
}

fn text_possible(claims: &[&Claim<'_>], text: &str) -> bool {
    let value = DataValue::String(text);
    claims
        .iter()
        .all(|claim| outcomes(claim.test, &value).meets(claim.wanted))
}

fn texts_possible(claims: &[&Claim<'_>]) -> bool {
    let listed = claims
        .iter()
        .filter_map(|claim| match texts_of(claim.test) {
            // It is all but finitely many if the answer is yes to the others.
            TextsOf::Yes(texts) if texts.others == (claim.wanted == Outcomes::NO) => {
                Some(texts.listed)
            }
            _ => None,
        });
    match listed.min_by_key(|listed| listed.len()) {
        Some(listed) => listed.into_iter().any(|text| text_possible(claims, text)),
        None => endless_texts_possible(claims),
    }
}

/// Where no claim leaves only a list of texts.
fn endless_texts_possible(claims: &[&Claim<'_>]) -> bool {
    let mut numbers = Ranges::all();
    // Whether the text may also be one that is no number, or the one that is read as NaN.
    let mut others = true;
    let mut order = Between::<Vec<u8>>::default();
    let is_trimmed = claims
        .iter()
        .any(|claim| matches!(claim.test, Test::Between(_)));
    for Claim { test, wanted, .. } in claims {
        if !on_texts(test).meets(*wanted) {
            return false;
        }
        let says_yes = *wanted == Outcomes::YES;
        // What is a number only once it is trimmed is none for a comparison by order, and that may
        // be the reason for its no.
        let is_no_to_words = !says_yes
            && is_trimmed
            && matches!(test, Test::Ordered(_, Literal::Null | Literal::Bool(_)));
        if let (Some(yes), true) = (
            as_number(test),
            *wanted != Outcomes::FAILS && !is_no_to_words,
        ) {
            let allowed = if says_yes { yes } else { complement(&yes) };
            numbers = numbers.combine(&allowed, |left, right| left && right);
            others &= !says_yes;
        }
        match test {
            _ if *wanted == Outcomes::FAILS => {}
            Test::Ordered(comparison, Literal::Text(bound)) => {
                order.narrow(turned(*comparison, says_yes), bound.as_bytes().to_vec());
            }
            Test::Between(bounds) if says_yes => {
                if let (Literal::Text(low), Literal::Text(high)) = &**bounds {
                    order.narrow(Order::GreaterOrEqual, low.as_bytes().to_vec());
                    order.narrow(Order::LessOrEqual, high.as_bytes().to_vec());
                }
            }
            Test::StartsWith(start) if says_yes => {
                order.narrow(Order::GreaterOrEqual, start.as_bytes().to_vec());
                if let Some((last, rest)) = start.as_bytes().split_last() {
                    // No byte of a text is the greatest one, so this does not overflow.
                    let mut end = rest.to_vec();
                    end.push(last.saturating_add(1));
                    order.narrow(Order::Less, end);
                }
            }
            _ => {}
        }
    }
    (others || !numbers.cuts().is_empty())
        && !order.is_empty()
        && readings_possible(claims)
        && times_possible(claims)
}

/// Whether a text can be a number for some tests and none for those that fail on it. Tests that
/// trim it first are left aside.
fn readings_possible(claims: &[&Claim<'_>]) -> bool {
    let has = |reads: &dyn Fn(&Claim<'_>) -> bool| claims.iter().any(|claim| reads(claim));
    let is_read = has(&|claim| match claim.test {
        Test::Ordered(_, Literal::Number(_)) => claim.wanted != Outcomes::FAILS,
        Test::Ordered(_, Literal::Null | Literal::Bool(_)) => claim.wanted == Outcomes::YES,
        Test::Loose(Literal::Number(_)) => claim.wanted != Outcomes::FAILS,
        _ => false,
    });
    let fails = |claim: &Claim<'_>| claim.wanted == Outcomes::FAILS;
    let is_no_number =
        has(&|claim| fails(claim) && matches!(claim.test, Test::Ordered(_, Literal::Number(_))));
    let is_no_text_of_one =
        has(&|claim| fails(claim) && matches!(claim.test, Test::Loose(Literal::Number(_))));
    // The one text that comparisons by order take for a number and those by value do not.
    let is_empty_text = || text_possible(claims, "");
    !(is_read && (is_no_number || is_no_text_of_one)) || is_empty_text()
}

/// Whether there is a time for which all claims about times come true.
fn times_possible(claims: &[&Claim<'_>]) -> bool {
    let mut times = Between::<i64>::default();
    for Claim { test, wanted, .. } in claims {
        if let (Test::Moment(order, bound), true) = (test, *wanted != Outcomes::FAILS) {
            times.narrow(turned(*order, *wanted == Outcomes::YES), *bound);
        }
    }
    !times.is_empty()
}

/// The order that is left when the answer is to be no.
fn turned(order: Order, says_yes: bool) -> Order {
    match order {
        _ if says_yes => order,
        Order::Greater => Order::LessOrEqual,
        Order::GreaterOrEqual => Order::Less,
        Order::Less => Order::GreaterOrEqual,
        Order::LessOrEqual => Order::Greater,
    }
}

/// The numbers for which a test says yes, if it reads texts as numbers. The tests read them in
/// different ways, but two that read a number read the same one.
fn as_number(test: &Test) -> Option<Ranges> {
    match test {
        Test::Loose(Literal::Number(_)) | Test::Ordered(..) | Test::Between(_) => {
            match (texts_of(test), numbers_of(test)) {
                (TextsOf::Numeric { .. }, NumbersOf::Yes(yes)) => Some(yes),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The answers of a test for some text or other.
fn on_texts(test: &Test) -> Outcomes {
    let is_text = |literal: &Literal| matches!(literal, Literal::Text(_));
    match test {
        Test::Exists => Outcomes::YES,
        Test::Strict(literal) if !is_text(literal) => Outcomes::NO,
        Test::In(list) if !list.iter().any(is_text) => Outcomes::NO,
        Test::Contains(literal) if !is_text(literal) => Outcomes::NO,
        Test::Between(bounds) => match &**bounds {
            (Literal::Null, _) | (_, Literal::Null) => Outcomes::NO,
            (Literal::Text(_), Literal::Text(_)) => Outcomes::YES_OR_NO,
            _ => Outcomes::ASK,
        },
        Test::Loose(Literal::Number(_))
        | Test::Ordered(_, Literal::Number(_))
        | Test::Moment(..)
        | Test::WithinLast(_)
        | Test::Semver(..) => Outcomes::ASK,
        _ => Outcomes::YES_OR_NO,
    }
}

/// What lies between two bounds, if there are such.
#[derive(Debug)]
struct Between<T> {
    /// The greatest bound from below, and whether it is itself allowed.
    low: Option<(T, bool)>,
    /// The least bound from above.
    high: Option<(T, bool)>,
}

impl<T> Default for Between<T> {
    fn default() -> Self {
        Between {
            low: None,
            high: None,
        }
    }
}

impl<T: Ord> Between<T> {
    fn narrow(&mut self, order: Order, bound: T) {
        let included = matches!(order, Order::GreaterOrEqual | Order::LessOrEqual);
        let side = match order {
            Order::Greater | Order::GreaterOrEqual => &mut self.low,
            Order::Less | Order::LessOrEqual => &mut self.high,
        };
        let is_tighter = match (&*side, order) {
            (None, _) => true,
            (Some((held, held_included)), Order::Greater | Order::GreaterOrEqual) => {
                (&bound, !included) > (held, !held_included)
            }
            (Some((held, held_included)), _) => (&bound, included) < (held, *held_included),
        };
        if is_tighter {
            *side = Some((bound, included));
        }
    }

    fn is_empty(&self) -> bool {
        match (&self.low, &self.high) {
            (Some((low, with_low)), Some((high, with_high))) => {
                low > high || (low == high && !(*with_low && *with_high))
            }
            _ => false,
        }
    }
}
