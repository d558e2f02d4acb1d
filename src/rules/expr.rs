//! The typed form of a condition: a closed list of operators and nothing else.
//!
//! The form is what the rest of the crate may ask about a rule (which data it reads, which
//! segments it names); it knows nothing about how a rule is evaluated.

use serde_json::Value;

use super::limits::Limits;

/// A validated JsonLogic expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A value that stands for itself.
    Literal(Value),
    /// A list whose elements are evaluated.
    List(Vec<Expr>),
    /// `var`: a value of the data, by dotted path.
    Var {
        /// Which value.
        path: VarPath,
        /// What to use when there is none.
        default: Option<Box<Expr>>,
    },
    /// `exists`: the value is there and is not null.
    Exists(Box<Expr>),
    /// `matches`: the text matches a pattern, somewhere.
    Matches {
        /// The text.
        value: Box<Expr>,
        /// A pattern of the `regex` crate, compiled once and checked when the rule is saved.
        pattern: String,
    },
    /// `within_last`: the time is neither in the future nor longer ago than the window.
    WithinLast {
        /// The time.
        value: Box<Expr>,
        /// The window, in seconds.
        window_seconds: i64,
    },
    /// `in_segment`: the user is a member of the segment with this name or id.
    InSegment(String),
    /// Any other operator and its arguments.
    Call(Operator, Vec<Expr>),
}

/// What `var` reads.
#[derive(Debug, Clone, PartialEq)]
pub enum VarPath {
    /// The whole data, or the element inside an iteration: `""`, `null` or no argument at all.
    Whole,
    /// A dotted path that stands in the rule.
    Dotted(String),
    /// A path that is computed at run time.
    Computed(Box<Expr>),
}

macro_rules! operators {
    ($($variant:ident $name:literal $min:literal $max:expr, $doc:literal;)*) => {
        /// The operators that need no form of their own. The history operators will join the
        /// list with the history itself; until then they are unknown.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Operator {
            $(#[doc = $doc] $variant,)*
        }

        impl Operator {
            const ALL: &[Operator] = &[$(Operator::$variant,)*];

            /// The operator's name in a rule.
            pub fn name(self) -> &'static str {
                match self { $(Operator::$variant => $name,)* }
            }

            /// The operator with this name.
            pub(super) fn from_name(name: &str) -> Option<Operator> {
                match name {
                    $($name => Some(Operator::$variant),)*
                    TERNARY => Some(Operator::If),
                    _ => None,
                }
            }

            /// How many arguments it takes, at least and at most.
            pub(super) fn arity(self) -> (usize, usize) {
                match self { $(Operator::$variant => ($min, $max),)* }
            }
        }
    };
}

/// Bytes of a text in a body that count as a step.
const TEXT_BYTES: usize = 256;
const MANY: usize = usize::MAX;

/// The official suite's other spelling of `if`.
const TERNARY: &str = "?:";

/// The operators that have a form of their own in [`Expr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Var,
    Exists,
    Matches,
    WithinLast,
    InSegment,
}

impl Form {
    const ALL: [Form; 5] = [
        Form::Var,
        Form::Exists,
        Form::Matches,
        Form::WithinLast,
        Form::InSegment,
    ];

    fn name(self) -> &'static str {
        match self {
            Form::Var => "var",
            Form::Exists => "exists",
            Form::Matches => "matches",
            Form::WithinLast => "within_last",
            Form::InSegment => "in_segment",
        }
    }

    /// The form with this name.
    pub(super) fn from_name(name: &str) -> Option<Form> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }
}

/// The name of every operator that a rule may use.
pub fn operator_names() -> impl Iterator<Item = &'static str> {
    let forms = Form::ALL.into_iter().map(Form::name);
    let operators = Operator::ALL.iter().map(|operator| operator.name());
    forms.chain(operators).chain([TERNARY])
}

