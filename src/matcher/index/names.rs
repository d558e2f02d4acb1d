//! Comparing names that stand in order.

use std::cmp::Ordering;

/// The beginning of a name, so that most comparisons need not fetch the name itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameKey {
    begins: Begins,
    /// In bytes; longer ones than this can tell count as that long.
    length: u32,
}

/// Up to 16 bytes, the first one highest, with zeros for those that are missing.
pub(super) type Begins = (u64, u64);

/// How many bytes [`Begins`] has.
const BYTES: u32 = 16;

impl NameKey {
    #[inline(always)]
    pub(super) fn of(name: &str) -> NameKey {
        NameKey {
            begins: begins(name.as_bytes()),
            length: u32::try_from(name.len()).unwrap_or(u32::MAX),
        }
    }

    /// How another name stands to the one that this is the key of.
    #[inline(always)]
    pub(super) fn order_of<'n>(self, other: &str, name: impl FnOnce() -> &'n str) -> Ordering {
        let key = NameKey::of(other);
        key.begins.cmp(&self.begins).then_with(|| {
            if key.length.max(self.length) <= BYTES {
                key.length.cmp(&self.length)
            } else {
                other.cmp(name())
            }
        })
    }
}

/// Read as words that overlap, since copying so few bytes is slower than all the rest.
#[inline(always)]
pub(super) fn begins(name: &[u8]) -> Begins {
    let missing = 8_usize.saturating_sub(name.len());
    let last_of_eight = |word: u64| word << (8 * missing);
    if let Some(first) = name.first_chunk() {
        let first = u64::from_be_bytes(*first);
        let second = match (name.get(8..16), name.last_chunk()) {
            (Some(second), _) => second.first_chunk().map_or(0, |it| u64::from_be_bytes(*it)),
            // Of its bytes those that come after the first eight.
            (None, Some(last)) => u64::from_be_bytes(*last) << (8 * (15 - name.len())) << 8,
            (None, None) => 0,
        };
        (first, second)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u32::from_be_bytes(*first), u32::from_be_bytes(*last));
        (u64::from(first) << 32 | last_of_eight(last.into()), 0)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u16::from_be_bytes(*first), u16::from_be_bytes(*last));
        (u64::from(first) << 48 | last_of_eight(last.into()), 0)
    } else {
        (name.first().map_or(0, |only| u64::from(*only) << 56), 0)
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
                let order = NameKey::of(name).order_of(other, || name);
                assert_eq!(order, other.cmp(name), "{other:?} to {name:?}");
            }
        }
    }
}
