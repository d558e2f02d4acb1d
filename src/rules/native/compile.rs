//! From the typed form to native tests.

use datalogic_rs::DataValue;
use serde_json::Value;

use super::test::truthy;
use super::{Attribute, Defaulted, Literal, Node, Order, Outcomes, Test, TextList};
use crate::rules::expr::{Expr, Operator, VarPath};
use crate::rules::moment;

/// The conditions of one `if` that become nodes. Each stands in the one before, so that all who walk
/// a node go one level deeper.
const BRANCHES_MAX: usize = 16;

/// What a comparison compares with its constant.
struct Subject {
    attribute: Attribute,
    /// What stands for a missing value.
    default: Literal,
}

impl Node {
    /// A condition in native form, as far as there is one.
    pub(crate) fn of_condition(expr: &Expr) -> Node {
        match expr {
            Expr::Literal(value) => Node::Always(Outcomes::certain(literal_is_truthy(value))),
            Expr::List(items) if items.iter().all(|item| matches!(item, Expr::Literal(_))) => {
                Node::Always(Outcomes::certain(!items.is_empty()))
            }
            Expr::Var { .. } => on_subject(expr, Test::Truthy),
            Expr::Exists(value) => on_subject(value, Test::Exists),
            Expr::WithinLast {
                value,
                window_seconds,
            } => on_subject(value, Test::WithinLast(*window_seconds)),
            Expr::InSegment(name) => Node::Segment(name.as_str().into()),
            Expr::Call(operator, args) => call(*operator, args),
            Expr::List(_) | Expr::Matches { .. } => Node::Ask,
        }
    }
}

fn call(operator: Operator, args: &[Expr]) -> Node {
    let conditions = || args.iter().map(Node::of_condition).collect();
    match operator {
        // Without arguments both are null.
        Operator::And | Operator::Or if args.is_empty() => Node::Always(Outcomes::NO),
        Operator::And => all(conditions()),
        Operator::Or => any(conditions()),
        Operator::Not => not(args
            .first()
            .map_or(Node::Always(Outcomes::NO), Node::of_condition)),
        Operator::Truthy => args
            .first()
            .map_or(Node::Always(Outcomes::NO), Node::of_condition),
        Operator::If => choice(args, BRANCHES_MAX),
        Operator::Equal => equality(args, Test::Loose),
        Operator::StrictEqual => equality(args, Test::Strict),
        Operator::NotEqual => inequality(args, Test::Loose),
        Operator::StrictNotEqual => inequality(args, Test::Strict),
        Operator::Greater => ordered(args, Order::Greater),
        Operator::GreaterOrEqual => ordered(args, Order::GreaterOrEqual),
        Operator::Less => ordered(args, Order::Less),
        Operator::LessOrEqual => ordered(args, Order::LessOrEqual),
        Operator::In => membership(args),
        Operator::Between => match args {
            [value, low, high] => match (literal(low), literal(high)) {
                (Some(low), Some(high)) => on_subject(value, Test::Between(Box::new((low, high)))),
                _ => Node::Ask,
            },
            _ => Node::Ask,
        },
        Operator::StartsWith => text_test(args, |text| Test::StartsWith(text.into())),
        Operator::EndsWith => text_test(args, |text| Test::EndsWith(text.into())),
        Operator::IContains => text_test(args, |text| Test::IContains(text.to_lowercase().into())),
        Operator::Before => moment_test(args, Order::Less),
        Operator::After => moment_test(args, Order::Greater),
        Operator::SemverEq
        | Operator::SemverGt
        | Operator::SemverGte
        | Operator::SemverLt
        | Operator::SemverLte => match args {
            [value, Expr::Literal(Value::String(text))] => match moment::version(text) {
                Some(version) => on_subject(value, Test::Semver(operator, Box::new(version))),
                None => Node::Ask,
            },
            _ => Node::Ask,
        },
        _ => Node::Ask,
    }
}

/// `and`, folded: nothing after a certain no is ever reached.
fn all(nodes: Vec<Node>) -> Node {
    let mut kept = Vec::with_capacity(nodes.len());
    for node in nodes {
        match node {
            Node::Always(Outcomes::YES) => {}
            Node::All(inner) => kept.extend(inner),
            Node::Always(outcomes) => {
                kept.push(Node::Always(outcomes));
                break;
            }
            node => kept.push(node),
        }
    }
    match kept.len() {
        0 => Node::Always(Outcomes::YES),
        1 => kept.remove(0),
        _ => Node::All(kept.into()),
    }
}

/// `or`, folded.
fn any(nodes: Vec<Node>) -> Node {
    let mut kept = Vec::with_capacity(nodes.len());
    for node in nodes {
        match node {
            Node::Always(Outcomes::NO) => {}
            Node::Any(inner) => kept.extend(inner),
            Node::Always(outcomes) => {
                kept.push(Node::Always(outcomes));
                break;
            }
            node => kept.push(node),
        }
    }
    match kept.len() {
        0 => Node::Always(Outcomes::NO),
        1 => kept.remove(0),
        _ => Node::Any(kept.into()),
    }
}

fn not(node: Node) -> Node {
    match node {
        Node::Always(outcomes) => Node::Always(outcomes.negated()),
        Node::Not(inner) => *inner,
        // In the order in which they stand, so that what fails first still does.
        Node::Any(nodes) => all(nodes.into_iter().map(not).collect()),
        node => Node::Not(Box::new(node)),
    }
}

