//! Whether an event costs more when there are 100,000 live campaigns than when there are 10.
//!
//! Two servers share the database: one has read 10 campaigns, the other 100,000. No campaign
//! matches anybody, so that answers are the same; each is one of the world whose last condition
//! asks for numbers that nobody has. The servers take turns.

use serde_json::{Value, json};

use crate::goals::Goal;
use crate::ratios::of;
use crate::report::{Outcome, line, median, table};
use crate::sides::{Bench, Shape, Side};
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

/// Measures both in turns; the campaigns there were are gone after it.
pub fn run(bench: &mut Bench, world: &World, rounds: u64) -> Outcome<(Value, Vec<Goal>)> {
    bench.stage.execute("DELETE FROM campaigns")?;
    let mut figures = [Vec::new(), Vec::new()];
    let mut servers = Vec::new();
    let mut there = 0;
    for count in [FEW, MANY] {
        for first in (there..count).step_by(10_000) {
            let campaigns = (first..count.min(first + 10_000)).map(|index| missed(world, index));
            bench.stage.add_campaigns(campaigns.collect())?;
        }
        there = count;
        // No change is announced, so a server keeps what it reads when it starts.
        let server = Server::beckon(&bench.stage.url)?;
        expect_live(&server, count)?;
        servers.push(server);
        bench.with_server(&mut servers, |bench| {
            bench.visit_everybody()?;
            match bench.matches_of(bench.beckon.address, 5_000)? {
                0.0 => Ok(()),
                matches => Err(format!("{matches} campaigns match that should not").into()),
            }
        })?;
    }
    servers.reverse();
    for _ in 0..rounds {
        for figures in &mut figures {
            // The last is taken, and then is the first.
            bench.with_server(&mut servers, |bench| {
                figures.push(bench.measure(SINGLE, Side::Beckon)?);
                Ok(())
            })?;
            servers.rotate_right(1);
        }
    }
    for (server, count) in servers.iter().rev().zip([FEW, MANY]) {
        expect_live(server, count)?;
    }
    let [few, many] = &figures;
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
        rounds: (
            ratios.iter().copied().fold(f64::MAX, f64::min),
            ratios.iter().copied().fold(f64::MIN, f64::max),
        ),
        ..Goal::at_most(what, median(ratios), MORE)
    };
    let goals = vec![
        goal("100,000 campaigns / 10: time of an event", &time),
        goal("100,000 campaigns / 10: server's CPU time", &cpu),
    ];
    let value = json!({
        "campaigns": [FEW, MANY],
        "events_per_second": [of(few, |f| f.events_per_second), of(many, |f| f.events_per_second)],
        "server_cpu_us_per_event": [of(few, |f| f.server_cpu_us), of(many, |f| f.server_cpu_us)],
        "time_ratio_by_round": time,
        "server_cpu_ratio_by_round": cpu,
    });
    Ok((value, goals))
}

fn expect_live(server: &Server, count: u64) -> Outcome<()> {
    let live = format!("beckon_snapshot_campaigns{{project=\"1\"}} {count}");
    if server.get("/metrics")?.lines().any(|line| line == live) {
        return Ok(());
    }
    Err(format!("the server does not have {count} campaigns").into())
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