operators! {
    Missing "missing" 0 MANY, "The paths that are missing.";
    MissingSome "missing_some" 2 2, "The missing paths, unless enough are there.";
    If "if" 0 MANY, "Conditions and values in turn, then the value otherwise.";
    Equal "==" 2 MANY, "Equal after conversion.";
    StrictEqual "===" 2 MANY, "Equal and of the same type.";
    NotEqual "!=" 2 MANY, "Not equal after conversion.";
    StrictNotEqual "!==" 2 MANY, "Not equal, or not of the same type.";
    Not "!" 0 MANY, "Not truthy.";
    Truthy "!!" 0 MANY, "Truthy.";
    Or "or" 0 MANY, "The first truthy argument, or the last.";
    And "and" 0 MANY, "The first falsy argument, or the last.";
    Greater ">" 2 MANY, "Greater.";
    GreaterOrEqual ">=" 2 MANY, "Greater or equal.";
    Less "<" 2 MANY, "Less; with three arguments, between.";
    LessOrEqual "<=" 2 MANY, "Less or equal; with three arguments, between.";
    Max "max" 0 MANY, "The greatest.";
    Min "min" 0 MANY, "The least.";
    Add "+" 0 MANY, "The sum.";
    Subtract "-" 0 MANY, "The difference, or the negative of one argument.";
    Multiply "*" 0 MANY, "The product.";
    Divide "/" 0 MANY, "The quotient.";
    Modulo "%" 0 MANY, "The remainder.";
    Map "map" 2 2, "The body's value for each element.";
    Filter "filter" 2 2, "The elements for which the body is truthy.";
    Reduce "reduce" 3 3, "One value out of many: `current` and `accumulator`.";
    All "all" 2 2, "The body is truthy for all elements, and there is one.";
    None "none" 2 2, "The body is truthy for no element.";
    Some "some" 2 2, "The body is truthy for an element.";
    Merge "merge" 0 MANY, "One list out of many.";
    In "in" 2 2, "Member of a list, or part of a text.";
    Cat "cat" 0 MANY, "The arguments as one text.";
    Substr "substr" 2 3, "Part of a text.";
    StartsWith "starts_with" 2 2, "The text begins with another.";
    EndsWith "ends_with" 2 2, "The text ends with another.";
    IContains "icontains" 2 2, "The text contains another, in whatever case.";
    Between "between" 3 3, "The value lies between two bounds, bounds included.";
    Before "before" 2 2, "A time is earlier than another.";
    After "after" 2 2, "A time is later than another.";
    SemverEq "semver_eq" 2 2, "A version has the same precedence as another.";
    SemverGt "semver_gt" 2 2, "A version is newer than another.";
    SemverGte "semver_gte" 2 2, "A version is not older than another.";
    SemverLt "semver_lt" 2 2, "A version is older than another.";
    SemverLte "semver_lte" 2 2, "A version is not newer than another.";
}

impl Operator {
    /// Operators that run a body once for each element.
    pub fn is_iteration(self) -> bool {
        matches!(
            self,
            Operator::Map
                | Operator::Filter
                | Operator::Reduce
                | Operator::All
                | Operator::None
                | Operator::Some
        )
    }

    /// Official operators that compare, which may hold on a missing value (`null < 18`).
    pub(super) fn is_comparison(self) -> bool {
        matches!(
            self,
            Operator::Equal
                | Operator::StrictEqual
                | Operator::NotEqual
                | Operator::StrictNotEqual
                | Operator::Greater
                | Operator::GreaterOrEqual
                | Operator::Less
                | Operator::LessOrEqual
                | Operator::In
        )
    }

    /// Operators of our own, which are false on a missing value whatever else they are given.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            Operator::StartsWith
                | Operator::EndsWith
                | Operator::IContains
                | Operator::Between
                | Operator::Before
                | Operator::After
        ) || self.is_semver()
    }

    /// The comparisons of semantic versions.
    pub(super) fn is_semver(self) -> bool {
        matches!(
            self,
            Operator::SemverEq
                | Operator::SemverGt
                | Operator::SemverGte
                | Operator::SemverLt
                | Operator::SemverLte
        )
    }

    /// Operators whose results can grow with what they are given.
    pub(super) fn builds_values(self) -> bool {
        matches!(
            self,
            Operator::Cat
                | Operator::Substr
                | Operator::Merge
                | Operator::Map
                | Operator::Filter
                | Operator::Reduce
                | Operator::Missing
                | Operator::MissingSome
        )
    }
}

