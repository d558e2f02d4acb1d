//! A load of tracking clients that keep a journal of what they were promised.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use diesel::PgConnection;
use serde_json::json;

use super::ledger::ledger_faults;
use super::{CLIENT_KEY, Client, eventually, pause, sql};

/// What one or all clients of a load saw.
#[derive(Debug, Default)]
pub struct Journal {
    /// The message ids that were answered with 200.
    pub acknowledged: Vec<String>,
    /// The message ids that were tried at least once.
    pub tried: Vec<String>,
    /// How many calls got which other status.
    pub refused: BTreeMap<u16, u64>,
    /// How many calls got no answer at all.
    pub unanswered: u64,
    /// How many answers said that the event was a duplicate.
    pub duplicates: u64,
    /// How many events were acknowledged after a call for them had got no answer.
    pub after_silence: u64,
    /// When each acknowledgement came, and how long its call took.
    pub answers: Vec<(Instant, Duration)>,
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

    /// Starts the clients.
    pub fn of(base: &str, plan: Plan) -> Self {
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
                thread::spawn(move || track_on_and_on(&shared, number))
            })
            .collect();
        Self { shared, clients }
    }

    /// Where the server is now.
    pub fn point_at(&self, base: &str) {
        base.clone_into(&mut self.shared.base.lock().unwrap());
    }

    /// How many events are acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more events are acknowledged.
    pub fn wait_for(&self, more: u64, bound: Duration) {
        let wanted = self.acknowledged() + more;
        eventually("the load goes on", bound, || {
            (self.acknowledged() >= wanted).then_some(())
        });
    }

    /// How many events are acknowledged a second, over this time from now on.
    pub fn rate_over(&self, time: Duration) -> f64 {
        let (started, before) = (Instant::now(), self.acknowledged());
        pause(time);
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 events")]
        let events = (self.acknowledged() - before) as f64;
        events / started.elapsed().as_secs_f64()
    }

    /// Ends the clients after their calls in flight, and puts their journals together.
    pub fn end(self) -> Journal {
        self.shared.ends.store(true, Ordering::Relaxed);
        let mut whole = Journal::default();
        for client in self.clients {
            let part = client.join().unwrap();
            whole.acknowledged.extend(part.acknowledged);
            whole.tried.extend(part.tried);
            whole.answers.extend(part.answers);
            whole.unanswered += part.unanswered;
            whole.duplicates += part.duplicates;
            whole.after_silence += part.after_silence;
            for (status, count) in part.refused {
                *whole.refused.entry(status).or_default() += count;
            }
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

fn track_on_and_on(shared: &Shared, number: usize) -> Journal {
    let plan = &shared.plan;
    let mut journal = Journal::default();
    let mut base = String::new();
    let mut client = Client::new("");
    let mut round = 0_u64;
    let mut due = Instant::now();
    while !shared.ends() {
        if let Some(every) = plan.every {
            shared.pause(due.saturating_duration_since(Instant::now()));
            due += every;
        }
        let id = format!("{}-{number}-{round}", plan.prefix);
        journal.tried.push(id.clone());
        let body = json!({
            "user_id": format!("load-{number}"),
            "event": "load",
            "event_id": id,
            "properties": {"round": round},
        })
        .to_string();
        let mut was_silence = false;
        while !shared.ends() {
            let current = shared.base.lock().unwrap().clone();
            if current != base {
                client = Client::new(&current).key(&plan.key);
                base = current;
            }
            let started = Instant::now();
            let mut wait = SOON;
            match client.try_send("POST", "/v1/track", &[], Some(body.as_bytes())) {
                Ok(answer) if answer.status == 200 => {
                    let told = answer.json();
                    assert_eq!(told["ok"], true, "{told}");
                    assert!(told["event"]["id"].is_string(), "{told}");
                    journal.duplicates += u64::from(told["duplicate"] == true);
                    journal.after_silence += u64::from(was_silence);
                    journal.acknowledged.push(id);
                    let now = Instant::now();
                    journal.answers.push((now, now - started));
                    shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    shared.pause(plan.pace);
                    break;
                }
                Ok(answer) => {
                    *journal.refused.entry(answer.status).or_default() += 1;
                    if matches!(answer.status, 429 | 503) {
                        let asked: u64 = answer.header("retry-after").parse().unwrap();
                        assert!((1..=300).contains(&asked), "{asked}: {}", answer.text());
                        if plan.honours_retry_after {
                            wait = Duration::from_secs(asked);
                        }
                    }
                }
                Err(_) => {
                    journal.unanswered += 1;
                    was_silence = true;
                }
            }
            if plan.every.is_some() {
                break;
            }
            shared.pause(wait);
        }
        round += 1;
    }
    journal
}

impl Journal {
    /// How long the slowest call of the fastest so many per cent took.
    pub fn percentile(&self, per_cent: usize) -> Duration {
        let mut took: Vec<Duration> = self.answers.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        let place = (took.len() * per_cent).div_ceil(100).max(1) - 1;
        took[place]
    }

    /// The longest time without an acknowledgement, between the first one and the last.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.answers.windows(2).map(|two| two[1].0 - two[0].0);
        gaps.max().unwrap_or_default()
    }

    /// Checks that the server refused with nothing but 429 and 503, and answered everything.
    pub fn check_refusals(&self) {
        let odd = self
            .refused
            .keys()
            .any(|status| !matches!(status, 429 | 503));
        assert!(!odd, "{:?}", self.refused);
        assert_eq!(self.unanswered, 0, "calls without an answer");
    }

    /// Checks the promises of a load against the tables: what was acknowledged is there once,
    /// nothing is there twice or was never sent, and the ledger agrees.
    pub fn check(&self, connection: &mut PgConnection, prefix: &str) {
        let stored: Vec<String> = sql::texts(
            connection,
            &format!(
                "SELECT message_id AS value FROM events WHERE message_id LIKE {}",
                sql::quoted(&format!("{prefix}-%"))
            ),
        );
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for id in &stored {
            *counts.entry(id).or_default() += 1;
        }
        let lost: Vec<&String> = self
            .acknowledged
            .iter()
            .filter(|id| !counts.contains_key(id.as_str()))
            .collect();
        assert!(
            lost.is_empty(),
            "{} acknowledged and lost: {:?}",
            lost.len(),
            some(&lost)
        );
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(
            twice.is_empty(),
            "{} stored more than once: {:?}",
            twice.len(),
            some(&twice)
        );
        let tried: std::collections::BTreeSet<&str> =
            self.tried.iter().map(String::as_str).collect();
        let unknown: Vec<_> = counts.keys().filter(|id| !tried.contains(*id)).collect();
        assert!(
            unknown.is_empty(),
            "{} stored and never sent: {:?}",
            unknown.len(),
            some(&unknown)
        );
        let faults = ledger_faults(connection);
        assert!(faults.is_empty(), "the ledger differs: {faults:#?}");
    }
}

/// A few of many, to be shown.
fn some<T>(of: &[T]) -> &[T] {
    &of[..of.len().min(10)]
}
