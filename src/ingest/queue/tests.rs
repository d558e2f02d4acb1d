#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail by panicking"
)]
use std::time::Duration;

use chrono::DateTime;
use tokio::sync::oneshot;

use super::*;
use crate::error::Code;
use crate::ingest::Wanted;
use crate::ingest::decode::{Origin, Rejection, Route};
use crate::ingest::route::Known;

pub(super) type Answer = oneshot::Receiver<Result<Vec<crate::ingest::Answer>, Error>>;

const LONG: Duration = Duration::from_secs(60);
const MANY: usize = 1_000;

fn open(rows: usize) -> (Entrance, Outlet) {
    open_for_batches(rows, MANY)
}

fn open_for_batches(rows: usize, batch_rows: usize) -> (Entrance, Outlet) {
    let most = Load {
        rows,
        bytes: 1_000_000,
    };
    let deadline = LONG;
    let batch = Load {
        rows: batch_rows,
        bytes: most.bytes,
    };
    queue(Bounds { most, deadline }, batch)
}

fn queue(bounds: Bounds, batch: Load) -> (Entrance, Outlet) {
    queues(1, bounds, batch).pop().unwrap()
}

pub(super) fn batch_of(rows: usize) -> Load {
    Load { rows, bytes: MANY }
}

/// Sends one job of so many rows, all with the same place.
pub(super) fn send(
    to: &Entrance,
    project: i64,
    rows: usize,
    place: usize,
) -> Result<Answer, Error> {
    send_by(to, project, rows, place, Instant::now() + LONG)
}

fn send_by(
    to: &Entrance,
    project: i64,
    rows: usize,
    place: usize,
    give_up_at: Instant,
) -> Result<Answer, Error> {
    let items = (0..rows).map(|_| (place, item(0))).collect();
    send_items(to, project, items, give_up_at)
}

/// An item of 10,000 bytes.
fn large() -> Item {
    item(10_000)
}

fn item(bytes: usize) -> Item {
    Item::Rejected(Rejection {
        code: Code::InvalidField,
        message: String::new(),
        fields: Vec::new(),
        payload: "x".repeat(bytes),
        message_id: None,
        origin: Origin {
            route: Route::Track,
            received_at: DateTime::UNIX_EPOCH,
            timestamp: DateTime::UNIX_EPOCH,
            context: None,
            is_cut: false,
            replay_of: None,
        },
    })
}

fn send_item(to: &Entrance, project: i64, item: Item, place: usize) -> Answer {
    send_items(to, project, vec![(place, item)], Instant::now() + LONG).unwrap()
}

/// A job of so many rows, all with the same place, that is admitted.
pub(super) fn job(to: &Entrance, project: i64, rows: usize, place: usize) -> (Job, Answer) {
    let items = (0..rows).map(|_| (place, item(0))).collect();
    job_of(to, project, items, Instant::now() + LONG).unwrap()
}

fn job_of(
    to: &Entrance,
    project: i64,
    items: Vec<(usize, Item)>,
    give_up_at: Instant,
) -> Result<(Job, Answer), Error> {
    let project = ProjectId(project);
    let permit = to.admit(project, &items, Instant::now())?;
    let (reply, answer) = oneshot::channel();
    let job = Job {
        project,
        wants: Wanted::default(),
        items,
        portion: None,
        answered: Vec::new(),
        known: Known::All,
        received: 0,
        remembered: None,
        ahead: None,
        reply,
        queued_at: Instant::now(),
        give_up_at,
        permit,
    };
    Ok((job, answer))
}

fn send_items(
    to: &Entrance,
    project: i64,
    items: Vec<(usize, Item)>,
    give_up_at: Instant,
) -> Result<Answer, Error> {
    let (job, answer) = job_of(to, project, items, give_up_at)?;
    to.push(job)?;
    Ok(answer)
}

fn jobs_of(from: &Outlet, rows_max: usize) -> Vec<Job> {
    match from.take(batch_of(rows_max), None, true) {
        Taken::Jobs(jobs, _) => jobs,
        other => panic!("no jobs but {other:?}"),
    }
}

fn taken(from: &Outlet, rows_max: usize) -> Vec<(i64, usize)> {
    let jobs = jobs_of(from, rows_max);
    let of = |job: &Job| (job.project.0, job.items[0].0);
    jobs.iter().map(of).collect()
}

