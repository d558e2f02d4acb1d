//! Cutting a ranked list of campaigns into blocks, so that a change costs a block and not all.
//!
//! Where a block ends is decided by the campaigns themselves: some, by a hash of their id, are the
//! last of their block wherever they stand. So a campaign that comes, goes or changes its rank
//! leaves the blocks before and after it as they were, and these are taken over.

use std::collections::{HashMap, HashSet};
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

/// The blocks that follow these when some of their campaigns went and others came, both given best
/// first.
pub(in crate::matcher) fn changed(
    held: &[Arc<Block>],
    gone: &[Arc<Campaign>],
    came: &[Arc<Campaign>],
) -> Vec<Arc<Block>> {
    if gone.is_empty() && came.is_empty() {
        return held.to_vec();
    }
    // A campaign belongs to the last block that does not begin after it.
    let place = |campaign: &Arc<Campaign>| {
        let begins_before = |block: &Arc<Block>| {
            let first = block.campaigns().first();
            first.is_some_and(|first| first.rank() <= campaign.rank())
        };
        held.partition_point(begins_before).saturating_sub(1)
    };
    let left: HashSet<*const Campaign> = gone.iter().map(Arc::as_ptr).collect();
    let touched: HashSet<usize> = gone.iter().chain(came).map(place).collect();
    let mut came = came.iter().peekable();
    let mut blocks = Vec::with_capacity(held.len() + 1);
    let mut open: Vec<Arc<Campaign>> = Vec::new();
    for (index, block) in held.iter().enumerate() {
        if open.is_empty() && !touched.contains(&index) {
            blocks.push(Arc::clone(block));
            continue;
        }
        for campaign in block.campaigns() {
            while let Some(new) = came.next_if(|new| new.rank() < campaign.rank()) {
                open.push(Arc::clone(new));
            }
            if !left.contains(&Arc::as_ptr(campaign)) {
                open.push(Arc::clone(campaign));
            }
        }
        while let Some(new) = came.next_if(|new| place(new) == index) {
            open.push(Arc::clone(new));
        }
        if open.last().is_some_and(|last| ends_block(last)) {
            blocks.extend(self::blocks(std::mem::take(&mut open), &[]));
        }
    }
    open.extend(came.cloned());
    blocks.extend(self::blocks(open, &[]));
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

    /// What follows changes one by one is what is built from nothing, but for where blocks end.
    #[test]
    fn many_changes_come_to_the_same_as_building_anew() {
        for seed in [0x5eed, 0xbecc04] {
            follow_changes(seed);
        }
    }

    fn follow_changes(seed: u64) {
        let mut state = seed | 1;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below.max(1) as u64).unwrap()
        };
        let mut campaigns: Vec<Arc<Campaign>> = Vec::new();
        let mut held: Vec<Arc<Block>> = Vec::new();
        let mut seq = 0;
        for round in 0..30 {
            // Now and then many at once, so that blocks end, join and run full.
            let (most_gone, most_came) = match round % 10 {
                3 => (campaigns.len() / 2, 20_000),
                7 => (campaigns.len(), 10),
                _ => (4, 4),
            };
            let mut gone = Vec::new();
            for _ in 0..random(most_gone + 1).min(campaigns.len()) {
                gone.push(campaigns.swap_remove(random(campaigns.len())));
            }
            let mut came = Vec::new();
            for _ in 0..random(most_came + 1) {
                // Another version of one that went has the same rank.
                let again = gone.get(random(2 * gone.len() + 1));
                seq += 1;
                let number = again.map_or(seq, |campaign| campaign.stored().0);
                if !came
                    .iter()
                    .any(|it: &Arc<Campaign>| it.stored().0 == number)
                    || number == seq
                {
                    came.push(campaign(number));
                }
            }
            let by_rank = |all: &mut Vec<Arc<Campaign>>| all.sort_by_cached_key(|it| it.rank());
            campaigns.extend(came.iter().cloned());
            by_rank(&mut campaigns);
            by_rank(&mut gone);
            by_rank(&mut came);
            held = changed(&held, &gone, &came);
            let left = held.iter().flat_map(|block| block.campaigns());
            assert!(
                left.map(Arc::as_ptr).eq(campaigns.iter().map(Arc::as_ptr)),
                "seed {seed:#x}, round {round}"
            );
            assert!(
                held.iter()
                    .all(|it| (1..=BLOCK_MAX).contains(&it.campaigns().len()))
            );
        }
    }
}
