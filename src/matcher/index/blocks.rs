//! Cutting a ranked list of campaigns into blocks, so that a change costs a block and not all.
//!
//! Where a block ends is decided by the campaigns themselves: some, by a hash of their id, are the
//! last of their block wherever they stand. So a campaign that comes, goes or changes its rank
//! leaves the blocks before and after it as they were, and these are taken over.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::Block;
use crate::matcher::Campaign;

/// One campaign in so many ends a block.
const BLOCK: u64 = 8_192;

/// Blocks do not grow beyond this, wherever they would end.
const BLOCK_MAX: usize = 4 * BLOCK as usize;

/// The blocks of these campaigns, which are given best first. Those of `held` that are still right
/// are used again.
pub(in crate::matcher) fn blocks(
    campaigns: Vec<Arc<Campaign>>,
    held: &[Arc<Block>],
) -> Vec<Arc<Block>> {
    let mut by_first: HashMap<*const Campaign, &Arc<Block>> = HashMap::with_capacity(held.len());
    for block in held {
        if let Some(first) = block.campaigns().first() {
            by_first.insert(Arc::as_ptr(first), block);
        }
    }
    let mut blocks = Vec::new();
    let mut rest = campaigns.as_slice();
    while !rest.is_empty() {
        let end = rest
            .iter()
            .take(BLOCK_MAX)
            .position(|campaign| ends_block(campaign))
            .map_or(rest.len().min(BLOCK_MAX), |last| last + 1);
        let (block, after) = rest.split_at(end);
        rest = after;
        let same = block
            .first()
            .and_then(|first| by_first.get(&Arc::as_ptr(first)))
            .filter(|held| {
                let held = held.campaigns();
                let pairs = || held.iter().zip(block);
                held.len() == block.len() && pairs().all(|(held, new)| Arc::ptr_eq(held, new))
            });
        blocks.push(match same {
            Some(held) => Arc::clone(held),
            None => Arc::new(Block::new(block.to_vec())),
        });
    }
    blocks
}

fn ends_block(campaign: &Campaign) -> bool {
    let mut hasher = FixedState::with_seed(0).build_hasher();
    hasher.write(campaign.id.as_bytes());
    hasher.finish().is_multiple_of(BLOCK)
}
