//! Cutting a ranked list of campaigns into blocks, so that a change costs a block and not all.
//!
//! A block is built anew when one of its campaigns goes or another comes; the others are shared
//! with the picture before. One that grows beyond [`BLOCK_MAX`] is cut evenly, one that shrinks
//! below [`BLOCK_MIN`] joins the next. Larger blocks make decisions faster, since an attribute is
//! looked up once for all campaigns of a block; smaller ones make changes faster.

use std::collections::HashSet;
use std::sync::Arc;

use super::Block;
use crate::matcher::Campaign;

/// The most campaigns of a block.
const BLOCK_MAX: usize = 6_144;

/// Pieces that are cut have at most so many, so that each can take more before it is cut again.
const PIECE_MAX: usize = BLOCK_MAX / 4 * 3;

/// The fewest campaigns of a block that is not the only one.
const BLOCK_MIN: usize = BLOCK_MAX / 4;

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
        if open.len() >= BLOCK_MIN {
            cut(&mut open, &mut blocks);
        }
    }
    open.extend(came.cloned());
    if (1..BLOCK_MIN).contains(&open.len())
        && let Some(last) = blocks.pop()
    {
        open.splice(..0, last.campaigns().iter().cloned());
    }
    cut(&mut open, &mut blocks);
    blocks
}

/// Makes blocks of campaigns, which are taken out.
fn cut(open: &mut Vec<Arc<Campaign>>, blocks: &mut Vec<Arc<Block>>) {
    let pieces = match open.len() {
        0 => return,
        1..=BLOCK_MAX => 1,
        many => many.div_ceil(PIECE_MAX),
    };
    let each = open.len().div_ceil(pieces);
    let new = open.chunks(each).map(<[_]>::to_vec);
    blocks.extend(new.map(Block::new).map(Arc::new));
    open.clear();
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
        let campaigns: Vec<_> = (0..60_000).rev().map(campaign).collect();
        let held = changed(&[], &[], &campaigns);
        assert!(held.len() > 2, "{} blocks", held.len());
        let ids: Vec<_> = campaigns.iter().map(|it| it.id.clone()).collect();
        assert_eq!(all(&held), ids);
        // One changes, one goes, one comes.
        let middle = &campaigns[30_000..=30_000];
        let other = [campaign(60_000)];
        for (gone, came) in [(middle, middle), (middle, &[]), (&[], other.as_slice())] {
            let new = changed(&held, gone, came);
            let is_held = |block: &&Arc<Block>| held.iter().any(|held| Arc::ptr_eq(held, block));
            assert_eq!(new.iter().filter(is_held).count(), held.len() - 1);
        }
    }

    /// What follows changes one by one is what a list does.
    #[test]
    fn many_changes_come_to_the_same_as_those_of_a_list() {
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
            let fewest = if held.len() > 1 { BLOCK_MIN } else { 1 };
            let is_right = |it: &Arc<Block>| {
                let count = it.campaigns().len();
                (fewest..=BLOCK_MAX).contains(&count)
            };
            assert!(held.iter().all(is_right), "seed {seed:#x}, round {round}");
        }
    }
}
