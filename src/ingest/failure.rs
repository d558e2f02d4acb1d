//! Why a batch was not committed, and what the database's words mean for it.

use std::fmt;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::batch::Verdict;
use crate::store::is_refused_data;

/// Why a batch was not committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another writer was faster somewhere; the same batch can be tried again at once.
    Race,
    /// The database cannot hold the data of some event.
    Refused(String),
    /// The people of the batch have more traits than are held at once.
    TooMuch,
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
            Self::TooMuch => f.write_str("its people have more traits than are held at once"),
            Self::Refused(reason) | Self::Unavailable(reason) | Self::Unknown { reason, .. } => {
                f.write_str(reason)
            }
        }
    }
}

impl From<DieselError> for Failure {
    fn from(error: DieselError) -> Self {
        let text = error.to_string();
        if text.contains("deadlock detected") || text.contains("no partition of relation") {
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
    TooMuch,
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
