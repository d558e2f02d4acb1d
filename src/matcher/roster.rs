//! A project's live campaigns by their id.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::Campaign;

/// Campaigns in no order, each id once.
///
/// They stand on shelves by a hash of their id. A change copies the shelves that it concerns and
/// shares the others with the roster before, so that saving one of 100,000 campaigns does not go
/// through all of them.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// As many as [`SHELVES`], or none yet.
    shelves: Vec<Arc<Shelf>>,
    len: usize,
}

#[derive(Debug, Clone, Default)]
struct Shelf {
    campaigns: Vec<Arc<Campaign>>,
    /// The highest of their costs.
    cost: u64,
}

const SHELVES: usize = 256;

impl Roster {
    /// The roster that follows this one when the campaigns with these ids went and these came, and
    /// which went. Ids that nobody has are passed over.
    pub(super) fn changed(
        &self,
        gone: &[String],
        came: &[Arc<Campaign>],
    ) -> (Roster, Vec<Arc<Campaign>>) {
        let mut shelves = self.shelves.clone();
        if shelves.is_empty() {
            shelves = vec![Arc::default(); SHELVES];
        }
        let mut touched = BTreeSet::new();
        let mut left = Vec::new();
        for id in gone {
            let place = place(id);
            let stands_at = |shelf: &Arc<Shelf>| {
                let mut campaigns = shelf.campaigns.iter();
                campaigns.position(|campaign| campaign.id == *id)
            };
            if let Some(shelf) = shelves.get_mut(place)
                && let Some(at) = stands_at(shelf)
            {
                left.push(Arc::make_mut(shelf).campaigns.swap_remove(at));
                touched.insert(place);
            }
        }
        for campaign in came {
            let place = place(&campaign.id);
            if let Some(shelf) = shelves.get_mut(place) {
                let shelf = Arc::make_mut(shelf);
                shelf.campaigns.push(Arc::clone(campaign));
                touched.insert(place);
            }
        }
        for place in touched {
            if let Some(shelf) = shelves.get_mut(place) {
                let shelf = Arc::make_mut(shelf);
                let costs = shelf.campaigns.iter().map(|campaign| campaign.cost());
                shelf.cost = costs.max().unwrap_or(0);
            }
        }
        let len = self.len + came.len() - left.len();
        (Roster { shelves, len }, left)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Campaign>> {
        self.shelves.iter().flat_map(|shelf| &shelf.campaigns)
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Campaign>> {
        let shelf = self.shelves.get(place(id))?;
        shelf.campaigns.iter().find(|campaign| campaign.id == id)
    }

    /// The highest cost that one of them has, in steps; 0 if there are none.
    pub fn highest_cost(&self) -> u64 {
        let costs = self.shelves.iter().map(|shelf| shelf.cost);
        costs.max().unwrap_or(0)
    }
}

/// The shelf of an id.
fn place(id: &str) -> usize {
    let mut hasher = FixedState::with_seed(1).build_hasher();
    hasher.write(id.as_bytes());
    hasher.finish() as usize % SHELVES
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::matcher::CampaignRow;
    use crate::rules::Limits;

    fn campaign(number: usize, version: i64) -> Arc<Campaign> {
        let conditions = vec![json!({"==": [{"var": "user.traits.a"}, 1]}); number % 7];
        let body = json!({"status": "active", "targeting": {"and": conditions}});
        let row = CampaignRow {
            version,
            ..CampaignRow::of(&number.to_string(), &body)
        };
        Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
    }

    /// What follows changes one by one holds what a map of the same campaigns does.
    #[test]
    fn a_roster_is_a_map() {
        let mut state = 0x5eed_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut map: BTreeMap<String, Arc<Campaign>> = BTreeMap::new();
        let mut roster = Roster::default();
        for version in 0..300 {
            let mut gone: Vec<String> = Vec::new();
            let mut came: Vec<Arc<Campaign>> = Vec::new();
            for _ in 0..random(20) {
                let number = random(600);
                if gone.contains(&number.to_string()) {
                    continue;
                }
                gone.push(number.to_string());
                if random(3) > 0 {
                    came.push(campaign(number, version));
                }
            }
            let (before, ids) = (roster.clone(), map.keys().cloned().collect::<Vec<_>>());
            let (next, left) = roster.changed(&gone, &came);
            let expected: Vec<_> = gone.iter().filter_map(|id| map.remove(id)).collect();
            let pointers = |of: &[Arc<Campaign>]| of.iter().map(Arc::as_ptr).collect::<Vec<_>>();
            assert_eq!(pointers(&left), pointers(&expected));
            map.extend(came.iter().map(|it| (it.id.clone(), Arc::clone(it))));
            roster = next;
            assert_eq!(roster.len(), map.len());
            assert_eq!(roster.is_empty(), map.is_empty());
            assert_eq!(roster.iter().count(), map.len());
            for number in 0..600 {
                let id = number.to_string();
                let (found, known) = (roster.get(&id), map.get(&id));
                assert_eq!(found.map(Arc::as_ptr), known.map(Arc::as_ptr), "{id}");
            }
            let costs = map.values().map(|campaign| campaign.cost());
            assert_eq!(roster.highest_cost(), costs.max().unwrap_or(0));
            // The roster before is as it was.
            assert_eq!(before.len(), ids.len());
            assert!(ids.iter().all(|id| before.get(id).is_some()));
        }
    }
}
