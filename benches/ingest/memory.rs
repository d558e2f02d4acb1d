//! Whether memory or open files grow over a run at 70 % of the maximum, which is that of a while of
//! load: the first second on empty tables is cheaper than those that follow.
//!
//! The server is started anew with a cache of people that those of the world more than fill, as any
//! cache is after a long time: newcomers push others out, and do not add to it.
//!
//! Every five minutes the events are counted and emptied, as those of an hour are 50 GB. Nothing is
//! sampled meanwhile. Then comes a surge, in which all connections are busy at once, as they are now and
//! then in any hour.
//!
//! The first third is left out. Through the rest goes a straight line; its slope has a 95 %
//! confidence interval, widened for samples that depend on the one before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::feed;
use crate::goals::Goal;
use crate::open;
use crate::report::{Outcome, line};
use crate::sides::{Bench, Shape, Side};
use crate::stage::Server;

const CONNECTIONS: usize = 256;
const LOAD: f64 = 0.7;
/// A quarter of it is for addresses, which would take four times as much as that.
const CACHE: (&str, &str) = ("BECKON_USER_CACHE_BYTES", "16MiB");
/// With huge pages the kernel makes memory of what lies unused between pages in use, at a time of its own
/// (khugepaged comes by once in the first hour), which is no growth of the server's.
const SMALL_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");
const EVERY: Duration = Duration::from_millis(500);
/// How long the maximum is measured.
const MAXIMUM_OVER: Duration = Duration::from_secs(15);
/// How many of a hundred events may be given up: a moment in which the machine stands still.
const GIVEN_UP_PER_CENT: f64 = 0.5;
/// How long the events are kept.
const STRETCH: Duration = Duration::from_secs(300);

/// Begins each of these stretches: for so long, so many times the maximum. The callers wait for half a
/// second at most, which is less than what is given up.
const SURGE: (Duration, f64) = (Duration::from_millis(250), 3.0);

/// What became of the events that came.
#[derive(Debug, Default, Clone, Copy)]
struct Fates {
    acknowledged: u64,
    refused: u64,
    given_up: u64,
}

/// A slope a minute and half of its confidence interval.
#[derive(Debug, Clone, Copy)]
struct Slope {
    per_minute: f64,
    margin: f64,
}

