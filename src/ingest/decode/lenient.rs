//! Turns the JSON that real serializers write into JSON that every parser reads.
//!
//! One iterative pass checks the whole grammar and copies only where something has to change, so
//! text that is strict already is borrowed as it is. No recursion: the text is hostile and its
//! depth unknown. What changes:
//!
//! | written | becomes | why |
//! |---|---|---|
//! | `NaN`, `Infinity`, `-Infinity` | `null` | Python writes them; `JSON.stringify` writes `null` |
//! | a lone surrogate escape | `\ufffd` | no Unicode text holds it |
//! | a raw control character in a string | its `\u00XX` escape | same value, valid text |
//! | a number too large for a double, as `1e400` | `null` | a double makes it infinite |
//! | a zero, or a number too small for a double, with an exponent, as `1e-400` | `0` | a double makes it zero |
//! | a number of more than 400 characters | the nearest double | databases bound their digits |
//!
//! Every other number keeps its text, however many digits it has. Anything else that is not JSON,
//! trailing garbage included, is refused. A `\u0000` escape is kept.

use std::borrow::Cow;

/// The longest number kept as it is written, in characters.
const NUMBER_CHARS_MAX: usize = 400;

/// A number of at most so many characters and without an exponent always fits a double.
const NUMBER_CHARS_SAFE: usize = 300;

/// The text is not JSON, even read leniently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Strict JSON text and how deep its objects and arrays nest (0 for a scalar).
#[derive(Debug)]
pub(super) struct Strict<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) depth: usize,
}

#[derive(Clone, Copy)]
enum Expect {
    Value,
    ValueOrEnd,
    KeyOrEnd,
    Key,
    Colon,
    CommaOrEnd,
}

/// Checks and, where needed, rewrites one JSON text.
pub(super) fn strict(text: &str) -> Result<Strict<'_>, Malformed> {
    let mut pass = Pass {
        text,
        bytes: text.as_bytes(),
        at: 0,
        output: None,
        copied: 0,
    };
    // One byte a level, true for an object; its length never exceeds the text's.
    let mut open: Vec<bool> = Vec::new();
    let mut depth = 0;
    let mut expect = Expect::Value;
    loop {
        pass.skip_space();
        let Some(&byte) = pass.bytes.get(pass.at) else {
            return Err(Malformed);
        };
        expect = match (expect, byte) {
            (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                pass.at += 1;
                open.push(byte == b'{');
                depth = depth.max(open.len());
                if byte == b'{' {
                    Expect::KeyOrEnd
                } else {
                    Expect::ValueOrEnd
                }
            }
            (Expect::CommaOrEnd | Expect::KeyOrEnd, b'}') => {
                pass.close(&mut open, true)?;
                Expect::CommaOrEnd
            }
            (Expect::CommaOrEnd | Expect::ValueOrEnd, b']') => {
                pass.close(&mut open, false)?;
                Expect::CommaOrEnd
            }
            (Expect::Value | Expect::ValueOrEnd, _) => {
                pass.scalar(byte)?;
                Expect::CommaOrEnd
            }
            (Expect::Key | Expect::KeyOrEnd, b'"') => {
                pass.string()?;
                Expect::Colon
            }
            (Expect::Colon, b':') => {
                pass.at += 1;
                Expect::Value
            }
            (Expect::CommaOrEnd, b',') => {
                pass.at += 1;
                match open.last() {
                    Some(true) => Expect::Key,
                    Some(false) => Expect::Value,
                    None => return Err(Malformed),
                }
            }
            _ => return Err(Malformed),
        };
        if open.is_empty() {
            break;
        }
    }
    pass.skip_space();
    if pass.at < pass.bytes.len() {
        return Err(Malformed);
    }
    Ok(Strict {
        text: pass.finish(),
        depth,
    })
}

