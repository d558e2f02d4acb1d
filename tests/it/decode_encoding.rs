//! Content encodings: honoured, sniffed, capped.

use std::io::Write as _;
use std::time::{Duration, Instant};

use beckon::error::{Code, Error};
use beckon::ingest::decode::{DecodeLimits, Encodings};
use flate2::Compression;

const TEXT: &[u8] = br#"{"user_id":"u","event":"e","properties":{"a":[1,2,3]}}"#;

pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut output, 4_096, 5, 22);
    encoder.write_all(body).unwrap();
    drop(encoder);
    output
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 3).unwrap()
}

fn undone(encoding: Option<&str>, body: &[u8]) -> Result<Vec<u8>, Error> {
    undone_within(&DecodeLimits::default(), encoding, body)
}

fn undone_within(
    limits: &DecodeLimits,
    encoding: Option<&str>,
    body: &[u8],
) -> Result<Vec<u8>, Error> {
    let encodings = Encodings::of(encoding, body)?;
    Ok(encodings.undo(body, limits)?.into_owned())
}

#[test]
fn each_encoding_is_undone() {
    let twice = gzip(&gzip(TEXT));
    let mixed = zstd(&brotli(TEXT));
    let members = [gzip(&TEXT[..10]), gzip(&TEXT[10..])].concat();
    for (encoding, body) in [
        (None, TEXT.to_vec()),
        (Some(""), TEXT.to_vec()),
        (Some("identity"), TEXT.to_vec()),
        (Some("gzip"), gzip(TEXT)),
        (Some("GZIP"), gzip(TEXT)),
        (Some("x-gzip"), gzip(TEXT)),
        (Some("gzip"), members),
        (None, gzip(TEXT)),
        (Some("identity"), gzip(TEXT)),
        (Some("deflate"), zlib(TEXT)),
        (Some("deflate"), raw_deflate(TEXT)),
        (Some("br"), brotli(TEXT)),
        (Some("zstd"), zstd(TEXT)),
        (Some("gzip, gzip"), twice),
        (Some("br ,identity, zstd"), mixed),
    ] {
        assert_eq!(undone(encoding, &body).unwrap(), TEXT, "{encoding:?}");
    }
}

#[test]
fn unknown_and_damaged_encodings_are_named() {
    let mut cut = gzip(TEXT);
    cut.truncate(20);
    let mut damaged_at_the_end = gzip(&TEXT.repeat(50_000));
    *damaged_at_the_end.last_mut().unwrap() ^= 1;
    for (encoding, body) in [
        (Some("compress"), TEXT.to_vec()),
        (Some("gzip, gzip, gzip, gzip"), TEXT.to_vec()),
        (Some("gzip"), TEXT.to_vec()),
        (Some("deflate"), TEXT.to_vec()),
        (Some("br"), TEXT.to_vec()),
        (Some("zstd"), TEXT.to_vec()),
        (Some("gzip"), cut),
        (Some("gzip"), damaged_at_the_end),
        // Brotli's large-window extension, here with a window of 1 GiB.
        (Some("br"), vec![0x11, 0x1e, 0x03]),
    ] {
        let error = undone(encoding, &body).unwrap_err();
        assert_eq!(error.code(), Code::MalformedEncoding, "{encoding:?}");
    }
}

/// Below and above a mebibyte, beyond which an output is counted first.
#[test]
fn the_limit_is_exact() {
    let plain: Vec<u8> = (0_u32..800_000).flat_map(u32::to_le_bytes).collect();
    for most in [100_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000] {
        let limits = DecodeLimits {
            body_bytes_max: most,
            ..DecodeLimits::default()
        };
        for (encoding, encode) in [
            ("identity", <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>),
            ("gzip", gzip),
            ("deflate", zlib),
            ("deflate", raw_deflate),
            ("br", brotli),
            ("zstd", zstd),
        ] {
            let fits = &plain[..most];
            let undone = undone_within(&limits, Some(encoding), &encode(fits)).unwrap();
            assert!(undone == fits, "{encoding}, {most}");
            let over = encode(&plain[..=most]);
            let error = undone_within(&limits, Some(encoding), &over).unwrap_err();
            assert_eq!(error.code(), Code::BodyTooLarge, "{encoding}, {most}");
        }
    }
}

#[test]
fn bombs_stop_at_the_limit() {
    let zeros = vec![0_u8; 64 * 1024 * 1024];
    for (encoding, bomb) in [
        ("gzip", gzip(&zeros)),
        ("deflate", zlib(&zeros)),
        ("br", brotli(&zeros)),
        ("zstd", zstd(&zeros)),
        // A gigabyte in two layers.
        ("gzip, gzip", gzip(&gzip(&zeros).repeat(16))),
    ] {
        assert!(bomb.len() < 110_000, "{encoding}: {}", bomb.len());
        let before = Instant::now();
        let error = undone(Some(encoding), &bomb).unwrap_err();
        assert_eq!(error.code(), Code::BodyTooLarge, "{encoding}");
        assert!(before.elapsed() < Duration::from_secs(1), "{encoding}");
    }
}
