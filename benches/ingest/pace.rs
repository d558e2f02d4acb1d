//! An open loop with precise times: events come when they come (a Poisson process), whether or not
//! the last ones are done, and latency counts from when an event came.
//!
//! Each connection has a thread, which sleeps until the next arrival is its turn; the tick of an
//! async timer is a millisecond, as long as what is measured here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beckon::clock::Clock;

use crate::feed::{Request, Source};
use crate::load::{Head, Run, Span};
use crate::raw::micros;
use crate::report::Outcome;
use crate::rows::{Row, Rows};
use crate::world::{Rng, SEED};

/// When so many events a second come, as times since the start.
pub fn arrivals(per_second: f64, within: Duration) -> Vec<Duration> {
    let mut rng = Rng::new(SEED, 5 << 40);
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    while at < within.as_secs_f64() {
        arrivals.push(Duration::from_secs_f64(at));
        at -= (1.0 - rng.unit()).ln() / per_second;
    }
    arrivals
}

/// One arrival after the other is given to whichever of the senders is free; each sends one event.
pub fn drive<S: FnMut() -> Outcome<()> + Send>(
    senders: Vec<S>,
    per_second: f64,
    span: Span,
) -> Outcome<Run> {
    let arrivals = arrivals(per_second, span.warm_up + span.measured);
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Run::default());
    // Time for the threads to start.
    let begin = Instant::now() + Duration::from_millis(50);
    std::thread::scope(|scope| {
        let threads: Vec<_> = senders
            .into_iter()
            .map(|sender| {
                let (arrivals, next, total) = (&arrivals, &next, &total);
                scope.spawn(move || -> Outcome<()> {
                    let run = send(sender, arrivals, next, begin, span)?;
                    total.lock().map_err(|_| "a sender panicked")?.join(run);
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| "a sender panicked")??;
        }
        Outcome::Ok(())
    })?;
    let mut run = total.into_inner().map_err(|_| "a sender panicked")?;
    run.seconds = span.measured.as_secs_f64();
    Ok(run)
}

#[expect(clippy::disallowed_methods, reason = "a thread that may block")]
fn send(
    mut sender: impl FnMut() -> Outcome<()>,
    arrivals: &[Duration],
    next: &AtomicUsize,
    begin: Instant,
    span: Span,
) -> Outcome<Run> {
    let mut run = Run::default();
    while let Some(arrival) = arrivals.get(next.fetch_add(1, Ordering::Relaxed)) {
        let due = begin + *arrival;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        sender()?;
        run.acknowledged += 1;
        if *arrival >= span.warm_up {
            run.events += 1;
            run.latencies_us.push(micros(due.elapsed()));
        }
    }
    Ok(run)
}

/// A sender of single track calls, which are drawn from these, over a connection of its own.
pub fn over_http(
    address: SocketAddr,
    source: &Arc<Source>,
    requests: &Arc<[Request]>,
) -> Outcome<impl FnMut() -> Outcome<()> + Send + use<>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut feed, requests) = (source.feed(), Arc::clone(requests));
    let (mut request, mut answer) = (Vec::new(), vec![0; 256 * 1024]);
    Ok(move || {
        let place = feed.below(requests.len());
        let chosen = requests.get(place).ok_or("there are no requests")?;
        chosen.write(&mut feed, &mut request);
        stream.write_all(&request)?;
        let mut filled = 0;
        loop {
            let read = stream.read(answer.get_mut(filled..).unwrap_or_default())?;
            if read == 0 {
                return Err("the server closed a connection".into());
            }
            filled += read;
            let got = answer.get(..filled).unwrap_or_default();
            if let Some(head) = Head::of(got)?
                && head.is_whole(got)
            {
                return match head.refusal(got)? {
                    None => Ok(()),
                    Some(_) => Err("refused at half load".into()),
                };
            }
        }
    })
}

/// A sender of single rows over a connection of its own to the database.
pub fn over_sql(
    url: &str,
    source: &Arc<Source>,
) -> Outcome<impl FnMut() -> Outcome<()> + Send + use<>> {
    let mut connection = beckon::store::connect(url)?;
    let mut feed = source.feed();
    let clock = Clock::system();
    Ok(move || {
        let row = Row::next(&mut feed, clock.now());
        Rows::of([row])?.commit(&mut connection)?;
        Ok(())
    })
}
