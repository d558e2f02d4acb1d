//! Log lines that callers can cause at will, bounded in number.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// So many lines a second, and as many at once.
const LINES_PER_SECOND: u32 = 50;

/// Lines of one kind. Under overload each refused request has one, and writing all of them would
/// cost as much as serving.
#[derive(Debug)]
pub struct Sparse {
    limiter: DefaultDirectRateLimiter,
    held_back: AtomicU64,
}

impl Default for Sparse {
    fn default() -> Self {
        let rate = NonZeroU32::new(LINES_PER_SECOND).unwrap_or(NonZeroU32::MIN);
        Self {
            limiter: RateLimiter::direct(Quota::per_second(rate)),
            held_back: AtomicU64::new(0),
        }
    }
}

impl Sparse {
    /// Whether a line may be written now: how many were not since the last one.
    pub fn admit(&self) -> Option<u64> {
        if self.limiter.check().is_ok() {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's own thread may block")]
    fn pause(millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
    }

    #[test]
    fn every_line_is_written_or_counted() {
        let lines = Sparse::default();
        let begin = Instant::now();
        let (mut written, mut counted) = (0_u64, 0);
        for number in 0..5_000 {
            if let Some(held_back) = lines.admit() {
                written += 1;
                counted += held_back;
            }
            if number % 1_000 == 0 {
                pause(30);
            }
        }
        let seconds = begin.elapsed().as_secs() + 1;
        let most = u64::from(LINES_PER_SECOND) * (seconds + 1);
        assert!(written <= most, "{written} in less than {seconds} s");
        pause(100);
        let last = lines.admit();
        assert!(last.is_some_and(|held_back| held_back > 0), "{last:?}");
        assert_eq!(written + counted + last.unwrap_or_default(), 5_000);
    }
}
