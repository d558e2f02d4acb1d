//! A load of tracking clients that keep a journal of what they were promised.

mod calls;
mod checks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use self::calls::Kind;
use self::calls::{Call, Promise, Script, Told};
use super::{CLIENT_KEY, Client, eventually, pause};

/// What one or all clients of a load saw.
#[derive(Debug, Default)]
pub struct Journal {
    /// The message ids of events that were acknowledged.
    pub acknowledged: Vec<String>,
    /// The message ids of good events that were sent at least once.
    pub tried: Vec<String>,
    /// How many calls got which other status.
    pub refused: BTreeMap<u16, u64>,
    /// How long each of these calls took.
    pub refusals: Vec<Duration>,
    /// How many calls got no answer at all.
    pub unanswered: u64,
    /// How many events were duplicates by their acknowledgement, those of repetitions left out.
    pub duplicates: u64,
    /// How many events were acknowledged after a call for them had got no answer.
    pub after_silence: u64,
    /// When each acknowledgement came, and how long its call took.
    pub answers: Vec<(Instant, Duration)>,
    /// Message ids with the event ids that were told for them, by first answers and by others.
    pub told: Vec<(String, String)>,
    /// What may be known of events that nobody can store, by their message ids.
    pub rejections: BTreeMap<String, Rejections>,
    /// The trait that grows, by user.
    pub counters: BTreeMap<String, Counter>,
    /// Anonymous ids that were acknowledged to be these users.
    pub links: Vec<(String, String)>,
    /// How many calls of which kind were acknowledged.
    pub kinds: BTreeMap<Kind, u64>,
}

/// How often an event that is refused is kept. It has no effect, so its message id is not claimed
/// and each call that was committed has kept it once more.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rejections {
    /// Once for each call that was acknowledged.
    pub sure: u64,
    /// Perhaps once more for each that was not: its answer may have been lost after the commit, or
    /// a 503 may have come before it.
    pub maybe: u64,
}

/// The values of a trait that grows by one with each call.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counter {
    /// The last value that was acknowledged.
    pub acknowledged: u64,
    /// The last value that was sent.
    pub sent: u64,
}

/// What the clients of a load do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Makes the message ids of this load different from others'.
    pub prefix: String,
    /// Their key.
    pub key: String,
    /// How many there are, each on its own connection.
    pub connections: usize,
    /// Whether who is refused stays away for as long as it is asked to.
    pub honours_retry_after: bool,
    /// The pause after an acknowledged call.
    pub pace: Duration,
    /// How often a client calls whatever becomes of its calls; then it tries none of them again.
    pub every: Option<Duration>,
    /// Whether they send everything that takes a way of its own through the server, and not only
    /// single events of known people: newcomers, traits, links, lists, what is refused, repetitions.
    pub is_mixed: bool,
}

impl Plan {
    /// Clients of the default project that track without a pause and try again soon.
    pub fn new(connections: usize, prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            key: CLIENT_KEY.to_owned(),
            connections,
            honours_retry_after: false,
            pace: Duration::ZERO,
            every: None,
            is_mixed: false,
        }
    }

    /// The same clients with calls of all kinds. Each lets go of no call that was not acknowledged,
    /// so that nothing that was sent before can come after it.
    pub fn mixed(connections: usize, prefix: &str) -> Self {
        Self {
            is_mixed: true,
            ..Self::new(connections, prefix)
        }
    }
}

/// Clients that track on and on.
///
/// A call that is not answered with 200 is tried again with the same id, as real SDKs do, so a
/// commit whose answer was lost shows as a duplicate and never as two rows.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Journal>>,
}

#[derive(Debug)]
struct Shared {
    base: Mutex<String>,
    plan: Plan,
    ends: AtomicBool,
    acknowledged: AtomicU64,
}

/// How long a refused client waits that does not heed `Retry-After`.
const SOON: Duration = Duration::from_millis(20);

