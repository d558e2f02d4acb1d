//! Undoes a body's content encoding without ever holding more than the body limit.
//!
//! The header is honoured where it names an encoding; a body without one is taken for gzip when it
//! begins with gzip's magic bytes, because some clients compress and say nothing. Of a large output
//! the length is found out before there is memory for it, so a bomb costs less than an honest body.
//! The decompressors' own windows are bounded too: 32 KiB for gzip and deflate, 16 MiB for brotli
//! (its large-window extension is refused), 8 MiB for zstd. And so is their work: input that comes to
//! less output than itself is refused, since it was not written to save room.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use smallvec::SmallVec;

use super::DecodeLimits;
use crate::error::{Code, Error};

/// The most encodings a header may list; each is capped on its own.
const ENCODINGS_MAX: usize = 3;

/// The largest zstd window, as a power of two: what RFC 8878 asks every decoder to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The first allocation for decompressed output; small bodies need no second one.
const OUTPUT_BYTES_MIN: usize = 4 * 1024;

/// An output up to this size is kept as it comes. A larger one is decompressed twice: to count it,
/// and again if it is within the limit.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// How much more input a decoder may take than it has put out: a block of zstd's is 128 KiB, and those
/// of the others are as long as their encoder likes.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
const ZSTD_AHEAD_BYTES_MAX: usize = 256 * 1024;

/// How much of it a decoder sees at once.
const PORTION_BYTES: usize = 4 * 1024;

/// A body on its way into a decoder.
struct Input<'a> {
    body: &'a [u8],
    taken: usize,
    ahead_max: usize,
    put_out: Rc<Cell<usize>>,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = self.body.get(self.taken..).unwrap_or_default();
        let is_ahead = self.taken > self.put_out.get().saturating_add(self.ahead_max);
        if is_ahead && !left.is_empty() {
            return Err(io::Error::other("it comes to less than itself"));
        }
        Ok(left.get(..PORTION_BYTES).unwrap_or(left))
    }

    fn consume(&mut self, bytes: usize) {
        self.taken += bytes;
    }
}

/// A decoder whose output is counted.
struct Output<R> {
    decoder: R,
    put_out: Rc<Cell<usize>>,
}

impl<R: Read> Read for Output<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.put_out.set(self.put_out.get().saturating_add(read));
        Ok(read)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// The encoding of this name; `None` is the one that changes nothing.
    fn parse(name: &str) -> Result<Option<Self>, Error> {
        const NAMES: [(&str, Option<Encoding>); 7] = [
            ("", None),
            ("identity", None),
            ("gzip", Some(Encoding::Gzip)),
            ("x-gzip", Some(Encoding::Gzip)),
            ("deflate", Some(Encoding::Deflate)),
            ("br", Some(Encoding::Brotli)),
            ("zstd", Some(Encoding::Zstd)),
        ];
        NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, encoding)| *encoding)
            .ok_or_else(|| Error::MalformedEncoding("Unknown content encoding".to_owned()))
    }
}

/// The encodings of a body, the first to be applied first; none where it is what was meant.
#[derive(Debug)]
pub struct Encodings(SmallVec<[Encoding; ENCODINGS_MAX]>);

impl Encodings {
    /// Those of `Content-Encoding`, else gzip if the body begins like it.
    ///
    /// Fails with [`Error::MalformedEncoding`] for unknown ones and for too many.
    pub fn of(content_encoding: Option<&str>, body: &[u8]) -> Result<Self, Error> {
        let mut listed = SmallVec::new();
        for name in content_encoding.unwrap_or_default().split(',') {
            let Some(encoding) = Encoding::parse(name.trim())? else {
                continue;
            };
            if listed.len() == ENCODINGS_MAX {
                return Err(Error::MalformedEncoding(
                    "Too many content encodings".to_owned(),
                ));
            }
            listed.push(encoding);
        }
        if listed.is_empty() && body.starts_with(&[0x1f, 0x8b]) {
            listed.push(Encoding::Gzip);
        }
        Ok(Self(listed))
    }

    /// Whether there is nothing to undo. If there is, it is work of a size that the body does not
    /// show.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Undoes them, the last one first.
    ///
    /// Fails with [`Error::MalformedEncoding`] for a damaged body and with [`Error::TooLarge`]
    /// (`body_too_large`) when it is over the limit before or after.
    pub fn undo<'a>(&self, body: &'a [u8], limits: &DecodeLimits) -> Result<Cow<'a, [u8]>, Error> {
        if body.len() > limits.body_bytes_max {
            return Err(body_too_large(limits));
        }
        let mut decoded = Cow::Borrowed(body);
        for encoding in self.0.iter().rev() {
            decoded = Cow::Owned(undo(*encoding, &decoded, limits)?);
        }
        Ok(decoded)
    }
}

