//! What ingest answers: one superset that every client understands.
//!
//! Campaigns, properties and traits are JSON text already, so an answer is written by putting texts
//! together; nothing is parsed again.

use std::convert::Infallible;
use std::iter::Enumerate;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use serde_json::Value;

use crate::error::Error;
use crate::http::auth::Scope;
use crate::ingest::decode::Rejection;
use crate::ingest::{Outcome, Stored};
use crate::model::{Dialect, EventId, EventKind};
use crate::targeting::Matches;

/// About what an answer to one call holds beside the campaigns and the event.
const FRAME_BYTES: usize = 256;

const OK: &str = r#"{"ok":true,"success":true,"status":1"#;

/// The answer to a single call.
///
/// A rejected one is answered 200 where its client would otherwise send it for ever: Segment's
/// dialect, and the seed's when the event carries an id (its Flutter client queues and replays
/// those). Without an id it is the seed's refusal.
pub(super) fn single(outcome: Outcome, dialect: Dialect, scope: Scope) -> Result<String, Error> {
    match outcome {
        Outcome::Stored(stored) if stored.event.call.kind() == EventKind::Identify => {
            Ok(identified(&stored, scope))
        }
        Outcome::Stored(stored) => Ok(tracked(&stored)),
        Outcome::Rejected(rejection) => {
            if dialect == Dialect::Seed && rejection.message_id.is_none() {
                return Err(rejection.into_error());
            }
            let mut text = format!(r#"{OK},"matched":[],"rejected":["#);
            push_rejection(&mut text, 0, &rejection);
            text.push_str("]}");
            Ok(text)
        }
    }
}

/// The answer to what is dropped on purpose.
pub(super) fn dropped() -> String {
    format!("{OK}}}")
}

/// The answer to a list. `with_matches` adds what each event led to.
pub(super) fn batch(outcomes: Vec<Outcome>, with_matches: bool) -> BoxBody {
    let (mut accepted, mut duplicates) = (0_usize, 0_usize);
    let mut rejected = String::new();
    for (index, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Outcome::Stored(stored) if stored.duplicate => duplicates += 1,
            Outcome::Stored(_) => accepted += 1,
            Outcome::Rejected(rejection) => {
                separate(&mut rejected);
                push_rejection(&mut rejected, index, rejection);
            }
        }
    }
    let head =
        format!(r#"{OK},"accepted":{accepted},"duplicates":{duplicates},"rejected":[{rejected}]"#);
    if !with_matches {
        return BoxBody::new(head + "}");
    }
    // Collecting would keep the old list's memory, whose entries are larger.
    let mut listed = Vec::with_capacity(outcomes.len());
    listed.extend(outcomes.into_iter().map(Listed::of));
    let mut results = Results {
        begun: format!(r#"{head},"results":["#),
        listed: listed.into_iter().enumerate(),
        has_ended: false,
    };
    let first = results.part(WHOLE_BYTES);
    if results.has_ended {
        return BoxBody::new(first);
    }
    results.begun = first;
    BoxBody::new(results)
}

/// Answers up to this size are written at once, and have a `Content-Length`.
const WHOLE_BYTES: usize = 256 * 1024;

/// How much of a larger one is written before some of it is sent.
const PART_BYTES: usize = 32 * 1024;

/// The answer to a list with what each event led to, written as it is sent: the same campaigns may
/// be in it thousands of times.
struct Results {
    /// What is written and not sent.
    begun: String,
    listed: Enumerate<IntoIter<Option<Listed>>>,
    has_ended: bool,
}

/// What is written of an event that was stored. A client may take its time to read the answer, and
/// by then the request's share of memory was given back; so the event itself is not kept for it.
struct Listed {
    id: EventId,
    duplicate: bool,
    matched: Matches,
}

impl Listed {
    fn of(outcome: Outcome) -> Option<Self> {
        let Outcome::Stored(stored) = outcome else {
            return None;
        };
        Some(Self {
            id: stored.id,
            duplicate: stored.duplicate,
            matched: stored.matched,
        })
    }
}

impl Results {
    /// The next part of about so many bytes, empty at the end.
    fn part(&mut self, bytes: usize) -> String {
        let mut text = std::mem::take(&mut self.begun);
        while text.len() < bytes && !self.has_ended {
            match self.listed.next() {
                Some((index, listed)) => push_result(&mut text, index, listed.as_ref()),
                None => {
                    text.push_str("]}");
                    self.has_ended = true;
                }
            }
        }
        text
    }
}

impl MessageBody for Results {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let part = self.get_mut().part(PART_BYTES);
        Poll::Ready((!part.is_empty()).then(|| Ok(Bytes::from(part))))
    }
}

fn push_result(text: &mut String, index: usize, listed: Option<&Listed>) {
    if index > 0 {
        text.push(',');
    }
    text.push_str(&format!(r#"{{"index":{index},"matched":["#));
    if let Some(listed) = listed {
        push_campaigns(text, &listed.matched);
    }
    text.push(']');
    if let Some(listed) = listed {
        text.push_str(&format!(r#","id":"{}""#, listed.id.0));
        push_duplicate(text, listed.duplicate);
    }
    text.push('}');
}

fn tracked(stored: &Stored) -> String {
    let event = &stored.event;
    let campaigns: usize = stored.matched.iter().map(|it| it.json.len() + 1).sum();
    let mut text = String::with_capacity(campaigns + event.size_bytes + FRAME_BYTES);
    text.push_str(OK);
    text.push_str(r#","matched":["#);
    push_campaigns(&mut text, &stored.matched);
    text.push_str(&format!(r#"],"event":{{"id":"{}","user_id":"#, stored.id.0));
    let user = event.identity().map(|identity| identity.value());
    push_string(&mut text, user.unwrap_or_default());
    text.push_str(r#","event":"#);
    push_string(&mut text, event.call.name());
    text.push_str(r#","properties":"#);
    let properties = event.call.properties();
    text.push_str(properties.map_or("{}", |properties| properties.as_str()));
    let ts = event.timestamp.timestamp_millis();
    text.push_str(&format!(r#","ts":{ts}}}"#));
    push_duplicate(&mut text, stored.duplicate);
    text.push('}');
    text
}

/// A client key is public: it must not read traits that others sent, only those of this call.
fn identified(stored: &Stored, scope: Scope) -> String {
    let mut text = format!(r#"{OK},"user":"#);
    match scope {
        Scope::Admin => text.push_str(stored.traits.as_deref().unwrap_or("{}")),
        Scope::Client | Scope::Read => {
            let traits = stored.event.call.properties();
            text.push_str(traits.map_or("{}", |traits| traits.as_str()));
        }
    }
    push_duplicate(&mut text, stored.duplicate);
    text.push('}');
    text
}

/// Writes campaigns, which are text already.
pub(in crate::http::routes) fn push_campaigns(text: &mut String, campaigns: &Matches) {
    for (index, campaign) in campaigns.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&campaign.json);
    }
}

fn push_duplicate(text: &mut String, duplicate: bool) {
    if duplicate {
        text.push_str(r#","duplicate":true"#);
    }
}

fn push_rejection(text: &mut String, index: usize, rejection: &Rejection) {
    let code = rejection.code.as_str();
    text.push_str(&format!(r#"{{"index":{index},"code":"{code}","message":"#));
    push_string(text, &rejection.message);
    text.push('}');
}

fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push(',');
    }
}

fn push_string(text: &mut String, value: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if value.bytes().all(is_plain) {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&Value::from(value).to_string());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use std::collections::HashMap;
    use std::sync::Arc;

    use serde_json::json;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use std::task::Waker;

    use super::*;
    use crate::error::{Code, FieldError};
    use crate::ingest::decode::{Origin, Route};
    use crate::matcher::{Campaign, CampaignRow, Snapshot};
    use crate::model::{Call, Event, EventId, EventName, Identity, RawJson};
    use crate::rules::{FactsArena, Limits, Object, UserFacts};
    use crate::segments::Segments;

    fn raw(text: &str) -> Option<RawJson> {
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        Some(RawJson::from_checked(raw))
    }

    /// Two campaigns that everybody should see.
    fn matches() -> Matches {
        let campaigns = ["c1", "c2"].map(|id| {
            let row = CampaignRow::of(id, &json!({"status": "active"}));
            Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
        });
        let (segments, flags) = (Segments::default(), HashMap::new());
        let snapshot = Snapshot::new(1, campaigns.into(), segments, flags);
        let user = UserFacts {
            id: "u",
            traits: Object::EMPTY,
            created_at: chrono::DateTime::UNIX_EPOCH,
            last_seen_at: chrono::DateTime::UNIX_EPOCH,
        };
        let arena = FactsArena::new();
        let now = chrono::DateTime::UNIX_EPOCH;
        snapshot.on_fetch(user, now, &arena).matched
    }

    fn stored(call: Call) -> Box<Stored> {
        let time = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
        Box::new(Stored {
            event: Event {
                dialect: Dialect::Seed,
                call,
                user: None,
                anonymous: Some(Identity::anonymous("a\"1").unwrap()),
                message_id: None,
                timestamp: time,
                received_at: time,
                context: None,
                size_bytes: 0,
                replay_of: None,
            },
            id: EventId(Uuid::nil()),
            duplicate: false,
            matched: matches(),
            traits: Some(Arc::from(r#"{"secret": 1}"#)),
        })
    }

    fn rejection(message_id: Option<&str>) -> Outcome {
        Outcome::Rejected(Rejection {
            code: Code::InvalidField,
            message: "event \"name\" too long".to_owned(),
            fields: vec![FieldError::body("event", None, "event name too long")],
            payload: "{}".to_owned(),
            message_id: message_id.map(str::to_owned),
            origin: Origin {
                route: Route::Track,
                received_at: chrono::DateTime::UNIX_EPOCH,
                timestamp: chrono::DateTime::UNIX_EPOCH,
                context: None,
                is_cut: false,
                replay_of: None,
            },
        })
    }

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn track_answers_with_matches_and_the_event_as_sent() {
        let call = Call::Track {
            name: EventName::parse("Order").unwrap(),
            properties: raw(r#"{"n":1.0,"z":"\u0000"}"#),
        };
        let text = single(Outcome::Stored(stored(call)), Dialect::Seed, Scope::Client).unwrap();
        assert!(
            text.contains(r#""properties":{"n":1.0,"z":"\u0000"}"#),
            "{text}"
        );
        let answer = parse(&text);
        assert_eq!(answer["matched"][0]["id"], "c1");
        assert_eq!(answer["matched"][1]["id"], "c2");
        assert_eq!(answer["event"]["user_id"], "a\"1");
        assert_eq!(answer["event"]["ts"], 1_700_000_000_123_i64);
        assert_eq!(answer.get("duplicate"), None);
        assert_eq!(
            (&answer["ok"], &answer["status"]),
            (&json!(true), &json!(1))
        );
    }

    #[test]
    fn identify_shows_merged_traits_to_admins_only() {
        let answer = |scope| {
            let call = Call::Identify {
                traits: raw(r#"{"mine":1}"#),
            };
            let text = single(Outcome::Stored(stored(call)), Dialect::Seed, scope).unwrap();
            parse(&text)["user"].clone()
        };
        assert_eq!(answer(Scope::Client), json!({"mine": 1}));
        assert_eq!(answer(Scope::Admin), json!({"secret": 1}));
    }

    #[test]
    fn a_rejected_event_is_an_error_only_where_nobody_would_replay_it() {
        let seed = |id| single(rejection(id), Dialect::Seed, Scope::Client);
        assert!(matches!(seed(None), Err(Error::Validation { .. })));
        let answer = parse(&seed(Some("e1")).unwrap());
        assert_eq!(answer["matched"], json!([]));
        assert_eq!(answer["rejected"][0]["code"], "invalid_field");
        assert!(single(rejection(None), Dialect::Segment, Scope::Client).is_ok());
    }

    #[test]
    fn a_batch_counts_each_event_once() {
        let call = || Call::Page { properties: None };
        let outcomes = || {
            let mut duplicate = stored(call());
            duplicate.duplicate = true;
            vec![
                Outcome::Stored(stored(call())),
                rejection(None),
                Outcome::Stored(duplicate),
                rejection(Some("x")),
            ]
        };
        let answer = parse(&sent(batch(outcomes(), false)).concat());
        assert_eq!(
            (&answer["accepted"], &answer["duplicates"]),
            (&json!(1), &json!(1))
        );
        let indexes: Vec<_> = answer["rejected"].as_array().unwrap().iter().collect();
        assert_eq!(
            (&indexes[0]["index"], &indexes[1]["index"]),
            (&json!(1), &json!(3))
        );
        assert_eq!(answer.get("results"), None);
        let answer = parse(&sent(batch(outcomes(), true)).concat());
        assert_eq!(answer["results"].as_array().unwrap().len(), 4);
        assert_eq!(answer["results"][2]["duplicate"], true);
        assert_eq!(answer["results"][1]["matched"], json!([]));
    }

    /// The parts of a body that waits for nothing.
    fn sent(mut body: BoxBody) -> Vec<String> {
        let mut context = Context::from_waker(Waker::noop());
        let mut parts = Vec::new();
        while let Poll::Ready(Some(part)) = Pin::new(&mut body).poll_next(&mut context) {
            parts.push(String::from_utf8(part.unwrap().to_vec()).unwrap());
        }
        parts
    }

    /// A public key could have a node hold gigabytes otherwise.
    #[test]
    fn a_large_answer_is_written_as_it_is_sent() {
        let outcomes = |count| {
            let outcome = |_| Outcome::Stored(stored(Call::Page { properties: None }));
            (0..count).map(outcome).collect()
        };
        let small = batch(outcomes(100), true);
        assert!(matches!(small.size(), BodySize::Sized(_)));
        let parts = sent(batch(outcomes(20_000), true));
        let (first, others) = parts.split_first().unwrap();
        assert!(first.len() < WHOLE_BYTES + PART_BYTES && others.len() > 2);
        assert!(others.iter().all(|part| part.len() < 2 * PART_BYTES));
        let answer = parse(&parts.concat());
        assert_eq!(answer["results"].as_array().unwrap().len(), 20_000);
        assert_eq!(answer["results"][19_999]["index"], 19_999);
    }

    #[test]
    fn an_answer_that_waits_for_its_client_keeps_no_event() {
        let traits: Arc<str> = Arc::from("{}");
        let outcomes = |count| {
            let outcome = |_| {
                let mut stored = stored(Call::Page { properties: None });
                stored.traits = Some(Arc::clone(&traits));
                Outcome::Stored(stored)
            };
            (0..count).map(outcome).collect()
        };
        let body = batch(outcomes(20_000), true);
        assert!(matches!(body.size(), BodySize::Stream));
        // An event's traits are let go with the event.
        assert_eq!(Arc::strong_count(&traits), 1);
        assert!(size_of::<Option<Listed>>() <= 80);
        let answer = parse(&sent(body).concat());
        assert_eq!(answer["results"].as_array().unwrap().len(), 20_000);
    }
}