impl Load {
    /// Starts clients of [`Plan::new`].
    pub fn start(base: &str, connections: usize, prefix: &str) -> Self {
        Self::of(base, Plan::new(connections, prefix))
    }

    /// Starts clients of [`Plan::mixed`].
    pub fn mixed(base: &str, connections: usize, prefix: &str) -> Self {
        Self::of(base, Plan::mixed(connections, prefix))
    }

    /// Starts the clients.
    pub fn of(base: &str, plan: Plan) -> Self {
        assert!(!plan.is_mixed || plan.every.is_none(), "calls in order");
        let connections = plan.connections;
        let shared = Arc::new(Shared {
            base: Mutex::new(base.to_owned()),
            plan,
            ends: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        });
        let clients = (0..connections)
            .map(|number| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || call_on_and_on(&shared, number))
            })
            .collect();
        Self { shared, clients }
    }

    /// Where the server is now.
    pub fn point_at(&self, base: &str) {
        base.clone_into(&mut self.shared.base.lock().unwrap());
    }

    /// How many calls are acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more calls are acknowledged.
    pub fn wait_for(&self, more: u64, bound: Duration) {
        let wanted = self.acknowledged() + more;
        eventually("the load goes on", bound, || {
            (self.acknowledged() >= wanted).then_some(())
        });
    }

    /// How many calls are acknowledged a second, over this time from now on.
    pub fn rate_over(&self, time: Duration) -> f64 {
        let (started, before) = (Instant::now(), self.acknowledged());
        pause(time);
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 calls")]
        let calls = (self.acknowledged() - before) as f64;
        calls / started.elapsed().as_secs_f64()
    }

    /// Ends the clients after their calls in flight, and puts their journals together.
    pub fn end(self) -> Journal {
        self.shared.ends.store(true, Ordering::Relaxed);
        let mut whole = Journal::default();
        for client in self.clients {
            whole.take(client.join().unwrap());
        }
        whole.answers.sort_unstable();
        whole
    }
}

impl Shared {
    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Waits, but not longer than the load goes on.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.ends() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            pause(left.min(Duration::from_millis(50)));
        }
    }
}

fn call_on_and_on(shared: &Shared, number: usize) -> Journal {
    let plan = &shared.plan;
    let mut script = Script::new(&plan.prefix, number, plan.connections, plan.is_mixed);
    let mut caller = Caller {
        shared,
        base: String::new(),
        client: Client::new(""),
        journal: Journal::default(),
    };
    let mut due = Instant::now();
    while !shared.ends() {
        if let Some(every) = plan.every {
            shared.pause(due.saturating_duration_since(Instant::now()));
            due += every;
        }
        let call = script.next_call();
        if caller.is_acknowledged(&call) {
            script.acknowledged(call);
            shared.pause(plan.pace);
        }
    }
    caller.journal
}

/// One client.
struct Caller<'a> {
    shared: &'a Shared,
    base: String,
    client: Client,
    journal: Journal,
}

impl Caller<'_> {
    /// Calls until it is acknowledged; false when the load ended before, or only one try is planned.
    fn is_acknowledged(&mut self, call: &Call) -> bool {
        let mut was_silence = false;
        self.journal.sends(call);
        while !self.shared.ends() {
            self.follow_the_server();
            let body = Some(call.body.as_bytes());
            let started = Instant::now();
            let answer = self.client.try_send("POST", call.path, &[], body);
            let took = started.elapsed();
            let mut wait = SOON;
            match answer {
                Ok(answer) if answer.status == 200 => {
                    let told = call.read(&answer.json());
                    self.journal.acknowledged(call, told, was_silence);
                    self.journal.answers.push((started + took, took));
                    self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Ok(answer) => {
                    self.journal.refused(call, answer.status, took);
                    if matches!(answer.status, 429 | 503) {
                        let asked: u64 = answer.header("retry-after").parse().unwrap();
                        assert!((1..=300).contains(&asked), "{asked}: {}", answer.text());
                        if self.shared.plan.honours_retry_after {
                            wait = Duration::from_secs(asked);
                        }
                    }
                }
                Err(_) => {
                    self.journal.unanswered += 1;
                    self.journal.may_be_kept(call);
                    was_silence = true;
                }
            }
            if self.shared.plan.every.is_some() {
                return false;
            }
            self.shared.pause(wait);
        }
        false
    }

    fn follow_the_server(&mut self) {
        let current = self.shared.base.lock().unwrap().clone();
        if current != self.base {
            self.client = Client::new(&current).key(&self.shared.plan.key);
            self.base = current;
        }
    }
}

