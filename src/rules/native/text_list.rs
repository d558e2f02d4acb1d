//! A list of texts that takes little more memory than the texts themselves.

/// Texts, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextList {
    /// Each text follows its length in bytes, which is written as the character of that number.
    packed: Box<str>,
}

impl TextList {
    /// `None` where a text is of a length that is no character's number, which only lengths beyond
    /// 55,295 are.
    pub(super) fn new<'t>(texts: impl Iterator<Item = &'t str>) -> Option<TextList> {
        let mut packed = String::new();
        for text in texts {
            packed.push(char::from_u32(text.len().try_into().ok()?)?);
            packed.push_str(text);
        }
        Some(TextList {
            packed: packed.into(),
        })
    }

    /// The texts, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.packed;
        std::iter::from_fn(move || {
            let mut from = rest.chars();
            let length = from.next()?;
            let (text, after) = from.as_str().split_at_checked(length as usize)?;
            rest = after;
            Some(text)
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_list_gives_back_its_texts() {
        let lengths = [0, 1, 127, 128, 2_047, 2_048, 55_295, 0];
        let mut texts: Vec<String> = lengths.map(|length| "x".repeat(length)).into();
        texts.extend(["é", "\0", "v1", "\u{10ffff}"].map(str::to_owned));
        let list = TextList::new(texts.iter().map(String::as_str)).unwrap();
        assert!(list.iter().eq(texts.iter().map(String::as_str)));
        assert_eq!(TextList::new(std::iter::empty()).unwrap().iter().count(), 0);
        assert_eq!(
            TextList::new(["x".repeat(55_296).as_str()].into_iter()),
            None
        );
    }
}
