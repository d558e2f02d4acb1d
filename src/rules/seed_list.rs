//! The seed's rule list, `[{type, field, operator, value}]`, with exactly the seed's semantics.
//!
//! Each rule compares a member of the user's traits (`type` is `attribute`) or of the event's
//! properties (any other `type`) with a constant; all must hold. `field` is a literal key, not a
//! path.
//!
//! | left | operator | holds |
//! |---|---|---|
//! | absent | any, `!=` included | never |
//! | present, null included | `==`, `!=` | by JavaScript's loose equality; objects are never equal |
//! | present | `>`, `>=`, `<`, `<=` | by number if both sides have one, otherwise by text, in UTF-16 code units |
//! | present | `contains` | the left side's text contains the right side's |
//! | present | anything else | never |
//!
//! An absent `value` is JavaScript's `undefined`: equal to null only, `"undefined"` as a text.
//!
//! Two differences from the seed are on purpose. A name that every JavaScript object inherits
//! (`constructor`, `toString`, …) is absent unless the data has it. A rule
//! `{type: "event", field: "unknown", operator: "==", value: ""}` is a placeholder that the seed's
//! dashboard writes by mistake and that could never hold; it is dropped.

use datalogic_rs::DataValue;
use serde_json::{Map, Value};

use crate::error::WarningCode;

use super::data::{FactsArena, Object};
use super::js_value::{Constant, to_text};
use super::limits::{Limits, RuleError, RuleErrorCode, RuleWarning};
use super::native::{Attribute, Node, Order, Outcomes, Source, Test};

/// A parsed rule list. The empty list matches everybody.
#[derive(Debug, Clone, Default)]
pub struct RuleList {
    rules: Vec<Rule>,
    warnings: Vec<RuleWarning>,
}

#[derive(Debug, Clone)]
struct Rule {
    attribute: Attribute,
    /// `None` never holds.
    test: Option<Test>,
}

impl RuleList {
    /// The empty list.
    pub(crate) const fn empty() -> RuleList {
        RuleList {
            rules: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Parses a list with the default bounds. Absent, null and `[]` match everybody.
    ///
    /// # Errors
    /// Not an array, a member that is not an object, or a bound exceeded.
    pub fn parse(json: Option<&Value>) -> Result<RuleList, RuleError> {
        Self::parse_within(json, &Limits::default())
    }

    /// Parses a list within these bounds.
    ///
    /// # Errors
    /// As [`RuleList::parse`].
    pub fn parse_within(json: Option<&Value>, limits: &Limits) -> Result<RuleList, RuleError> {
        let items = match json {
            None | Some(Value::Null) => return Ok(RuleList::default()),
            Some(Value::Array(items)) => items,
            Some(_) => {
                let message = "a rule list is an array";
                return Err(RuleError::new("", RuleErrorCode::NotAList, message));
            }
        };
        if items.len() > limits.max_list_rules {
            let message = format!("a list may have at most {} rules", limits.max_list_rules);
            return Err(RuleError::new("", RuleErrorCode::TooManyRules, message));
        }
        for (index, item) in items.iter().enumerate() {
            super::limits::measure(item, limits).map_err(|error| RuleError {
                pointer: format!("/{index}{}", error.pointer),
                ..error
            })?;
        }
        let mut list = RuleList::default();
        for (index, item) in items.iter().enumerate() {
            let Value::Object(rule) = item else {
                let message = "a rule is an object";
                let pointer = format!("/{index}");
                return Err(RuleError::new(pointer, RuleErrorCode::NotAnObject, message));
            };
            list.push(index, rule);
        }
        Ok(list)
    }

    fn push(&mut self, index: usize, json: &Map<String, Value>) {
        if is_placeholder(json) {
            self.warnings.push(RuleWarning {
                pointer: format!("/{index}"),
                code: WarningCode::PlaceholderIgnored,
                message: "this placeholder of the dashboard is ignored".to_owned(),
            });
            return;
        }
        let rule = Rule::from_json(json);
        if rule.test.is_none() {
            self.warnings.push(RuleWarning {
                pointer: format!("/{index}/operator"),
                code: WarningCode::UnknownOperator,
                message: "a rule with this operator never holds".to_owned(),
            });
        }
        self.rules.push(rule);
    }

    /// Whether a rule reads the event's properties, placeholders left out.
    pub fn mentions_event(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.attribute.source == Source::Properties)
    }

    /// What its author probably did not mean.
    pub fn warnings(&self) -> &[RuleWarning] {
        &self.warnings
    }

    /// How many rules there are, placeholders left out.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is nothing to hold.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether all rules hold.
    pub fn matches(&self, traits: Object<'_>, properties: Option<Object<'_>>) -> bool {
        let mut rules = self.rules.iter();
        rules.all(|rule| rule.holds(rule.left(traits, properties)))
    }

    /// How many rules do not hold.
    pub fn misses(&self, traits: Object<'_>, properties: Option<Object<'_>>) -> u32 {
        let misses = |rule: &&Rule| !rule.holds(rule.left(traits, properties));
        u32::try_from(self.rules.iter().filter(misses).count()).unwrap_or(u32::MAX)
    }

    /// Each rule as it was written, placeholders left out: its place in the list, whether it reads
    /// the traits, and the name and value it sees there. `items` is the list this was parsed from.
    pub(super) fn each<'r, 'a>(
        &'r self,
        items: &'r [Value],
        traits: Object<'a>,
        properties: Option<Object<'a>>,
    ) -> impl Iterator<Item = SeenRule<'r, 'a>> {
        let written = items.iter().enumerate();
        let written = written.filter(|(_, item)| !item.as_object().is_some_and(is_placeholder));
        written.zip(&self.rules).map(move |((place, json), rule)| {
            let left = rule.left(traits, properties);
            SeenRule {
                place,
                json,
                reads_traits: rule.attribute.source == Source::Traits,
                name: rule.attribute.name().unwrap_or_default(),
                left,
                holds: rule.holds(left),
            }
        })
    }

    /// The list in native form.
    pub(crate) fn node(&self) -> Node {
        let rules = self.rules.iter().map(|rule| match &rule.test {
            Some(test) => Node::Test {
                attribute: rule.attribute.clone(),
                test: test.clone(),
            },
            None => Node::Always(Outcomes::NO),
        });
        let mut rules: Vec<Node> = rules.collect();
        match rules.len() {
            0 => Node::Always(Outcomes::YES),
            1 => rules.remove(0),
            _ => Node::All(rules.into()),
        }
    }
}

/// Exactly the four members; others, such as the dashboard's `id`, do not matter.
fn is_placeholder(json: &Map<String, Value>) -> bool {
    let is = |member: &str, text: &str| json.get(member).and_then(Value::as_str) == Some(text);
    is("type", "event") && is("field", "unknown") && is("operator", "==") && is("value", "")
}

/// A rule and what it sees.
pub(super) struct SeenRule<'r, 'a> {
    pub(super) place: usize,
    pub(super) json: &'r Value,
    pub(super) reads_traits: bool,
    pub(super) name: &'r str,
    /// `None` where there is none.
    pub(super) left: Option<&'a DataValue<'a>>,
    pub(super) holds: bool,
}

impl Rule {
    /// What the rule compares with its constant.
    fn left<'a>(
        &self,
        traits: Object<'a>,
        properties: Option<Object<'a>>,
    ) -> Option<&'a DataValue<'a>> {
        let source = match self.attribute.source {
            Source::Traits => Some(traits),
            _ => properties,
        };
        source?.get(self.attribute.name()?)
    }

