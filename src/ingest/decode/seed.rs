//! The seed's own dialect: `user_id` and `event`, read with the leniency and refused in the words
//! of its validator, because its clients show those words.
//!
//! Members the engine has no place for (`sdk_version`, `page`, `external_id`, …) are kept in the
//! event's context under their own names, unless they are null; the client's own `context` wins
//! where a name is in both.

use serde_json::Value;
use serde_json::value::RawValue;

use super::members::{Field, Members, is_null, is_object, union};
use super::text::{Text, cut, shown, trimmed};
use super::{DecodeLimits, Refusal, Request};
use crate::error::{Code, FieldError};
use crate::model::{Call, Dialect, Event, EventName, Identity, MessageId, RawJson};

pub(super) fn track(
    request: &Request<'_>,
    text: &str,
    members: &Members<'_>,
) -> Result<Event, Refusal> {
    let mut refused = Refused::default();
    let who = who(members, &mut refused);
    let name = name(members, &mut refused);
    let properties = match members.get(Field::Properties) {
        Some(value) if !is_object(value) => {
            refused.raw("properties", value, "properties must be an object");
            None
        }
        value => value.map(|value| RawJson::from_checked(value.to_owned())),
    };
    let message_id = message_id(request.limits, members, &mut refused);
    match (who, name) {
        (Some(who), Some(name)) if refused.fields.is_empty() => {
            let call = Call::Track { name, properties };
            Ok(event(request, text, members, who, call, message_id))
        }
        _ => Err(refused.into_refusal()),
    }
}

pub(super) fn identify(
    request: &Request<'_>,
    text: &str,
    members: &Members<'_>,
) -> Result<Event, Refusal> {
    let mut refused = Refused::default();
    let who = who(members, &mut refused);
    let traits = match members.raw(Field::Traits) {
        Some(value) if !is_object(value) => {
            refused.raw("traits", value, "traits must be an object");
            None
        }
        value => value.map(|value| RawJson::from_checked(value.to_owned())),
    };
    let message_id = message_id(request.limits, members, &mut refused);
    match who {
        Some(who) if refused.fields.is_empty() => {
            let call = Call::Identify { traits };
            Ok(event(request, text, members, who, call, message_id))
        }
        _ => Err(refused.into_refusal()),
    }
}

struct Who {
    user: Option<Identity>,
    anonymous: Option<Identity>,
}

/// The refusals of one event, in the order in which the seed checks.
#[derive(Default)]
struct Refused {
    code: Option<Code>,
    fields: Vec<FieldError>,
}

impl Refused {
    fn raw(&mut self, path: &str, value: &RawValue, message: &str) {
        self.value(Code::InvalidField, path, shown(Some(value)), message);
    }

    fn value(&mut self, code: Code, path: &str, value: Option<Value>, message: &str) {
        self.code.get_or_insert(code);
        self.fields
            .push(FieldError::body(path, value.as_ref(), message));
    }

    fn into_refusal(self) -> Refusal {
        Refusal {
            code: self.code.unwrap_or(Code::InvalidField),
            fields: self.fields,
        }
    }
}

/// The value as the seed reports it: its validator trimmed it in place before it looked.
fn sanitised(value: Option<&RawValue>, text: &str) -> Option<Value> {
    match value {
        Some(value) if value.get().starts_with(['[', '{']) => shown(Some(value)),
        _ => Some(Value::String(cut(text))),
    }
}

fn who(members: &Members<'_>, refused: &mut Refused) -> Option<Who> {
    let anonymous = match Text::of(members.raw(Field::SnakeAnonymousId)) {
        Text::Is(text) if !text.is_empty() => match Identity::anonymous(&text) {
            Ok(identity) => Some(identity),
            Err(invalid) => {
                let value = Some(Value::String(cut(&text)));
                refused.value(Code::InvalidField, "anonymous_id", value, invalid.0);
                return None;
            }
        },
        _ => None,
    };
    let raw = members.raw(Field::SnakeUserId);
    let Some(text) = trimmed(raw) else {
        let message = "user_id must be a string";
        refused.value(Code::InvalidField, "user_id", shown(raw), message);
        return None;
    };
    if text.is_empty() {
        if anonymous.is_some() {
            return Some(Who {
                user: None,
                anonymous,
            });
        }
        let value = sanitised(raw, &text);
        refused.value(
            Code::MissingIdentity,
            "user_id",
            value,
            "user_id is required",
        );
        return None;
    }
    match Identity::user(&text) {
        Ok(user) => Some(Who {
            user: Some(user),
            anonymous,
        }),
        Err(_) => {
            let message = if text.contains('\0') {
                "user_id must not contain \\u0000"
            } else {
                "user_id too long"
            };
            let value = sanitised(raw, &text);
            refused.value(Code::InvalidField, "user_id", value, message);
            None
        }
    }
}

fn name(members: &Members<'_>, refused: &mut Refused) -> Option<EventName> {
    let raw = members.raw(Field::Event);
    let Some(text) = trimmed(raw) else {
        let message = "event must be a string";
        refused.value(Code::InvalidField, "event", shown(raw), message);
        return None;
    };
    match EventName::parse(&text) {
        Ok(name) => Some(name),
        Err(invalid) => {
            let value = sanitised(raw, &text);
            refused.value(Code::InvalidField, "event", value.clone(), invalid.0);
            if text.is_empty() {
                // The seed's pattern refused the empty name a second time and its clients were
                // written against both lines; names of other characters are welcome now.
                refused.value(
                    Code::InvalidField,
                    "event",
                    value,
                    "event must contain only letters, numbers, and underscores",
                );
            }
            None
        }
    }
}

/// `event_id`, or the other dialect's name for it.
fn message_id(
    limits: &DecodeLimits,
    members: &Members<'_>,
    refused: &mut Refused,
) -> Option<MessageId> {
    let (path, raw) = match members.get(Field::EventId) {
        Some(raw) => ("event_id", raw),
        None => ("messageId", members.get(Field::MessageId)?),
    };
    let refusal = match Text::of(Some(raw)) {
        Text::Is(text) if text.trim().is_empty() => return None,
        Text::Is(text) => match limits.message_id(&text) {
            Ok(id) => return Some(id),
            Err(message) => message,
        },
        Text::Absent | Text::Odd => "event_id must be a string",
    };
    refused.raw(path, raw, refusal);
    None
}

fn event(
    request: &Request<'_>,
    text: &str,
    members: &Members<'_>,
    who: Who,
    call: Call,
    message_id: Option<MessageId>,
) -> Event {
    Event {
        dialect: Dialect::Seed,
        call,
        user: who.user,
        anonymous: who.anonymous,
        message_id,
        timestamp: request.timestamp(members),
        received_at: request.now,
        context: context(request, members),
        size_bytes: request.size_with_context(text),
        replay_of: None,
    }
}

fn context(request: &Request<'_>, members: &Members<'_>) -> Option<RawJson> {
    let shared = request.context.iter().flat_map(|shared| shared.0.iter());
    let others = members.others.iter().filter(|(_, value)| !is_null(value));
    let own = members.get(Field::Context).filter(|value| is_object(value));
    let kept: Vec<_> = shared.chain(others).cloned().collect();
    if kept.is_empty() && own.is_none() {
        return None;
    }
    union(&kept, own)
}
