//! What can go wrong, in the domain's words.
//!
//! Errors know no HTTP: `http::problem` turns each variant into a status in one exhaustive match.
//! [`Code`] is the closed list of stable codes that clients and scripts may rely on.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Stable codes of every refusal, whether of a request or of one event in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body is not JSON, even read leniently.
    MalformedJson,
    /// A field is missing, of the wrong type or out of range.
    InvalidField,
    /// The content encoding is unknown or the compressed body is damaged.
    MalformedEncoding,
    /// The event names neither a user nor an anonymous id.
    MissingIdentity,
    /// The event's `type` is none that is known.
    UnknownType,
    /// The JSON is nested deeper than the limit.
    TooDeep,
    /// The event is larger than the limit.
    EventTooLarge,
    /// The merged traits would be larger than the limit.
    TraitsTooLarge,
    /// The person would have more identities than the limit.
    TooManyIdentities,
    /// The batch holds more events than the limit.
    BatchTooLarge,
    /// The body is larger than the limit, as received or decompressed.
    BodyTooLarge,
    /// No key was given.
    MissingKey,
    /// The key is unknown, revoked or expired.
    InvalidKey,
    /// The key's scope does not allow this.
    Forbidden,
    /// There is no such route.
    RouteNotFound,
    /// The route exists, with other methods.
    MethodNotAllowed,
    /// There is no such object in this project.
    NotFound,
    /// The object exists already or was changed meanwhile.
    Conflict,
    /// The rule or targeting cannot be compiled.
    InvalidRule,
    /// The campaign would be live and could never be shown.
    NeverShown,
    /// The key's, the project's or the address's limit is reached.
    RateLimited,
    /// More work is waiting than the bounds allow.
    Overloaded,
    /// The database is down, slow or stopped.
    DatabaseUnavailable,
    /// The server is stopping.
    ShuttingDown,
    /// A defect on the server's side; the request id finds it in the log.
    Internal,
}

impl Code {
    /// Every code, for the documentation and its test.
    pub const ALL: [Self; 25] = [
        Self::MalformedJson,
        Self::InvalidField,
        Self::MalformedEncoding,
        Self::MissingIdentity,
        Self::UnknownType,
        Self::TooDeep,
        Self::EventTooLarge,
        Self::TraitsTooLarge,
        Self::TooManyIdentities,
        Self::BatchTooLarge,
        Self::BodyTooLarge,
        Self::MissingKey,
        Self::InvalidKey,
        Self::Forbidden,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::NotFound,
        Self::Conflict,
        Self::InvalidRule,
        Self::NeverShown,
        Self::RateLimited,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The code as it is written in answers and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::InvalidField => "invalid_field",
            Self::MalformedEncoding => "malformed_encoding",
            Self::MissingIdentity => "missing_identity",
            Self::UnknownType => "unknown_type",
            Self::TooDeep => "too_deep",
            Self::EventTooLarge => "event_too_large",
            Self::TraitsTooLarge => "traits_too_large",
            Self::TooManyIdentities => "too_many_identities",
            Self::BatchTooLarge => "batch_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::MissingKey => "missing_key",
            Self::InvalidKey => "invalid_key",
            Self::Forbidden => "forbidden",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::InvalidRule => "invalid_rule",
            Self::NeverShown => "never_shown",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }
}

/// Stable codes of what saving may warn of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningCode {
    /// A comparison can hold on a missing value.
    MissingValueMatches,
    /// An operator of the seed's rule list that never holds.
    UnknownOperator,
    /// A placeholder that the seed's dashboard writes, and that does not count.
    PlaceholderIgnored,
    /// There is no such segment, so nobody is in it.
    UnknownSegment,
    /// Another segment has this name or this id.
    SegmentNameTaken,
    /// What names this segment means another one from now on, or none.
    SegmentInUse,
    /// Who is in a segment is asked without an event.
    EventInSegment,
    /// A flag is read without an event.
    EventInFlag,
    /// The campaign can never be shown.
    NeverTrue,
    /// The targeting holds for everybody.
    AlwaysTrue,
    /// The schedule is over.
    ScheduleEnded,
    /// The campaign has a member that nothing acts on.
    NotEnforced,
    /// A campaign of the same slot and of higher priority is shown whenever this one is.
    Shadowed,
    /// No event of this name is stored.
    EventNeverSeen,
    /// Nobody has this trait.
    TraitNeverSeen,
    /// The window is longer than events are kept.
    WindowExceedsRetention,
    /// What was saved takes effect later than usual.
    NotLiveYet,
}

impl WarningCode {
    /// Every code, for the documentation and its test.
    pub const ALL: [Self; 17] = [
        Self::MissingValueMatches,
        Self::UnknownOperator,
        Self::PlaceholderIgnored,
        Self::UnknownSegment,
        Self::SegmentNameTaken,
        Self::SegmentInUse,
        Self::EventInSegment,
        Self::EventInFlag,
        Self::NeverTrue,
        Self::AlwaysTrue,
        Self::ScheduleEnded,
        Self::NotEnforced,
        Self::Shadowed,
        Self::EventNeverSeen,
        Self::TraitNeverSeen,
        Self::WindowExceedsRetention,
        Self::NotLiveYet,
    ];

