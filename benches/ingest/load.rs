//! The load client: keep-alive connections on one thread, each sending its next request when the
//! last one is answered (a closed loop), with as little work of its own as it can do.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::feed::{Feed, Request};
use crate::report::Outcome;

/// No answer of a healthy server takes as long.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// How long a measurement takes.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Load before anything is counted.
    pub warm_up: Duration,
    /// Load that is counted.
    pub measured: Duration,
    /// The most requests or transactions, counted or not.
    pub requests_max: u64,
    /// Whether a 429 or 503 with `Retry-After` is an answer like others; the client then waits for
    /// as long as it is told. Otherwise it ends the bench.
    pub may_refuse: bool,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Run {
    /// Acknowledged events, counted or not.
    pub acknowledged: u64,
    /// Events acknowledged while it counted.
    pub events: u64,
    /// For how long it counted.
    pub seconds: f64,
    /// The latency of each request while it counted, in microseconds.
    pub latencies_us: Vec<u32>,
    /// Requests that were refused while it counted.
    pub refused: u64,
    /// Campaigns in answers of the warm-up, and the events these were for.
    pub campaigns: (u64, u64),
}

impl Run {
    /// Puts the figures of concurrent runs together.
    pub fn join(&mut self, other: Run) {
        self.acknowledged += other.acknowledged;
        self.events += other.events;
        self.seconds = self.seconds.max(other.seconds);
        self.latencies_us.extend(other.latencies_us);
        self.refused += other.refused;
        self.campaigns.0 += other.campaigns.0;
        self.campaigns.1 += other.campaigns.1;
    }
}

struct Shared {
    feed: RefCell<Feed>,
    requests: Vec<Request>,
    run: RefCell<Run>,
    sent: RefCell<u64>,
}

/// Sends requests over so many connections. Every answer must be a 200.
pub fn drive(
    address: SocketAddr,
    feed: Feed,
    requests: Vec<Request>,
    connections: usize,
    span: Span,
) -> Outcome<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Rc::new(Shared {
        feed: RefCell::new(feed),
        requests,
        run: RefCell::default(),
        sent: RefCell::new(0),
    });
    let local = LocalSet::new();
    let outcome: Outcome<()> = local.block_on(&runtime, async {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let begin = Instant::now();
        let clients: Vec<_> = streams
            .into_iter()
            .map(|stream| tokio::task::spawn_local(client(stream, Rc::clone(&shared), begin, span)))
            .collect();
        for client in clients {
            client.await??;
        }
        Ok(())
    });
    outcome?;
    let mut run = shared.run.take();
    run.seconds = span.measured.as_secs_f64();
    Ok(run)
}

async fn client(
    mut stream: TcpStream,
    shared: Rc<Shared>,
    begin: Instant,
    span: Span,
) -> Outcome<()> {
    let (counted_from, end) = (begin + span.warm_up, begin + span.warm_up + span.measured);
    let (mut request, mut answer) = (Vec::new(), Vec::with_capacity(64 * 1024));
    loop {
        let started = Instant::now();
        if started >= end || *shared.sent.borrow() >= span.requests_max {
            return Ok(());
        }
        *shared.sent.borrow_mut() += 1;
        let events = {
            let mut feed = shared.feed.borrow_mut();
            let place = feed.below(shared.requests.len());
            let chosen = shared.requests.get(place).ok_or("there are no requests")?;
            chosen.write(&mut feed, &mut request);
            chosen.events() as u64
        };
        stream.write_all(&request).await?;
        let reading = read_answer(&mut stream, &mut answer);
        let head = tokio::time::timeout(ANSWER_BOUND, reading).await??;
        let answered = Instant::now();
        if let Some(wait) = head.refusal(&answer)? {
            if !span.may_refuse {
                return Err(format!("answered: {}", String::from_utf8_lossy(&answer)).into());
            }
            if answered >= counted_from && answered < end {
                shared.run.borrow_mut().refused += 1;
            }
            tokio::time::sleep_until((answered + wait).min(end).into()).await;
            continue;
        }
        let mut run = shared.run.borrow_mut();
        run.acknowledged += events;
        if started < counted_from {
            let body = answer.get(head.body_at..).unwrap_or_default();
            let campaigns = memchr::memmem::find_iter(body, br#""name":"campaign "#).count();
            run.campaigns.0 += campaigns as u64;
            run.campaigns.1 += events;
        }
        if answered >= counted_from && answered < end {
            run.events += events;
            if started >= counted_from {
                let latency = answered.duration_since(started).as_micros();
                run.latencies_us
                    .push(u32::try_from(latency).unwrap_or(u32::MAX));
            }
        }
    }
}

/// What an answer begins with.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Where the body begins.
    pub body_at: usize,
    status: u16,
    /// `None` where the answer comes in chunks.
    length: Option<usize>,
}

impl Head {
    /// Reads it, once it is there.
    pub fn of(answer: &[u8]) -> Outcome<Option<Self>> {
        let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = answer.get(..end).unwrap_or_default();
        let status = number(head.get("HTTP/1.1 ".len()..).unwrap_or_default());
        Ok(Some(Self {
            body_at: end + 4,
            status: u16::try_from(status)?,
            length: field(head, b"content-length"),
        }))
    }

    /// Whether this is all of the answer. No JSON holds what ends the last chunk.
    pub fn is_whole(&self, answer: &[u8]) -> bool {
        match self.length {
            Some(length) => answer.len() >= self.body_at + length,
            None => answer.ends_with(b"\r\n0\r\n\r\n"),
        }
    }

    /// For how long the server asks to stay away, if it does; any other answer must be a 200.
    pub fn refusal(&self, answer: &[u8]) -> Outcome<Option<Duration>> {
        let head = answer.get(..self.body_at).unwrap_or_default();
        match (self.status, field(head, b"retry-after")) {
            (200, _) => Ok(None),
            (429 | 503, Some(seconds)) => Ok(Some(Duration::from_secs(seconds as u64))),
            _ => Err(format!("answered: {}", String::from_utf8_lossy(answer)).into()),
        }
    }
}

/// Reads one answer.
pub async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Outcome<Head> {
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err("the server closed a connection".into());
        }
        let Some(head) = Head::of(answer)? else {
            continue;
        };
        while !head.is_whole(answer) {
            if stream.read_buf(answer).await? == 0 {
                return Err("the server closed a connection".into());
            }
        }
        return Ok(head);
    }
}

/// A header's number. Names come in lower case.
fn field(head: &[u8], name: &[u8]) -> Option<usize> {
    let at = memchr::memmem::find_iter(head, name)
        .find(|at| head.get(at.wrapping_sub(1)) == Some(&b'\n'))?;
    let value = head.get(at + name.len()..)?.strip_prefix(b": ")?;
    Some(number(value))
}

fn number(digits: &[u8]) -> usize {
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
