//! Numbers and texts that name rows. They are distinct types so that one cannot stand in for
//! another.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Invalid;

/// The tenant that a row, key, cache entry or metric belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProjectId(pub i64);

/// A person's internal number. It never leaves the engine; outside, people are named by
/// identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonId(pub i64);

/// An API key's row number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub i64);

/// A stored event's id: UUIDv7 when the engine made it, the original when it was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub Uuid);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(String);

        impl $name {
            /// Takes 1 to 255 characters without control characters.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                let count = text.chars().count();
                if !(1..=255).contains(&count) || text.chars().any(char::is_control) {
                    return Err(Invalid("id must be 1 to 255 printable characters"));
                }
                Ok(Self(text.to_owned()))
            }

            /// A fresh id from a random UUID the caller drew.
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid.to_string())
            }

            /// The id as callers write it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A campaign's id: a UUID when the engine made it, any text when it was imported.
    CampaignId
}
text_id! {
    /// A segment's id: a UUID when the engine made it, any text when it was imported.
    SegmentId
}
