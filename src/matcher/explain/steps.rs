//! What an explanation may take.

use std::cell::Cell;

/// Steps that are left.
pub(super) struct Steps {
    left: Cell<u64>,
}

impl Steps {
    pub(super) fn of(most: u64) -> Self {
        Self {
            left: Cell::new(most),
        }
    }

    /// Takes so many steps, or none if there are fewer left.
    pub(super) fn afford(&self, wanted: u64) -> bool {
        let left = self.left.get().checked_sub(wanted);
        if let Some(left) = left {
            self.left.set(left);
        }
        left.is_some()
    }
}
