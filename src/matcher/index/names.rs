//! Comparing names that stand in order.

use std::cmp::Ordering;

/// The beginning of a name, so that most comparisons need not fetch the name itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameKey {
    /// Up to 16 bytes, the first one highest.
    begins: u128,
    length: usize,
}

impl NameKey {
    #[inline(always)]
    pub(super) fn of(name: &str) -> NameKey {
        NameKey {
            begins: begins(name.as_bytes()),
            length: name.len(),
        }
    }

    /// How another name stands to the one that this is the key of, which is given too.
    #[inline(always)]
    pub(super) fn order_of(self, other: &str, name: &str) -> Ordering {
        let key = NameKey::of(other);
        key.begins.cmp(&self.begins).then_with(|| {
            if key.length.max(self.length) <= size_of::<u128>() {
                key.length.cmp(&self.length)
            } else {
                other.cmp(name)
            }
        })
    }
}

/// The first 16 bytes, the first one highest, with zeros for those that are missing. Read as words
/// that overlap, since copying so few bytes is slower than all the rest.
#[inline(always)]
fn begins(name: &[u8]) -> u128 {
    let missing = 16_usize.saturating_sub(name.len());
    let at = |bytes: u128, length: usize| bytes << (8 * (16 - length));
    if let Some(all) = name.first_chunk() {
        u128::from_be_bytes(*all)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
        at(first.into(), 8) | u128::from(last) << (8 * missing)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u32::from_be_bytes(*first), u32::from_be_bytes(*last));
        at(first.into(), 4) | u128::from(last) << (8 * missing)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u16::from_be_bytes(*first), u16::from_be_bytes(*last));
        at(first.into(), 2) | u128::from(last) << (8 * missing)
    } else {
        name.first().map_or(0, |only| at((*only).into(), 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_to_each_other_as_their_names_do() {
        let long = "a name of sixteen and more";
        let others = [
            "\0",
            "a\0",
            "a\0b",
            "ab",
            "b",
            "é",
            "\u{10ffff}",
            "a name\0",
        ];
        let mut names = others.to_vec();
        names.extend(["a name of sixteeN and more", "a name of sixteen\0"]);
        names.extend((0..=long.len()).filter_map(|length| long.get(..length)));
        for name in &names {
            for other in &names {
                let order = NameKey::of(name).order_of(other, name);
                assert_eq!(order, other.cmp(name), "{other:?} to {name:?}");
            }
        }
    }
}
