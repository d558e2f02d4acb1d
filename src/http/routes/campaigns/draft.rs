//! A campaign on its way from an admin to the database and back. Pure.
//!
//! The whole object is stored as it will be answered; the columns beside it are read from it. What
//! Beckon does not know is kept and returned.

use serde_json::{Map, Value, json};

use crate::error::{Code, Error};
use crate::http::routes::author::seed_time;
use crate::matcher;
use crate::store::campaigns::StoredCampaign;

/// Members that the server gives; a client's are ignored. `warnings` is a part of the answer to a
/// save, which a client may send back.
const SERVERS_OWN: [&str; 4] = ["id", "createdAt", "updatedAt", "warnings"];

/// What Beckon knows of a campaign's evaluation: it is answered and not stored.
pub(super) const EVALUATION: &str = "evaluation";

/// A campaign whose fields are in order; whether its rules compile is for `targeting` to say.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) body: Map<String, Value>,
}

impl Draft {
    /// A new campaign.
    pub(super) fn new(mut body: Map<String, Value>, id: &str, at: &str) -> Result<Self, Error> {
        drop_servers_own(&mut body);
        body.remove(EVALUATION);
        check_fields(&body, true)?;
        normalize(&mut body);
        let kind = kind_of(&body);
        body.insert("type".into(), kind);
        body.insert("id".into(), json!(id));
        body.insert("createdAt".into(), json!(at));
        Ok(Self { body })
    }

    /// A stored campaign with the members of `patch` in place of its own.
    pub(super) fn merged(
        stored: StoredCampaign,
        patch: Map<String, Value>,
        at: &str,
        bytes_max: usize,
    ) -> Result<Self, Error> {
        // `check_patch` has looked at what was sent. What is stored may be odd, since an import keeps
        // what it is given: what cannot be compiled is refused by `targeting`, and the rest is no
        // reason to refuse a change of something else.
        let mut body = as_stored(stored);
        body.extend(patch);
        normalize(&mut body);
        let kind = kind_of(&body);
        body.insert("type".into(), kind);
        body.insert("updatedAt".into(), json!(at));
        check_size(&body, bytes_max)?;
        Ok(Self { body })
    }

    pub(super) fn name(&self) -> &str {
        text(&self.body, "name").unwrap_or_default().trim()
    }

    pub(super) fn status(&self) -> Option<&str> {
        text(&self.body, "status")
    }

    /// The event; an empty text is none, as dashboards write it.
    pub(super) fn trigger(&self) -> Option<&str> {
        text(&self.body, "trigger").filter(|trigger| !trigger.is_empty())
    }
}

/// The members of a change, without those that are the server's.
pub(super) fn check_patch(mut patch: Map<String, Value>) -> Result<Map<String, Value>, Error> {
    drop_servers_own(&mut patch);
    patch.remove(EVALUATION);
    check_fields(&patch, false)?;
    Ok(patch)
}

