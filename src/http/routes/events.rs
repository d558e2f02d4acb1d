//! Stored events, as admins read them.

use actix_web::{HttpResponse, get, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::{Error, FieldError};
use crate::http::auth::{Authorized, Read};
use crate::http::cursor;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::http::state::AppState;
use crate::model::{EventKind, ProjectId};
use crate::store::events::{self, EventFilter, StoredEvent};
use crate::store::people;

/// How far totals are counted: beyond this many rows a total is this number and `total_capped` is
/// true, so that a list costs the same however much there is.
pub(super) const TOTAL_MAX: i64 = 100_000;

/// A stored event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Event {
    /// Its id.
    id: Uuid,
    /// The user's id, else the anonymous one; always a text.
    user_id: String,
    /// Its name; the kind's word for what is no track.
    event: String,
    /// Its details, as they were sent.
    #[schema(value_type = Object)]
    properties: Box<RawValue>,
    /// When it happened, in milliseconds since 1970.
    ts: i64,
    /// `track`, `identify`, `page`, `screen`, `group` or `alias`.
    r#type: &'static str,
    /// The anonymous id, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    anonymous_id: Option<String>,
    /// The client's id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// Segment's context, as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    context: Option<Box<RawValue>>,
    /// When it happened.
    timestamp: DateTime<Utc>,
    /// When it was received.
    received_at: DateTime<Utc>,
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventList {
    /// The page, newest first by the time of receipt.
    events: Vec<Event>,
    /// How many the filter holds, counted up to 100,000.
    total: i64,
    /// True when there are more than `total`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_capped: bool,
    /// Reads the next page, as `cursor`; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl From<StoredEvent> for Event {
    fn from(stored: StoredEvent) -> Self {
        let user = stored.user_id.or_else(|| stored.anonymous_id.clone());
        Self {
            id: stored.id,
            user_id: user.unwrap_or_default(),
            event: stored.name,
            properties: stored
                .properties
                .and_then(raw)
                .or_else(|| raw("{}".to_owned()))
                .unwrap_or_default(),
            ts: stored.timestamp.timestamp_millis(),
            r#type: EventKind::from_i16(stored.kind).map_or("unknown", EventKind::as_str),
            anonymous_id: stored.anonymous_id,
            message_id: stored.message_id,
            context: stored.context.and_then(raw),
            timestamp: stored.timestamp,
            received_at: stored.received_at,
        }
    }
}

/// JSON text of the database, passed through without being taken apart.
fn raw(text: String) -> Option<Box<RawValue>> {
    RawValue::from_string(text).ok()
}

/// Lists events, newest first by the time of receipt.
#[utoipa::path(tag = "admin", operation_id = "list_events", security(("api_key" = ["read"])),
    params(
        ("limit" = Option<i64>, Query, description = "1 to 100, clamped; default 20."),
        ("offset" = Option<i64>, Query, description = "How many to skip, clamped; use `cursor` for deep pages."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before; goes before `offset`."),
        ("user_id" = Option<String>, Query, description = "Only those of this person, also under other ids."),
        ("anonymous_id" = Option<String>, Query, description = "As `user_id`, by an anonymous id."),
        ("event" = Option<String>, Query, description = "Only those of this name."),
        ("type" = Option<String>, Query, description = "Only those of this type."),
        ("from" = Option<String>, Query, description = "Only those received then or later; RFC 3339 or milliseconds."),
        ("to" = Option<String>, Query, description = "Only those received before."),
    ),
    responses((status = 200, description = "A page.", body = EventList)))]
#[get("/v1/admin/events")]
pub(super) async fn list_events(
    reader: Authorized<Read>,
    params: Params,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let project = reader.access.project;
    let mut page = Page::parse(&params)?;
    let names = params.identities()?;
    if !names.is_empty() {
        let family = state
            .store
            .browse(project, move |connection| {
                for name in names {
                    if let Some(person) = people::find(connection, project, &name)? {
                        return people::family(connection, project, person);
                    }
                }
                Ok(Vec::new())
            })
            .await?;
        page.filter.persons = Some(family);
    }
    let list = page.read(&state, project).await?;
    Ok(HttpResponse::Ok().json(list))
}

/// Which page of which events.
pub(super) struct Page {
    pub(super) filter: EventFilter,
    limit: i64,
    offset: i64,
}

impl Page {
    pub(super) fn parse(params: &Params) -> Result<Self, Error> {
        let kind = match params.get("type") {
            None => None,
            Some(word) => Some(parse_kind(word).ok_or_else(|| {
                let reason = "type must be track, identify, page, screen, group or alias";
                Error::field(FieldError::query("type", Some(&json!(word)), reason))
            })?),
        };
        let after = cursor::of(params)?.map(|(time, id)| (time, Uuid::from_bytes(id)));
        Ok(Self {
            filter: EventFilter {
                persons: None,
                name: params.text("event", 1_000)?.map(str::to_owned),
                kind,
                from: params.time("from")?,
                to: params.time("to")?,
                after,
            },
            limit: params.limit(20, 100)?,
            offset: if after.is_some() { 0 } else { params.offset()? },
        })
    }

    pub(super) async fn read(
        self,
        state: &AppState,
        project: ProjectId,
    ) -> Result<EventList, Error> {
        let (filter, limit, offset) = (self.filter, self.limit, self.offset);
        let (mut rows, total) = state
            .store
            .browse(project, move |connection| {
                // One row more than the page says whether there is another page.
                let rows = events::list(connection, project, &filter, limit + 1, offset)?;
                let total = events::count(connection, project, &filter, TOTAL_MAX + 1)?;
                Ok((rows, total))
            })
            .await?;
        let page_length = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > page_length;
        rows.truncate(page_length);
        let last = rows.last().filter(|_| more);
        Ok(EventList {
            next_cursor: last.map(|row| cursor::write(row.received_at, row.id.into_bytes())),
            events: rows.into_iter().map(Event::from).collect(),
            total: total.min(TOTAL_MAX),
            total_capped: total > TOTAL_MAX,
        })
    }
}

fn parse_kind(word: &str) -> Option<EventKind> {
    (0..=5)
        .filter_map(EventKind::from_i16)
        .find(|kind| kind.as_str() == word)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn an_event_of_somebody_anonymous_still_has_a_user_id() {
        let stored = StoredEvent {
            id: Uuid::nil(),
            kind: 2,
            name: "page".to_owned(),
            user_id: None,
            anonymous_id: Some("a-1".to_owned()),
            message_id: None,
            properties: None,
            context: Some(r#"{"n":1.0,"z":"\u0000"}"#.to_owned()),
            timestamp: DateTime::UNIX_EPOCH,
            received_at: DateTime::UNIX_EPOCH,
        };
        let text = serde_json::to_string(&Event::from(stored)).unwrap();
        assert!(text.contains(r#""user_id":"a-1""#), "{text}");
        assert!(text.contains(r#""properties":{}"#), "{text}");
        assert!(
            text.contains(r#""context":{"n":1.0,"z":"\u0000"}"#),
            "{text}"
        );
        assert!(text.contains(r#""type":"page""#), "{text}");
    }

    #[test]
    fn kinds_are_named_by_their_words() {
        assert_eq!(parse_kind("alias"), Some(EventKind::Alias));
        assert_eq!(parse_kind("Track"), None);
        assert!(Page::parse(&Params::parse("type=x")).is_err());
    }
}
