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
        let body_at = tokio::time::timeout(ANSWER_BOUND, reading).await??;
        let answered = Instant::now();
        let mut run = shared.run.borrow_mut();
        run.acknowledged += events;
        if started < counted_from {
            let body = answer.get(body_at..).unwrap_or_default();
            let campaigns = memchr::memmem::find_iter(body, br#""createdAt":"#).count();
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

/// Reads one answer with a `content-length`; returns where its body begins.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Outcome<usize> {
    answer.clear();
    let (mut body_at, mut whole) = (0, usize::MAX);
    while answer.len() < whole {
        if stream.read_buf(answer).await? == 0 {
            return Err("the server closed a connection".into());
        }
        if body_at == 0
            && let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n")
        {
            body_at = head + 4;
            whole = body_at + content_length(answer.get(..head).unwrap_or_default())?;
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("answered: {}", String::from_utf8_lossy(answer)).into());
    }
    Ok(body_at)
}

fn content_length(head: &[u8]) -> Outcome<usize> {
    const NAME: &[u8] = b"\r\ncontent-length: ";
    let at = memchr::memmem::find(head, NAME).ok_or("an answer has no content-length")?;
    let digits = head.get(at + NAME.len()..).unwrap_or_default();
    Ok(digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}