/// How deep the objects and arrays of strict JSON text nest (0 for a scalar).
pub(super) fn depth(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut open = 0_usize;
    let mut deepest = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' => open = open.saturating_sub(1),
            b'"' => {
                while let Some(step) = find(bytes, at) {
                    let escape = bytes.get(step) == Some(&b'\\');
                    at = step + 1 + usize::from(escape);
                    if !escape {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// The next quote or backslash at or after `from`.
fn find(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr2(b'"', b'\\', bytes.get(from..)?).map(|step| from + step)
}

struct Pass<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    output: Option<String>,
    copied: usize,
}

impl<'a> Pass<'a> {
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn close(&mut self, open: &mut Vec<bool>, object: bool) -> Result<(), Malformed> {
        self.at += 1;
        if open.pop() == Some(object) {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), Malformed> {
        match first {
            b'"' => self.string(),
            b't' => self.word("true", None),
            b'f' => self.word("false", None),
            b'n' => self.word("null", None),
            b'N' => self.word("NaN", Some("null")),
            b'I' => self.word("Infinity", Some("null")),
            b'-' if self.bytes.get(self.at + 1) == Some(&b'I') => {
                self.word("-Infinity", Some("null"))
            }
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str, instead: Option<&str>) -> Result<(), Malformed> {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at = start + word.len();
        if let Some(instead) = instead {
            self.replace(start, instead);
        }
        Ok(())
    }

    /// Reads from the opening to behind the closing quote.
    fn string(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        loop {
            let stop = find(self.bytes, self.at).ok_or(Malformed)?;
            self.escape_controls(stop);
            self.at = stop + 1;
            if self.bytes.get(stop) == Some(&b'"') {
                return Ok(());
            }
            let escape = *self.bytes.get(self.at).ok_or(Malformed)?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => self.unicode_escape(stop)?,
                _ => return Err(Malformed),
            }
        }
    }

    fn escape_controls(&mut self, end: usize) {
        let span = self.bytes.get(self.at..end).unwrap_or_default();
        if !span.iter().any(|byte| *byte < 0x20) {
            return;
        }
        let begin = self.at;
        for (offset, byte) in span.iter().enumerate().filter(|(_, byte)| **byte < 0x20) {
            self.at = begin + offset + 1;
            self.replace(begin + offset, &format!("\\u{byte:04x}"));
        }
    }

    /// Reads the digits of a `\u` escape that began at `start`, and its pair's if it has one.
    fn unicode_escape(&mut self, start: usize) -> Result<(), Malformed> {
        let unit = self.hex4(self.at).ok_or(Malformed)?;
        self.at += 4;
        if !(0xd800..0xe000).contains(&unit) {
            return Ok(());
        }
        let pair = self.bytes.get(self.at..self.at + 2) == Some(b"\\u")
            && self
                .hex4(self.at + 2)
                .is_some_and(|low| (0xdc00..0xe000).contains(&low));
        if unit < 0xdc00 && pair {
            self.at += 6;
        } else {
            self.replace(start, "\\ufffd");
        }
        Ok(())
    }

    fn hex4(&self, from: usize) -> Option<u32> {
        let digits = self.bytes.get(from..from + 4)?;
        digits.iter().try_fold(0, |value, digit| {
            char::from(*digit)
                .to_digit(16)
                .map(|digit| value * 16 + digit)
        })
    }

    fn number(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(Malformed),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        let mut exponent = false;
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            exponent = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        if exponent || self.at - start > NUMBER_CHARS_SAFE {
            self.bound_number(start);
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
        if self.at > start {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Rewrites a number that no double holds. The parser everybody uses later is asked, because
    /// it refuses some numbers near the largest double that exact arithmetic would still round.
    fn bound_number(&mut self, start: usize) {
        let token = self.text.get(start..self.at).unwrap_or_default();
        match serde_json::from_str::<f64>(token) {
            Err(_) => self.replace(start, "null"),
            Ok(0.0) => self.replace(start, "0"),
            Ok(value) if token.len() > NUMBER_CHARS_MAX => {
                let nearest = serde_json::Number::from_f64(value)
                    .map_or_else(|| "null".to_owned(), |number| number.to_string());
                self.replace(start, &nearest);
            }
            Ok(_) => {}
        }
    }

    /// Puts `instead` in the place of the text from `start` to here.
    fn replace(&mut self, start: usize, instead: &str) {
        let kept = self.text.get(self.copied..start).unwrap_or_default();
        let output = self
            .output
            .get_or_insert_with(|| String::with_capacity(self.text.len()));
        output.push_str(kept);
        output.push_str(instead);
        self.copied = self.at;
    }

    fn finish(self) -> Cow<'a, str> {
        match self.output {
            None => Cow::Borrowed(self.text),
            Some(mut output) => {
                output.push_str(self.text.get(self.copied..).unwrap_or_default());
                Cow::Owned(output)
            }
        }
    }
}
