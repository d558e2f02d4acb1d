//! For which values of one attribute a condition can hold.

use datalogic_rs::DataValue;
use smallvec::SmallVec;

use super::by_kind::{NumbersOf, TextsOf, numbers_of, texts_of};
use super::ranges::Ranges;
use super::{Asked, Attribute, Missing, Node, Outcomes};

/// Values that an index keeps one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Missing,
    Null,
    False,
    True,
    /// Lists and objects.
    Collection,
}

impl Class {
    pub(crate) const ALL: [Class; 5] = [
        Class::Missing,
        Class::Null,
        Class::False,
        Class::True,
        Class::Collection,
    ];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A value as an index looks it up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lookup<'v> {
    Class(Class),
    Number(f64),
    Text(&'v str),
}

impl<'v> Lookup<'v> {
    #[inline(always)]
    pub(crate) fn of(value: Option<&'v DataValue<'v>>) -> Self {
        Lookup::Class(match value {
            None => Class::Missing,
            Some(DataValue::Null) => Class::Null,
            Some(DataValue::Bool(false)) => Class::False,
            Some(DataValue::Bool(true)) => Class::True,
            Some(DataValue::Array(_) | DataValue::Object(_)) => Class::Collection,
            Some(DataValue::Number(number)) => return Lookup::Number(number.as_f64()),
            Some(DataValue::String(text)) => return Lookup::Text(text),
        })
    }
}

/// Finitely many texts, or all but finitely many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts<'n> {
    /// Whether a text that is not listed is in the set.
    pub(crate) others: bool,
    /// The texts for which the answer is the other one, in order.
    pub(crate) listed: SmallVec<[&'n str; 1]>,
}

impl<'n> Texts<'n> {
    pub(super) fn all() -> Self {
        Texts {
            others: true,
            listed: SmallVec::new(),
        }
    }

    pub(super) fn only(mut listed: SmallVec<[&'n str; 1]>) -> Self {
        listed.sort_unstable();
        listed.dedup();
        Texts {
            others: false,
            listed,
        }
    }

    fn contains(&self, text: &str) -> bool {
        self.others != self.listed.binary_search(&text).is_ok()
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let others = keep(self.others, other.others);
        let mut listed: SmallVec<[&str; 1]> =
            self.listed.iter().chain(&other.listed).copied().collect();
        listed.sort_unstable();
        listed.dedup();
        listed.retain(|text| keep(self.contains(text), other.contains(text)) != others);
        Texts { others, listed }
    }
}

/// A set of values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Values<'n> {
    classes: u8,
    pub(crate) numbers: Ranges,
    pub(crate) texts: Texts<'n>,
}

impl Values<'_> {
    fn none() -> Self {
        Values {
            classes: 0,
            numbers: Ranges::none(),
            texts: Texts::only(SmallVec::new()),
        }
    }

    fn all() -> Self {
        Values {
            classes: u8::MAX,
            numbers: Ranges::all(),
            texts: Texts::all(),
        }
    }

    /// Whether a value of this class is in the set.
    pub(crate) fn has(&self, class: Class) -> bool {
        self.classes & class.bit() != 0
    }
}

impl<'n> Values<'n> {
    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let mut classes = 0;
        for class in Class::ALL {
            if keep(self.has(class), other.has(class)) {
                classes |= class.bit();
            }
        }
        Values {
            classes,
            numbers: self.numbers.combine(&other.numbers, keep),
            texts: self.texts.combine(&other.texts, keep),
        }
    }

    fn and(&self, other: &Self) -> Self {
        self.combine(other, |left, right| left && right)
    }

    fn or(&self, other: &Self) -> Self {
        self.combine(other, |left, right| left || right)
    }
}

/// Kinds of values for which a domain says "perhaps" where it says yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Open {
    pub(crate) numbers: bool,
    pub(crate) texts: bool,
    /// Texts that can be read as a number, the empty one included. These may be in the domain
    /// although it does not list them.
    pub(crate) numeric_texts: bool,
    pub(crate) collections: bool,
}

