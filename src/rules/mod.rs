//! Rules.
mod condition;
mod expr;
mod facts;
mod inspect;
mod limits;
mod lower;
mod moment;
mod operators;
mod parse;

pub use condition::{Condition, EvalError, EvalErrorKind};
pub use expr::{Expr, Operator, VarPath};
pub use facts::{EventFacts, Facts, FactsArena, Prepared, UserFacts};
pub use limits::{Limits, RuleError, RuleErrorCode, RuleWarning};