/// Runs for so long.
pub fn run(bench: &mut Bench, length: Duration) -> Outcome<(Value, Vec<Goal>)> {
    // There is never more than one: a node that has others remembers less.
    bench.beckon.kill()?;
    bench.beckon = Server::beckon_with(&bench.stage.url, &[CACHE, SMALL_PAGES])?;
    bench.visit_everybody()?;
    let maximum = maximum(bench)?;
    let per_second = LOAD * maximum;
    bench.stage.clear()?;
    let (is_loaded, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut samples: Vec<(f64, f64, f64)> = Vec::new();
    let (beckon, source, stage) = (&bench.beckon, &bench.source, &mut bench.stage);
    let driven = std::thread::scope(|scope| -> Outcome<Fates> {
        let sampler = scope.spawn(|| {
            let begin = Instant::now();
            let mut samples = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let was_loaded = is_loaded.load(Ordering::Relaxed);
                let minutes = begin.elapsed().as_secs_f64() / 60.0;
                let sample = (minutes, beckon.resident_mib(), beckon.open_files() as f64);
                if was_loaded && is_loaded.load(Ordering::Relaxed) {
                    samples.push(sample);
                }
                pause(EVERY);
            }
            samples
        });
        let mut stretches = || -> Outcome<Fates> {
            let mut fates = Fates::default();
            let mut left = length;
            while !left.is_zero() {
                let (surge, times) = SURGE;
                let phases = [(surge, times * maximum), (left.min(STRETCH), per_second)];
                let requests = feed::requests(source, 0);
                let (address, feed) = (beckon.address, source.feed());
                let seconds =
                    open::drive(address, feed, requests, CONNECTIONS, &phases, &is_loaded)?;
                let stored = seconds.iter().map(|second| second.acknowledged).sum();
                stage.expect_stored(Side::Beckon.name(), stored)?;
                stage.clear()?;
                fates.acknowledged += stored;
                fates.refused += seconds.iter().map(|second| second.refused).sum::<u64>();
                fates.given_up += seconds.iter().map(|second| second.given_up).sum::<u64>();
                left = left.saturating_sub(STRETCH);
            }
            Ok(fates)
        };
        let driven = stretches();
        ended.store(true, Ordering::Relaxed);
        samples = sampler.join().map_err(|_| "the sampler panicked")?;
        driven
    });
    let Fates {
        acknowledged,
        refused,
        given_up,
    } = driven?;
    let came = (acknowledged + refused + given_up).max(1);
    let given_up_per_cent = 100.0 * given_up as f64 / came as f64;
    let settled = samples.get(samples.len() / 3..).unwrap_or_default();
    let memory = slope(&settled.iter().map(|s| (s.0, s.1)).collect::<Vec<_>>());
    let files = slope(&settled.iter().map(|s| (s.0, s.2)).collect::<Vec<_>>());
    let first = settled.first().map_or(0.0, |sample| sample.1);
    let last = settled.last().map_or(0.0, |sample| sample.1);
    line(format_args!(
        "\n{:.0} s at {per_second:.0} events/s ({acknowledged} stored, {refused} refused, {given_up} given \
         up): memory {first:.1} to {last:.1} MiB, slope {:+.2} ± {:.2} MiB a minute (95 %); open files \
         {:+.2} ± {:.2} a minute",
        length.as_secs_f64(),
        memory.per_minute,
        memory.margin,
        files.per_minute,
        files.margin
    ));
    let value = json!({
        "seconds": length.as_secs_f64(),
        "events_per_second": per_second,
        "acknowledged": acknowledged,
        "refused": refused,
        "given_up": given_up,
        "resident_mib_per_minute": memory.per_minute,
        "resident_mib_per_minute_margin": memory.margin,
        "files_per_minute": files.per_minute,
        "files_per_minute_margin": files.margin,
        "samples": samples,
    });
    // A slope is shown when zero is outside of its interval.
    let surely = |slope: Slope| (slope.per_minute - slope.margin).max(0.0);
    Ok((
        value,
        vec![
            Goal::at_most("calls refused at 70 % of the maximum", refused as f64, 0.0),
            Goal::at_most("… given up, %", given_up_per_cent, GIVEN_UP_PER_CENT),
            Goal::at_most("memory surely grows by, MiB a minute", surely(memory), 0.0),
            Goal::at_most("open files surely grow by, a minute", surely(files), 0.0),
        ],
    ))
}

/// The most events a second that are stored over a while.
fn maximum(bench: &mut Bench) -> Outcome<f64> {
    let usual = bench.span.measured;
    bench.span.measured = MAXIMUM_OVER;
    let shape = Shape {
        batch: 0,
        connections: CONNECTIONS,
    };
    let figures = bench.measure(shape, Side::Beckon);
    bench.span.measured = usual;
    Ok(figures?.events_per_second)
}

/// The least-squares slope of samples (time, value).
fn slope(samples: &[(f64, f64)]) -> Slope {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|s| s.0), mean(|s| s.1));
    let spread: f64 = samples.iter().map(|s| (s.0 - x_mean).powi(2)).sum();
    let together: f64 = samples
        .iter()
        .map(|s| (s.0 - x_mean) * (s.1 - y_mean))
        .sum();
    let slope = together / spread;
    let rest: Vec<f64> = samples
        .iter()
        .map(|s| s.1 - y_mean - slope * (s.0 - x_mean))
        .collect();
    let squares: f64 = rest.iter().map(|r| r * r).sum();
    let neighbours: f64 = rest
        .iter()
        .zip(rest.iter().skip(1))
        .map(|(a, b)| a * b)
        .sum();
    // How much a sample tells of the next one; so many fewer are worth counting.
    let alike = (neighbours / squares.max(f64::MIN_POSITIVE)).clamp(0.0, 0.99);
    let independent = (count * (1.0 - alike) / (1.0 + alike)).max(3.0);
    let error = (squares / count / spread * count / (independent - 2.0)).sqrt();
    Slope {
        per_minute: slope,
        margin: t_95(independent - 2.0) * error,
    }
}

/// The 97.5 % point of Student's distribution, near enough.
fn t_95(freedom: f64) -> f64 {
    1.96 + 2.4 / freedom.max(0.22) + 8.3 / freedom.max(1.0).powi(3)
}

#[expect(clippy::disallowed_methods, reason = "a thread that may block")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