impl Open {
    /// Whether there is any.
    pub(crate) fn is_any(self) -> bool {
        self != Open::default()
    }

    fn or(self, other: Open) -> Open {
        Open {
            numbers: self.numbers || other.numbers,
            texts: self.texts || other.texts,
            numeric_texts: self.numeric_texts || other.numeric_texts,
            collections: self.collections || other.collections,
        }
    }
}

/// Whether a text is one that conversions may take for a number.
pub(crate) fn is_numeric_text(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text.parse::<f64>().is_ok()
}

/// The values of an attribute for which a condition can hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Domain<'n> {
    /// Where it can hold.
    pub(crate) yes: Values<'n>,
    /// Where it need not, though listed.
    pub(crate) open: Open,
}

impl<'n> Domain<'n> {
    /// The attribute a condition is about and its domain, if it is about exactly one.
    pub(crate) fn of(node: &'n Node) -> Option<(&'n Attribute, Domain<'n>)> {
        let attribute = the_attribute(node)?;
        let mut open = Open::default();
        let wants = Wants {
            yes: true,
            no: false,
        };
        let yes = sides(node, wants, &mut open).yes;
        Some((attribute, Domain { yes, open }))
    }

    /// Where all of them can hold; `None` if there are none. Halves are put together, as
    /// [`in_turn`] does: one after the other, the sets would be gone through once for each.
    pub(crate) fn of_all(mut domains: Vec<Self>) -> Option<Self> {
        while domains.len() > 1 {
            let mut rest = domains.into_iter();
            let mut pairs = Vec::with_capacity(rest.len().div_ceil(2));
            while let Some(first) = rest.next() {
                pairs.push(match rest.next() {
                    Some(second) => first.and(&second),
                    None => first,
                });
            }
            domains = pairs;
        }
        domains.pop()
    }

    /// Where both can hold.
    fn and(&self, other: &Self) -> Self {
        Domain {
            yes: self.yes.and(&other.yes),
            open: self.open.or(other.open),
        }
    }
}

/// One of each for where a condition can be true and for where it can be false.
#[derive(Clone, Copy)]
struct Sides<T> {
    yes: T,
    no: T,
}

impl<T> Sides<T> {
    fn swapped(self) -> Self {
        Sides {
            yes: self.no,
            no: self.yes,
        }
    }
}

/// Which sides are to be found; the other means nothing.
type Wants = Sides<bool>;

/// The values for which a condition can be true, and those for which it can be false. Where it
/// fails it is neither, where it is open it can be both. Each condition is looked at once, since
/// twice at each level would be without end.
fn sides<'n>(node: &'n Node, wants: Wants, open: &mut Open) -> Sides<Values<'n>> {
    let constant = |is_in| if is_in { Values::all() } else { Values::none() };
    let mut side = |is_wanted, wanted, asked: Option<Asked<'n>>| match (is_wanted, asked) {
        (false, _) => Values::none(),
        (true, Some(asked)) => test_values(asked, wanted, open),
        (true, None) => Values::all(),
    };
    match node {
        Node::Always(outcomes) => Sides {
            yes: constant(outcomes.may_hold()),
            no: constant(outcomes.negated().may_hold()),
        },
        Node::Test { .. } | Node::Defaulted(_) => Sides {
            yes: side(wants.yes, true, node.asked()),
            no: side(wants.no, false, node.asked()),
        },
        Node::Not(node) => sides(node, wants.swapped(), open).swapped(),
        Node::All(nodes) => all(nodes, wants, open),
        Node::Any(nodes) => any(nodes, wants, open),
        Node::Choice(nodes) => {
            let [condition, value, otherwise] = &**nodes;
            let both = Wants {
                yes: true,
                no: true,
            };
            let condition = sides(condition, both, open);
            let value = sides(value, wants, open);
            let otherwise = sides(otherwise, wants, open);
            let side = |value: &Values<'n>, otherwise: &Values<'n>| {
                let holds = condition.yes.and(value);
                holds.or(&condition.no.and(otherwise))
            };
            Sides {
                yes: side(&value.yes, &otherwise.yes),
                no: side(&value.no, &otherwise.no),
            }
        }
        // Not reached, since these are about no attribute.
        Node::Segment(_) | Node::Ask => Sides {
            yes: Values::all(),
            no: Values::all(),
        },
    }
}

