//! Waiting for another process, which can only be done by looking again and again.

use std::time::{Duration, Instant};

/// How long to wait between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `done` says so (true) or `timeout` has passed (false). Looks at least once.
pub(super) fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() >= timeout {
            return false;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "this module is blocking by contract and never runs on an async thread"
        )]
        std::thread::sleep(LOOK_EVERY);
    }
}
