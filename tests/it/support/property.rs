//! Random cases that can be had again: each run takes a new seed, says which, and takes another's
//! from `BECKON_SEED`.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::{is_soak, now, switch};

/// How many cases a property is tried on under `make soak`, unless it says otherwise.
const SOAK_CASES: u32 = 10_000;

/// The seed of this run, which is printed with the name of the test.
pub fn seed() -> u64 {
    let seed = match switch("BECKON_SEED") {
        Some(text) => text.parse().unwrap(),
        None => now().timestamp_micros().unsigned_abs(),
    };
    let thread = std::thread::current();
    println!("BECKON_SEED={seed} {}", thread.name().unwrap_or_default());
    seed
}

/// So many in the short form of a test, and those of a soak in the long one.
pub fn cases(short: u32) -> u32 {
    if is_soak() { SOAK_CASES } else { short }
}

/// Runs `check` on so many random values. What fails is shrunk, and told with its seed.
pub fn run<T: std::fmt::Debug>(
    cases: u32,
    strategy: impl Strategy<Value = T>,
    check: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let seed = seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_time: 60_000,
        max_shrink_iters: u32::MAX,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, check);
    assert!(
        outcome.is_ok(),
        "BECKON_SEED={seed}: {}",
        outcome.unwrap_err()
    );
}
