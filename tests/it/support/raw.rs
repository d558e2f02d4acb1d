//! Requests as bytes on a socket, for what no HTTP library would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long an answer may take.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
/// More than any answer of the tests.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An answer as it came over the socket.
#[derive(Debug)]
pub struct RawAnswer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, put together when it came in chunks.
    pub body: Vec<u8>,
    /// How long it took from the first byte sent.
    pub took: Duration,
}

impl RawAnswer {
    /// A header's value, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as a JSON object when the status is the expected one; panics otherwise.
    #[track_caller]
    pub fn expect_object(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert!(body.is_object(), "{body}");
        body
    }
}

/// Puts a request together: the headers as they are, and nothing else but a length.
pub fn request(method: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    let mut has_length = false;
    for (name, value) in headers {
        has_length |= name.eq_ignore_ascii_case("content-length")
            || name.eq_ignore_ascii_case("transfer-encoding");
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !has_length && !body.is_empty() {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Sends bytes and reads one answer; `None` when the connection ended without one.
///
/// Writing goes on beside reading, since a server may answer, and close, before it has read all.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<RawAnswer> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_BOUND).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    stream.set_write_timeout(Some(ANSWER_BOUND)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A server that has answered already need not read the rest.
            let _refused = writer.write_all(bytes);
        });
        let answer = read_answer(&mut stream, started);
        let _closed_already = stream.shutdown(Shutdown::Both);
        answer
    })
}

fn read_answer(stream: &mut TcpStream, started: Instant) -> Option<RawAnswer> {
    let mut received = Vec::new();
    let mut piece = [0_u8; 16 * 1024];
    loop {
        let ended = match stream.read(&mut piece) {
            Ok(0) => true,
            Ok(length) => {
                received.extend_from_slice(&piece[..length]);
                false
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(
                    started.elapsed() < ANSWER_BOUND,
                    "no whole answer within {} s; so far: {:?}",
                    ANSWER_BOUND.as_secs(),
                    String::from_utf8_lossy(&received)
                );
                continue;
            }
            Err(_) => true,
        };
        if let Some(mut answer) = parse(&received, ended) {
            answer.took = started.elapsed();
            return Some(answer);
        }
        if ended {
            return None;
        }
        assert!(received.len() < ANSWER_BYTES_MAX, "an answer without end");
    }
}

/// The answer, once it is whole.
fn parse(received: &[u8], ended: bool) -> Option<RawAnswer> {
    let head_end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..head_end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &received[head_end + 4..];
    let header = |name: &str| {
        headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    let body = if header("transfer-encoding") == Some("chunked") {
        unchunked(rest)?
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().unwrap();
        rest.get(..length)?.to_vec()
    } else if status == 204 || ended {
        rest.to_vec()
    } else {
        return None;
    };
    Some(RawAnswer {
        status,
        headers,
        body,
        took: Duration::ZERO,
    })
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..line_end]).unwrap();
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).unwrap();
        rest = &rest[line_end + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}

#[test]
fn an_answer_is_read_whole_or_not_at_all() {
    let fixed = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(parse(fixed, false).unwrap().body, b"{}");
    assert!(parse(&fixed[..fixed.len() - 1], true).is_none());
    let chunked =
        b"HTTP/1.1 413 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
    let answer = parse(chunked, false).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "{}"));
    assert!(parse(&chunked[..chunked.len() - 7], false).is_none());
    assert!(parse(b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", false).is_some());
}
