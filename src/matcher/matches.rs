//! The campaigns that a decision found.

use std::fmt;
use std::sync::Arc;

use super::Campaign;
use super::index::{Block, Place};

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

    /// Gives back what was reserved for campaigns that did not match, for who keeps them longer.
    pub fn shrink_to_fit(&mut self) {
        self.blocks.shrink_to_fit();
        self.places.shrink_to_fit();
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
