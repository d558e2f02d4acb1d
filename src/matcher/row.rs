//! A campaign as it is stored, and as it is sent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use crate::error::FieldError;
use crate::model::unfit;

/// A campaign as it is stored.
#[derive(Debug, Clone)]
pub struct CampaignRow {
    /// Its id within the project.
    pub id: String,
    /// The order of creation within one instant.
    pub seq: i64,
    /// Counts the changes.
    pub version: i64,
    /// Every field the admin wrote, without `id`, `createdAt` and `updatedAt`.
    pub body: Map<String, Value>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
}

const NAME_CHARS_MAX: usize = 255;
const TRIGGER_CHARS_MAX: usize = 200;
const STATUSES: [&str; 3] = ["active", "paused", "draft"];

/// The fields of a campaign as it is sent that cannot be stored, with `prefix` before their names.
/// Whether its rules compile is not looked at.
pub fn refused_fields(
    body: &Map<String, Value>,
    prefix: &str,
    name_required: bool,
) -> Vec<FieldError> {
    let mut fields = Vec::new();
    let mut refuse = |name: &str, message: &str| {
        fields.push(FieldError::body(
            &format!("{prefix}{name}"),
            body.get(name),
            message,
        ));
    };
    match body.get("name") {
        None if !name_required => {}
        Some(Value::String(name)) if !name.trim().is_empty() => {
            if let Some(reason) = unfit(name, NAME_CHARS_MAX) {
                refuse("name", &format!("Campaign name {reason}"));
            }
        }
        _ => refuse("name", "Campaign name is required"),
    }
    match body.get("status") {
        None => {}
        Some(Value::String(status)) if STATUSES.contains(&status.as_str()) => {}
        Some(_) => refuse("status", "Invalid status"),
    }
    match body.get("trigger") {
        None | Some(Value::Null) => {}
        Some(Value::String(trigger)) => {
            if let Some(reason) = unfit(trigger, TRIGGER_CHARS_MAX) {
                refuse("trigger", &format!("trigger {reason}"));
            }
        }
        Some(_) => refuse("trigger", "trigger must be a string"),
    }
    if !matches!(
        body.get("rules"),
        None | Some(Value::Null | Value::Array(_))
    ) {
        refuse("rules", "rules must be an array");
    }
    if !matches!(
        body.get("config"),
        None | Some(Value::Null | Value::Object(_))
    ) {
        refuse("config", "config must be an object");
    }
    fields
}

#[cfg(test)]
impl CampaignRow {
    /// One with this body, an object, that was made at the beginning of 1970.
    pub(crate) fn of(id: &str, body: &Value) -> Self {
        Self {
            id: id.to_owned(),
            seq: 1,
            version: 1,
            body: body.as_object().cloned().unwrap_or_default(),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        }
    }
}

impl CampaignRow {
    /// The campaign as clients and admins receive it: the body with its id and times; `rules` is
    /// always an array and `config` always an object.
    pub fn to_json(&self) -> Map<String, Value> {
        let members = self.members().into_iter();
        members
            .map(|(name, value)| (name.to_owned(), value.into_owned()))
            .collect()
    }

    /// The same as text, and where in it the targeting stands.
    pub(super) fn to_text(&self) -> (String, Option<Range<usize>>) {
        let mut text = String::new();
        let mut targeting = None;
        for (name, value) in self.members() {
            text.push(if text.is_empty() { '{' } else { ',' });
            // Nothing fails where a text is written to.
            let _ = write!(text, "{}:", Value::from(name));
            let start = text.len();
            let _ = write!(text, "{value}");
            if name == "targeting" {
                targeting = Some(start..text.len());
            }
        }
        text.push('}');
        (text, targeting)
    }

    fn members(&self) -> BTreeMap<&str, Cow<'_, Value>> {
        let body = self.body.iter();
        let mut members: BTreeMap<_, _> = body
            .map(|(name, value)| (name.as_str(), Cow::Borrowed(value)))
            .collect();
        if !self.body.get("rules").is_some_and(Value::is_array) {
            members.insert("rules", Cow::Owned(json!([])));
        }
        if !self.body.get("config").is_some_and(Value::is_object) {
            members.insert("config", Cow::Owned(json!({})));
        }
        members.insert("id", Cow::Owned(Value::from(self.id.as_str())));
        members.insert("createdAt", instant(self.created_at));
        if let Some(at) = self.updated_at {
            members.insert("updatedAt", instant(at));
        }
        members
    }
}

fn instant(at: DateTime<Utc>) -> Cow<'static, Value> {
    Cow::Owned(Value::String(
        at.to_rfc3339_opts(SecondsFormat::Millis, true),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::matcher::Campaign;
    use crate::rules::Limits;

    #[test]
    fn the_text_is_that_of_the_object() {
        let condition = json!({"==": [{"var": "user.traits.\u{e9}\n"}, "\"b\" \u{1f600}"]});
        for body in [
            json!({}),
            json!({"config": 5, "rules": {"and": []}, "id": "another", "createdAt": 7}),
            json!({"config": {"a": 1}, "rules": [{"x": "\n"}], "targeting": condition, "z\"": null}),
            json!({"targeting": condition, "copy": condition, "updatedAt": true}),
        ] {
            for updated_at in [None, Some(DateTime::UNIX_EPOCH)] {
                let row = CampaignRow {
                    updated_at,
                    ..CampaignRow::of("a \"quoted\" id", &body)
                };
                let (text, targeting) = row.to_text();
                assert_eq!(text, Value::Object(row.to_json()).to_string());
                let part = targeting.map(|part| text.get(part).unwrap().to_owned());
                assert_eq!(part, body.get("targeting").map(Value::to_string));
            }
        }
    }

    #[test]
    fn a_campaign_keeps_its_condition_once() {
        let condition = json!({"==": [{"var": "user.traits.plan"}, "pro"]});
        let row = CampaignRow::of("c", &json!({"name": "N", "targeting": condition}));
        let campaign = Campaign::compile(&row, &Limits::default()).unwrap();
        let source = campaign.targeting().unwrap().source();
        assert_eq!(source, condition.to_string());
        assert!(
            campaign
                .json
                .as_bytes()
                .as_ptr_range()
                .contains(&source.as_ptr())
        );
    }
}