impl Expr {
    /// The direct sub-expressions.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::Literal(_) | Expr::InSegment(_) => Vec::new(),
            Expr::List(items) | Expr::Call(_, items) => items.iter().collect(),
            Expr::Var { path, default } => {
                let computed = match path {
                    VarPath::Computed(expr) => Some(expr.as_ref()),
                    VarPath::Whole | VarPath::Dotted(_) => None,
                };
                computed.into_iter().chain(default.as_deref()).collect()
            }
            Expr::Exists(value) | Expr::Matches { value, .. } | Expr::WithinLast { value, .. } => {
                vec![value]
            }
        }
    }

    /// Whether it is the same on all data: a literal, or a list of such.
    pub(super) fn is_constant(&self) -> bool {
        match self {
            Expr::Literal(_) => true,
            Expr::List(items) => items.iter().all(Expr::is_constant),
            _ => false,
        }
    }

    /// The nodes of a body that see the element; the bodies of iterations in it see theirs.
    pub(super) fn nodes_at_an_element(&self) -> usize {
        self.count_at_an_element(|_| true)
    }

    /// Those of them that compare values of the data with each other.
    pub(super) fn comparisons_at_an_element(&self) -> usize {
        self.count_at_an_element(Expr::compares_data)
    }

    fn count_at_an_element(&self, counts: fn(&Expr) -> bool) -> usize {
        let iteration = matches!(self, Expr::Call(operator, _) if operator.is_iteration());
        let mut count = usize::from(counts(self));
        for (index, child) in self.children().into_iter().enumerate() {
            if !(iteration && index == 1) {
                count += child.count_at_an_element(counts);
            }
        }
        count
    }

    /// Whether it compares values of the data with each other, whatever these are.
    pub(super) fn compares_data(&self) -> bool {
        match self {
            Expr::Call(
                Operator::Equal
                | Operator::StrictEqual
                | Operator::NotEqual
                | Operator::StrictNotEqual
                | Operator::In,
                args,
            ) => !args.iter().any(Expr::is_constant),
            _ => false,
        }
    }

    /// Worst-case evaluation steps: each node is one, and a body counts once for each element that
    /// an array may have. There, looking for something in a list counts as so many steps, too, and a
    /// long text in the rule counts by its length.
    pub(super) fn cost(&self, limits: &Limits) -> u64 {
        self.cost_at(limits, false)
    }

    fn cost_at(&self, limits: &Limits, in_iteration: bool) -> u64 {
        let max_array_len = u64::try_from(limits.max_array_len).unwrap_or(u64::MAX);
        let iteration = matches!(self, Expr::Call(operator, _) if operator.is_iteration());
        let mut cost = 1_u64;
        for (index, child) in self.children().into_iter().enumerate() {
            let is_body = iteration && index == 1;
            let own = child.cost_at(limits, in_iteration || is_body);
            let times = if is_body { max_array_len } else { 1 };
            cost = cost.saturating_add(own.saturating_mul(times));
        }
        cost.saturating_add(match self {
            _ if !in_iteration => 0,
            Expr::Literal(Value::String(text)) => (text.len() / TEXT_BYTES) as u64,
            _ if self.looks_through_data() => max_array_len,
            _ => 0,
        })
    }

    /// Whether it looks for something in what is not a part of the rule.
    pub(super) fn looks_through_data(&self) -> bool {
        match self {
            Expr::Call(Operator::In, args) => args
                .get(1)
                .is_some_and(|haystack| !matches!(haystack, Expr::Literal(_) | Expr::List(_))),
            _ => false,
        }
    }

    /// Whether evaluating this can build lists or texts that were not there before.
    pub(super) fn builds_values(&self) -> bool {
        match self {
            Expr::List(_) => true,
            Expr::Call(operator, _) if operator.builds_values() => true,
            _ => self.children().into_iter().any(Expr::builds_values),
        }
    }
}
