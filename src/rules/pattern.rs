//! Patterns of `matches`, and what trying one may take.

use regex::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

use super::limits::Limits;

/// How deep the groups of a pattern may be nested.
const NEST_MAX: u32 = 64;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// How many places of it a text can be at, at once.
    places: u64,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// It is no pattern, or too large.
    pub(super) fn compile(pattern: &str, limits: &Limits) -> Result<Self, regex::Error> {
        #[cfg(test)]
        super::PATTERNS_COMPILED.set(super::PATTERNS_COMPILED.get() + 1);
        let regex = RegexBuilder::new(pattern)
            .size_limit(limits.max_regex_compiled_bytes)
            .dfa_size_limit(limits.max_regex_compiled_bytes)
            .nest_limit(NEST_MAX)
            .build()?;
        let mut parser = ParserBuilder::new().nest_limit(NEST_MAX).build();
        let refused = |error: regex_syntax::Error| regex::Error::Syntax(error.to_string());
        Ok(Self {
            regex,
            places: places(&parser.parse(pattern).map_err(refused)?),
        })
    }

    /// Whether a text has what it asks for.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// How many places of it a text can be at, at once.
    pub(super) fn places(&self) -> u64 {
        self.places
    }

    /// The most steps that takes: one for each byte and each place that it may be at. Most patterns
    /// become a table that takes one for each byte, but which do shows only on the text.
    pub(super) fn steps(&self, text: &str) -> u64 {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        bytes.saturating_mul(self.places)
    }
}

/// How many places the pattern of this text has; more than can be tried where it is none.
pub(super) fn places_of(pattern: &str) -> u64 {
    let mut parser = ParserBuilder::new().nest_limit(NEST_MAX).build();
    parser.parse(pattern).map_or(u64::MAX, |hir| places(&hir))
}

/// How many places a pattern has, repetitions written out.
fn places(hir: &Hir) -> u64 {
    let all = |parts: &[Hir]| parts.iter().map(places).fold(0, u64::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => 1,
        HirKind::Literal(literal) => u64::try_from(literal.0.len()).unwrap_or(u64::MAX),
        HirKind::Capture(capture) => places(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => all(parts),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            places(&repetition.sub).saturating_mul(times.into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn places_are_counted_with_repetitions_written_out() {
        for (pattern, expected) in [
            ("", 1),
            ("abc", 3),
            ("^a|bc$", 5),
            (r"\w+@\w+", 3),
            ("(?:ab){3,5}c*", 11),
            ("(a{10}){10}", 100),
            ("x[a-z]{5000}[0-9]", 5_002),
        ] {
            let pattern = Pattern::compile(pattern, &Limits::default()).unwrap();
            assert_eq!(pattern.places, expected, "{pattern:?}");
            assert_eq!(pattern.steps("é"), 2 * expected);
        }
    }
}
