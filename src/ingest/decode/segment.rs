//! The dialect of Segment's and RudderStack's SDKs: camelCase, six kinds of call.
//!
//! Ids and names are taken as they are, without trimming. An id that is null or `""` is absent, a
//! number is its text, and any other type is refused. The snake_case spellings are read where the
//! camelCase one is absent. A context that is not an object is dropped: it is never why an event
//! is sent.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::members::{AllMembers, Field, Members, is_null, is_object, push_member, union};
use super::text::Text;
use super::{DecodeLimits, Refusal, Request, text::shown};
use crate::error::{Code, FieldError};
use crate::model::{
    Call, Dialect, Event, EventKind, EventName, Identity, IdentityKind, MessageId, RawJson,
};

pub(super) fn event(
    request: &Request<'_>,
    kind: EventKind,
    text: &str,
    members: &Members<'_>,
) -> Result<Event, Refusal> {
    let user = identity(
        members,
        IdentityKind::User,
        [Field::UserId, Field::SnakeUserId],
        "userId",
    )?;
    let anonymous = identity(
        members,
        IdentityKind::Anonymous,
        [Field::AnonymousId, Field::SnakeAnonymousId],
        "anonymousId",
    )?;
    if user.is_none() && anonymous.is_none() {
        return Err(Refusal::one(
            Code::MissingIdentity,
            "userId",
            None,
            "userId or anonymousId is required",
        ));
    }
    let call = call(kind, members, anonymous.as_ref())?;
    Ok(Event {
        dialect: Dialect::Segment,
        call,
        user,
        anonymous,
        message_id: message_id(request.limits, members)?,
        timestamp: request.timestamp(members),
        received_at: request.now,
        context: context(request, members),
        size_bytes: request.size_with_context(text),
        replay_of: None,
    })
}

fn identity(
    members: &Members<'_>,
    kind: IdentityKind,
    fields: [Field; 2],
    path: &str,
) -> Result<Option<Identity>, Refusal> {
    for field in fields {
        let raw = members.raw(field);
        match Text::of(raw) {
            Text::Absent => {}
            Text::Is(text) if text.is_empty() => {}
            Text::Is(text) => {
                return Identity::parse(kind, &text)
                    .map(Some)
                    .map_err(|invalid| Refusal::field(path, raw, invalid.0));
            }
            Text::Odd => {
                let message = format!("{path} must be a string");
                return Err(Refusal::field(path, raw, message));
            }
        }
    }
    Ok(None)
}

fn call(
    kind: EventKind,
    members: &Members<'_>,
    anonymous: Option<&Identity>,
) -> Result<Call, Refusal> {
    Ok(match kind {
        EventKind::Track => Call::Track {
            name: name(members)?,
            properties: object(members, Field::Properties, "properties")?.map(kept),
        },
        EventKind::Identify => Call::Identify {
            traits: traits(members)?,
        },
        EventKind::Page => Call::Page {
            properties: named_properties(members)?,
        },
        EventKind::Screen => Call::Screen {
            properties: named_properties(members)?,
        },
        EventKind::Group => Call::Group {
            properties: group(members)?,
        },
        EventKind::Alias => Call::Alias {
            previous: previous(members, anonymous)?,
        },
    })
}

fn name(members: &Members<'_>) -> Result<EventName, Refusal> {
    let raw = members.raw(Field::Event);
    match Text::of(raw) {
        Text::Is(text) => {
            EventName::parse(&text).map_err(|invalid| Refusal::field("event", raw, invalid.0))
        }
        Text::Absent => Err(Refusal::field("event", None, "event is required")),
        Text::Odd => Err(Refusal::field("event", raw, "event must be a string")),
    }
}

fn kept(value: &RawValue) -> RawJson {
    RawJson::from_checked(value.to_owned())
}

/// A member that must be an object, null or absent.
fn object<'a>(
    members: &Members<'a>,
    field: Field,
    path: &str,
) -> Result<Option<&'a RawValue>, Refusal> {
    match members.get(field) {
        Some(value) if !is_object(value) => {
            let value = shown(Some(value));
            let message = format!("{path} must be an object");
            Err(Refusal {
                code: Code::InvalidField,
                fields: vec![FieldError::body(path, value.as_ref(), message)],
            })
        }
        value => Ok(value),
    }
}

