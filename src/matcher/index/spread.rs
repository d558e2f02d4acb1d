//! Sets over those campaigns of a block that ask about one attribute.
//!
//! Most attributes are asked about by a small part of a block's campaigns, and whatever their value
//! rules out is among these. A set over these only is shorter by as much, so that a decision fetches
//! fewer cache lines; who asks is the same for every value, and so is rather in the cache.
//!
//! Such a set has the same number of bits for each word of the block, as many as the word with the
//! most askers needs, 8 or 16. The lowest is for the word's lowest campaign that asks, and so on.
//! Laying them over the word is what processors call a parallel bit deposit: BMI2's `pdep`. Bit by bit
//! it takes four times as long as sets over the whole block, so these are used where there is no fast
//! one ([`is_fast`]).

#[cfg(target_feature = "bmi2")]
pub(super) use safe_arch::population_deposit_u64 as pdep;
#[cfg(all(target_arch = "x86_64", not(target_feature = "bmi2")))]
pub(super) use std::arch::x86_64::_pdep_u64 as pdep;

use super::sets::Place;

/// How the campaigns that ask about an attribute are numbered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    /// How many bits there are for a word of the block.
    bits: u8,
}

impl Spread {
    /// For those of a block that ask. `None` if sets over all of the block are not much longer: with 32
    /// bits, half of a word, nothing was gained.
    pub(super) fn over(askers: &[u64]) -> Option<Spread> {
        if askers.len() <= WORDS_FEW {
            return None;
        }
        let most = askers.iter().map(|word| word.count_ones()).max()?;
        let bits = [8, 16].into_iter().find(|bits| most <= u32::from(*bits))?;
        Some(Spread { bits })
    }

    /// The length of a set, in a block of so many words.
    pub(super) fn words(self, block: usize) -> usize {
        block.div_ceil(64 / usize::from(self.bits))
    }

    /// The number of a campaign that asks.
    pub(super) fn number(self, askers: &[u64], place: Place) -> Place {
        let word = askers.get(usize::from(place / 64)).copied();
        let before = word.unwrap_or_default() & ((1 << (place % 64)) - 1);
        place / 64 * Place::from(self.bits) + before.count_ones() as Place
    }

    /// The place of the campaign that has this number.
    #[inline(always)]
    pub(super) fn place(self, askers: &[u64], number: Place, deposit: impl Deposit) -> Place {
        let bits = Place::from(self.bits);
        let (word, bit) = (number / bits, number % bits);
        let askers = askers.get(usize::from(word)).copied().unwrap_or_default();
        word * 64 + deposit(1 << bit, askers).trailing_zeros() as Place
    }

    /// Takes campaigns out of a set over the block.
    #[inline(always)]
    pub(super) fn remove(
        self,
        set: &mut [u64],
        askers: &[u64],
        out: &[u64],
        deposit: impl Deposit,
    ) {
        self.lay(set, askers, out, deposit, |word, out| *word &= !out);
    }

    /// Adds campaigns to a set over the block.
    #[inline(always)]
    pub(super) fn insert(
        self,
        set: &mut [u64],
        askers: &[u64],
        added: &[u64],
        deposit: impl Deposit,
    ) {
        self.lay(set, askers, added, deposit, |word, added| *word |= added);
    }

    #[inline(always)]
    fn lay(
        self,
        set: &mut [u64],
        askers: &[u64],
        members: &[u64],
        deposit: impl Deposit,
        change: impl Fn(&mut u64, u64),
    ) {
        match self.bits {
            8 => lay::<8>(set, askers, members, deposit, change),
            _ => lay::<4>(set, askers, members, deposit, change),
        }
    }
}

/// The lowest of a word's bits, one for each bit of a mask and at its place.
pub(super) trait Deposit: Fn(u64, u64) -> u64 + Copy {}

impl<F: Fn(u64, u64) -> u64 + Copy> Deposit for F {}