fn all<'n>(nodes: &'n [Node], wants: Wants, open: &mut Open) -> Sides<Values<'n>> {
    let wants = Wants { yes: true, ..wants };
    in_turn(nodes, wants, open, &|node, wants, open| {
        sides(node, wants, open)
    })
}

/// It is false where each is: the opposite of `and` of the opposites.
fn any<'n>(nodes: &'n [Node], wants: Wants, open: &mut Open) -> Sides<Values<'n>> {
    let wants = Wants {
        yes: true,
        ..wants.swapped()
    };
    let opposite = |node: &'n Node, wants: Wants, open: &mut Open| {
        sides(node, wants.swapped(), open).swapped()
    };
    in_turn(nodes, wants, open, &opposite).swapped()
}

/// Conditions are looked at in turn while they are true; the first that is false decides. Halves are
/// put together, so that the sets of a long list are not gone through once for each of them.
fn in_turn<'n>(
    nodes: &'n [Node],
    wants: Wants,
    open: &mut Open,
    of: &impl Fn(&'n Node, Wants, &mut Open) -> Sides<Values<'n>>,
) -> Sides<Values<'n>> {
    match nodes {
        [] => Sides {
            yes: Values::all(),
            no: Values::none(),
        },
        [node] => of(node, wants, open),
        _ => {
            let (first, second) = nodes.split_at(nodes.len() / 2);
            let first = in_turn(first, wants, open, of);
            let second = in_turn(second, wants, open, of);
            Sides {
                yes: first.yes.and(&second.yes),
                no: match wants.no {
                    true => first.no.or(&first.yes.and(&second.no)),
                    false => Values::none(),
                },
            }
        }
    }
}

fn test_values<'n>(asked: Asked<'n>, wanted: bool, open: &mut Open) -> Values<'n> {
    let Asked { missing, test, .. } = asked;
    let mut found = Values::none();
    for class in Class::ALL {
        let outcomes = match (class, missing) {
            (Class::Missing, Missing::No) => Outcomes::NO,
            (Class::Missing, Missing::Value(literal)) => test.outcome(&literal.value(), 0),
            (Class::Null, _) => test.outcome(&DataValue::Null, 0),
            (Class::False, _) => test.outcome(&DataValue::Bool(false), 0),
            (Class::True, _) => test.outcome(&DataValue::Bool(true), 0),
            (Class::Collection, _) if test.looks_into_collections() => {
                open.collections = true;
                Outcomes::ASK
            }
            (Class::Collection, _) => test.outcome(&DataValue::Array(&[]), 0),
        };
        let outcomes = if wanted { outcomes } else { outcomes.negated() };
        if outcomes.may_hold() {
            found.classes |= class.bit();
        }
    }
    found.numbers = match numbers_of(test) {
        NumbersOf::Yes(yes) if wanted => yes,
        NumbersOf::Yes(yes) => yes.combine(&yes, |is_in, _| !is_in),
        NumbersOf::Fails => Ranges::none(),
        NumbersOf::Open => {
            open.numbers = true;
            Ranges::all()
        }
    };
    found.texts = match texts_of(test) {
        TextsOf::Yes(yes) if wanted => yes,
        TextsOf::Yes(yes) => yes.combine(&yes, |is_in, _| !is_in),
        TextsOf::Numeric { words_fail } => {
            open.numeric_texts = true;
            if wanted || words_fail {
                Texts::only(SmallVec::new())
            } else {
                Texts::all()
            }
        }
        TextsOf::Open => {
            open.texts = true;
            Texts::all()
        }
    };
    found
}

