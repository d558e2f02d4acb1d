//! Decisions on what is stored: why somebody did or did not get a campaign, and whom a draft would
//! have reached.
//!
//! Nothing here changes anything. The decisions are the matcher's; this module finds the facts that
//! they were, or would have been, made on. What history cannot tell is said in the answer
//! ([`AsOf`]), never guessed in silence.

mod as_of;
mod case;
mod definitions;
mod question;
pub mod replay;

pub use as_of::{AsOf, DefinitionsAsOf, Source, TraitsAsOf};
pub use case::{Answer, AnsweredEvent, AnsweredUser, Case, Ground};
pub use question::{AskedEvent, Question, SHOWN_DEFAULT, Subject, When};
