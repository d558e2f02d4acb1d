//! What the integration tests stand on: a PostgreSQL, the real server as a process, clients of it,
//! and the recorded exchanges.
//!
//! Everything that waits has a bound here, so that a broken server fails a test instead of hanging
//! the run.

pub mod app;
pub mod client;
pub mod clock;
pub mod journal;
pub mod ledger;
pub mod lossy;
pub mod metrics;
pub mod one_shard;
pub mod postgres;
pub mod property;
pub mod raw;
pub mod recordings;
pub mod severed;
pub mod sql;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

pub use app::{ADMIN_KEY, CLIENT_KEY, TestApp};
pub use client::{Answer, Client};
pub use ledger::assert_ledger;

/// Blocks this test's thread.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's thread may block; nothing else runs on it"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// The wall clock, to compare with times the server answers.
#[expect(
    clippy::disallowed_methods,
    reason = "the server under test is another process, with the real clock"
)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// A switch of the test run, from the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests' own switches are no configuration of the server"
)]
pub fn switch(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// True for the long forms of the tests (`make soak`).
pub fn is_soak() -> bool {
    switch("BECKON_SOAK").is_some_and(|value| value != "0")
}

/// Makes a server wait for its database as it does by default in the long forms; else for so long
/// that a refusal is no slow machine's.
pub fn patience() -> (&'static str, &'static str) {
    let millis = if is_soak() { "1800" } else { "20000" };
    ("BECKON_DATABASE_DEADLINE_MS", millis)
}

/// Tries until `probe` gives a value; panics with `what` when the bound is reached.
pub fn eventually<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + bound;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            Instant::now() < end,
            "not within {} ms: {what}",
            bound.as_millis()
        );
        pause(Duration::from_millis(20));
    }
}