/// `if`: conditions and values in turn, then the value otherwise, which is null where none is
/// given. After so many conditions only the library can tell.
fn choice(args: &[Expr], most: usize) -> Node {
    match args {
        [] => Node::Always(Outcomes::NO),
        [value] => Node::of_condition(value),
        [_, _, ..] if most == 0 => Node::Ask,
        [condition, value, rest @ ..] => {
            let condition = Node::of_condition(condition);
            let value = Node::of_condition(value);
            let otherwise = choice(rest, most - 1);
            match condition {
                Node::Always(Outcomes::YES) => value,
                Node::Always(Outcomes::NO) => otherwise,
                condition => Node::Choice(Box::new([condition, value, otherwise])),
            }
        }
    }
}

fn equality(args: &[Expr], test: fn(Literal) -> Test) -> Node {
    match args {
        [left, right] => match (literal(left), literal(right)) {
            (_, Some(constant)) => on_subject(left, test(constant)),
            (Some(constant), _) => on_subject(right, test(constant)),
            _ => Node::Ask,
        },
        _ => Node::Ask,
    }
}

/// The evaluator looks at the first two arguments only.
fn inequality(args: &[Expr], test: fn(Literal) -> Test) -> Node {
    match args.get(..2) {
        Some(pair) => match equality(pair, test) {
            Node::Ask => Node::Ask,
            equality => not(equality),
        },
        None => Node::Ask,
    }
}

fn ordered(args: &[Expr], order: Order) -> Node {
    let pair = |left: &Expr, right: &Expr| match (literal(left), literal(right)) {
        (_, Some(constant)) => on_subject(left, Test::Ordered(order, constant)),
        (Some(constant), _) => on_subject(right, Test::Ordered(order.flipped(), constant)),
        _ => Node::Ask,
    };
    match args {
        [left, right] => pair(left, right),
        [low, value, high] => match (pair(low, value), pair(value, high)) {
            (Node::Ask, _) | (_, Node::Ask) => Node::Ask,
            (first, second) => all(vec![first, second]),
        },
        _ => Node::Ask,
    }
}

fn membership(args: &[Expr]) -> Node {
    match args {
        [value, Expr::List(items)] => {
            match items.iter().map(literal).collect::<Option<Box<[_]>>>() {
                Some(list) => on_subject(value, in_list(list)),
                None => Node::Ask,
            }
        }
        [value, Expr::Literal(Value::String(whole))] => {
            on_subject(value, Test::PartOf(whole.as_str().into()))
        }
        [constant, value] => match literal(constant) {
            Some(constant) => on_subject(value, Test::Contains(constant)),
            None => Node::Ask,
        },
        _ => Node::Ask,
    }
}

fn in_list(list: Box<[Literal]>) -> Test {
    let text = |literal: &Literal| matches!(literal, Literal::Text(_));
    let texts = list.iter().filter_map(|literal| match literal {
        Literal::Text(text) => Some(&**text),
        _ => None,
    });
    match TextList::new(texts) {
        Some(texts) if !list.is_empty() && list.iter().all(text) => Test::InTexts(texts),
        _ => Test::In(list),
    }
}

fn text_test(args: &[Expr], test: impl FnOnce(&str) -> Test) -> Node {
    match args {
        [value, Expr::Literal(Value::String(text))] => on_subject(value, test(text)),
        _ => Node::Ask,
    }
}

fn moment_test(args: &[Expr], order: Order) -> Node {
    let moment = |expr: &Expr| match expr {
        Expr::Literal(Value::String(text)) => moment::text_micros(text),
        Expr::Literal(Value::Number(number)) => number.as_f64().map(moment::number_micros),
        _ => None,
    };
    match args {
        [left, right] => match (moment(left), moment(right)) {
            (None, Some(micros)) => on_subject(left, Test::Moment(order, micros)),
            (Some(micros), None) => on_subject(right, Test::Moment(order.flipped(), micros)),
            _ => Node::Ask,
        },
        _ => Node::Ask,
    }
}

/// A test of what `expr` names, if it names a value of the data.
fn on_subject(expr: &Expr, test: Test) -> Node {
    match subject(expr) {
        Some(Subject {
            attribute,
            default: Literal::Null,
        }) => Node::Test { attribute, test },
        Some(Subject { attribute, default }) => Node::Defaulted(Box::new(Defaulted {
            attribute,
            default,
            test,
        })),
        None => Node::Ask,
    }
}

fn subject(expr: &Expr) -> Option<Subject> {
    let Expr::Var {
        path: VarPath::Dotted(path),
        default,
    } = expr
    else {
        return None;
    };
    let default = match default {
        None => Literal::Null,
        Some(default) => literal(default)?,
    };
    Some(Subject {
        attribute: Attribute::of_path(path)?,
        default,
    })
}

fn literal(expr: &Expr) -> Option<Literal> {
    let Expr::Literal(value) = expr else {
        return None;
    };
    Some(match value {
        Value::Null => Literal::Null,
        Value::Bool(value) => Literal::Bool(*value),
        Value::Number(number) => Literal::Number(number.as_f64()?),
        Value::String(text) => Literal::Text(text.as_str().into()),
        Value::Array(_) | Value::Object(_) => return None,
    })
}

fn literal_is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => truthy(&DataValue::from_f64(number.as_f64().unwrap_or(f64::NAN))),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}
