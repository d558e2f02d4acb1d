//! The text of a rule.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

/// A rule as compact JSON.
#[derive(Debug, Clone)]
pub(crate) enum SourceText {
    /// A text of its own.
    Own(Box<str>),
    /// A part of a longer text, which others hold as well.
    Part {
        /// The longer text.
        whole: Arc<str>,
        /// Where the part begins, in bytes.
        start: u32,
        /// Where it ends.
        end: u32,
    },
}

impl SourceText {
    pub(super) fn of(json: &Value) -> SourceText {
        SourceText::Own(json.to_string().into())
    }

    /// The part of a text; `None` where there is no such part.
    pub(crate) fn part_of(whole: &Arc<str>, part: Range<usize>) -> Option<SourceText> {
        whole.get(part.clone())?;
        Some(SourceText::Part {
            whole: Arc::clone(whole),
            start: part.start.try_into().ok()?,
            end: part.end.try_into().ok()?,
        })
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            SourceText::Own(text) => text,
            SourceText::Part { whole, start, end } => whole
                .get(*start as usize..*end as usize)
                .unwrap_or_default(),
        }
    }
}