impl Journal {
    /// Notes a call before it is tried.
    fn sends(&mut self, call: &Call) {
        if call.kind == Kind::Repetition {
            return;
        }
        self.tried.extend(call.good.iter().cloned());
        if let Some((id, _)) = &call.rejected {
            self.rejections.entry(id.clone()).or_default();
        }
        if let Promise::Counter(user, value) = &call.promise {
            self.counters.entry(user.clone()).or_default().sent = *value;
        }
    }

    /// Notes that it was acknowledged.
    fn acknowledged(&mut self, call: &Call, told: Told, was_silence: bool) {
        *self.kinds.entry(call.kind).or_default() += 1;
        self.told.extend(told.events);
        if let Some((id, _)) = &call.rejected {
            self.rejections.entry(id.clone()).or_default().sure += 1;
        }
        if call.kind == Kind::Repetition {
            return;
        }
        let events = call.good.len() as u64;
        self.acknowledged.extend(call.good.iter().cloned());
        self.duplicates += told.duplicates;
        self.after_silence += if was_silence { events } else { 0 };
        match &call.promise {
            Promise::Events => {}
            Promise::Counter(user, value) => {
                let counter = self.counters.entry(user.clone()).or_default();
                counter.acknowledged = *value;
            }
            Promise::Link(anonymous, user) => {
                self.links.push((anonymous.clone(), user.clone()));
            }
        }
    }

    /// Notes that it was refused.
    fn refused(&mut self, call: &Call, status: u16, took: Duration) {
        *self.refused.entry(status).or_default() += 1;
        self.refusals.push(took);
        if status != 429 {
            self.may_be_kept(call);
        }
    }

    /// Notes that it may have been committed all the same.
    fn may_be_kept(&mut self, call: &Call) {
        if let Some((id, _)) = &call.rejected {
            self.rejections.entry(id.clone()).or_default().maybe += 1;
        }
    }

    /// Takes another client's journal in.
    fn take(&mut self, part: Self) {
        self.acknowledged.extend(part.acknowledged);
        self.tried.extend(part.tried);
        self.refusals.extend(part.refusals);
        self.answers.extend(part.answers);
        self.told.extend(part.told);
        self.rejections.extend(part.rejections);
        self.counters.extend(part.counters);
        self.links.extend(part.links);
        self.unanswered += part.unanswered;
        self.duplicates += part.duplicates;
        self.after_silence += part.after_silence;
        for (status, count) in part.refused {
            *self.refused.entry(status).or_default() += count;
        }
        for (kind, count) in part.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
    }

    /// How long the slowest call of the fastest so many per cent of the acknowledged ones took.
    pub fn percentile(&self, per_cent: usize) -> Duration {
        percentile(self.answers.iter().map(|(_, took)| *took), per_cent)
    }

    /// The same of the calls that were refused; none took no time.
    pub fn refusal_percentile(&self, per_cent: usize) -> Duration {
        percentile(self.refusals.iter().copied(), per_cent)
    }

    /// The longest time without an acknowledgement, between the first one and the last.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.answers.windows(2).map(|two| two[1].0 - two[0].0);
        gaps.max().unwrap_or_default()
    }
}

fn percentile(times: impl Iterator<Item = Duration>, per_cent: usize) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let place = (times.len() * per_cent).div_ceil(100).max(1) - 1;
    times.get(place).copied().unwrap_or_default()
}
