//! Checks what an admin wants to save, without saving it.

use chrono::DateTime;
use serde_json::{Map, Value};

use super::{Targeting, Warning};
use crate::error::{Error, FieldError};
use crate::matcher::{Campaign, CampaignRow, Refusal};
use crate::model::ProjectId;
use crate::rules::{Condition, RuleError, RuleWarning};
use crate::segments::Segment;

impl Targeting {
    /// Checks a campaign: schedule, trigger, priority, segments, rules and targeting.
    pub fn check_campaign(
        &self,
        project: ProjectId,
        body: &Map<String, Value>,
    ) -> Result<Vec<Warning>, Error> {
        let row = CampaignRow {
            id: String::new(),
            seq: 0,
            version: 0,
            body: body.clone(),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        };
        let campaign =
            Campaign::compile(&row, &self.0.options.rules).map_err(|refusal| match refusal {
                Refusal::Rule(error) => refuse_rule(error),
                Refusal::Field { pointer, message } => Error::field(FieldError::body(
                    pointer.trim_start_matches('/'),
                    Value::Object(body.clone()).pointer(&pointer),
                    message,
                )),
            })?;
        let mut warnings = rule_warnings(campaign.targeting().map_or(&[], Condition::warnings));
        let snapshot = self.snapshot(project);
        for (pointer, reference) in campaign.segment_references() {
            if snapshot.segments().find(reference).is_none() {
                warnings.push(unknown_segment(pointer, reference));
            }
        }
        Ok(warnings)
    }

    /// Checks a segment before it is saved under `id` (`None` for a new one): rules, targeting, and
    /// that no segment would contain itself.
    pub fn check_segment(
        &self,
        project: ProjectId,
        id: Option<&str>,
        body: &Map<String, Value>,
    ) -> Result<Vec<Warning>, Error> {
        let segment = Segment::compile(id.unwrap_or_default(), body, &self.0.options.rules)
            .map_err(refuse_rule)?;
        let snapshot = self.snapshot(project);
        if let Some(path) = snapshot.segments().cycle_through(&segment) {
            return Err(Error::InvalidRule {
                pointer: "/targeting".to_owned(),
                message: format!(
                    "the segment would contain itself, by way of {}",
                    path.join(" > ")
                ),
            });
        }
        let mut warnings = rule_warnings(segment.warnings());
        for reference in segment.references() {
            if snapshot.segments().find(reference).is_none() {
                warnings.push(unknown_segment("/targeting".to_owned(), reference));
            }
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
        let mut warnings = rule_warnings(condition.warnings());
        let snapshot = self.snapshot(project);
        for reference in condition.segments() {
            if snapshot.segments().find(reference).is_none() {
                warnings.push(unknown_segment("/targeting".to_owned(), reference));
            }
        }
        if condition.mentions_event() {
            warnings.push(Warning {
                code: "event_in_flag",
                pointer: "/targeting".to_owned(),
                message: "a flag is read without an event, so what this says of one never holds"
                    .to_owned(),
            });
        }
        Ok(warnings)
    }
}

fn refuse_rule(error: RuleError) -> Error {
    Error::InvalidRule {
        pointer: error.pointer,
        message: error.message,
    }
}

fn rule_warnings(warnings: &[RuleWarning]) -> Vec<Warning> {
    warnings
        .iter()
        .map(|warning| Warning {
            code: warning.code,
            pointer: format!("/targeting{}", warning.pointer),
            message: warning.message.clone(),
        })
        .collect()
}

fn unknown_segment(pointer: String, reference: &str) -> Warning {
    Warning {
        code: "unknown_segment",
        pointer,
        message: format!("there is no segment {reference:?}; nobody is in it"),
    }
}