/// The whole object of a stored campaign, however odd.
pub(super) fn as_stored(stored: StoredCampaign) -> Map<String, Value> {
    let mut body = match stored.body {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    body.insert("id".into(), json!(stored.id));
    body.entry("name").or_insert_with(|| json!(stored.name));
    body.entry("createdAt")
        .or_insert_with(|| json!(seed_time(stored.created_at)));
    if let Some(at) = stored.updated_at {
        body.entry("updatedAt")
            .or_insert_with(|| json!(seed_time(at)));
    }
    let kind = kind_of(&body);
    body.insert("type".into(), kind);
    body
}

/// A campaign as clients receive it: `rules` is always an array and `config` an object.
pub(super) fn into_answer(mut body: Map<String, Value>) -> Map<String, Value> {
    if !body.get("rules").is_some_and(Value::is_array) {
        body.insert("rules".into(), json!([]));
    }
    if !body.get("config").is_some_and(Value::is_object) {
        body.insert("config".into(), json!({}));
    }
    body
}

/// Takes away what only the server may say, of campaigns and segments alike.
pub(in crate::http::routes) fn drop_servers_own(body: &mut Map<String, Value>) {
    for name in SERVERS_OWN {
        body.remove(name);
    }
}

/// The body's type, else its config's, else `modal`. Any type is taken and returned as given.
fn kind_of(body: &Map<String, Value>) -> Value {
    let of_config = body.get("config").and_then(|config| config.get("type"));
    [body.get("type"), of_config]
        .into_iter()
        .flatten()
        .find(|kind| !kind.is_null() && *kind != "")
        .cloned()
        .unwrap_or_else(|| json!("modal"))
}

fn normalize(body: &mut Map<String, Value>) {
    if body.get("rules").is_none_or(Value::is_null) {
        body.insert("rules".into(), json!([]));
    }
    if body.get("config").is_none_or(Value::is_null) {
        body.insert("config".into(), json!({}));
    }
}

fn check_fields(body: &Map<String, Value>, name_required: bool) -> Result<(), Error> {
    Error::if_refused(matcher::refused_fields(body, "", name_required))
}

/// Many small changes must not add up to an object that no request could have sent.
pub(in crate::http::routes) fn check_size(
    body: &Map<String, Value>,
    bytes_max: usize,
) -> Result<(), Error> {
    let bytes = serde_json::to_vec(body).map_or(0, |text| text.len());
    if bytes > bytes_max {
        return Err(Error::TooLarge {
            code: Code::BodyTooLarge,
            message: format!("The object is larger than {bytes_max} bytes"),
        });
    }
    Ok(())
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn new(value: Value) -> Result<Draft, Error> {
        Draft::new(object(value), "c-1", "2026-01-01T00:00:00.000Z")
    }

    fn stored(draft: &Draft) -> StoredCampaign {
        StoredCampaign {
            id: "c-1".to_owned(),
            name: draft.name().to_owned(),
            status: None,
            trigger: None,
            body: Value::Object(draft.body.clone()),
            version: 1,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: None,
            quarantined_at: None,
            quarantine_reason: None,
            quarantine_failures: None,
        }
    }

    #[test]
    fn the_server_gives_id_time_and_type() {
        let draft = new(json!({
            "id": "mine", "createdAt": "x", "updatedAt": "y", "warnings": [], "evaluation": {}, "name": " N ",
            "config": {"type": "floater"}, "odd": {"kept": true}
        }))
        .unwrap();
        assert_eq!(
            Value::Object(draft.body.clone()),
            json!({"id": "c-1", "createdAt": "2026-01-01T00:00:00.000Z", "name": " N ",
                   "type": "floater", "config": {"type": "floater"}, "rules": [],
                   "odd": {"kept": true}})
        );
        assert_eq!(draft.name(), "N");
        assert_eq!(new(json!({"name": "N"})).unwrap().body["type"], "modal");
        let typed = new(json!({"name": "N", "type": "bottomsheet"})).unwrap();
        assert_eq!(typed.body["type"], "bottomsheet");
    }

    #[test]
    fn refusals_are_the_seeds() {
        let Err(Error::Validation { fields, .. }) = new(json!({"status": "weird"})) else {
            unreachable!("the campaign is refused");
        };
        let texts: Vec<_> = fields.iter().map(|field| field.msg.as_str()).collect();
        assert_eq!(texts, ["Campaign name is required", "Invalid status"]);
        assert_eq!(fields[0].value, "");
        for odd in [
            json!({"name": "N", "rules": {"a": 1}}),
            json!({"name": "N", "config": []}),
            json!({"name": "N", "trigger": 5}),
            json!({"name": "a\u{0}b"}),
            json!({"name": "x".repeat(256)}),
            json!({"name": 5}),
        ] {
            assert!(new(odd.clone()).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_change_replaces_whole_members_and_keeps_the_rest() {
        let draft = new(json!({"name": "N", "config": {"a": 1, "b": 2}, "odd": 1})).unwrap();
        let patch = check_patch(object(json!({"id": "x", "config": {"c": 3}}))).unwrap();
        let merged = Draft::merged(stored(&draft), patch, "later", 10_000).unwrap();
        assert_eq!(merged.body["config"], json!({"c": 3}));
        assert_eq!(merged.body["odd"], 1);
        assert_eq!(merged.body["id"], "c-1");
        assert_eq!(merged.body["updatedAt"], "later");
        assert_eq!(merged.body["createdAt"], "2026-01-01T00:00:00.000Z");
    }

    #[test]
    fn changes_do_not_add_up_to_something_endless() {
        let draft = new(json!({"name": "N"})).unwrap();
        let patch = object(json!({"odd": "x".repeat(500)}));
        let merged = Draft::merged(stored(&draft), patch, "later", 400);
        assert!(matches!(merged, Err(Error::TooLarge { .. })));
    }

    #[test]
    fn what_was_imported_bare_is_answered_whole() {
        let mut bare = stored(&new(json!({"name": "N"})).unwrap());
        bare.body = json!({"rules": null});
        let answer = into_answer(as_stored(bare));
        assert_eq!(
            Value::Object(answer),
            json!({"id": "c-1", "name": "N", "createdAt": "1970-01-01T00:00:00.000Z",
                   "type": "modal", "rules": [], "config": {}})
        );
    }
}