#[test]
fn a_quiet_project_does_not_wait_behind_a_backlog_and_each_keeps_its_order() {
    let (entrance, outlet) = open(MANY);
    let mut answers: Vec<Answer> = (0..500)
        .map(|place| send(&entrance, 1, 1, place).unwrap())
        .collect();
    answers.extend((0..3).map(|place| send(&entrance, 2, 1, place).unwrap()));
    let mut first = taken(&outlet, 100);
    assert_eq!(first.len(), 100);
    let quiet: Vec<_> = first.extract_if(.., |(project, _)| *project == 2).collect();
    assert_eq!(quiet, [(2, 0), (2, 1), (2, 2)]);
    while first.len() < 500 {
        first.extend(taken(&outlet, 100));
    }
    let places: Vec<usize> = first.into_iter().map(|(_, place)| place).collect();
    assert!(places.iter().copied().eq(0..500), "{places:?}");
}

#[test]
fn who_comes_anew_is_in_the_next_batch_however_small_batches_are() {
    for batch in [2, 3, 10, 50] {
        let (entrance, outlet) = open_for_batches(MANY, batch);
        let mut answers: Vec<Answer> = (0..600)
            .map(|place| send(&entrance, 1, 1, place).unwrap())
            .collect();
        for round in 0..5 {
            taken(&outlet, batch);
            answers.push(send(&entrance, 2, 1, 0).unwrap());
            let next = taken(&outlet, batch);
            assert!(next.contains(&(2, 0)), "{round}: {next:?}");
        }
    }
}

/// A batch of eight large events is full, so a turn must not be 32 of them.
#[test]
fn large_events_count_as_several_rows() {
    const BATCH: Load = Load {
        rows: 2_500,
        bytes: 80_000,
    };
    let most = Load {
        rows: MANY,
        bytes: 100_000_000,
    };
    let deadline = LONG;
    let (entrance, outlet) = queue(Bounds { most, deadline }, BATCH);
    let mut answers: Vec<Answer> = (0..100)
        .map(|place| send_item(&entrance, 1, large(), place))
        .collect();
    let jobs = |from: &Outlet| match from.take(BATCH, None, true) {
        Taken::Jobs(jobs, _) => jobs,
        other => panic!("no jobs but {other:?}"),
    };
    for round in 0..5 {
        assert_eq!(jobs(&outlet).len(), 8);
        answers.push(send_item(&entrance, 2, large(), 0));
        let next = jobs(&outlet);
        let is_there = next.iter().any(|job| job.project == ProjectId(2));
        assert!(is_there, "{round}");
    }
}

#[test]
fn turns_are_counted_in_rows() {
    let (entrance, outlet) = open(MANY);
    let mut answers = Vec::new();
    for place in 0..4 {
        answers.push(send(&entrance, 1, 100, place).unwrap());
    }
    for place in 0..100 {
        answers.push(send(&entrance, 2, 1, place).unwrap());
    }
    let batch = taken(&outlet, 200);
    let rows_of_small = batch.iter().filter(|(project, _)| *project == 2).count();
    assert!((90..=100).contains(&rows_of_small), "{batch:?}");
}

/// What a shard has no time for in one turn.
#[test]
fn what_is_put_back_keeps_its_order_and_others_have_their_turns() {
    let (entrance, outlet) = open(MANY);
    let mut answers: Vec<Answer> = (0..4)
        .map(|place| send(&entrance, 1, 20, place).unwrap())
        .collect();
    let mut jobs = jobs_of(&outlet, 60);
    assert_eq!(jobs.len(), 3);
    let held = entrance.rows();
    // The first job was done in part, the others not at all.
    jobs[0].items.truncate(15);
    jobs[0].portion = Some(5);
    jobs.reverse();
    outlet.put_back(jobs);
    assert_eq!(entrance.rows(), held);
    answers.extend((0..3).map(|place| send(&entrance, 2, 1, place).unwrap()));
    // What is left of it is all that is taken of its project: the others come after it.
    for round in 0..2 {
        let jobs = jobs_of(&outlet, MANY);
        let of = |project: i64| jobs.iter().filter(move |job| job.project.0 == project);
        let own: Vec<&Job> = of(1).collect();
        assert_eq!((own.len(), own[0].rows_now()), (1, 5));
        assert_eq!(of(2).count(), if round == 0 { 3 } else { 0 });
        let mut left: Vec<Job> = jobs.into_iter().filter(|job| job.project.0 == 1).collect();
        left[0].items.truncate(10 - 5 * round);
        outlet.put_back(left);
    }
    // Its last portion leaves nothing, so that the others need not wait.
    let places: Vec<usize> = taken(&outlet, MANY).iter().map(|it| it.1).collect();
    assert_eq!(places, [0, 1, 2, 3]);
    drop(answers);
}