fn undo(encoding: Encoding, body: &[u8], limits: &DecodeLimits) -> Result<Vec<u8>, Error> {
    use flate2::bufread::MultiGzDecoder;
    match encoding {
        Encoding::Gzip => read_capped(body, limits, |input| Ok(MultiGzDecoder::new(input))),
        Encoding::Deflate => inflate(body, limits),
        Encoding::Brotli => {
            // These seven bits announce the large-window extension, whose windows reach 1 GiB.
            if body.first().is_some_and(|first| first & 0x7f == 0x11) {
                return Err(damaged());
            }
            let decoder = |input| Ok(brotli::Decompressor::new(input, PORTION_BYTES));
            read_capped(body, limits, decoder)
        }
        Encoding::Zstd => read_capped(body, limits, |mut input| {
            input.ahead_max = ZSTD_AHEAD_BYTES_MAX;
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Ok(decoder)
        }),
    }
}

/// `deflate` means zlib by the standard and raw deflate by some clients. The zlib header has a
/// check, so most bodies are told apart by it; one that passes by chance is tried raw afterwards.
fn inflate(body: &[u8], limits: &DecodeLimits) -> Result<Vec<u8>, Error> {
    use flate2::bufread::{DeflateDecoder, ZlibDecoder};
    let zlib = match body {
        [first, second, ..] => {
            first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)).is_multiple_of(31)
        }
        _ => false,
    };
    if zlib {
        match read_capped(body, limits, |input| Ok(ZlibDecoder::new(input))) {
            Err(Error::MalformedEncoding(_)) => {}
            settled => return settled,
        }
    }
    read_capped(body, limits, |input| Ok(DeflateDecoder::new(input)))
}

/// What a decoder of the body makes of it.
fn read_capped<'a, R: Read>(
    body: &'a [u8],
    limits: &DecodeLimits,
    decoder: impl Fn(Input<'a>) -> io::Result<R>,
) -> Result<Vec<u8>, Error> {
    let most = limits.body_bytes_max;
    let kept_max = most.min(KEPT_BYTES_MAX);
    let likely = body.len().saturating_mul(4);
    let mut reader = begin(body, &decoder)?;
    let mut output = Vec::with_capacity(likely.clamp(OUTPUT_BYTES_MIN, KEPT_BYTES_MAX));
    // One byte more tells an output that fits exactly from one that goes on.
    let mut first = reader.by_ref().take(kept_max as u64 + 1);
    let kept = first.read_to_end(&mut output).map_err(|_| damaged())?;
    if kept <= kept_max {
        return Ok(output);
    }
    let Some(room) = most.checked_sub(kept) else {
        return Err(body_too_large(limits));
    };
    drop(output);
    let mut rest = reader.by_ref().take(room as u64 + 1);
    let rest = io::copy(&mut rest, &mut io::sink()).map_err(|_| damaged())?;
    if rest > room as u64 {
        return Err(body_too_large(limits));
    }
    drop(reader);
    let length = kept as u64 + rest;
    let mut output = Vec::with_capacity(usize::try_from(length).unwrap_or(most));
    let mut again = begin(body, &decoder)?.take(length);
    again.read_to_end(&mut output).map_err(|_| damaged())?;
    Ok(output)
}

fn begin<'a, R: Read>(
    body: &'a [u8],
    decoder: &impl Fn(Input<'a>) -> io::Result<R>,
) -> Result<Output<R>, Error> {
    let put_out = Rc::new(Cell::new(0));
    let input = Input {
        body,
        taken: 0,
        ahead_max: AHEAD_BYTES_MAX,
        put_out: Rc::clone(&put_out),
    };
    let decoder = decoder(input).map_err(|_| damaged())?;
    Ok(Output { decoder, put_out })
}

fn damaged() -> Error {
    Error::MalformedEncoding("The body's content encoding is damaged".to_owned())
}

fn body_too_large(limits: &DecodeLimits) -> Error {
    Error::TooLarge {
        code: Code::BodyTooLarge,
        message: format!(
            "The body is larger than {} bytes, as received or decompressed",
            limits.body_bytes_max
        ),
    }
}