fn the_attribute(node: &Node) -> Option<&Attribute> {
    fn visit<'n>(node: &'n Node, found: &mut Option<&'n Attribute>) -> bool {
        match node {
            Node::Always(_) => true,
            Node::Test { .. } | Node::Defaulted(_) => match node.asked() {
                // Such a default would hold at some times and not at others.
                Some(asked) if asked.test.depends_on_time() && asked.has_default() => false,
                Some(Asked { attribute, .. }) => *found.get_or_insert(attribute) == attribute,
                None => false,
            },
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().all(|node| visit(node, found)),
            Node::Not(node) => visit(node, found),
            Node::Choice(nodes) => nodes.iter().all(|node| visit(node, found)),
            Node::Segment(_) | Node::Ask => false,
        }
    }
    let mut found = None;
    visit(node, &mut found).then_some(found).flatten()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::{Condition, Limits};

    /// Built by hand: the `json!` macro would copy what it is given, at each level.
    fn call(name: &str, arguments: Vec<Value>) -> Value {
        Value::Object(
            [(name.to_owned(), Value::Array(arguments))]
                .into_iter()
                .collect(),
        )
    }

    fn is(number: i64) -> Value {
        json!({"===": [{"var": "user.traits.a"}, number]})
    }

    fn has(rule: &Value, number: f64) -> bool {
        let condition = Condition::parse(rule, &Limits::default()).unwrap();
        let (_, domain) = Domain::of(condition.node()).unwrap();
        let only = Ranges::only(number);
        let both = domain
            .yes
            .numbers
            .combine(&only, |left, right| left && right);
        both.cuts() == only.cuts()
    }

    #[test]
    fn each_level_of_a_condition_is_looked_at_once() {
        let mut rule = is(1);
        for level in 0..58 {
            let (name, number) = if level % 2 == 0 {
                ("or", level)
            } else {
                ("and", 1)
            };
            rule = call(name, vec![is(number), rule]);
        }
        assert!(has(&rule, 1.0));
        let mut choice = is(1);
        for _ in 0..58 {
            choice = call("if", vec![choice, json!(true), json!(false)]);
        }
        assert!(has(&choice, 1.0) && !has(&choice, 2.0));
        assert!(!has(&call("!", vec![choice.clone()]), 1.0));
        assert!(has(&call("!", vec![choice]), 2.0));
    }

    #[test]
    fn a_long_list_is_put_together_by_halves() {
        let any = call("or", (0..400).map(is).collect());
        assert!(has(&any, 0.0) && has(&any, 399.0) && !has(&any, 400.0));
        let none = call("!", vec![any]);
        assert!(!has(&none, 0.0) && !has(&none, 399.0) && has(&none, 400.0));
    }
    #[test]
    fn all_of_many_are_the_same_by_halves_as_in_turn() {
        let variable = || json!({"var": "user.traits.a"});
        let mut rules: Vec<_> = (0..40)
            .map(|n| match n % 4 {
                0 => json!({"!==": [variable(), format!("t{n}")]}),
                1 => json!({"!==": [variable(), n]}),
                2 => json!({"!": {"in": [variable(), ["t4", format!("t{n}"), n, 5]]}}),
                _ => json!({"!==": [variable(), n % 8 == 3]}),
            })
            .collect();
        // The last one takes most away, and leaves open which texts are numbers.
        rules.push(json!({"or": [{">": [variable(), 7]}, {"===": [variable(), "u"]}]}));
        let conditions: Vec<_> = rules
            .iter()
            .map(|rule| Condition::parse(rule, &Limits::default()).unwrap())
            .collect();
        let domains: Vec<_> = conditions
            .iter()
            .map(|condition| Domain::of(condition.node()).unwrap().1)
            .collect();
        assert_eq!(Domain::of_all(Vec::new()), None);
        for count in 1..=domains.len() {
            let some = domains[..count].to_vec();
            let in_turn = some.iter().cloned().reduce(|all, next| all.and(&next));
            assert_eq!(Domain::of_all(some), in_turn, "{count} domains");
        }
    }
}
