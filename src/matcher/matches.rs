//! The campaigns that a decision found.

use std::fmt;
use std::sync::Arc;

use super::Campaign;
use super::index::{Block, Place};

/// Of so many places too many it is not worth while to give them back.
const LITTLE: usize = 64;

/// Campaigns to show, best first.
///
/// They are kept as places in the blocks of the picture that was decided on. So a decision does not
/// touch the campaigns that it finds, each of which would be waited for; whoever writes the answer
/// reads them anyway.
#[derive(Clone, Default)]
pub struct Matches {
    /// The blocks in which some match, and where in `places` those of each end.
    blocks: Vec<(Arc<Block>, usize)>,
    places: Vec<Place>,
}

impl Matches {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The campaigns, best first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Campaign>> {
        let mut begin = 0;
        self.blocks.iter().flat_map(move |(block, end)| {
            let places = self.places.get(begin..*end).unwrap_or_default();
            begin = *end;
            let campaigns = block.campaigns();
            places
                .iter()
                .filter_map(|place| campaigns.get(usize::from(*place)))
        })
    }

    /// Gives back what was reserved for campaigns that did not match, if that is much, for who keeps them
    /// longer.
    pub fn shrink_to_fit(&mut self) {
        if self.places.capacity() > 2 * self.places.len() + LITTLE {
            self.blocks.shrink_to_fit();
            self.places.shrink_to_fit();
        }
    }

    /// Adds those of the next block, of which there are at most so many.
    pub(super) fn add(
        &mut self,
        block: &Arc<Block>,
        most: usize,
        mut places: impl Iterator<Item = Place>,
    ) {
        // A decision that finds nothing does not allocate.
        let Some(first) = places.next() else {
            return;
        };
        self.places.reserve(most);
        self.places.push(first);
        self.places.extend(places);
        self.blocks.push((Arc::clone(block), self.places.len()));
    }
}

/// Their ids.
impl fmt::Debug for Matches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.iter().map(|campaign| &campaign.id);
        f.debug_list().entries(ids).finish()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::HashMap;

    use chrono::DateTime;
    use serde_json::json;

    use super::*;
    use crate::matcher::{CampaignRow, Snapshot};
    use crate::rules::{EventFacts, FactsArena, Limits, Object, UserFacts};
    use crate::segments::Segments;

    /// What an event finds of so many campaigns, which are tried one by one and of which one matches.
    fn found(campaigns: usize) -> Matches {
        let compiled = |number: usize| {
            let text = json!({"in": [format!("<{number}>"), {"var": "user.traits.text"}]});
            let body =
                json!({"name": "c", "status": "active", "trigger": "buy", "targeting": text});
            let row = CampaignRow {
                id: number.to_string(),
                seq: 1,
                version: 1,
                body: body.as_object().unwrap().clone(),
                created_at: DateTime::UNIX_EPOCH,
                updated_at: None,
            };
            Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
        };
        let campaigns = (0..campaigns).map(compiled).collect();
        let snapshot = Snapshot::new(1, campaigns, Segments::new(Vec::new()), HashMap::new());
        let arena = FactsArena::new();
        let now = DateTime::UNIX_EPOCH;
        let user = UserFacts {
            id: "ada",
            traits: arena.parse(r#"{"text": "<7>"}"#),
            created_at: now,
            last_seen_at: now,
        };
        let event = EventFacts {
            name: "buy",
            properties: Object::EMPTY,
            context: Object::EMPTY,
            timestamp: now,
        };
        snapshot.on_event(user, event, now, &arena).matched
    }

    #[test]
    fn much_room_that_was_not_needed_is_given_back() {
        let mut many = found(1_000);
        assert_eq!((many.len(), many.places.capacity() >= 1_000), (1, true));
        many.shrink_to_fit();
        assert_eq!((many.len(), many.places.capacity()), (1, 1));
        let mut few = found(20);
        let before = few.places.capacity();
        few.shrink_to_fit();
        assert_eq!((few.len(), few.places.capacity()), (1, before));
    }
}