/// Whether this processor lays a set over a block fast: what [`rule_out`](super::common_attributes::rule_out) uses
/// `pdep` with, and a `pdep` that is not in microcode, which goes bit by bit, as in AMD's before Zen 3; what
/// these do not have is either of the last two.
pub(super) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
            && (is_x86_feature_detected!("avx512f") || is_x86_feature_detected!("vaes"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A set of so many words is a cache line, which is not worth shortening.
const WORDS_FEW: usize = 8;

/// Changes each word by the members that are there, of which a word of theirs has `WORDS` words'.
#[inline(always)]
fn lay<const WORDS: usize>(
    set: &mut [u64],
    askers: &[u64],
    members: &[u64],
    deposit: impl Deposit,
    change: impl Fn(&mut u64, u64),
) {
    let lay_one = |words: &mut [u64], askers: &[u64], members: u64| {
        let mut bits = members;
        for (word, &askers) in words.iter_mut().zip(askers) {
            change(word, deposit(bits, askers));
            bits >>= 64 / WORDS;
        }
    };
    // The length of these is known, so that their loop is unrolled.
    let (wholes, rest) = set.as_chunks_mut::<WORDS>();
    let (askers, askers_rest) = askers.as_chunks::<WORDS>();
    let last = members.get(wholes.len()).copied().unwrap_or_default();
    for ((words, askers), members) in wholes.iter_mut().zip(askers).zip(members) {
        lay_one(words, askers, *members);
    }
    lay_one(rest, askers_rest, last);
}

/// [`Deposit`] without an instruction for it.
#[cfg_attr(
    all(target_feature = "bmi2", not(test)),
    expect(dead_code, reason = "the instruction is always there")
)]
pub(super) fn deposit(mut bits: u64, mut mask: u64) -> u64 {
    let mut deposited = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if bits & 1 == 1 {
            deposited |= lowest;
        }
        mask ^= lowest;
        bits >>= 1;
    }
    deposited
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use multiversion::multiversion;
    use multiversion::target::match_target;

    use super::super::sets::{insert, places};
    use super::super::twins::random;
    use super::*;

    /// With the instruction, if this processor has it.
    #[multiversion(targets("x86_64+bmi2"))]
    fn deposit_here(bits: u64, mask: u64) -> u64 {
        match_target! {
            "x86_64+bmi2" => pdep(bits, mask),
            _ => deposit(bits, mask),
        }
    }

    /// Numbering campaigns and laying a set of the numbers over the block gives back the campaigns.
    #[test]
    fn a_set_over_those_who_ask_is_that_over_the_block() {
        for (seed, words, share) in [(1_u64, 9, 20), (2, 30, 9), (3, 96, 12), (4, 11, 8)] {
            let mut random = random(seed);
            let mut is_one_of = |many: u64| random(many) == 0;
            let (mut askers, mut members) = (vec![0; words], vec![0; words]);
            for place in 0..words as Place * 64 {
                if is_one_of(share) {
                    insert(&mut askers, place);
                    if is_one_of(2) {
                        insert(&mut members, place);
                    }
                }
            }
            let spread = Spread::over(&askers).unwrap();
            let mut few = vec![0; spread.words(words)];
            for place in places(members.iter().copied()) {
                insert(&mut few, spread.number(&askers, place));
            }
            let deposits = [deposit, deposit_here];
            for deposit in deposits {
                for place in places(askers.iter().copied()) {
                    let number = spread.number(&askers, place);
                    assert_eq!(spread.place(&askers, number, deposit), place, "seed {seed}");
                }
                let mut set = vec![0; words];
                spread.insert(&mut set, &askers, &few, deposit);
                assert_eq!(set, members, "seed {seed}");
                spread.remove(&mut set, &askers, &few, deposit);
                assert_eq!(set, vec![0; words], "seed {seed}");
                let mut all = vec![u64::MAX; words];
                spread.remove(&mut all, &askers, &few, deposit);
                let others: Vec<u64> = members.iter().map(|word| !word).collect();
                assert_eq!(all, others, "seed {seed}");
            }
            for (few, askers) in few.iter().zip(&askers) {
                let twin = (0..64)
                    .filter(|bit| askers >> bit & 1 == 1)
                    .zip(0..)
                    .filter(|(_, number)| few >> number & 1 == 1)
                    .fold(0, |all, (bit, _)| all | 1 << bit);
                assert_eq!(deposit(*few, *askers), twin, "seed {seed}");
            }
        }
    }

    #[test]
    fn what_most_ask_about_or_a_small_block_is_not_spread() {
        assert!(Spread::over(&[u64::MAX; 20]).is_none());
        assert!(Spread::over(&[1; WORDS_FEW]).is_none());
        assert!(Spread::over(&[1; WORDS_FEW + 1]).is_some());
    }
}
