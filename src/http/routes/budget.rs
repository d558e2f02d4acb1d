//! How much a project may have of what is read whole whenever it changes: its segments, its flags.

use serde_json::Value;

use crate::error::Error;

/// The most bytes that the segments of a project may have together, and its flags.
const BYTES_MAX: i64 = 64 * 1024 * 1024;

/// The bytes of a value as it is stored.
pub(super) fn written_bytes(value: &Value) -> usize {
    value.to_string().len()
}

/// Refuses what would make a project's `what`, which have `held` bytes, too many. One that becomes
/// smaller can always be saved. To be called under the lock that orders the project's changes.
pub(super) fn check_budget(what: &str, held: i64, former: usize, new: usize) -> Result<(), Error> {
    let grows_by = i64::try_from(new.saturating_sub(former)).unwrap_or(i64::MAX);
    if grows_by > 0 && held.saturating_add(grows_by) > BYTES_MAX {
        return Err(Error::Conflict(format!(
            "The {what} of a project hold at most {} MiB together.",
            BYTES_MAX / (1024 * 1024)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_beyond_the_budget_is_refused_and_what_shrinks_is_not() {
        let is_refused = |held, former, new| check_budget("flags", held, former, new).is_err();
        assert!(!is_refused(BYTES_MAX - 10, 5, 15));
        assert!(is_refused(BYTES_MAX - 10, 5, 16));
        assert!(!is_refused(BYTES_MAX + 100, 16, 15));
        assert!(is_refused(BYTES_MAX + 100, 15, 16));
    }
}
