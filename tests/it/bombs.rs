//! Small bodies that ask for much: some kilobytes that decompress to a gibibyte are a 413 at once and cost no
//! memory, and a list of small calls costs what they say.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::campaign_flow::{create, identify, on_buy};
use crate::support::{TestApp, eventually, is_soak, patience, sql};

/// What each bomb decompresses to.
const BOMB_BYTES: usize = 1 << 30;

/// How much is compressed at once.
const PIECE_BYTES: usize = 4 << 20;

/// The largest bomb. One layer of deflate saves no more than 1,031 bytes of 1,032.
const SMALL_BYTES_MAX: usize = 100 * 1024;
const GZIP_BYTES_MAX: usize = 1_100 * 1024;

/// How much the server may grow.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn piece() -> Vec<u8> {
    vec![b' '; PIECE_BYTES]
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// A gzip body may have many members.
fn gzip_bomb() -> Vec<u8> {
    gzip(&piece()).repeat(BOMB_BYTES / PIECE_BYTES)
}

fn zstd_bomb() -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let piece = piece();
    for _ in 0..BOMB_BYTES / PIECE_BYTES {
        encoder.write_all(&piece).unwrap();
    }
    encoder.finish().unwrap()
}

/// Once flushed, a piece like the one before is written as that one was. So it need not be
/// compressed again, which would take half a minute in a debug build.
fn brotli_bomb() -> Vec<u8> {
    let mut compressed = Vec::new();
    let mut ends = Vec::new();
    {
        let mut encoder = brotli::CompressorWriter::new(&mut compressed, 1 << 16, 5, 22);
        let piece = piece();
        for _ in 0..3 {
            encoder.write_all(&piece).unwrap();
            encoder.flush().unwrap();
            ends.push(encoder.get_ref().len());
        }
    }
    let (first, end) = (&compressed[..ends[0]], &compressed[ends[2]..]);
    let again = &compressed[ends[0]..ends[1]];
    assert_eq!(again, &compressed[ends[1]..ends[2]]);
    let middle = again.repeat(BOMB_BYTES / PIECE_BYTES - 1);
    [first, &middle, end].concat()
}

/// Decompresses all of it, which takes long.
fn check_size(bomb: impl Read) {
    let mut bomb = bomb;
    let bytes = io::copy(&mut bomb, &mut io::sink()).unwrap();
    assert_eq!(bytes, BOMB_BYTES as u64);
}