#[test]
fn a_place_is_held_until_the_answer() {
    let (entrance, outlet) = open(30);
    let answers: Vec<Answer> = (0..20)
        .map(|place| send(&entrance, 1, 1, place).unwrap())
        .collect();
    assert!(matches!(
        send(&entrance, 1, 1, 0),
        Err(Error::Overloaded { .. })
    ));
    let other = send(&entrance, 2, 10, 0).unwrap();
    assert!(matches!(
        send(&entrance, 1, 1, 0),
        Err(Error::RateLimited { .. })
    ));
    let being_written = jobs_of(&outlet, MANY);
    assert_eq!(entrance.rows(), 30);
    assert!(send(&entrance, 1, 1, 0).is_err());
    drop(being_written);
    assert_eq!(entrance.rows(), 0);
    assert!(entrance.0.lock().lanes.is_empty(), "nobody is remembered");
    assert!(send(&entrance, 1, 1, 0).is_ok());
    drop((answers, other));
}

#[test]
fn a_queue_stands_still_while_nothing_moves_that_is_held() {
    let (entrance, outlet) = open(MANY);
    let since = || entrance.stands_still_since();
    assert_eq!(since(), None, "nothing is held");
    let before = Instant::now();
    let answer = send(&entrance, 1, 1, 0).unwrap();
    let came = since().unwrap();
    assert!(came >= before);
    let next = send(&entrance, 1, 1, 1).unwrap();
    assert_eq!(since(), Some(came), "what comes moves nothing");
    let first = jobs_of(&outlet, 1);
    let taken = since().unwrap();
    assert!(taken > came, "what is being written is held");
    let second = jobs_of(&outlet, 1);
    assert!(since().unwrap() > taken);
    drop((first, second));
    assert_eq!(since(), None);
    drop((answer, next));
}

#[test]
fn callers_that_gave_up_cost_no_room_in_a_batch() {
    let (entrance, outlet) = open(MANY);
    let soon = Instant::now() + Duration::from_millis(20);
    let late = send_by(&entrance, 1, 1, 0, soon).unwrap();
    drop(send(&entrance, 1, 1, 1).unwrap());
    let kept = send(&entrance, 1, 1, 2).unwrap();
    while Instant::now() <= soon {
        std::thread::yield_now();
    }
    assert_eq!(taken(&outlet, 1), [(1, 2)]);
    assert_eq!(entrance.rows(), 0);
    drop((late, kept));
}

/// It may have waited elsewhere, as after the database was away: the queue is as quick as before.
#[test]
fn a_call_with_little_time_left_keeps_nobody_out() {
    let (entrance, outlet) = open(MANY);
    let soon = Instant::now() + Duration::from_millis(1);
    let hurried = send_by(&entrance, 1, 1, 0, soon).unwrap();
    while Instant::now() <= soon {
        std::thread::yield_now();
    }
    let next = send(&entrance, 1, 1, 1).unwrap();
    assert_eq!(taken(&outlet, MANY), [(1, 1)]);
    drop((hurried, next));
}

#[test]
fn what_waits_is_handed_out_after_the_entrance_is_gone() {
    let (entrance, outlet) = open(MANY);
    let answer = send(&entrance, 1, 1, 7).unwrap();
    drop(entrance);
    assert_eq!(taken(&outlet, MANY), [(1, 7)]);
    assert!(matches!(
        outlet.take(batch_of(MANY), None, true),
        Taken::Closed
    ));
    drop(answer);
}

#[test]
fn callers_hear_of_a_shard_that_is_gone() {
    let (entrance, outlet) = open(MANY);
    let mut waiting = send(&entrance, 1, 1, 0).unwrap();
    drop(outlet);
    assert!(waiting.try_recv().is_err());
    assert!(matches!(send(&entrance, 1, 1, 0), Err(Error::ShuttingDown)));
    assert_eq!(entrance.rows(), 0);
}

#[test]
fn a_sleeping_shard_is_woken() {
    let (entrance, outlet) = open(MANY);
    std::thread::scope(|scope| {
        let shard = scope.spawn(|| {
            let mut places = Vec::new();
            while let Taken::Jobs(jobs, _) = outlet.take(batch_of(MANY), None, true) {
                places.extend(jobs.iter().map(|job| job.items[0].0));
            }
            places
        });
        // A caller that does not listen any more has its job dropped.
        let mut answers = Vec::new();
        for place in 0..2_000 {
            loop {
                match send(&entrance, 1, 1, place) {
                    Ok(answer) => break answers.push(answer),
                    Err(_) => std::thread::yield_now(),
                }
            }
        }
        drop(entrance);
        assert!(shard.join().unwrap().into_iter().eq(0..2_000));
    });
}
