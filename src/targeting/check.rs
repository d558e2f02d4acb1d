//! Checks segments and flags that an admin wants to save, without saving them.

use diesel::PgConnection;
use serde_json::{Map, Value};

use super::{Targeting, live};
use crate::error::{Error, WarningCode};
use crate::model::ProjectId;
use crate::rules::{Condition, RuleError, RuleWarning};
use crate::segments::{CHAIN_MAX, Segment};

/// Something an admin may want to know about what was saved.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Warning {
    /// A stable code.
    pub code: WarningCode,
    /// JSON pointer into the saved object.
    pub pointer: String,
    /// What may surprise.
    pub message: String,
}

impl Targeting {
    /// Checks a segment before it is saved under `id` (`None` for a new one): rules, targeting, and
    /// that no segment would contain itself. To be called within the change that saves it, whose
    /// transaction sees what those before it saved.
    pub fn check_segment(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
        id: Option<&str>,
        body: &Map<String, Value>,
    ) -> Result<Vec<Warning>, Error> {
        let segment = Segment::compile(id.unwrap_or_default(), body, &self.0.options.rules)
            .map_err(refuse_rule)?;
        let snapshot = self.snapshot(project);
        let held = live::segments(connection, project, &snapshot, &self.0.options.rules)?;
        if let Some(path) = held.cycle_through(&segment) {
            return Err(Error::InvalidRule {
                pointer: "/targeting".to_owned(),
                code: "segment_cycle",
                message: match path.as_slice() {
                    [] => "the segment would contain itself".to_owned(),
                    path => format!(
                        "the segment would contain itself, by way of {}",
                        path.join(" > ")
                    ),
                },
            });
        }
        let found = segment.warnings(&self.0.options.rules);
        let mut warnings: Vec<_> = rule_warnings("/targeting", &found).collect();
        for reference in segment.references() {
            if held.find(reference).is_none() {
                warnings.push(unknown_segment("/targeting".to_owned(), reference));
            }
        }
        let chain = held.longest_chain_with(segment);
        // An imported chain that is too long must not keep others from being saved.
        if chain > CHAIN_MAX && chain > held.longest_chain() {
            return Err(Error::InvalidRule {
                pointer: "/targeting".to_owned(),
                code: "segment_chain_too_long",
                message: format!(
                    "more than {CHAIN_MAX} segments would follow on each other, each naming the next"
                ),
            });
        }
        Ok(warnings)
    }

    /// Checks a flag's targeting before it is saved.
    pub fn check_flag(
        &self,
        project: ProjectId,
        targeting: Option<&Value>,
    ) -> Result<Vec<Warning>, Error> {
        let Some(json) = targeting.filter(|json| !json.is_null()) else {
            return Ok(Vec::new());
        };
        let condition = Condition::parse(json, &self.0.options.rules)
            .map_err(|error| refuse_rule(error.under("/targeting")))?;
        let found = condition.warnings(&self.0.options.rules);
        let mut warnings: Vec<_> = rule_warnings("/targeting", &found).collect();
        let snapshot = self.snapshot(project);
        for reference in condition.segments() {
            if snapshot.segments().find(reference).is_none() {
                warnings.push(unknown_segment("/targeting".to_owned(), reference));
            }
        }
        if condition.mentions_event() {
            warnings.push(Warning {
                code: WarningCode::EventInFlag,
                pointer: "/targeting".to_owned(),
                message: "a flag is read without an event, so what this says of one never holds"
                    .to_owned(),
            });
        }
        Ok(warnings)
    }
}

pub(super) fn refuse_rule(error: RuleError) -> Error {
    Error::InvalidRule {
        pointer: error.pointer,
        code: error.code.as_str(),
        message: error.message,
    }
}

/// Warnings of a rule that stands under this pointer.
pub(super) fn rule_warnings<'w>(
    under: &'w str,
    warnings: &'w [RuleWarning],
) -> impl Iterator<Item = Warning> + 'w {
    warnings.iter().map(move |warning| Warning {
        code: warning.code,
        pointer: format!("{under}{}", warning.pointer),
        message: warning.message.clone(),
    })
}

pub(super) fn unknown_segment(pointer: String, reference: &str) -> Warning {
    Warning {
        code: WarningCode::UnknownSegment,
        pointer,
        message: format!("there is no segment {reference:?}; nobody is in it"),
    }
}
