//! What values of facts are converted to, kept while a decision lasts.
//!
//! Thousands of campaigns may ask the same of one text: whether a word is in it in whatever case,
//! what number it is. For a short text it is cheapest to convert it again. A long one takes as long
//! as it is, and who sends events decides how long that is, so it is converted once.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use datalogic_rs::DataValue;
use foldhash::fast::RandomState;

use super::js_value::{to_number, to_text};
use super::moment;

/// Texts of more bytes are converted once.
const SHORT_MAX: usize = 128;

/// What is known of the values of one decision. Values are told apart by where they are, so all that
/// is asked about must stay in its place for as long as this does.
#[derive(Default)]
pub(crate) struct Conversions {
    known: RefCell<HashMap<(usize, usize), Rc<Converted>, RandomState>>,
    #[cfg(test)]
    made: std::cell::Cell<usize>,
}

#[derive(Default)]
struct Converted {
    lower: OnceCell<Box<str>>,
    number: OnceCell<Option<f64>>,
    finite: OnceCell<Option<f64>>,
    micros: OnceCell<Option<i64>>,
    js_text: OnceCell<Box<str>>,
    js_number: OnceCell<f64>,
}

impl Conversions {
    /// The text in lower case.
    pub(super) fn lower<T>(&self, text: &str, read: impl FnOnce(&str) -> T) -> T {
        let convert = || self.make(|| text.to_lowercase());
        match self.long(text) {
            None => read(&convert()),
            Some(known) => read(known.lower.get_or_init(|| convert().into())),
        }
    }

    /// The number that the text is.
    pub(super) fn number(&self, text: &str) -> Option<f64> {
        let convert = || self.make(|| text.parse().ok());
        match self.long(text) {
            None => convert(),
            Some(known) => *known.number.get_or_init(convert),
        }
    }

    /// The finite number that the text is but for white space around it.
    pub(super) fn finite(&self, text: &str) -> Option<f64> {
        let convert = || self.make(|| text.trim().parse().ok().filter(|it: &f64| it.is_finite()));
        match self.long(text) {
            None => convert(),
            Some(known) => *known.finite.get_or_init(convert),
        }
    }

    /// The time that the text is, in microseconds.
    pub(super) fn micros(&self, text: &str) -> Option<i64> {
        let convert = || self.make(|| moment::text_micros(text));
        match self.long(text) {
            None => convert(),
            Some(known) => *known.micros.get_or_init(convert),
        }
    }

    /// JavaScript's `String(value)`.
    pub(super) fn js_text<T>(&self, value: &DataValue<'_>, read: impl FnOnce(&str) -> T) -> T {
        match value {
            DataValue::Array(items) if !items.is_empty() => {
                let known = self.at(items.as_ptr().addr(), items.len());
                let convert = || self.make(|| to_text(Some(value)).into());
                read(known.js_text.get_or_init(convert))
            }
            _ => read(&to_text(Some(value))),
        }
    }

    /// JavaScript's `Number(value)`.
    pub(super) fn js_number(&self, value: &DataValue<'_>) -> f64 {
        let known = match value {
            DataValue::String(text) => self.long(text),
            DataValue::Array(items) if !items.is_empty() => {
                Some(self.at(items.as_ptr().addr(), items.len()))
            }
            _ => None,
        };
        let convert = || self.make(|| to_number(Some(value)));
        match known {
            None => convert(),
            Some(known) => *known.js_number.get_or_init(convert),
        }
    }

    fn long(&self, text: &str) -> Option<Rc<Converted>> {
        (text.len() > SHORT_MAX).then(|| self.at(text.as_ptr().addr(), text.len()))
    }

    fn at(&self, address: usize, length: usize) -> Rc<Converted> {
        Rc::clone(
            self.known
                .borrow_mut()
                .entry((address, length))
                .or_default(),
        )
    }

    fn make<T>(&self, convert: impl FnOnce() -> T) -> T {
        #[cfg(test)]
        self.made.set(self.made.get() + 1);
        convert()
    }

    /// How many conversions there were.
    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made.get()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;
    use crate::rules::native::{Outcomes, View};
    use crate::rules::{Condition, EventFacts, Facts, FactsArena, Limits, Object, UserFacts};

    #[test]
    fn a_long_value_is_converted_once_for_all_who_ask() {
        let arena = FactsArena::new();
        let properties = json!({
            "url": "É".repeat(1_000), "price": "1".repeat(300), "short": "12",
        });
        let time = chrono::DateTime::UNIX_EPOCH;
        let view = View::new(
            Facts {
                user: UserFacts {
                    id: "u",
                    traits: Object::EMPTY,
                    created_at: time,
                    last_seen_at: time,
                },
                event: Some(EventFacts {
                    name: "e",
                    properties: arena.from_value(&properties),
                    context: Object::EMPTY,
                    timestamp: time,
                }),
                now: time,
                segments: &|_| false,
            },
            &arena,
        );
        let var = |name: &str| json!({"var": format!("event.properties.{name}")});
        let ask = |rule: serde_json::Value| {
            let condition = Condition::parse(&rule, &Limits::default()).unwrap();
            condition.node().outcomes(&view)
        };
        for n in 0..100 {
            let part = format!("É{}", "é".repeat(n));
            assert_eq!(ask(json!({"icontains": [var("url"), part]})), Outcomes::YES);
            assert_eq!(ask(json!({">": [var("price"), n]})), Outcomes::YES);
            assert_eq!(ask(json!({"==": [var("price"), n]})), Outcomes::NO);
            assert_eq!(
                ask(json!({"between": [var("price"), n, 1e301]})),
                Outcomes::YES
            );
        }
        assert_eq!(view.conversions().made(), 3);
        ask(json!({">": [var("short"), 1]}));
        ask(json!({">": [var("short"), 2]}));
        assert_eq!(view.conversions().made(), 5);
    }

    #[test]
    fn the_same_is_found_as_without() {
        let conversions = Conversions::default();
        let list = [DataValue::from_i64(7)];
        let list = DataValue::Array(&list);
        for _ in 0..2 {
            assert_eq!(conversions.js_number(&list), 7.0);
            assert!(conversions.js_text(&list, |text| text == "7"));
            assert!(conversions.js_number(&DataValue::String("x")).is_nan());
        }
        let long = format!(" {}", "1".repeat(200));
        for _ in 0..2 {
            assert_eq!(conversions.number(&long), None);
            assert!(conversions.finite(&long).is_some());
        }
    }
}
