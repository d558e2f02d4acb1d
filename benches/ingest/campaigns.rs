//! Whether an event costs more when there are 100,000 live campaigns than when there are 10.
//!
//! The server is started anew with the one and the other in turns. No campaign matches anybody, so
//! that answers are the same; each is one of the world whose last condition asks for numbers that
//! nobody has.

use serde_json::{Value, json};

use crate::goals::Goal;
use crate::ratios::{of, range};
use crate::report::{Outcome, line, median, table};
use crate::sides::{Bench, Figures, Shape, Side};
use crate::stage::Server;
use crate::world::{self, World};

const FEW: u64 = 10;
const MANY: u64 = 100_000;
/// Higher than every number of the world.
const OUT_OF_REACH: u64 = 1_000_000;
/// What an event may cost, compared.
const MORE: f64 = 1.1;
const SINGLE: Shape = Shape {
    batch: 0,
    connections: 64,
};

/// Measures both in turns; the campaigns there were are gone after it, and the many are live.
pub fn run(bench: &mut Bench, world: &World, rounds: u64) -> Outcome<(Value, Vec<Goal>)> {
    bench.stage.execute("DELETE FROM campaigns")?;
    for first in (0..MANY).step_by(10_000) {
        let campaigns = (first..MANY.min(first + 10_000)).map(|index| missed(world, index));
        bench.stage.add_campaigns(campaigns.collect())?;
    }
    let mut figures = [Vec::new(), Vec::new()];
    let mut live = None;
    for round in 0..rounds {
        let mut turns = [(0, FEW), (1, MANY)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (place, count) in turns {
            if live != Some(count) {
                start(bench, count)?;
                live = Some(count);
            }
            figures[place].push(bench.measure(SINGLE, Side::Beckon)?);
        }
    }
    if live != Some(MANY) {
        start(bench, MANY)?;
    }
    let [few, many] = &figures;
    let both = |figure: fn(&Figures) -> f64| [of(few, figure), of(many, figure)];
    line("\nsingle calls, 64 connections, no campaign matches\n");
    let rows: Vec<Vec<String>> = [(FEW, few), (MANY, many)]
        .into_iter()
        .map(|(count, figures)| {
            vec![
                count.to_string(),
                format!("{:.0}", of(figures, |f| f.events_per_second)),
                format!("{:.2}", of(figures, |f| f.p50_us) / 1e3),
                format!("{:.2}", of(figures, |f| f.p99_us) / 1e3),
                format!("{:.1}", of(figures, |f| f.server_cpu_us)),
                format!("{:.1}", of(figures, |f| f.postgres_cpu_us)),
            ]
        })
        .collect();
    let headings = [
        "campaigns",
        "events/s",
        "p50 ms",
        "p99 ms",
        "server µs/event",
        "postgres µs/event",
    ];
    table(&headings, &rows);
    let time: Vec<f64> = few
        .iter()
        .zip(many)
        .map(|(few, many)| few.events_per_second / many.events_per_second)
        .collect();
    let cpu: Vec<f64> = few
        .iter()
        .zip(many)
        .map(|(few, many)| many.server_cpu_us / few.server_cpu_us)
        .collect();
    let goal = |what, ratios: &[f64]| Goal {
        rounds: range(ratios),
        ..Goal::at_most(what, median(ratios), MORE)
    };
    let goals = vec![
        goal("100,000 campaigns / 10: time of an event", &time),
        goal("100,000 campaigns / 10: server's CPU time", &cpu),
    ];
    let value = json!({
        "campaigns": [FEW, MANY],
        "events_per_second": both(|f| f.events_per_second),
        "p50_us": both(|f| f.p50_us),
        "p99_us": both(|f| f.p99_us),
        "server_cpu_us_per_event": both(|f| f.server_cpu_us),
        "postgres_cpu_us_per_event": both(|f| f.postgres_cpu_us),
        "time_ratio_by_round": time,
        "server_cpu_ratio_by_round": cpu,
    });
    Ok((value, goals))
}

/// Starts the server anew with so many live campaigns, and lets it meet everybody. There is never
/// more than one: a node that has others remembers less.
fn start(bench: &mut Bench, count: u64) -> Outcome<()> {
    bench.beckon.kill()?;
    bench.stage.execute(&format!(
        "UPDATE campaigns SET status = CASE WHEN substr(id, 10)::int < {count} THEN 'active' \
         ELSE 'paused' END WHERE (status = 'active') <> (substr(id, 10)::int < {count})"
    ))?;
    bench.beckon = Server::beckon(&bench.stage.url)?;
    let live = format!("beckon_snapshot_campaigns{{project=\"1\"}} {count}");
    let metrics = bench.beckon.get("/metrics")?;
    if !metrics.lines().any(|line| line == live) {
        return Err(format!("the server does not have {count} campaigns").into());
    }
    bench.visit_everybody()?;
    match bench.matches_of(bench.beckon.address, 5_000)? {
        0.0 => Ok(()),
        matches => Err(format!("{matches} campaigns match that should not").into()),
    }
}

/// A campaign of the world that nobody gets to see.
fn missed(world: &World, index: u64) -> (String, Value) {
    let (trigger, mut condition) = world.aim(index);
    // Numbers come last, and there is one in each condition.
    let last = condition.get_mut("and").and_then(Value::as_array_mut);
    if let Some(Value::Object(part)) = last.and_then(|parts| parts.last_mut()) {
        for (operator, arguments) in part {
            for argument in arguments.as_array_mut().into_iter().flatten() {
                if let Some(number) = argument.as_u64() {
                    *argument = match &**operator {
                        "<" => json!(-1),
                        _ => json!(number + OUT_OF_REACH),
                    };
                }
            }
        }
    }
    let campaign = world::campaign(index, &trigger, condition);
    (trigger, Value::Object(campaign))
}
