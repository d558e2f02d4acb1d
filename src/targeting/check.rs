//! Checks segments and flags that an admin wants to save, without saving them.

use diesel::PgConnection;
use serde_json::{Map, Value};

use super::{Targeting, live};
use crate::error::{Error, WarningCode};
use crate::matcher::Snapshot;
use crate::model::ProjectId;
use crate::rules::{Condition, RuleError, RuleWarning};
use crate::segments::{CHAIN_MAX, Segment, Segments};

/// How many of each kind a warning names.
const SHOWN_MAX: usize = 5;

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

impl Warning {
    pub(super) fn not_live_yet() -> Self {
        Self {
            code: WarningCode::NotLiveYet,
            pointer: String::new(),
            message: "the change is stored, and takes effect once it could be read back, which is \
                      tried again and again"
                .to_owned(),
        }
    }
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
        warnings.extend(rule_warnings("/rules", segment.rules().warnings()));
        warnings.extend(event_in_segment(&segment));
        warnings.extend(name_taken(&held, &segment));
        let former = held.list().iter().find(|held| held.id == segment.id);
        if let Some(former) = former.filter(|former| former.name != segment.name) {
            let names = meant(&held, former, &[&former.name]);
            warnings.extend(in_use(&snapshot, &held, former, &names, "/name"));
        }
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

    /// What to say of a segment that is about to be deleted, within the change that does it.
    pub fn check_segment_gone(
        &self,
        connection: &mut PgConnection,
        project: ProjectId,
        id: &str,
    ) -> Result<Vec<Warning>, Error> {
        let snapshot = self.snapshot(project);
        let held = live::segments(connection, project, &snapshot, &self.0.options.rules)?;
        let Some(gone) = held.list().iter().find(|held| held.id == id) else {
            return Ok(Vec::new());
        };
        let names = meant(&held, gone, &[&gone.id, &gone.name]);
        let warning = in_use(&snapshot, &held, gone, &names, "");
        Ok(warning.into_iter().collect())
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

fn event_in_segment(segment: &Segment) -> Option<Warning> {
    let pointer = if segment.rules().mentions_event() {
        "/rules"
    } else if segment.targeting().is_some_and(Condition::mentions_event) {
        "/targeting"
    } else {
        return None;
    };
    Some(Warning {
        code: WarningCode::EventInSegment,
        pointer: pointer.to_owned(),
        message: "who is in a segment is asked without an event, so what this says of one never \
                  holds"
            .to_owned(),
    })
}

/// Another segment that a rule may mean by this one's name.
fn name_taken(held: &Segments, segment: &Segment) -> Option<Warning> {
    let mut others = held.list().iter().filter(|it| it.id != segment.id);
    let other = others.find(|it| it.name == segment.name || it.id == segment.name)?;
    let meant = held.find(&segment.name).unwrap_or(other);
    Some(Warning {
        code: WarningCode::SegmentNameTaken,
        pointer: "/name".to_owned(),
        message: format!(
            "segment {:?} has this name or id too; rules that use it mean segment {:?}",
            other.id, meant.id
        ),
    })
}

/// Those of the references to a segment that rules mean it by.
fn meant<'r>(held: &Segments, segment: &Segment, references: &[&'r str]) -> Vec<&'r str> {
    let is_meant = |reference: &&str| held.find(reference).is_some_and(|it| it.id == segment.id);
    references.iter().copied().filter(is_meant).collect()
}

/// What names a segment by one of these references, which will not lead to it any more.
fn in_use(
    snapshot: &Snapshot,
    held: &Segments,
    segment: &Segment,
    references: &[&str],
    pointer: &str,
) -> Option<Warning> {
    let names = |reference: &str| references.contains(&reference.trim());
    let campaigns = snapshot.campaigns().iter().filter(|campaign| {
        let mut segments = campaign.segment_references().into_iter();
        segments.any(|(_, reference)| names(reference))
    });
    let others = held.list().iter().filter(|it| it.id != segment.id);
    let segments = others.filter(|it| it.references().iter().any(|it| names(it)));
    let flags = snapshot.flags().filter(|(_, flag)| {
        let targeting = flag.targeting.as_ref();
        targeting.is_some_and(|it| it.segments().iter().any(|it| names(it)))
    });
    let users = [
        listed("campaign", campaigns.map(|it| it.id.as_str())),
        listed("segment", segments.map(|it| it.name.as_str())),
        listed("flag", flags.map(|(key, _)| key)),
    ];
    let users: Vec<String> = users.into_iter().flatten().collect();
    if users.is_empty() {
        return None;
    }
    Some(Warning {
        code: WarningCode::SegmentInUse,
        pointer: pointer.to_owned(),
        message: format!(
            "this segment is named by {}; they mean another one from now on, or nobody",
            users.join(", ")
        ),
    })
}

/// The first few of these, with their kind, and how many more there are.
fn listed<'n>(kind: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN_MAX)
        .map(|it| format!("{kind} {it:?}"))
        .collect();
    let more = names.len().saturating_sub(SHOWN_MAX);
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown.join(", ")),
        (false, more) => Some(format!("{}, {more} more {kind}s", shown.join(", "))),
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
