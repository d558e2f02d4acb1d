//! Rules.
mod condition;
mod expr;
mod facts;
mod inspect;
mod js_value;
mod limits;
mod lower;
mod moment;
mod operators;
mod parse;
mod seed_list;

pub use condition::{Condition, EvalError, EvalErrorKind};
pub use expr::{Expr, Operator, VarPath};
pub use facts::{EventFacts, Facts, FactsArena, Prepared, UserFacts};
pub use limits::{Limits, RuleError, RuleErrorCode, RuleWarning};
pub use seed_list::RuleList;
