//! What an evaluation can take, by what it grows with.
//!
//! A node of a rule may look at all the text that there is. The body of an iteration does so for each
//! element, but these have the text between them; how many there are is bounded by the bytes that each
//! needs, and only for literals known before. Nothing here is a promise: what evaluations look at is
//! counted while they run ([`super::effort`]).

use std::iter::Sum;
use std::ops::Add;

use serde_json::Value;

use super::expr::{Expr, Operator, VarPath};
use super::limits::Limits;
use super::pattern;

/// Bytes of a person and an event that count as little text.
const LITTLE_TEXT: u64 = 256;
/// What it takes to begin an evaluation, in steps.
const EVALUATION_STEPS: u64 = 20;
/// How many steps a place of a pattern counts: every byte of a text may be looked at from each of
/// them, and that many bytes are a quarter of what little text is taken to be.
const PLACE_STEPS: u64 = 64;
/// Bytes that an element of an array is taken to have. It may have as few as two.
const ELEMENT_BYTES: u64 = 4;
/// Elements that need no text: the members of what rules see.
const OWN_ELEMENTS: u64 = 4;
/// The most elements of an array that is iterated over, as limits usually have it.
const ELEMENTS_MAX: u64 = 1_000;

/// The steps of evaluations. Too many to be counted are as many as can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// So many times as many as the text is long.
    on_text: u32,
    /// For each element of an array of the data.
    on_element: u32,
    /// For each element of all arrays in such elements.
    on_inner: u32,
}

impl Work {
    /// What an evaluation of the rule can take.
    pub(super) fn of(expr: &Expr, limits: &Limits) -> Work {
        let mut work = Work::on_text(EVALUATION_STEPS);
        let begin = Body {
            times: 1,
            runs: Runs::Once,
            sees: Sees::Data,
        };
        begin.add(expr, limits, &mut work);
        work
    }

    /// Steps of something that looks at the text.
    pub(crate) fn on_text(steps: u64) -> Work {
        Work {
            on_text: narrow(steps),
            ..Work::default()
        }
    }

    /// The steps on so many bytes of text.
    pub(crate) fn steps(self, bytes: u64) -> u64 {
        let elements = OWN_ELEMENTS + bytes / ELEMENT_BYTES;
        let on_text = u64::from(self.on_text).saturating_mul(1 + bytes / LITTLE_TEXT);
        let on_element = u64::from(self.on_element) * elements.min(ELEMENTS_MAX);
        let on_inner = u64::from(self.on_inner).saturating_mul(elements);
        on_text.saturating_add(on_element).saturating_add(on_inner)
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            on_text: self.on_text.saturating_add(other.on_text),
            on_element: self.on_element.saturating_add(other.on_element),
            on_inner: self.on_inner.saturating_add(other.on_inner),
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(all: I) -> Work {
        all.fold(Work::default(), Work::add)
    }
}

/// The rule, or a body in it.
#[derive(Clone, Copy)]
struct Body {
    times: u64,
    /// What it runs so many times for.
    runs: Runs,
    sees: Sees,
}

#[derive(Clone, Copy)]
enum Runs {
    Once,
    /// For each element of an array.
    Element,
    /// For each element of the arrays in these.
    Inner,
}

/// What `var` reads.
#[derive(Clone, Copy, PartialEq)]
enum Sees {
    /// All of the data.
    Data,
    /// An element of it. All elements together are no more than the data.
    Part,
    /// Something else: an element of the rule, or what was built.
    Other,
}

/// What is iterated over.
enum Array {
    /// So many elements, whatever the data.
    Long(u64),
    /// As many as an array of the data.
    OfData(Sees),
}

impl Body {
    fn add(self, expr: &Expr, limits: &Limits, work: &mut Work) {
        *work = *work + self.node(expr, limits);
        let is_iteration = matches!(expr, Expr::Call(operator, _) if operator.is_iteration());
        for (index, child) in expr.children().into_iter().enumerate() {
            let body = match is_iteration && index == 1 {
                true => self.inner(expr, limits),
                false => self,
            };
            body.add(child, limits, work);
        }
    }

    /// What a node takes.
    fn node(self, expr: &Expr, limits: &Limits) -> Work {
        // What the rule itself makes it look at each time.
        let own = 1 + match expr {
            _ if self.sees == Sees::Data => 0,
            Expr::Literal(Value::String(text)) => text.len() as u64 / LITTLE_TEXT,
            _ if self.sees == Sees::Other && expr.looks_through_data() => most(limits),
            _ => 0,
        };
        let pattern = match expr {
            Expr::Matches { pattern, .. } => {
                pattern::places_of(pattern).saturating_mul(PLACE_STEPS)
            }
            _ => 0,
        };
        let looks = self.times.saturating_mul(own.saturating_add(pattern));
        let (on_text, each) = match (self.runs, self.sees) {
            (Runs::Once, _) => return Work::on_text(looks),
            (_, Sees::Other) => (Work::default(), narrow(looks)),
            // The elements have the text between them.
            (_, Sees::Data | Sees::Part) => {
                let each = self.times.saturating_mul(own);
                (Work::on_text(looks), narrow(each))
            }
        };
        match self.runs {
            Runs::Inner => Work {
                on_inner: each,
                ..on_text
            },
            _ => Work {
                on_element: each,
                ..on_text
            },
        }
    }

