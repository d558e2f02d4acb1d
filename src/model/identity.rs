//! How people are named from outside.

use sha2::{Digest, Sha256};

use super::{Invalid, ProjectId, trim};

/// The name space an identity's value lives in. User `abc` and anonymous `abc` are two identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum IdentityKind {
    /// The application's own id for somebody it knows.
    User = 0,
    /// An id a client made up before it knew the user.
    Anonymous = 1,
}

impl IdentityKind {
    /// The number stored in the database.
    pub fn as_i16(self) -> i16 {
        self as i16
    }

    /// The kind a stored number stands for.
    pub fn from_i16(number: i16) -> Option<Self> {
        match number {
            0 => Some(Self::User),
            1 => Some(Self::Anonymous),
            _ => None,
        }
    }

    /// The word used in answers: `user` or `anonymous`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Anonymous => "anonymous",
        }
    }
}

/// One name of a person: a kind and a value of 1 to 255 characters without `\0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    kind: IdentityKind,
    value: String,
}

/// The longest identity value, in characters.
pub const IDENTITY_CHARS_MAX: usize = 255;

impl Identity {
    /// Takes the value as it is (callers trim first where their dialect trims).
    pub fn parse(kind: IdentityKind, value: &str) -> Result<Self, Invalid> {
        if value.is_empty() {
            return Err(Invalid("id must not be empty"));
        }
        // Counting characters walks the text, so the byte length settles the common case.
        if value.len() > IDENTITY_CHARS_MAX && value.chars().count() > IDENTITY_CHARS_MAX {
            return Err(Invalid("id must be at most 255 characters"));
        }
        if memchr::memchr(0, value.as_bytes()).is_some() {
            return Err(Invalid("id must not contain \\u0000"));
        }
        Ok(Self {
            kind,
            value: value.to_owned(),
        })
    }

    /// Whom a text of a question may mean: the id as it is written, then the same without the spaces
    /// around it, if it has any. Ingest keeps them in Segment's dialect and cuts them off in the
    /// seed's, so who is known by the first is meant. Nobody, if there is nothing else in it.
    pub fn readings(kind: IdentityKind, text: &str) -> Result<Vec<Self>, Invalid> {
        let bare = trim(text);
        if bare.is_empty() {
            return Ok(Vec::new());
        }
        let mut readings = Vec::new();
        if bare != text {
            readings.extend(Self::parse(kind, text).ok());
        }
        readings.push(Self::parse(kind, bare)?);
        Ok(readings)
    }

    /// The application's own id for a user.
    pub fn user(value: &str) -> Result<Self, Invalid> {
        Self::parse(IdentityKind::User, value)
    }

    /// An id a client made up.
    pub fn anonymous(value: &str) -> Result<Self, Invalid> {
        Self::parse(IdentityKind::Anonymous, value)
    }

    /// The name space of the value.
    pub fn kind(&self) -> IdentityKind {
        self.kind
    }

    /// The hash that decides which shard owns the person first seen under this identity: the first
    /// 8 bytes, big-endian, of SHA-256 over the project's number (8 bytes, big-endian), the kind
    /// (1 byte) and the value. It is stored with the person and must never change.
    pub fn home(&self, project: ProjectId) -> i64 {
        let mut hasher = Sha256::new();
        hasher.update(project.0.to_be_bytes());
        hasher.update([self.kind as u8]);
        hasher.update(self.value.as_bytes());
        let mut first = [0_u8; 8];
        first.copy_from_slice(&hasher.finalize()[..8]);
        i64::from_be_bytes(first)
    }

    /// The value as the caller wrote it.
    pub fn value(&self) -> &str {
        &self.value
    }
}