#[test]
fn a_bomb_is_413_at_once_and_costs_no_memory() {
    let single = gzip_bomb();
    let double = gzip(&single);
    let (brotli, zstd) = (brotli_bomb(), zstd_bomb());
    assert!(single.len() < GZIP_BYTES_MAX, "{}", single.len());
    for small in [&double, &brotli, &zstd] {
        assert!(small.len() < SMALL_BYTES_MAX, "{}", small.len());
    }
    if is_soak() {
        check_size(MultiGzDecoder::new(&single[..]));
        check_size(brotli::Decompressor::new(&brotli[..], 4_096));
        check_size(zstd::stream::read::Decoder::new(&zstd[..]).unwrap());
    }
    let mut app = TestApp::start();
    let client = app.client();
    // What the first call sets up once is not the bombs'.
    client.post_text("/v1/batch", r#"{"batch":[]}"#).expect(200);
    let before = app.server().memory_bytes("VmRSS");
    let bound = Duration::from_secs(if is_soak() { 1 } else { 3 });
    for (encoding, bomb) in [
        (Some("gzip"), &single),
        (None, &single),
        (Some("gzip, gzip"), &double),
        (Some("br"), &brotli),
        (Some("zstd"), &zstd),
    ] {
        for _ in 0..2 {
            let header = encoding.map(|encoding| ("content-encoding", encoding));
            let started = Instant::now();
            let answer = client.send("POST", "/v1/batch", header.as_slice(), Some(bomb));
            let took = started.elapsed();
            answer.expect_problem(413, "body_too_large");
            println!("{encoding:?} of {} bytes: {took:?}", bomb.len());
            assert!(took < bound, "{encoding:?} took {took:?}");
        }
        let most = app.server().memory_bytes("VmHWM");
        let grown = most.saturating_sub(before);
        println!("{encoding:?}: grown by {grown} bytes");
        assert!(
            grown <= GROWTH_BYTES_MAX,
            "{encoding:?}: grown by {grown} bytes"
        );
    }
}

/// Blocks that come to nothing, each of which has to be read: eight megabytes of them, or some 150 bytes
/// once they are compressed twice more.
#[test]
fn what_comes_to_nothing_is_not_read_to_its_end() {
    // Four empty blocks with fixed codes are forty bits.
    let blocks = [0x02, 0x08, 0x20, 0x80, 0x00].repeat(1_600_000);
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let inner = [&header[..], &blocks, &[0x03, 0x00], &[0; 8]].concat();
    let mut plain = Vec::new();
    if is_soak() {
        MultiGzDecoder::new(&inner[..])
            .read_to_end(&mut plain)
            .unwrap();
        assert!(plain.is_empty());
    }
    let body = gzip(&gzip(&inner));
    assert!(body.len() < 200, "{}", body.len());
    let app = TestApp::start();
    let client = app.client();
    client.post_text("/v1/batch", r#"{"batch":[]}"#).expect(200);
    let started = Instant::now();
    let header = ("content-encoding", "gzip, gzip, gzip");
    let answer = client.send("POST", "/v1/batch", &[header], Some(&body));
    answer.expect_problem(400, "malformed_encoding");
    let took = started.elapsed();
    println!("{took:?}");
    assert!(
        took < Duration::from_secs(if is_soak() { 1 } else { 3 }),
        "{took:?}"
    );
}

/// What an event of a list costs is what it says, not what its person has.
#[test]
fn a_list_about_somebody_with_much_takes_little_memory() {
    let mut app = TestApp::start();
    // As many traits as are allowed, small ones, so that reading them is work.
    let much: serde_json::Map<String, Value> = (0..12_000)
        .map(|n| (format!("trait_{n:05}"), json!(n)))
        .collect();
    let call = json!({"user_id": "u", "traits": much});
    app.client().post("/v1/identify", &call).expect(200);
    let before = app.server().memory_bytes("VmRSS");
    let identify = |n| json!({"type": "identify", "userId": "u", "traits": {"n": n}});
    let list: Vec<Value> = (0..2_500).map(identify).collect();
    let began = Instant::now();
    let answer = app.client().post("/v1/batch", &json!({"batch": list}));
    answer.expect(200);
    let most = app.server().memory_bytes("VmHWM").saturating_sub(before);
    assert!(
        most < 150 << 20,
        "it took {most} bytes and {:?}",
        began.elapsed()
    );
    let user = app.admin().get("/v1/admin/users/u").expect(200);
    assert_eq!(user["traits"]["n"], 2_499);
    assert_eq!(user["traits"]["trait_11999"], 11_999);
}

/// Nor is it what all of its people have together.
#[test]
fn a_list_about_many_with_much_takes_little_memory() {
    const PEOPLE: usize = 200;
    let few = ("BECKON_USER_CACHE_BYTES", "1048576");
    let mut app = TestApp::start_with(&[few, patience()]);
    let client = app.client();
    let much: serde_json::Map<String, Value> = (0..10_000)
        .map(|n| (format!("trait_{n:05}"), json!(n)))
        .collect();
    let identify = |n: usize, traits: Value| json!({"type": "identify", "userId": format!("u{n}"), "traits": traits});
    let send = |list: Vec<Value>| client.post("/v1/batch", &json!({ "batch": list }));
    for first in (0..PEOPLE).step_by(20) {
        let people = (first..first + 20).map(|n| identify(n, json!(much)));
        send(people.collect()).expect(200);
    }
    let before = app.server().memory_bytes("VmHWM");
    // They have it already, or do not.
    for traits in [json!({"trait_00007": 7}), json!({"trait_00007": 8})] {
        let list = || (0..PEOPLE).map(|n| identify(n, traits.clone())).collect();
        eventually("they are all stored", Duration::from_secs(120), || {
            (send(list()).status == 200).then_some(())
        });
    }
    let grown = app.server().memory_bytes("VmHWM").saturating_sub(before);
    println!("grown by {grown} bytes");
    assert!(grown < 250 << 20, "grown by {grown} bytes");
    let having = "SELECT count(*) FROM persons WHERE traits->>'trait_00007' = '8'";
    assert_eq!(sql::number(&mut app.sql(), having), PEOPLE as i64);
}

/// A list with an event of each of so many people whom the server does not remember. But for the first
/// ones, with little, they have as much as is allowed, in a text that the database keeps small.
pub fn about_people_with_much(app: &mut TestApp, people: usize, with_little: usize) -> Value {
    let track = |n| json!({"type": "track", "event": "e", "userId": format!("u{n:04}")});
    let list: Vec<Value> = (0..people).map(track).collect();
    let list = json!({ "batch": list });
    app.client().post("/v1/batch", &list).expect(200);
    app.terminate(Duration::from_secs(30));
    sql::run(
        &mut app.sql(),
        &format!(
            "UPDATE persons SET traits = jsonb_build_object('text', repeat('x', 250000)) \
             WHERE bucketing_value >= 'u{with_little:04}'"
        ),
    );
    app.set("BECKON_USER_CACHE_BYTES", "1048576");
    app.restart();
    list
}

/// Nor does it help to name small people first, from whom one might guess how large the others are.
#[test]
fn a_list_about_many_with_little_and_many_with_much_takes_little_memory() {
    const LITTLE: usize = 200;
    const PEOPLE: usize = 1_200;
    let mut app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1"), patience()]);
    let list = about_people_with_much(&mut app, PEOPLE, LITTLE);
    app.client()
        .post_text("/v1/batch", r#"{"batch":[]}"#)
        .expect(200);
    let before = app.server().memory_bytes("VmHWM");
    let client = app.client();
    eventually("they are all stored", Duration::from_secs(120), || {
        (client.post("/v1/batch", &list).status == 200).then_some(())
    });
    let grown = app.server().memory_bytes("VmHWM").saturating_sub(before);
    println!("grown by {grown} bytes");
    assert!(grown < 200 << 20, "grown by {grown} bytes");
}

/// In whatever order a list names its people, each is read about once.
#[test]
fn a_list_that_visits_several_with_much_in_turn_is_as_quick_as_one_by_one() {
    const PEOPLE: usize = 5;
    const EVENTS: usize = 2_500;
    let app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1"), patience()]);
    let much: serde_json::Map<String, Value> = (0..12_000)
        .map(|n| (format!("trait_{n:05}"), json!(n)))
        .collect();
    let identify = |n: usize, traits: Value| json!({"type": "identify", "userId": format!("u{n}"), "traits": traits});
    let send = |list: Vec<Value>| {
        let began = Instant::now();
        let answer = app.client().post("/v1/batch", &json!({ "batch": list }));
        answer.expect(200);
        began.elapsed()
    };
    for n in 0..PEOPLE {
        send(vec![identify(n, json!(much))]);
    }
    let one_by_one = |n: usize| n / (EVENTS / PEOPLE);
    let in_turn = |n: usize| n % PEOPLE;
    let had = |_: usize| json!({"trait_00007": 7});
    let new = |n: usize| json!({"n": n});
    for traits in [had as fn(usize) -> Value, new] {
        let list =
            |whom: fn(usize) -> usize| (0..EVENTS).map(move |n| identify(whom(n), traits(n)));
        let sorted = send(list(one_by_one).collect());
        let mixed = send(list(in_turn).collect());
        println!("{sorted:?} one by one, {mixed:?} in turn");
        assert!(
            mixed < 2 * sorted + Duration::from_secs(1),
            "{sorted:?} one by one, {mixed:?} in turn"
        );
    }
    for n in 0..PEOPLE {
        let user = app
            .admin()
            .get(&format!("/v1/admin/users/u{n}"))
            .expect(200);
        assert_eq!(user["traits"]["n"], EVENTS - PEOPLE + n);
        assert_eq!(user["traits"]["trait_11999"], 11_999);
    }
}

/// Nor is what is decided after each of its events kept without a bound: a small list may make as many
/// people of one as it has events.
#[test]
fn a_list_that_asks_what_to_show_after_each_change_takes_little_memory() {
    const PAIRS: usize = 1_250;
    let mut app = TestApp::start_with(&[("BECKON_INGEST_SHARDS", "1"), patience()]);
    create(&app.admin(), on_buy("all", json!({})));
    identify(&app.client(), "u", json!({"text": "x".repeat(250_000)}));
    let pair = |n: usize| {
        let id = |kind: &str| format!("{kind} {n}");
        [
            json!({"type": "identify", "userId": "u", "traits": {"n": n}, "messageId": id("who")}),
            json!({"type": "track", "userId": "u", "event": "buy", "messageId": id("what")}),
        ]
    };
    let list: Vec<Value> = (0..PAIRS).flat_map(pair).collect();
    let list = json!({ "batch": list });
    let before = app.server().memory_bytes("VmRSS");
    let client = app.client();
    let post = || client.post("/v1/batch?matched=true", &list);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let answer = post();
                assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
            });
        }
    });
    let grown = app.server().memory_bytes("VmHWM").saturating_sub(before);
    println!("grown by {grown} bytes");
    assert!(grown < 150 << 20, "grown by {grown} bytes");
    // Whoever heard that it was too much comes again, and then it changes nobody.
    let answer = eventually("it is answered", Duration::from_secs(120), || {
        let answer = post();
        (answer.status == 200).then(|| answer.json())
    });
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2 * PAIRS);
    let shown = results.last().unwrap();
    assert_eq!(shown["matched"][0]["name"], "all", "{shown}");
    let stored = sql::number(&mut app.sql(), "SELECT count(*) FROM events");
    assert_eq!(stored, 2 * PAIRS as i64 + 1);
}
