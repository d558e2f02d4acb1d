//! The campaigns that a decision found.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Campaign;
use super::index::{Block, Place, count};

/// So many words of a set are gone through together.
const WORDS: usize = 128;

/// Campaigns to show, best first.
///
/// They are kept as places in the blocks of the picture that was decided on. So a decision does not
/// touch the campaigns that it finds, each of which would be waited for; whoever writes the answer
/// reads them anyway.
#[derive(Clone, Default)]
pub struct Matches {
    /// The blocks in which some match, and where in `places` those of each end.
    blocks: SmallVec<[(Arc<Block>, usize); 1]>,
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

    /// Adds those of the next block.
    pub(super) fn add(&mut self, block: &Arc<Block>, shown: &[u64]) {
        // A decision that finds nothing does not allocate.
        let many = count(shown);
        if many == 0 {
            return;
        }
        self.places.reserve(many);
        for (words, first) in shown.chunks(WORDS).zip((0..).step_by(WORDS * 64)) {
            // Which words have any is found without a branch for each, which could not be foreseen.
            let (mut which, mut filled) = ([0_u8; WORDS], 0);
            for (word, index) in words.iter().zip(0..) {
                if let Some(which) = which.get_mut(filled) {
                    *which = index;
                }
                filled += usize::from(*word != 0);
            }
            for &index in which.iter().take(filled) {
                let mut left = words.get(usize::from(index)).copied().unwrap_or_default();
                while left != 0 {
                    let bit = left.trailing_zeros() as Place;
                    self.places.push(first + Place::from(index) * 64 + bit);
                    left &= left - 1;
                }
            }
        }
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
    fn no_more_room_is_taken_than_for_those_that_match() {
        let many = found(1_000);
        assert_eq!((many.len(), many.places.capacity() < 8), (1, true));
        let ids: Vec<_> = many.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["7"]);
    }
}
