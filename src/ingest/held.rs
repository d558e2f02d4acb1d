//! The states of people that wait for decisions made apart.
//!
//! A list may change somebody with each of its events and ask what to show after each, so a small body
//! can make thousands of states that are as large as is allowed. They are counted until they are
//! decided on, for each project and for all of them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::ProjectId;
use crate::store::Shares;
use crate::targeting::PersonState;

/// How large they may be together, in bytes.
const ALL_BYTES_MAX: usize = 64 << 20;
/// How large those of one project may be.
const PROJECT_BYTES_MAX: usize = ALL_BYTES_MAX / 2;
/// They are counted in pieces of so many bytes.
const PIECE_BYTES: usize = 1 << 10;

/// The room for them. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    shares: Arc<Shares>,
}

/// A state that has its room until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    state: Arc<PersonState>,
    _room: [OwnedSemaphorePermit; 2],
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL_BYTES_MAX / PIECE_BYTES)),
            shares: Arc::new(Shares::of_each(PROJECT_BYTES_MAX / PIECE_BYTES)),
        }
    }

    /// Takes room for a state, if there is some. One that is larger than all the room is held alone.
    pub(super) fn hold(&self, project: ProjectId, state: &Arc<PersonState>) -> Option<Held> {
        let bytes = size_of::<PersonState>() + state.traits.len();
        let pieces = bytes.min(PROJECT_BYTES_MAX).div_ceil(PIECE_BYTES);
        let pieces = u32::try_from(pieces).ok()?;
        let own = self.shares.of(project).try_acquire_many_owned(pieces);
        let all = Arc::clone(&self.all).try_acquire_many_owned(pieces);
        Some(Held {
            state: Arc::clone(state),
            _room: [own.ok()?, all.ok()?],
        })
    }
}

impl Held {
    /// Whether it is this one.
    pub(super) fn is(&self, state: &Arc<PersonState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use chrono::DateTime;

    use super::*;
    use crate::model::PersonId;

    const ONE: ProjectId = ProjectId(1);
    const OTHER: ProjectId = ProjectId(2);
    const THIRD: ProjectId = ProjectId(3);

    fn state(bytes: usize) -> Arc<PersonState> {
        Arc::new(PersonState {
            id: PersonId(1),
            home: 0,
            user_id: None,
            traits: Arc::from("x".repeat(bytes)),
            created_at: DateTime::UNIX_EPOCH,
            last_seen: DateTime::UNIX_EPOCH.into(),
        })
    }

    fn fill(room: &Room, project: ProjectId) -> Vec<Held> {
        let state = state(1 << 20);
        std::iter::from_fn(|| room.hold(project, &state)).collect()
    }

    #[test]
    fn a_project_has_half_of_the_room_and_gives_it_back() {
        let room = Room::new();
        let held = fill(&room, ONE);
        assert_eq!(held.len(), 31);
        let small = state(1);
        assert!(room.hold(OTHER, &small).is_some());
        drop(held);
        assert_eq!(fill(&room, ONE).len(), 31);
    }

    #[test]
    fn all_projects_have_no_more_than_all_the_room() {
        let room = Room::new();
        let held = [fill(&room, ONE), fill(&room, OTHER), fill(&room, THIRD)];
        let count: usize = held.iter().map(Vec::len).sum();
        assert_eq!(count, 63);
        // What one kind of room refuses takes none of the other.
        drop(held);
        assert_eq!(fill(&room, THIRD).len(), 31);
    }

    #[test]
    fn what_is_larger_than_the_room_is_held_alone() {
        let room = Room::new();
        let large = state(PROJECT_BYTES_MAX + 1);
        let held = room.hold(ONE, &large).unwrap();
        assert!(held.is(&large));
        assert!(room.hold(ONE, &large).is_none());
    }
}
