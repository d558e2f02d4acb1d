//! Import.

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A query failed.
    #[error("the database refused: {0}")]
    Database(#[from] diesel::result::Error),
}