    /// The body of this iteration.
    fn inner(self, iteration: &Expr, limits: &Limits) -> Body {
        let (array, is_reduce) = match iteration {
            Expr::Call(operator, args) => (args.first(), *operator == Operator::Reduce),
            _ => (None, false),
        };
        let most = most(limits);
        match array.map_or(Array::Long(most), |array| self.array(array, most)) {
            Array::Long(elements) => Body {
                times: self.times.saturating_mul(elements),
                sees: Sees::Other,
                ..self
            },
            Array::OfData(sees) => Body {
                runs: match self.runs {
                    Runs::Once => Runs::Element,
                    Runs::Element | Runs::Inner => Runs::Inner,
                },
                // What was accumulated is no part of the data.
                sees: if is_reduce { Sees::Other } else { sees },
                ..self
            },
        }
    }

    fn array(self, expr: &Expr, most: u64) -> Array {
        match expr {
            Expr::Literal(value) => Array::Long(length(value)),
            Expr::List(items) => Array::Long(items.len() as u64),
            Expr::Var { path, default } => {
                let is_dotted = !matches!(path, VarPath::Computed(_));
                let has_elements = default.as_deref().is_some_and(|default| match default {
                    Expr::Literal(value) => length(value) > 0,
                    Expr::List(items) => !items.is_empty(),
                    _ => true,
                });
                match is_dotted && !has_elements && self.sees != Sees::Other {
                    true => Array::OfData(Sees::Part),
                    false => Array::Long(most),
                }
            }
            Expr::Call(operator @ (Operator::Filter | Operator::Map), args) => {
                let array = args.first().map(|array| self.array(array, most));
                match array.unwrap_or(Array::Long(most)) {
                    Array::OfData(_) if *operator == Operator::Map => Array::OfData(Sees::Other),
                    array => array,
                }
            }
            _ => Array::Long(most),
        }
    }
}

/// The most elements of what is iterated over.
fn most(limits: &Limits) -> u64 {
    u64::try_from(limits.max_array_len).unwrap_or(u64::MAX)
}

/// How many elements there are to iterate over.
fn length(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.len() as u64,
        Value::Object(members) => members.len() as u64,
        _ => 0,
    }
}

fn narrow(steps: u64) -> u32 {
    u32::try_from(steps).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;
    use crate::rules::Condition;

    fn steps(rule: &Value, bytes: u64) -> u64 {
        let condition = Condition::parse(rule, &Limits::default());
        condition.unwrap().work().steps(bytes)
    }

    #[test]
    fn a_body_counts_for_as_many_elements_as_there_may_be() {
        let cart = json!({"var": "event.properties.products"});
        let shoes = json!({"==": [{"var": "category"}, "shoes"]});
        let some = json!({"some": [cart, shoes]});
        assert!(steps(&some, 0) < 50, "{}", steps(&some, 0));
        assert!(steps(&some, 2_000) < 2_000, "{}", steps(&some, 2_000));
        // An array that is too long is not gone through.
        let (large, larger) = (steps(&some, 100_000), steps(&some, 200_000));
        assert!(larger - large < 30 * 400, "{large} {larger}");
        // Elements are no more for being looked at in their turn, filtered or made into others.
        let names = |list: Value| json!({"some": [{"map": [list, {"var": "name"}]}, shoes]});
        for more in [
            json!({"some": [cart, {"some": [{"var": "tags"}, shoes]}]}),
            json!({"some": [{"filter": [cart, shoes]}, {"none": [{"var": "tags"}, shoes]}]}),
            json!({"some": [{"var": ["event.properties.products", []]}, shoes]}),
            names(cart.clone()),
        ] {
            let few = steps(&more, 2_000);
            assert!(few < 3 * steps(&some, 2_000), "{more}: {few}");
        }
    }

    #[test]
    fn what_is_no_part_of_the_data_counts_in_full() {
        let cart = json!({"var": "event.properties.products"});
        let shoes = json!({"==": [{"var": "category"}, "shoes"]});
        let numbers: Vec<u32> = (0..1_000).collect();
        let inner = |list: Value| json!({"some": [cart, {"some": [list, shoes]}]});
        let sum = json!({"+": [{"var": "current"}, 1]});
        for rule in [
            inner(json!(numbers)),
            inner(json!({"var": ["tags", [1, 2]]})),
            inner(json!({"merge": [{"var": "tags"}, {"var": "tags"}]})),
            json!({"reduce": [cart, {"some": [{"var": "accumulator"}, shoes]}, []]}),
            json!({"some": [{"map": [cart, numbers]}, {"some": [{"var": ""}, shoes]}]}),
            json!({"some": [numbers, {"reduce": [{"var": ""}, sum, 0]}]}),
        ] {
            assert!(steps(&rule, 2_000) > 1_000_000, "{rule}");
        }
    }

    #[test]
    fn a_pattern_counts_once_for_the_text_of_all_elements() {
        let cart = json!({"var": "event.properties.products"});
        let matches = |name: &str| json!({"matches": [{"var": name}, "sho+es$"]});
        let once = steps(&matches("event.name"), 2_000);
        let each = steps(&json!({"some": [cart, matches("category")]}), 2_000);
        assert!((once..2 * once).contains(&each), "{once} {each}");
    }

    #[test]
    fn too_many_steps_are_as_many_as_can_be() {
        let most = Work::on_text(u64::MAX);
        assert_eq!(most + most, most);
        assert!(most.steps(u64::MAX / LITTLE_TEXT) > u64::from(u32::MAX));
    }
}
