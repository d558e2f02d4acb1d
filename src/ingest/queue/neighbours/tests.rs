#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail by panicking"
)]
use std::sync::atomic::AtomicBool;

use proptest::test_runner::{Config, TestRunner};

use super::super::tests::{Answer, batch_of, job, send};
use super::super::{Bounds, Entrance, Taken, queues};
use super::*;

const MANY: usize = 100_000;
const LONG: Duration = Duration::from_secs(60);

fn open(count: usize) -> (Vec<Entrance>, Vec<Outlet>) {
    let bounds = Bounds {
        most: batch_of(MANY),
        deadline: LONG,
    };
    queues(count, bounds, batch_of(2_500)).into_iter().unzip()
}

/// Sends a job that never comes to have waited too long to be left.
fn send_fresh(to: &Entrance, rows: usize, place: usize) -> Answer {
    let (mut job, answer) = job(to, 1, rows, place);
    job.queued_at = Instant::now() + LONG;
    to.push(job).unwrap();
    answer
}

fn take(from: &Outlet) -> (Vec<usize>, InHand) {
    match from.take(batch_of(2_500), None, true) {
        Taken::Jobs(jobs, in_hand) => {
            let places = jobs.iter().map(|job| job.items[0].0);
            (places.collect(), in_hand)
        }
        other => panic!("no jobs but {other:?}"),
    }
}

/// Whether the shard takes what waits for it, rather than leave it.
fn takes(outlet: &Outlet) -> bool {
    let mut state = outlet.own.lock();
    outlet.own.may_take(&mut state, true)
}

#[test]
fn little_is_left_to_a_neighbour_who_takes_it_along() {
    let (to, from) = open(2);
    let mut answers = vec![send(&to[0], 1, 1, 0).unwrap()];
    let (places, in_hand) = take(&from[0]);
    assert_eq!(places, [0]);
    answers.push(send_fresh(&to[1], 1, 10));
    assert!(!takes(&from[1]), "it is left");
    drop(in_hand);
    answers.push(send(&to[0], 1, 1, 1).unwrap());
    let (places, in_hand) = take(&from[0]);
    assert_eq!(places, [1, 10]);
    // Both are in one hand: what comes now may be about the same people.
    answers.push(send_fresh(&to[1], 1, 11));
    assert!(!takes(&from[1]));
    drop(in_hand);
    assert!(takes(&from[1]));
}

