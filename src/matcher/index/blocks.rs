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
const BLOCK: u64 = 4_096;

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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use chrono::DateTime;
    use serde_json::{Map, json};

    use super::*;
    use crate::matcher::CampaignRow;
    use crate::rules::Limits;

    fn campaign(seq: i64) -> Arc<Campaign> {
        let mut body = Map::new();
        body.insert("status".to_owned(), json!("active"));
        let row = CampaignRow {
            id: format!("campaign {seq}"),
            seq,
            version: 1,
            body,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: None,
        };
        Arc::new(Campaign::compile(&row, &Limits::default()).unwrap())
    }

    fn all(blocks: &[Arc<Block>]) -> Vec<&str> {
        let campaigns = blocks.iter().flat_map(|block| block.campaigns());
        campaigns.map(|campaign| campaign.id.as_str()).collect()
    }

    #[test]
    fn a_change_leaves_the_other_blocks_as_they_were() {
        let mut campaigns: Vec<_> = (0..60_000).map(campaign).collect();
        let held = blocks(campaigns.clone(), &[]);
        assert!(held.len() > 2, "{} blocks", held.len());
        let ids: Vec<_> = campaigns.iter().map(|it| it.id.clone()).collect();
        assert_eq!(all(&held), ids);
        let again = blocks(campaigns.clone(), &held);
        let kept = |new: &[Arc<Block>]| {
            let is_held = |block: &&Arc<Block>| held.iter().any(|held| Arc::ptr_eq(held, block));
            new.iter().filter(is_held).count()
        };
        assert_eq!(kept(&again), held.len());
        // One changes, one comes, one goes, all in one place.
        campaigns[30_000] = campaign(100_000);
        assert!(kept(&blocks(campaigns.clone(), &held)) + 2 >= held.len());
        campaigns.insert(30_000, campaign(100_001));
        assert!(kept(&blocks(campaigns.clone(), &held)) + 2 >= held.len());
        campaigns.drain(30_000..30_002);
        let new = blocks(campaigns.clone(), &held);
        assert!(kept(&new) + 2 >= held.len());
        let ids: Vec<_> = campaigns.iter().map(|it| it.id.clone()).collect();
        assert_eq!(all(&new), ids);
    }
}
