//! An open loop over many connections on one thread: what comes while no connection is free waits,
//! and is given up after a second, as a caller with a deadline does. Latency counts from when an
//! event came. Its times are exact to a millisecond.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::feed::{Feed, Request};
use crate::load;
use crate::pace::arrivals;
use crate::raw::micros;
use crate::report::Outcome;

const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

/// What happened in one second.
#[derive(Debug, Default, Clone)]
pub struct Second {
    /// Events acknowledged in it.
    pub acknowledged: u64,
    /// Requests refused in it.
    pub refused: u64,
    /// Events that came in it and were given up.
    pub given_up: u64,
    /// The latencies of the acknowledged events that came in it, in microseconds.
    pub latencies_us: Vec<u32>,
}

impl Second {
    /// The share of its events that were not stored.
    pub fn lost(&self) -> f64 {
        let lost = self.refused + self.given_up;
        lost as f64 / (self.acknowledged + lost).max(1) as f64
    }
}

struct Shared {
    feed: RefCell<Feed>,
    requests: Vec<Request>,
    waiting: RefCell<VecDeque<Instant>>,
    ready: Semaphore,
    begin: Instant,
    seconds: RefCell<Vec<Second>>,
}

impl Shared {
    fn note(&self, at: Instant, what: impl FnOnce(&mut Second)) {
        let place = at.saturating_duration_since(self.begin).as_secs() as usize;
        let mut seconds = self.seconds.borrow_mut();
        if seconds.len() <= place {
            seconds.resize_with(place + 1, Second::default);
        }
        if let Some(second) = seconds.get_mut(place) {
            what(second);
        }
    }
}

/// Sends so many single events a second for so long, one phase after the other. It is loaded while
/// events come or wait, and all connections are open.
pub fn drive(
    address: SocketAddr,
    feed: Feed,
    requests: Vec<Request>,
    connections: usize,
    phases: &[(Duration, f64)],
    is_loaded: &AtomicBool,
) -> Outcome<Vec<Second>> {
    let mut schedule = Vec::new();
    let mut start = Duration::ZERO;
    for (length, per_second) in phases {
        let phase = arrivals(*per_second, *length);
        schedule.extend(phase.into_iter().map(|at| start + at));
        start += *length;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let shared = Rc::new(Shared {
            feed: RefCell::new(feed),
            requests,
            waiting: RefCell::default(),
            ready: Semaphore::new(0),
            begin: Instant::now(),
            seconds: RefCell::default(),
        });
        let clients: Vec<_> = streams
            .into_iter()
            .map(|stream| tokio::task::spawn_local(client(stream, Rc::clone(&shared))))
            .collect();
        is_loaded.store(true, Ordering::Relaxed);
        hand_out(&shared, &schedule).await;
        // No client has closed its connection yet: all of them have this thread.
        is_loaded.store(false, Ordering::Relaxed);
        for client in clients {
            client.await??;
        }
        Ok(shared.seconds.take())
    })
}

/// Gives the events to the connections as they come, and ends when all are taken.
async fn hand_out(shared: &Shared, schedule: &[Duration]) {
    let mut ticks = tokio::time::interval(TICK);
    let mut next = schedule.iter().peekable();
    while next.peek().is_some() || !shared.waiting.borrow().is_empty() {
        let now = ticks.tick().await;
        let gone = now.into_std().saturating_duration_since(shared.begin);
        let mut come = 0;
        while let Some(at) = next.next_if(|at| **at <= gone) {
            shared.waiting.borrow_mut().push_back(shared.begin + *at);
            come += 1;
        }
        shared.ready.add_permits(come);
    }
    shared.ready.close();
}

async fn client(mut stream: TcpStream, shared: Rc<Shared>) -> Outcome<()> {
    let (mut request, mut answer) = (Vec::new(), Vec::with_capacity(64 * 1024));
    while let Ok(permit) = shared.ready.acquire().await {
        permit.forget();
        let Some(came) = shared.waiting.borrow_mut().pop_front() else {
            continue;
        };
        if came.elapsed() > PATIENCE {
            shared.note(came, |second| second.given_up += 1);
            continue;
        }
        {
            let mut feed = shared.feed.borrow_mut();
            let place = feed.below(shared.requests.len());
            let chosen = shared.requests.get(place).ok_or("there are no requests")?;
            chosen.write(&mut feed, &mut request);
        }
        stream.write_all(&request).await?;
        let head = load::read_answer(&mut stream, &mut answer).await?;
        let answered = Instant::now();
        if head.refusal(&answer)?.is_some() {
            shared.note(answered, |second| second.refused += 1);
            continue;
        }
        shared.note(answered, |second| second.acknowledged += 1);
        let latency = micros(answered.duration_since(came));
        shared.note(came, |second| second.latencies_us.push(latency));
    }
    Ok(())
}