/// An identify's traits: its own joined with its context's, where its own win. Some SDKs send
/// only one of the two. Other kinds carry the current traits in their context for information and
/// are no identify.
fn traits(members: &Members<'_>) -> Result<Option<RawJson>, Refusal> {
    let own = object(members, Field::Traits, "traits")?;
    let context = members.get(Field::Context);
    let Some(carried) = context.and_then(|context| traits_within(context.get())) else {
        return Ok(own.map(kept));
    };
    let base = AllMembers::split(carried.get()).map_or_else(Vec::new, |members| members.0);
    Ok(match own {
        None => Some(kept(carried)),
        Some(own) => union(&base, Some(own)),
    })
}

/// The traits that an identify takes from its own context.
pub(super) fn traits_within(context: &str) -> Option<&RawValue> {
    let traits = AllMembers::split(context)?.get("traits");
    traits.filter(|value| is_object(value))
}

/// The properties of a page or screen with its `name` and `category`, which Segment keeps among
/// them; the properties' own win.
fn named_properties(members: &Members<'_>) -> Result<Option<RawJson>, Refusal> {
    let properties = object(members, Field::Properties, "properties")?;
    let named = [(Field::Name, "name"), (Field::Category, "category")];
    let base: Vec<(Cow<'_, str>, &RawValue)> = named
        .into_iter()
        .filter_map(|(field, key)| Some((Cow::Borrowed(key), members.get(field)?)))
        .collect();
    if base.is_empty() {
        return Ok(properties.map(kept));
    }
    Ok(union(&base, properties))
}

/// A group's details: `{"groupId": …, "traits": …}`, the id as text.
fn group(members: &Members<'_>) -> Result<Option<RawJson>, Refusal> {
    let raw = members.raw(Field::GroupId);
    let id = match Text::of(raw) {
        Text::Is(id) if !id.is_empty() => id,
        Text::Absent | Text::Is(_) => {
            return Err(Refusal::field("groupId", None, "groupId is required"));
        }
        Text::Odd => return Err(Refusal::field("groupId", raw, "groupId must be a string")),
    };
    // A group is named by the same rule as a person, though it is none.
    Identity::user(&id).map_err(|invalid| Refusal::field("groupId", raw, invalid.0))?;
    let mut text = String::from("{");
    push_member(&mut text, "groupId", &super::members::quoted(&id));
    if let Some(traits) = object(members, Field::Traits, "traits")? {
        push_member(&mut text, "traits", traits.get());
    }
    text.push('}');
    Ok(RawValue::from_string(text).ok().map(RawJson::from_checked))
}

/// The identity an alias links. SDKs pass a user id or an anonymous id and do not say which; it is
/// a user's unless it is this event's own anonymous id.
fn previous(members: &Members<'_>, anonymous: Option<&Identity>) -> Result<Identity, Refusal> {
    let raw = members.raw(Field::PreviousId);
    let id = match Text::of(raw) {
        Text::Is(id) if !id.is_empty() => id,
        Text::Absent | Text::Is(_) => {
            let message = "previousId is required";
            return Err(Refusal::field("previousId", None, message));
        }
        Text::Odd => {
            let message = "previousId must be a string";
            return Err(Refusal::field("previousId", raw, message));
        }
    };
    if let Some(anonymous) = anonymous
        && anonymous.value() == id
    {
        return Ok(anonymous.clone());
    }
    Identity::user(&id).map_err(|invalid| Refusal::field("previousId", raw, invalid.0))
}

/// A blank id is absent, as is one that is neither text nor a number: the event is still good.
fn message_id(limits: &DecodeLimits, members: &Members<'_>) -> Result<Option<MessageId>, Refusal> {
    for field in [Field::MessageId, Field::EventId] {
        let raw = members.raw(field);
        if let Text::Is(text) = Text::of(raw)
            && !text.trim().is_empty()
        {
            return limits
                .message_id(&text)
                .map(Some)
                .map_err(|message| Refusal::field("messageId", raw, message));
        }
    }
    Ok(None)
}

/// The event's context joined with the envelope's, where the event's wins. Without one of its own
/// the event has the envelope's as it is.
fn context(request: &Request<'_>, members: &Members<'_>) -> Option<RawJson> {
    let own = members
        .get(Field::Context)
        .filter(|value| is_object(value) && !is_null(value));
    match (&request.context, own) {
        (None, own) => own.map(kept),
        (Some(shared), Some(own)) => union(&shared.0, Some(own)),
        (Some(_), None) => {
            let text = request.context_text.as_deref()?.to_owned();
            RawValue::from_string(text).ok().map(RawJson::from_checked)
        }
    }
}
