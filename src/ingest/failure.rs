//! Why a batch was not committed, and what the database's words mean for it.

use std::fmt;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::batch::Verdict;
use crate::store::{is_missing_partition, is_refused_data};

/// Why a batch was not committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another writer was faster somewhere; the same batch can be tried again at once.
    Race,
    /// The database cannot hold the data of some event.
    Refused(String),
    /// The people of the batch have more traits than are held, or read, at once.
    TooMuch {
        /// How many of them were read by then.
        people: usize,
    },
    /// The connection cannot be used any more; nothing was committed.
    Unavailable(String),
    /// The connection was lost when the batch may have been committed. The verdicts hold if it was,
    /// but for who is the first of a message id.
    Unknown {
        /// What the connection said.
        reason: String,
        /// What became of the units if they were committed.
        verdicts: Vec<Verdict>,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Race => f.write_str("other writers were faster, again and again"),
            Self::TooMuch { .. } => {
                f.write_str("its people have more traits than are read at once")
            }
            Self::Refused(reason) | Self::Unavailable(reason) | Self::Unknown { reason, .. } => {
                f.write_str(reason)
            }
        }
    }
}

impl From<DieselError> for Failure {
    fn from(error: DieselError) -> Self {
        let text = error.to_string();
        if text.contains("deadlock detected") || is_missing_partition(&error) {
            return Self::Race;
        }
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => Self::Race,
            // The only references are to projects: this one is gone.
            DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => {
                Self::Refused(text)
            }
            refused if is_refused_data(refused) => Self::Refused(text),
            // A row that cannot be read would be tried again for ever; its event goes to the ledger.
            DieselError::SerializationError(_) | DieselError::DeserializationError(_) => {
                Self::Refused(text)
            }
            _ => Self::Unavailable(text),
        }
    }
}

/// Why a transaction could not be filled.
#[derive(Debug)]
pub(super) enum FillError {
    Race,
    TooMuch { people: usize },
    Database(DieselError),
}

impl From<DieselError> for FillError {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

pub(super) fn unavailable(error: DieselError) -> Failure {
    Failure::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use diesel::result::DatabaseErrorInformation;

    use super::*;

    /// A violated check, as a server that speaks German tells it.
    struct Violation {
        constraint: Option<&'static str>,
    }

    impl DatabaseErrorInformation for Violation {
        fn message(&self) -> &str {
            "keine Partition von Relation »events« für die Zeile gefunden"
        }
        fn details(&self) -> Option<&str> {
            None
        }
        fn hint(&self) -> Option<&str> {
            None
        }
        fn table_name(&self) -> Option<&str> {
            Some("events")
        }
        fn column_name(&self) -> Option<&str> {
            None
        }
        fn constraint_name(&self) -> Option<&str> {
            self.constraint
        }
        fn statement_position(&self) -> Option<i32> {
            None
        }
    }

    #[test]
    fn a_day_without_a_partition_refuses_no_event_in_any_language() {
        let failure = |constraint| {
            let violation = Box::new(Violation { constraint });
            let kind = DatabaseErrorKind::CheckViolation;
            Failure::from(DieselError::DatabaseError(kind, violation))
        };
        assert!(matches!(failure(None), Failure::Race));
        let named = Some("events_kind_check");
        assert!(matches!(failure(named), Failure::Refused(_)));
    }
}
