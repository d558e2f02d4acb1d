//! The seed's leads: people somebody wants to be reminded of, each kept as a track named `lead`
//! whose properties are the whole lead.

use serde_json::value::RawValue;

use super::members::{AllMembers, Members, is_object};
use super::text::Text;
use super::{Item, Refusal, Request};
use crate::error::Code;
use crate::model::{Call, Dialect, Event, EventName, Identity, RawJson};

const LEAD: &str = "lead";

/// One lead. It is filed under its `external_id` as a user, else under an anonymous identity made
/// of its email or phone number, which keeps several leads of one person together.
pub(super) fn item(request: &Request<'_>, raw: &RawValue) -> Item {
    match event(request, raw) {
        Ok(event) => Item::Event(Box::new(event)),
        Err(refusal) => {
            let payload = raw.get().to_owned();
            let members = Members::default();
            let origin = request.origin(&members);
            Item::Rejected(refusal.into_rejection(payload, &members, origin))
        }
    }
}

fn event(request: &Request<'_>, raw: &RawValue) -> Result<Event, Refusal> {
    let lead = AllMembers::split(raw.get())
        .filter(|_| is_object(raw))
        .ok_or_else(|| Refusal::field("leads", Some(raw), "lead must be an object"))?;
    let text = |path: &str| {
        let value = lead.get(path);
        let text = match Text::of(value) {
            Text::Is(text) => text.trim().to_owned(),
            Text::Absent | Text::Odd => String::new(),
        };
        (value, text)
    };
    let mut user = None;
    let mut anonymous = None;
    let (value, external_id) = text("external_id");
    if external_id.is_empty() {
        let contact = ["email", "phone_number"]
            .into_iter()
            .map(|path| (path, text(path)))
            .find(|(_, (_, text))| !text.is_empty());
        let Some((path, (value, contact))) = contact else {
            return Err(Refusal::one(
                Code::MissingIdentity,
                "external_id",
                None,
                "external_id, email or phone_number is required",
            ));
        };
        let identity = Identity::anonymous(&format!("{LEAD}:{contact}"))
            .map_err(|invalid| Refusal::field(path, value, invalid.0))?;
        anonymous = Some(identity);
    } else {
        let identity = Identity::user(&external_id)
            .map_err(|invalid| Refusal::field("external_id", value, invalid.0))?;
        user = Some(identity);
    }
    let name =
        EventName::parse(LEAD).map_err(|invalid| Refusal::field("event", None, invalid.0))?;
    Ok(Event {
        dialect: Dialect::Seed,
        call: Call::Track {
            name,
            properties: Some(RawJson::from_checked(raw.to_owned())),
        },
        user,
        anonymous,
        message_id: None,
        timestamp: request.now,
        received_at: request.now,
        context: None,
        size_bytes: raw.get().len(),
        replay_of: None,
    })
}
