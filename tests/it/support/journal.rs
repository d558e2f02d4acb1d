//! A load of tracking clients that keep a journal of what they were promised.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use diesel::PgConnection;
use serde_json::json;

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
}

/// Clients that track without a pause, each on its own connection.
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
    prefix: String,
    ends: AtomicBool,
    acknowledged: AtomicU64,
}

impl Load {
    /// Starts the clients. `prefix` makes the message ids of this load different from others'.
    pub fn start(base: &str, connections: usize, prefix: &str) -> Self {
        let shared = Arc::new(Shared {
            base: Mutex::new(base.to_owned()),
            prefix: prefix.to_owned(),
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

    /// Ends the clients after their calls in flight, and puts their journals together.
    pub fn end(self) -> Journal {
        self.shared.ends.store(true, Ordering::Relaxed);
        let mut whole = Journal::default();
        for client in self.clients {
            let part = client.join().unwrap();
            whole.acknowledged.extend(part.acknowledged);
            whole.tried.extend(part.tried);
            whole.unanswered += part.unanswered;
            whole.duplicates += part.duplicates;
            for (status, count) in part.refused {
                *whole.refused.entry(status).or_default() += count;
            }
        }
        whole
    }
}

fn track_on_and_on(shared: &Shared, number: usize) -> Journal {
    let mut journal = Journal::default();
    let mut base = String::new();
    let mut client = Client::new("");
    let mut round = 0_u64;
    while !shared.ends.load(Ordering::Relaxed) {
        let id = format!("{}-{number}-{round}", shared.prefix);
        journal.tried.push(id.clone());
        let body = json!({
            "user_id": format!("load-{number}"),
            "event": "load",
            "event_id": id,
            "properties": {"round": round},
        })
        .to_string();
        while !shared.ends.load(Ordering::Relaxed) {
            let current = shared.base.lock().unwrap().clone();
            if current != base {
                client = Client::new(&current).key(CLIENT_KEY);
                base = current;
            }
            match client.try_send("POST", "/v1/track", &[], Some(body.as_bytes())) {
                Ok(answer) if answer.status == 200 => {
                    let told = answer.json();
                    assert_eq!(told["ok"], true, "{told}");
                    assert!(told["event"]["id"].is_string(), "{told}");
                    journal.duplicates += u64::from(told["duplicate"] == true);
                    journal.acknowledged.push(id);
                    shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(answer) => *journal.refused.entry(answer.status).or_default() += 1,
                Err(_) => journal.unanswered += 1,
            }
            pause(Duration::from_millis(20));
        }
        round += 1;
    }
    journal
}

impl Journal {
    /// Checks the promises of a load against the table: what was acknowledged is there once, and
    /// nothing is there twice or was never sent.
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
            "{} acknowledged and lost: {lost:?}",
            lost.len()
        );
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "stored more than once: {twice:?}");
        let tried: std::collections::BTreeSet<&str> =
            self.tried.iter().map(String::as_str).collect();
        let unknown: Vec<_> = counts.keys().filter(|id| !tried.contains(*id)).collect();
        assert!(unknown.is_empty(), "stored and never sent: {unknown:?}");
    }
}