    fn holds(&self, left: Option<&DataValue<'_>>) -> bool {
        let (Some(left), Some(test)) = (left, &self.test) else {
            return false;
        };
        test.outcome(left, 0) == Outcomes::YES
    }

    fn from_json(json: &Map<String, Value>) -> Rule {
        let is_attribute = json.get("type").and_then(Value::as_str) == Some("attribute");
        let arena = FactsArena::new();
        let read = |member: &str| json.get(member).map(|value| arena.value(value));
        let value = read("value");
        let constant = || Box::new(Constant::new(value.as_ref()));
        let ordered = |order| Test::SeedOrdered(order, constant());
        let test = match json.get("operator").and_then(Value::as_str) {
            Some("==") => Some(Test::SeedEqual(constant())),
            Some("!=") => Some(Test::SeedNotEqual(constant())),
            Some(">") => Some(ordered(Order::Greater)),
            Some(">=") => Some(ordered(Order::GreaterOrEqual)),
            Some("<") => Some(ordered(Order::Less)),
            Some("<=") => Some(ordered(Order::LessOrEqual)),
            Some("contains") => Some(Test::SeedContains(constant().text.into())),
            Some(_) | None => None,
        };
        let source = if is_attribute {
            Source::Traits
        } else {
            Source::Properties
        };
        // JavaScript makes a text of whatever is used as a key.
        let field = to_text(read("field").as_ref());
        Rule {
            attribute: Attribute::member(source, &field),
            test,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders_are_dropped_and_nothing_else_is() {
        let placeholder =
            json!({"id": "7", "type": "event", "field": "unknown", "operator": "==", "value": ""});
        let list = RuleList::parse(Some(&json!([placeholder]))).unwrap();
        assert!(list.is_empty() && !list.mentions_event());
        assert!(list.matches(Object::EMPTY, None));
        for (member, value) in [
            ("type", json!("attribute")),
            ("field", json!("Unknown")),
            ("operator", json!("!=")),
            ("value", json!(null)),
        ] {
            let mut other = placeholder.clone();
            other[member] = value;
            let list = RuleList::parse(Some(&json!([other]))).unwrap();
            assert!(!list.is_empty(), "{other}");
        }
    }

    #[test]
    fn what_is_no_list_of_objects_is_refused_by_pointer() {
        let error = RuleList::parse(Some(&json!({"and": []}))).unwrap_err();
        assert_eq!(
            (error.code, error.pointer.as_str()),
            (RuleErrorCode::NotAList, "")
        );
        let error = RuleList::parse(Some(&json!([{}, 5]))).unwrap_err();
        assert_eq!(
            (error.code, error.pointer.as_str()),
            (RuleErrorCode::NotAnObject, "/1")
        );
        let many = Value::Array(vec![json!({}); 1_001]);
        let error = RuleList::parse(Some(&many)).unwrap_err();
        assert_eq!(error.code, RuleErrorCode::TooManyRules);
    }

    #[test]
    fn an_event_rule_mentions_the_event() {
        let list = |kind: &str| {
            RuleList::parse(Some(
                &json!([{"type": kind, "field": "f", "operator": "=="}]),
            ))
            .unwrap()
        };
        assert!(!list("attribute").mentions_event());
        assert!(list("event").mentions_event());
        assert!(list("user_property").mentions_event());
    }
}