#[test]
fn nothing_is_left_that_would_wait_for_nobody_or_for_long() {
    let old = |to: &Entrance| {
        let (mut job, answer) = job(to, 1, 1, 0);
        job.queued_at = Instant::now().checked_sub(LEAVES_MAX).unwrap();
        to.push(job).unwrap();
        answer
    };
    let slow = |to: &Entrance| {
        let (mut job, answer) = job(to, 1, 4, 0);
        job.portion = Some(1);
        to.push(job).unwrap();
        answer
    };
    type Sends<'a> = &'a dyn Fn(&Entrance) -> Answer;
    let cases: [(&str, usize, Sends<'_>, bool); 6] = [
        ("little", 1, &|to| send_fresh(to, 32, 0), false),
        ("much", 1, &|to| send_fresh(to, 33, 0), true),
        ("beside much", 33, &|to| send_fresh(to, 1, 0), true),
        ("beside nobody", 0, &|to| send_fresh(to, 1, 0), true),
        ("left for long", 1, &old, true),
        ("slow before", 1, &slow, true),
    ];
    for (what, of_neighbour, sends, expected) in cases {
        let (to, from) = open(2);
        let mut answers = Vec::new();
        let in_hand = (of_neighbour > 0).then(|| {
            answers.push(send(&to[0], 1, of_neighbour, 0).unwrap());
            take(&from[0]).1
        });
        answers.push(sends(&to[1]));
        assert_eq!(takes(&from[1]), expected, "{what}");
        drop(in_hand);
    }
}

/// A shard without a connection answers those who wait that there is none.
#[test]
fn who_does_not_share_takes_its_own_and_no_more() {
    let (to, from) = open(3);
    let mut answers = vec![send(&to[0], 1, 1, 0).unwrap()];
    let (_, in_hand) = take(&from[0]);
    answers.extend([send_fresh(&to[1], 1, 10), send_fresh(&to[2], 1, 20)]);
    assert!(!takes(&from[2]));
    drop(in_hand);
    let now = Some(Instant::now());
    let Taken::Jobs(jobs, in_hand) = from[1].take(batch_of(MANY), now, false) else {
        panic!("nothing was taken");
    };
    assert_eq!(jobs[0].items[0].0, 10);
    assert_eq!(jobs.len(), 1);
    assert_eq!(from[2].own.lock().thread, Thread::Works, "it was woken");
    assert!(
        takes(&from[2]),
        "it is not at little, since it does not share"
    );
    drop(in_hand);
}

#[test]
fn what_is_too_much_together_is_not_taken_along() {
    let (to, from) = open(3);
    let mut answers = vec![send(&to[0], 1, 1, 0).unwrap()];
    let (_, in_hand) = take(&from[0]);
    answers.push(send_fresh(&to[1], 30, 10));
    answers.push(send_fresh(&to[2], 20, 20));
    assert!(!takes(&from[1]) && !takes(&from[2]));
    drop(in_hand);
    answers.push(send(&to[0], 1, 20, 1).unwrap());
    assert_eq!(take(&from[0]).0, [1, 10]);
    let threads = [1, 2].map(|at: usize| from[at].own.lock().thread);
    assert_eq!(
        threads,
        [Thread::Leaves, Thread::Works],
        "the last is woken"
    );
}

/// Whatever threads take jobs at whatever times: each queue is in one hand at a time, its jobs are
/// taken in their order, and none is lost.
#[test]
fn queues_keep_their_order_whoever_takes_from_them() {
    const JOBS: usize = 300;
    let along = AtomicUsize::new(0);
    let work = |sizes: &[usize], pauses: &[u64], puts_back: usize| {
        let (to, from) = open(3);
        let in_one_hand: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        let done: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            let mut shards = Vec::new();
            for (number, outlet) in from.into_iter().enumerate() {
                let (in_one_hand, done, along) = (&in_one_hand, &done, &along);
                shards.push(scope.spawn(move || {
                    let mut turn = number;
                    loop {
                        let soon = Some(Instant::now() + Duration::from_millis(20));
                        let (mut jobs, in_hand) = match outlet.take(batch_of(64), soon, true) {
                            Taken::Jobs(jobs, in_hand) => (jobs, in_hand),
                            Taken::Nothing => continue,
                            Taken::Closed => return,
                        };
                        turn += 1;
                        let mut queues: Vec<usize> =
                            jobs.iter().map(|job| job.items[0].0 / JOBS).collect();
                        queues.dedup();
                        along.fetch_add(queues.len() - 1, Ordering::SeqCst);
                        for queue in &queues {
                            assert!(!in_one_hand[*queue].swap(true, Ordering::SeqCst));
                        }
                        pause(pauses[turn % pauses.len()]);
                        if turn % puts_back == 0 {
                            let mut left = jobs.split_off(jobs.len() / 2);
                            left.iter_mut().for_each(|job| job.portion = Some(MANY));
                            left.reverse();
                            outlet.put_back(left);
                        }
                        for job in &jobs {
                            let (queue, place) = (job.items[0].0 / JOBS, job.items[0].0 % JOBS);
                            assert_eq!(done[queue].fetch_add(1, Ordering::SeqCst), place);
                        }
                        for queue in queues {
                            in_one_hand[queue].store(false, Ordering::SeqCst);
                        }
                        drop(in_hand);
                    }
                }));
            }
            let mut answers = Vec::new();
            for place in 0..JOBS {
                for (queue, to) in to.iter().enumerate() {
                    let rows = sizes[(place + queue) % sizes.len()];
                    answers.push(send(to, 1, rows, queue * JOBS + place).unwrap());
                }
                pause(pauses[place % pauses.len()] / 2);
            }
            drop(to);
            // Who does not listen any more has its job dropped.
            while shards.iter().any(|shard| !shard.is_finished()) {
                pause(100);
            }
        });
        let done = done.iter().map(|done| done.load(Ordering::SeqCst));
        assert!(done.eq([JOBS; 3]));
    };
    let mut runner = TestRunner::new(Config::with_cases(24));
    let given = (
        proptest::collection::vec(1..12_usize, 1..8),
        proptest::collection::vec(0..400_u64, 1..16),
        2..40_usize,
    );
    let checked = runner.run(&given, |(sizes, pauses, puts_back)| {
        work(&sizes, &pauses, puts_back);
        Ok(())
    });
    checked.unwrap();
    assert!(along.load(Ordering::SeqCst) > 0, "nothing was taken along");
}

#[expect(clippy::disallowed_methods, reason = "the threads are the test's own")]
fn pause(micros: u64) {
    std::thread::sleep(Duration::from_micros(micros));
}
