//! What changing one campaign among 100,000 costs over HTTP, when it is seen, and what tracks notice
//! of it.
//!
//! A change is a `PUT` of one of the live campaigns; its answer means that it is live on that node.
//! A second node then shows whether one that has no conditions is live there too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::feed::CLIENT_KEY;
use crate::goals::Goal;
use crate::load::Span;
use crate::report::{Outcome, line, median};
use crate::sides::{Bench, Side};
use crate::stage::Server;

const ADMIN_KEY: (&str, &str) = ("BECKON_ADMIN_KEY", "bench_admin_0123456789abcdef012345");
const CHANGES: usize = 100;
/// How often the second node is shown a change.
const SHOWN: usize = 20;
/// How long it is waited for there.
const SHOWN_BOUND: Duration = Duration::from_secs(10);
const PROBE: &str = "probe of changes";
const CONNECTIONS: usize = 16;
/// Tracks a second, far from what there is room for.
const TRACKS: f64 = 2_000.0;
const SPAN: Span = Span {
    warm_up: Duration::from_millis(500),
    measured: Duration::from_secs(5),
    requests_max: u64::MAX,
    may_refuse: false,
};

/// Measures on a server that is started anew with the campaigns that are active in the database.
pub fn run(bench: &mut Bench) -> Outcome<(Value, Vec<Goal>)> {
    bench.beckon.kill()?;
    let probe = json!({ "id": PROBE, "name": PROBE, "status": "paused" });
    bench.stage.execute(&format!(
        "INSERT INTO campaigns (project_id, id, name, status, body, created_at) \
         VALUES (1, '{PROBE}', '{PROBE}', 'paused', '{probe}', now())"
    ))?;
    let begun = Instant::now();
    bench.beckon = Server::beckon_with(&bench.stage.url, &[ADMIN_KEY])?;
    let ready = begun.elapsed().as_secs_f64();
    bench.visit_everybody()?;
    let ids = bench.stage.texts(&format!(
        "SELECT id AS text FROM campaigns WHERE status = 'active' ORDER BY md5(id) LIMIT {CHANGES}"
    ))?;
    let live: u64 = bench
        .stage
        .texts("SELECT count(*)::text AS text FROM campaigns WHERE status = 'active'")?
        .first()
        .ok_or("no count")?
        .parse()?;
    let mut millis = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        millis.push(change(bench.beckon.address, id, number)?);
    }
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (millis.len() as f64 * share) as usize;
        millis.get(place).copied().unwrap_or(f64::NAN)
    };
    let (half, most_of, slowest) = (at(0.5), at(0.9), at(0.995));
    let alone = bench.measure_paced(Side::Beckon, CONNECTIONS, TRACKS, SPAN)?;
    let (beside, changes) = beside_changes(bench, &ids)?;
    let elsewhere = elsewhere(bench)?;
    let seen = median(&elsewhere);
    let latest = elsewhere.iter().copied().fold(0.0, f64::max);
    line(format_args!(
        "\n{live} live campaigns: ready {ready:.1} s after the start; a change {half:.0} ms (median of \
         {}, 90th percentile {most_of:.0}, slowest {slowest:.0}), on another node {seen:.0} ms after \
         its answer (median of {SHOWN}, latest {latest:.0})\ntracks, {TRACKS:.0} a second: p99 \
         {:.2} ms, slowest of a thousand {:.2}; beside {changes} changes {:.2} and {:.2}",
        millis.len(),
        alone.p99_us / 1e3,
        alone.p999_us / 1e3,
        beside.p99_us / 1e3,
        beside.p999_us / 1e3,
    ));
    let value = json!({
        "live_campaigns": live,
        "ready_seconds": ready,
        "change_ms": millis,
        "on_another_node_ms": elsewhere,
        "changes_beside_tracks": changes,
        "track_p99_us": alone.p99_us,
        "track_p999_us": alone.p999_us,
        "track_p99_us_beside_changes": beside.p99_us,
        "track_p999_us_beside_changes": beside.p999_us,
    });
    let goals = vec![
        Goal::at_most("from start to ready, s", ready, 5.0),
        Goal::at_most("a change, ms, 90th percentile", most_of, 50.0),
        Goal::at_most("a change on another node, ms, latest", latest, 1_000.0),
        Goal::at_most(
            "p99.9 of tracks beside changes, ms",
            beside.p999_us / 1e3,
            50.0,
        ),
    ];
    Ok((value, goals))
}

/// Tracks while one change follows the other.
fn beside_changes(bench: &mut Bench, ids: &[String]) -> Outcome<(crate::sides::Figures, usize)> {
    let (ended, address) = (AtomicBool::new(false), bench.beckon.address);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| -> Outcome<usize> {
            let mut changes = 0;
            for id in ids.iter().cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                change(address, id, changes)?;
                changes += 1;
            }
            Ok(changes)
        });
        let figures = bench.measure_paced(Side::Beckon, CONNECTIONS, TRACKS, SPAN);
        ended.store(true, Ordering::Relaxed);
        let changes = changing.join().map_err(|_| "the changes panicked")??;
        Ok((figures?, changes))
    })
}

/// How long after the answer of a change on one node the other one shows it, in milliseconds. The
/// other one is gone after it: while there are two, both remember less.
fn elsewhere(bench: &Bench) -> Outcome<Vec<f64>> {
    let mut other = Server::beckon_with(&bench.stage.url, &[ADMIN_KEY])?;
    let mut waits = Vec::new();
    for number in 0..SHOWN {
        let status = if number % 2 == 0 { "active" } else { "paused" };
        let body = json!({ "status": status });
        put(bench.beckon.address, PROBE, &body)?;
        let answered = Instant::now();
        while is_shown(other.address)? != (status == "active") {
            if answered.elapsed() > SHOWN_BOUND {
                return Err("the other node does not show a change".into());
            }
        }
        waits.push(answered.elapsed().as_secs_f64() * 1e3);
    }
    other.kill()?;
    Ok(waits)
}

fn is_shown(address: SocketAddr) -> Outcome<bool> {
    let answer = ask(
        address,
        &format!(
            "GET /v1/campaigns?user_id=newcomer HTTP/1.1\r\nAuthorization: Bearer {CLIENT_KEY}"
        ),
        "",
    )?;
    Ok(answer.contains(PROBE))
}

/// How long a change of this campaign takes, its answer included, in milliseconds.
fn change(address: SocketAddr, id: &str, number: usize) -> Outcome<f64> {
    let begun = Instant::now();
    put(address, id, &json!({ "name": format!("changed {number}") }))?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

fn put(address: SocketAddr, id: &str, body: &Value) -> Outcome<()> {
    let id = id.replace(' ', "%20");
    let key = ADMIN_KEY.1;
    let head = format!("PUT /v1/admin/campaigns/{id} HTTP/1.1\r\nAuthorization: Bearer {key}");
    ask(address, &head, &body.to_string()).map(|_| ())
}

/// The answer to a request on a connection of its own, which must be a success.
pub fn ask(address: SocketAddr, head: &str, body: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let length = body.len();
    let request = format!(
        "{head}\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    if text.starts_with("HTTP/1.1 200") {
        Ok(text)
    } else {
        Err(format!("{head}: {text}").into())
    }
}
