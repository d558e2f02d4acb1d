//! Too much load: three times the connections that saturate it, with clients that stay away for as
//! long as they are told; and an open loop at 1.5 times the maximum, before and after which the load
//! is half of the maximum.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use crate::feed;
use crate::goals::Goal;
use crate::load;
use crate::open::{self, Second};
use crate::report::{Outcome, line, quantile, table};
use crate::sides::{Bench, Side};

/// More connections than this do not make it faster.
const SATURATING: usize = 256;
const OPEN_CONNECTIONS: usize = 1_024;
const CLOSED: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(5);
const STORM: Duration = Duration::from_secs(20);
const AFTER: Duration = Duration::from_secs(15);
/// Latency has recovered when a second's 99th percentile is at most so many times that of the worst
/// second before.
const RECOVERED: f64 = 2.0;
/// … and no more than this share of what came in it is refused or given up, as those have no latency.
const LOST: f64 = 0.01;

/// Runs both; returns the figures, and what was to be reached.
pub fn run(bench: &mut Bench) -> Outcome<(Value, Vec<Goal>)> {
    let maximum = bench.maximum(SATURATING)?;
    line(format_args!(
        "\noverload; the maximum is {maximum:.0} events/s\n"
    ));
    let (closed, closed_goal) = closed(bench, maximum)?;
    let (open, mut goals) = open(bench, maximum)?;
    goals.insert(0, closed_goal);
    let value = json!({ "maximum_per_second": maximum, "closed": closed, "open": open });
    Ok((value, goals))
}

fn closed(bench: &mut Bench, maximum: f64) -> Outcome<(Value, Goal)> {
    let mut refused = 0;
    let mut span = bench.span;
    (span.may_refuse, span.measured) = (true, CLOSED);
    let figures = bench.measured(Side::Beckon, |bench| {
        let requests = feed::requests(&bench.source, 0);
        let feed = bench.source.feed();
        let run = load::drive(bench.beckon.address, feed, requests, 3 * SATURATING, span)?;
        refused = run.refused;
        Ok(run)
    })?;
    let ratio = figures.events_per_second / maximum;
    let value = json!({
        "connections": 3 * SATURATING,
        "goodput_per_second": figures.events_per_second,
        "refused": refused,
        "p99_us": figures.p99_us,
    });
    line(format_args!(
        "{} connections: {:.0} events/s, p99 {:.1} ms, {refused} refused",
        3 * SATURATING,
        figures.events_per_second,
        figures.p99_us / 1e3
    ));
    let what = "3 × the connections: goodput / maximum";
    Ok((value, Goal::at_least(what, ratio, 0.8)))
}

fn open(bench: &mut Bench, maximum: f64) -> Outcome<(Value, Vec<Goal>)> {
    bench.stage.clear()?;
    let phases = [
        (CALM, 0.5 * maximum),
        (STORM, 1.5 * maximum),
        (AFTER, 0.5 * maximum),
    ];
    let requests = feed::requests(&bench.source, 0);
    let feed = bench.source.feed();
    let address = bench.beckon.address;
    let seconds = open::drive(
        address,
        feed,
        requests,
        OPEN_CONNECTIONS,
        &phases,
        &AtomicBool::default(),
    )?;
    let acknowledged = seconds.iter().map(|second| second.acknowledged).sum();
    bench.expect_stored(Side::Beckon, acknowledged)?;
    let (calm_end, storm_end) = (CALM.as_secs() as usize, (CALM + STORM).as_secs() as usize);
    let p99s: Vec<f64> = seconds.iter().map(p99_ms).collect();
    let calm = p99s.iter().take(calm_end).copied().fold(0.0, f64::max);
    let storm = seconds.get(calm_end..storm_end).unwrap_or_default();
    let goodput = storm.iter().map(|s| s.acknowledged).sum::<u64>() as f64 / STORM.as_secs_f64();
    let after = seconds.iter().zip(&p99s).skip(storm_end);
    // The last second may be a fragment with nothing in it.
    let recovery = after
        .map(|(second, p99)| *p99 <= RECOVERED * calm && second.lost() < LOST)
        .position(|is_as_before| is_as_before)
        .map_or(f64::INFINITY, |seconds| seconds as f64);
    print(&seconds, &p99s);
    let value = json!({
        "calm_p99_ms": calm,
        "goodput_per_second": goodput,
        "recovery_seconds": recovery.is_finite().then_some(recovery),
        "p99_ms_by_second": p99s,
        "acknowledged_by_second": seconds.iter().map(|s| s.acknowledged).collect::<Vec<_>>(),
        "refused_by_second": seconds.iter().map(|s| s.refused).collect::<Vec<_>>(),
        "given_up_by_second": seconds.iter().map(|s| s.given_up).collect::<Vec<_>>(),
    });
    Ok((
        value,
        vec![
            Goal::at_least(
                "open loop at 1.5: goodput / maximum",
                goodput / maximum,
                0.8,
            ),
            Goal::at_most("… seconds until p99 is back", recovery, 10.0),
        ],
    ))
}

/// The 99th percentile of a second; of one in which nothing was acknowledged it is infinite.
fn p99_ms(second: &Second) -> f64 {
    let mut sorted = second.latencies_us.clone();
    if sorted.is_empty() {
        return f64::INFINITY;
    }
    sorted.sort_unstable();
    f64::from(quantile(&sorted, 0.99)) / 1e3
}

fn print(seconds: &[Second], p99s: &[f64]) {
    let rows: Vec<Vec<String>> = seconds
        .iter()
        .zip(p99s)
        .enumerate()
        .filter(|(place, _)| place % 3 == 0)
        .map(|(place, (second, p99))| {
            vec![
                format!("second {place}"),
                second.acknowledged.to_string(),
                second.refused.to_string(),
                second.given_up.to_string(),
                format!("{p99:.1}"),
            ]
        })
        .collect();
    line("");
    table(
        &["open loop", "stored", "refused", "given up", "p99 ms"],
        &rows,
    );
}
