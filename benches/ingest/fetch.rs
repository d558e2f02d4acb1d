//! What a known person is to see, asked for without an event, beside a handler that only sends the
//! same bytes.
//!
//! The people are in the server's cache. For each of them its answer is recorded first; the peer has
//! the recorded ones in memory and finds the person's by its number.

use serde_json::{Value, json};

use crate::changes::ask;
use crate::feed::{self, Person, Request};
use crate::goals::Goal;
use crate::load;
use crate::ratios::range;
use crate::report::{self, Outcome, line, median, quantile, table};
use crate::sides::Bench;
use crate::stage::Server;

const CONNECTIONS: usize = 64;
/// How many people ask.
const PEOPLE: u64 = 500;
/// What Beckon is to do of what the peer does.
const SHARE: f64 = 0.5;

/// The figures of one side and round.
#[derive(Debug, Clone, Copy)]
struct Fetched {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    server_cpu_us: f64,
}

/// Measures both in turns.
pub fn run(bench: &Bench, rounds: u64) -> Outcome<(Value, Goal)> {
    let people = (0..PEOPLE).map(|number| Person {
        number,
        is_new: false,
    });
    let mut answers = Vec::new();
    for person in people.clone() {
        let answer = ask(bench.beckon.address, &feed::fetch_head(person), "")?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
        answers.push(body.to_owned());
    }
    let bytes = answers.iter().map(String::len).sum::<usize>() as f64 / PEOPLE as f64;
    let file = report::folder()?.join("fetched.json");
    std::fs::write(&file, serde_json::to_vec(&answers)?)?;
    let peer = Server::peer("recorded", &file.to_string_lossy())?;
    for (person, answer) in people.clone().zip(&answers).step_by(50) {
        if !ask(peer.address, &feed::fetch_head(person), "")?.ends_with(answer) {
            return Err("the peer does not answer what was recorded".into());
        }
    }
    let requests = || people.clone().map(feed::fetch).collect();
    let sides = [("beckon", &bench.beckon), ("the same bytes", &peer)];
    let mut figures = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let mut turns = [0, 1];
        if round % 2 == 1 {
            turns.reverse();
        }
        for place in turns {
            figures[place].push(measure(bench, sides[place].1, requests())?);
        }
    }
    std::fs::remove_file(&file)?;
    line(format_args!(
        "\nfetch, {CONNECTIONS} connections, {bytes:.0} bytes an answer\n"
    ));
    let of = |place: usize, figure: fn(&Fetched) -> f64| {
        median(&figures[place].iter().map(figure).collect::<Vec<_>>())
    };
    let rows: Vec<Vec<String>> = (0..2)
        .map(|place| {
            vec![
                sides[place].0.to_owned(),
                format!("{:.0}", of(place, |f| f.per_second)),
                format!("{:.2}", of(place, |f| f.p50_us) / 1e3),
                format!("{:.2}", of(place, |f| f.p99_us) / 1e3),
                format!("{:.1}", of(place, |f| f.server_cpu_us)),
            ]
        })
        .collect();
    table(
        &["", "answers/s", "p50 ms", "p99 ms", "server µs/answer"],
        &rows,
    );
    let [ours, theirs] = &figures;
    let by_round: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours.per_second / theirs.per_second)
        .collect();
    let goal = Goal {
        rounds: range(&by_round),
        ..Goal::at_least(
            "fetch: beckon / a handler that sends the same bytes",
            median(&by_round),
            SHARE,
        )
    };
    let both = |figure: fn(&Fetched) -> f64| [of(0, figure), of(1, figure)];
    let value = json!({
        "connections": CONNECTIONS,
        "bytes_per_answer": bytes,
        "sides": sides.map(|(name, _)| name),
        "answers_per_second": both(|f| f.per_second),
        "p50_us": both(|f| f.p50_us),
        "p99_us": both(|f| f.p99_us),
        "server_cpu_us_per_answer": both(|f| f.server_cpu_us),
        "ratio_by_round": by_round,
    });
    Ok((value, goal))
}

fn measure(bench: &Bench, server: &Server, requests: Vec<Request>) -> Outcome<Fetched> {
    let before = server.cpu_seconds();
    let feed = bench.source.feed();
    let mut run = load::drive(server.address, feed, requests, CONNECTIONS, bench.span)?;
    let cpu = server.cpu_seconds() - before;
    run.latencies_us.sort_unstable();
    let quantile = |share| f64::from(quantile(&run.latencies_us, share));
    Ok(Fetched {
        per_second: run.events as f64 / run.seconds,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        server_cpu_us: cpu / run.acknowledged.max(1) as f64 * 1e6,
    })
}