    /// The code as it is written in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingValueMatches => "missing_value_matches",
            Self::UnknownOperator => "unknown_operator",
            Self::PlaceholderIgnored => "placeholder_ignored",
            Self::UnknownSegment => "unknown_segment",
            Self::SegmentNameTaken => "segment_name_taken",
            Self::SegmentInUse => "segment_in_use",
            Self::EventInSegment => "event_in_segment",
            Self::EventInFlag => "event_in_flag",
            Self::NeverTrue => "never_true",
            Self::AlwaysTrue => "always_true",
            Self::ScheduleEnded => "schedule_ended",
            Self::NotEnforced => "not_enforced",
            Self::Shadowed => "shadowed",
            Self::EventNeverSeen => "event_never_seen",
            Self::TraitNeverSeen => "trait_never_seen",
            Self::WindowExceedsRetention => "window_exceeds_retention",
            Self::NotLiveYet => "not_live_yet",
        }
    }
}

/// One field that was refused, in the form the seed's clients read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldError {
    /// Always `field`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The value that was refused; `""` when it was absent.
    pub value: Value,
    /// What is wrong with it.
    pub msg: String,
    /// The field's name, or a JSON pointer into it.
    pub path: String,
    /// Where the field stands: `body`, `query` or `params`.
    pub location: &'static str,
    /// Of a rule: the stable code of what is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

impl FieldError {
    /// A field of the body; an absent value is reported as `""`, as the seed does.
    pub fn body(path: &str, value: Option<&Value>, msg: impl Into<String>) -> Self {
        Self::at("body", path, value, msg)
    }

    /// A parameter of the query.
    pub fn query(path: &str, value: Option<&Value>, msg: impl Into<String>) -> Self {
        Self::at("query", path, value, msg)
    }

    fn at(
        location: &'static str,
        path: &str,
        value: Option<&Value>,
        msg: impl Into<String>,
    ) -> Self {
        Self {
            kind: "field",
            value: value
                .cloned()
                .unwrap_or_else(|| Value::String(String::new())),
            msg: msg.into(),
            path: path.to_owned(),
            location,
            code: None,
        }
    }

    /// The same, with the stable code of what is wrong.
    pub fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }
}

/// What a request can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not JSON.
    #[error("Invalid JSON in request body")]
    MalformedJson,
    /// The body's encoding is unknown or damaged.
    #[error("{0}")]
    MalformedEncoding(String),
    /// Fields were refused. Never empty.
    #[error("Validation failed")]
    Validation {
        /// The code of the first refusal.
        code: Code,
        /// Each refusal.
        fields: Vec<FieldError>,
    },
    /// The body, event, batch or traits are over their limit.
    #[error("{message}")]
    TooLarge {
        /// Which limit.
        code: Code,
        /// The limit, in words.
        message: String,
    },
    /// No key, or none that is good.
    #[error("{message}")]
    Unauthorized {
        /// `MissingKey` or `InvalidKey`.
        code: Code,
        /// What to do about it.
        message: &'static str,
    },
    /// The key's scope is too small.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The object is not in this project; the word names its kind, as in `Campaign`.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The object exists already or was changed meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// A well-formed rule that cannot be compiled; `pointer` leads to the node.
    #[error("{message}")]
    InvalidRule {
        /// JSON pointer into the request body.
        pointer: String,
        /// The stable code of what is wrong there.
        code: &'static str,
        /// What is wrong there.
        message: String,
    },
    /// The campaign would be live and could never be shown.
    #[error("The campaign could never be shown; with ?force=true it is saved all the same.")]
    NeverShown {
        /// Why, with pointers. Never empty.
        findings: Vec<FieldError>,
    },
    /// A limit of the key, the project or the address.
    #[error("Too many requests, please try again later.")]
    RateLimited {
        /// When to come back.
        retry_after: Duration,
    },
    /// More work is waiting than the bounds allow.
    #[error("The server is overloaded, please try again later.")]
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
    /// The database is down, slow or stopped.
    #[error("The database is not available, please try again later.")]
    DatabaseUnavailable,
    /// The server is stopping.
    #[error("The server is stopping, please try again.")]
    ShuttingDown,
    /// A defect. The text is logged and never shown.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// One refused field.
    pub fn field(field: FieldError) -> Self {
        Self::Validation {
            code: Code::InvalidField,
            fields: vec![field],
        }
    }

    /// Fails where fields were refused.
    pub fn if_refused(fields: Vec<FieldError>) -> Result<(), Self> {
        if fields.is_empty() {
            return Ok(());
        }
        Err(Self::Validation {
            code: Code::InvalidField,
            fields,
        })
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::MalformedJson => Code::MalformedJson,
            Self::MalformedEncoding(_) => Code::MalformedEncoding,
            Self::Validation { code, .. }
            | Self::TooLarge { code, .. }
            | Self::Unauthorized { code, .. } => *code,
            Self::Forbidden(_) => Code::Forbidden,
            Self::NotFound(_) => Code::NotFound,
            Self::Conflict(_) => Code::Conflict,
            Self::InvalidRule { .. } => Code::InvalidRule,
            Self::NeverShown { .. } => Code::NeverShown,
            Self::RateLimited { .. } => Code::RateLimited,
            Self::Overloaded { .. } => Code::Overloaded,
            Self::DatabaseUnavailable => Code::DatabaseUnavailable,
            Self::ShuttingDown => Code::ShuttingDown,
            Self::Internal(_) => Code::Internal,
        }
    }
}
