//! Commits rows as fast as Postgres takes them, over connections of its own: no HTTP, nothing to
//! decode, nobody to answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use beckon::clock::Clock;

use crate::feed::{Feed, Source};
use crate::load::{Run, Span};
use crate::report::Outcome;
use crate::rows::{Row, Rows};

/// How the events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// One statement that inserts everything.
    Insert,
    /// COPY, after a statement that inserts the rest.
    Copy,
}

/// Commits transactions of so many rows over so many connections, one thread each.
pub fn drive(
    url: &str,
    source: &Arc<Source>,
    by: By,
    batch: usize,
    connections: usize,
    span: Span,
) -> Outcome<Run> {
    let (ready, sent) = (Barrier::new(connections), AtomicU64::new(0));
    let mut total = Run::default();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..connections)
            .map(|_| {
                let feed = source.feed();
                let (ready, sent) = (&ready, &sent);
                scope.spawn(move || {
                    let connection = beckon::store::connect(url);
                    // Before a failure is returned, so that the others do not wait for ever.
                    ready.wait();
                    write(connection?, feed, by, batch, span, sent)
                })
            })
            .collect();
        for writer in writers {
            let run = writer.join().map_err(|_| "a writer panicked")??;
            total.join(run);
        }
        Ok(total)
    })
}

fn write(
    mut connection: diesel::PgConnection,
    mut feed: Feed,
    by: By,
    batch: usize,
    span: Span,
    sent: &AtomicU64,
) -> Outcome<Run> {
    let clock = Clock::system();
    let begin = Instant::now();
    let counted_from = begin + span.warm_up;
    let end = counted_from + span.measured;
    let mut run = Run::default();
    loop {
        let now = clock.now();
        let rows = Rows::of((0..batch).map(|_| Row::next(&mut feed, now)))?;
        let started = Instant::now();
        if started >= end || sent.fetch_add(1, Ordering::Relaxed) >= span.requests_max {
            break;
        }
        match by {
            By::Insert => rows.commit(&mut connection)?,
            By::Copy => rows.commit_by_copy(&mut connection)?,
        };
        let done = Instant::now();
        run.acknowledged += batch as u64;
        if done >= counted_from && done < end {
            run.events += batch as u64;
            if started >= counted_from {
                run.latencies_us.push(micros(done.duration_since(started)));
            }
        }
    }
    run.seconds = span.measured.as_secs_f64();
    Ok(run)
}

/// Whole microseconds.
pub fn micros(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
